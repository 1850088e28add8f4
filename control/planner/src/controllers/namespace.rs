//! Namespaces that end: everything in them goes first, then the finalizer.
//!
//! Source: k8s.io/kubernetes/pkg/controller/namespace/deletion.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{EVENTS, KINDS, Kind, NAMESPACES, PODS};
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
    if left.kinds.is_empty() {
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

/// What is left: how much of each kind, and how often each finalizer.
#[derive(Debug, Default)]
struct Left {
    kinds: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

/// Deletes of what is not on its way yet, and what is left. Pods go before everything else, lest they lose what guards or
/// serves them (upstream's `OrderedNamespaceDeletion`).
fn contents(world: &World, namespace: &str) -> (Vec<Change>, Left) {
    let mut left = Left::default();
    let mut deletes = Vec::new();
    let mut object =
        |kind: &'static Kind, key: &Key, uid: &str, terminating: bool, finalizers: Vec<String>| {
            *left.kinds.entry(format!("{}.{}", kind.plural, kind.group)).or_default() += 1;
            for finalizer in finalizers {
                *left.finalizers.entry(finalizer).or_default() += 1;
            }
            if !terminating && deletes.len() < BURST {
                let (namespace, name) = key.clone();
                deletes.push(Change::Delete { kind, namespace, name, uid: uid.to_owned(), grace: None });
            }
        };
    for (key, pod) in world.pods_in(namespace) {
        let finalizers = pod.finalizers.iter().map(ToString::to_string).collect();
        object(&PODS, key, &pod.uid, pod.is_terminating(), finalizers);
    }
    let pods = world.pods_in(namespace).next().is_some();
    for kind in KINDS.iter().copied().filter(|k| k.namespaced && **k != PODS && !pods) {
        for (key, held) in world.list_in(kind, namespace) {
            let finalizers = meta::finalizers(&held.value).map(str::to_owned).collect();
            object(kind, key, meta::uid(&held.value), meta::is_terminating(&held.value), finalizers);
        }
        if *kind == EVENTS {
            let events = world.events().of_namespace(namespace);
            for (key, uid) in events.filter(|(key, _)| world.get(&EVENTS, key).is_none()) {
                object(&EVENTS, key, uid, false, Vec::new());
            }
        }
    }
    (deletes, left)
}

/// Upstream's five conditions; two of them can only be well here.
fn status(key: &Key, held: &Held, left: &Left, now: Timestamp) -> Option<Change> {
    let listed = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(what, n)| format!("{what} {verb} {n} resource instances")).collect();
        parts.join(", ")
    };
    let (kinds, finalizers) = (listed(&left.kinds, "has"), listed(&left.finalizers, "in"));
    let remaining = format!("Some resources are remaining: {kinds}");
    let holding = format!("Some content in the namespace has finalizers remaining: {finalizers}");
    let well = |kind, reason, message: &str| (kind, "False", reason, message.to_owned());
    let wanted = [
        well(
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        well(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        well(
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        if kinds.is_empty() {
            well("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed")
        } else {
            ("NamespaceContentRemaining", "True", "SomeResourcesRemain", remaining)
        },
        if finalizers.is_empty() {
            well(
                "NamespaceFinalizersRemaining",
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished",
            )
        } else {
            ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", holding)
        },
    ];
    let present = held.value["status"]["conditions"].as_array();
    let conditions = wanted.map(|(kind, status, reason, message)| {
        let old = present.into_iter().flatten().find(|c| {
            c["type"] == kind && c["status"] == status && c["reason"] == reason && c["message"] == message
        });
        old.cloned().unwrap_or_else(|| {
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": meta::time(now)})
        })
    });
    let conditions = json!(conditions);
    (held.value["status"]["conditions"] != conditions).then(|| {
        change(key, Part::Status, json!({"status": {"phase": "Terminating", "conditions": conditions}}))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::CONTROLLERS;
    use super::*;

    #[test]
    fn a_namespace_that_ends_says_what_is_left_and_pods_go_first() {
        let mut world = World::default();
        let put = |world: &mut World, kind, namespace: &str, object: Value| {
            world.put(
                kind,
                namespace,
                object["metadata"]["name"].as_str().unwrap(),
                &Arc::new(object.clone()),
                1,
            );
        };
        let dying = json!({"metadata": {"name": "d", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["kubernetes"]}});
        put(&mut world, &NAMESPACES, "", dying);
        put(&mut world, &PODS, "d", json!({"metadata": {"name": "p", "uid": "p", "finalizers": ["x.io/y"]}}));
        put(
            &mut world,
            &oarlock_api::catalogue::DEPLOYMENTS,
            "d",
            json!({"metadata": {"name": "w", "uid": "w"}}),
        );
        let plan = |world: &World| {
            let controller = CONTROLLERS.iter().find(|c| c.name == "namespace").unwrap();
            let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
            let key = (String::new(), "d".to_owned());
            (controller.plan)(world, &settings, &key, Timestamp::UNIX_EPOCH).changes
        };
        let said = |changes: &[Change]| -> Vec<String> {
            let line = |change: &Change| match change {
                Change::Delete { kind, name, .. } => vec![format!("delete {} {name}", kind.plural)],
                Change::Patch { patch, .. } => {
                    let all = patch["status"]["conditions"].as_array().cloned().unwrap_or_default();
                    let bad = all.iter().filter(|c| c["status"] == "True");
                    bad.map(|c| c["message"].as_str().unwrap().to_owned()).collect()
                }
                _ => Vec::new(),
            };
            changes.iter().flat_map(line).collect()
        };
        assert_eq!(
            said(&plan(&world)),
            [
                "delete pods p",
                "Some resources are remaining: pods. has 1 resource instances",
                "Some content in the namespace has finalizers remaining: x.io/y in 1 resource instances",
            ]
        );
        world.delete(&PODS, "d", "p", 2);
        assert_eq!(
            said(&plan(&world)),
            [
                "delete deployments w",
                "Some resources are remaining: deployments.apps has 1 resource instances"
            ]
        );
        world.delete(&oarlock_api::catalogue::DEPLOYMENTS, "d", "w", 3);
        let last = plan(&world);
        assert!(matches!(&last[..], [Change::Patch { part: Part::Finalizers, .. }]), "{last:?}");
    }
}
