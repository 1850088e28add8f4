//! Every object once, as its encoded bytes plus the few facts that selectors and indexes need.
//!
//! In: one watch over the store's whole prefix, so that the cache's revision is exact. Out: lists, lookups, and watches that
//! hold a position in a bounded ring of changes: a thousand watchers cost one encoding, a slow one costs nothing and is
//! told to list again.

mod follow;
mod object;
mod packed;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use oarlock_api::catalogue::{Catalogue, Kind, PODS};
use oarlock_store::{Record, Revision};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

pub use follow::PREFIX;
pub use object::{Object, ObjectKey};
use packed::Samples;

/// Changes kept for watchers.
const RING: usize = 20_000;
/// Pods that have changed last, of which the value is held: the leader, the node's session and whoever knows of policies ask for it at the
/// same time, each of whom would parse it.
const PARSED: usize = 256;
/// And at most this many bytes of encoded objects held only by the ring.
const RING_BYTES: usize = 32 << 20;

/// One change of one object.
#[derive(Debug, Clone)]
pub enum Change {
    /// It was created (`old` is none) or modified.
    Put {
        /// As it is now.
        new: Arc<Object>,
        /// As it was.
        old: Option<Arc<Object>>,
    },
    /// It was removed.
    Delete {
        /// As it was last.
        old: Arc<Object>,
        /// When it went.
        revision: Revision,
    },
}

impl Change {
    /// When it happened.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { new, .. } => new.revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The object that changed, as it is or was last.
    #[must_use]
    pub fn object(&self) -> &Arc<Object> {
        match self {
            Self::Put { new, .. } => new,
            Self::Delete { old, .. } => old,
        }
    }
}

/// The history that a watch asks for is not held any more: list, and watch from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})", asked = .asked.0, oldest = .oldest.0)]
pub struct Expired {
    /// The revision that the watcher had seen.
    pub asked: Revision,
    /// The oldest one from which changes are still held.
    pub oldest: Revision,
}

/// The cache. Shared by reference; filled by [`Cache::run`].
#[derive(Debug)]
pub struct Cache {
    catalogue: Arc<Catalogue>,
    state: RwLock<State>,
    samples: Mutex<Samples>,
    parsed: Mutex<VecDeque<Arc<Value>>>,
    shown: watch::Sender<Shown>,
}

/// How far the cache is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Shown {
    /// How often the store was listed. What came before a list is not known one by one: no watch goes on over it.
    lists: u64,
    revision: Revision,
}

type Table = BTreeMap<(String, String), Arc<Object>>;

#[derive(Debug, Default)]
struct State {
    tables: HashMap<&'static Kind, Table>,
    /// The pods of each node.
    on_nodes: HashMap<Box<str>, Vec<Arc<Object>>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Changes after this revision are in the ring.
    oldest: Revision,
    shown: Shown,
}

impl Cache {
    /// An empty cache; it becomes ready when [`Cache::run`] has listed the store.
    #[must_use]
    pub fn new(catalogue: Arc<Catalogue>) -> Arc<Self> {
        Arc::new(Self {
            catalogue,
            state: RwLock::default(),
            samples: Mutex::default(),
            parsed: Mutex::default(),
            shown: watch::Sender::default(),
        })
    }

