//! Why a node is silent, not ready, full, or kept free. Pure.

use oarlock_api::meta;
use oarlock_api::table::human_duration;
use serde_json::Value;

use super::told::{condition, count, is_true, lasting, list, quantity, reasons, seconds_since, text};
use super::{Answer, Evidence, Finding};

/// After so many seconds without a word a node counts as lost.
const GRACE: i64 = 40;
/// From here on a node is said to be full, in hundredths.
const FULL: i64 = 90;
/// Seconds after which a pod that is to end should have ended.
const LATE: i64 = 30;

pub(super) fn explain(evidence: &Evidence) -> Answer {
    let node = &evidence.object;
    let ready = condition(node, "Ready").unwrap_or(&Value::Null);
    let since = lasting(&ready["lastTransitionTime"], evidence.now);
    let state = if ready["status"] == "True" { "ready" } else { "not ready" };
    let heard = heard(evidence, node);
    let last = heard.map_or_else(
        || "never heard of".to_owned(),
        |seconds| format!("last heard of {} ago", human_duration(seconds)),
    );
    let head = format!("node {} is {state}{since}; {last}", meta::name(node));
    let mut findings = silence(node, ready, heard);
    findings.extend(pressures(evidence, node));
    findings.extend(kept_free(node));
    findings.extend(fullness(evidence, node));
    findings.extend(late(evidence, node));
    if findings.is_empty() {
        findings = evidence.warnings(node);
    }
    Answer { head, findings }
}

/// Seconds since the last heartbeat.
fn heard(evidence: &Evidence, node: &Value) -> Option<i64> {
    let lease = seconds_since(&evidence.lease["spec"]["renewTime"], evidence.now);
    let status = condition(node, "Ready").map_or(&Value::Null, |c| &c["lastHeartbeatTime"]);
    // The one that is younger.
    let status = seconds_since(status, evidence.now);
    lease.into_iter().chain(status).min()
}

fn silence(node: &Value, ready: &Value, heard: Option<i64>) -> Vec<Finding> {
    let mut found = Vec::new();
    if heard.is_none_or(|seconds| seconds >= GRACE) {
        let said =
            "its agent is not heard: is it running there, and does it reach the control plane's agent port?";
        let logs = "on the node: journalctl -u oarlock-agent";
        found.push(Finding::new(said).and(logs));
    }
    if ready["status"] != "True" && !ready.is_null() {
        found.push(Finding::new(format!("Ready is {}: {}", text(&ready["status"]), reasons(ready))));
    }
    if text(&node["spec"]["podCIDR"]).is_empty() {
        found.push(Finding::new(
            "it has no range of addresses for pods (spec.podCIDR): is the --cluster-cidr used up?",
        ));
    }
    found
}

fn pressures(evidence: &Evidence, node: &Value) -> Vec<Finding> {
    let kinds = ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"];
    let told = |kind: &str| {
        let condition = condition(node, kind).filter(|_| is_true(node, kind))?;
        let since = lasting(&condition["lastTransitionTime"], evidence.now);
        Some(Finding::new(format!("it has {kind}{since}: {}", reasons(condition))))
    };
    kinds.into_iter().filter_map(told).collect()
}

fn kept_free(node: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    if node["spec"]["unschedulable"] == true {
        let said = "it is cordoned: no new pod comes to it";
        found.push(Finding::new(said).and(format!("kubectl uncordon {}", meta::name(node))));
    }
    for taint in list(&node["spec"]["taints"]) {
        let key = text(&taint["key"]);
        if key == "node.kubernetes.io/unschedulable" {
            continue;
        }
        let value = Some(text(&taint["value"])).filter(|value| !value.is_empty());
        let called = value.map_or_else(|| key.to_owned(), |value| format!("{key}={value}"));
        let effect = match text(&taint["effect"]) {
            "NoExecute" => "keeps pods away that do not tolerate it, and ends those that are there",
            "PreferNoSchedule" => "sends pods elsewhere that do not tolerate it, where there is room",
            _ => "keeps pods away that do not tolerate it",
        };
        found.push(Finding::new(format!("its taint {called}:{} {effect}", text(&taint["effect"]))));
    }
    found
}

/// The pods that count on a node.
fn pods(evidence: &Evidence) -> impl Iterator<Item = &Value> {
    let over = |pod: &&Value| matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
    evidence.pods.iter().filter(move |pod| !over(pod))
}

fn fullness(evidence: &Evidence, node: &Value) -> Vec<Finding> {
    let allocatable = &node["status"]["allocatable"];
    let mut found = Vec::new();
    for resource in ["cpu", "memory"] {
        let Some(most) = quantity(&allocatable[resource]) else { continue };
        let asked: i64 = pods(evidence).map(|pod| requested(pod, resource)).fold(0, i64::saturating_add);
        let hundredths = asked.saturating_mul(100) / most.milli_value().max(1);
        if hundredths >= FULL {
            found.push(Finding::new(format!(
                "its pods request {hundredths} % of its {} {resource}: little more fits, whatever is really used",
                text(&allocatable[resource])
            )));
        }
    }
    let most = quantity(&allocatable["pods"]).map_or(i64::MAX, |most| most.value());
    let number = pods(evidence).count();
    if i64::try_from(number).unwrap_or(i64::MAX).saturating_mul(100) / most.max(1) >= FULL {
        found.push(Finding::new(format!("it has {} of the {most} that it takes", count(number, "pod"))));
    }
    if let Some(usage) = evidence.usage.first() {
        for (resource, effect) in [("cpu", "its pods are slow"), ("memory", "its pods may be killed")] {
            let used = quantity(&usage["usage"][resource]).zip(quantity(&allocatable[resource]));
            let Some((used, most)) = used else { continue };
            let hundredths = used.milli_value().saturating_mul(100) / most.milli_value().max(1);
            if hundredths >= FULL {
                found
                    .push(Finding::new(format!("{hundredths} % of its {resource} is really used: {effect}")));
            }
        }
    }
    found
}

/// What a pod requests, in thousandths: of its containers together, or of the largest that runs before them.
fn requested(pod: &Value, resource: &str) -> i64 {
    let of = |container: &Value| {
        quantity(&container["resources"]["requests"][resource]).map_or(0, |asked| asked.milli_value())
    };
    let all = list(&pod["spec"]["containers"]).map(of).fold(0, i64::saturating_add);
    let first = list(&pod["spec"]["initContainers"]).map(of).max().unwrap_or(0);
    all.max(first)
}

/// Pods that should have ended long ago.
fn late(evidence: &Evidence, _: &Value) -> Option<Finding> {
    let is_late = |pod: &&Value| {
        seconds_since(&pod["metadata"]["deletionTimestamp"], evidence.now).is_some_and(|late| late > LATE)
    };
    let late: Vec<&Value> = pods(evidence).filter(is_late).collect();
    let first = late.first()?;
    let verb = if late.len() == 1 { "has" } else { "have" };
    let said = format!("{} {verb} not ended in time", count(late.len(), "pod"));
    let why = format!("kubectl oarlock why pod {} -n {}", meta::name(first), meta::namespace(first));
    Some(Finding::new(said).and(why))
}
