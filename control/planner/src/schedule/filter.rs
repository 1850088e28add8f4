//! Which nodes are out for a pod, and why, in upstream's words.

mod labels;
mod resources;
mod taints;

use super::Taken;
use crate::world::{NodeView, PodView};

/// Why the node is out: all reasons of the first rule that refuses it.
pub(super) fn refusals(pod: &PodView, node: &NodeView, taken: &Taken) -> Vec<String> {
    if node.unschedulable {
        return vec!["node(s) were unschedulable".to_owned()];
    }
    for refusals in
        [taints::refusals(pod, node), labels::refusals(pod, node), resources::refusals(pod, node, taken)]
    {
        if !refusals.is_empty() {
            return refusals;
        }
    }
    Vec::new()
}
