//! What all controllers of pods share: whose a pod is, taking in orphans that fit, letting go of pods that do not.
//!
//! Source: k8s.io/kubernetes/pkg/controller/controller_ref_manager.go.

use oarlock_api::catalogue::{Kind, PODS};
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

use super::template::owner_reference;
use crate::change::{Change, Part};
use crate::world::{Key, PodView, World};

/// The objects of a kind that a change of a pod concerns: its owner, or whoever may adopt it.
pub(super) fn owners(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    let Some(pod) = world.pod(key) else { return Vec::new() };
    if let Some(owner) = &pod.controller {
        let owner = world.by_uid(owner).filter(|(k, _)| **k == *kind);
        return owner.map(|(_, key)| key.clone()).into_iter().collect();
    }
    let all = world.list_in(kind, &key.0);
    all.filter(|(_, owner)| selector(&owner.value).is_some_and(|s| s.matches_with(|k| pod.label(k))))
        .map(|(k, _)| k.clone())
        .collect()
}

/// An object's selector; none that would select every pod.
pub(super) fn selector(owner: &Value) -> Option<Selector> {
    Selector::of_workload(owner).ok().flatten().filter(|s| !s.is_everything())
}

/// Takes in orphans that fit, lets go of own pods that do not.
pub(super) fn claim(world: &World, key: &Key, owner: &Value, selector: &Selector) -> Vec<Change> {
    claim_if(world, key, owner, |_, view| selector.matches_with(|k| view.label(k)))
}

/// As [`claim`], where more than labels decide who fits.
pub(super) fn claim_if(
    world: &World,
    key: &Key,
    owner: &Value,
    fits: impl Fn(&Key, &PodView) -> bool,
) -> Vec<Change> {
    let patch = |pod: &Key, view: &PodView, owners: Value| Change::Patch {
        kind: &PODS,
        namespace: pod.0.clone(),
        name: pod.1.clone(),
        part: Part::Main,
        patch: json!({"metadata": {"uid": view.uid, "resourceVersion": view.revision.to_string(), "ownerReferences": owners}}),
    };
    let mut changes = Vec::new();
    if !meta::is_terminating(owner) {
        for (pod, view) in world.orphans_in(&key.0) {
            if view.is_active() && fits(pod, view) {
                changes.push(patch(pod, view, json!([owner_reference(owner)])));
            }
        }
    }
    for (pod, view) in world.pods_of(meta::uid(owner)) {
        if view.owners.len() == 1 && !view.is_terminating() && !fits(pod, view) {
            changes.push(patch(pod, view, Value::Null));
        }
    }
    changes
}

/// The deletion of a pod, with the grace that it asked for.
pub(super) fn delete(key: &Key, view: &PodView) -> Change {
    Change::Delete {
        kind: &PODS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: view.uid.to_string(),
        grace: None,
    }
}
