//! The certificate authority of a cluster: made at the first start, then read; signs servers, clients and requests.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::ParsedExtension;

use super::Error;
use super::leaf::{self, Authority, Leaf, Name, Usage};
use crate::files::{read_if_present, write_atomic};

const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How long certificates live, and the longest that one may ask for.
const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// The shortest life that is given, and what counts as short, as upstream signs.
const SHORTEST: Duration = Duration::from_secs(10 * 60);
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);
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
    key: KeyPair,
    /// Its name as certificates have it (DER), and which of its keys signs.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    /// When it ends itself, in seconds since 1970.
    end: i64,
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
        Self::kept_in(folder, "ca", "oarlock-ca")
    }

    /// The same for another authority, of this name and in files of this name: what one of them signs, the other does not vouch for.
    ///
    /// # Errors
    /// One of the two files is missing or does not parse.
    pub fn load_or_create_as(folder: &Path, name: &str) -> Result<Self, Error> {
        Self::kept_in(folder, name, name)
    }

    fn kept_in(folder: &Path, file: &str, name: &str) -> Result<Self, Error> {
        let (certificate_path, key_path) =
            (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        match (read_if_present(&certificate_path)?, read_if_present(&key_path)?) {
            (Some(certificate), Some(key)) => Self::from_pem(certificate, &key)
                .map_err(|e| Error::certificate(format!("the CA in {}", folder.display()), e)),
            (None, None) => {
                let (certificate, key) = create_ca(name)?;
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
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|e| Error::certificate("the CA's certificate", e))?;
        let key_id = parsed.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let (name, end) = (parsed.subject().as_raw().to_vec(), parsed.validity().not_after.timestamp());
        Ok(Self { certificate_pem, certificate_der: der.to_vec(), key, name, key_id, end })
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
    /// The library could not make it.
    pub fn issue_server(&self, common_name: &str, names: &[String]) -> Result<CertifiedKey, Error> {
        let identity = Identity { user: common_name.to_owned(), groups: Vec::new() };
        let names = names.iter().map(|name| Name::of(name)).collect();
        self.issue(&identity, names, Usage::ServerAuth)
    }

    /// A client certificate.
    ///
    /// # Errors
    /// The library could not make it.
    pub fn issue_client(&self, identity: &Identity) -> Result<CertifiedKey, Error> {
        self.issue(identity, Vec::new(), Usage::ClientAuth)
    }

    /// A client certificate for the key of a PKCS#10 request. Nothing but the key is taken from the request: who the
    /// holder is was established by other means.
    ///
    /// # Errors
    /// A request that does not parse or whose signature is wrong.
    pub fn sign_request(&self, request_pem: &str, identity: &Identity) -> Result<String, Error> {
        let public_key = leaf::read_request(request_pem)?.public_key;
        let usages = vec![Usage::DigitalSignature, Usage::ClientAuth];
        let life = self.life(LEAF_LIFE);
        Leaf { subject: leaf::subject(identity), names: Vec::new(), public_key, usages, life }
            .sign(&self.authority())
    }

    /// A certificate for what a PKCS#10 request asks for: its subject, its names and its key. Whoever calls has seen that
    /// all of that may be given. It lives as long as was asked for, but for no more than a year and not longer than the CA.
    ///
    /// # Errors
    /// A request that does not parse or whose signature is wrong.
    pub fn grant(
        &self,
        request_pem: &str,
        usages: &[Usage],
        life: Option<Duration>,
    ) -> Result<String, Error> {
        let asked = leaf::read_request(request_pem)?;
        let life = self.life(life.unwrap_or(LEAF_LIFE).clamp(SHORTEST, LEAF_LIFE));
        let leaf::Asked { subject, names, public_key } = asked;
        Leaf { subject, names, public_key, usages: usages.to_vec(), life }.sign(&self.authority())
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

    fn issue(&self, identity: &Identity, names: Vec<Name>, purpose: Usage) -> Result<CertifiedKey, Error> {
        let what = || format!("a certificate for {}", identity.user);
        let key = KeyPair::generate().map_err(|e| Error::certificate(what(), e))?;
        let leaf = Leaf {
            subject: leaf::subject(identity),
            names,
            public_key: key.subject_public_key_info(),
            usages: vec![Usage::DigitalSignature, purpose],
            life: self.life(LEAF_LIFE),
        };
        Ok(CertifiedKey {
            certificate_pem: format!("{}{}", leaf.sign(&self.authority())?, self.certificate_pem),
            key_pem: key.serialize_pem(),
        })
    }

    fn authority(&self) -> Authority<'_> {
        Authority { key: &self.key, name: &self.name, key_id: self.key_id.as_deref() }
    }

    /// From when to when something lives that is made now: as upstream, a short life begins early and is not shortened by that.
    fn life(&self, life: Duration) -> std::ops::Range<i64> {
        let now = SystemTime::now();
        let seconds = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let end = if life < SHORT { now + life } else { now + life - BACKDATE };
        seconds(now - BACKDATE)..seconds(end).min(self.end)
    }
}

/// A new private key and a PKCS#10 request for it, both PEM: what a joining node sends, and whoever asks for a certificate.
///
/// # Errors
/// The library could not make them.
pub fn new_request(identity: &Identity) -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|e| Error::certificate("a private key", e))?;
    let request = leaf::request(identity, &key)?;
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

fn create_ca(common_name: &str) -> Result<(String, String), Error> {
    let key = KeyPair::generate().map_err(|e| Error::certificate("the CA's key", e))?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - BACKDATE).into(), (now + CA_LIFE).into());
    let certificate = params.self_signed(&key).map_err(|e| Error::certificate("the CA's certificate", e))?;
    Ok((certificate.pem(), key.serialize_pem()))
}
