//! The scheduler: which node a pod goes to. Filter, then score; one rule a file. The same world gives the same node.
//!
//! Source: pkg/scheduler (schedule_one.go, framework/plugins) of Kubernetes 1.33.

mod ask;
mod filter;
mod preempt;
mod refusal;
mod score;
mod volumes;

use std::borrow::Cow;

use crate::world::{Key, NodeView, PodView, Slot, Used, World};
use ask::{Ask, At};
use filter::Fit;
use refusal::{Refusal, Tally};

pub(crate) use preempt::{Victims, outbid};
pub(crate) use volumes::Needs;

/// What came of looking for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The node's name.
    Node(String),
    /// No node now, and one when these pods have gone; why none now.
    Preempt(Victims, String),
    /// Upstream's sentence: how many nodes, and how many are out for which reason.
    None(String),
}

/// What a look at the nodes has found.
struct Search<'w> {
    /// Nodes that are in, with what is taken there.
    fitting: Vec<(u32, &'w NodeView, Cow<'w, Used>)>,
    /// Nodes that are out, and might not be when pods go.
    full: Vec<u32>,
    tally: Tally<'w>,
}

/// Finds the best node for a pod.
pub(crate) fn find<'w>(world: &'w World, key: &'w Key, pod: &'w PodView, needs: &'w Needs<'w>) -> Verdict {
    let nodes = world.placement().nodes();
    if nodes == 0 {
        return Verdict::None("no nodes available to schedule pods".to_owned());
    }
    let ask = Ask::new(world, key, pod, needs);
    if let Some(name) = nominated(&ask) {
        return Verdict::Node(name);
    }
    let search = search(&ask, nodes);
    if search.fitting.is_empty() {
        let why = search.tally.sentence(nodes);
        return match preempt::find(&ask, &search.full, nodes) {
            Ok(victims) => Verdict::Preempt(victims, why),
            Err(also) => Verdict::None(format!("{why} preemption: {also}")),
        };
    }
    let nodes: Vec<At<'_, '_>> =
        search.fitting.iter().map(|(slot, node, used)| At { slot: *slot, node, used, gone: &[] }).collect();
    // Who is alone need not be compared.
    let best = if nodes.len() == 1 {
        nodes.first()
    } else {
        let scores = score::score(&ask, &nodes);
        let best =
            scores.iter().enumerate().max_by_key(|(index, score)| (**score, std::cmp::Reverse(*index)));
        best.and_then(|(index, _)| nodes.get(index))
    };
    best.map_or_else(|| Verdict::None(String::new()), |at| Verdict::Node(at.node.name.to_string()))
}

/// Upstream's sentence for a pod that no node can have, whichever it is.
pub(crate) fn whatever_node(world: &World, why: &str) -> String {
    let nodes = world.placement().nodes();
    let mut tally = Tally::default();
    tally.count_times(Refusal::NotHelpful, nodes);
    format!("0/{nodes} nodes are available: {why}. preemption: {}", tally.sentence(nodes))
}

/// The node that others have left for this pod, if it is in.
fn nominated(ask: &Ask<'_>) -> Option<String> {
    let placement = ask.world.placement();
    let slot = placement.slot_of(ask.pod.nominated.as_deref()?)?;
    let place = placement.slot(slot)?;
    let node = place.node.as_deref()?;
    let used = with_nominated(ask, place);
    let at = At { slot, node, used: &used, gone: &[] };
    (filter::check(ask, &at, &mut Vec::new()) == Fit::Fits).then(|| node.name.to_string())
}

/// Looks at nodes until enough of them are in, from a place on that depends on the pod.
fn search<'w>(ask: &Ask<'w>, nodes: usize) -> Search<'w> {
    let placement = ask.world.placement();
    let mut search = Search { fitting: Vec::new(), full: Vec::new(), tally: Tally::default() };
    // A pod that may go to one node only, as those of DaemonSets: the others need no look.
    let only = ask.pod.node_affinity.as_ref().and_then(|affinity| affinity.only_node());
    let only = only.map(|name| placement.slot_of(name));
    let all = placement.slots.len();
    let (begin, count) = match only {
        Some(None) => (0, 0),
        Some(Some(slot)) => (slot as usize, 1),
        None => (start(&ask.pod.uid, all), all),
    };
    let enough = enough(nodes);
    let (mut looked, mut reasons) = (0, Vec::new());
    for index in (begin..begin + count).map(|index| index % all.max(1)) {
        let (Some(place), Ok(slot)) = (placement.slots.get(index), u32::try_from(index)) else { continue };
        let Some(node) = place.node.as_deref() else { continue };
        looked += 1;
        let used = with_nominated(ask, place);
        match filter::check(ask, &At { slot, node, used: &used, gone: &[] }, &mut reasons) {
            Fit::Fits => search.fitting.push((slot, node, used)),
            Fit::Full => search.full.push(slot),
            Fit::Hopeless => {}
        }
        reasons.drain(..).for_each(|refusal| search.tally.count(refusal));
        if search.fitting.len() >= enough {
            return search;
        }
    }
    search.tally.count_times(Refusal::NotSelected, nodes - looked);
    search
}

/// How many nodes to compare: all of a few, ever fewer of many, as upstream's numFeasibleNodesToFind.
fn enough(nodes: usize) -> usize {
    const FEW: usize = 100;
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    if nodes < FEW { nodes } else { (nodes * percent / 100).max(FEW) }
}

/// Where to begin to look: pods begin at different nodes, so that all nodes get their share.
fn start(uid: &str, all: usize) -> usize {
    let hash = uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // What is high of a product is spread well, and below `all`.
    usize::try_from((u128::from(hash) * all as u128) >> 64).unwrap_or(0)
}

/// What is taken of a node, with the pods that are to come there and are not less important.
fn with_nominated<'w>(ask: &Ask<'_>, place: &'w Slot) -> Cow<'w, Used> {
    let mut used = Cow::Borrowed(&place.used);
    for key in place.nominated.iter().filter(|key| *key != ask.key) {
        if let Some(pod) = ask.world.pod(key).filter(|pod| pod.priority >= ask.pod.priority) {
            used.to_mut().add(pod, 1);
        }
    }
    used
}

/// Whether a node has room for a pod, whatever else may be against it.
pub(crate) fn has_room(world: &World, pod: &PodView, node: &str, without: Option<&PodView>) -> bool {
    let placement = world.placement();
    let Some(slot) = placement.slot_of(node) else { return false };
    let Some(place) = placement.slot(slot) else { return false };
    let Some(node) = place.node.as_deref() else { return false };
    let mut used = Cow::Borrowed(&place.used);
    if let Some(gone) = without {
        used.to_mut().add(gone, -1);
    }
    filter::has_room(pod, &At { slot, node, used: &used, gone: &[] })
}

/// Whether a pod's node selector and required affinity select a node.
pub(crate) fn selects(pod: &PodView, node: &NodeView) -> bool {
    filter::selects(pod, node)
}

#[cfg(test)]
mod tests;
