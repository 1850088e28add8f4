//! One store made like another, while the other may be written to.
//!
//! In: two stores, a prefix, keys that stay behind. Out: the same keys and values; revisions are the target's own. A pass compares both
//! key by key and writes what differs, so it may be broken off and begun again at any time. A pass that wrote nothing, over a source that
//! nobody writes to, proves that they are the same.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{ListOptions, Op, Record, Result, Revision, Store};

/// How many records are read at once.
const PAGE: usize = 500;
/// How much is written at once: etcd takes 128 operations and a megabyte and a half.
const OPERATIONS: usize = 64;
const BYTES: usize = 1 << 20;
/// How many writes are on their way at once while revisions are made up for.
const AT_ONCE: usize = 64;

/// A store that is to become like another.
pub struct Copy {
    from: Arc<dyn Store>,
    to: Arc<dyn Store>,
    prefix: String,
    /// Keys that belong to a running process and not to what is kept.
    without: Vec<String>,
}

impl Copy {
    /// Of everything under a prefix but for these keys.
    #[must_use]
    pub fn new(from: Arc<dyn Store>, to: Arc<dyn Store>, prefix: &str, without: &[&str]) -> Self {
        let without = without.iter().map(|key| (*key).to_owned()).collect();
        Self { from, to, prefix: prefix.to_owned(), without }
    }

    /// One pass over everything. How many keys were written or removed.
    ///
    /// # Errors
    /// One of the stores is away.
    pub async fn pass(&self) -> Result<usize> {
        let (mut source, mut target) = (self.cursor(&self.from), self.cursor(&self.to));
        let (mut changed, mut pending) = (0, Pending::default());
        loop {
            let op = match (source.peek().await?, target.peek().await?) {
                (None, None) => break,
                (Some(theirs), Some(ours)) if theirs.key == ours.key => {
                    let op = (theirs.value != ours.value)
                        .then(|| Op::Put(theirs.key.clone(), theirs.value.clone(), None));
                    source.records.pop_front();
                    target.records.pop_front();
                    op
                }
                (Some(theirs), ours) if ours.is_none_or(|ours| theirs.key < ours.key) => {
                    let op = Op::Put(theirs.key.clone(), theirs.value.clone(), None);
                    source.records.pop_front();
                    Some(op)
                }
                (_, Some(ours)) => {
                    let op = Op::Delete(ours.key.clone());
                    target.records.pop_front();
                    Some(op)
                }
                (Some(_), None) => None,
            };
            if let Some(op) = op.filter(|op| !self.without.iter().any(|key| key == key_of(op))) {
                changed += 1;
                pending.add(&*self.to, op).await?;
            }
        }
        pending.write(&*self.to).await?;
        Ok(changed)
    }

    /// Takes over what changes in the source after a revision, until that fails: then another pass is due.
    ///
    /// # Errors
    /// One of the stores is away, or history was cut.
    pub async fn follow(&self, after: Revision, mut seen: impl FnMut(Revision)) -> Result<()> {
        let mut watch = self.from.watch(&self.prefix, after).await?;
        while let Some(batch) = watch.next().await {
            let batch = batch?;
            let mut pending = Pending::default();
            for event in batch.events {
                let op = match event {
                    crate::Event::Put { record, .. } => Op::Put(record.key, record.value, None),
                    crate::Event::Delete { previous, .. } => Op::Delete(previous.key),
                };
                if !self.without.iter().any(|key| key == key_of(&op)) {
                    pending.add(&*self.to, op).await?;
                }
            }
            pending.write(&*self.to).await?;
            seen(batch.revision);
        }
        Ok(())
    }

    /// Brings the target's revision past the source's and forgets its history: whoever knows a revision of the source is then told that
    /// it is gone, and lists again. Returns the target's revision.
    ///
    /// # Errors
    /// One of the stores is away.
    pub async fn outrun(&self) -> Result<Revision> {
        let key = format!("{}claims/copy", self.prefix);
        let (_, wanted) = self.from.get(&key).await?;
        let (_, present) = self.to.get(&key).await?;
        let missing = (wanted.0 + 1).saturating_sub(present.0);
        futures_util::stream::iter(0..missing)
            .map(|i| {
                let op = Op::Put(key.clone(), Bytes::from(i.to_string()), None);
                self.to.txn(Vec::new(), vec![op])
            })
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        self.to.txn(Vec::new(), vec![Op::Delete(key.clone())]).await?;
        let (_, reached) = self.to.get(&key).await?;
        self.to.compact(reached).await?;
        Ok(reached)
    }

    fn cursor<'c>(&'c self, store: &'c Arc<dyn Store>) -> Cursor<'c> {
        Cursor { store: &**store, prefix: &self.prefix, start: None, records: VecDeque::new(), over: false }
    }
}

fn key_of(op: &Op) -> &str {
    match op {
        Op::Put(key, ..) | Op::Delete(key) => key,
    }
}

/// A walk over the keys of a store, as they are when it comes by.
struct Cursor<'c> {
    store: &'c dyn Store,
    prefix: &'c str,
    start: Option<String>,
    records: VecDeque<Record>,
    over: bool,
}

impl Cursor<'_> {
    async fn peek(&mut self) -> Result<Option<&Record>> {
        if self.records.is_empty() && !self.over {
            let options = ListOptions {
                start: self.start.take(),
                limit: PAGE,
                uncounted: true,
                ..ListOptions::default()
            };
            let page = self.store.list(self.prefix, options).await?;
            self.over = !page.more;
            self.records = page.records.into();
            // The least key after the last one.
            self.start = self.records.back().map(|record| format!("{}\0", record.key));
        }
        Ok(self.records.front())
    }
}

/// Writes that are made together.
#[derive(Default)]
struct Pending {
    ops: Vec<Op>,
    size: usize,
}

impl Pending {
    async fn add(&mut self, to: &dyn Store, op: Op) -> Result<()> {
        let size = key_of(&op).len() + if let Op::Put(_, value, _) = &op { value.len() } else { 0 };
        if self.ops.len() == OPERATIONS || !self.ops.is_empty() && self.size + size > BYTES {
            self.write(to).await?;
        }
        self.size += size;
        self.ops.push(op);
        Ok(())
    }

    async fn write(&mut self, to: &dyn Store) -> Result<()> {
        self.size = 0;
        let ops = std::mem::take(&mut self.ops);
        if ops.is_empty() { Ok(()) } else { to.txn(Vec::new(), ops).await.map(drop) }
    }
}
