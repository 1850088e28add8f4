//! Nodes that have the pod's images already are better, the more the larger these are. An image that few nodes have counts less, so
//! that its pods do not all go to those.

use super::super::ask::{Ask, At};

const MEBIBYTE: i64 = 1024 * 1024;
/// Less than this is pulled soon enough.
const SMALL: i64 = 23 * MEBIBYTE;
/// More than this, for each container, makes no difference.
const LARGE: i64 = 1000 * MEBIBYTE;

pub(super) fn points(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let placement = ask.world.placement();
    let images: Vec<_> = ask.pod.images.iter().filter_map(|name| placement.images.sizes(name)).collect();
    if images.is_empty() {
        return Vec::new();
    }
    let all = i64::try_from(placement.nodes()).unwrap_or(i64::MAX).max(1);
    let most = LARGE * i64::try_from(ask.pod.images.len()).unwrap_or(1);
    let points = |at: &At<'_, '_>| {
        let sizes = images.iter().filter_map(|sizes| {
            let having = i64::try_from(sizes.len()).unwrap_or(i64::MAX);
            Some(sizes.get(&at.slot)?.saturating_mul(having) / all)
        });
        let sum: i64 = sizes.sum();
        (sum.clamp(SMALL, most) - SMALL) * 100 / (most - SMALL)
    };
    nodes.iter().map(points).collect()
}
