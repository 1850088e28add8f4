//! The certificate authority of a cluster: made at the first start, then read; signs servers, clients and requests.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::files::{read_if_present, write_atomic};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// A certificate on disk with less life left than this is made anew at start.
const RENEW_BEFORE: Duration = Duration::from_secs(60 * 24 * 60 * 60);
/// Clocks differ: a certificate is valid a little before it was made.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Who a client certificate says its holder is: `CN` is the user, each `O` a group (as Kubernetes reads them).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The user, for example `kubernetes-admin` or `system:node:node1`.
    pub user: String,
    /// The groups, for example `system:masters` or `system:nodes`.
    pub groups: Vec<String>,
}

/// A certificate with its private key, both PEM. `Debug` shows no key.
#[derive(Clone)]
pub struct CertifiedKey {
    /// The certificate, followed by its CA so that a joining client can see whom to trust.
    pub certificate_pem: String,
    /// PKCS#8.
    pub key_pem: String,
}

impl std::fmt::Debug for CertifiedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertifiedKey").finish_non_exhaustive()
    }
}

/// The authority: its certificate and the key that signs.
pub struct Ca {
    certificate_pem: String,
    certificate_der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("hash", &self.hash()).finish_non_exhaustive()
    }
}

impl Ca {
    /// Reads `<folder>/ca.crt` and `ca.key`, or makes them when neither is there.
    ///
    /// # Errors
    /// One of the two is missing or does not parse: replacing a CA silently would lock every client out.
    pub fn load_or_create(folder: &Path) -> Result<Self, Error> {
        let (certificate_path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
        match (read_if_present(&certificate_path)?, read_if_present(&key_path)?) {
            (Some(certificate), Some(key)) => Self::from_pem(certificate, &key)
                .map_err(|e| Error::certificate(format!("the CA in {}", folder.display()), e)),
            (None, None) => {
                let (certificate, key) = create_ca()?;
                write_atomic(&key_path, key.as_bytes(), 0o600)?;
                write_atomic(&certificate_path, certificate.as_bytes(), 0o644)?;
                Self::from_pem(certificate, &key)
            }
            (certificate, _) => {
                let missing = if certificate.is_none() { certificate_path } else { key_path };
                let why =
                    "is missing; restore it from a backup, or remove the whole folder to start with a new CA";
                Err(Error::certificate(missing.display().to_string(), why))
            }
        }
    }

    /// The CA out of its PEM texts.
    ///
    /// # Errors
    /// Text that does not parse.
    pub fn from_pem(certificate_pem: String, key_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| Error::certificate("the CA's key", e))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|e| Error::certificate("the CA's certificate", e))?;
        let issuer =
            Issuer::from_ca_cert_der(&der, key).map_err(|e| Error::certificate("the CA's certificate", e))?;
        Ok(Self { certificate_pem, certificate_der: der.to_vec(), issuer })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// `sha256:<hex>` of the CA's certificate (DER): what `--ca-hash` takes.
    #[must_use]
    pub fn hash(&self) -> String {
        certificate_hash(&self.certificate_der)
    }

