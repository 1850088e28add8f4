//! The file's tables and the reads over them. Reads see one committed state and never wait for the writer.

use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::codec::{Change, decode_change, decode_record};
use super::history::Shared;
use super::storage;
use crate::{Batch, Error, Event, ListOptions, Page, Record, Result, Revision};

/// key -> record.
pub(super) const CURRENT: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("current");
/// (revision, key) -> change.
pub(super) const HISTORY: TableDefinition<'static, (u64, &str), &[u8]> = TableDefinition::new("history");
/// `revision`, `compacted`, `lease` -> number.
pub(super) const NUMBERS: TableDefinition<'static, &str, u64> = TableDefinition::new("numbers");
/// lease -> time to live in milliseconds.
pub(super) const LEASES: TableDefinition<'static, i64, u64> = TableDefinition::new("leases");
/// (lease, key) -> nothing.
pub(super) const LEASE_KEYS: TableDefinition<'static, (i64, &str), ()> = TableDefinition::new("lease_keys");

/// Where the store stood when it was opened.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) last_lease: i64,
    /// Leases and their time to live in milliseconds.
    pub(super) leases: Vec<(i64, u64)>,
}

/// Makes missing tables and reads the numbers.
pub(super) fn prepare(database: &Database) -> Result<Start> {
    let txn = database.begin_write().map_err(storage)?;
    let start = {
        txn.open_table(CURRENT).map_err(storage)?;
        txn.open_table(HISTORY).map_err(storage)?;
        txn.open_table(LEASE_KEYS).map_err(storage)?;
        let numbers = txn.open_table(NUMBERS).map_err(storage)?;
        let number = |name: &str| numbers.get(name).map_err(storage).map(|n| n.map_or(0, |n| n.value()));
        let leases = txn.open_table(LEASES).map_err(storage)?;
        let leases = leases
            .iter()
            .map_err(storage)?
            .map(|entry| entry.map(|(id, ttl)| (id.value(), ttl.value())).map_err(storage))
            .collect::<Result<_>>()?;
        Start {
            // An empty store stands at revision 1, as etcd's does: 0 means "before everything".
            revision: Revision(number("revision")?.max(1)),
            compacted: Revision(number("compacted")?),
            last_lease: i64::try_from(number("lease")?).unwrap_or(0),
            leases,
        }
    };
    txn.commit().map_err(storage)?;
    Ok(start)
}

/// A page on its way. What is past it is counted, not read.
struct Filling {
    page: Page,
    limit: usize,
    uncounted: bool,
}

impl Filling {
    fn take(&mut self, record: impl FnOnce() -> Result<Record>) -> Result<()> {
        self.page.count += 1;
        if self.page.records.len() < self.limit {
            self.page.records.push(record()?);
        } else {
            self.page.more = true;
        }
        Ok(())
    }

    /// Whether nobody wants to know what else there is.
    fn is_done(&self) -> bool {
        self.uncounted && self.page.more
    }
}

