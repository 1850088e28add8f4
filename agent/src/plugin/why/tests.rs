//! Golden answers: objects and events as an API server has them, and the words that come of them.

use oarlock_api::meta;
use serde_json::{Value, json};

use super::{Evidence, Subject, meant};

mod nodes;
mod pods;
mod services;
mod workloads;

const NOW: &str = "2026-11-28T10:00:00Z";

fn evidence(object: Value) -> Evidence {
    Evidence { now: meta::parse_time(NOW).unwrap(), object, ..Evidence::default() }
}

/// A time before now.
fn ago(seconds: i64) -> String {
    meta::time(meta::parse_time(NOW).unwrap() - jiff::SignedDuration::from_secs(seconds))
}

fn event(
    about: &Value,
    container: Option<&str>,
    (kind, reason, message): (&str, &str, &str),
    count: u32,
) -> Value {
    let mut involved = json!({"uid": meta::uid(about)});
    if let Some(container) = container {
        involved["fieldPath"] = json!(format!("spec.containers{{{container}}}"));
    }
    json!({"involvedObject": involved, "type": kind, "reason": reason, "message": message, "count": count, "lastTimestamp": ago(5)})
}

fn condition(kind: &str, status: &str, (reason, message): (&str, &str), since: i64) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": ago(since)})
}

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "creationTimestamp": ago(300), "labels": {"app": "web"}},
        "spec": {"nodeName": "node1", "schedulerName": "default-scheduler", "containers": [{"name": "web", "image": "web:1"}]},
        "status": {"phase": "Pending"},
    })
}

/// One whose container is in a state.
fn with(name: &str, status: Value) -> Value {
    let mut pod = pod(name);
    pod["status"] = json!({"phase": "Running", "conditions": [condition("Ready", "False", ("ContainersNotReady", ""), 60)],
        "containerStatuses": [status]});
    pod
}

fn well(name: &str) -> Value {
    let mut pod =
        with(name, json!({"name": "web", "ready": true, "state": {"running": {"startedAt": ago(300)}}}));
    pod["status"]["conditions"][0]["status"] = json!("True");
    pod
}

fn unready(name: &str) -> Value {
    let state = json!({"name": "web", "image": "web:1", "ready": false, "started": true, "state": {"running": {"startedAt": ago(90)}}});
    let mut pod = with(name, state);
    pod["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 80}});
    pod
}

const REFUSED: (&str, &str, &str) =
    ("Warning", "Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503");

fn node(name: &str, ready: &str) -> Value {
    let said = ("NodeStatusUnknown", "Kubelet stopped posting node status.");
    let said = if ready == "True" { ("KubeletReady", "kubelet is posting ready status") } else { said };
    json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDR": "10.244.0.0/24"},
        "status": {"conditions": [condition("Ready", ready, said, 200)],
            "allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}})
}

#[test]
fn subjects_are_meant_as_kubectl_lets_people_write_them() {
    let parse = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        meant(&words).map(|(subject, name)| (subject, name.to_owned())).map_err(|error| error.to_string())
    };
    assert_eq!(parse(&["pod", "web"]).unwrap(), (Subject::Pod, "web".to_owned()));
    assert_eq!(parse(&["deploy/web"]).unwrap(), (Subject::Deployment, "web".to_owned()));
    assert_eq!(parse(&["svc", "web"]).unwrap(), (Subject::Service, "web".to_owned()));
    assert_eq!(parse(&["nodes/n"]).unwrap(), (Subject::Node, "n".to_owned()));
    assert_eq!(parse(&["pod"]).unwrap_err(), "say which pod: pod NAME, or pod/NAME");
    assert_eq!(
        parse(&["secret", "s"]).unwrap_err(),
        "secret cannot be asked about: pod, deployment, service and node can"
    );
}
