//! A Job's status and conditions: first that it is going to end, then, when every pod is counted and gone, that it has.

use oarlock_api::catalogue::JOBS;
use oarlock_api::meta;
use serde_json::{Value, json};

use super::super::template::omit_zero;
use super::replicas::Work;
use super::verdict::Verdict;
use super::{Count, View, indexes};
use crate::change::{Change, Part};

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl View<'_> {
    pub(super) fn status(&self, count: &Count, verdict: Option<Verdict>, work: &Work) -> Vec<Change> {
        let present = self.present();
        let mut events = Vec::new();
        let mut conditions = present["conditions"].as_array().cloned().unwrap_or_default();
        let mut start = present["startTime"].clone();
        if start.is_null() && !self.is_suspended() {
            start = json!(meta::time(self.now));
        }
        let mut completed_at = Value::Null;
        if let Some(verdict) = &verdict {
            let interim = if verdict.failed { "FailureTarget" } else { "SuccessCriteriaMet" };
            self.set(&mut conditions, interim, "True", &verdict.reason, &verdict.message);
            let settled = count.tracked == 0 && self.active().is_empty() && self.terminating() == 0;
            if settled && count.waiting_succeeded.is_empty() && count.waiting_failed.is_empty() {
                let last = if verdict.failed { "Failed" } else { "Complete" };
                self.set(&mut conditions, last, "True", &verdict.reason, &verdict.message);
                if !verdict.failed {
                    completed_at = json!(meta::time(self.now));
                }
                events.push(self.ending(verdict));
            }
        } else if !self.is_terminating() {
            events.extend(self.suspension(&mut conditions, &mut start));
        }
        let active = self.active();
        let gone = |pod: &super::Pod| work.delete.iter().any(|(key, _)| *key == pod.0);
        let ready = active.iter().filter(|pod| pod.1.ready && !gone(pod)).count();
        let uncounted = json!({
            "succeeded": some(count.waiting_succeeded.iter().collect::<Vec<_>>()),
            "failed": some(count.waiting_failed.iter().collect::<Vec<_>>()),
        });
        let wanted = [
            ("conditions", some(conditions)),
            ("startTime", start),
            ("completionTime", completed_at),
            ("active", omit_zero(number(active.len() - work.delete.len() + work.create.len()))),
            ("ready", json!(ready)),
            ("terminating", json!(self.terminating() + self.deleted_on_nodes(work))),
            ("succeeded", omit_zero(count.succeeded)),
            ("failed", omit_zero(count.failed)),
            (
                "completedIndexes",
                if self.is_indexed() { text(indexes::format(&count.completed)) } else { Value::Null },
            ),
            ("uncountedTerminatedPods", uncounted),
        ];
        if wanted.iter().all(|(field, value)| same(value, &present[*field])) {
            return Vec::new();
        }
        let mut status = json!({});
        for (field, value) in wanted {
            status[field] = value;
        }
        events.push(Change::Patch {
            kind: &JOBS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            part: Part::Status,
            patch: json!({"metadata": {"resourceVersion": self.held.revision.to_string()}, "status": status}),
        });
        events
    }

    /// Pods that are deleted now and take their time; those without a node are gone at once.
    fn deleted_on_nodes(&self, work: &Work) -> i64 {
        number(work.delete.iter().filter(|(_, p)| p.node.is_some()).count())
    }

    fn ending(&self, verdict: &Verdict) -> Change {
        if !verdict.failed {
            return self.event("Normal", "Completed", "Job completed".to_owned());
        }
        let reason = match verdict.reason.as_str() {
            "DeadlineExceeded" => "DeadlineExceeded",
            "PodFailurePolicy" => "PodFailurePolicy",
            _ => "BackoffLimitExceeded",
        };
        self.event("Warning", reason, verdict.message.clone())
    }

    /// Follows `spec.suspend`; a Job that is resumed starts anew as its deadline goes.
    fn suspension(&self, conditions: &mut Vec<Value>, start: &mut Value) -> Option<Change> {
        let suspended = self.condition("Suspended").is_some();
        if self.is_suspended() && !suspended {
            self.set(conditions, "Suspended", "True", "JobSuspended", "Job suspended");
            return Some(self.event("Normal", "Suspended", "Job suspended".to_owned()));
        }
        if !self.is_suspended() && suspended {
            self.set(conditions, "Suspended", "False", "JobResumed", "Job resumed");
            *start = json!(meta::time(self.now));
            return Some(self.event("Normal", "Resumed", "Job resumed".to_owned()));
        }
        None
    }

    fn set(&self, conditions: &mut Vec<Value>, kind: &str, status: &str, reason: &str, message: &str) {
        let same = |c: &Value| c["status"] == status && c["reason"] == reason && c["message"] == message;
        if conditions.iter().any(|c| c["type"] == kind && same(c)) {
            return;
        }
        conditions.retain(|c| c["type"] != kind);
        let now = meta::time(self.now);
        conditions.push(json!({
            "type": kind, "status": status, "lastProbeTime": now, "lastTransitionTime": now,
            "reason": reason, "message": message,
        }));
    }
}

/// A list, or null when there is nothing in it.
fn some<T: serde::Serialize>(list: Vec<T>) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

fn text(text: String) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

/// Whether a patch would change nothing: its nulls stand for fields that are absent.
fn same(patch: &Value, present: &Value) -> bool {
    match patch.as_object() {
        Some(fields) => present.is_object() && fields.iter().all(|(k, v)| same(v, &present[k])),
        None => patch == present,
    }
}
