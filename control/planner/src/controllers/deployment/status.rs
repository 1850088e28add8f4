//! What a Deployment says of itself: numbers, whether it is available, whether it progresses.
//!
//! Source: k8s.io/kubernetes/pkg/controller/deployment/progress.go and sync.go (`calculateStatus`).

use std::time::Duration;

use oarlock_api::meta;
use serde_json::{Value, json};

use super::super::rollout::Strategy;
use super::super::template::omit_zero;
use super::View;
use crate::change::{Change, Part};

const AVAILABLE: &str = "NewReplicaSetAvailable";
const EXCEEDED: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// Pods of all ReplicaSets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    replicas: i64,
    updated: i64,
    ready: i64,
    available: i64,
}

impl Counts {
    fn of_status(status: &Value) -> Self {
        let number = |field: &str| status[field].as_i64().unwrap_or(0);
        Self {
            replicas: number("replicas"),
            updated: number("updatedReplicas"),
            ready: number("readyReplicas"),
            available: number("availableReplicas"),
        }
    }

    /// All that is wanted is new and serves, and nothing else is there.
    pub(super) fn is_complete(&self, wanted: i64) -> bool {
        (self.replicas, self.updated, self.available) == (wanted, wanted, wanted)
    }

    fn is_further_than(&self, before: &Self) -> bool {
        self.updated > before.updated
            || self.replicas - self.updated < before.replicas - before.updated
            || self.ready > before.ready
            || self.available > before.available
    }
}

/// A condition as it should be; `anew` when it is written though it says the same.
struct Condition {
    status: &'static str,
    reason: &'static str,
    message: String,
    anew: bool,
}

