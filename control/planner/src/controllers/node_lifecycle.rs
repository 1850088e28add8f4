//! Nodes that are not heard of: marked, tainted, and after a while emptied. When most of the cluster is silent it is
//! rather the network that is broken, and nobody is evicted.
//!
//! Source: k8s.io/kubernetes/pkg/controller/nodelifecycle and tainteviction.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, LEASES, NODES, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::{Settings, own};
use crate::change::{Change, Part, Plan};
use crate::world::{Held, Key, NodeView, PodView, World};

/// Silence after which a node's state is unknown (`--node-monitor-grace-period`).
const GRACE: i64 = 40;
const LEASE_NAMESPACE: &str = "kube-node-lease";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        let node = world.pod(key).and_then(|p| p.node.clone());
        let tainted = node.filter(|n| world.node(n).is_some_and(|v| &*v.ready != "True"));
        return tainted.map(|n| (String::new(), n.into())).into_iter().collect();
    }
    own(kind, &NODES, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let (Some(held), Some(view)) = (world.get(&NODES, key), world.node(&key.1)) else {
        return Plan::nothing();
    };
    let silent = silence(world, &key.1, &held.value, now);
    let unknown = silent >= GRACE;
    let ready = if unknown { "Unknown" } else { &*view.ready };
    let mut changes = Vec::new();
    if unknown && &*view.ready != "Unknown" {
        changes.push(mark_unknown(key, held, now));
    }
    changes.extend(taints(key, held, ready, now));
    let (evictions, wait) =
        if is_partitioned(world, now) { (Vec::new(), None) } else { evictions(world, view, now) };
    changes.extend(evictions);
    let next = if unknown { 5 } else { (GRACE - silent).clamp(1, GRACE) };
    let next = wait.map_or(next, |w| w.clamp(1, next));
    Plan::of(changes).again(Duration::from_secs(u64::try_from(next).unwrap_or(1)))
}

/// Seconds since the node was heard of, by its Lease or, before the first one, by its creation.
fn silence(world: &World, name: &str, node: &Value, now: Timestamp) -> i64 {
    let lease = world.get(&LEASES, &(LEASE_NAMESPACE.to_owned(), name.to_owned()));
    let renewed = lease.and_then(|l| meta::parse_time(l.value["spec"]["renewTime"].as_str()?));
    let since = renewed.or_else(|| meta::parse_time(meta::text(node, "creationTimestamp")));
    since.map_or(0, |t| now.as_second() - t.as_second())
}

/// More than half of at least three nodes are silent.
fn is_partitioned(world: &World, now: Timestamp) -> bool {
    let (mut all, mut silent) = (0, 0);
    for (key, held) in world.list(&NODES) {
        all += 1;
        silent += usize::from(silence(world, &key.1, &held.value, now) >= GRACE);
    }
    all >= 3 && silent * 2 > all
}

fn mark_unknown(key: &Key, held: &Held, now: Timestamp) -> Change {
    let mut conditions = held.value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    if !conditions.iter().any(|c| c["type"] == "Ready") {
        conditions.push(json!({"type": "Ready"}));
    }
    for condition in &mut conditions {
        condition["status"] = json!("Unknown");
        condition["reason"] = json!("NodeStatusUnknown");
        condition["message"] = json!("Kubelet stopped posting node status.");
        condition["lastTransitionTime"] = json!(meta::time(now));
    }
    Change::Patch {
        kind: &NODES,
        namespace: String::new(),
        name: key.1.clone(),
        part: Part::Status,
        patch: json!({
            "metadata": {"resourceVersion": held.revision.to_string()}, "status": {"conditions": conditions},
        }),
    }
}

/// The taints that follow from the Ready condition; other taints are the user's.
fn taints(key: &Key, held: &Held, ready: &str, now: Timestamp) -> Option<Change> {
    let wanted = match ready {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let present = held.value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let is_ours = |t: &Value| t["key"] == UNREACHABLE || t["key"] == NOT_READY;
    let mut next: Vec<Value> =
        present.iter().filter(|t| !is_ours(t) || wanted.is_some_and(|w| t["key"] == w)).cloned().collect();
    if let Some(wanted) = wanted {
        for effect in ["NoSchedule", "NoExecute"] {
            if !next.iter().any(|t| t["key"] == wanted && t["effect"] == effect) {
                next.push(json!({"key": wanted, "effect": effect, "timeAdded": meta::time(now)}));
            }
        }
    }
    (next != present).then(|| Change::Patch {
        kind: &NODES,
        namespace: String::new(),
        name: key.1.clone(),
        part: Part::Main,
        patch: json!({
            "metadata": {"resourceVersion": held.revision.to_string()},
            "spec": {"taints": if next.is_empty() { Value::Null } else { json!(next) }},
        }),
    })
}

/// Pods whose patience with the node's NoExecute taints is over, and the seconds until the next one's is.
fn evictions(world: &World, node: &NodeView, now: Timestamp) -> (Vec<Change>, Option<i64>) {
    let mut changes = Vec::new();
    let mut wait: Option<i64> = None;
    for (key, pod) in world.pods_on(&node.name).filter(|(_, p)| p.is_active()) {
        match patience(node, pod, now) {
            None => {}
            Some(left) if left <= 0 => changes.push(Change::Delete {
                kind: &PODS,
                namespace: key.0.clone(),
                name: key.1.clone(),
                uid: pod.uid.to_string(),
                grace: None,
            }),
            Some(left) => wait = Some(wait.map_or(left, |w| w.min(left))),
        }
    }
    (changes, wait)
}

/// Seconds that a pod still bears its node's taints; `None` is for ever.
fn patience(node: &NodeView, pod: &PodView, now: Timestamp) -> Option<i64> {
    let taints = node.taints.iter().filter(|t| &*t.effect == "NoExecute");
    let each = taints.filter_map(|taint| {
        let bearing: Vec<_> = pod.tolerations.iter().filter(|t| t.bears(taint)).collect();
        if bearing.is_empty() {
            return Some(0);
        }
        let seconds = bearing.iter().filter_map(|t| t.seconds).min()?;
        let since = taint.added.map_or(0, |t| now.as_second() - t.as_second());
        Some(seconds - since)
    });
    each.min()
}
