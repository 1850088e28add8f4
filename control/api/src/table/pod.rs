//! The row of a pod: above all its one-word status.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, list, since, text, wide, word};
use crate::meta;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready"),
    text("Status"),
    Column { name: "Restarts", kind: "integer", format: "", priority: 0 },
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let statuses = list(status, "containerStatuses");
    let ready = statuses.iter().filter(|s| s["ready"] == true && s["state"].get("running").is_some()).count();
    let containers = list(spec, "containers").len();
    vec![
        json!(meta::name(pod)),
        json!(format!("{ready}/{containers}")),
        json!(reason(pod)),
        json!(restarts(pod, now)),
        json!(age(pod, now)),
        json!(word(&status["podIP"])),
        json!(word(&spec["nodeName"])),
        json!(word(&status["nominatedNodeName"])),
        json!("<none>"),
    ]
}

/// `3`, or `3 (25s ago)` when the last restart's time is known.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let field = if init_reason(pod).is_some() { "initContainerStatuses" } else { "containerStatuses" };
    let statuses = list(&pod["status"], field);
    let count: i64 = statuses.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let last = statuses.iter().filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last {
        Some(last) if count > 0 => format!("{count} ({} ago)", since(last, now)),
        _ => count.to_string(),
    }
}

/// What the STATUS column says.
fn reason(pod: &Value) -> String {
    let status = &pod["status"];
    let own = status["reason"].as_str().filter(|r| !r.is_empty());
    let mut reason = own.or(status["phase"].as_str()).unwrap_or("").to_owned();
    match init_reason(pod) {
        Some(init) => reason = init,
        None => container_reason(pod, &mut reason),
    }
    let ended = matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
    if meta::is_terminating(pod) && status["reason"] == "NodeLost" {
        return "Unknown".to_owned();
    }
    if meta::is_terminating(pod) && !ended { "Terminating".to_owned() } else { reason }
}

fn init_reason(pod: &Value) -> Option<String> {
    let total = list(&pod["spec"], "initContainers").len();
    for (index, status) in list(&pod["status"], "initContainerStatuses").iter().enumerate() {
        let state = &status["state"];
        let ended = &state["terminated"];
        if ended["exitCode"].as_i64() == Some(0) {
            continue;
        }
        if !ended.is_null() {
            return Some(format!("Init:{}", ended_reason(ended)));
        }
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{total}"));
    }
    None
}

fn ended_reason(ended: &Value) -> String {
    match (ended["reason"].as_str().unwrap_or(""), ended["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn container_reason(pod: &Value, reason: &mut String) {
    let mut running = false;
    for status in list(&pod["status"], "containerStatuses").iter().rev() {
        let state = &status["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        if !waiting.is_empty() {
            waiting.clone_into(reason);
        } else if !state["terminated"].is_null() {
            *reason = ended_reason(&state["terminated"]);
        } else if status["ready"] == true && state.get("running").is_some() {
            running = true;
        }
    }
    // A pod with one container done and another at work is at work.
    if reason == "Completed" && running {
        let ready =
            list(&pod["status"], "conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        (if ready { "Running" } else { "NotReady" }).clone_into(reason);
    }
}
