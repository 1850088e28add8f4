//! What holds a pod's containers up: images, ends, probes; and who is near a limit. Pure.

use oarlock_api::meta;
use oarlock_api::table::human_duration;
use serde_json::Value;

use crate::plugin::why::told::{list, quantity, reasons, seconds_since, text};
use crate::plugin::why::{Evidence, Finding};

/// From here on who is near a limit is said to be, in hundredths of it.
const NEAR: i64 = 90;

/// Containers that hold a pod up: those before the others as long as they have not ended.
pub(super) fn findings(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    let statuses = |field: &str| list(&pod["status"][field]).collect::<Vec<_>>();
    let first = statuses("initContainerStatuses");
    let mut found: Vec<Finding> =
        first.iter().filter_map(|status| container(evidence, pod, status, true)).collect();
    if found.is_empty() {
        let all = statuses("containerStatuses");
        found.extend(all.iter().filter_map(|status| container(evidence, pod, status, false)));
    }
    found
}

/// What holds a container up.
fn container(evidence: &Evidence, pod: &Value, status: &Value, first: bool) -> Option<Finding> {
    let (name, state) = (text(&status["name"]), &status["state"]);
    let called = if first { format!("init container {name}") } else { format!("container {name}") };
    if state["waiting"].is_object() {
        return waiting(evidence, pod, status, &called);
    }
    if state["terminated"].is_object() {
        let ended = &state["terminated"];
        if ended["exitCode"] == 0 {
            return None;
        }
        let logs = logs(pod, name, "");
        return Some(Finding::new(format!("{called} {}", end(evidence, pod, name, ended))).and(logs));
    }
    if first && definition(pod, name)["restartPolicy"] != "Always" {
        let since = running(evidence, state);
        return Some(Finding::new(format!("{called} {since}; the others wait for its end")));
    }
    if status["ready"] != true {
        return Some(unready(evidence, pod, status, &called));
    }
    let last = &status["lastState"]["terminated"];
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let recent = seconds_since(&last["finishedAt"], evidence.now).is_some_and(|seconds| seconds < 600);
    (restarts > 0 && recent).then(|| {
        let said =
            format!("{called} was restarted (restarts: {restarts}): it {}", end(evidence, pod, name, last));
        Finding::new(said).and(logs(pod, name, " --previous"))
    })
}

fn waiting(evidence: &Evidence, pod: &Value, status: &Value, called: &str) -> Option<Finding> {
    let (name, waiting) = (text(&status["name"]), &status["state"]["waiting"]);
    let image = text(&status["image"]);
    let last = &status["lastState"]["terminated"];
    match text(&waiting["reason"]) {
        reason @ ("ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName") => {
            let event = evidence.latest_of_container(pod, name, &["Failed", "ErrImageNeverPull"]);
            let failed = event.map(|event| text(&event["message"])).filter(|m| !m.starts_with("Error: "));
            let why = failed.unwrap_or_else(|| text(&waiting["message"]));
            let said = format!("{called} has no image {image} ({reason}): {why}");
            Some(Finding::new(said).and("is the name right, and can the node reach the registry?"))
        }
        "CrashLoopBackOff" => {
            let restarts = status["restartCount"].as_i64().unwrap_or(0);
            let said = format!(
                "{called} ends again and again (restarts: {restarts}) and waits before the next start: it {}",
                end(evidence, pod, name, last)
            );
            Some(Finding::new(said).and(logs(pod, name, " --previous")))
        }
        // Others hold it up, which are told, or it has only just been made.
        "PodInitializing" => None,
        "ContainerCreating" | "" => {
            let old = seconds_since(&pod["metadata"]["creationTimestamp"], evidence.now);
            let told = evidence.latest(pod, &["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"]);
            let pulls = evidence.latest_of_container(pod, name, &["Pulling", "Pulled"]);
            let since = pulls.filter(|event| event["reason"] == "Pulling").map(|event| evidence.times(event));
            match since {
                Some(times) => {
                    Some(Finding::new(format!("{called}: the image {image} is being pulled, since {times}")))
                }
                None if told.is_none() => {
                    let age =
                        old.map_or_else(String::new, |s| format!(", {} after the pod", human_duration(s)));
                    Some(Finding::new(format!("{called} is being made{age}")))
                }
                None => None,
            }
        }
        _ => Some(Finding::new(format!("{called} cannot be started: {}", reasons(waiting)))),
    }
}

