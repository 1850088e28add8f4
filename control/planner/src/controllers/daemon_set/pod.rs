//! What a daemon's pod looks like: bound to its node by name, bearing what befalls nodes. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/controller/daemon/util/daemonset_util.go.

use oarlock_api::meta::{map_at, map_of};
use serde_json::{Value, json};

use super::super::history::HASH_LABEL;
use super::super::template;
use crate::world::PodView;

/// Daemons stay where others have to leave, and run where others may not.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Also that pods have no network, if theirs is the node's.
const ON_HOST: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// A pod of the template as nodes judge it.
pub(super) fn model(set: &Value) -> PodView {
    PodView::read(&json!({"spec": spec(set)}), 0)
}

fn spec(set: &Value) -> Value {
    let mut spec = set["spec"]["template"]["spec"].clone();
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let on_host = Some(&ON_HOST).filter(|_| spec["hostNetwork"] == true);
    for (key, effect) in TOLERATED.iter().chain(on_host) {
        let wanted = json!({"key": key, "operator": "Exists", "effect": effect});
        tolerations.retain(|present| present["key"] != *key || present["effect"] != *effect);
        tolerations.push(wanted);
    }
    map_of(&mut spec).insert("tolerations".to_owned(), json!(tolerations));
    spec
}

/// The pod for a node.
pub(super) fn on(set: &Value, node: &str, hash: &str) -> Value {
    let mut pod = template::pod(&set["spec"]["template"], set);
    let mut spec = spec(set);
    let affinity = map_at(map_at(map_of(&mut spec), "affinity"), "nodeAffinity");
    let named = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    affinity.insert(
        "requiredDuringSchedulingIgnoredDuringExecution".to_owned(),
        json!({"nodeSelectorTerms": [{"matchFields": [named]}]}),
    );
    let labels = map_at(map_at(map_of(&mut pod), "metadata"), "labels");
    labels.insert(HASH_LABEL.to_owned(), json!(hash));
    map_of(&mut pod).insert("spec".to_owned(), spec);
    pod
}
