//! How good a node is for a pod: spread the replicas, then balance what is used.

mod least_allocated;
mod spread;

use super::Taken;
use crate::world::{NodeView, PodView};

/// The sum of the rules, each from 0 to 100 with its weight.
pub(super) fn score(pod: &PodView, node: &NodeView, taken: &Taken) -> i64 {
    spread::score(taken) * 4 + least_allocated::score(pod, node, taken) + preference(pod, node) * 3
}

/// Nodes with PreferNoSchedule taints that the pod does not bear come last.
fn preference(pod: &PodView, node: &NodeView) -> i64 {
    let soft = node.taints.iter().filter(|t| &*t.effect == "PreferNoSchedule");
    let unborne = soft.filter(|taint| !pod.tolerations.iter().any(|t| t.bears(taint))).count();
    if unborne == 0 { 100 } else { 0 }
}
