//! Topology spread constraints that must hold.

use super::super::ask::{Ask, At, Evenness};
use super::super::refusal::Refusal;
use super::Fit;

pub(super) fn refusal<'a>(ask: &Ask<'a>, at: &At<'a, '_>) -> Option<(Refusal<'a>, Fit)> {
    for even in &ask.even {
        let Some(there) = even.counted.domains.at(at.slot) else {
            return Some((Refusal::MissingTopology, Fit::Hopeless));
        };
        let there = there - going(ask, at, even);
        // Who goes may leave this domain the emptiest.
        let least = even.least.min(there);
        if there + even.itself - least > even.constraint.max_skew {
            return Some((Refusal::Uneven, Fit::Full));
        }
    }
    None
}

/// How many of those that are counted are thought away.
fn going(ask: &Ask<'_>, at: &At<'_, '_>, even: &Evenness<'_>) -> i64 {
    if at.gone.is_empty() || even.counts_on.get(at.slot as usize) != Some(&true) {
        return 0;
    }
    let staying: Vec<_> = at.gone.iter().copied().filter(|(_, pod)| !pod.is_terminating()).collect();
    ask.meant(even.counted.term, &At { gone: &staying, ..*at })
}
