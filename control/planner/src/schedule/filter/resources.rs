//! What is left of a node's allocatable resources.

use super::super::Taken;
use crate::world::{NodeView, PodView};

pub(super) fn refusals(pod: &PodView, node: &NodeView, taken: &Taken) -> Vec<String> {
    let mut refusals = Vec::new();
    if taken.pods >= node.max_pods {
        refusals.push("Too many pods".to_owned());
    }
    for (name, wanted, left) in [
        ("cpu", pod.cpu_milli, node.cpu_milli - taken.cpu_milli),
        ("memory", pod.memory, node.memory - taken.memory),
        ("ephemeral-storage", pod.storage, node.storage - taken.storage),
    ] {
        if wanted > 0 && wanted > left {
            refusals.push(format!("Insufficient {name}"));
        }
    }
    refusals
}
