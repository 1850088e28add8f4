//! Nodes that are not heard of: marked, tainted, their pods not ready any more, and after a while emptied. When most of the cluster is
//! silent it is rather the network that is broken, and nobody is evicted.
//!
//! Source: k8s.io/kubernetes/pkg/controller/nodelifecycle and tainteviction.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, NodeView, PodView, World};

/// Silence after which a node's state is unknown (`--node-monitor-grace-period`).
const GRACE: i64 = 40;
/// How long a node that counts as lost has to say that it lives before its pods count as not ready: it may have been the control plane
/// or its store that slept. A heartbeat comes every ten seconds, and who has lost its session tries as often at least.
const DOUBT: i64 = 20;
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// Conditions of nodes that keep new pods away while they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

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
    let (mut evictions, mut wait) = evictions(world, view, now);
    let mostly_silent = is_mostly_silent(world, now);
    if mostly_silent && world.heard().nodes() >= 3 {
        evictions.clear();
        wait = None;
    }
    changes.extend(evictions);
    if unknown && !mostly_silent {
        changes.extend(unanswered(world, view, &held.value, now));
    }
    let next = if unknown { 5 } else { (GRACE - silent).clamp(1, GRACE) };
    let next = wait.map_or(next, |w| w.clamp(1, next));
    Plan::of(changes).again(Duration::from_secs(u64::try_from(next).unwrap_or(1)))
}

/// Seconds since the node was heard of, by its Lease or, before the first one, by its creation.
fn silence(world: &World, name: &str, node: &Value, now: Timestamp) -> i64 {
    world.last_heard(name, node).map_or(0, |t| now.as_second() - t.as_second())
}

