//! Garbage: what outlived its owners goes; owners that wait for their dependents or let them go are freed.
//!
//! Source: k8s.io/kubernetes/pkg/controller/garbagecollector (`attemptToDeleteItem`), but that of owners in a circle one goes
//! without waiting, where upstream lets it wait and no longer be waited for.
//!
//! Keys are (`group/plural/namespace`, name): every kind takes part.

use std::collections::BTreeSet;

use jiff::Timestamp;
use oarlock_api::catalogue::{KINDS, Kind, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::Settings;
use crate::change::{Change, Part, Plan};
use crate::world::{Key, World, is_known};

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
    owners: Vec<Owner>,
    finalizers: Vec<String>,
    terminating: bool,
    revision: u64,
}

/// One owner reference.
struct Owner {
    uid: String,
    /// Whether an owner that waits for its dependents waits for this one.
    blocks: bool,
    /// Whether its kind is kept here: of others nobody knows whether they are there.
    known: bool,
}

/// What an owner means for whether its dependent lives.
#[derive(PartialEq)]
enum Standing {
    Lives,
    /// It is being deleted and waits for its dependents.
    Waits,
    Gone,
}

impl Facts {
    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    fn waits(&self) -> bool {
        self.terminating && self.has(FOREGROUND)
    }
}

/// Owner references as JSON; `None` for a pod that has the usual one.
fn references(world: &World, kind: &Kind, key: &Key) -> Option<Vec<Value>> {
    if *kind == PODS {
        return world.pod(key)?.references.as_ref()?.as_array().cloned();
    }
    Some(meta::owner_references(&world.get(kind, key)?.value).to_vec())
}

fn facts(world: &World, kind: &Kind, key: &Key) -> Option<Facts> {
    let owner = |reference: &Value| {
        let uid = reference["uid"].as_str()?.to_owned();
        Some(Owner { uid, blocks: reference["blockOwnerDeletion"] == true, known: is_known(reference) })
    };
    let unusual: Option<Vec<Owner>> =
        references(world, kind, key).map(|all| all.iter().filter_map(owner).collect());
    if *kind == PODS {
        let pod = world.pod(key)?;
        let usual = || pod.owners.iter().map(|uid| Owner { uid: uid.to_string(), blocks: true, known: true });
        return Some(Facts {
            uid: pod.uid.to_string(),
            owners: unusual.unwrap_or_else(|| usual().collect()),
            finalizers: pod.finalizers.iter().map(ToString::to_string).collect(),
            terminating: pod.is_terminating(),
            revision: pod.revision,
        });
    }
    let held = world.get(kind, key)?;
    Some(Facts {
        uid: meta::uid(&held.value).to_owned(),
        owners: unusual.unwrap_or_default(),
        finalizers: meta::finalizers(&held.value).map(str::to_owned).collect(),
        terminating: meta::is_terminating(&held.value),
        revision: held.revision,
    })
}

/// Asked at every change of everything: an object of which nothing is to be decided, nor of what depends on it, costs no plan.
pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    let code = |(group, plural, key): &(&str, &str, Key)| coded(group, plural, key);
    let mut keys: Vec<Key> = world.left_behind(kind, key).map(code).collect();
    let Some(facts) = facts(world, kind, key) else { return keys };
    if facts.terminating {
        keys.extend(world.dependents(&facts.uid).map(code));
    }
    let ends = |owner| standing(world, key, owner) != Standing::Lives;
    if facts.terminating || facts.owners.iter().any(ends) {
        keys.push(coded(kind.group, kind.plural, key));
    }
    // Owners that wait for this one.
    for (kind, key) in facts.owners.iter().filter_map(|owner| world.by_uid(&owner.uid)) {
        if let Some((true, _)) = ending(world, kind, key) {
            keys.push(coded(kind.group, kind.plural, key));
        }
    }
    keys
}

/// Whether an object is being deleted, and whether it then waits for its dependents; none: it is not there.
fn ending(world: &World, kind: &Kind, key: &Key) -> Option<(bool, bool)> {
    if *kind == PODS {
        let pod = world.pod(key)?;
        return Some((pod.is_terminating(), pod.finalizers.iter().any(|f| **f == *FOREGROUND)));
    }
    let value = &world.get(kind, key)?.value;
    Some((meta::is_terminating(value), meta::finalizers(value).any(|f| f == FOREGROUND)))
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
    let standing: Vec<Standing> = facts.owners.iter().map(|owner| standing(world, &key, owner)).collect();
    if standing.contains(&Standing::Lives) {
        // As long as one owner lives so does this one; the others are forgotten, so that none waits for it.
        let left = facts.owners.iter().zip(&standing).filter(|(_, s)| **s == Standing::Lives);
        let left: Vec<&str> = left.map(|(owner, _)| owner.uid.as_str()).collect();
        let patch = (left.len() < standing.len())
            .then(|| keep(world, kind, &key, &facts, |uid| left.contains(&uid)))
            .flatten();
        return Plan::of(patch.into_iter().collect());
    }
    if standing.contains(&Standing::Waits) && !facts.has(FOREGROUND) && waits_for_its_own(world, &facts) {
        let mut finalizers = facts.finalizers.clone();
        finalizers.push(FOREGROUND.to_owned());
        return Plan::of(vec![patch(kind, &key, &facts, "finalizers", json!(finalizers))]);
    }
    Plan::of(vec![Change::Delete { kind, namespace: key.0, name: key.1, uid: facts.uid, grace: None }])
}

