//! Taints that the pod does not bear. Nodes that never said they are ready, or have no podCIDR, count as tainted.

use super::super::refusal::Refusal;
use crate::world::{NodeView, PodView, Taint};

pub(super) fn refusal<'a>(pod: &PodView, node: &'a NodeView) -> Option<Refusal<'a>> {
    if node.unschedulable && !pod.bears(&unschedulable()) {
        return Some(Refusal::Unschedulable);
    }
    if &*node.ready != "True" {
        return Some(Refusal::NotReady);
    }
    if node.pod_cidrs.is_empty() {
        return Some(Refusal::NoAddresses);
    }
    unborne(pod, node).map(Refusal::Taint)
}

/// Whether the pod bears what keeps pods away from a node.
pub(crate) fn is_borne(pod: &PodView, node: &NodeView) -> bool {
    unborne(pod, node).is_none()
}

fn unborne<'n>(pod: &PodView, node: &'n NodeView) -> Option<&'n Taint> {
    let hard = node.taints.iter().filter(|t| matches!(&*t.effect, "NoSchedule" | "NoExecute"));
    hard.into_iter().find(|taint| !pod.bears(taint))
}

/// What `spec.unschedulable` means to who bears taints, as upstream's NodeUnschedulable has it.
fn unschedulable() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        value: "".into(),
        effect: "NoSchedule".into(),
        added: None,
    }
}
