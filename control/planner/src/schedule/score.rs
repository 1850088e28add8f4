//! How good the nodes that are in are for a pod. One rule a file: each gives points from 0 to 100 relative to the others, and
//! counts as often as in upstream's default profile.

mod images;
mod labels;
mod near;
mod resources;
mod spread;
mod taints;

use super::ask::{Ask, At};
use crate::world::NodeView;

/// The points of each node.
pub(super) fn score(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let mut sums = vec![0; nodes.len()];
    for (weight, points) in [
        (3, taints::points(ask, nodes)),
        (2, labels::points(ask, nodes)),
        (1, resources::least_allocated(ask, nodes)),
        (1, resources::balanced(ask, nodes)),
        (1, images::points(ask, nodes)),
        (2, near::points(ask, nodes)),
        (2, spread::points(ask, nodes)),
    ] {
        for (sum, points) in sums.iter_mut().zip(points) {
            *sum += weight * points;
        }
    }
    sums
}

/// Points of 100 for the most of something; none when nobody has any.
fn of_the_most(raw: Vec<i64>) -> Vec<i64> {
    let most = raw.iter().copied().max().unwrap_or(0);
    if most <= 0 { raw } else { raw.into_iter().map(|points| points * 100 / most).collect() }
}

fn each(nodes: &[At<'_, '_>], points: impl Fn(&NodeView) -> i64) -> Vec<i64> {
    nodes.iter().map(|at| points(at.node)).collect()
}
