//! What is to happen on each node, rollouts aside: a pod where one is wanted, none where none may be, one and not two.
//!
//! Source: `podsShouldBeOnNode` and `NodeShouldRunDaemonPod` of daemon_controller.go.

use super::{Pod, View, Work};
use crate::schedule;
use crate::world::{NodeView, PodView};

/// A pod that failed is replaced so many seconds after it was made at the earliest: its node may refuse the next one, too.
const FAILED_BACKOFF: i64 = 10;

/// A node's part in a DaemonSet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// A pod should be there.
    pub(super) wanted: bool,
    /// One that is there may stay.
    pub(super) kept: bool,
}

/// Judges a node by a pod of the template. A taint that only keeps new pods away lets the present one stay.
pub(super) fn part(model: &PodView, node: &NodeView) -> Part {
    let named = model.node.as_ref().is_none_or(|name| *name == node.name);
    if !named || !schedule::selects(model, node) {
        return Part { wanted: false, kept: false };
    }
    let borne = |effects: &[&str]| {
        node.taints.iter().filter(|t| effects.contains(&&*t.effect)).all(|taint| model.bears(taint))
    };
    Part { wanted: borne(&["NoSchedule", "NoExecute"]), kept: borne(&["NoExecute"]) }
}

impl<'w> View<'w> {
    /// Whether new pods come before old ones go.
    pub(super) fn surges(&self) -> bool {
        self.surge() > 0
    }

    /// What is missing and what is too much.
    pub(super) fn manage(&self, work: &mut Work<'w>) {
        for (node, part) in &self.nodes {
            let pods = self.present(node);
            if part.wanted && pods.is_empty() {
                work.create.insert(node);
            } else if part.kept {
                self.prune(node, *part, &pods, work);
            } else {
                let alive = pods.into_iter().filter(|(_, p)| !p.is_terminating());
                work.delete.extend(alive);
            }
        }
        // Meant for a node that is gone, and never started.
        for (_, pods) in self.pods.iter().filter(|(node, _)| !self.nodes.contains_key(*node)) {
            let lost = pods.iter().copied().filter(|(_, p)| p.node.is_none() && !p.is_terminating());
            work.delete.extend(lost);
        }
    }

    /// The pods on a node, without those that have ended and are going.
    pub(super) fn present(&self, node: &str) -> Vec<Pod<'w>> {
        let all = self.pods.get(node).into_iter().flatten().copied();
        all.filter(|(_, p)| !(p.is_terminating() && p.has_ended())).collect()
    }

    fn prune(&self, node: &'w str, part: Part, pods: &[Pod<'w>], work: &mut Work<'w>) {
        let alive: Vec<Pod> = pods.iter().copied().filter(|(_, p)| !p.is_terminating()).collect();
        for (key, pod) in alive.iter().filter(|(_, p)| p.has_ended()) {
            let age = pod.created.map_or(FAILED_BACKOFF, |t| self.now.as_second() - t.as_second());
            if &*pod.phase == "Failed" && age < FAILED_BACKOFF {
                let left = (FAILED_BACKOFF - age).clamp(1, FAILED_BACKOFF);
                work.again = Some(work.again.map_or(left, |again| again.min(left)));
                continue;
            }
            let say = if &*pod.phase == "Failed" {
                let what = "will try to kill it";
                (
                    "Warning",
                    "FailedDaemonPod",
                    format!("Found failed daemon pod {}/{} on node {node}, {what}", key.0, key.1),
                )
            } else {
                let what = "will try to delete it";
                (
                    "Normal",
                    "SucceededDaemonPod",
                    format!("Found succeeded daemon pod {}/{} on node {node}, {what}", key.0, key.1),
                )
            };
            work.say.push(say);
            work.delete.insert(key, pod);
        }
        let running: Vec<Pod> = alive.into_iter().filter(|(_, p)| !p.has_ended()).collect();
        if !self.surges() {
            // The oldest stays.
            work.delete.extend(running.into_iter().skip(1));
            return;
        }
        if running.is_empty() && part.wanted && pods.iter().all(|(_, p)| p.is_terminating()) {
            work.create.insert(node);
        }
        self.prune_surge(&running, work);
    }

    /// Two may be there only while the old one serves and the new one does not yet.
    fn prune_surge(&self, running: &[Pod<'w>], work: &mut Work<'w>) {
        if running.len() <= 1 {
            return;
        }
        let new = running.iter().find(|(_, p)| self.is_updated(p));
        let old = running.iter().find(|(_, p)| !self.is_updated(p));
        let kept = |pod: &Pod| [new, old].into_iter().flatten().any(|k| k.0 == pod.0);
        work.delete.extend(running.iter().copied().filter(|pod| !kept(pod)));
        if let (Some((_, new)), Some(old)) = (new, old)
            && (!old.1.ready || self.is_available(new))
        {
            work.delete.insert(old.0, old.1);
        }
    }
}
