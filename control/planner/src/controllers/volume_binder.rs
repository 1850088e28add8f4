//! Binds claims to volumes, one step a plan: the volume names the claim, then the claim the volume, then both say so. The first
//! step is a write at the version that was looked at, so that no volume is ever given twice.
//!
//! Source: k8s.io/kubernetes/pkg/controller/volume/persistentvolume.

mod claim;
mod provision;
mod volume;

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};
use oarlock_api::meta;
use oarlock_api::storage::{self, DEFAULT_CLASS};
use serde_json::{Value, json};

use super::Settings;
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{self, Held, Key, World};

const COMPONENT: &str = "persistentvolume-controller";

/// Keys are those of claims; without a namespace, those of volumes.
pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PERSISTENT_VOLUME_CLAIMS {
        return by_claim(world, key);
    }
    if *kind == PERSISTENT_VOLUMES {
        return by_volume(world, key);
    }
    if *kind == STORAGE_CLASSES {
        let class = world.get(&STORAGE_CLASSES, key);
        let default = class.is_some_and(|held| meta::annotation(&held.value, DEFAULT_CLASS) == Some("true"));
        let without = world.open_claims("").filter(|_| default);
        return world.open_claims(&key.1).chain(without).cloned().collect();
    }
    if *kind == NODES && world.node(&key.1).is_none() {
        return world.local_volumes(&key.1).map(|name| (String::new(), name.clone())).collect();
    }
    Vec::new()
}

fn by_claim(world: &World, key: &Key) -> Vec<Key> {
    let mut keys = vec![key.clone()];
    let named = world.get(&PERSISTENT_VOLUME_CLAIMS, key).and_then(|held| volume_name(&held.value));
    let named = named.map(str::to_owned).into_iter();
    keys.extend(world.volumes_of(key).cloned().chain(named).map(|name| (String::new(), name)));
    keys
}

fn by_volume(world: &World, key: &Key) -> Vec<Key> {
    let mut keys = vec![key.clone()];
    let Some(held) = world.get(&PERSISTENT_VOLUMES, key) else { return keys };
    match world::claim_of(&held.value) {
        Some(claim) => keys.push(claim),
        // Whoever waits may take it.
        None => keys.extend(world.open_claims(storage::class_name(&held.value)).cloned()),
    }
    keys
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let plan = |kind| world.get(kind, key);
    if key.0.is_empty() {
        plan(&PERSISTENT_VOLUMES).map_or_else(Plan::nothing, |held| volume::plan(world, key, held, now))
    } else {
        plan(&PERSISTENT_VOLUME_CLAIMS).map_or_else(Plan::nothing, |held| claim::plan(world, key, held))
    }
}

/// The volume that a claim names.
fn volume_name(claim: &Value) -> Option<&str> {
    claim["spec"]["volumeName"].as_str().filter(|name| !name.is_empty())
}

fn patch(kind: &'static Kind, key: &Key, held: &Held, part: Part, mut patch: Value) -> Change {
    patch["metadata"]["resourceVersion"] = json!(held.revision.to_string());
    Change::Patch { kind, namespace: key.0.clone(), name: key.1.clone(), part, patch }
}

fn event(
    kind: &'static Kind,
    key: &Key,
    object: &Value,
    (severity, reason): (&'static str, &'static str),
    message: impl Into<String>,
) -> Change {
    let about =
        EventAbout { kind, namespace: key.0.clone(), name: key.1.clone(), uid: meta::uid(object).to_owned() };
    Change::Event { about, kind: severity, reason, message: message.into(), component: COMPONENT }
}

/// Takes a finalizer away.
pub(super) fn without_finalizer(kind: &'static Kind, key: &Key, held: &Held, finalizer: &str) -> Change {
    let left: Vec<&str> = meta::finalizers(&held.value).filter(|f| *f != finalizer).collect();
    patch(kind, key, held, Part::Main, json!({"metadata": {"finalizers": left}}))
}

#[cfg(test)]
mod tests;
