//! The world as controllers see it: slim views of pods and nodes, shared values of the rest, indexes by owner and node.
//!
//! Kept up to date change by change; the cost of a change does not depend on the size of the cluster.

mod answers;
mod events;
mod heard;
mod memory;
mod placement;
mod rules;
mod storage;
mod usage;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{
    ENDPOINT_SLICES, EVENTS, HORIZONTAL_POD_AUTOSCALERS, Kind, LEASES, NAMESPACES, NODES,
    PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS,
};
use oarlock_api::meta;
use serde_json::{Value, json};

pub use answers::{Answer, Answers, MetricsApi, Query, Sample, samples};
pub use memory::Memory;
pub(crate) use placement::{Count, HOSTNAME, Placement, Slot, Term, Topology, Used, ZONE};
pub(crate) use rules::Spread;
pub(crate) use storage::claim_of;
pub use usage::{ContainerUsage, PodUsage, Usage, is_fresh};
pub(crate) use views::{INDEX_ANNOTATION, Taint, is_known};
pub use views::{NodeView, PodView};

/// The namespace of the nodes' Leases.
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Namespace and name; the namespace is empty for kinds of the cluster.
pub type Key = (String, String);

/// An object that is held whole.
#[derive(Debug, Clone)]
pub struct Held {
    /// The object.
    pub value: Arc<Value>,
    /// The revision that wrote it.
    pub revision: u64,
}

/// Everything that controllers look at.
#[derive(Debug, Default)]
pub struct World {
    /// Boxed: a node of such a tree has room for eleven, of which it uses seven or eight.
    pods: BTreeMap<Key, Box<PodView>>,
    pods_by_node: BTreeMap<String, BTreeSet<Key>>,
    pods_by_owner: BTreeMap<String, BTreeSet<Key>>,
    /// Those that nobody owns, whom a controller may take in.
    orphans: BTreeSet<Key>,
    pending: BTreeSet<Key>,
    /// Of those, the ones that were told that they fit nowhere.
    unschedulable: BTreeSet<Key>,
    /// The pod that was deleted last, and its node.
    vacated: Option<(Key, Box<str>)>,
    placement: Placement,
    nodes: BTreeMap<String, Arc<NodeView>>,
    /// Since when nodes are missed that are gone and have pods.
    missed: BTreeMap<String, Timestamp>,
    objects: BTreeMap<(&'static str, &'static str), BTreeMap<Key, Held>>,
    owners: BTreeMap<String, (&'static Kind, Key)>,
    dependents: BTreeMap<String, BTreeSet<(&'static str, &'static str, Key)>>,
    /// The object that went last, and its uid, if it has left dependents.
    bereaved: Option<(&'static Kind, Key, String)>,
    /// EndpointSlices by namespace and Service.
    slices: BTreeMap<Key, BTreeSet<Key>>,
    storage: storage::Storage,
    heard: heard::Heard,
    events: events::Events,
    usage: Usage,
    /// What autoscalers remember.
    memories: BTreeMap<Key, Memory>,
    /// What autoscalers were told by others.
    answers: BTreeMap<Key, Answers>,
    revision: u64,
}

/// The Service that a slice belongs to.
fn service_of(key: &Key, slice: &Value) -> Option<Key> {
    let name = slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str()?;
    Some((key.0.clone(), name.to_owned()))
}

fn labels_of(object: &Value) -> BTreeMap<Box<str>, Box<str>> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or("").into())).collect()
}

/// Of an event with owners or finalizers, or one that is being deleted: what every object is asked. Of others nothing is, see [`events`].
fn slim_event(event: &Value) -> Option<Value> {
    let pick = |from: &Value, fields: &[&str]| -> serde_json::Map<String, Value> {
        let present = fields.iter().filter(|field| !from[**field].is_null());
        present.map(|field| ((*field).to_owned(), from[*field].clone())).collect()
    };
    let mut metadata = pick(&event["metadata"], &["deletionTimestamp", "finalizers", "ownerReferences"]);
    if metadata.is_empty() {
        return None;
    }
    metadata.insert("uid".to_owned(), meta::uid(event).into());
    Some(json!({"metadata": metadata}))
}

fn table(kind: &Kind) -> (&'static str, &'static str) {
    (kind.group, kind.plural)
}