/// Reads of the committed state.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    database: Arc<Database>,
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(database: Arc<Database>, shared: Arc<Shared>) -> Self {
        Self { database, shared }
    }

    fn begin(&self) -> Result<(ReadTransaction, Revision, Revision)> {
        let txn = self.database.begin_read().map_err(storage)?;
        let numbers = txn.open_table(NUMBERS).map_err(storage)?;
        let number = |name: &str| numbers.get(name).map_err(storage).map(|n| n.map_or(0, |n| n.value()));
        let (revision, compacted) = (number("revision")?.max(1), number("compacted")?);
        drop(numbers);
        Ok((txn, Revision(revision), Revision(compacted)))
    }

    pub(super) fn get(&self, key: &str) -> Result<(Option<Record>, Revision)> {
        let (txn, revision, _) = self.begin()?;
        let current = txn.open_table(CURRENT).map_err(storage)?;
        let found = current.get(key).map_err(storage)?;
        let record =
            found.map(|bytes| decode_record(key, bytes.value()).map(|(record, _)| record)).transpose()?;
        Ok((record, revision))
    }

    pub(super) fn list(&self, prefix: &str, options: &ListOptions) -> Result<Page> {
        let (txn, now, compacted) = self.begin()?;
        let at = options.at.unwrap_or(now);
        if at > now {
            return Err(Error::FutureRevision { requested: at, current: now });
        }
        if at < compacted {
            return Err(Error::Compacted { requested: at, oldest: compacted });
        }
        let start = options.start.as_deref().filter(|s| *s > prefix).unwrap_or(prefix);
        let mut undone = if at < now { before_changes(&txn, prefix, start, at)? } else { BTreeMap::new() };
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut page = Filling {
            page: Page { records: Vec::new(), revision: at, more: false, count: 0 },
            limit,
            uncounted: options.uncounted,
        };
        let current = txn.open_table(CURRENT).map_err(storage)?;
        for entry in current.range(start..).map_err(storage)? {
            let (key, bytes) = entry.map_err(storage)?;
            let key = key.value();
            if !key.starts_with(prefix) {
                break;
            }
            // Keys that were deleted since, and stand before this one.
            while let Some(first) = undone.first_entry().filter(|e| e.key().as_str() < key) {
                first.remove().into_iter().try_for_each(|record| page.take(|| Ok(record)))?;
            }
            match undone.remove(key) {
                Some(before) => before.into_iter().try_for_each(|record| page.take(|| Ok(record)))?,
                None => page.take(|| Ok(decode_record(key, bytes.value())?.0))?,
            }
            if page.is_done() {
                return Ok(page.page);
            }
        }
        undone.into_values().flatten().try_for_each(|record| page.take(|| Ok(record)))?;
        Ok(page.page)
    }

    /// Batches after a revision, oldest first, at most `limit` of them.
    pub(super) fn batches(&self, after: Revision, limit: usize) -> Result<Vec<Arc<Batch>>> {
        let (txn, _, compacted) = self.begin()?;
        if after < compacted {
            return Err(Error::Compacted { requested: after, oldest: compacted });
        }
        let history = txn.open_table(HISTORY).map_err(storage)?;
        let mut batches: Vec<Batch> = Vec::new();
        for entry in history.range((after.0 + 1, "")..).map_err(storage)? {
            let (key, bytes) = entry.map_err(storage)?;
            let (revision, key) = key.value();
            let event = event(Revision(revision), decode_change(key, bytes.value())?);
            let full = batches.len() == limit;
            match batches.last_mut().filter(|b| b.revision.0 == revision) {
                Some(batch) => batch.events.extend(event),
                None if full => break,
                None => {
                    batches.push(Batch { revision: Revision(revision), events: event.into_iter().collect() })
                }
            }
        }
        Ok(batches.into_iter().map(Arc::new).collect())
    }
}

/// For each key that changed after `at`, what stood there at `at`.
fn before_changes(
    txn: &ReadTransaction,
    prefix: &str,
    start: &str,
    at: Revision,
) -> Result<BTreeMap<String, Option<Record>>> {
    let history = txn.open_table(HISTORY).map_err(storage)?;
    let mut first = BTreeMap::new();
    for entry in history.range((at.0 + 1, "")..).map_err(storage)? {
        let (key, bytes) = entry.map_err(storage)?;
        let (_, key) = key.value();
        if key.starts_with(prefix) && key >= start && !first.contains_key(key) {
            first.insert(key.to_owned(), decode_change(key, bytes.value())?.before);
        }
    }
    Ok(first)
}

/// A change as watchers see it; a change from nothing to nothing is none.
pub(super) fn event(revision: Revision, change: Change) -> Option<Event> {
    match (change.before, change.after) {
        (previous, Some(record)) => Some(Event::Put { record, previous }),
        (Some(previous), None) => Some(Event::Delete { previous, revision }),
        (None, None) => None,
    }
}
