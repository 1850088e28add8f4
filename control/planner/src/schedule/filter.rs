//! Which nodes are out for a pod, and why, in upstream's words.

mod labels;
mod ports;
mod resources;
mod taints;

use super::Taken;
use crate::world::{NodeView, PodView, Taint};

pub(super) use labels::selects;

/// Why the node is out: all reasons of the first rule that refuses it.
pub(super) fn refusals(pod: &PodView, node: &NodeView, taken: &Taken) -> Vec<String> {
    if node.unschedulable && !pod.bears(&unschedulable()) {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    for refusals in [
        taints::refusals(pod, node),
        labels::refusals(pod, node),
        ports::refusals(taken),
        resources::refusals(pod, node, taken),
    ] {
        if !refusals.is_empty() {
            return refusals;
        }
    }
    Vec::new()
}

/// What `spec.unschedulable` means to who bears taints, as upstream's NodeUnschedulable has it.
fn unschedulable() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: "".into(),
        effect: "NoSchedule".into(),
        added: None,
    }
}

/// The refusal of the nodes that a pod's affinity leaves out by name.
pub(super) const NOT_NAMED: &str = labels::REFUSAL;