impl World {
    /// The revision up to which changes were applied.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// An object was created or changed.
    pub fn put(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        value: &Arc<Value>,
        revision: u64,
    ) {
        let key = (namespace.to_owned(), name.to_owned());
        let known = if *kind == NODES { self.nodes.get(name).cloned() } else { None };
        self.forget(kind, &key);
        self.revision = self.revision.max(revision);
        let uid = meta::uid(value).to_owned();
        // It is there still, unless another one has its name now.
        self.bereaved.take_if(|(_, _, gone)| *gone == uid);
        for owner in meta::owner_references(value) {
            if let Some(owner) = owner["uid"].as_str() {
                let (group, plural) = table(kind);
                self.dependents.entry(owner.to_owned()).or_default().insert((group, plural, key.clone()));
            }
        }
        // Events own nothing, and there are more of them than of anything else.
        if *kind != EVENTS {
            self.owners.insert(uid, (kind, key.clone()));
        }
        if *kind == PODS {
            self.put_pod(key, PodView::read(value, revision));
        } else {
            if *kind == NODES {
                let mut node = NodeView::read(value);
                node.moved = known.as_ref().is_none_or(|known| known.zone() != node.zone());
                node.opened = known.is_none_or(|known| !known.offers_the_same(&node));
                let node = Arc::new(node);
                self.placement.put_node(&node, Some(value));
                self.nodes.insert(name.to_owned(), node);
                self.missed.remove(name);
            }
            if *kind == NAMESPACES {
                self.placement.crowd.name_space(name, labels_of(value));
            }
            if *kind == ENDPOINT_SLICES
                && let Some(service) = service_of(&key, value)
            {
                self.slices.entry(service).or_default().insert(key.clone());
            }
            if *kind == PERSISTENT_VOLUMES {
                self.storage.put_volume(name, value);
            }
            if *kind == PERSISTENT_VOLUME_CLAIMS {
                self.storage.put_claim(&key, value);
            }
            let value = if *kind == EVENTS {
                self.events.put(&key, value);
                let Some(slim) = slim_event(value) else { return };
                Arc::new(slim)
            } else {
                Arc::clone(value)
            };
            let held = Held { value, revision };
            self.objects.entry(table(kind)).or_default().insert(key.clone(), held);
            self.hear(kind, &key);
        }
    }

    /// Keeps when a node was heard of last: by its Lease or, before the first one, by its creation.
    fn hear(&mut self, kind: &Kind, key: &Key) {
        if *kind != NODES && (*kind != LEASES || key.0 != LEASE_NAMESPACE) {
            return;
        }
        let node = self.get(&NODES, &(String::new(), key.1.clone()));
        // What does not parse is not held against it.
        let heard =
            node.map(|node| self.last_heard(&key.1, &node.value).map_or(i64::MAX, Timestamp::as_second));
        self.heard.set(&key.1, heard);
    }

    /// When a node was heard of last.
    pub(crate) fn last_heard(&self, name: &str, node: &Value) -> Option<Timestamp> {
        let lease = self.get(&LEASES, &(LEASE_NAMESPACE.to_owned(), name.to_owned()));
        let renewed = lease.and_then(|lease| meta::parse_time(lease.value["spec"]["renewTime"].as_str()?));
        renewed.or_else(|| meta::parse_time(meta::text(node, "creationTimestamp")))
    }

    /// When nodes were heard of last.
    pub(crate) fn heard(&self) -> &heard::Heard {
        &self.heard
    }

    /// An object is gone.
    pub fn delete(&mut self, kind: &'static Kind, namespace: &str, name: &str, revision: u64) {
        let key = (namespace.to_owned(), name.to_owned());
        if *kind == PODS {
            let node = self.pods.get(&key).and_then(|pod| pod.node.clone());
            self.vacated = node.map(|node| (key.clone(), node));
        }
        self.forget(kind, &key);
        self.hear(kind, &key);
        if let (true, Some((_, node))) = (*kind == PODS, &self.vacated)
            && !self.pods_by_node.contains_key(&**node)
        {
            self.missed.remove(&**node);
        }
        if *kind == NODES {
            self.placement.remove_node(name);
        }
        if *kind == NAMESPACES {
            self.placement.crowd.name_space(name, BTreeMap::new());
        }
        if *kind == HORIZONTAL_POD_AUTOSCALERS {
            self.memories.remove(&key);
            self.answers.remove(&key);
        }
        self.revision = self.revision.max(revision);
    }

    /// What pods use now, as far as their nodes have said.
    pub fn set_usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// What a pod uses.
    #[must_use]
    pub fn usage(&self, namespace: &str, name: &str) -> Option<&PodUsage> {
        self.usage.get(&(namespace.to_owned(), name.to_owned())).map(AsRef::as_ref)
    }

    /// Keeps what an autoscaler was told of metrics that others serve.
    pub fn tell(&mut self, key: Key, answers: Answers) {
        self.answers.insert(key, answers);
    }

    /// What an autoscaler was told last.
    #[must_use]
    pub fn answers(&self, key: &Key) -> Option<&Answers> {
        self.answers.get(key)
    }

    /// Keeps what an autoscaler has to remember.
    pub fn remember(&mut self, key: Key, memory: Memory) {
        self.memories.insert(key, memory);
    }

