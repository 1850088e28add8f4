//! `spec.nodeSelector` and required node affinity.

use super::super::refusal::Refusal;
use crate::world::{NodeView, PodView};

pub(crate) fn selects(pod: &PodView, node: &NodeView) -> bool {
    let label = |key: &str| node.labels.get(key).map(AsRef::as_ref);
    pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && pod.node_affinity.as_ref().is_none_or(|affinity| affinity.matches(&node.name, label))
}

pub(super) fn refusal<'a>(pod: &PodView, node: &NodeView) -> Option<Refusal<'a>> {
    (!selects(pod, node)).then_some(Refusal::NotSelected)
}
