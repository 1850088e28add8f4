//! Where things are kept: one small async trait and its two backends.
//!
//! In: keys (`/registry/<group>/<resource>/<namespace>/<name>`) and opaque encoded bytes. Out: the same bytes with the
//! revision that wrote them, and an ordered stream of changes. Never here: knowledge of any single kind.
//!
//! Both backends share one conformance suite (`tests/`), so that a caller cannot tell them apart.

#![forbid(unsafe_code)]

mod copy;
mod embedded;
mod error;
mod etcd;

pub use copy::Copy;
pub use embedded::{Embedded, Retention};
pub use error::{Error, Result};
pub use etcd::{Etcd, EtcdOptions, Together};

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// The largest value, as etcd's default request limit.
const MAX_VALUE: usize = 1_572_864;

/// A point in the history of the whole store. One write transaction, however many keys it touches, is one revision.
/// Revisions start at 1 and only grow; 0 means "before everything".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// One stored value and where it stands in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The full key.
    pub key: String,
    /// The encoded object.
    pub value: Bytes,
    /// Revision of the write that created the key.
    pub created: Revision,
    /// Revision of the last write to the key.
    pub modified: Revision,
}

/// What a [`Store::list`] should answer.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Read the store as it was at this revision; `None` is now (linearizable).
    pub at: Option<Revision>,
    /// Start with the first key greater than or equal to this one (must lie under the prefix).
    pub start: Option<String>,
    /// At most this many records; 0 means all.
    pub limit: usize,
    /// Nobody asks how many there are after the page: what is past it need not be read to be counted.
    pub uncounted: bool,
}

/// One page of a list, in key order.
#[derive(Debug, Clone)]
pub struct Page {
    /// The records, sorted by key.
    pub records: Vec<Record>,
    /// The revision that the page shows.
    pub revision: Revision,
    /// Whether keys after the last record exist under the prefix.
    pub more: bool,
    /// How many records lie under the prefix from `start` on, this page included; fewer where nobody asks.
    pub count: u64,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last written at this revision.
    ModifiedAt(String, Revision),
}

impl Compare {
    /// The key that it looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::ModifiedAt(key, _) => key,
        }
    }
}

/// A write of a transaction. A transaction names each key at most once.
#[derive(Debug, Clone)]
pub enum Op {
    /// Write the value, optionally bound to a lease: the key disappears when the lease ends.
    Put(String, Bytes, Option<LeaseId>),
    /// Remove the key; a key that does not exist is no error.
    Delete(String),
}

impl Op {
    /// The key that it writes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put(key, _, _) | Self::Delete(key) => key,
        }
    }
}

/// What came of a transaction.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// All compares held and every op was applied, durably, at this revision, which it may share with others that do not meet it.
    /// (With no effective op: the current one.)
    Committed(Revision),
    /// A compare failed and nothing was written. The present records of the compared keys, in their order.
    Conflict(Vec<Option<Record>>),
}

/// A lease: keys written with it vanish when it is not kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// One change, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was written. `previous` is the record before, `None` for a creation.
    Put {
        /// The record as written.
        record: Record,
        /// What stood there before.
        previous: Option<Record>,
    },
    /// The key was removed at `revision`.
    Delete {
        /// The record as it was last.
        previous: Record,
        /// The revision of the removal.
        revision: Revision,
    },
}

impl Event {
    /// The revision of the change.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { record, .. } => record.modified,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { record, .. } => &record.key,
            Self::Delete { previous, .. } => &previous.key,
        }
    }
}

/// All events of one revision, in key order: a transaction is never seen in part.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The revision of every event in the batch.
    pub revision: Revision,
    /// The events.
    pub events: Vec<Event>,
}

/// The changes after a revision, without gap or duplicate, in order. The stream ends only with an error as its last
/// item: [`Error::Compacted`] when history was cut before the reader saw it (a slow reader, too), [`Error::Unavailable`]
/// when the store went away. The reader then lists again.
pub type Watch = BoxStream<'static, Result<Batch>>;

/// The one door to what is kept.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads one key (linearizable), with the store's revision at that moment.
    async fn get(&self, key: &str) -> Result<(Option<Record>, Revision)>;

    /// Reads all keys that start with `prefix`, or a page of them.
    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page>;

    /// Applies all ops at once if all compares hold. An answer means that the write is durable: it survives kill -9.
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome>;

    /// Everything under `prefix` that changes after revision `after`. A revision in the future is an error.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch>;

    /// Opens a lease that ends `ttl` after the last keep-alive.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId>;

    /// Renews a lease; [`Error::LeaseNotFound`] if it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()>;

    /// Ends a lease and removes its keys.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<()>;

    /// Forgets history up to and including `revision`; the present state stays. Reads and watches before it then answer
    /// [`Error::Compacted`].
    async fn compact(&self, revision: Revision) -> Result<()>;
}