    /// Keeps since when a node is missed: who misses it first says it.
    pub fn miss(&mut self, node: &str, since: Timestamp) {
        self.missed.entry(node.to_owned()).or_insert(since);
    }

    /// Since when a node is missed that has pods; none: nobody has looked yet.
    #[must_use]
    pub fn missed_since(&self, node: &str) -> Option<Timestamp> {
        self.missed.get(node).copied()
    }

    /// What an autoscaler remembers.
    #[must_use]
    pub fn memory(&self, key: &Key) -> Option<&Memory> {
        self.memories.get(key)
    }

    fn forget(&mut self, kind: &'static Kind, key: &Key) {
        self.bereaved = None;
        let (uid, owners) = if *kind == PODS {
            let Some(pod) = self.take_pod(key) else { return };
            (pod.uid.to_string(), pod.owners)
        } else {
            if *kind == NODES {
                self.nodes.remove(&key.1);
            }
            if *kind == EVENTS {
                self.events.remove(key);
            }
            let Some(held) = self.objects.get_mut(&table(kind)).and_then(|t| t.remove(key)) else { return };
            if *kind == ENDPOINT_SLICES {
                self.forget_slice(key, &held.value);
            }
            if *kind == PERSISTENT_VOLUMES {
                self.storage.forget_volume(&key.1, &held.value);
            }
            if *kind == PERSISTENT_VOLUME_CLAIMS {
                self.storage.forget_claim(key, &held.value);
            }
            let owners =
                meta::owner_references(&held.value).iter().filter_map(|o| o["uid"].as_str().map(Box::from));
            (meta::uid(&held.value).to_owned(), owners.collect())
        };
        self.owners.remove(&uid);
        for owner in owners {
            if let Some(set) = self.dependents.get_mut(&*owner) {
                let (group, plural) = table(kind);
                set.remove(&(group, plural, key.clone()));
                if set.is_empty() {
                    self.dependents.remove(&*owner);
                }
            }
        }
        self.bereaved = self.dependents.contains_key(&uid).then(|| (kind, key.clone(), uid));
    }

    fn forget_slice(&mut self, key: &Key, slice: &Value) {
        let Some(service) = service_of(key, slice) else { return };
        if let Some(set) = self.slices.get_mut(&service) {
            set.remove(key);
            if set.is_empty() {
                self.slices.remove(&service);
            }
        }
    }

    fn put_pod(&mut self, key: Key, mut pod: PodView) {
        self.share(&mut pod);
        self.placement.add(&key, &pod);
        self.storage.put_pod(&key, &pod.claims);
        if pod.owners.is_empty() {
            self.orphans.insert(key.clone());
        }
        if let Some(owner) = &pod.controller {
            self.pods_by_owner.entry(owner.to_string()).or_default().insert(key.clone());
        }
        match &pod.node {
            Some(node) => drop(self.pods_by_node.entry(node.to_string()).or_default().insert(key.clone())),
            None if !pod.is_terminating() => {
                self.pending.insert(key.clone());
                if pod.unschedulable.is_some() && !pod.gated {
                    self.unschedulable.insert(key.clone());
                }
            }
            None => {}
        }
        self.pods.insert(key, Box::new(pod));
    }

    /// Pods of one controller have the same labels, tolerations and rules, which are held once.
    fn share(&self, pod: &mut PodView) {
        let Some(controller) = &pod.controller else { return };
        let Some((_, sibling)) = self.pods_of(controller).next() else { return };
        if pod.labels == sibling.labels {
            pod.labels = Arc::clone(&sibling.labels);
        }
        if pod.tolerations == sibling.tolerations {
            pod.tolerations = Arc::clone(&sibling.tolerations);
        }
        if pod.rules == sibling.rules {
            pod.rules.clone_from(&sibling.rules);
        }
    }

    fn take_pod(&mut self, key: &Key) -> Option<PodView> {
        let pod = self.pods.remove(key)?;
        self.storage.forget_pod(key, &pod.claims);
        self.placement.remove(key, &pod);
        self.orphans.remove(key);
        self.pending.remove(key);
        self.unschedulable.remove(key);
        for (index, name) in [(&mut self.pods_by_owner, &pod.controller), (&mut self.pods_by_node, &pod.node)]
        {
            if let Some(name) = name
                && let Some(set) = index.get_mut(&**name)
            {
                set.remove(key);
                if set.is_empty() {
                    index.remove(&**name);
                }
            }
        }
        Some(*pod)
    }

    /// Counts a pod on a node before the store says so: the scheduler's decision is on its way.
    pub fn assume(&mut self, key: &Key, node: &str) {
        if let Some(mut pod) = self.take_pod(key) {
            pod.node = Some(node.into());
            self.put_pod(key.clone(), pod);
        }
    }

