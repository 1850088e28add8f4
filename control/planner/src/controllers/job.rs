//! Jobs: pods that are to come to an end, a number of times.
//!
//! Source: k8s.io/kubernetes/pkg/controller/job. Every pod that ends is counted exactly once: it keeps a finalizer until the
//! status that counts it (`uncountedTerminatedPods`, `completedIndexes`) is stored. Counting is in `count`, what ends a Job
//! in `verdict`, how many pods there should be in `replicas`.

mod count;
mod indexes;
mod replicas;
mod status;
mod verdict;

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{JOBS, Kind, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::{Settings, own, pods};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, PodView, World};
use count::Count;

/// A pod with it has not been counted yet.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const COMPONENT: &str = "job-controller";
/// Marks a key that is a pod which no Job tracks any more: no Job's name has a slash.
const STRAY: &str = "pod/";

/// A pod with its key.
type Pod<'w> = (&'w Key, &'w PodView);

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind != PODS {
        return own(kind, &JOBS, key);
    }
    let mut keys = pods::owners(world, &JOBS, key);
    if world.pod(key).is_some_and(|pod| is_stray(world, pod)) {
        keys.push((key.0.clone(), format!("{STRAY}{}", key.1)));
    }
    keys
}

fn is_tracked(pod: &PodView) -> bool {
    pod.finalizers.iter().any(|f| **f == *TRACKING)
}

/// Whether a pod waits to be counted by a Job that is gone.
fn is_stray(world: &World, pod: &PodView) -> bool {
    is_tracked(pod) && pod.controller.as_ref().is_none_or(|owner| world.by_uid(owner).is_none())
}

/// A Job with its pods.
struct View<'w> {
    key: &'w Key,
    held: &'w Held,
    pods: Vec<Pod<'w>>,
    now: Timestamp,
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    if let Some(pod) = key.1.strip_prefix(STRAY) {
        let key = (key.0.clone(), pod.to_owned());
        let stray = world.pod(&key).filter(|pod| is_stray(world, pod));
        return Plan::of(stray.map(|pod| release(&key, pod)).into_iter().collect());
    }
    let Some(held) = world.get(&JOBS, key) else { return Plan::nothing() };
    let job = &*held.value;
    let Some(selector) = pods::selector(job) else { return Plan::nothing() };
    let pods = world.pods_of(meta::uid(job)).filter(|(_, p)| selector.matches_with(|k| p.label(k))).collect();
    let view = View { key, held, pods, now };
    if let Some(ended) = view.ended() {
        return view.after_the_end(ended);
    }
    let mut changes = pods::claim(world, key, job, &selector);
    let count = Count::of(&view);
    changes.extend(count.released.iter().map(|(key, pod)| release(key, pod)));
    let verdict = view.verdict(&count);
    let work = view.replicas(&count, verdict.as_ref());
    changes.extend(view.carry_out(&work));
    changes.extend(view.status(&count, verdict, &work));
    let wait = [work.wait, view.deadline()].into_iter().flatten().min();
    match wait.and_then(|seconds| u64::try_from(seconds.max(1)).ok()) {
        Some(seconds) => Plan::of(changes).again(Duration::from_secs(seconds)),
        None => Plan::of(changes),
    }
}

/// Takes the finalizer away: the pod is counted, or nobody counts it.
fn release(key: &Key, pod: &PodView) -> Change {
    let left: Vec<&str> = pod.finalizers.iter().map(AsRef::as_ref).filter(|f| *f != TRACKING).collect();
    Change::Patch {
        kind: &PODS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Main,
        patch: json!({"metadata": {
            "uid": pod.uid, "resourceVersion": pod.revision.to_string(),
            "finalizers": if left.is_empty() { Value::Null } else { json!(left) },
        }}),
    }
}

impl<'w> View<'w> {
    fn spec(&self) -> &'w Value {
        &self.held.value["spec"]
    }

    fn present(&self) -> &'w Value {
        &self.held.value["status"]
    }

    fn is_indexed(&self) -> bool {
        self.spec()["completionMode"] == "Indexed"
    }

    fn is_suspended(&self) -> bool {
        self.spec()["suspend"] == true
    }

    fn is_terminating(&self) -> bool {
        meta::is_terminating(&self.held.value)
    }

    /// Whether only pods that failed are replaced, and not those that are still going.
    fn waits_for_failure(&self) -> bool {
        self.spec()["podReplacementPolicy"] == "Failed"
    }

    fn completions(&self) -> Option<i64> {
        self.spec()["completions"].as_i64()
    }

    fn parallelism(&self) -> i64 {
        self.spec()["parallelism"].as_i64().unwrap_or(1).max(0)
    }

    fn active(&self) -> Vec<Pod<'w>> {
        self.pods.iter().copied().filter(|(_, p)| p.is_active()).collect()
    }

    fn condition(&self, kind: &str) -> Option<&'w Value> {
        let all = self.present()["conditions"].as_array();
        all.into_iter().flatten().find(|c| c["type"] == kind && c["status"] == "True")
    }

    /// When it completed or failed.
    fn ended(&self) -> Option<Timestamp> {
        let condition = self.condition("Complete").or_else(|| self.condition("Failed"))?;
        meta::parse_time(condition["lastTransitionTime"].as_str()?)
    }

    /// Nothing is left to do but to let go of late pods, and of the Job itself in time.
    fn after_the_end(&self, ended: Timestamp) -> Plan {
        let tracked = self.pods.iter().filter(|(_, p)| is_tracked(p));
        let mut changes: Vec<Change> = tracked.map(|(key, pod)| release(key, pod)).collect();
        let Some(ttl) = self.spec()["ttlSecondsAfterFinished"].as_i64().filter(|_| !self.is_terminating())
        else {
            return Plan::of(changes);
        };
        let left = ended.as_second() + ttl - self.now.as_second();
        if left > 0 {
            return Plan::of(changes).again(Duration::from_secs(left.unsigned_abs()));
        }
        changes.push(Change::Delete {
            kind: &JOBS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
            grace: None,
        });
        Plan::of(changes)
    }

    fn event(&self, kind: &'static str, reason: &'static str, message: String) -> Change {
        let about = EventAbout {
            kind: &JOBS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        };
        Change::Event { about, kind, reason, message, component: COMPONENT }
    }
}

#[cfg(test)]
mod tests;
