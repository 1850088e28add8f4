//! What a pod asks for, prepared once for all nodes: how many pods are in each domain that its rules, or those of others, are about.

use super::Needs;
use crate::world::{Count, Key, NodeView, Placement, PodView, Spread, Term, Topology, Used, World};

/// Pods in each domain of a topology.
pub(super) struct Domains<'w> {
    pub(super) topology: &'w Topology,
    pub(super) counts: Vec<i64>,
}

impl<'w> Domains<'w> {
    pub(super) fn new(topology: &'w Topology) -> Self {
        Self { topology, counts: vec![0; topology.size()] }
    }

    pub(super) fn add(&mut self, slot: u32, count: i64) {
        if let Some(domain) = self.topology.domain(slot)
            && let Some(sum) = self.counts.get_mut(domain as usize)
        {
            *sum += count;
        }
    }

    /// How many are in the domain of a node; `None` when it is in none.
    pub(super) fn at(&self, slot: u32) -> Option<i64> {
        self.counts.get(self.topology.domain(slot)? as usize).copied()
    }
}

/// A node as a pod would find it.
#[derive(Clone, Copy)]
pub(super) struct At<'w, 'a> {
    pub(super) slot: u32,
    pub(super) node: &'w NodeView,
    pub(super) used: &'a Used,
    /// Pods that are there and are thought away.
    pub(super) gone: &'a [(&'w Key, &'w PodView)],
}

/// Pods that are counted by domain, and who they are.
pub(super) struct Counted<'w> {
    pub(super) domains: Domains<'w>,
    /// None: no pod says of anybody that it means them.
    pub(super) term: Option<&'w Term>,
}

/// A topology in which pods keep this one away.
pub(super) struct Repelling<'w> {
    pub(super) key: &'w str,
    pub(super) domains: Domains<'w>,
    /// The terms that mean this pod.
    pub(super) terms: Vec<(u32, &'w Term)>,
}

/// A hard constraint on how evenly pods are spread.
pub(super) struct Evenness<'w> {
    pub(super) constraint: &'w Spread,
    pub(super) counted: Counted<'w>,
    /// In the emptiest domain.
    pub(super) least: i64,
    /// Which nodes count; `None`: all with the topologies.
    pub(super) counts_on: Vec<bool>,
    /// Whether the pod itself is one of those that are counted.
    pub(super) itself: i64,
}

/// What a pod asks for.
pub(super) struct Ask<'w> {
    pub(super) world: &'w World,
    pub(super) key: &'w Key,
    pub(super) pod: &'w PodView,
    pub(super) class: Option<u32>,
    pub(super) repelling: Vec<Repelling<'w>>,
    pub(super) apart: Vec<Counted<'w>>,
    /// In each of these topologies pods must be near.
    pub(super) near: Vec<Counted<'w>>,
    /// Whether the pod may be the first of those that it wants to be near.
    pub(super) first: bool,
    pub(super) even: Vec<Evenness<'w>>,
    pub(super) needs: &'w Needs<'w>,
}

impl<'w> Ask<'w> {
    pub(super) fn new(world: &'w World, key: &'w Key, pod: &'w PodView, needs: &'w Needs<'w>) -> Self {
        let placement = world.placement();
        let class = placement.crowd.class_of(&key.0, &pod.labels);
        let terms = class.into_iter().flat_map(|(_, class)| &class.terms);
        let mut repelling: Vec<Repelling<'w>> = Vec::new();
        for (id, term) in terms.filter_map(|id| Some((*id, placement.crowd.term(*id)?))) {
            for (key, places) in &term.repelled {
                let Some(topology) = placement.topologies.get(key) else { continue };
                let at = repelling.iter().position(|r| r.key == &**key).unwrap_or_else(|| {
                    repelling.push(Repelling { key, domains: Domains::new(topology), terms: Vec::new() });
                    repelling.len() - 1
                });
                let Some(of) = repelling.get_mut(at) else { continue };
                of.terms.push((id, term));
                for (slot, count) in places {
                    of.domains.add(*slot, *count);
                }
            }
        }
        let class = class.map(|(id, _)| id);
        let mut ask = Self {
            world,
            key,
            pod,
            class,
            repelling,
            apart: Vec::new(),
            near: Vec::new(),
            first: false,
            even: Vec::new(),
            needs,
        };
        ask.read_rules(placement);
        ask
    }