    /// Counts ranges of pod addresses as a node's before the store says so.
    pub fn assume_pod_cidrs(&mut self, node: &str, ranges: Vec<Box<str>>) {
        if let Some(node) = self.nodes.get_mut(node) {
            Arc::make_mut(node).pod_cidrs = ranges;
            self.placement.put_node(node, None);
        }
    }

    /// One pod.
    #[must_use]
    pub fn pod(&self, key: &Key) -> Option<&PodView> {
        self.pods.get(key).map(AsRef::as_ref)
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = (&Key, &PodView)> {
        self.pods.iter().map(|(key, pod)| (key, &**pod))
    }

    /// The pods of a namespace.
    pub fn pods_in<'w>(&'w self, namespace: &str) -> impl Iterator<Item = (&'w Key, &'w PodView)> {
        let namespace = namespace.to_owned();
        let range = self.pods.range((namespace.clone(), String::new())..);
        range.take_while(move |((n, _), _)| *n == namespace).map(|(key, pod)| (key, &**pod))
    }

    /// The pods of a namespace that nobody owns.
    pub fn orphans_in<'w>(&'w self, namespace: &str) -> impl Iterator<Item = (&'w Key, &'w PodView)> {
        let namespace = namespace.to_owned();
        let all = self.orphans.range((namespace.clone(), String::new())..);
        let keys = all.take_while(move |(n, _)| *n == namespace);
        keys.filter_map(|key| Some((key, self.pod(key)?)))
    }

    /// The pods that an object controls.
    pub fn pods_of(&self, owner_uid: &str) -> impl Iterator<Item = (&Key, &PodView)> {
        let keys = self.pods_by_owner.get(owner_uid).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.pod(key)?)))
    }

    /// The pods of a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = (&Key, &PodView)> {
        let keys = self.pods_by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.pod(key)?)))
    }

    /// The pods that no node has.
    pub fn pending(&self) -> impl Iterator<Item = &Key> {
        self.pending.iter()
    }

    /// Of those, the ones that were told that they fit nowhere.
    pub(crate) fn unschedulable(&self) -> impl Iterator<Item = (&Key, &PodView)> {
        self.unschedulable.iter().filter_map(|key| Some((key, self.pod(key)?)))
    }

    /// The node that a pod had, if it is the one that was deleted last.
    pub(crate) fn vacated(&self, key: &Key) -> Option<&str> {
        self.vacated.as_ref().filter(|(last, _)| last == key).map(|(_, node)| &**node)
    }

    /// Where there is room.
    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeView> {
        self.nodes.values().map(AsRef::as_ref)
    }

    /// One node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeView> {
        self.nodes.get(name).map(AsRef::as_ref)
    }

    /// Which events there are.
    pub(crate) fn events(&self) -> &events::Events {
        &self.events
    }

    /// One object of any kind but Pod. Events only when they have owners or finalizers, or are being deleted.
    #[must_use]
    pub fn get(&self, kind: &Kind, key: &Key) -> Option<&Held> {
        self.objects.get(&table(kind))?.get(key)
    }

    /// All objects of a kind but Pod, as [`World::get`].
    pub fn list(&self, kind: &Kind) -> impl Iterator<Item = (&Key, &Held)> {
        self.objects.get(&table(kind)).into_iter().flatten()
    }

    /// The objects of a kind but Pod in a namespace.
    pub fn list_in<'w>(&'w self, kind: &Kind, namespace: &str) -> impl Iterator<Item = (&'w Key, &'w Held)> {
        let namespace = namespace.to_owned();
        let start = (namespace.clone(), String::new());
        let range = self.objects.get(&table(kind)).map(|t| t.range(start..));
        range.into_iter().flatten().take_while(move |((n, _), _)| *n == namespace)
    }

    /// The EndpointSlices of a Service, by its label on them.
    pub fn slices_of(&self, service: &Key) -> impl Iterator<Item = (&Key, &Held)> {
        let keys = self.slices.get(service).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.get(&ENDPOINT_SLICES, key)?)))
    }

    /// The object with a uid.
    #[must_use]
    pub fn by_uid(&self, uid: &str) -> Option<&(&'static Kind, Key)> {
        self.owners.get(uid)
    }

    /// Everything that names an object as an owner: (group, plural, key).
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &(&'static str, &'static str, Key)> {
        self.dependents.get(uid).into_iter().flatten()
    }

    /// Everything that names as an owner what has just gone from this place.
    pub fn left_behind(
        &self,
        kind: &Kind,
        key: &Key,
    ) -> impl Iterator<Item = &(&'static str, &'static str, Key)> {
        let gone = self.bereaved.as_ref().filter(|(of, at, _)| **of == *kind && at == key);
        gone.into_iter().flat_map(|(_, _, uid)| self.dependents(uid))
    }
}
