//! ReplicaSets and ReplicationControllers: as many pods as asked for.
//!
//! Source: k8s.io/kubernetes/pkg/controller/replicaset and controller_utils.go (which pods go first).

use std::cmp::Reverse;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::pods;
use super::template::{self, omit_zero};
use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, PodView, World};

/// Pods made or removed in one go; the rest follows when these are seen.
const BURST: usize = 500;

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS { pods::owners(world, &REPLICA_SETS, key) } else { own(kind, &REPLICA_SETS, key) }
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    plan_for(&REPLICA_SETS, world, key, now)
}

pub(super) fn affected_controllers(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        pods::owners(world, &REPLICATION_CONTROLLERS, key)
    } else {
        own(kind, &REPLICATION_CONTROLLERS, key)
    }
}

pub(super) fn plan_controller(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    plan_for(&REPLICATION_CONTROLLERS, world, key, now)
}

fn plan_for(kind: &'static Kind, world: &World, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(kind, key) else { return Plan::nothing() };
    let rs = &*held.value;
    let Some(selector) = pods::selector(rs) else { return Plan::nothing() };
    let uid = meta::uid(rs);
    let mut changes = pods::claim(world, key, rs, &selector);
    let pods: Vec<(&Key, &PodView)> =
        world.pods_of(uid).filter(|(_, p)| p.is_active() && selector.matches_with(|k| p.label(k))).collect();
    let wanted = rs["spec"]["replicas"].as_i64().unwrap_or(1).max(0);
    if !meta::is_terminating(rs) {
        changes.extend(replicas(kind, key, rs, &pods, wanted, world));
    }
    let min_ready = rs["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
    let complete = i64::try_from(pods.len()).is_ok_and(|present| present >= wanted);
    changes.extend(status(kind, key, held, &pods, (min_ready, complete), now));
    let soon = min_ready > 0 && pods.iter().any(|(_, p)| p.ready && !p.is_available(min_ready, now));
    if soon { Plan::of(changes).again(Duration::from_secs(1)) } else { Plan::of(changes) }
}

fn replicas(
    kind: &'static Kind,
    key: &Key,
    rs: &Value,
    pods: &[(&Key, &PodView)],
    wanted: i64,
    world: &World,
) -> Vec<Change> {
    let about =
        EventAbout { kind, namespace: key.0.clone(), name: key.1.clone(), uid: meta::uid(rs).to_owned() };
    let present = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let missing = usize::try_from(wanted - present).unwrap_or(0).min(BURST);
    let mut changes: Vec<Change> = (0..missing)
        .map(|_| Change::Create {
            kind: &PODS,
            namespace: key.0.clone(),
            object: template::pod(&rs["spec"]["template"], rs),
        })
        .collect();
    let surplus = usize::try_from(present - wanted).unwrap_or(0).min(BURST);
    for (pod, view) in first_to_go(pods, world).into_iter().take(surplus) {
        changes.push(pods::delete(pod, view));
        changes.push(Change::Event {
            about: about.clone(),
            kind: "Normal",
            reason: "SuccessfulDelete",
            message: format!("Deleted pod: {}", pod.1),
            component: if *kind == REPLICA_SETS { "replicaset-controller" } else { "replication-controller" },
        });
    }
    changes
}

/// Upstream's order: unscheduled, then pending, then not ready, then on crowded nodes, then ready for a shorter time, then
/// restarted more often, then younger.
fn first_to_go<'w>(pods: &[(&'w Key, &'w PodView)], world: &World) -> Vec<(&'w Key, &'w PodView)> {
    let phase = |p: &PodView| match &*p.phase {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let siblings = |p: &PodView| {
        let Some(node) = &p.node else { return 0 };
        world.pods_on(node).filter(|(_, other)| other.controller == p.controller && other.is_active()).count()
    };
    let mut sorted = pods.to_vec();
    sorted.sort_by_cached_key(|(key, p)| {
        (
            p.node.is_some(),
            phase(p),
            p.ready,
            Reverse(siblings(p)),
            Reverse(p.ready_since),
            Reverse(p.restarts),
            Reverse(p.created),
            (*key).clone(),
        )
    });
    sorted
}

fn status(
    kind: &'static Kind,
    key: &Key,
    held: &Held,
    pods: &[(&Key, &PodView)],
    (min_ready, complete): (i64, bool),
    now: Timestamp,
) -> Option<Change> {
    let rs = &*held.value;
    // Set where a pod could not be made, as only that is known there; taken back here when none is missing any more.
    let mut conditions = rs["status"]["conditions"].as_array().into_iter().flatten();
    let recovered = complete && conditions.any(|c| c["type"] == "ReplicaFailure");
    let count = |test: &dyn Fn(&PodView) -> bool| {
        i64::try_from(pods.iter().filter(|(_, p)| test(p)).count()).unwrap_or(i64::MAX)
    };
    let labels = rs["spec"]["template"]["metadata"]["labels"].as_object();
    let labelled = |p: &PodView| labels.into_iter().flatten().all(|(k, v)| p.label(k) == v.as_str());
    let wanted = [
        ("replicas", count(&|_| true)),
        ("fullyLabeledReplicas", count(&labelled)),
        ("readyReplicas", count(&|p| p.ready)),
        ("availableReplicas", count(&|p| p.is_available(min_ready, now))),
        ("observedGeneration", rs["metadata"]["generation"].as_i64().unwrap_or(1)),
    ];
    let present = &rs["status"];
    if !recovered
        && wanted.iter().all(|(field, value)| present[*field].as_i64().unwrap_or(0) == *value)
        && present.get("replicas").is_some()
    {
        return None;
    }
    let mut status = json!({});
    for (field, value) in wanted {
        status[field] = if field == "replicas" { json!(value) } else { omit_zero(value) };
    }
    if recovered {
        // The only condition that there is.
        status["conditions"] = Value::Null;
    }
    Some(Change::Patch {
        kind,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Status,
        patch: json!({"metadata": {"resourceVersion": held.revision.to_string()}, "status": status}),
    })
}