    /// A server certificate for these names and addresses.
    ///
    /// # Errors
    /// A name that is no DNS name.
    pub fn issue_server(&self, common_name: &str, names: &[String]) -> Result<CertifiedKey, Error> {
        let mut params = CertificateParams::new(names.to_vec())
            .map_err(|e| Error::certificate(format!("a server certificate for {names:?}"), e))?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, &Identity { user: common_name.to_owned(), groups: Vec::new() })
    }

    /// A client certificate.
    ///
    /// # Errors
    /// The library could not make it.
    pub fn issue_client(&self, identity: &Identity) -> Result<CertifiedKey, Error> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, identity)
    }

    /// A client certificate for the key of a PKCS#10 request. Nothing but the key is taken from the request: who the
    /// holder is was established by other means.
    ///
    /// # Errors
    /// A request that does not parse or whose signature is wrong.
    pub fn sign_request(&self, request_pem: &str, identity: &Identity) -> Result<String, Error> {
        let mut request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|e| Error::certificate("the certificate request", e))?;
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        finish_leaf(&mut params, identity)?;
        request.params = params;
        let certificate =
            request.signed_by(&self.issuer).map_err(|e| Error::certificate("the certificate request", e))?;
        Ok(certificate.pem())
    }

    /// A certificate kept in `<folder>/<name>.crt` and `.key`: read while it is valid for `names`, signed by this CA and has
    /// life left, made anew otherwise.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn server_in(&self, folder: &Path, name: &str, names: &[String]) -> Result<CertifiedKey, Error> {
        self.kept(folder, name, names, || self.issue_server(name, names))
    }

    /// The same for a client certificate.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn client_in(&self, folder: &Path, name: &str, identity: &Identity) -> Result<CertifiedKey, Error> {
        self.kept(folder, name, &[], || self.issue_client(identity))
    }

    fn kept(
        &self,
        folder: &Path,
        name: &str,
        names: &[String],
        make: impl FnOnce() -> Result<CertifiedKey, Error>,
    ) -> Result<CertifiedKey, Error> {
        let (certificate_path, key_path) =
            (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        if let (Some(certificate_pem), Some(key_pem)) =
            (read_if_present(&certificate_path)?, read_if_present(&key_path)?)
            && self.still_good(&certificate_pem, names)
        {
            return Ok(CertifiedKey { certificate_pem, key_pem });
        }
        let made = make()?;
        write_atomic(&key_path, made.key_pem.as_bytes(), 0o600)?;
        write_atomic(&certificate_path, made.certificate_pem.as_bytes(), 0o644)?;
        Ok(made)
    }

    fn still_good(&self, certificate_pem: &str, names: &[String]) -> bool {
        let Ok(der) = CertificateDer::from_pem_slice(certificate_pem.as_bytes()) else { return false };
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(&der) else { return false };
        let Ok((_, ca)) = x509_parser::parse_x509_certificate(&self.certificate_der) else { return false };
        let end = certificate.validity().not_after.timestamp();
        let needed = SystemTime::now() + RENEW_BEFORE;
        let lives = needed
            .duration_since(SystemTime::UNIX_EPOCH)
            .is_ok_and(|d| i64::try_from(d.as_secs()).is_ok_and(|needed| end > needed));
        let present: Vec<String> = super::tls::subject_alternative_names(&certificate);
        lives
            && certificate.verify_signature(Some(ca.public_key())).is_ok()
            && names.iter().all(|name| present.contains(name))
    }

    fn issue(&self, mut params: CertificateParams, identity: &Identity) -> Result<CertifiedKey, Error> {
        let what = || format!("a certificate for {}", identity.user);
        finish_leaf(&mut params, identity)?;
        let key = KeyPair::generate().map_err(|e| Error::certificate(what(), e))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|e| Error::certificate(what(), e))?;
        Ok(CertifiedKey {
            certificate_pem: format!("{}{}", certificate.pem(), self.certificate_pem),
            key_pem: key.serialize_pem(),
        })
    }
}

/// A new private key and a PKCS#10 request for it, both PEM: what a joining node sends.
///
/// # Errors
/// The library could not make them.
pub fn new_request(common_name: &str) -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|e| Error::certificate("a private key", e))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&Identity { user: common_name.to_owned(), groups: Vec::new() });
    let request = params
        .serialize_request(&key)
        .and_then(|request| request.pem())
        .map_err(|e| Error::certificate("a certificate request", e))?;
    Ok((key.serialize_pem(), request))
}

/// `sha256:<hex>` of a certificate in DER.
pub(super) fn certificate_hash(der: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(der) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn create_ca() -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|e| Error::certificate("the CA's key", e))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&Identity { user: "oarlock-ca".to_owned(), groups: Vec::new() });
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, CA_LIFE);
    let certificate = params.self_signed(&key).map_err(|e| Error::certificate("the CA's certificate", e))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn finish_leaf(params: &mut CertificateParams, identity: &Identity) -> Result<(), Error> {
    // rcgen keeps one value a type of name: a second group would silently replace the first.
    if identity.groups.len() > 1 {
        return Err(Error::certificate(
            format!("a certificate for {}", identity.user),
            "more than one group",
        ));
    }
    params.distinguished_name = subject(identity);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    set_life(params, LEAF_LIFE);
    Ok(())
}

fn set_life(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life.max(DAY)).into();
}

fn subject(identity: &Identity) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for group in &identity.groups {
        name.push(DnType::OrganizationName, group.as_str());
    }
    name.push(DnType::CommonName, identity.user.as_str());
    name
}
