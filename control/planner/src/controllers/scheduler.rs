//! The scheduler as a controller: a pod without a node gets one, or is told why not. Pods that fit nowhere wait for what may help
//! them: a node that offers something else, a pod that goes, a pod that they want to be near.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{
    Kind, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES,
};
use oarlock_api::{meta, storage};
use serde_json::{Value, json};

use super::Settings;
use crate::change::{Change, EventAbout, Part, Plan};
use crate::schedule::{self, Needs, Verdict, Victims};
use crate::world::{self, Key, PodView, World};

const NAME: &str = "default-scheduler";
/// A pod that fits nowhere is looked at again after this time, in case a change was misjudged.
const AGAIN: Duration = Duration::from_secs(300);

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == NODES {
        return by_node(world, &key.1);
    }
    if *kind == PERSISTENT_VOLUME_CLAIMS {
        return waiting(world, key);
    }
    if *kind == STORAGE_CLASSES {
        return world.open_claims(&key.1).flat_map(|claim| waiting(world, claim)).collect();
    }
    if *kind == PERSISTENT_VOLUMES {
        return by_volume(world, key);
    }
    if *kind != PODS {
        return Vec::new();
    }
    let Some(pod) = world.pod(key) else {
        // It has gone from there just now.
        return world.vacated(key).map_or_else(Vec::new, |node| by_room(world, node, None));
    };
    match &pod.node {
        None => vec![key.clone()],
        Some(node) if pod.has_ended() => by_room(world, node, None),
        // It is about to go: who counts on that may come as soon as it has.
        Some(node) if pod.is_terminating() => by_room(world, node, Some(pod)),
        Some(_) if &*pod.phase == "Pending" => by_neighbours(world, key, pod),
        Some(_) => Vec::new(),
    }
}

/// Pods that fit nowhere, and may fit a node as it is now; when one has gone, those that are spread.
fn by_node(world: &World, name: &str) -> Vec<Key> {
    let node = world.node(name);
    if node.is_some_and(|node| !node.opened) {
        return Vec::new();
    }
    let helped = |pod: &PodView| match node {
        Some(_) => has_rules(pod) || pod.priority > 0 || schedule::has_room(world, pod, name, None),
        None => has_rules(pod),
    };
    world.unschedulable().filter(|(_, pod)| helped(pod)).map(|(key, _)| key.clone()).collect()
}

/// Pods that fit nowhere and would find room on a node; and those that its pods have kept away, perhaps from others.
fn by_room(world: &World, node: &str, without: Option<&PodView>) -> Vec<Key> {
    let helped = |pod: &PodView| {
        has_rules(pod) || pod.nominated.is_some() || schedule::has_room(world, pod, node, without)
    };
    world.unschedulable().filter(|(_, pod)| helped(pod)).map(|(key, _)| key.clone()).collect()
}

/// Pods that fit nowhere, and count the pod that has come to a node.
fn by_neighbours(world: &World, key: &Key, pod: &PodView) -> Vec<Key> {
    let crowd = &world.placement().crowd;
    let Some((class, _)) = crowd.class_of(&key.0, &pod.labels) else { return Vec::new() };
    let counts = |waiting: &PodView| {
        let rules = waiting.rules.as_deref();
        let near = rules.and_then(|rules| rules.affinity.as_ref()).map(|(whom, _)| whom);
        let spread = rules.into_iter().flat_map(|rules| &rules.spread).map(|spread| &spread.whom);
        near.into_iter().chain(spread).any(|whom| crowd.term_of(whom).is_some_and(|term| term.selects(class)))
    };
    let waiting = world.unschedulable().filter(|(_, waiting)| counts(waiting));
    waiting.map(|(key, _)| key.clone()).collect()
}

fn has_rules(pod: &PodView) -> bool {
    pod.rules.as_deref().is_some_and(|rules| rules.whoms().next().is_some())
}

/// The pods without a node that use a claim.
fn waiting(world: &World, claim: &Key) -> Vec<Key> {
    let pods = world.pods_with_claim(claim).filter(|(_, pod)| pod.node.is_none());
    pods.map(|(key, _)| key.clone()).collect()
}

