//! StatefulSets: pods with names that stay, in their order.
//!
//! Source: k8s.io/kubernetes/pkg/controller/statefulset. What is done next is decided in `steps`, what a pod is called and
//! looks like in `pod`.

mod claims;
mod pod;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{CONTROLLER_REVISIONS, Kind, PODS, STATEFUL_SETS};
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

use super::history::{self, Current, HASH_LABEL, History, REVISION_HASH_LABEL, Revision};
use super::template::omit_zero;
use super::{Settings, own, pods};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, PodView, World};
use steps::Step;

const COMPONENT: &str = "statefulset-controller";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        let mut keys = pods::owners(world, &STATEFUL_SETS, key);
        // A pod of somebody else may have had a name that the set wants.
        if let Some((set, _)) = pod::parent(&key.1) {
            let set = (key.0.clone(), set.to_owned());
            if world.get(&STATEFUL_SETS, &set).is_some() && !keys.contains(&set) {
                keys.push(set);
            }
        }
        return keys;
    }
    if *kind == CONTROLLER_REVISIONS {
        return history::owners(world, &STATEFUL_SETS, key);
    }
    let of_claim = claims::sets(world, kind, key);
    if of_claim.is_empty() { own(kind, &STATEFUL_SETS, key) } else { of_claim }
}

/// A pod with its key.
type Pod<'w> = (&'w Key, &'w PodView);

/// A StatefulSet with its pods by ordinal.
struct View<'w> {
    world: &'w World,
    key: &'w Key,
    held: &'w Held,
    now: Timestamp,
    /// What pods were made from before.
    current: Revision<'w>,
    /// What the present template is called.
    update: Revision<'w>,
    pods: BTreeMap<i64, Pod<'w>>,
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&STATEFUL_SETS, key) else { return Plan::nothing() };
    let set = &*held.value;
    let Some(selector) = pods::selector(set) else { return Plan::nothing() };
    let mut changes = claim(world, key, set, &selector);
    let history = History::of(world, key, set, REVISION_HASH_LABEL);
    let update = match history.current(world) {
        Current::Known(update) => update,
        _ if meta::is_terminating(set) => return Plan::nothing(),
        Current::Made(change) => {
            changes.push(change);
            return Plan::of(changes);
        }
        Current::Collides => {
            let collisions = set["status"]["collisionCount"].as_i64().unwrap_or(0) + 1;
            changes.push(patch(key, held, Part::Status, json!({"status": {"collisionCount": collisions}})));
            return Plan::of(changes);
        }
    };
    if changes
        .iter()
        .any(|change| matches!(change, Change::Patch { kind, .. } if **kind == CONTROLLER_REVISIONS))
    {
        // Whose template is which is known when the revisions that were taken in are seen.
        return Plan::of(changes);
    }
    let current = set["status"]["currentRevision"].as_str().and_then(|name| history.named(name));
    let mine = world.pods_of(meta::uid(set)).filter(|(_, p)| selector.matches_with(|k| p.label(k)));
    let mine = mine.filter_map(|(pod, view)| Some((pod::ordinal(&key.1, &pod.1)?, (pod, view)))).collect();
    let view = View { world, key, held, now, current: current.unwrap_or(update), update, pods: mine };
    let steps = if meta::is_terminating(set) { Vec::new() } else { view.steps() };
    if !meta::is_terminating(set) {
        changes.extend(view.pods.iter().flat_map(|(ordinal, pod)| view.reassign_claims(*ordinal, *pod)));
    }
    for step in steps {
        changes.extend(view.carry_out(step));
    }
    changes.extend(view.status());
    if !meta::is_terminating(set) {
        changes.extend(history.renumber());
        let mut live: BTreeSet<&str> = view.pods.values().filter_map(|(_, p)| p.label(HASH_LABEL)).collect();
        live.insert(view.current.name);
        changes.extend(history.truncate(false, |revision| live.contains(revision.name)));
    }
    let ripens = view.pods.values().any(|(_, p)| pod::is_ready(p) && !view.is_available(p));
    if ripens { Plan::of(changes).again(Duration::from_secs(1)) } else { Plan::of(changes) }
}

/// Pods and revisions that are taken in or let go.
fn claim(world: &World, key: &Key, set: &Value, selector: &Selector) -> Vec<Change> {
    if meta::is_terminating(set) {
        return Vec::new();
    }
    let mut changes = pods::claim_if(world, key, set, |pod, view| {
        selector.matches_with(|k| view.label(k)) && pod::ordinal(&key.1, &pod.1).is_some()
    });
    changes.extend(history::adopt(world, key, set, selector));
    changes
}

fn patch(key: &Key, held: &Held, part: Part, mut patch: Value) -> Change {
    patch["metadata"]["resourceVersion"] = json!(held.revision.to_string());
    Change::Patch { kind: &STATEFUL_SETS, namespace: key.0.clone(), name: key.1.clone(), part, patch }
}