/// How a container ended.
fn end(evidence: &Evidence, pod: &Value, name: &str, ended: &Value) -> String {
    let ago = seconds_since(&ended["finishedAt"], evidence.now)
        .map_or_else(String::new, |seconds| format!(" {} ago", human_duration(seconds)));
    let code = ended["exitCode"].as_i64().unwrap_or(0);
    let why = match text(&ended["reason"]) {
        "OOMKilled" => {
            let limit = text(&definition(pod, name)["resources"]["limits"]["memory"]);
            let limit =
                if limit.is_empty() { "there is".to_owned() } else { format!("its limit of {limit}") };
            format!(": it wanted more memory than {limit} (OOMKilled)")
        }
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    let last = text(&ended["message"]).trim();
    let last = if last.is_empty() { String::new() } else { format!(", and said: {last}") };
    format!("ended{ago} with exit code {code}{why}{last}")
}

fn unready(evidence: &Evidence, pod: &Value, status: &Value, called: &str) -> Finding {
    let name = text(&status["name"]);
    let own = definition(pod, name);
    let starts = status["started"] == false && own["startupProbe"].is_object();
    let probe = if starts { "startup" } else { "readiness" };
    if !starts && !own["readinessProbe"].is_object() {
        return Finding::new(format!("{called} is running and not ready: its node has not said more yet"));
    }
    let runs = running(evidence, &status["state"]);
    match evidence.latest_of_container(pod, name, &["Unhealthy"]) {
        Some(event) => {
            let said = format!(
                "{called} {runs} and does not pass its {probe} probe: {} ({})",
                text(&event["message"]).trim(),
                evidence.times(event)
            );
            Finding::new(said).and(logs(pod, name, ""))
        }
        None => Finding::new(format!("{called} {runs} and has not passed its {probe} probe yet")),
    }
}

/// `has run for 3m`.
fn running(evidence: &Evidence, state: &Value) -> String {
    let since = seconds_since(&state["running"]["startedAt"], evidence.now);
    since.map_or_else(|| "runs".to_owned(), |seconds| format!("has run for {}", human_duration(seconds)))
}

pub(super) fn definition<'v>(pod: &'v Value, name: &str) -> &'v Value {
    let spec = &pod["spec"];
    let all = list(&spec["containers"]).chain(list(&spec["initContainers"]));
    all.into_iter().find(|container| container["name"] == name).unwrap_or(&Value::Null)
}

fn logs(pod: &Value, container: &str, more: &str) -> String {
    format!("kubectl -n {} logs {} -c {container}{more}", meta::namespace(pod), meta::name(pod))
}

/// Containers that use nearly all that they may.
pub(super) fn near_limits(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    let same = |usage: &&Value| {
        meta::name(usage) == meta::name(pod) && meta::namespace(usage) == meta::namespace(pod)
    };
    let Some(usage) = evidence.usage.iter().find(same) else { return Vec::new() };
    let mut found = Vec::new();
    for container in list(&usage["containers"]) {
        let name = text(&container["name"]);
        for (resource, effect) in
            [("cpu", "it is slowed down"), ("memory", "it is killed when it wants more")]
        {
            let limit = &definition(pod, name)["resources"]["limits"][resource];
            let (Some(used), Some(most)) = (quantity(&container["usage"][resource]), quantity(limit)) else {
                continue;
            };
            let (used, most) = (used.milli_value(), most.milli_value().max(1));
            let hundredths = used.saturating_mul(100) / most;
            if hundredths >= NEAR {
                let limit = text(limit);
                found.push(Finding::new(format!(
                    "container {name} uses {hundredths} % of its limit of {limit} {resource}: {effect}"
                )));
            }
        }
    }
    found
}
