//! Why a pod is not placed, not ready, not gone or slow. Pure.

mod containers;
mod ending;

use oarlock_api::meta;
use serde_json::Value;

use super::told::{and, condition, is_true, lasting, list, reasons, text};
use super::{Answer, Evidence, Finding};

pub(super) fn explain(evidence: &Evidence) -> Answer {
    let pod = &evidence.object;
    let called = format!("pod {}/{}", meta::namespace(pod), meta::name(pod));
    let mut findings = findings(evidence, pod);
    if findings.is_empty() {
        findings = evidence.warnings(pod);
    }
    Answer { head: format!("{called} {}", state(evidence, pod)), findings }
}

/// What state a pod is in, and since when.
fn state(evidence: &Evidence, pod: &Value) -> String {
    let since_condition = |kind: &str| {
        let since = condition(pod, kind).map_or(&Value::Null, |c| &c["lastTransitionTime"]);
        lasting(since, evidence.now)
    };
    if meta::is_terminating(pod) {
        return "is to end".to_owned();
    }
    match text(&pod["status"]["phase"]) {
        "Succeeded" => "has ended well".to_owned(),
        "Failed" => format!("has failed: {}", reasons(&pod["status"])),
        _ if text(&pod["spec"]["nodeName"]).is_empty() => {
            let age = lasting(&pod["metadata"]["creationTimestamp"], evidence.now);
            format!("is on no node yet{age}")
        }
        _ if is_true(pod, "Ready") => format!("is ready{}", since_condition("Ready")),
        _ => {
            let node = text(&pod["spec"]["nodeName"]);
            format!("is not ready{}, on {node}", since_condition("Ready"))
        }
    }
}

/// Whether a pod answers: not ending, not over, and ready.
pub(super) fn is_well(pod: &Value) -> bool {
    !meta::is_terminating(pod) && is_true(pod, "Ready")
}

/// What holds a pod up, the decisive first; nothing is found of one that is well and quick.
pub(super) fn findings(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    if meta::is_terminating(pod) {
        return ending::findings(evidence, pod);
    }
    let mut found = Vec::new();
    let over = matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed");
    if text(&pod["spec"]["nodeName"]).is_empty() {
        found.extend(claims(evidence, pod));
        found.extend(unplaced(evidence, pod));
        return found;
    }
    if !over {
        found.extend(silent_node(evidence, pod));
        if !is_true(pod, "Ready") {
            found.extend(claims(evidence, pod));
            found.extend(preparation(evidence, pod));
        }
    }
    found.extend(containers::findings(evidence, pod));
    if !over {
        found.extend(gates(pod));
        found.extend(containers::near_limits(evidence, pod));
    }
    found
}

fn unplaced(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    let gates: Vec<&str> = list(&pod["spec"]["schedulingGates"]).map(|gate| text(&gate["name"])).collect();
    if !gates.is_empty() {
        let said = format!("it is kept from being placed by its gates {}", and(&gates));
        return vec![Finding::new(said).and("who has set them has to take them out of spec.schedulingGates")];
    }
    let nominated = text(&pod["status"]["nominatedNodeName"]);
    if !nominated.is_empty() {
        return vec![Finding::new(format!(
            "it gets node {nominated} as soon as pods of lower priority have left it"
        ))];
    }
    let scheduler = text(&pod["spec"]["schedulerName"]);
    let Some(placed) = condition(pod, "PodScheduled") else {
        let said = if matches!(scheduler, "" | "default-scheduler") {
            "the scheduler has not looked at it yet: is a control plane leading?".to_owned()
        } else {
            format!(
                "it asks for the scheduler {scheduler}, which has not placed it: is one of that name running?"
            )
        };
        return vec![Finding::new(said)];
    };
    let message = text(&placed["message"]);
    let event = evidence.latest(pod, &["FailedScheduling"]);
    let times = event.map_or_else(String::new, |event| format!(" (said {})", evidence.times(event)));
    let mut finding = Finding::new(format!("no node takes it: {message}{times}"));
    for (sign, remedy) in [
        (
            "Insufficient",
            "less is free than it requests: lower spec.containers[].resources.requests, free some, or add a node",
        ),
        (
            "untolerated taint",
            "nodes are tainted: see `kubectl oarlock why node NAME`, or tolerate it in spec.tolerations",
        ),
        (
            "node affinity/selector",
            "compare spec.nodeSelector and spec.affinity with `kubectl get nodes --show-labels`",
        ),
        ("were unschedulable", "nodes are cordoned: `kubectl uncordon NAME`"),
        ("free ports", "a hostPort is free once on each node"),
    ] {
        if message.contains(sign) {
            finding = finding.and(remedy);
        }
    }
    vec![finding]
}

