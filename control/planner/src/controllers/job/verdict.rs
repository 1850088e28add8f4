//! What ends a Job: enough successes, too many failures, its deadline, or its pod failure policy.

use serde_json::Value;

use super::{Count, Pod, View};
use crate::world::PodView;

/// Why a Job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) failed: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// What a rule of the pod failure policy does with a failed pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Count,
    Ignore,
    FailJob,
}

impl Verdict {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { failed: true, reason: reason.to_owned(), message: message.into() }
    }

    pub(super) fn success() -> Self {
        Self {
            failed: false,
            reason: "CompletionsReached".to_owned(),
            message: "Reached expected number of succeeded pods".to_owned(),
        }
    }
}

impl<'w> View<'w> {
    /// Why the Job ends; `None` while it goes on. Success is seen when no pod is left at work.
    pub(super) fn verdict(&self, count: &Count) -> Option<Verdict> {
        for (kind, failed) in [("FailureTarget", true), ("SuccessCriteriaMet", false)] {
            if let Some(condition) = self.condition(kind) {
                let text = |field: &str| condition[field].as_str().unwrap_or("").to_owned();
                return Some(Verdict { failed, reason: text("reason"), message: text("message") });
            }
        }
        if let Some(message) = self.pods.iter().find_map(|pod| self.fatal(*pod)) {
            return Some(Verdict::failure("PodFailurePolicy", message));
        }
        if count.all_failed() > self.backoff_limit() || self.restarts_too_often() {
            return Some(Verdict::failure(
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            ));
        }
        if self.deadline().is_some_and(|left| left <= 0) {
            return Some(Verdict::failure(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            ));
        }
        let enough = match self.completions() {
            // Any success will do, once all that were started are through.
            None => count.all_succeeded() > 0,
            Some(completions) => count.all_succeeded() >= completions,
        };
        let idle = self.active().is_empty() && !self.is_terminating();
        // Nothing to run is complete at once, nothing started yet is not.
        (enough && idle).then(Verdict::success)
    }

    fn backoff_limit(&self) -> i64 {
        self.spec()["backoffLimit"].as_i64().unwrap_or(6)
    }

    /// Containers that are restarted in place count, too.
    fn restarts_too_often(&self) -> bool {
        if self.spec()["template"]["spec"]["restartPolicy"] != "OnFailure" {
            return false;
        }
        let restarts: i64 = self.active().iter().map(|(_, p)| p.restarts).sum();
        restarts > 0 && restarts >= self.backoff_limit()
    }

    /// Seconds until `activeDeadlineSeconds` is over.
    pub(super) fn deadline(&self) -> Option<i64> {
        let limit = self.spec()["activeDeadlineSeconds"].as_i64().filter(|_| !self.is_suspended())?;
        let start = oarlock_api::meta::parse_time(self.present()["startTime"].as_str()?)?;
        Some(limit - (self.now.as_second() - start.as_second()))
    }

    /// Whether a pod counts as failed: one that is deleted may never get to say so itself.
    pub(super) fn has_failed(&self, pod: &PodView) -> bool {
        match &*pod.phase {
            "Failed" => true,
            "Succeeded" => false,
            // Without a node, or released by it, nobody will ever report its end.
            _ => pod.is_terminating() && (!self.waits_for_failure() || pod.node.is_none() || pod.released),
        }
    }

    /// What the pod failure policy says of a failed pod.
    pub(super) fn action(&self, pod: &PodView) -> Option<Action> {
        self.rule(pod).map(|(_, action, _)| action)
    }

    fn fatal(&self, (key, pod): Pod<'w>) -> Option<String> {
        let (index, action, cause) = self.rule(pod)?;
        let place = format!("{}/{}", key.0, key.1);
        let matching = format!("matching FailJob rule at index {index}");
        (action == Action::FailJob).then(|| match cause {
            Cause::Exit(container, code) => {
                format!("Container {container} for pod {place} failed with exit code {code} {matching}")
            }
            Cause::Condition(kind) => format!("Pod {place} has condition {kind} {matching}"),
        })
    }

    /// The first rule that a failed pod meets.
    fn rule(&self, pod: &'w PodView) -> Option<(usize, Action, Cause<'w>)> {
        if &*pod.phase != "Failed" {
            return None;
        }
        let rules = self.spec()["podFailurePolicy"]["rules"].as_array()?;
        rules.iter().enumerate().find_map(|(i, rule)| {
            let action = match rule["action"].as_str()? {
                "Ignore" => Action::Ignore,
                "FailJob" => Action::FailJob,
                _ => Action::Count,
            };
            let codes = rule.get("onExitCodes").filter(|c| !c.is_null());
            let cause = match codes {
                Some(codes) => exit(codes, pod),
                None => condition(&rule["onPodConditions"], pod),
            };
            Some((i, action, cause?))
        })
    }
}

/// What of a pod met a rule.
enum Cause<'w> {
    Exit(&'w str, i64),
    Condition(&'w str),
}

fn exit<'w>(codes: &Value, pod: &'w PodView) -> Option<Cause<'w>> {
    let listed = |code: i64| codes["values"].as_array().into_iter().flatten().any(|v| *v == code);
    let wanted = codes["operator"] == "In";
    let named = |name: &str| codes["containerName"].as_str().is_none_or(|wanted| wanted == name);
    let exits = pod.end.as_ref()?.exits.iter();
    let met = exits.filter(|(name, code)| *code != 0 && named(name) && listed(*code) == wanted);
    met.map(|(name, code)| Cause::Exit(name, *code)).next()
}

fn condition<'w>(patterns: &Value, pod: &'w PodView) -> Option<Cause<'w>> {
    let meets = |kind: &str, status: &str| {
        let mut all = patterns.as_array().into_iter().flatten();
        all.any(|p| p["type"] == kind && p["status"].as_str().unwrap_or("True") == status)
    };
    let met = pod.end.as_ref()?.conditions.iter().find(|(kind, status)| meets(kind, status));
    met.map(|(kind, _)| Cause::Condition(kind))
}
