//! Garbage: what outlived its owners goes; owners that wait for their dependents or let them go are freed.
//!
//! Keys are (`group/plural/namespace`, name): every kind takes part.

use jiff::Timestamp;
use oarlock_api::catalogue::{KINDS, Kind, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::Settings;
use crate::change::{Change, Part, Plan};
use crate::world::{Key, World};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

fn coded(group: &str, plural: &str, key: &Key) -> Key {
    (format!("{group}/{plural}/{}", key.0), key.1.clone())
}

fn decoded(key: &Key) -> Option<(&'static Kind, Key)> {
    let mut parts = key.0.splitn(3, '/');
    let (group, plural, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    let kind = KINDS.iter().copied().find(|k| k.group == group && k.plural == plural)?;
    Some((kind, (namespace.to_owned(), key.1.clone())))
}

/// What garbage collection has to know of an object.
struct Facts {
    uid: String,
    owners: Vec<String>,
    finalizers: Vec<String>,
    terminating: bool,
    revision: u64,
}

fn facts(world: &World, kind: &Kind, key: &Key) -> Option<Facts> {
    if *kind == PODS {
        let pod = world.pod(key)?;
        return Some(Facts {
            uid: pod.uid.to_string(),
            owners: pod.owners.iter().map(ToString::to_string).collect(),
            finalizers: pod.finalizers.iter().map(ToString::to_string).collect(),
            terminating: pod.is_terminating(),
            revision: pod.revision,
        });
    }
    let held = world.get(kind, key)?;
    let owners =
        meta::owner_references(&held.value).iter().filter_map(|o| o["uid"].as_str().map(str::to_owned));
    Some(Facts {
        uid: meta::uid(&held.value).to_owned(),
        owners: owners.collect(),
        finalizers: meta::finalizers(&held.value).map(str::to_owned).collect(),
        terminating: meta::is_terminating(&held.value),
        revision: held.revision,
    })
}

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    let Some(facts) = facts(world, kind, key) else { return Vec::new() };
    let mut keys = Vec::new();
    if !facts.owners.is_empty() || facts.terminating {
        keys.push(coded(kind.group, kind.plural, key));
    }
    keys.extend(world.dependents(&facts.uid).map(|(group, plural, key)| coded(group, plural, key)));
    // Owners that wait for this one.
    for (kind, key) in facts.owners.iter().filter_map(|uid| world.by_uid(uid)) {
        keys.push(coded(kind.group, kind.plural, key));
    }
    keys
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some((kind, key)) = decoded(key) else { return Plan::nothing() };
    let Some(facts) = facts(world, kind, &key) else { return Plan::nothing() };
    if facts.terminating {
        return Plan::of(finish(world, kind, &key, &facts));
    }
    if facts.owners.is_empty() {
        return Plan::nothing();
    }
    let alive = |uid: &String| {
        world
            .by_uid(uid)
            .and_then(|(kind, key)| self::facts(world, kind, key))
            .is_some_and(|owner| !(owner.terminating && owner.finalizers.iter().any(|f| f == FOREGROUND)))
    };
    // As long as one owner lives and is not waiting for us, so do we.
    if facts.owners.iter().any(alive) {
        return Plan::nothing();
    }
    Plan::of(vec![Change::Delete { kind, namespace: key.0, name: key.1, uid: facts.uid, grace: None }])
}

/// An object that is being deleted: let its dependents go, or wait until they are gone.
fn finish(world: &World, kind: &'static Kind, key: &Key, facts: &Facts) -> Vec<Change> {
    let has = |finalizer: &str| facts.finalizers.iter().any(|f| f == finalizer);
    let dependents: Vec<(&'static Kind, Key)> = world
        .dependents(&facts.uid)
        .filter_map(|(group, plural, key)| decoded(&coded(group, plural, key)))
        .collect();
    if has(ORPHAN) {
        let mut changes: Vec<Change> =
            dependents.iter().filter_map(|(kind, key)| disown(world, kind, key, &facts.uid)).collect();
        if changes.is_empty() {
            changes.push(drop_finalizer(kind, key, facts, ORPHAN));
        }
        return changes;
    }
    if has(FOREGROUND) && dependents.is_empty() {
        return vec![drop_finalizer(kind, key, facts, FOREGROUND)];
    }
    Vec::new()
}

fn disown(world: &World, kind: &'static Kind, key: &Key, owner: &str) -> Option<Change> {
    let (owners, revision): (Value, u64) = if *kind == PODS {
        // A slim pod does not hold its references whole; a pod with several owners keeps to its collector's next turn.
        let pod = world.pod(key)?;
        (Value::Null, if pod.owners.len() == 1 { pod.revision } else { return None })
    } else {
        let held = world.get(kind, key)?;
        let left: Vec<&Value> =
            meta::owner_references(&held.value).iter().filter(|o| o["uid"] != owner).collect();
        (if left.is_empty() { Value::Null } else { json!(left) }, held.revision)
    };
    let patch = json!({"metadata": {"resourceVersion": revision.to_string(), "ownerReferences": owners}});
    Some(Change::Patch { kind, namespace: key.0.clone(), name: key.1.clone(), part: Part::Main, patch })
}

fn drop_finalizer(kind: &'static Kind, key: &Key, facts: &Facts, finalizer: &str) -> Change {
    let left: Vec<&String> = facts.finalizers.iter().filter(|f| *f != finalizer).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    let patch = json!({"metadata": {"resourceVersion": facts.revision.to_string(), "finalizers": left}});
    Change::Patch { kind, namespace: key.0.clone(), name: key.1.clone(), part: Part::Main, patch }
}