impl<'w> View<'w> {
    fn spec(&self) -> &'w Value {
        &self.held.value["spec"]
    }

    fn start(&self) -> i64 {
        self.spec()["ordinals"]["start"].as_i64().unwrap_or(0)
    }

    fn replicas(&self) -> i64 {
        self.spec()["replicas"].as_i64().unwrap_or(1).max(0)
    }

    fn wanted(&self) -> std::ops::Range<i64> {
        self.start()..self.start() + self.replicas()
    }

    /// Upstream's "running and available".
    fn is_available(&self, pod: &PodView) -> bool {
        pod::is_ready(pod) && pod.is_available(self.spec()["minReadySeconds"].as_i64().unwrap_or(0), self.now)
    }

    fn is_updated(&self, pod: &PodView) -> bool {
        pod.label(HASH_LABEL) == Some(self.update.name)
    }

    fn name_of(&self, ordinal: i64) -> String {
        format!("{}-{ordinal}", self.key.1)
    }

    fn event(&self, kind: &'static str, reason: &'static str, message: String) -> Change {
        let about = EventAbout {
            kind: &STATEFUL_SETS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        };
        Change::Event { about, kind, reason, message, component: COMPONENT }
    }

    fn carry_out(&self, step: Step<'w>) -> Vec<Change> {
        let (namespace, set) = (&self.key.0, &self.key.1);
        match step {
            Step::Create(ordinal) => {
                let revision = if self.is_made_from_current(ordinal) { &self.current } else { &self.update };
                let name = self.name_of(ordinal);
                let Some(mut changes) = self.missing_claims(&name) else { return Vec::new() };
                let object = pod::make(&self.held.value, revision, &name, ordinal);
                changes.push(Change::Create { kind: &PODS, namespace: namespace.clone(), object });
                changes
            }
            Step::Identify(ordinal, (key, _)) => vec![Change::Patch {
                kind: &PODS,
                namespace: key.0.clone(),
                name: key.1.clone(),
                part: Part::Main,
                patch: json!({"metadata": {"labels": pod::identity(&key.1, ordinal)}}),
            }],
            // Whom its claims go with is settled first.
            Step::Delete(pod) if self.has_stale_claims(pod) => Vec::new(),
            Step::Delete(pod) => self.delete(pod),
            Step::Replace(pod) => {
                let name = &pod.0.1;
                let mut changes = vec![if &*pod.1.phase == "Failed" {
                    let message = format!("StatefulSet {namespace}/{set} is recreating failed Pod {name}");
                    self.event("Warning", "RecreatingFailedPod", message)
                } else {
                    let message =
                        format!("StatefulSet {namespace}/{set} is recreating terminated Pod {name}");
                    self.event("Normal", "RecreatingTerminatedPod", message)
                }];
                changes.extend(self.delete(pod));
                changes
            }
        }
    }

    fn has_stale_claims(&self, pod: Pod<'w>) -> bool {
        let ordinal = pod::ordinal(&self.key.1, &pod.0.1);
        ordinal.is_some_and(|ordinal| !self.reassign_claims(ordinal, pod).is_empty())
    }

    fn delete(&self, (key, view): Pod<'w>) -> Vec<Change> {
        let message = format!("delete Pod {} in StatefulSet {} successful", key.1, self.key.1);
        vec![pods::delete(key, view), self.event("Normal", "SuccessfulDelete", message)]
    }

    fn status(&self) -> Option<Change> {
        let count = |test: &dyn Fn(&PodView) -> bool| {
            i64::try_from(self.pods.values().filter(|(_, p)| test(p)).count()).unwrap_or(i64::MAX)
        };
        let of = |name: &str| count(&|p| !p.is_terminating() && p.label(HASH_LABEL) == Some(name));
        let (replicas, ready) = (count(&|p| !p.is_terminating()), count(&pod::is_ready));
        let (mut current, updated) = (of(self.current.name), of(self.update.name));
        let mut current_name = self.current.name;
        let wanted = self.replicas();
        let rolls = self.spec()["updateStrategy"]["type"] == "RollingUpdate";
        if rolls && updated == wanted && ready == wanted && replicas == wanted {
            (current, current_name) = (updated, self.update.name);
        }
        let generation = self.held.value["metadata"]["generation"].as_i64().unwrap_or(1);
        let present = &self.held.value["status"];
        let status = json!({
            "observedGeneration": generation,
            "replicas": replicas,
            "readyReplicas": omit_zero(ready),
            "currentReplicas": omit_zero(current),
            "updatedReplicas": omit_zero(updated),
            "currentRevision": current_name,
            "updateRevision": self.update.name,
            "collisionCount": present["collisionCount"].as_i64().unwrap_or(0),
            "availableReplicas": count(&|p| self.is_available(p)),
        });
        let same = status.as_object().is_some_and(|all| all.iter().all(|(field, v)| present[field] == *v));
        (!same).then(|| patch(self.key, self.held, Part::Status, json!({"status": status})))
    }
}

#[cfg(test)]
mod tests;
