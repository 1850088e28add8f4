//! Pods that must be near or must not: this pod's own rules, and those of the pods that are there.

use super::super::ask::{Ask, At};
use super::super::refusal::Refusal;
use super::Fit;

pub(super) fn refusal<'a>(ask: &Ask<'a>, at: &At<'a, '_>) -> Option<(Refusal<'a>, Fit)> {
    if !is_near(ask, at) {
        return Some((Refusal::NotNear, Fit::Hopeless));
    }
    let crowded = |there: Option<i64>, going: i64| there.is_some_and(|there| there - going > 0);
    if ask.apart.iter().any(|of| crowded(of.domains.at(at.slot), ask.meant(of.term, at))) {
        return Some((Refusal::NotApart, Fit::Full));
    }
    let repelled = ask.repelling.iter().any(|of| {
        let going = at.gone.iter().filter_map(|(_, pod)| pod.rules.as_deref());
        let going = going.flat_map(|rules| &rules.anti_affinity).filter(|near| {
            let meant = ask.world.placement().crowd.term_of(&near.whom);
            *near.topology == *of.key
                && meant.is_some_and(|meant| of.terms.iter().any(|(_, t)| std::ptr::eq(*t, meant)))
        });
        crowded(of.domains.at(at.slot), i64::try_from(going.count()).unwrap_or(i64::MAX))
    });
    repelled.then_some((Refusal::Repelled, Fit::Full))
}

/// Whether all that it must be near is. Who wants to be near pods like itself may be the first, where all topologies are.
fn is_near(ask: &Ask<'_>, at: &At<'_, '_>) -> bool {
    let placed = |of: &super::super::ask::Counted<'_>| {
        of.domains.at(at.slot).map(|there| there - ask.meant(of.term, at))
    };
    if ask.first {
        return ask.near.iter().all(|of| placed(of).is_some());
    }
    ask.near.iter().all(|of| placed(of).is_some_and(|there| there > 0))
}
