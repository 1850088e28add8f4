//! Recent changes in memory, and watches over them. A watcher holds a position, not a queue: nothing grows for a slow one.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::blocking;
use super::tables::Reader;
use crate::{Batch, Error, Result, Revision, Watch};

/// Batches kept in memory; older ones are read from the file.
const RECENT: usize = 4096;
/// And at most this many bytes of values.
const RECENT_BYTES: usize = 16 << 20;
/// Batches read from the file at once.
const CHUNK: usize = 512;

/// What the writer tells everybody.
#[derive(Debug)]
pub(super) struct Shared {
    recent: Mutex<Recent>,
    committed: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Recent {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    compacted: Revision,
}

impl Shared {
    pub(super) fn new(revision: Revision, compacted: Revision) -> Self {
        let recent = Recent { batches: VecDeque::new(), bytes: 0, compacted };
        Self { recent: Mutex::new(recent), committed: watch::Sender::new(revision) }
    }

    /// The batches are durable: show them, then ring.
    pub(super) fn publish(&self, batches: Vec<Batch>, revision: Revision) {
        {
            let mut recent = self.recent.lock();
            for batch in batches {
                recent.bytes += size(&batch);
                recent.batches.push_back(Arc::new(batch));
            }
            while recent.batches.len() > RECENT || recent.bytes > RECENT_BYTES {
                let Some(oldest) = recent.batches.pop_front() else { break };
                recent.bytes -= size(&oldest);
            }
        }
        self.committed.send_replace(revision);
    }

    /// History up to here is gone.
    pub(super) fn compacted(&self, revision: Revision) {
        self.recent.lock().compacted = revision;
    }

    /// What memory has after a revision; `None` when it does not reach back so far.
    fn after(&self, revision: Revision) -> Result<Option<Vec<Arc<Batch>>>> {
        let recent = self.recent.lock();
        if revision < recent.compacted {
            return Err(Error::Compacted { requested: revision, oldest: recent.compacted });
        }
        let reaches = recent.batches.front().is_some_and(|b| b.revision.0 <= revision.0 + 1);
        if !reaches {
            return Ok(None);
        }
        let from = recent.batches.partition_point(|b| b.revision <= revision);
        Ok(Some(recent.batches.iter().skip(from).take(CHUNK).cloned().collect()))
    }
}

fn size(batch: &Batch) -> usize {
    let events = batch.events.iter().map(|event| match event {
        crate::Event::Put { record, previous } => {
            record.value.len() + previous.as_ref().map_or(0, |p| p.value.len()) + 2 * record.key.len()
        }
        crate::Event::Delete { previous, .. } => previous.value.len() + previous.key.len(),
    });
    events.sum::<usize>() + 128
}

struct Position {
    reader: Reader,
    committed: watch::Receiver<Revision>,
    prefix: String,
    seen: Revision,
    ended: bool,
}

/// A stream of the batches after `after` that touch `prefix`.
pub(super) fn watch(reader: Reader, prefix: String, after: Revision) -> Result<Watch> {
    let committed = reader.shared.committed.subscribe();
    let current = *committed.borrow();
    if after > current {
        return Err(Error::FutureRevision { requested: after, current });
    }
    // A revision that is compacted already is refused at once rather than by the stream.
    reader.shared.after(after)?;
    let position = Position { reader, committed, prefix, seen: after, ended: false };
    let chunks = stream::unfold(position, |mut position| async move {
        if position.ended {
            return None;
        }
        let chunk = position.next().await;
        position.ended = chunk.is_err();
        let items: Vec<Result<Batch>> = match chunk {
            Ok(batches) => batches.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        };
        Some((stream::iter(items), position))
    });
    Ok(chunks.flatten().boxed())
}

impl Position {
    /// Waits until something that concerns us was committed.
    async fn next(&mut self) -> Result<Vec<Batch>> {
        loop {
            if *self.committed.borrow_and_update() <= self.seen {
                let closed = || Error::Unavailable("the store has been closed".to_owned());
                self.committed.changed().await.map_err(|_| closed())?;
                continue;
            }
            let batches = match self.reader.shared.after(self.seen)? {
                Some(batches) => batches,
                None => {
                    let (reader, seen) = (self.reader.clone(), self.seen);
                    blocking(move || reader.batches(seen, CHUNK)).await?
                }
            };
            let Some(last) = batches.last() else {
                // Revisions without changes of keys (leases) leave no batch.
                self.seen = *self.committed.borrow();
                continue;
            };
            self.seen = last.revision;
            let ours: Vec<Batch> = batches.iter().filter_map(|batch| narrow(batch, &self.prefix)).collect();
            if !ours.is_empty() {
                return Ok(ours);
            }
        }
    }
}

/// The part of a batch under a prefix.
fn narrow(batch: &Batch, prefix: &str) -> Option<Batch> {
    let events: Vec<_> = batch.events.iter().filter(|e| e.key().starts_with(prefix)).cloned().collect();
    (!events.is_empty()).then_some(Batch { revision: batch.revision, events })
}
