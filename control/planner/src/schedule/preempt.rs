//! Who would have to go so that a pod fits: as few as do, the least important, and none that a budget protects if that can be.
//!
//! Source: pkg/scheduler/framework/preemption.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use oarlock_api::catalogue::{KINDS, Kind};
use oarlock_api::selector::Selector;

use super::ask::{Ask, At};
use super::filter::{self, Fit};
use super::refusal::{Refusal, Tally};
use crate::world::{Key, PodView, Slot, Used, World};

/// How many nodes are thought through at most: a tenth, and not fewer than this.
const ENOUGH: usize = 100;

/// A node, and who has to go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Victims {
    pub(crate) node: String,
    pub(crate) pods: Vec<Key>,
}

type Pod<'w> = (&'w Key, &'w PodView);

/// Finds the node where the least has to go, or says why there is none.
pub(super) fn find<'w>(ask: &Ask<'w>, full: &[u32], nodes: usize) -> Result<Victims, String> {
    if !ask.pod.preempts {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_others(ask) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let mut budgets = Budgets::read(ask.world);
    let mut tally = Tally::default();
    tally.count_times(Refusal::NotHelpful, nodes - full.len());
    let mut best: Option<(Cost, Victims)> = None;
    let (mut found, mut reasons) = (0, Vec::new());
    for slot in full {
        let Some(place) = ask.world.placement().slot(*slot) else { continue };
        match on_node(ask, *slot, place, &mut budgets, &mut reasons) {
            Some((cost, victims)) => {
                found += 1;
                if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                    best = Some((cost, victims));
                }
            }
            None => reasons.drain(..).for_each(|refusal| tally.count(refusal)),
        }
        if found >= ENOUGH.max(nodes / 10) {
            break;
        }
    }
    best.map(|(_, victims)| victims).ok_or_else(|| tally.sentence(nodes))
}

/// Whether pods are on their way out for it already.
fn waits_for_others(ask: &Ask<'_>) -> bool {
    let Some(node) = &ask.pod.nominated else { return false };
    ask.world
        .pods_on(node)
        .any(|(_, pod)| pod.is_terminating() && !pod.has_ended() && pod.priority < ask.pod.priority)
}

/// What a node costs: budgets broken, the most important victim, their importance together, their number, and how long the most
/// important has been there (who came last goes first).
type Cost = (usize, i64, i64, usize, Reverse<Option<jiff::Timestamp>>);

fn on_node<'w>(
    ask: &Ask<'w>,
    slot: u32,
    place: &'w Slot,
    budgets: &mut Budgets,
    reasons: &mut Vec<Refusal<'w>>,
) -> Option<(Cost, Victims)> {
    reasons.clear();
    let node = place.node.as_deref()?;
    let mut lower: Vec<Pod<'w>> = ask
        .world
        .pods_on(&node.name)
        .filter(|(_, pod)| !pod.has_ended() && pod.priority < ask.pod.priority)
        .collect();
    if lower.is_empty() {
        reasons.push(Refusal::NoVictims);
        return None;
    }
    let mut used = super::with_nominated(ask, place).into_owned();
    lower.iter().for_each(|(_, pod)| used.add(pod, -1));
    if !fits(ask, slot, place, &used, &lower, reasons) {
        return None;
    }
    // The most important first, and of equals who has been there longest: they are let stay if that can be.
    lower.sort_by_key(|(key, pod)| (Reverse(pod.priority), pod.created, *key));
    budgets.begin();
    let (protected, others): (Vec<Pod<'w>>, Vec<Pod<'w>>) =
        lower.iter().copied().partition(|(key, pod)| budgets.is_broken_by(key, pod));
    let mut gone: Vec<Pod<'w>> = lower;
    let mut broken = 0;
    for (pods, breaks) in [(protected, 1), (others, 0)] {
        for pod in pods {
            gone.retain(|(key, _)| *key != pod.0);
            used.add(pod.1, 1);
            if !fits(ask, slot, place, &used, &gone, &mut Vec::new()) {
                used.add(pod.1, -1);
                gone.push(pod);
                broken += breaks;
            }
        }
    }
    gone.sort_by_key(|(key, pod)| (Reverse(pod.priority), pod.created, *key));
    let highest = gone.first().map_or(i64::MIN, |(_, pod)| pod.priority);
    let oldest =
        gone.iter().filter(|(_, pod)| pod.priority == highest).map(|(_, pod)| pod.created).min().flatten();
    let sum = gone.iter().map(|(_, pod)| pod.priority.saturating_add(i64::from(i32::MAX) + 1)).sum();
    let cost = (broken, highest, sum, gone.len(), Reverse(oldest));
    let pods = gone.into_iter().map(|(key, _)| key.clone()).collect();
    Some((cost, Victims { node: node.name.to_string(), pods }))
}

fn fits<'w>(
    ask: &Ask<'w>,
    slot: u32,
    place: &'w Slot,
    used: &Used,
    gone: &[Pod<'w>],
    reasons: &mut Vec<Refusal<'w>>,
) -> bool {
    let Some(node) = place.node.as_deref() else { return false };
    filter::check(ask, &At { slot, node, used, gone }, reasons) == Fit::Fits
}

/// PodDisruptionBudgets: how many pods each may still lose.
struct Budgets {
    all: Vec<(String, Selector, i64)>,
    left: Vec<i64>,
}

impl Budgets {
    fn read(world: &World) -> Self {
        let kind: Option<&&Kind> = KINDS.iter().find(|kind| kind.plural == "poddisruptionbudgets");
        let held = kind.into_iter().flat_map(|kind| world.list(kind));
        let all = held.filter_map(|(key, held)| {
            let selector = Selector::from_label_selector(held.value["spec"].get("selector")).ok()??;
            Some((key.0.clone(), selector, held.value["status"]["disruptionsAllowed"].as_i64().unwrap_or(0)))
        });
        Self { all: all.collect(), left: Vec::new() }
    }

    /// Another node is thought through.
    fn begin(&mut self) {
        self.left = self.all.iter().map(|(_, _, allowed)| *allowed).collect();
    }

    /// Counts the pod as lost; whether a budget allows no more.
    fn is_broken_by(&mut self, key: &Key, pod: &PodView) -> bool {
        let mut broken = false;
        for ((namespace, selector, _), left) in self.all.iter().zip(&mut self.left) {
            if *namespace == key.0 && selector.matches_with(|label| pod.label(label)) {
                *left -= 1;
                broken |= *left < 0;
            }
        }
        broken
    }
}

/// Pods of less importance that were to get a node which another now gets.
pub(crate) fn outbid<'w>(world: &'w World, node: &str, priority: i64) -> BTreeMap<&'w Key, &'w PodView> {
    let placement = world.placement();
    let slot = placement.slot_of(node).and_then(|slot| placement.slot(slot));
    let nominated = slot.into_iter().flat_map(|slot| &slot.nominated);
    nominated
        .filter_map(|key| world.pod(key).map(|pod| (key, pod)))
        .filter(|(_, pod)| pod.priority < priority)
        .collect()
}
