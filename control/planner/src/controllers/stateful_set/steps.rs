//! What is done next: missing pods are made, what is beyond the range goes, old ones are replaced; in order, one after
//! another, or all at once. Pure.
//!
//! Source: `updateStatefulSet` of k8s.io/kubernetes/pkg/controller/statefulset/stateful_set_control.go.

use super::super::rollout::Amount;
use super::{Pod, View, pod};

/// Pods made in one go; the rest follows when these are seen.
const BURST: usize = 500;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step<'w> {
    Create(i64),
    Delete(Pod<'w>),
    /// It has come to its end and another one takes its place.
    Replace(Pod<'w>),
    /// Its labels do not say which one it is.
    Identify(i64, Pod<'w>),
}

impl<'w> View<'w> {
    fn is_ordered(&self) -> bool {
        self.spec()["podManagementPolicy"] != "Parallel"
    }

    fn is_healthy(&self, pod: Pod<'w>) -> bool {
        self.is_available(pod.1) && !pod.1.is_terminating()
    }

    fn rolling(&self, field: &str) -> Option<&'w serde_json::Value> {
        self.spec()["updateStrategy"].get("rollingUpdate")?.get(field).filter(|value| !value.is_null())
    }

    /// Whether a pod that is made now is one of those that the update has not reached.
    pub(super) fn is_made_from_current(&self, ordinal: i64) -> bool {
        let strategy = &self.spec()["updateStrategy"];
        if strategy["type"] != "RollingUpdate" {
            return false;
        }
        let kept = if strategy["rollingUpdate"].is_null() {
            let current = self.pods.values().filter(|(_, p)| {
                !p.is_terminating() && p.label(super::HASH_LABEL) == Some(self.current.name)
            });
            i64::try_from(current.count()).unwrap_or(i64::MAX)
        } else {
            self.partition()
        };
        ordinal - self.start() < kept
    }

    fn partition(&self) -> i64 {
        self.rolling("partition").and_then(serde_json::Value::as_i64).unwrap_or(0)
    }

    /// Everything that may be done now.
    pub(super) fn steps(&self) -> Vec<Step<'w>> {
        let mut steps = Vec::new();
        let mut blocked = false;
        for ordinal in self.wanted() {
            blocked |= self.settle(ordinal, &mut steps);
            if blocked && self.is_ordered() || steps.len() >= BURST {
                return steps;
            }
        }
        if blocked {
            return steps;
        }
        if self.shrink(&mut steps) {
            return steps;
        }
        self.roll(&mut steps);
        steps
    }

    /// Brings one of the wanted pods about; whether what comes after has to wait.
    fn settle(&self, ordinal: i64, steps: &mut Vec<Step<'w>>) -> bool {
        let Some(pod) = self.pods.get(&ordinal).copied() else {
            let name = (self.key.0.clone(), self.name_of(ordinal));
            if self.world.pod(&name).is_some() {
                // Somebody else's: it is waited for.
                return true;
            }
            steps.push(Step::Create(ordinal));
            return self.is_ordered();
        };
        if pod.1.has_ended() {
            if !pod.1.is_terminating() {
                steps.push(Step::Replace(pod));
            }
            return true;
        }
        if self.is_ordered() && !self.is_healthy(pod) {
            return true;
        }
        if !pod::says_who_it_is(pod.1, &pod.0.1, ordinal) {
            steps.push(Step::Identify(ordinal, pod));
        }
        false
    }

    /// What is beyond the range goes, highest first; whether the update has to wait.
    fn shrink(&self, steps: &mut Vec<Step<'w>>) -> bool {
        let wanted = self.wanted();
        let condemned: Vec<Pod> =
            self.pods.iter().filter(|(n, _)| !wanted.contains(n)).map(|(_, pod)| *pod).collect();
        // All wanted ones are healthy when order counts, so that the first that is not is among these.
        let first_unhealthy = condemned.iter().find(|pod| !self.is_healthy(**pod)).map(|(key, _)| *key);
        let mut waits = false;
        for pod in condemned.iter().rev() {
            if pod.1.is_terminating() {
                if self.is_ordered() {
                    return true;
                }
                continue;
            }
            if self.is_ordered() && !self.is_available(pod.1) && first_unhealthy != Some(pod.0) {
                return true;
            }
            steps.push(Step::Delete(*pod));
            if self.is_ordered() {
                return true;
            }
            waits = true;
        }
        waits
    }

    /// Pods of an old revision go, highest first, as long as those above serve.
    fn roll(&self, steps: &mut Vec<Step<'w>>) {
        if self.spec()["updateStrategy"]["type"] != "RollingUpdate" {
            return;
        }
        let wanted = self.wanted();
        let targets = (self.start() + self.partition()..wanted.end).rev();
        let Some(most) = self.rolling("maxUnavailable") else {
            for ordinal in targets {
                let Some(pod) = self.pods.get(&ordinal).copied() else { return };
                if !self.is_updated(pod.1) && !pod.1.is_terminating() {
                    steps.push(Step::Delete(pod));
                    return;
                }
                if !self.is_healthy(pod) {
                    return;
                }
            }
            return;
        };
        let healthy = self.pods.range(wanted.clone()).filter(|(_, pod)| self.is_healthy(**pod)).count();
        let missing = self.replicas() - i64::try_from(healthy).unwrap_or(i64::MAX);
        let most = Amount::or_number(most, 1).of(self.replicas(), false).max(1);
        let mut room = most - missing;
        for (_, pod) in self
            .pods
            .range(self.start() + self.partition()..wanted.end.max(self.start() + self.partition()))
            .rev()
        {
            if self.is_updated(pod.1) || pod.1.is_terminating() {
                continue;
            }
            // One that serves nobody costs nothing.
            if self.is_healthy(*pod) {
                if room <= 0 {
                    continue;
                }
                room -= 1;
            }
            steps.push(Step::Delete(*pod));
        }
    }
}
