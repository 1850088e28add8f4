//! Single steps of a Job.

use std::sync::Arc;

use oarlock_api::catalogue::{JOBS, PODS};
use serde_json::{Value, json};

use super::super::{CONTROLLERS, Settings};
use crate::change::{Change, Plan};
use crate::world::World;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

fn job(spec: Value, status: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum", "namespace": "d", "uid": "j"},
        "spec": {"selector": {"matchLabels": {"j": "j"}}, "parallelism": 2, "completions": 3, "backoffLimit": 6,
            "podReplacementPolicy": "TerminatingOrFailed", "template": {"metadata": {"labels": {"j": "j"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
        "status": status});
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

fn pod(name: &str, status: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"j": "j"}, "finalizers": [TRACKING],
        "ownerReferences": [{"uid": "j", "controller": true}]}, "spec": {"nodeName": "n"}, "status": status})
}

fn plan(job: &Value, pods: &[Value], now: &str) -> Plan {
    let mut world = World::default();
    world.put(&JOBS, "d", "sum", &Arc::new(job.clone()), 1);
    for pod in pods {
        world.put(&PODS, "d", pod["metadata"]["name"].as_str().unwrap(), &Arc::new(pod.clone()), 2);
    }
    let controller = CONTROLLERS.iter().find(|c| c.name == "job").unwrap();
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    (controller.plan)(&world, &settings, &("d".to_owned(), "sum".to_owned()), now.parse().unwrap())
}

fn status_of(plan: &Plan) -> Value {
    let patches = plan.changes.iter().find_map(|c| match c {
        Change::Patch { kind, patch, .. } if **kind == JOBS => Some(patch["status"].clone()),
        _ => None,
    });
    patches.unwrap_or(Value::Null)
}

fn created(plan: &Plan) -> Vec<&Value> {
    let objects = plan.changes.iter().filter_map(|c| match c {
        Change::Create { object, .. } => Some(object),
        _ => None,
    });
    objects.collect()
}

fn released(plan: &Plan) -> Vec<&str> {
    let pods = plan.changes.iter().filter_map(|c| match c {
        Change::Patch { kind, name, .. } if **kind == PODS => Some(name.as_str()),
        _ => None,
    });
    pods.collect()
}

const NOW: &str = "2026-01-01T00:01:00Z";

#[test]
fn a_pod_keeps_its_finalizer_until_the_status_that_counts_it_is_stored() {
    let done = pod("a", json!({"phase": "Succeeded"}));
    let first = plan(&job(json!({}), json!({})), std::slice::from_ref(&done), NOW);
    assert_eq!(released(&first), Vec::<&str>::new());
    assert_eq!(status_of(&first)["uncountedTerminatedPods"]["succeeded"], json!(["a"]));
    assert_eq!(status_of(&first)["succeeded"], Value::Null);
    let second = plan(&job(json!({}), status_of(&first)), std::slice::from_ref(&done), NOW);
    assert_eq!(released(&second), ["a"]);
    let mut free = done;
    free["metadata"]["finalizers"] = Value::Null;
    let third = plan(&job(json!({}), status_of(&first)), &[free], NOW);
    assert_eq!(status_of(&third)["succeeded"], 1);
    assert_eq!(status_of(&third)["uncountedTerminatedPods"]["succeeded"], Value::Null);
}

#[test]
fn indexed_pods_know_their_index() {
    let plan = plan(&job(json!({"completionMode": "Indexed"}), json!({"completedIndexes": "0"})), &[], NOW);
    let pods = created(&plan);
    assert_eq!(pods.len(), 2);
    let index = "batch.kubernetes.io/job-completion-index";
    assert_eq!(pods[0]["metadata"]["annotations"][index], "1");
    assert_eq!(pods[1]["metadata"]["labels"][index], "2");
    assert_eq!(pods[0]["metadata"]["generateName"], "sum-1-");
    assert_eq!(
        (&pods[0]["spec"]["hostname"], &pods[0]["metadata"]["finalizers"]),
        (&json!("sum-1"), &json!([TRACKING]))
    );
    assert_eq!(
        pods[0]["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        "metadata.labels['batch.kubernetes.io/job-completion-index']"
    );
}

fn failed(name: &str, second: u32, code: i64) -> Value {
    let terminated = json!({"exitCode": code, "finishedAt": format!("2026-01-01T00:00:{second:02}Z")});
    pod(
        name,
        json!({"phase": "Failed", "containerStatuses": [{"name": "c", "state": {"terminated": terminated}}]}),
    )
}

#[test]
fn the_pause_after_failures_doubles() {
    let one = [failed("a", 55, 1)];
    let early = plan(&job(json!({}), json!({})), &one, NOW);
    assert_eq!((created(&early).len(), early.again.unwrap().as_secs()), (0, 5));
    assert_eq!(created(&plan(&job(json!({}), json!({})), &one, "2026-01-01T00:01:06Z")).len(), 2);
    let two = [failed("a", 40, 1), failed("b", 55, 1)];
    assert_eq!(plan(&job(json!({}), json!({})), &two, NOW).again.unwrap().as_secs(), 15);
}

#[test]
fn a_deadline_ends_the_job_and_its_pods() {
    let started = json!({"startTime": "2026-01-01T00:00:00Z"});
    let spec = json!({"activeDeadlineSeconds": 60});
    let running = pod("a", json!({"phase": "Running"}));
    let over = plan(&job(spec.clone(), started.clone()), std::slice::from_ref(&running), NOW);
    assert_eq!(status_of(&over)["conditions"][0]["reason"], "DeadlineExceeded");
    assert!(over.changes.iter().any(|c| matches!(c, Change::Delete { name, .. } if name == "a")));
    let before = plan(&job(spec, started), &[running], "2026-01-01T00:00:50Z");
    assert_eq!(before.again.unwrap().as_secs(), 10);
}

#[test]
fn the_failure_policy_fails_the_job_or_looks_away() {
    let policy = json!({"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}});
    let fatal = plan(&job(policy.clone(), json!({})), &[failed("a", 10, 42)], NOW);
    assert_eq!(
        status_of(&fatal)["conditions"][0]["message"],
        "Container c for pod d/a failed with exit code 42 matching FailJob rule at index 1"
    );
    let mut disrupted = failed("a", 10, 1);
    disrupted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
    let ignored = plan(&job(policy.clone(), json!({})), &[disrupted], NOW);
    assert_eq!((released(&ignored), created(&ignored).len()), (vec!["a"], 2));
    assert_eq!(status_of(&ignored)["uncountedTerminatedPods"]["failed"], Value::Null);
    let counted = plan(&job(policy, json!({})), &[failed("a", 10, 1)], NOW);
    assert_eq!(status_of(&counted)["uncountedTerminatedPods"]["failed"], json!(["a"]));
}

#[test]
fn a_finished_job_goes_when_its_time_is_over() {
    let complete =
        json!({"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"});
    let status = json!({"conditions": [complete]});
    let job = job(json!({"ttlSecondsAfterFinished": 40}), status);
    assert_eq!(plan(&job, &[], NOW).again.unwrap().as_secs(), 10);
    let late = plan(&job, &[], "2026-01-01T00:01:10Z").changes;
    assert!(matches!(&late[..], [Change::Delete { name, .. }] if name == "sum"), "{late:?}");
}
