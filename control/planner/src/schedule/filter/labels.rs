//! `spec.nodeSelector`.

use crate::world::{NodeView, PodView};

pub(super) fn refusals(pod: &PodView, node: &NodeView) -> Vec<String> {
    let fits = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    if fits { Vec::new() } else { vec!["node(s) didn't match Pod's node affinity/selector".to_owned()] }
}
