//! `spec.nodeSelector` and required node affinity.

use crate::world::{NodeView, PodView};

pub(super) const REFUSAL: &str = "node(s) didn't match Pod's node affinity/selector";

pub(crate) fn selects(pod: &PodView, node: &NodeView) -> bool {
    let label = |key: &str| node.labels.get(key).map(AsRef::as_ref);
    pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && pod.node_affinity.as_ref().is_none_or(|affinity| affinity.matches(&node.name, label))
}

pub(super) fn refusals(pod: &PodView, node: &NodeView) -> Vec<String> {
    if selects(pod, node) { Vec::new() } else { vec![REFUSAL.to_owned()] }
}