impl View<'_> {
    pub(super) fn counts(&self) -> Counts {
        let all = || self.old.iter().copied().chain(self.new);
        let sum = |field: &str| all().filter_map(|(_, rs)| rs.value["status"][field].as_i64()).sum::<i64>();
        Counts {
            replicas: sum("replicas"),
            updated: self.new.and_then(|(_, rs)| rs.value["status"]["replicas"].as_i64()).unwrap_or(0),
            ready: sum("readyReplicas"),
            available: sum("availableReplicas"),
        }
    }

    /// The status as it should be; `makes` when the new ReplicaSet is being made.
    pub(super) fn status(&self, makes: bool) -> Option<Change> {
        let counts = self.counts();
        let missing = (self.replicas().max(counts.replicas) - counts.available).max(0);
        let numbers = [
            ("observedGeneration", self.held.value["metadata"]["generation"].as_i64().unwrap_or(1)),
            ("replicas", counts.replicas),
            ("updatedReplicas", counts.updated),
            ("readyReplicas", counts.ready),
            ("availableReplicas", counts.available),
            ("unavailableReplicas", missing),
        ];
        let conditions =
            [("Available", Some(self.availability(&counts))), ("Progressing", self.progress(&counts, makes))];
        let conditions: Vec<Value> =
            conditions.into_iter().filter_map(|(kind, wanted)| self.condition(kind, wanted)).collect();
        let conditions: Vec<Value> = conditions.into_iter().chain(self.failure()).collect();
        let conditions = json!(conditions);
        let present = &self.held.value["status"];
        let same = numbers.iter().all(|(field, value)| present[*field].as_i64().unwrap_or(0) == *value);
        if same && present["conditions"] == conditions {
            return None;
        }
        let mut status = json!({"conditions": conditions});
        for (field, value) in numbers {
            status[field] = omit_zero(value);
        }
        Some(self.patch(Part::Status, json!({"status": status})))
    }

    /// What ReplicaSets say of pods that cannot be made: the new one before others.
    fn failure(&self) -> Option<Value> {
        let of = |rs: &Value| {
            let mut conditions = rs["status"]["conditions"].as_array().into_iter().flatten();
            conditions.find(|c| c["type"] == "ReplicaFailure").cloned()
        };
        let all = self.new.into_iter().chain(self.old.iter().copied());
        let mut failure = all.into_iter().find_map(|(_, rs)| of(&rs.value))?;
        failure["lastUpdateTime"] = failure["lastTransitionTime"].clone();
        Some(failure)
    }

    fn present(&self, kind: &str) -> Option<&Value> {
        let conditions = self.held.value["status"]["conditions"].as_array();
        conditions.into_iter().flatten().find(|c| c["type"] == kind)
    }

    fn availability(&self, counts: &Counts) -> Condition {
        let may_lack = match self.strategy {
            Strategy::Recreate => 0,
            Strategy::Rolling { .. } if self.replicas() == 0 => 0,
            Strategy::Rolling { .. } => self.strategy.unavailable(self.replicas()),
        };
        let (status, reason, message) = if counts.available >= self.replicas() - may_lack {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        Condition { status, reason, message: message.to_owned(), anew: false }
    }

    /// What is to be said of the progress; `None` leaves it as it is.
    fn progress(&self, counts: &Counts, makes: bool) -> Option<Condition> {
        let say = |status, reason, message| Some(Condition { status, reason, message, anew: false });
        let present = self.present("Progressing");
        let reason = present.and_then(|c| c["reason"].as_str()).unwrap_or("");
        if meta::is_terminating(&self.held.value) {
            return None;
        }
        if self.is_paused() {
            let paused = say("Unknown", PAUSED, "Deployment is paused".to_owned());
            return paused.filter(|_| reason != EXCEEDED);
        }
        let name = self.new_name();
        let other = if makes {
            say("True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"))
        } else if reason == PAUSED {
            say("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned())
        } else if present.is_none() && self.new.is_some() {
            say("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"))
        } else {
            None
        };
        if (self.is_scaled() && other.is_none())
            || (counts.replicas == counts.updated && reason == AVAILABLE && !makes)
        {
            // No rollout is under way: a Deployment that only grows cannot run out of time.
            return other;
        }
        if counts.is_complete(self.replicas()) && self.new.is_some() {
            return say("True", AVAILABLE, format!("ReplicaSet {name:?} has successfully progressed."));
        }
        if !makes && counts.is_further_than(&Counts::of_status(&self.held.value["status"])) {
            let message = format!("ReplicaSet {name:?} is progressing.");
            return Some(Condition { status: "True", reason: "ReplicaSetUpdated", message, anew: true });
        }
        if other.is_none() && self.deadline().is_some_and(|left| left.is_zero()) {
            return say("False", EXCEEDED, format!("ReplicaSet {name:?} has timed out progressing."));
        }
        other
    }

    /// The condition as it is written: what says the same stays as it is.
    fn condition(&self, kind: &str, wanted: Option<Condition>) -> Option<Value> {
        if kind == "Progressing" && self.limit().is_none() {
            return None;
        }
        let present = self.present(kind);
        let Some(wanted) = wanted else { return present.cloned() };
        let same_status = present.filter(|c| c["status"] == wanted.status);
        if let Some(same) = same_status.filter(|c| c["reason"] == wanted.reason && !wanted.anew) {
            return Some(same.clone());
        }
        let now = json!(meta::time(self.now));
        Some(json!({
            "type": kind, "status": wanted.status, "reason": wanted.reason, "message": wanted.message,
            "lastUpdateTime": now,
            "lastTransitionTime": same_status.map_or(&now, |c| &c["lastTransitionTime"]),
        }))
    }

    /// `progressDeadlineSeconds`; the greatest number means none.
    fn limit(&self) -> Option<i64> {
        self.spec()["progressDeadlineSeconds"].as_i64().filter(|limit| *limit != i64::from(i32::MAX))
    }

    /// How long until the rollout counts as stuck: `None` when nothing is under way, or it is known already.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let progress = self.present("Progressing")?;
        let reason = progress["reason"].as_str().unwrap_or("");
        if [AVAILABLE, EXCEEDED].contains(&reason) || self.is_paused() {
            return None;
        }
        let since = meta::parse_time(progress["lastUpdateTime"].as_str()?)?;
        let left = self.limit()? - (self.now.as_second() - since.as_second());
        Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }
}