/// More than half of the nodes are silent. However few there are: agents that are dead everywhere do not empty Services, which go on
/// without them. Of at least three: nobody is evicted.
fn is_mostly_silent(world: &World, now: Timestamp) -> bool {
    let all = world.heard().nodes();
    let silent = all - world.heard().since(now.as_second() - GRACE);
    silent * 2 > all
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

/// The taints that follow from conditions; other taints are the user's.
fn taints(key: &Key, held: &Held, ready: &str, now: Timestamp) -> Option<Change> {
    let lost = match ready {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    // Of a node that is not heard of nothing is known.
    let conditions = held.value["status"]["conditions"].as_array().into_iter().flatten();
    let holding: Vec<&Value> = conditions.filter(|c| ready != "Unknown" && c["status"] == "True").collect();
    let short = PRESSURES.iter().filter(|(kind, _)| holding.iter().any(|c| c["type"] == *kind));
    let mut wanted: Vec<(&str, &str)> = short.map(|(_, taint)| (*taint, "NoSchedule")).collect();
    wanted.extend(lost.iter().flat_map(|taint| ["NoSchedule", "NoExecute"].map(|effect| (*taint, effect))));
    let present = held.value["spec"]["taints"].as_array().cloned().unwrap_or_default();
    // Each of a pressure with the one effect that it has: another one under the same key is the user's.
    let is_ours = |t: &Value| {
        let of_pressure = |(_, taint): &(&str, &str)| t["key"] == *taint && t["effect"] == "NoSchedule";
        t["key"] == UNREACHABLE || t["key"] == NOT_READY || PRESSURES.iter().any(of_pressure)
    };
    let is_wanted =
        |t: &Value| wanted.iter().any(|(taint, effect)| t["key"] == *taint && t["effect"] == *effect);
    let mut next: Vec<Value> = present.iter().filter(|t| !is_ours(t) || is_wanted(t)).cloned().collect();
    for (taint, effect) in wanted {
        if !next.iter().any(|t| t["key"] == taint && t["effect"] == effect) {
            next.push(json!({"key": taint, "effect": effect, "timeAdded": meta::time(now)}));
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

/// Pods of a node that is lost: nobody knows whether they answer, and Services go on without them.
fn unanswered(world: &World, node: &NodeView, object: &Value, now: Timestamp) -> Vec<Change> {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let lost = conditions.find(|c| c["type"] == "Ready" && c["status"] == "Unknown");
    let since = lost.and_then(|c| meta::parse_time(c["lastTransitionTime"].as_str()?));
    if since.is_none_or(|since| now.as_second() - since.as_second() < DOUBT) {
        return Vec::new();
    }
    let ready = world.pods_on(&node.name).filter(|(_, pod)| pod.ready && pod.is_active());
    let told = ready.flat_map(|(key, pod)| {
        let (namespace, name, uid) = (key.0.clone(), key.1.clone(), pod.uid.to_string());
        let about =
            EventAbout { kind: &PODS, namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
        let event = Change::Event {
            about,
            kind: "Warning",
            reason: "NodeNotReady",
            message: "Node is not ready".to_owned(),
            component: "node-controller",
        };
        [Change::Unready { namespace, name, uid, node: node.name.to_string() }, event]
    });
    told.collect()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oarlock_api::catalogue::LEASES;

    use super::*;
    use crate::world::LEASE_NAMESPACE;

    const NOW: &str = "2026-01-01T00:10:00Z";

    /// What is done about the pods of `n1`, which was marked as lost and last heard of so many seconds ago; others of the nodes are well.
    fn done(marked: Option<i64>, heard: i64, others: usize) -> Vec<String> {
        let now: Timestamp = NOW.parse().unwrap();
        let ago = |seconds| meta::time(now - jiff::SignedDuration::from_secs(seconds));
        let mut world = World::default();
        let mut put = |kind, namespace: &str, name: &str, object: Value| {
            world.put(kind, namespace, name, &Arc::new(object), 7);
        };
        for (name, heard) in
            std::iter::once(("n1".to_owned(), heard)).chain((0..others).map(|n| (format!("other{n}"), 1)))
        {
            let (status, since) = match marked.filter(|_| name == "n1") {
                Some(marked) => ("Unknown", ago(marked)),
                None => ("True", ago(500)),
            };
            let ready = json!({"type": "Ready", "status": status, "lastTransitionTime": since});
            put(&NODES, "", &name, json!({"metadata": {"name": name}, "status": {"conditions": [ready]}}));
            put(&LEASES, LEASE_NAMESPACE, &name, json!({"spec": {"renewTime": ago(heard)}}));
        }
        for (name, node, ready) in [("a", "n1", "True"), ("b", "n1", "False"), ("c", "other0", "True")] {
            let tolerations = json!([{"operator": "Exists"}]);
            put(
                &PODS,
                "d",
                name,
                json!({"metadata": {"name": name, "namespace": "d", "uid": name},
                "spec": {"nodeName": node, "tolerations": tolerations},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}),
            );
        }
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let plan = plan(&world, &settings, &(String::new(), "n1".to_owned()), now);
        let told = plan.changes.into_iter().filter_map(|change| match change {
            Change::Unready { name, node, .. } => Some(format!("{name} of {node} is not ready")),
            Change::Event { about, reason, .. } => Some(format!("{} {reason}", about.name)),
            _ => None,
        });
        told.collect()
    }

    /// The taints that a node gets, of the conditions that it says.
    fn tainted(conditions: &[(&str, &str)], present: Value, heard: i64) -> Option<Vec<String>> {
        let now: Timestamp = NOW.parse().unwrap();
        let conditions: Vec<Value> =
            conditions.iter().map(|(kind, status)| json!({"type": kind, "status": status})).collect();
        let mut world = World::default();
        let node = json!({"metadata": {"name": "n1"}, "spec": {"taints": present}, "status": {"conditions": conditions}});
        world.put(&NODES, "", "n1", &Arc::new(node), 7);
        let renewed = meta::time(now - jiff::SignedDuration::from_secs(heard));
        world.put(&LEASES, LEASE_NAMESPACE, "n1", &Arc::new(json!({"spec": {"renewTime": renewed}})), 8);
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let plan = plan(&world, &settings, &(String::new(), "n1".to_owned()), now);
        let patch = plan.changes.into_iter().find_map(|change| match change {
            Change::Patch { part: Part::Main, patch, .. } => Some(patch),
            _ => None,
        })?;
        let text = |t: &Value, field: &str| t[field].as_str().unwrap_or_default().to_owned();
        let taints = patch["spec"]["taints"].as_array().cloned().unwrap_or_default();
        Some(taints.iter().map(|t| format!("{}:{}", text(t, "key"), text(t, "effect"))).collect())
    }

    #[test]
    fn a_node_under_pressure_takes_no_new_pods_until_it_is_well_again() {
        let short = [
            ("Ready", "True"),
            ("MemoryPressure", "True"),
            ("DiskPressure", "True"),
            ("PIDPressure", "False"),
        ];
        let both =
            ["node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule"];
        let both = both.map(str::to_owned).to_vec();
        assert_eq!(tainted(&short, Value::Null, 1), Some(both.clone()));
        let mine = json!({"key": "mine", "effect": "NoExecute"});
        let given = json!([
            mine, {"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}]);
        assert_eq!(tainted(&short, given.clone(), 1), None, "it has them");
        let well = [("Ready", "True"), ("MemoryPressure", "False"), ("DiskPressure", "False")];
        assert_eq!(tainted(&well, given.clone(), 1), Some(vec!["mine:NoExecute".to_owned()]));
        assert_eq!(tainted(&well, Value::Null, 1), None);
        let lost = [
            "mine:NoExecute".to_owned(),
            format!("{UNREACHABLE}:NoSchedule"),
            format!("{UNREACHABLE}:NoExecute"),
        ];
        assert_eq!(tainted(&short, given, 60), Some(lost.to_vec()), "of a silent node nothing is known");
    }

    #[test]
    fn pods_of_a_lost_node_are_not_ready_once_a_living_one_would_have_said_so() {
        assert_eq!(done(Some(21), 60, 2), ["a of n1 is not ready", "a NodeNotReady"]);
        assert_eq!(done(Some(5), 60, 2), Vec::<String>::new(), "it may say yet that it lives");
        assert_eq!(done(Some(100), 3, 2), Vec::<String>::new(), "it has just said that it lives");
        assert_eq!(done(None, 60, 2), Vec::<String>::new(), "it is marked first");
        assert_eq!(done(Some(21), 60, 1), ["a of n1 is not ready", "a NodeNotReady"]);
        assert_eq!(done(Some(21), 60, 0), Vec::<String>::new(), "nobody is left who would answer instead");
    }
}
