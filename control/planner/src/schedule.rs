//! The scheduler: which node a pod goes to. Filter, then score; one rule a file. Deterministic.

mod filter;
mod score;

use std::collections::BTreeMap;

use crate::world::{NodeView, PodView, World};

/// What came of looking for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The node's name.
    Node(String),
    /// Upstream's sentence: how many nodes, and how many are out for which reason.
    None(String),
}

/// What the pods of a node have taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) cpu_milli: i64,
    pub(crate) memory: i64,
    pub(crate) storage: i64,
    pub(crate) pods: i64,
    /// Pods of the same controller.
    pub(crate) siblings: i64,
    /// Whether one has a port of the node that is asked for.
    pub(crate) ports: bool,
}

/// Finds the best node for a pod.
pub(crate) fn find(world: &World, pod: &PodView) -> Verdict {
    let mut best: Option<(i64, &str)> = None;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut count = 0;
    // A pod that may go to one node only, as those of DaemonSets: the others need no look.
    let only = pod.node_affinity.as_ref().and_then(|affinity| affinity.only_node());
    for node in world.nodes() {
        count += 1;
        if only.is_some_and(|only| *only != *node.name) {
            *reasons.entry(filter::NOT_NAMED.to_owned()).or_default() += 1;
            continue;
        }
        let taken = taken(world, node, pod);
        let refusals = filter::refusals(pod, node, &taken);
        if refusals.is_empty() {
            let candidate = (score::score(pod, node, &taken), &*node.name);
            // A higher score wins, then the earlier name.
            if best.is_none_or(|b| candidate.0 > b.0) {
                best = Some(candidate);
            }
        }
        for refusal in refusals {
            *reasons.entry(refusal).or_default() += 1;
        }
    }
    match best {
        Some((_, name)) => Verdict::Node(name.to_owned()),
        None if count == 0 => Verdict::None("no nodes available to schedule pods".to_owned()),
        None => {
            let reasons: Vec<String> =
                reasons.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            Verdict::None(format!("0/{count} nodes are available: {}.", reasons.join(", ")))
        }
    }
}

/// Whether a pod's node selector and required affinity select a node.
pub(crate) fn selects(pod: &PodView, node: &NodeView) -> bool {
    filter::selects(pod, node)
}

fn taken(world: &World, node: &NodeView, pod: &PodView) -> Taken {
    let mut taken = Taken::default();
    for (_, other) in world.pods_on(&node.name).filter(|(_, p)| !p.has_ended()) {
        taken.cpu_milli += other.cpu_milli;
        taken.memory += other.memory;
        taken.storage += other.storage;
        taken.pods += 1;
        taken.siblings += i64::from(pod.controller.is_some() && other.controller == pod.controller);
        taken.ports |= pod.host_ports.iter().any(|port| other.host_ports.iter().any(|p| p.conflicts(port)));
    }
    taken
}

#[cfg(test)]
mod tests;