    /// The kinds that it holds.
    #[must_use]
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// The store's revision that it shows; 0 before the first list.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.shown.borrow().revision
    }

    /// Waits until the cache shows `revision` or later. False when that took longer than `bound`.
    pub async fn wait_for(&self, revision: Revision, bound: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut seen = self.shown.subscribe();
        let reached = seen.wait_for(|present| present.revision >= revision);
        tokio::time::timeout(bound, reached).await.is_ok_and(|r| r.is_ok())
    }

    /// One object.
    #[must_use]
    pub fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let state = self.state.read();
        state.tables.get(kind)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects of a kind, or those of one namespace, sorted by namespace and name, and the revision that they show.
    #[must_use]
    pub fn list(&self, kind: &'static Kind, namespace: Option<&str>) -> (Vec<Arc<Object>>, Revision) {
        let state = self.state.read();
        let Some(table) = state.tables.get(kind) else { return (Vec::new(), state.shown.revision) };
        let objects = match namespace {
            None => table.values().cloned().collect(),
            Some(namespace) => {
                let from = (namespace.to_owned(), String::new());
                table
                    .range(from..)
                    .take_while(|((n, _), _)| n == namespace)
                    .map(|(_, o)| Arc::clone(o))
                    .collect()
            }
        };
        (objects, state.shown.revision)
    }

    /// The pods that a node has.
    #[must_use]
    pub fn pods_on(&self, node: &str) -> Vec<Arc<Object>> {
        self.state.read().on_nodes.get(node).cloned().unwrap_or_default()
    }

    /// How many objects of each kind there are.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static Kind, usize)> {
        let state = self.state.read();
        self.catalogue
            .kinds()
            .iter()
            .map(|kind| (*kind, state.tables.get(*kind).map_or(0, BTreeMap::len)))
            .collect()
    }

    /// The changes after a revision, of one kind or of all.
    ///
    /// # Errors
    /// When the ring does not reach back so far.
    pub fn watch(
        self: &Arc<Self>,
        kind: Option<&'static Kind>,
        after: Revision,
    ) -> Result<CacheWatch, Expired> {
        let shown = self.shown.subscribe();
        let state = self.state.read();
        if after < state.oldest {
            return Err(Expired { asked: after, oldest: state.oldest });
        }
        let seen = Shown { lists: state.shown.lists, revision: after };
        drop(state);
        Ok(CacheWatch { cache: Arc::clone(self), kind, seen, shown })
    }

    /// Applies records and removals of one revision, in order.
    fn apply(&self, changes: Vec<Applied>, revision: Revision) {
        self.change(changes, |state| {
            state.shown.revision = revision;
            state.trim()
        });
    }

    /// Applies what a list at a revision shows to be different. When and in which order that happened nobody knows: watchers list again.
    fn replace(&self, changes: Vec<Applied>, revision: Revision) {
        self.change(changes, |state| {
            state.shown = Shown { lists: state.shown.lists + 1, revision };
            state.oldest = revision;
            state.ring_bytes = 0;
            state.ring.drain(..).collect()
        });
    }

    fn change(&self, changes: Vec<Applied>, finish: impl FnOnce(&mut State) -> Vec<Arc<Change>>) {
        let (pods, past, shown) = {
            let mut state = self.state.write();
            let changed = changes.into_iter().filter_map(|change| state.apply(&self.catalogue, change));
            let pods: Vec<_> = changed.filter(|object| *object.key.kind == PODS).collect();
            (pods, finish(&mut state), state.shown)
        };
        self.hold(&pods);
        self.shown.send_replace(shown);
        let mut samples = self.samples.lock();
        for change in past {
            // It is as it was then, or gone.
            if let Change::Put { new, .. } = &*change
                && Arc::strong_count(new) > 1
            {
                new.pack(&mut samples);
            }
        }
    }

    /// Parses what will be asked for, once.
    fn hold(&self, pods: &[Arc<Object>]) {
        let last = pods.get(pods.len().saturating_sub(PARSED)..).unwrap_or_default();
        let values: Vec<_> = last.iter().map(|pod| pod.value()).collect();
        let mut parsed = self.parsed.lock();
        parsed.extend(values);
        let over = parsed.len().saturating_sub(PARSED);
        parsed.drain(..over);
    }
}

impl Shown {
    fn is_news_after(self, seen: Self) -> bool {
        self.lists != seen.lists || self.revision > seen.revision
    }
}

/// What the store said.
#[derive(Debug)]
enum Applied {
    Put(Record),
    Delete(String, Revision),
}

/// An object of a record; `None` for what is none of ours (claims, leases of replicas) and what does not parse.
fn decode(catalogue: &Catalogue, record: &Record) -> Option<Arc<Object>> {
    let (kind, namespace, name) = catalogue.by_key(&record.key)?;
    let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    match Object::decode(key, record) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            tracing::error!(key = %record.key, %error, "an object in the store does not parse; skipped");
            None
        }
    }
}

impl State {
    /// Takes in what was there at start.
    fn fill(&mut self, catalogue: &Catalogue, records: Vec<Record>, samples: &mut Samples) {
        for record in records {
            let Some(object) = decode(catalogue, &record) else { continue };
            let place = (object.key.namespace.clone(), object.key.name.clone());
            object.pack(samples);
            self.place(Some(&object), None);
            self.tables.entry(object.key.kind).or_default().insert(place, object);
        }
    }

