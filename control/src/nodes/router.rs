//! Who has to hear of a change: found once for all nodes, each of which is told only of what it needs. Else every change would wake
//! every session, and with thousands of nodes most of what the control plane does would be looking away.
//!
//! In: the cache's changes. Out: an inbox for each session. Of other nodes, a node hears what it needs to reach them, and only when
//! that changes: that they are alive is said every few seconds.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lz4_flex::block;
use oarlock_api::catalogue::{
    CONFIG_MAPS, ENDPOINT_SLICES, ENDPOINTS, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS,
    RUNTIME_CLASSES, SECRETS, SERVICES,
};
use oarlock_api::node::{self, OtherNode};
use oarlock_store::Revision;
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::references;
use crate::cache::{Cache, Change, Expired, Object};

/// News that wait for one session. One that is so far behind begins anew.
const INBOX: usize = 20_000;
/// How long other nodes that change are collected: when many join at once, each is told of many by one message.
const COLLECT: Duration = Duration::from_millis(50);
/// Nodes are told to a new session in so many parts, each of which is written once for all who begin before one of its nodes changes.
const PARTS: usize = 64;
/// A message about nodes is about this long at most.
const LONGEST: usize = 1 << 20;
/// How often it is looked whether the cache was filled.
const FIRST_LIST: Duration = Duration::from_secs(60);

/// Something that a node has to hear of.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// An object that it may need, or its own node.
    Change(Arc<Change>),
    /// Other nodes, its own perhaps among them.
    Nodes(Arc<Others>),
}

/// Some nodes as the others see them, written once for all sessions.
#[derive(Debug)]
pub(super) struct Others {
    pub(super) nodes: Vec<Other>,
    /// They as an `Others` of the protocol, packed.
    pub(super) packed: Bytes,
}

/// Another node, as nodes see each other.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(super) name: Arc<str>,
    pub(super) revision: Revision,
    /// What others need of it; none: it is gone.
    pub(super) object: Option<Bytes>,
}

/// The inboxes. Shared by reference.
#[derive(Debug, Default)]
pub(super) struct Router {
    inner: Mutex<Inner>,
    revision: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Inner {
    /// A node may have a session that has not noticed yet that it is over.
    inboxes: HashMap<String, Vec<mpsc::Sender<News>>>,
    nodes: Nodes,
    /// Nodes that have changed and that nobody was told of yet.
    collected: BTreeMap<Arc<str>, Other>,
}

/// All nodes as the others see them.
#[derive(Debug)]
struct Nodes([Part; PARTS]);

/// Those of one hash.
#[derive(Debug, Default)]
struct Part {
    nodes: BTreeMap<Arc<str>, Other>,
    /// They as they are told; none once one has changed.
    told: Option<Vec<Arc<Others>>>,
}

impl Router {
    /// Waits until news up to a revision have been handed out. False: it took too long.
    pub(super) async fn wait_for(&self, revision: Revision, bound: Duration) -> bool {
        let mut seen = self.revision.subscribe();
        tokio::time::timeout(bound, seen.wait_for(|seen| *seen >= revision)).await.is_ok_and(|r| r.is_ok())
    }

    /// The inbox of a node's session, and all nodes as the others see them. The inbox ends when it is too full.
    pub(super) fn subscribe(&self, node: &str) -> (mpsc::Receiver<News>, Vec<Arc<Others>>) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let mut inner = self.inner.lock();
        let inboxes = inner.inboxes.entry(node.to_owned()).or_default();
        inboxes.retain(|inbox| !inbox.is_closed());
        inboxes.push(sender);
        (inbox, inner.nodes.told())
    }

    /// Forgets the inboxes of a node whose sessions are over.
    pub(super) fn tidy(&self, node: &str) {
        let mut inner = self.inner.lock();
        if let Some(inboxes) = inner.inboxes.get_mut(node) {
            inboxes.retain(|inbox| !inbox.is_closed());
            if inboxes.is_empty() {
                inner.inboxes.remove(node);
            }
        }
    }

