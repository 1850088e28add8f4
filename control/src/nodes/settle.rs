//! The last status of a pod that its node has removed while somebody holds its object by a finalizer. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/kubelet/status/status_manager.go (`TerminatePod`), kubelet_pods.go (`getPhase`).

use jiff::Timestamp;
use oarlock_api::meta;
use serde_json::{Map, Value, json};

/// Writes that nothing of a pod runs any more: how its containers ended, as far as the node has said, and what that makes of it.
pub(super) fn settle(status: &mut Value, now: Timestamp) {
    for field in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        let containers = status.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        containers.filter_map(Value::as_object_mut).for_each(end);
    }
    if status["phase"] != "Succeeded" && status["phase"] != "Failed" {
        let ended = status["containerStatuses"].as_array().map_or(&[][..], Vec::as_slice);
        let well = !ended.is_empty() && ended.iter().all(|c| c["state"]["terminated"]["exitCode"] == 0);
        meta::map_of(status).insert("phase".to_owned(), json!(if well { "Succeeded" } else { "Failed" }));
    }
    let reason = if status["phase"] == "Succeeded" { "PodCompleted" } else { "PodFailed" };
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
    for condition in conditions.filter_map(Value::as_object_mut) {
        let of = |field: &str| condition.get(field).and_then(Value::as_str);
        if !matches!(of("type"), Some("Ready" | "ContainersReady")) {
            continue;
        }
        if of("status") != Some("False") {
            condition.insert("lastTransitionTime".to_owned(), json!(meta::time(now)));
        }
        condition.insert("status".to_owned(), json!("False"));
        condition.insert("reason".to_owned(), json!(reason));
    }
}

/// A container that did not say how it ended has been ended.
fn end(container: &mut Map<String, Value>) {
    container.insert("ready".to_owned(), json!(false));
    container.insert("started".to_owned(), json!(false));
    let of = |state: &str, how: &str| container.get(state).map_or(Value::Null, |state| state[how].clone());
    let (running, before) = (of("state", "running"), of("lastState", "terminated"));
    if !of("state", "terminated").is_null() {
        return;
    }
    let terminated = if before.is_null() || !running.is_null() {
        json!({
            "exitCode": 137, "reason": "ContainerStatusUnknown",
            "message": "The container could not be located when the pod was terminated",
            "startedAt": running["startedAt"], "finishedAt": null,
        })
    } else {
        before
    };
    container.insert("state".to_owned(), json!({"terminated": terminated}));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(states: Value) -> Value {
        let ready = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let containers: Vec<Value> = states
            .as_array()
            .unwrap()
            .iter()
            .map(|s| json!({"name": "c", "ready": true, "state": s}))
            .collect();
        let mut status = json!({"phase": "Running", "containerStatuses": containers,
            "conditions": [ready("Initialized"), ready("Ready"), ready("ContainersReady")]});
        settle(&mut status, Timestamp::UNIX_EPOCH);
        let once = status.clone();
        settle(&mut status, Timestamp::now());
        assert_eq!(status, once, "a node may say it again");
        status
    }

    #[test]
    fn a_pod_that_is_gone_from_its_node_runs_no_more() {
        let well = settled(json!([{"terminated": {"exitCode": 0}}]));
        assert_eq!(
            (&well["phase"], &well["conditions"][1]["reason"]),
            (&json!("Succeeded"), &json!("PodCompleted"))
        );
        assert_eq!(
            (&well["conditions"][0]["status"], &well["conditions"][1]["lastTransitionTime"]),
            (&json!("True"), &json!("1970-01-01T00:00:00Z"))
        );
        let killed = settled(json!([{"terminated": {"exitCode": 0}}, {"terminated": {"exitCode": 137}}]));
        assert_eq!(killed["phase"], "Failed");
        let unknown = settled(json!([{"running": {"startedAt": "2026-01-01T00:00:00Z"}}]));
        let state = &unknown["containerStatuses"][0]["state"];
        assert_eq!((&state["terminated"]["exitCode"], state.get("running")), (&json!(137), None));
        assert_eq!(
            (&unknown["phase"], &unknown["containerStatuses"][0]["ready"]),
            (&json!("Failed"), &json!(false))
        );
        assert_eq!(settled(json!([]))["phase"], "Failed", "what never ran did not succeed");
    }
}
