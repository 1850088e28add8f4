//! The row of a pod: above all its one-word status.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, list, since, text, wide, word};
use crate::meta;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    text("Ready"),
    text("Status"),
    // A number until 1.21; since then the time of the last restart stands beside it.
    text("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let ready = match progress(pod) {
        Progress::Init(_) => 0,
        Progress::Main => list(status, "containerStatuses").iter().filter(|s| is_ready(s)).count(),
    };
    let containers = list(spec, "containers").len();
    let first_ip = list(status, "podIPs").first().map_or(&status["podIP"], |ip| &ip["ip"]);
    vec![
        json!(meta::name(pod)),
        json!(format!("{ready}/{containers}")),
        json!(reason(pod)),
        json!(restarts(pod, now)),
        json!(age(pod, now)),
        json!(word(first_ip)),
        json!(word(&spec["nodeName"])),
        json!(word(&status["nominatedNodeName"])),
        json!(readiness_gates(pod)),
    ]
}

/// `1/2`: how many of the pod's own conditions of readiness hold.
fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holds = |gate: &&Value| condition(pod, gate["conditionType"].as_str().unwrap_or("")) == Some("True");
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

fn condition<'v>(pod: &'v Value, kind: &str) -> Option<&'v str> {
    list(&pod["status"], "conditions").iter().find(|c| c["type"] == kind)?["status"].as_str()
}

fn is_running(status: &Value) -> bool {
    status["state"].get("running").is_some_and(|r| !r.is_null())
}

fn is_ready(status: &Value) -> bool {
    let state = &status["state"];
    let waits = !state["waiting"]["reason"].as_str().unwrap_or("").is_empty();
    status["ready"] == true && is_running(status) && !waits && state["terminated"].is_null()
}

/// `3`, or `3 (25s ago)` when the last restart's time is known. Restarts of init containers count until they are done.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let statuses: Vec<&Value> = match progress(pod) {
        // Up to and with the one that is at work or has failed.
        Progress::Init(index) => {
            list(&pod["status"], "initContainerStatuses").iter().take(index + 1).collect()
        }
        Progress::Main => list(&pod["status"], "containerStatuses").iter().collect(),
    };
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
    let scheduled = list(status, "conditions").iter().find(|c| c["type"] == "PodScheduled");
    if scheduled.is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    if let Some((_, init)) = init_reason(pod) {
        reason = init;
    }
    if matches!(progress(pod), Progress::Main) {
        container_reason(pod, &mut reason);
    }
    let ended = matches!(status["phase"].as_str(), Some("Failed" | "Succeeded"));
    if meta::is_terminating(pod) && status["reason"] == "NodeLost" {
        return "Unknown".to_owned();
    }
    if meta::is_terminating(pod) && !ended { "Terminating".to_owned() } else { reason }
}

/// Which containers the row is about.
enum Progress {
    /// The init containers, of which this one is not done.
    Init(usize),
    /// The containers themselves.
    Main,
}

fn progress(pod: &Value) -> Progress {
    match init_reason(pod) {
        Some((index, _)) if condition(pod, "Initialized") != Some("True") => Progress::Init(index),
        _ => Progress::Main,
    }
}

/// The first init container that is not done, and what to say about it.
fn init_reason(pod: &Value) -> Option<(usize, String)> {
    let total = list(&pod["spec"], "initContainers").len();
    for (index, status) in list(&pod["status"], "initContainerStatuses").iter().enumerate() {
        let state = &status["state"];
        let ended = &state["terminated"];
        if ended["exitCode"].as_i64() == Some(0) {
            continue;
        }
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        let text = if !ended.is_null() {
            format!("Init:{}", ended_reason(ended))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{index}/{total}")
        };
        return Some((index, text));
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
        } else if is_ready(status) {
            running = true;
        }
    }
    // A pod with one container done and another at work is at work.
    if reason == "Completed" && running {
        let ready = condition(pod, "Ready") == Some("True");
        (if ready { "Running" } else { "NotReady" }).clone_into(reason);
    }
}
