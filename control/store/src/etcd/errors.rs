//! What etcd's refusals mean. In: the client's error. Out: a [`Failure`], which its caller completes to an [`Error`].
//!
//! The texts are etcd's own, stable since 3.0: api/v3rpc/rpctypes/error.go.

use crate::{Error, LeaseId, MAX_VALUE};

/// Why a call failed, as far as etcd says it.
#[derive(Debug)]
pub(super) enum Failure {
    /// The revision is compacted; etcd does not say which ones are not.
    Compacted,
    /// The revision is in the future.
    Future,
    /// The lease is not there.
    Lease,
    /// The request is larger than the server takes.
    TooLarge,
    /// etcd cannot be reached, or has no leader: worth another try.
    Away(String),
    /// All is said.
    Told(Error),
}

impl Failure {
    pub(super) fn away(name: &str, what: &str, why: &str) -> Self {
        Self::Away(format!("etcd at {name}: {what}: {why}"))
    }

    pub(super) fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// The error for a call that named this lease (if any) and had this size.
    pub(super) fn into_error(self, lease: LeaseId, size: usize) -> Error {
        match self {
            Self::Lease => Error::LeaseNotFound(lease),
            Self::TooLarge => Error::TooLarge { size, limit: MAX_VALUE },
            Self::Away(text) => Error::Unavailable(text),
            Self::Told(error) => error,
            Self::Compacted | Self::Future => {
                Error::Corrupt("etcd refused a revision that was not asked for".to_owned())
            }
        }
    }
}

/// Reads the client's error.
pub(super) fn read(name: &str, what: &str, error: &etcd_client::Error) -> Failure {
    let text = match error {
        etcd_client::Error::GRpcStatus(status) => status.message(),
        // The client's own finding, when the lease it keeps alive has no time left.
        etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => return Failure::Lease,
        other => return Failure::away(name, what, &other.to_string()),
    };
    if text.contains("required revision has been compacted") {
        Failure::Compacted
    } else if text.contains("required revision is a future revision") {
        Failure::Future
    } else if text.contains("requested lease not found") {
        Failure::Lease
    } else if text.contains("request is too large") || text.contains("received message larger than max") {
        Failure::TooLarge
    } else if text.contains("database space exceeded") {
        let hint = "compact and defragment it, then disarm the alarm (etcdctl alarm disarm)";
        Failure::Told(Error::Unavailable(format!("etcd at {name}: {what}: {text}: {hint}")))
    } else {
        Failure::away(name, what, text)
    }
}