    fn read_rules(&mut self, placement: &'w Placement) {
        let Some(rules) = self.pod.rules.as_deref() else { return };
        let counted = |whom, key: &str| {
            let term = placement.crowd.term_of(whom);
            let mut domains = Domains::new(placement.topologies.get(key)?);
            for (slot, count) in term.into_iter().flat_map(|term| &term.placed) {
                domains.add(*slot, count.all);
            }
            Some(Counted { domains, term })
        };
        self.apart =
            rules.anti_affinity.iter().filter_map(|near| counted(&near.whom, &near.topology)).collect();
        if let Some((whom, topologies)) = &rules.affinity {
            self.near = topologies.iter().filter_map(|key| counted(whom, key)).collect();
            let nobody = self.near.iter().all(|of| of.domains.counts.iter().all(|count| *count == 0));
            let itself = placement.crowd.term_of(whom).zip(self.class);
            self.first = nobody && itself.is_some_and(|(term, class)| term.selects(class));
        }
        let hard: Vec<&'w Spread> = rules.spread.iter().filter(|spread| spread.is_hard).collect();
        self.even =
            hard.iter().filter_map(|constraint| self.evenness(placement, constraint, &hard)).collect();
    }

    fn evenness(
        &self,
        placement: &'w Placement,
        constraint: &'w Spread,
        all: &[&Spread],
    ) -> Option<Evenness<'w>> {
        let counts_on = self.counts_on(placement, constraint, all);
        let term = placement.crowd.term_of(&constraint.whom);
        let mut domains = Domains::new(placement.topologies.get(&constraint.topology)?);
        let mut is_there = vec![false; domains.counts.len()];
        for (slot, counts) in (0u32..).zip(&counts_on) {
            if *counts
                && let Some(domain) = domains.topology.domain(slot)
                && let Some(there) = is_there.get_mut(domain as usize)
            {
                *there = true;
            }
        }
        for (slot, Count { staying, .. }) in term.into_iter().flat_map(|term| &term.placed) {
            if counts_on.get(*slot as usize) == Some(&true) {
                domains.add(*slot, *staying);
            }
        }
        let counts =
            domains.counts.iter().zip(&is_there).filter(|(_, there)| **there).map(|(count, _)| *count);
        let number = i64::try_from(is_there.iter().filter(|there| **there).count()).unwrap_or(i64::MAX);
        let least = counts.min().unwrap_or(0);
        let least = if constraint.min_domains.is_some_and(|wanted| number < wanted) { 0 } else { least };
        let itself = term.zip(self.class).is_some_and(|(term, class)| term.selects(class));
        Some(Evenness {
            constraint,
            counted: Counted { domains, term },
            least,
            counts_on,
            itself: i64::from(itself),
        })
    }

    /// Which nodes a constraint looks at.
    pub(super) fn counts_on(&self, placement: &Placement, constraint: &Spread, all: &[&Spread]) -> Vec<bool> {
        let topologies: Vec<&Topology> =
            all.iter().filter_map(|s| placement.topologies.get(&s.topology)).collect();
        let chosen = !self.pod.node_selector.is_empty() || self.pod.node_affinity.is_some();
        let slots = (0u32..).zip(&placement.slots);
        let counts = slots.map(|(index, slot)| {
            let Some(node) = slot.node.as_deref() else { return false };
            topologies.iter().all(|topology| topology.domain(index).is_some())
                && (!chosen || !constraint.honours_affinity || super::filter::selects(self.pod, node))
                && (!constraint.honours_taints || super::filter::bears_taints(self.pod, node))
        });
        counts.collect()
    }

    /// How many of the pods that are thought away a term means.
    pub(super) fn meant(&self, term: Option<&Term>, at: &At<'_, '_>) -> i64 {
        let Some(term) = term else { return 0 };
        let crowd = &self.world.placement().crowd;
        let is_meant = |(key, pod): &&(&Key, &PodView)| {
            crowd.class_of(&key.0, &pod.labels).is_some_and(|(class, _)| term.selects(class))
        };
        i64::try_from(at.gone.iter().filter(is_meant).count()).unwrap_or(i64::MAX)
    }
}