fn silent_node(evidence: &Evidence, pod: &Value) -> Option<Finding> {
    let name = text(&pod["spec"]["nodeName"]);
    let Some(node) = evidence.node(name) else {
        return Some(Finding::new(format!("its node {name} is not there: nobody runs it")));
    };
    if is_true(node, "Ready") {
        return None;
    }
    let ready = condition(node, "Ready").unwrap_or(&Value::Null);
    let since = lasting(&ready["lastTransitionTime"], evidence.now);
    let said = format!("its node {name} is not ready{since}: {}", reasons(ready));
    Some(Finding::new(said).and(format!("kubectl oarlock why node {name}")))
}

/// Claims that are not there or not bound.
fn claims(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    for volume in list(&pod["spec"]["volumes"]) {
        let own = format!("{}-{}", meta::name(pod), text(&volume["name"]));
        let name = match &volume["persistentVolumeClaim"]["claimName"] {
            Value::String(name) => name.as_str(),
            _ if volume["ephemeral"].is_object() => own.as_str(),
            _ => continue,
        };
        let said = match evidence.claims.iter().find(|claim| meta::name(claim) == name) {
            None => format!("the claim {name} of its volume {} does not exist", text(&volume["name"])),
            Some(claim) if meta::is_terminating(claim) => format!("the claim {name} is being deleted"),
            Some(claim) if claim["status"]["phase"] == "Bound" => continue,
            Some(claim) => {
                let reasons = ["ProvisioningFailed", "FailedBinding", "WaitForFirstConsumer"];
                let why = evidence.latest(claim, &reasons).map(|event| text(&event["message"]));
                let phase = claim["status"]["phase"].as_str().unwrap_or("Pending");
                // This one waits for the pod, not the pod for it.
                if why.is_some_and(|why| why.contains("waiting for first consumer")) {
                    continue;
                }
                format!("the claim {name} is {phase}: {}", why.unwrap_or("nothing is said about it yet"))
            }
        };
        found
            .push(Finding::new(said).and(format!("kubectl -n {} describe pvc {name}", meta::namespace(pod))));
    }
    found
}

/// What has to be done before any container, and failed.
fn preparation(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    let begun = list(&pod["status"]["containerStatuses"])
        .chain(list(&pod["status"]["initContainerStatuses"]))
        .any(|status| status["state"]["waiting"].is_null() || !status["lastState"]["terminated"].is_null());
    if begun {
        return Vec::new();
    }
    let of = |reason: &str, what: &str| {
        let event = evidence.latest(pod, &[reason])?;
        let said = format!("{what}: {} ({})", text(&event["message"]), evidence.times(event));
        Some(Finding::new(said))
    };
    [
        of("FailedMount", "a volume cannot be had"),
        of("FailedAttachVolume", "a volume cannot be had"),
        of("FailedCreatePodSandBox", "its network or first container cannot be made"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn gates(pod: &Value) -> Vec<Finding> {
    let missing = |gate: &Value| {
        let kind = text(&gate["conditionType"]);
        let why = match condition(pod, kind) {
            Some(condition) if condition["status"] == "True" => return None,
            Some(condition) => reasons(condition),
            None => "nobody has set it".to_owned(),
        };
        Some(Finding::new(format!("its readiness gate {kind} is not open: {why}")))
    };
    list(&pod["spec"]["readinessGates"]).filter_map(missing).collect()
}
