//! More left after the pod is better, over CPU, memory and the number of pods.

use super::super::Taken;
use crate::world::{NodeView, PodView};

pub(super) fn score(pod: &PodView, node: &NodeView, taken: &Taken) -> i64 {
    let left = |allocatable: i64, taken: i64, wanted: i64| {
        if allocatable <= 0 {
            0
        } else {
            ((allocatable - taken - wanted).max(0).saturating_mul(100)) / allocatable
        }
    };
    let cpu = left(node.cpu_milli, taken.cpu_milli, pod.cpu_milli);
    let memory = left(node.memory, taken.memory, pod.memory);
    let pods = left(node.max_pods, taken.pods, 1);
    (cpu + memory + pods) / 3
}
