//! Certificates: the cluster's own CA, what it signs, who a peer is, and TLS settings made from them.
//!
//! In: file paths, names, PEM text. Out: PEM text and rustls configurations. Private keys never leave this room in a log
//! or an error.

mod ca;
mod join;
mod leaf;
mod signer;
mod tls;
mod trust;

pub use ca::{Ca, CertifiedKey, Identity, new_request};
pub use join::fetch_ca;
pub use leaf::Usage;
pub use signer::Signer;
pub use tls::{client_config, life, peer_identity, server_config};
pub use trust::Trust;

/// Why certificates could not be made, read or trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written; the message has its path.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// A key or certificate does not parse, or cannot be made.
    #[error("{what}: {why}")]
    Certificate {
        /// The file or the thing that was tried.
        what: String,
        /// What the library says.
        why: String,
    },
    /// The server's CA is not the one that was asked for.
    #[error(
        "the server at {server} presents CA {found}, expected {expected}: wrong server, or the CA was replaced"
    )]
    WrongCa {
        /// Where we connected.
        server: String,
        /// `sha256:<hex>` of what it presented.
        found: String,
        /// `sha256:<hex>` of what was asked for.
        expected: String,
    },
}

impl Error {
    fn certificate(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Certificate { what: what.into(), why: why.to_string() }
    }
}
