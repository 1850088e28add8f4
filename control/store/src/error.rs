//! What can go wrong at the store, in the terms of its callers.

use crate::{LeaseId, Revision};

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a store operation failed. `Display` says this layer only; the source has the rest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The history asked for has been compacted away; list again from `compacted` or later.
    #[error("revision {requested} has been compacted, the oldest revision kept is {oldest}", requested = .requested.0, oldest = .oldest.0)]
    Compacted {
        /// What the caller asked for.
        requested: Revision,
        /// The oldest revision that can still be read or watched from.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {requested} is in the future, the store is at {current}", requested = .requested.0, current = .current.0)]
    FutureRevision {
        /// What the caller asked for.
        requested: Revision,
        /// Where the store is.
        current: Revision,
    },
    /// The lease has ended or never was.
    #[error("lease {id:x} not found", id = .0.0)]
    LeaseNotFound(LeaseId),
    /// The store cannot be reached or did not answer in time. Whether a write happened is unknown.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The value is larger than the store accepts.
    #[error("the object is too large for the store: {size} bytes, the limit is {limit}")]
    TooLarge {
        /// Size of the value in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The store answered something that it never should (a corrupt file, a foreign server).
    #[error("the store is damaged: {0}")]
    Corrupt(String),
}
