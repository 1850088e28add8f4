//! Which pods have ended and count, and which of them the stored status has counted already.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::verdict::Action;
use super::{Pod, View, indexes, is_tracked};

/// What the status is to say, and the pods that it lets go.
#[derive(Debug, Default)]
pub(super) struct Count<'w> {
    /// Pods that succeeded and failed, those of `waiting_*` left out (but for indexed Jobs, whose indexes say it all).
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    /// Uids that are in the status until their pods have lost their finalizer.
    pub(super) waiting_succeeded: BTreeSet<String>,
    pub(super) waiting_failed: BTreeSet<String>,
    /// Indexes that are done.
    pub(super) completed: BTreeSet<i64>,
    /// Pods that are counted in what is stored, or never will be.
    pub(super) released: Vec<Pod<'w>>,
    /// Pods that ended and still have their finalizer.
    pub(super) tracked: usize,
}

impl Count<'_> {
    /// All that succeeded.
    pub(super) fn all_succeeded(&self) -> i64 {
        self.succeeded + i64::try_from(self.waiting_succeeded.len()).unwrap_or(i64::MAX)
    }

    /// All that failed.
    pub(super) fn all_failed(&self) -> i64 {
        self.failed + i64::try_from(self.waiting_failed.len()).unwrap_or(i64::MAX)
    }
}

fn uids(value: &Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn number(set: usize) -> i64 {
    i64::try_from(set).unwrap_or(i64::MAX)
}

impl<'w> Count<'w> {
    pub(super) fn of(view: &View<'w>) -> Self {
        let present = view.present();
        let stored = |field: &str| uids(&present["uncountedTerminatedPods"][field]);
        let tracked: BTreeMap<&str, Pod> =
            view.pods.iter().filter(|(_, p)| is_tracked(p)).map(|pod| (&*pod.1.uid, *pod)).collect();
        let split = |all: BTreeSet<String>| -> (BTreeSet<String>, BTreeSet<String>) {
            all.into_iter().partition(|uid| tracked.contains_key(uid.as_str()))
        };
        let (waiting_succeeded, succeeded) = split(stored("succeeded"));
        let (waiting_failed, failed) = split(stored("failed"));
        let end = view.completions().unwrap_or(0);
        let known = indexes::parse(present["completedIndexes"].as_str().unwrap_or(""), end);
        let mut count = Self {
            succeeded: present["succeeded"].as_i64().unwrap_or(0) + number(succeeded.len()),
            failed: present["failed"].as_i64().unwrap_or(0) + number(failed.len()),
            waiting_succeeded,
            waiting_failed,
            completed: known.clone(),
            ..Self::default()
        };
        for pod in tracked.values() {
            count.add(view, *pod, &known);
        }
        if view.is_indexed() {
            count.succeeded = number(count.completed.len());
        }
        count
    }

    fn add(&mut self, view: &View<'w>, (key, pod): Pod<'w>, known: &BTreeSet<i64>) {
        let uid = pod.uid.to_string();
        let succeeded = &*pod.phase == "Succeeded";
        if view.is_terminating()
            || self.waiting_succeeded.contains(&uid)
            || self.waiting_failed.contains(&uid)
        {
            // Stored, or not to be counted at all.
            self.released.push((key, pod));
        } else if succeeded && view.is_indexed() {
            match pod.index.filter(|i| (0..view.completions().unwrap_or(0)).contains(i)) {
                Some(index) if !known.contains(&index) => drop(self.completed.insert(index)),
                // Stored, or of no index of this Job.
                _ => self.released.push((key, pod)),
            }
        } else if succeeded {
            self.waiting_succeeded.insert(uid);
        } else if view.has_failed(pod) {
            let belongs = !view.is_indexed()
                || pod.index.is_some_and(|i| (0..view.completions().unwrap_or(0)).contains(&i));
            if belongs && view.action(pod) != Some(Action::Ignore) {
                self.waiting_failed.insert(uid);
            } else {
                self.released.push((key, pod));
            }
        } else {
            return;
        }
        self.tracked += 1;
    }
}
