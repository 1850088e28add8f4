//! Learning the cluster's CA from the server itself, trusted because its hash was handed over with the join token.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;

use super::Error;
use super::ca::certificate_hash;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `server` (`host:port`), and returns as PEM the certificate of its chain whose hash is `expected`
/// (`sha256:<hex>`). Nothing is sent over this connection; the caller connects again and trusts that CA alone.
///
/// # Errors
/// No connection, or no certificate of that hash.
pub async fn fetch_ca(server: &str, expected: &str) -> Result<String, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::certificate("the TLS versions", e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyChain(provider)))
        .with_no_client_auth();
    let connect = async {
        let tcp = TcpStream::connect(server).await?;
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host).trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    };
    let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, connect)
        .await
        .map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no TLS answer from {server}"))
        })?
        .map_err(|e| std::io::Error::new(e.kind(), format!("cannot reach {server}: {e}")))?;
    let presented = connection.get_ref().1.peer_certificates().unwrap_or_default();
    let matching = presented.iter().find(|der| certificate_hash(der).eq_ignore_ascii_case(expected));
    let Some(der) = matching else {
        let found = presented.last().map_or_else(|| "none".to_owned(), |der| certificate_hash(der));
        return Err(Error::WrongCa { server: server.to_owned(), found, expected: expected.to_owned() });
    };
    Ok(pem(der))
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Accepts any chain but checks that the peer holds its leaf's key: trust comes from the hash, compared afterwards.
#[derive(Debug)]
struct AnyChain(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyChain {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
