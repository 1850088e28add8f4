//! The embedded store: one redb file, one writer thread, group commit. The default for one machine.
//!
//! In: [`Store`] calls. Out: the same, durable. Every commit is an fsync shared by all transactions that waited for it;
//! history is kept beside the present state, so that lists and watches from the recent past are exact.
//!
//! `current` holds key -> (created, modified, value); `history` holds (revision, key) -> (before, after). A list at an older
//! revision is the present with the changes since then undone: its cost is the change, not the store.

mod codec;
mod history;
mod tables;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redb::{Database, DatabaseError};
use tokio::sync::oneshot;

use crate::{
    Compare, Error, LeaseId, ListOptions, MAX_VALUE, Op, Outcome, Page, Record, Result, Revision, Store,
    Watch,
};
use history::Shared;
use tables::Reader;
use writer::{Request, Writer};

/// How much history is kept without being asked to forget it.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Changes younger than this stay.
    pub age: Duration,
    /// But never more revisions than this.
    pub revisions: u64,
}

impl Default for Retention {
    /// Five minutes, as kube-apiserver asks etcd to, and at most 100,000 revisions.
    fn default() -> Self {
        Self { age: Duration::from_secs(300), revisions: 100_000 }
    }
}

/// The store in one file. Closed when dropped; everything acknowledged is on disk at any moment.
#[derive(Debug)]
pub struct Embedded {
    reader: Reader,
    writer: Writer,
}

impl Embedded {
    /// Opens or creates the file.
    ///
    /// # Errors
    /// A file that another process has open, or that is damaged; the message names the path and what to do.
    pub fn open(path: &Path, retention: Retention) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|e| Error::Unavailable(format!("cannot create {}: {e}", folder.display())))?;
        }
        let database =
            Database::builder().set_cache_size(16 << 20).create(path).map_err(|e| open_error(path, &e))?;
        let database = Arc::new(database);
        let start = tables::prepare(&database)?;
        let shared = Arc::new(Shared::new(start.revision, start.compacted));
        let reader = Reader::new(Arc::clone(&database), Arc::clone(&shared));
        let writer = Writer::start(database, shared, start, retention)?;
        Ok(Self { reader, writer })
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.writer.submit(request(sender)).await;
        receiver.await.map_err(|_| Error::Unavailable("the store has been closed".to_owned()))?
    }
}

fn open_error(path: &Path, error: &DatabaseError) -> Error {
    let path = path.display();
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::Unavailable(format!(
            "{path} is in use by another process: one oarlock-control may run on a data folder; stop the other one"
        )),
        DatabaseError::UpgradeRequired(version) => Error::Corrupt(format!(
            "{path} has file format {version}, which this build cannot read; open it with the build that wrote it"
        )),
        other => Error::Corrupt(format!(
            "{path} cannot be opened ({other}): restore it from a backup, or move it away to start empty"
        )),
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<(Option<Record>, Revision)> {
        self.reader.get(key)
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> Result<Page> {
        let (reader, prefix) = (self.reader.clone(), prefix.to_owned());
        blocking(move || reader.list(&prefix, &options)).await
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome> {
        for op in &ops {
            if let Op::Put(_, value, _) = op
                && value.len() > MAX_VALUE
            {
                return Err(Error::TooLarge { size: value.len(), limit: MAX_VALUE });
            }
        }
        self.ask(|answer| Request::Txn { compares, ops, answer }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch> {
        history::watch(self.reader.clone(), prefix.to_owned(), after)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId> {
        self.ask(|answer| Request::Grant { ttl, answer }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.ask(|answer| Request::KeepAlive { lease, answer }).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<()> {
        self.ask(|answer| Request::Revoke { lease, answer }).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.ask(|answer| Request::Compact { revision, answer }).await
    }
}

/// Runs a read that may take long away from the runtime's own threads.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| Error::Unavailable(format!("a read of the store was interrupted: {e}")))?
}

/// A failure of the file below us.
fn storage(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(format!("the store's file: {error}"))
}

/// A value as the tables keep it.
fn value_of(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