    /// The object as it is now, unless it is gone.
    fn apply(&mut self, catalogue: &Catalogue, change: Applied) -> Option<Arc<Object>> {
        let key = match &change {
            Applied::Put(record) => record.key.as_str(),
            Applied::Delete(key, _) => key.as_str(),
        };
        // Other keys (claims, leases of replicas) only move the revision.
        let (kind, namespace, name) = catalogue.by_key(key)?;
        let place = (namespace.to_owned(), name.to_owned());
        let change = match change {
            Applied::Put(record) => {
                let new = decode(catalogue, &record)?;
                let old = self.tables.entry(kind).or_default().insert(place, Arc::clone(&new));
                Change::Put { new, old }
            }
            Applied::Delete(_, revision) => {
                let old = self.tables.get_mut(kind).and_then(|table| table.remove(&place))?;
                Change::Delete { old, revision }
            }
        };
        match &change {
            Change::Put { new, old } => self.place(Some(new), old.as_ref()),
            Change::Delete { old, .. } => self.place(None, Some(old)),
        }
        self.ring_bytes += change.object().encoded_len();
        let now = match &change {
            Change::Put { new, .. } => Some(Arc::clone(new)),
            Change::Delete { .. } => None,
        };
        self.ring.push_back(Arc::new(change));
        now
    }

    /// Keeps who is on which node.
    fn place(&mut self, new: Option<&Arc<Object>>, old: Option<&Arc<Object>>) {
        let node = |object: &Arc<Object>| object.node_name.clone().filter(|_| *object.key.kind == PODS);
        if let Some((old, node)) = old.and_then(|old| Some((old, node(old)?)))
            && let Some(pods) = self.on_nodes.get_mut(&node)
        {
            pods.retain(|pod| !Arc::ptr_eq(pod, old));
            if pods.is_empty() {
                self.on_nodes.remove(&node);
            }
        }
        if let Some((new, node)) = new.and_then(|new| Some((new, node(new)?))) {
            self.on_nodes.entry(node).or_default().push(Arc::clone(new));
        }
    }

    /// Returns what is held for watchers no longer.
    fn trim(&mut self) -> Vec<Arc<Change>> {
        let mut past = Vec::new();
        while self.ring.len() > RING || self.ring_bytes > RING_BYTES {
            let Some(first) = self.ring.pop_front() else { break };
            self.ring_bytes -= first.object().encoded_len();
            self.oldest = self.oldest.max(first.revision());
            past.push(first);
        }
        past
    }
}

/// A position in the changes.
#[derive(Debug)]
pub struct CacheWatch {
    cache: Arc<Cache>,
    kind: Option<&'static Kind>,
    seen: Shown,
    shown: watch::Receiver<Shown>,
}

impl CacheWatch {
    /// Everything up to here was returned or does not concern the watch: the revision for bookmarks.
    #[must_use]
    pub fn seen(&self) -> Revision {
        self.seen.revision
    }

    /// The next changes, at least one. Cancel-safe.
    ///
    /// # Errors
    /// When the reader was so slow that the ring moved past it, or the store had to be listed again.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        loop {
            let (changes, revision) = self.ready(|_| true)?;
            self.seen.revision = revision;
            if !changes.is_empty() {
                return Ok(changes);
            }
            if self.shown.wait_for(|shown| shown.is_news_after(self.seen)).await.is_err() {
                // The cache is gone: the process is ending.
                std::future::pending::<()>().await;
            }
        }
    }

    /// What has happened since, without waiting: changes of the kinds that are wanted.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn poll(&mut self, wanted: impl Fn(&Kind) -> bool) -> Result<Vec<Arc<Change>>, Expired> {
        let (changes, revision) = self.ready(wanted)?;
        self.seen.revision = revision;
        Ok(changes)
    }

    fn ready(&self, wanted: impl Fn(&Kind) -> bool) -> Result<(Vec<Arc<Change>>, Revision), Expired> {
        let state = self.cache.state.read();
        let asked = self.seen.revision;
        if self.seen.lists != state.shown.lists || asked < state.oldest {
            return Err(Expired { asked, oldest: state.oldest });
        }
        let from = state.ring.partition_point(|change| change.revision() <= asked);
        let ours = |change: &&Arc<Change>| {
            let changed = change.object().key.kind;
            self.kind.is_none_or(|kind| changed == kind) && wanted(changed)
        };
        let changes = state.ring.range(from..).filter(ours).cloned().collect();
        Ok((changes, state.shown.revision.max(asked)))
    }
}
