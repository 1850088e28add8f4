//! Preferred node affinity.

use super::super::ask::{Ask, At};
use crate::world::NodeView;

pub(super) fn points(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let Some(rules) = ask.pod.rules.as_deref().filter(|rules| !rules.nodes.is_empty()) else {
        return Vec::new();
    };
    let weight = |node: &NodeView| {
        let label = |key: &str| node.labels.get(key).map(AsRef::as_ref);
        rules
            .nodes
            .iter()
            .filter(|(_, term)| term.matches(&node.name, label))
            .map(|(weight, _)| *weight)
            .sum()
    };
    super::of_the_most(super::each(nodes, weight))
}
