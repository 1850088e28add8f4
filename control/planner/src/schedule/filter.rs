//! Which nodes are out for a pod, and why. One rule a file; the first rule that refuses a node is the reason.

mod labels;
mod near;
mod ports;
mod resources;
mod spread;
mod taints;

use super::ask::{Ask, At};
use super::refusal::Refusal;

pub(super) use labels::selects;
pub(super) use taints::is_borne as bears_taints;

/// What a rule says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Nothing against it.
    Fits,
    /// It is out, and may not be when some pods have gone.
    Full,
    /// It is out whoever goes.
    Hopeless,
}

/// Whether a node is in; if it is not, all reasons of the first rule that refuses it are in `reasons`.
pub(super) fn check<'a>(ask: &Ask<'a>, at: &At<'a, '_>, reasons: &mut Vec<Refusal<'a>>) -> Fit {
    reasons.clear();
    let hopeless = taints::refusal(ask.pod, at.node).or_else(|| labels::refusal(ask.pod, at.node));
    if let Some(refusal) = hopeless {
        reasons.push(refusal);
        return Fit::Hopeless;
    }
    if let Some(refusal) = ports::refusal(ask.pod, at.used) {
        reasons.push(refusal);
        return Fit::Full;
    }
    let fit = resources::check(ask.pod, at, reasons);
    if fit != Fit::Fits {
        return fit;
    }
    if let Some(why) = ask.needs.refusal(ask.world, at.node) {
        reasons.push(Refusal::Volumes(why));
        return Fit::Hopeless;
    }
    for rule in [spread::refusal, near::refusal] {
        if let Some((refusal, fit)) = rule(ask, at) {
            reasons.push(refusal);
            return fit;
        }
    }
    Fit::Fits
}

/// Whether what is left of a node would do, whatever else may be against it.
pub(super) fn has_room(pod: &crate::world::PodView, at: &At<'_, '_>) -> bool {
    ports::refusal(pod, at.used).is_none() && resources::check(pod, at, &mut Vec::new()) == Fit::Fits
}
