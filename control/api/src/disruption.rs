//! What PodDisruptionBudgets mean for evictions: which pods one covers, whether a pod may go, and what an eviction takes of it. Pure:
//! the registry and the controller of budgets agree because both ask here.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/pod/storage/eviction.go.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::meta::{self, map_at, map_of};
use crate::selector::Selector;
use crate::status::Status;

/// For how long a pod that was to be evicted counts as gone though it is still there.
pub const DELETION_TIMEOUT_SECONDS: i64 = 120;
/// More evictions than this wait for the controller to see them: something is wrong.
const MOST_DISRUPTED: usize = 2000;
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What stands between a pod and its eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing, as long as the pod stays as it is: it is not ready, and counts for nothing.
    Unready,
    /// The budget's allowance, which the eviction has to take first.
    Allowance,
}

/// The labels that a budget covers; `None`: no pods at all.
#[must_use]
pub fn selector(budget: &Value) -> Option<Selector> {
    Selector::from_label_selector(budget["spec"].get("selector")).ok().flatten()
}

/// Whether a budget covers pods with these labels.
#[must_use]
pub fn covers(budget: &Value, labels: Option<&Map<String, Value>>) -> bool {
    selector(budget).is_some_and(|selector| selector.matches(labels))
}

/// Whether no budget holds this pod: it has ended, ends already, or has not begun.
#[must_use]
pub fn is_free(pod: &Value) -> bool {
    meta::is_terminating(pod)
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// What a budget has to do with the eviction of a pod that it covers.
#[must_use]
pub fn guard(budget: &Value, pod: &Value) -> Guard {
    let status = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    let healthy = status("currentHealthy") >= status("desiredHealthy") && status("desiredHealthy") > 0;
    if !is_ready(pod) && (always || healthy) { Guard::Unready } else { Guard::Allowance }
}

/// The budget after it has given one pod away.
///
/// # Errors
/// It allows none now, or its controller has not seen it yet.
pub fn take(mut budget: Value, pod: &str, now: Timestamp) -> Result<Value, Status> {
    let name = meta::name(&budget).to_owned();
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if count("observedGeneration") < generation {
        return Err(in_progress(&name));
    }
    let allowed = count("disruptionsAllowed");
    if budget["status"]["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Status::forbidden_resource("policy", "poddisruptionbudget", &name, why));
    }
    if allowed <= 0 {
        return Err(used_up(&budget, &name));
    }
    let status = map_at(map_of(&mut budget), "status");
    status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
    map_at(status, "disruptedPods").insert(pod.to_owned(), json!(meta::time(now)));
    if allowed == 1 {
        let conditions = conditions(&budget, now);
        map_at(map_of(&mut budget), "status").insert("conditions".to_owned(), conditions);
    }
    Ok(budget)
}

/// 429: the budget's controller has not seen its present form.
#[must_use]
pub fn in_progress(name: &str) -> Status {
    let why = format!("The disruption budget {name} is still being processed by the server.");
    Status::too_many_requests(REFUSAL, 10).with_cause("DisruptionBudget", why, "")
}

fn used_up(budget: &Value, name: &str) -> Status {
    let status = &budget["status"];
    let failed =
        status["conditions"].as_array().into_iter().flatten().find(|c| {
            c["type"] == "DisruptionAllowed" && c["status"] == "False" && c["reason"] == "SyncFailed"
        });
    let (message, why) = match failed.and_then(|condition| condition["message"].as_str()) {
        Some(said) => (
            format!("{REFUSAL} Found: {said}"),
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {said}"
            ),
        ),
        None => {
            let count = |field: &str| status[field].as_i64().unwrap_or(0);
            let (needs, has) = (count("desiredHealthy"), count("currentHealthy"));
            let why =
                format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently");
            (REFUSAL.to_owned(), why)
        }
    };
    let mut refusal = Status::too_many_requests(message, 0).with_cause("DisruptionBudget", why, "");
    // When there will be an allowance nobody knows: clients decide for themselves when to ask again.
    if let Some(details) = &mut refusal.details {
        details.retry_after_seconds = None;
    }
    refusal
}

/// The conditions of a budget, with what they say of its present allowance.
#[must_use]
pub fn conditions(budget: &Value, now: Timestamp) -> Value {
    let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0) > 0;
    let (status, reason) = if allowed { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    condition(budget, (status, reason, ""), now)
}

/// The conditions of a budget whose allowance cannot be computed.
#[must_use]
pub fn failed(budget: &Value, why: &str, now: Timestamp) -> Value {
    condition(budget, ("False", "SyncFailed", why), now)
}

fn condition(budget: &Value, (status, reason, message): (&str, &str, &str), now: Timestamp) -> Value {
    const KIND: &str = "DisruptionAllowed";
    let mut all = budget["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let present = all.iter().find(|c| c["type"] == KIND && c["status"] == status);
    let since = present.map_or_else(|| json!(meta::time(now)), |c| c["lastTransitionTime"].clone());
    let said = json!({
        "type": KIND, "status": status, "observedGeneration": budget["status"]["observedGeneration"].as_i64().unwrap_or(0),
        "lastTransitionTime": since, "reason": reason, "message": message,
    });
    match all.iter_mut().find(|c| c["type"] == KIND) {
        Some(old) => *old = said,
        None => all.push(said),
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests;
