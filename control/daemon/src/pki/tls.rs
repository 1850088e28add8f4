//! rustls configurations out of PEM text, and who a peer's certificate says it is.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::{CertifiedKey, Error, Identity, Trust};

/// A TLS server that shows `own` and, when a client offers a certificate, insists that `client_ca_pem` signed it. A client
/// without a certificate is let through: the caller decides what it may do. `alpn` is in order of preference.
///
/// # Errors
/// PEM text that does not parse.
pub fn server_config(
    own: &CertifiedKey,
    client_ca_pem: &str,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_ca_pem)?), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| Error::certificate("the client CA", e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::certificate("the TLS versions", e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(&own.certificate_pem)?, key(&own.key_pem)?)
        .map_err(|e| Error::certificate("the server's certificate", e))?;
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(Arc::new(config))
}

/// A TLS client that trusts `ca_pem` alone and shows `own` if there is one.
///
/// # Errors
/// PEM text that does not parse.
pub fn client_config(ca_pem: &str, own: Option<&CertifiedKey>) -> Result<Arc<ClientConfig>, Error> {
    Trust::Bundle(ca_pem).client_config(own)
}

/// A TLS client that asks `verifier` about servers and shows `own` if there is one.
pub(super) fn client_config_with(
    verifier: Arc<dyn ServerCertVerifier>,
    own: Option<&CertifiedKey>,
) -> Result<Arc<ClientConfig>, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::certificate("the TLS versions", e))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match own {
        Some(own) => builder
            .with_client_auth_cert(chain(&own.certificate_pem)?, key(&own.key_pem)?)
            .map_err(|e| Error::certificate("the client's certificate", e))?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The identity in a verified peer certificate (DER); `None` when it has no common name.
#[must_use]
pub fn peer_identity(certificate_der: &[u8]) -> Option<Identity> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate_der).ok()?;
    let subject = certificate.subject();
    // Of several names the last counts, as upstream reads them.
    let user = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    (!user.is_empty()).then_some(Identity { user, groups })
}

/// When a certificate's life begins and ends, in seconds since 1970; `None` when it does not parse.
#[must_use]
pub fn life(certificate_pem: &str) -> Option<(i64, i64)> {
    let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The DNS names and addresses of a certificate, as text.
pub(super) fn subject_alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(name_text).collect()
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(|b| std::net::Ipv4Addr::from(b).to_string())
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(|b| std::net::Ipv6Addr::from(b).to_string()))
            .ok(),
        _ => None,
    }
}

pub(super) fn roots(ca_pem: &str) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in chain(ca_pem)? {
        store.add(certificate).map_err(|e| Error::certificate("the CA bundle", e))?;
    }
    Ok(store)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| Error::certificate("a PEM certificate", e))?;
    if certificates.is_empty() {
        return Err(Error::certificate("a PEM certificate", "the text holds no CERTIFICATE block"));
    }
    Ok(certificates)
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| Error::certificate("a PEM private key", e))
}
