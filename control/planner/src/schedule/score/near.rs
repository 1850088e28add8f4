//! Pods that had better be near, or rather not: this pod's own preferences, and those of the pods that are there.

use super::super::ask::{Ask, At, Domains};

pub(super) fn points(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let placement = ask.world.placement();
    let mut all: Vec<Domains<'_>> = Vec::new();
    for (weight, near) in ask.pod.rules.iter().flat_map(|rules| &rules.preferred) {
        let term = placement.crowd.term_of(&near.whom).filter(|term| !term.placed.is_empty());
        let (Some(topology), Some(term)) = (placement.topologies.get(&near.topology), term) else { continue };
        let mut domains = Domains::new(topology);
        for (slot, count) in &term.placed {
            domains.add(*slot, weight * count.all);
        }
        all.push(domains);
    }
    let class = placement.crowd.class_of(&ask.key.0, &ask.pod.labels);
    let terms =
        class.into_iter().flat_map(|(_, class)| &class.terms).filter_map(|id| placement.crowd.term(*id));
    for (key, places) in terms.flat_map(|term| &term.drawn) {
        let Some(topology) = placement.topologies.get(key) else { continue };
        let mut domains = Domains::new(topology);
        for (slot, weight) in places {
            domains.add(*slot, *weight);
        }
        all.push(domains);
    }
    if all.is_empty() {
        return Vec::new();
    }
    let sum = |at: &At<'_, '_>| all.iter().filter_map(|domains| domains.at(at.slot)).sum();
    let raw: Vec<i64> = nodes.iter().map(sum).collect();
    let (least, most) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
    let range = most - least;
    raw.into_iter().map(|sum| if range == 0 { 0 } else { (sum - least) * 100 / range }).collect()
}
