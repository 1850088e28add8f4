//! The scheduler as a controller: a pod without a node gets one, or is told why not.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS};
use oarlock_api::meta;
use serde_json::json;

use super::Settings;
use crate::change::{Change, EventAbout, Part, Plan};
use crate::schedule::{self, Verdict};
use crate::world::{Key, PodView, World};

const NAME: &str = "default-scheduler";
/// A pod that fits nowhere is looked at again after this time, beside every change that may make room.
const AGAIN: Duration = Duration::from_secs(60);

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == NODES {
        return world.pending().cloned().collect();
    }
    if *kind != PODS {
        return Vec::new();
    }
    match world.pod(key) {
        Some(pod) if pod.node.is_none() => vec![key.clone()],
        // A pod that ends makes room for those that found none.
        Some(pod) if pod.has_ended() || pod.is_terminating() => world
            .pending()
            .filter(|k| world.pod(k).is_some_and(|p| p.unschedulable.is_some()))
            .cloned()
            .collect(),
        _ => Vec::new(),
    }
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(pod) = world.pod(key) else { return Plan::nothing() };
    if pod.node.is_some() || pod.is_terminating() || pod.has_ended() || &*pod.scheduler != NAME {
        return Plan::nothing();
    }
    match schedule::find(world, pod) {
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
        Verdict::None(why) => {
            if pod.unschedulable.as_deref() == Some(why.as_str()) {
                return Plan::nothing().again(AGAIN);
            }
            let condition = json!({
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why,
                "lastProbeTime": null, "lastTransitionTime": meta::time(now),
            });
            let patch = Change::Patch {
                kind: &PODS,
                namespace: key.0.clone(),
                name: key.1.clone(),
                part: Part::Status,
                patch: json!({
                    "metadata": {"resourceVersion": pod.revision.to_string()}, "status": {"conditions": [condition]},
                }),
            };
            Plan::of(vec![patch, event(key, pod, "Warning", "FailedScheduling", why)]).again(AGAIN)
        }
    }
}

fn event(key: &Key, pod: &PodView, kind: &'static str, reason: &'static str, message: String) -> Change {
    let about =
        EventAbout { kind: &PODS, namespace: key.0.clone(), name: key.1.clone(), uid: pod.uid.to_string() };
    Change::Event { about, kind, reason, message, component: NAME }
}