    /// Follows the cache until `stop` is cancelled.
    pub(super) async fn run(self: Arc<Self>, cache: Arc<Cache>, stop: CancellationToken) {
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.follow(&cache) => ended,
            };
            tracing::warn!(?ended, "the nodes' inboxes fell behind the cache: all sessions begin anew");
        }
    }

    async fn follow(&self, cache: &Arc<Cache>) -> Result<(), Expired> {
        // Before the first list there is nothing to follow.
        while !cache.wait_for(Revision(1), FIRST_LIST).await {}
        let revision = cache.revision();
        let mut watch = cache.watch(None, revision)?;
        let mut nodes = Nodes::default();
        for node in cache.list(&NODES, None).0 {
            nodes.put(other(&node));
        }
        // Whoever subscribed before this watch began may have missed something.
        *self.inner.lock() = Inner { nodes, ..Inner::default() };
        self.revision.send_replace(revision);
        let mut collected_until = None;
        loop {
            let collects = async {
                match collected_until {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let changes = tokio::select! {
                changes = watch.next() => Some(changes?),
                () = collects => None,
            };
            let mut inner = self.inner.lock();
            match &changes {
                Some(changes) => changes.iter().for_each(|change| inner.hand_out(change)),
                None => inner.tell_collected(),
            }
            collected_until = match collected_until {
                _ if inner.collected.is_empty() => None,
                None => Some(tokio::time::Instant::now() + COLLECT),
                soon => soon,
            };
            drop(inner);
            self.revision.send_replace(watch.seen());
        }
    }
}

impl Inner {
    fn hand_out(&mut self, change: &Arc<Change>) {
        let kind = change.object().key.kind;
        if *kind == PODS {
            let nodes = match &**change {
                Change::Put { new, old } => [Some(new), old.as_ref()],
                Change::Delete { old, .. } => [Some(old), None],
            };
            let mut names: Vec<&str> =
                nodes.into_iter().flatten().filter_map(|pod| pod.node_name.as_deref()).collect();
            names.dedup();
            for name in names {
                self.tell(name, &News::Change(Arc::clone(change)));
            }
        } else if *kind == NODES {
            self.node(change);
        } else if *kind == ENDPOINTS {
            if !references::is_kept(change.object()) {
                self.tell_all(&News::Change(Arc::clone(change)));
            }
        } else if [
            &SERVICES,
            &ENDPOINT_SLICES,
            &PERSISTENT_VOLUMES,
            &PERSISTENT_VOLUME_CLAIMS,
            &CONFIG_MAPS,
            &SECRETS,
            &RUNTIME_CLASSES,
        ]
        .contains(&kind)
        {
            self.tell_all(&News::Change(Arc::clone(change)));
        }
    }

    fn node(&mut self, change: &Arc<Change>) {
        let name = change.object().key.name.clone();
        self.tell(&name, &News::Change(Arc::clone(change)));
        let now = match &**change {
            Change::Put { new, .. } => other(new),
            Change::Delete { revision, .. } => {
                Other { name: name.as_str().into(), revision: *revision, object: None }
            }
        };
        if self.nodes.put(now.clone()) {
            self.collected.insert(Arc::clone(&now.name), now);
        }
    }

    /// All are told of the nodes that have changed.
    fn tell_collected(&mut self) {
        for others in Others::of(std::mem::take(&mut self.collected).into_values()) {
            self.tell_all(&News::Nodes(others));
        }
    }

    fn tell(&mut self, node: &str, news: &News) {
        if let Some(inboxes) = self.inboxes.get_mut(node) {
            // One that is full or left is dropped: its session ends.
            inboxes.retain(|inbox| inbox.try_send(news.clone()).is_ok());
        }
    }

    fn tell_all(&mut self, news: &News) {
        for inboxes in self.inboxes.values_mut() {
            inboxes.retain(|inbox| inbox.try_send(news.clone()).is_ok());
        }
    }
}

impl Default for Nodes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Part::default()))
    }
}

impl Nodes {
    /// Notes how a node is now; false if the others see no difference.
    fn put(&mut self, node: Other) -> bool {
        let mut hasher = DefaultHasher::new();
        node.name.hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % PARTS as u64).unwrap_or_default();
        let Some(part) = self.0.get_mut(place) else { return false };
        let before = part.nodes.get(&node.name).and_then(|known| known.object.as_ref());
        if before == node.object.as_ref() {
            return false;
        }
        part.told = None;
        match node.object {
            Some(_) => drop(part.nodes.insert(Arc::clone(&node.name), node)),
            None => drop(part.nodes.remove(&node.name)),
        }
        true
    }

    /// All of them, for a session that begins.
    fn told(&mut self) -> Vec<Arc<Others>> {
        let told = |part: &mut Part| {
            let nodes = &part.nodes;
            part.told.get_or_insert_with(|| Others::of(nodes.values().cloned())).clone()
        };
        self.0.iter_mut().flat_map(told).collect()
    }
}

impl Others {
    /// Nodes in messages of a bounded length.
    fn of(nodes: impl Iterator<Item = Other>) -> Vec<Arc<Self>> {
        let mut all: Vec<Arc<Self>> = Vec::new();
        let mut message = node::Others::default();
        let (mut those, mut length) = (Vec::new(), 0);
        let mut nodes = nodes.peekable();
        while let Some(other) = nodes.next() {
            length += other.object.as_ref().map_or(0, Bytes::len);
            message.nodes.push(OtherNode {
                name: other.name.to_string(),
                revision: other.revision.0,
                object: other.object.clone().unwrap_or_default(),
            });
            those.push(other);
            if length >= LONGEST || nodes.peek().is_none() {
                let packed = block::compress_prepend_size(&message.encode_to_vec()).into();
                all.push(Arc::new(Self { nodes: std::mem::take(&mut those), packed }));
                message.nodes.clear();
                length = 0;
            }
        }
        all
    }
}

/// What others need of a node: who and where it is, and which pods' addresses are its own.
fn other(node: &Object) -> Other {
    let value = node.value();
    let pick = |from: &Value, fields: &[&str]| -> Value {
        let present = fields.iter().filter(|field| !from[**field].is_null());
        present
            .map(|field| ((*field).to_owned(), from[*field].clone()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": pick(&value["metadata"], &["name", "uid", "labels", "annotations"]),
        "spec": pick(&value["spec"], &["podCIDR", "podCIDRs"]),
        "status": pick(&value["status"], &["addresses"]),
    });
    Other {
        name: node.key.name.as_str().into(),
        revision: node.revision,
        object: Some(object.to_string().into()),
    }
}

#[cfg(test)]
mod tests;
