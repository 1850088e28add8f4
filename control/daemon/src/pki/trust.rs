//! Whom a TLS client believes to be the server that it wants.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::tls::{client_config_with, roots};
use super::{CertifiedKey, Error};

/// Where distributions keep the authorities that everybody trusts.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whose word counts that a server is who it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust<'t> {
    /// That of these authorities (PEM).
    Bundle(&'t str),
    /// That of the machine's authorities.
    System,
    /// Anybody's: the connection is encrypted, and nothing is known about the other end.
    Anybody,
}

impl Trust<'_> {
    /// A TLS client that shows `own` if there is one.
    ///
    /// # Errors
    /// PEM text that does not parse, or a machine without authorities.
    pub fn client_config(self, own: Option<&CertifiedKey>) -> Result<Arc<ClientConfig>, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let bundle = match self {
            Self::Anybody => return client_config_with(Arc::new(Anybody(provider)), own),
            Self::Bundle(pem) => roots(pem)?,
            Self::System => roots(&system()?)?,
        };
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(bundle), provider)
            .build()
            .map_err(|e| Error::certificate("the CA bundle", e))?;
        client_config_with(verifier, own)
    }
}

fn system() -> Result<String, Error> {
    let path = SYSTEM.into_iter().map(Path::new).find(|path| path.exists());
    let missing = || Error::certificate("the machine's authorities", format!("none of {SYSTEM:?} is there"));
    Ok(std::fs::read_to_string(path.ok_or_else(missing)?)?)
}

/// Believes everybody, and only looks whether they hold the key of the certificate that they show.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