fn standing(world: &World, dependent: &Key, owner: &Owner) -> Standing {
    if !owner.known {
        return Standing::Lives;
    }
    let Some((kind, key)) = world.by_uid(&owner.uid) else { return Standing::Gone };
    if kind.namespaced && key.0 != dependent.0 {
        // Namespaced owners are of the same namespace.
        return Standing::Gone;
    }
    match ending(world, kind, key) {
        None => Standing::Gone,
        Some((true, true)) => Standing::Waits,
        Some(_) => Standing::Lives,
    }
}

/// Whether an object whose owner waits for it has to wait for its own dependents first. Not when one of these waits, too:
/// then they own each other in a circle, and somebody has to go first.
fn waits_for_its_own(world: &World, facts: &Facts) -> bool {
    let mut any = false;
    for (kind, key) in dependents(world, facts) {
        if self::facts(world, kind, &key).is_some_and(|dependent| dependent.waits()) {
            return false;
        }
        any = true;
    }
    any
}

/// Whether an object that is deleted waits in the end for the one with this uid, through others that wait.
fn waits_for(world: &World, facts: &Facts, uid: &str, seen: &mut BTreeSet<String>) -> bool {
    if facts.uid == uid {
        return true;
    }
    if !facts.waits() || !seen.insert(facts.uid.clone()) {
        return false;
    }
    let mut next = dependents(world, facts).into_iter();
    next.any(|(kind, key)| self::facts(world, kind, &key).is_some_and(|f| waits_for(world, &f, uid, seen)))
}

fn dependents(world: &World, facts: &Facts) -> Vec<(&'static Kind, Key)> {
    let all = world.dependents(&facts.uid);
    all.filter_map(|(group, plural, key)| decoded(&coded(group, plural, key))).collect()
}

/// An object that is being deleted: let its dependents go, or wait until they are gone.
fn finish(world: &World, kind: &'static Kind, key: &Key, facts: &Facts) -> Vec<Change> {
    let dependents = dependents(world, facts);
    if facts.has(ORPHAN) {
        let disown = |(kind, key): &(&'static Kind, Key)| {
            let dependent = self::facts(world, kind, key)?;
            keep(world, kind, key, &dependent, |uid| uid != facts.uid)
        };
        let mut changes: Vec<Change> = dependents.iter().filter_map(disown).collect();
        if changes.is_empty() {
            changes.push(drop_finalizer(kind, key, facts, ORPHAN));
        }
        return changes;
    }
    let blocks = |(kind, key): &(&'static Kind, Key)| {
        let Some(dependent) = self::facts(world, kind, key) else { return false };
        dependent.owners.iter().any(|owner| owner.uid == facts.uid && owner.blocks)
            && !waits_for(world, &dependent, &facts.uid, &mut BTreeSet::new())
    };
    if facts.has(FOREGROUND) && !dependents.iter().any(blocks) {
        return vec![drop_finalizer(kind, key, facts, FOREGROUND)];
    }
    Vec::new()
}

/// Keeps the references to some owners only.
fn keep(
    world: &World,
    kind: &'static Kind,
    key: &Key,
    facts: &Facts,
    wanted: impl Fn(&str) -> bool,
) -> Option<Change> {
    let all = references(world, kind, key).unwrap_or_default();
    let left: Vec<&Value> = all.iter().filter(|o| o["uid"].as_str().is_some_and(&wanted)).collect();
    if facts.owners.iter().all(|owner| wanted(&owner.uid)) {
        return None;
    }
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    Some(patch(kind, key, facts, "ownerReferences", left))
}

fn drop_finalizer(kind: &'static Kind, key: &Key, facts: &Facts, finalizer: &str) -> Change {
    let left: Vec<&String> = facts.finalizers.iter().filter(|f| *f != finalizer).collect();
    let left = if left.is_empty() { Value::Null } else { json!(left) };
    patch(kind, key, facts, "finalizers", left)
}

fn patch(kind: &'static Kind, key: &Key, facts: &Facts, field: &str, value: Value) -> Change {
    let patch = json!({"metadata": {"resourceVersion": facts.revision.to_string(), field: value}});
    Change::Patch { kind, namespace: key.0.clone(), name: key.1.clone(), part: Part::Main, patch }
}

#[cfg(test)]
mod tests;
