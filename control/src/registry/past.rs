//! Changes that the cache does not hold, read from the store: a watch goes on from where it was though the control plane has been
//! started since, and nobody has to list again.

use std::sync::Arc;

use futures_util::StreamExt as _;
use oarlock_api::catalogue::Kind;
use oarlock_api::status::Status;
use oarlock_store::{Error, Event, Record, Revision};

use super::{Registry, bounded};
use crate::cache::{Change, Object, ObjectKey};

/// Whoever has missed more lists again, which costs less.
const MOST: usize = 20_000;

impl Registry {
    /// The changes of a kind after a revision, and the revision that they reach: at least what the cache showed when asked.
    ///
    /// # Errors
    /// `Expired` when that history is gone or too long, or the store is away.
    pub async fn past(
        &self,
        kind: &'static Kind,
        after: Revision,
    ) -> Result<(Vec<Change>, Revision), Status> {
        let until = self.cache.revision();
        let changes = bounded(self.changes(kind, after, until)).await?;
        Ok((changes, until))
    }

    async fn changes(
        &self,
        kind: &'static Kind,
        after: Revision,
        until: Revision,
    ) -> oarlock_store::Result<Vec<Change>> {
        let mut changes = Vec::new();
        if after >= until {
            return Ok(changes);
        }
        // All keys: a watch over some of them does not tell that nothing else comes.
        let mut watch = self.store.watch("", after).await?;
        while let Some(batch) = watch.next().await {
            let batch = batch?;
            if batch.revision <= until {
                changes.extend(batch.events.into_iter().filter_map(|event| self.change(kind, event)));
            }
            if changes.len() > MOST {
                return Err(Error::Compacted { requested: after, oldest: until });
            }
            if batch.revision >= until {
                break;
            }
        }
        Ok(changes)
    }

    fn change(&self, wanted: &'static Kind, event: Event) -> Option<Change> {
        let object = |record: &Record| {
            let (kind, namespace, name) = self.cache.catalogue().by_key(&record.key)?;
            let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
            (kind == wanted).then(|| Object::decode(key, record).ok().map(Arc::new)).flatten()
        };
        Some(match event {
            Event::Put { record, previous } => {
                Change::Put { new: object(&record)?, old: previous.as_ref().and_then(object) }
            }
            Event::Delete { previous, revision } => Change::Delete { old: object(&previous)?, revision },
        })
    }
}
