//! `hostPort`: a port of the node that another pod has.

use super::super::Taken;

pub(super) fn refusals(taken: &Taken) -> Vec<String> {
    let refusal = || "node(s) didn't have free ports for the requested pod ports".to_owned();
    taken.ports.then(refusal).into_iter().collect()
}
