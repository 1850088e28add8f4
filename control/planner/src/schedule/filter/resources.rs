//! What is left of a node's allocatable resources.

use super::super::ask::At;
use super::super::refusal::Refusal;
use super::Fit;
use crate::world::PodView;

pub(super) fn check<'a>(pod: &'a PodView, at: &At<'a, '_>, reasons: &mut Vec<Refusal<'a>>) -> Fit {
    let (node, used) = (at.node, at.used);
    let mut fit = Fit::Fits;
    if used.pods >= node.max_pods {
        reasons.push(Refusal::TooManyPods);
        fit = Fit::Full;
    }
    let mut look = |name: &'a str, wanted: i64, has: i64, taken: i64| {
        if wanted > 0 && wanted > has - taken {
            reasons.push(Refusal::Insufficient(name));
            // What an empty node does not have is not made by others' leaving.
            fit = if wanted > has || fit == Fit::Hopeless { Fit::Hopeless } else { Fit::Full };
        }
    };
    look("cpu", pod.cpu_milli, node.cpu_milli, used.cpu_milli);
    look("memory", pod.memory, node.memory, used.memory);
    look("ephemeral-storage", pod.storage, node.storage, used.storage);
    for (name, wanted) in &pod.extended {
        let has = node.extended.iter().find(|(other, _)| other == name).map_or(0, |(_, amount)| *amount);
        look(name, *wanted, has, used.extended.get(name).copied().unwrap_or(0));
    }
    fit
}