/// Pods whose claims have this volume, or might get it.
fn by_volume(world: &World, key: &Key) -> Vec<Key> {
    let Some(held) = world.get(&PERSISTENT_VOLUMES, key) else { return Vec::new() };
    match world::claim_of(&held.value) {
        Some(claim) => waiting(world, &claim),
        None => {
            let open = world.open_claims(storage::class_name(&held.value));
            open.flat_map(|claim| waiting(world, claim)).collect()
        }
    }
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(pod) = world.pod(key) else { return Plan::nothing() };
    if pod.node.is_some() || pod.is_terminating() || pod.has_ended() || &*pod.scheduler != NAME {
        return Plan::nothing();
    }
    if pod.gated {
        return gated(key, pod, now);
    }
    let needs = match Needs::of(world, key, pod) {
        Ok(needs) => needs,
        Err(why) => return unschedulable(key, pod, schedule::whatever_node(world, &why), now),
    };
    match schedule::find(world, key, pod, &needs) {
        // Its volumes come first; their claims tell when they are there.
        Verdict::Node(node) if needs.waits() => {
            Plan::of(world.node(&node).map_or_else(Vec::new, |node| needs.settle(world, node)))
        }
        Verdict::Node(node) => {
            let message = format!("Successfully assigned {}/{} to {node}", key.0, key.1);
            let event = event(key, pod, "Normal", "Scheduled", message);
            let bind = Change::Bind {
                namespace: key.0.clone(),
                name: key.1.clone(),
                uid: pod.uid.to_string(),
                node,
            };
            Plan::of(vec![bind, event])
        }
        Verdict::Preempt(victims, why) => preempt(world, key, pod, &victims, why, now).again(AGAIN),
        Verdict::None(why) => unschedulable(key, pod, why, now),
    }
}

/// A pod that no node can have is told why, once.
fn unschedulable(key: &Key, pod: &PodView, why: String, now: Timestamp) -> Plan {
    let mut changes = Vec::new();
    // A node that it was to get, and does not: others may have it.
    let loses = pod.nominated.is_some() && !why.contains("terminating pod on the nominated node");
    if loses || pod.unschedulable.as_deref() != Some(why.as_str()) {
        let nominated = if loses { Some(Value::Null) } else { None };
        changes.push(condition(key, pod, "Unschedulable", &why, nominated, now));
        changes.push(event(key, pod, "Warning", "FailedScheduling", why));
    }
    Plan::of(changes).again(AGAIN)
}

/// A pod that is held back by gates is told so once.
fn gated(key: &Key, pod: &PodView, now: Timestamp) -> Plan {
    const WHY: &str = "Scheduling is blocked due to non-empty scheduling gates";
    if pod.unschedulable.as_deref() == Some(WHY) {
        return Plan::nothing();
    }
    Plan::of(vec![condition(key, pod, "SchedulingGated", WHY, None, now)])
}

/// The pod's condition that says why it has no node; and, where that changes, the node that it is to get.
fn condition(
    key: &Key,
    pod: &PodView,
    reason: &str,
    why: &str,
    nominated: Option<Value>,
    now: Timestamp,
) -> Change {
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": why,
        "lastProbeTime": null, "lastTransitionTime": meta::time(now),
    });
    let mut status = json!({"conditions": [condition]});
    if let Some(nominated) = nominated {
        status["nominatedNodeName"] = nominated;
    }
    Change::Patch {
        kind: &PODS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Status,
        patch: json!({"metadata": {"resourceVersion": pod.revision.to_string()}, "status": status}),
    }
}

/// Others go, and the pod is promised their node.
fn preempt(world: &World, key: &Key, pod: &PodView, victims: &Victims, why: String, now: Timestamp) -> Plan {
    let mut changes = vec![
        condition(key, pod, "Unschedulable", &why, Some(json!(victims.node)), now),
        event(key, pod, "Warning", "FailedScheduling", why),
    ];
    let going = victims.pods.iter().filter_map(|victim| Some((victim, world.pod(victim)?)));
    for (name, victim) in going.filter(|(_, victim)| !victim.is_terminating()) {
        let message = format!("Preempted by pod {} on node {}", pod.uid, victims.node);
        changes.push(event(name, victim, "Normal", "Preempted", message));
        changes.push(Change::Condition {
            namespace: name.0.clone(),
            name: name.1.clone(),
            condition: json!({
                "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
                "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
                "lastProbeTime": null, "lastTransitionTime": meta::time(now),
            }),
        });
        changes.push(Change::Delete {
            kind: &PODS,
            namespace: name.0.clone(),
            name: name.1.clone(),
            uid: victim.uid.to_string(),
            grace: None,
        });
    }
    for (name, other) in schedule::outbid(world, &victims.node, pod.priority) {
        changes.push(Change::Patch {
            kind: &PODS,
            namespace: name.0.clone(),
            name: name.1.clone(),
            part: Part::Status,
            patch: json!({
                "metadata": {"resourceVersion": other.revision.to_string()}, "status": {"nominatedNodeName": null},
            }),
        });
    }
    Plan::of(changes)
}

/// How urgent a pod's turn is: the scheduler's keys are taken by priority.
pub(super) fn urgency(world: &World, key: &Key) -> i64 {
    world.pod(key).map_or(0, |pod| pod.priority)
}

fn event(key: &Key, pod: &PodView, kind: &'static str, reason: &'static str, message: String) -> Change {
    let about =
        EventAbout { kind: &PODS, namespace: key.0.clone(), name: key.1.clone(), uid: pod.uid.to_string() };
    Change::Event { about, kind, reason, message, component: NAME }
}
