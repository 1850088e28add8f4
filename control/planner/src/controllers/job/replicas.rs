//! How many pods there should be now, which are made, which go.
//!
//! Source: `manageJob` and indexed_job_utils.go.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use oarlock_api::catalogue::PODS;
use oarlock_api::meta::{self, map_at, map_of};
use serde_json::{Value, json};

use super::super::{pods, template};
use super::verdict::Verdict;
use super::{Count, Pod, TRACKING, View};
use crate::change::Change;
use crate::world::{INDEX_ANNOTATION, PodView};

/// Pods made or removed in one go.
const BURST: usize = 500;
/// The pause after the first failure, doubled by each further one.
const BACKOFF: i64 = 10;
const BACKOFF_MAX: i64 = 600;

/// What is done with the pods.
#[derive(Debug, Default)]
pub(super) struct Work<'w> {
    /// One each; the index in indexed Jobs.
    pub(super) create: Vec<Option<i64>>,
    pub(super) delete: Vec<Pod<'w>>,
    /// Seconds until the next pod may be made.
    pub(super) wait: Option<i64>,
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl<'w> View<'w> {
    pub(super) fn replicas(&self, count: &Count, verdict: Option<&Verdict>) -> Work<'w> {
        let mut work = Work::default();
        let active = self.active();
        if verdict.is_some() || (self.is_suspended() && !self.is_terminating()) {
            work.delete = active;
            return work;
        }
        if self.is_terminating() {
            return work;
        }
        let wanted = match self.completions() {
            None if count.all_succeeded() > 0 => number(active.len()).min(self.parallelism()),
            None => self.parallelism(),
            Some(completions) => (completions - count.all_succeeded()).clamp(0, self.parallelism()),
        };
        let surplus = usize::try_from(number(active.len()) - wanted).unwrap_or(0);
        work.delete = self.to_remove(&active, surplus, count);
        if !work.delete.is_empty() {
            return work;
        }
        let going = if self.waits_for_failure() { self.terminating() } else { 0 };
        let missing = usize::try_from(wanted - number(active.len()) - going).unwrap_or(0).min(BURST);
        if missing == 0 {
            return work;
        }
        work.wait = self.backoff();
        if work.wait.is_none() {
            work.create =
                if self.is_indexed() { self.indexes(&active, count, missing) } else { vec![None; missing] };
        }
        work
    }

    /// Pods that are going and have not ended.
    pub(super) fn terminating(&self) -> i64 {
        let going = |p: &PodView| p.is_terminating() && !p.has_ended() && !p.released;
        number(self.pods.iter().filter(|(_, p)| going(p)).count())
    }

    /// The lowest indexes that are neither done nor at work.
    fn indexes(&self, active: &[Pod], count: &Count, missing: usize) -> Vec<Option<i64>> {
        let mut taken: BTreeSet<i64> = active.iter().filter_map(|(_, p)| p.index).collect();
        if self.waits_for_failure() {
            taken.extend(
                self.pods.iter().filter(|(_, p)| !p.has_ended() && !p.released).filter_map(|(_, p)| p.index),
            );
        }
        let all = 0..self.completions().unwrap_or(0);
        all.filter(|i| !taken.contains(i) && !count.completed.contains(i)).take(missing).map(Some).collect()
    }

    /// Pods of no index or of one that is at work or done already, then those that have come least far.
    fn to_remove(&self, active: &[Pod<'w>], surplus: usize, count: &Count) -> Vec<Pod<'w>> {
        let mut sorted = active.to_vec();
        let progress = |p: &Pod| (p.1.node.is_some(), &*p.1.phase == "Running", p.1.ready);
        sorted.sort_by_cached_key(|pod| (progress(pod), Reverse(pod.1.created), pod.0.clone()));
        let mut remove: Vec<Pod> = Vec::new();
        if self.is_indexed() {
            let mut seen = BTreeSet::new();
            // Those that have come furthest claim their index first.
            for pod in sorted.iter().rev() {
                let valid = pod.1.index.filter(|i| (0..self.completions().unwrap_or(0)).contains(i));
                if !valid.is_some_and(|i| !count.completed.contains(&i) && seen.insert(i)) {
                    remove.push(*pod);
                }
            }
        }
        for pod in sorted {
            if remove.len() >= surplus {
                break;
            }
            if !remove.iter().any(|(key, _)| *key == pod.0) {
                remove.push(pod);
            }
        }
        remove.truncate(BURST);
        remove
    }

    /// Seconds until another pod may be tried, after those that failed since the last one that did not.
    fn backoff(&self) -> Option<i64> {
        let mut ends: Vec<(i64, bool)> = self
            .pods
            .iter()
            .filter(|(_, p)| &*p.phase == "Succeeded" || self.has_failed(p))
            .filter_map(|(_, p)| {
                let at = p.end.as_ref().and_then(|end| end.at).or(p.deletion)?;
                Some((at.as_second(), &*p.phase == "Succeeded"))
            })
            .collect();
        ends.sort_unstable();
        let failures = ends.iter().rev().take_while(|(_, succeeded)| !succeeded).count();
        let (last, _) = ends.last().filter(|_| failures > 0)?;
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(10);
        let delay = (BACKOFF << doublings).min(BACKOFF_MAX);
        Some(delay - (self.now.as_second() - last)).filter(|left| *left > 0)
    }

    pub(super) fn carry_out(&self, work: &Work) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, pod) in &work.delete {
            changes.push(pods::delete(key, pod));
            changes.push(self.event("Normal", "SuccessfulDelete", format!("Deleted pod: {}", key.1)));
        }
        for index in &work.create {
            let object = pod(&self.held.value, *index);
            changes.push(Change::Create { kind: &PODS, namespace: self.key.0.clone(), object });
        }
        changes
    }
}

/// A pod of a Job, tracked until it is counted.
fn pod(job: &Value, index: Option<i64>) -> Value {
    let mut pod = template::pod(&job["spec"]["template"], job);
    let metadata = map_at(map_of(&mut pod), "metadata");
    if let Some(finalizers) = metadata.entry("finalizers").or_insert_with(|| json!([])).as_array_mut() {
        finalizers.push(json!(TRACKING));
    }
    let Some(index) = index else { return pod };
    let name = meta::name(job);
    metadata.insert("generateName".to_owned(), json!(format!("{name}-{index}-")));
    for field in ["annotations", "labels"] {
        map_at(metadata, field).insert(INDEX_ANNOTATION.to_owned(), json!(index.to_string()));
    }
    let spec = map_at(map_of(&mut pod), "spec");
    spec.insert("hostname".to_owned(), json!(format!("{name}-{index}")));
    let path = format!("metadata.labels['{INDEX_ANNOTATION}']");
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let env = map_of(container).entry("env").or_insert_with(|| json!([]));
            if let Some(env) = env.as_array_mut()
                && !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX")
            {
                env.push(variable.clone());
            }
        }
    }
    pod
}
