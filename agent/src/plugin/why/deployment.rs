//! Why a Deployment has not the pods that it should have. Pure.

use std::collections::BTreeMap;

use oarlock_api::meta;
use oarlock_api::table::human_duration;
use serde_json::Value;

use super::told::{and, condition, count, list, reasons, seconds_since, text};
use super::{Answer, Evidence, Finding, pod};

/// Pods that are named of those that have the same trouble.
const NAMED: usize = 3;

pub(super) fn explain(evidence: &Evidence) -> Answer {
    let deployment = &evidence.object;
    let called = format!("deployment {}/{}", meta::namespace(deployment), meta::name(deployment));
    let number = |field: &str| deployment["status"][field].as_i64().unwrap_or(0);
    let wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
    let head = format!(
        "{called}: {wanted} wanted, {} of the latest template, {} ready, {} available",
        number("updatedReplicas"),
        number("readyReplicas"),
        number("availableReplicas"),
    );
    let mut findings = own(evidence, deployment, wanted);
    findings.extend(failures(evidence, deployment));
    findings.extend(troubled(evidence, &evidence.pods));
    findings.extend(not_yet_available(evidence, deployment));
    findings.extend(older(evidence, deployment));
    if findings.is_empty() {
        findings = evidence.warnings(deployment);
    }
    Answer { head, findings }
}

/// What the Deployment says of itself.
fn own(evidence: &Evidence, deployment: &Value, wanted: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    if meta::is_terminating(deployment) {
        let finalizers: Vec<&str> = meta::finalizers(deployment).collect();
        let said = if finalizers.is_empty() {
            "it is being deleted".to_owned()
        } else {
            format!("it is being deleted, and its finalizers keep it: {}", and(&finalizers))
        };
        found.push(Finding::new(said));
    }
    let (generation, seen) =
        (&deployment["metadata"]["generation"], &deployment["status"]["observedGeneration"]);
    if generation.as_i64().unwrap_or(0) > seen.as_i64().unwrap_or(0) {
        let said = "its controller has not seen the last change yet: is a control plane leading?";
        found.push(Finding::new(said));
    }
    if wanted == 0 {
        found.push(Finding::new("it is scaled to zero"));
    }
    if deployment["spec"]["paused"] == true {
        let said = "it is paused: changes of its template are not rolled out";
        let resume = format!(
            "kubectl -n {} rollout resume deployment/{}",
            meta::namespace(deployment),
            meta::name(deployment)
        );
        found.push(Finding::new(said).and(resume));
    }
    let progressing =
        condition(deployment, "Progressing").filter(|c| c["reason"] == "ProgressDeadlineExceeded");
    if let Some(progressing) = progressing {
        let since = seconds_since(&progressing["lastTransitionTime"], evidence.now).unwrap_or(0);
        let said = format!(
            "its rollout has made no progress in time, said {} ago: {}",
            human_duration(since),
            reasons(progressing)
        );
        let undo = format!(
            "kubectl -n {} rollout undo deployment/{}",
            meta::namespace(deployment),
            meta::name(deployment)
        );
        found.push(Finding::new(said).and(undo));
    }
    found
}

/// Pods that could not even be made: quotas, admission, names.
fn failures(evidence: &Evidence, deployment: &Value) -> Vec<Finding> {
    let failure = condition(deployment, "ReplicaFailure").filter(|c| c["status"] == "True");
    if let Some(failure) = failure {
        return vec![Finding::new(format!("pods cannot be made: {}", reasons(failure)))];
    }
    let missing = |set: &&Value| {
        let number = |at: &Value| at.as_i64().unwrap_or(0);
        number(&set["status"]["replicas"]) < number(&set["spec"]["replicas"])
    };
    let told = |set: &Value| {
        let event = evidence.latest(set, &["FailedCreate"])?;
        let said = format!("pods cannot be made: {} ({})", text(&event["message"]), evidence.times(event));
        Some(Finding::new(said))
    };
    evidence.replica_sets.iter().filter(missing).filter_map(told).collect()
}

/// What holds pods up, those with the same trouble together: of each the decisive finding alone.
pub(super) fn troubled(evidence: &Evidence, pods: &[Value]) -> Vec<Finding> {
    let mut groups: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut first: BTreeMap<String, Finding> = BTreeMap::new();
    for one in pods.iter().filter(|pod| !pod::is_well(pod) && pod["status"]["phase"] != "Succeeded") {
        let finding = pod::findings(evidence, one).into_iter().next();
        let finding = finding.unwrap_or_else(|| Finding::new("nothing is said about it"));
        // Without times, counts and hints, which differ from pod to pod.
        let sort: String = finding.said.chars().filter(|c| !c.is_ascii_digit()).collect();
        groups.entry(sort.clone()).or_default().push(meta::name(one));
        first.entry(sort).or_insert(finding);
    }
    let mut found: Vec<(usize, Finding)> = groups
        .into_iter()
        .filter_map(|(sort, mut names)| {
            names.sort_unstable();
            let all = names.len();
            let more = all.saturating_sub(NAMED);
            names.truncate(NAMED);
            let mut words: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            if more > 0 {
                words.push(format!("{more} more"));
            }
            let mut finding = first.remove(&sort)?;
            finding.said =
                format!("{} {}: {}", if all == 1 { "pod" } else { "pods" }, and(&words), finding.said);
            if let Some(name) = names.first() {
                let namespace = pods.first().map_or("", meta::namespace);
                finding.more.push(format!("kubectl oarlock why pod {name} -n {namespace}"));
            }
            Some((all, finding))
        })
        .collect();
    found.sort_by_key(|(pods, _)| std::cmp::Reverse(*pods));
    found.into_iter().map(|(_, finding)| finding).collect()
}

/// Pods that are ready and not for long enough.
fn not_yet_available(evidence: &Evidence, deployment: &Value) -> Option<Finding> {
    let least = deployment["spec"]["minReadySeconds"].as_i64().filter(|least| *least > 0)?;
    let young = evidence.pods.iter().filter(|one| pod::is_well(one)).filter(|one| {
        let since = condition(one, "Ready").map_or(&Value::Null, |c| &c["lastTransitionTime"]);
        seconds_since(since, evidence.now).is_some_and(|seconds| seconds < least)
    });
    let young = young.count();
    (young > 0).then(|| {
        let verb = if young == 1 { "is" } else { "are" };
        Finding::new(format!(
            "{} {verb} ready, and available only after {least}s of it (minReadySeconds)",
            count(young, "pod")
        ))
    })
}

/// Pods of earlier templates.
fn older(evidence: &Evidence, deployment: &Value) -> Option<Finding> {
    const REVISION: &str = "deployment.kubernetes.io/revision";
    let latest = meta::annotation(deployment, REVISION)?;
    let older = evidence.replica_sets.iter().filter(|set| meta::annotation(set, REVISION) != Some(latest));
    let uids: Vec<&str> = older.map(meta::uid).collect();
    let owned =
        |pod: &&Value| list(&pod["metadata"]["ownerReferences"]).any(|o| uids.contains(&text(&o["uid"])));
    let number = evidence.pods.iter().filter(|pod| !meta::is_terminating(pod)).filter(owned).count();
    (number > 0).then(|| {
        let said = if number == 1 { "1 pod is".to_owned() } else { format!("{number} pods are") };
        Finding::new(format!("{said} of an earlier template, and replaced as new ones become available"))
    })
}
