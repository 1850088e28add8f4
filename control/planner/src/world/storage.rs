//! Which volumes and claims belong to each other, found without looking at all of them.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_api::storage;
use serde_json::Value;

use super::Key;

/// Indexes over volumes, claims and the pods that use them.
#[derive(Debug, Default)]
pub(super) struct Storage {
    /// Pods by the claims that they use.
    pods: BTreeMap<Key, BTreeSet<Key>>,
    /// Volumes by the claim that they name.
    volumes: BTreeMap<Key, BTreeSet<String>>,
    /// Volumes that name no claim, by class.
    free: BTreeMap<String, BTreeSet<String>>,
    /// Claims that name no volume, by class.
    open: BTreeMap<String, BTreeSet<Key>>,
    /// Directories that were provisioned, by node.
    local: BTreeMap<String, BTreeSet<String>>,
}

fn insert<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V) {
    map.entry(key).or_default().insert(value);
}

fn remove<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}

/// The claim that a volume names.
pub(crate) fn claim_of(volume: &Value) -> Option<Key> {
    let claim = &volume["spec"]["claimRef"];
    Some((claim["namespace"].as_str()?.to_owned(), claim["name"].as_str()?.to_owned()))
}

fn has_volume(claim: &Value) -> bool {
    claim["spec"]["volumeName"].as_str().is_some_and(|name| !name.is_empty())
}

impl Storage {
    pub(super) fn put_volume(&mut self, name: &str, volume: &Value) {
        match claim_of(volume) {
            Some(claim) => insert(&mut self.volumes, claim, name.to_owned()),
            None => insert(&mut self.free, storage::class_name(volume).to_owned(), name.to_owned()),
        }
        if let Some(node) = storage::local_node(volume) {
            insert(&mut self.local, node.to_owned(), name.to_owned());
        }
    }

    pub(super) fn forget_volume(&mut self, name: &str, volume: &Value) {
        let name = name.to_owned();
        match claim_of(volume) {
            Some(claim) => remove(&mut self.volumes, &claim, &name),
            None => remove(&mut self.free, &storage::class_name(volume).to_owned(), &name),
        }
        if let Some(node) = storage::local_node(volume) {
            remove(&mut self.local, &node.to_owned(), &name);
        }
    }

    pub(super) fn put_claim(&mut self, key: &Key, claim: &Value) {
        if !has_volume(claim) {
            insert(&mut self.open, storage::class_name(claim).to_owned(), key.clone());
        }
    }

    pub(super) fn forget_claim(&mut self, key: &Key, claim: &Value) {
        if !has_volume(claim) {
            remove(&mut self.open, &storage::class_name(claim).to_owned(), key);
        }
    }

    pub(super) fn put_pod(&mut self, pod: &Key, claims: &[Box<str>]) {
        for claim in claims {
            insert(&mut self.pods, (pod.0.clone(), claim.to_string()), pod.clone());
        }
    }

    pub(super) fn forget_pod(&mut self, pod: &Key, claims: &[Box<str>]) {
        for claim in claims {
            remove(&mut self.pods, &(pod.0.clone(), claim.to_string()), pod);
        }
    }
}

impl super::World {
    /// The pods that use a claim.
    pub(crate) fn pods_with_claim(&self, claim: &Key) -> impl Iterator<Item = (&Key, &super::PodView)> {
        let keys = self.storage.pods.get(claim).into_iter().flatten();
        keys.filter_map(|key| Some((key, self.pod(key)?)))
    }

    /// The names of the volumes that name a claim.
    pub(crate) fn volumes_of(&self, claim: &Key) -> impl Iterator<Item = &String> {
        self.storage.volumes.get(claim).into_iter().flatten()
    }

    /// The names of the volumes of a class that name no claim.
    pub(crate) fn free_volumes(&self, class: &str) -> impl Iterator<Item = &String> {
        self.storage.free.get(class).into_iter().flatten()
    }

    /// The claims of a class that name no volume.
    pub(crate) fn open_claims(&self, class: &str) -> impl Iterator<Item = &Key> {
        self.storage.open.get(class).into_iter().flatten()
    }

    /// The names of the directories that were provisioned on a node.
    pub(crate) fn local_volumes(&self, node: &str) -> impl Iterator<Item = &String> {
        self.storage.local.get(node).into_iter().flatten()
    }
}
