//! Namespaces that end: everything in them goes first, then the finalizer.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{KINDS, Kind, NAMESPACES, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::{Settings, own};
use crate::change::{Change, Part, Plan};
use crate::world::{Held, Key, World};

/// Contents removed in one go.
const BURST: usize = 500;

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == NAMESPACES {
        return own(kind, &NAMESPACES, key);
    }
    let namespace = (String::new(), key.0.clone());
    let ends = world.get(&NAMESPACES, &namespace).is_some_and(|n| meta::is_terminating(&n.value));
    if ends { vec![namespace] } else { Vec::new() }
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&NAMESPACES, key) else { return Plan::nothing() };
    if !meta::is_terminating(&held.value) {
        return Plan::nothing();
    }
    let (changes, left) = contents(world, &key.1);
    if left.is_empty() {
        let finalizers: Vec<&Value> =
            held.value["spec"]["finalizers"].as_array().into_iter().flatten().collect();
        if !finalizers.contains(&&json!("kubernetes")) {
            return Plan::nothing();
        }
        let rest: Vec<&Value> = finalizers.into_iter().filter(|f| **f != "kubernetes").collect();
        let patch =
            json!({"metadata": {"resourceVersion": held.revision.to_string()}, "spec": {"finalizers": rest}});
        return Plan::of(vec![change(key, Part::Finalizers, patch)]);
    }
    let mut changes = changes;
    changes.extend(status(key, held, &left, now));
    Plan::of(changes).again(Duration::from_secs(5))
}

fn change(key: &Key, part: Part, patch: Value) -> Change {
    Change::Patch { kind: &NAMESPACES, namespace: String::new(), name: key.1.clone(), part, patch }
}

/// Deletes of what is not on its way yet, and how much of each kind is left.
fn contents(world: &World, namespace: &str) -> (Vec<Change>, Vec<(String, usize)>) {
    let mut changes = Vec::new();
    let mut left = Vec::new();
    for kind in KINDS.iter().copied().filter(|k| k.namespaced) {
        let objects: Vec<(Key, String, bool)> = if *kind == PODS {
            world
                .pods_in(namespace)
                .map(|(k, p)| (k.clone(), p.uid.to_string(), p.is_terminating()))
                .collect()
        } else {
            let list = world.list_in(kind, namespace);
            list.map(|(k, h)| (k.clone(), meta::uid(&h.value).to_owned(), meta::is_terminating(&h.value)))
                .collect()
        };
        if !objects.is_empty() {
            left.push((format!("{}.", kind.qualified()), objects.len()));
        }
        for (key, uid, terminating) in objects {
            if !terminating && changes.len() < BURST {
                changes.push(Change::Delete { kind, namespace: key.0, name: key.1, uid, grace: None });
            }
        }
    }
    (changes, left)
}

fn status(key: &Key, held: &Held, left: &[(String, usize)], now: Timestamp) -> Option<Change> {
    let parts: Vec<String> =
        left.iter().map(|(kind, n)| format!("{kind} has {n} resource instances")).collect();
    let message = format!("Some resources are remaining: {}", parts.join(", "));
    let present = held.value["status"]["conditions"].as_array();
    let same = present.into_iter().flatten().any(|c| c["message"] == message);
    (!same).then(|| {
        let condition = json!({
            "type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain",
            "message": message, "lastTransitionTime": meta::time(now),
        });
        change(key, Part::Status, json!({"status": {"phase": "Terminating", "conditions": [condition]}}))
    })
}
