//! Fewer PreferNoSchedule taints that the pod does not bear are better.

use super::super::ask::{Ask, At};
use crate::world::NodeView;

pub(super) fn points(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let unborne = |node: &NodeView| {
        let soft = node.taints.iter().filter(|t| &*t.effect == "PreferNoSchedule");
        i64::try_from(soft.filter(|taint| !ask.pod.bears(taint)).count()).unwrap_or(i64::MAX)
    };
    super::of_the_most(super::each(nodes, unborne)).into_iter().map(|share| 100 - share).collect()
}
