//! Who has to hear of a change: found once for all nodes, each of which is told only of what it needs. Else every change would wake
//! every session, and with thousands of nodes most of what the control plane does would be looking away.
//!
//! In: the cache's changes. Out: an inbox for each session. Of other nodes, a node hears what it needs to reach them, and only when
//! that changes: that they are alive is said every few seconds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oarlock_api::catalogue::{
    CONFIG_MAPS, ENDPOINT_SLICES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, RUNTIME_CLASSES,
    SECRETS, SERVICES,
};
use oarlock_store::Revision;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Change, Expired, Object};

/// News that wait for one session. One that is so far behind begins anew.
const INBOX: usize = 20_000;
/// How often it is looked whether the cache was filled.
const FIRST_LIST: Duration = Duration::from_secs(60);

/// Something that a node has to hear of.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// An object that it may need, or its own node.
    Change(Arc<Change>),
    /// Another node.
    Node(Other),
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
    nodes: BTreeMap<String, Other>,
}

impl Router {
    /// Waits until news up to a revision have been handed out. False: it took too long.
    pub(super) async fn wait_for(&self, revision: Revision, bound: Duration) -> bool {
        let mut seen = self.revision.subscribe();
        tokio::time::timeout(bound, seen.wait_for(|seen| *seen >= revision)).await.is_ok_and(|r| r.is_ok())
    }

    /// The inbox of a node's session, and all nodes as the others see them. The inbox ends when it is too full.
    pub(super) fn subscribe(&self, node: &str) -> (mpsc::Receiver<News>, Vec<Other>) {
        let (sender, inbox) = mpsc::channel(INBOX);
        let mut inner = self.inner.lock();
        let inboxes = inner.inboxes.entry(node.to_owned()).or_default();
        inboxes.retain(|inbox| !inbox.is_closed());
        inboxes.push(sender);
        (inbox, inner.nodes.values().cloned().collect())
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
        let nodes =
            cache.list(&NODES, None).0.iter().map(|node| (node.key.name.clone(), other(node))).collect();
        // Whoever subscribed before this watch began may have missed something.
        *self.inner.lock() = Inner { inboxes: HashMap::new(), nodes };
        self.revision.send_replace(revision);
        loop {
            let changes = watch.next().await?;
            let mut inner = self.inner.lock();
            for change in &changes {
                inner.hand_out(change);
            }
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
            self.tell_all(None, &News::Change(Arc::clone(change)));
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
        let before = self.nodes.get(&name).and_then(|known| known.object.as_ref());
        if before == now.object.as_ref() {
            return;
        }
        match now.object {
            Some(_) => drop(self.nodes.insert(name.clone(), now.clone())),
            None => drop(self.nodes.remove(&name)),
        }
        self.tell_all(Some(&name), &News::Node(now));
    }

    fn tell(&mut self, node: &str, news: &News) {
        if let Some(inboxes) = self.inboxes.get_mut(node) {
            // One that is full or left is dropped: its session ends.
            inboxes.retain(|inbox| inbox.try_send(news.clone()).is_ok());
        }
    }

    fn tell_all(&mut self, but: Option<&str>, news: &News) {
        for (node, inboxes) in &mut self.inboxes {
            if but != Some(node.as_str()) {
                inboxes.retain(|inbox| inbox.try_send(news.clone()).is_ok());
            }
        }
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
