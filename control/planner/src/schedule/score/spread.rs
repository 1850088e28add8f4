//! Domains with fewer pods of the same kind are better: by the constraints that need not hold, or, for a pod that has none, among
//! the pods of its controller by node and by zone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::ask::{Ask, At, Domains};
use crate::world::{Count, HOSTNAME, Spread, Topology, ZONE};

/// One thing to be even about.
struct Even<'w> {
    domains: Domains<'w>,
    /// A domain counts less where there are few of them.
    weight: f64,
    max_skew: i64,
}

pub(super) fn points(ask: &Ask<'_>, nodes: &[At<'_, '_>]) -> Vec<i64> {
    let constraints: Vec<&Spread> = ask.pod.rules.iter().flat_map(|rules| &rules.spread).collect();
    let soft: Vec<&Spread> = constraints.iter().copied().filter(|constraint| !constraint.is_hard).collect();
    let all = match constraints.is_empty() {
        true => among_siblings(ask, nodes),
        false => by_constraints(ask, nodes, &soft),
    };
    if all.is_empty() {
        return Vec::new();
    }
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "numbers of pods")]
    let sum = |at: &At<'_, '_>| {
        let points = all.iter().filter_map(|even| {
            Some(even.domains.at(at.slot)? as f64 * even.weight + (even.max_skew - 1) as f64)
        });
        // A node that is in none of a constraint's domains is the last choice.
        let is_in_all = constraints.is_empty() || all.iter().all(|even| even.domains.at(at.slot).is_some());
        is_in_all.then(|| points.sum::<f64>().round() as i64)
    };
    let raw: Vec<Option<i64>> = nodes.iter().map(sum).collect();
    let known = || raw.iter().flatten().copied();
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let points = |sum: Option<i64>| match sum {
        None => 0,
        Some(_) if most == 0 => 100,
        Some(sum) => 100 * (most + least - sum) / most,
    };
    raw.into_iter().map(points).collect()
}

fn by_constraints<'w>(ask: &Ask<'w>, nodes: &[At<'_, '_>], soft: &[&'w Spread]) -> Vec<Even<'w>> {
    let placement = ask.world.placement();
    let even = |constraint: &&'w Spread| {
        let topology = placement.topologies.get(&constraint.topology)?;
        let counts_on = ask.counts_on(placement, constraint, soft);
        let mut domains = Domains::new(topology);
        let term = placement.crowd.term_of(&constraint.whom);
        for (slot, Count { staying, .. }) in term.into_iter().flat_map(|term| &term.placed) {
            if counts_on.get(*slot as usize) == Some(&true) {
                domains.add(*slot, *staying);
            }
        }
        Some(Even { weight: weight(topology, nodes), domains, max_skew: constraint.max_skew })
    };
    soft.iter().filter_map(even).collect()
}

/// Upstream's default constraints.
fn among_siblings<'w>(ask: &Ask<'w>, nodes: &[At<'_, '_>]) -> Vec<Even<'w>> {
    let placement = ask.world.placement();
    let Some(controller) = &ask.pod.controller else { return Vec::new() };
    let none = BTreeMap::new();
    let siblings = placement.siblings(controller).unwrap_or(&none);
    let even = |(key, max_skew): (&str, i64)| {
        let topology = placement.topologies.get(key)?;
        let mut domains = Domains::new(topology);
        for (slot, Count { staying, .. }) in siblings {
            domains.add(*slot, *staying);
        }
        Some(Even { weight: weight(topology, nodes), domains, max_skew })
    };
    [(HOSTNAME, 3), (ZONE, 5)].into_iter().filter_map(even).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a number of domains")]
fn weight(topology: &Topology, nodes: &[At<'_, '_>]) -> f64 {
    let domains: BTreeSet<u32> = nodes.iter().filter_map(|at| topology.domain(at.slot)).collect();
    (domains.len() as f64 + 2.0).ln()
}
