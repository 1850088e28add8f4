//! What a rollout may take away or add at this moment.
//!
//! Source: `rollingUpdate` of k8s.io/kubernetes/pkg/controller/daemon/update.go, but stricter: old pods that are
//! replaced because they do not serve count as unavailable, so that no more serving pods are taken than `maxUnavailable`
//! says; and a node counts for `maxSurge` until its old pod is seen to go.

use super::super::rollout::Amount;
use super::{Pod, View, Work};

/// The pods of a node that a rollout looks at.
enum OnNode<'w> {
    /// Two of a kind: `manage` cleans up first.
    Unclear,
    Pods {
        new: Option<Pod<'w>>,
        old: Option<Pod<'w>>,
    },
}

impl<'w> View<'w> {
    fn desired(&self) -> i64 {
        i64::try_from(self.nodes.values().filter(|part| part.wanted).count()).unwrap_or(i64::MAX)
    }

    fn amount(&self, field: &str) -> i64 {
        let strategy = &self.spec()["updateStrategy"];
        if strategy["type"] != "RollingUpdate" {
            return 0;
        }
        Amount::or_number(&strategy["rollingUpdate"][field], 0).of(self.desired(), true)
    }

    pub(super) fn surge(&self) -> i64 {
        self.amount("maxSurge")
    }

    fn unavailable(&self) -> i64 {
        let unavailable = self.amount("maxUnavailable");
        // Neither: something has to move.
        if unavailable == 0 && self.surge() == 0 && self.desired() > 0 { 1 } else { unavailable }
    }

    fn on(&self, node: &str) -> OnNode<'w> {
        let (mut new, mut old) = (None, None);
        for pod in self.present(node).into_iter().filter(|(_, p)| !p.is_terminating()) {
            let place = if self.is_updated(pod.1) { &mut new } else { &mut old };
            if place.replace(pod).is_some() {
                return OnNode::Unclear;
            }
        }
        OnNode::Pods { new, old }
    }

    /// The nodes that have pods or should.
    fn concerned(&self) -> impl Iterator<Item = &'w str> {
        let has = |node: &str| !self.present(node).is_empty();
        self.nodes.iter().filter(move |(node, part)| part.wanted || has(node)).map(|(node, _)| *node)
    }

    /// The next step of a rolling update.
    pub(super) fn update(&self, work: &mut Work<'w>) {
        if self.spec()["updateStrategy"]["type"] != "RollingUpdate" {
            return;
        }
        if self.surges() { self.add_then_remove(work) } else { self.remove_then_add(work) }
    }

    fn remove_then_add(&self, work: &mut Work<'w>) {
        let mut missing: i64 = 0;
        let (mut broken, mut serving) = (Vec::new(), Vec::new());
        for node in self.concerned() {
            match self.on(node) {
                OnNode::Pods { new: Some((_, new)), old: None } => {
                    missing += i64::from(!self.is_available(new));
                }
                OnNode::Pods { new: None, old: Some(old) } => {
                    if self.is_available(old.1) {
                        serving.push(old);
                    } else {
                        missing += 1;
                        broken.push(old);
                    }
                }
                _ => missing += 1,
            }
        }
        work.delete.extend(broken);
        let room = usize::try_from(self.unavailable() - missing).unwrap_or(0);
        work.delete.extend(serving.into_iter().take(room));
    }

    fn add_then_remove(&self, work: &mut Work<'w>) {
        let mut surging: i64 = 0;
        let mut candidates = Vec::new();
        for node in self.concerned() {
            match self.on(node) {
                OnNode::Unclear => surging += 1,
                OnNode::Pods { old: None, .. } => {}
                OnNode::Pods { new: None, old: Some((_, old)) } => {
                    if !self.nodes.get(node).is_some_and(|part| part.wanted) {
                        continue;
                    }
                    if self.is_available(old) {
                        candidates.push(node);
                    } else {
                        // It serves nobody: its replacement is no surge.
                        work.create.insert(node);
                    }
                }
                OnNode::Pods { new: Some((_, new)), old: Some((key, old)) } => {
                    // Both are there until the old one is seen to go.
                    surging += 1;
                    if self.is_available(new) {
                        work.delete.insert(key, old);
                    }
                }
            }
        }
        let room = usize::try_from(self.surge() - surging).unwrap_or(0);
        work.create.extend(candidates.into_iter().take(room));
    }
}
