//! Deployments.

use serde_json::{Value, json};

use super::*;

fn deployment() -> Value {
    json!({"metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 2,
            "annotations": {"deployment.kubernetes.io/revision": "2"}},
        "spec": {"replicas": 3},
        "status": {"observedGeneration": 2, "updatedReplicas": 3, "readyReplicas": 1, "availableReplicas": 1}})
}

fn set(revision: &str, (wanted, present): (u32, u32)) -> Value {
    json!({"metadata": {"name": format!("web-{revision}"), "uid": format!("set-{revision}"),
            "annotations": {"deployment.kubernetes.io/revision": revision}},
        "spec": {"replicas": wanted}, "status": {"replicas": present}})
}

fn of(mut pod: Value, revision: &str) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{"uid": format!("set-{revision}")}]);
    pod
}

#[test]
fn pods_with_the_same_trouble_are_told_together_and_with_the_number_of_earlier_ones() {
    let pods = vec![of(unready("web-b"), "2"), of(unready("web-a"), "2"), of(well("web-c"), "1")];
    let events = vec![event(&pods[0], Some("web"), REFUSED, 12), event(&pods[1], Some("web"), REFUSED, 7)];
    let replica_sets = vec![set("1", (1, 1)), set("2", (2, 2))];
    let nodes = vec![node("node1", "True")];
    let evidence = Evidence { pods, events, replica_sets, nodes, ..evidence(deployment()) };
    assert_eq!(
        Subject::Deployment.explain(&evidence).text(),
        "\
deployment d/web: 3 wanted, 3 of the latest template, 1 ready, 1 available
- pods web-a and web-b: container web has run for 90s and does not pass its readiness probe: Readiness probe failed: HTTP probe failed with statuscode: 503 (12 times, last 5s ago)
    kubectl -n d logs web-b -c web
    kubectl oarlock why pod web-a -n d
- 1 pod is of an earlier template, and replaced as new ones become available
"
    );
}

#[test]
fn what_stops_a_rollout_is_told_first() {
    let mut stopped = deployment();
    stopped["spec"]["paused"] = json!(true);
    stopped["metadata"]["generation"] = json!(3);
    let said = ("ProgressDeadlineExceeded", "ReplicaSet \"web-2\" has timed out progressing.");
    stopped["status"]["conditions"] = json!([condition("Progressing", "False", said, 30)]);
    let replica_sets = vec![set("2", (3, 1))];
    let quota = "Error creating: pods \"web-x\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1";
    let events = vec![event(&replica_sets[0], None, ("Warning", "FailedCreate", quota), 8)];
    let evidence = Evidence { replica_sets, events, ..evidence(stopped) };
    assert_eq!(
        Subject::Deployment.explain(&evidence).text(),
        format!(
            "\
deployment d/web: 3 wanted, 3 of the latest template, 1 ready, 1 available
- its controller has not seen the last change yet: is a control plane leading?
- it is paused: changes of its template are not rolled out
    kubectl -n d rollout resume deployment/web
- its rollout has made no progress in time, said 30s ago: ReplicaSet \"web-2\" has timed out progressing. (ProgressDeadlineExceeded)
    kubectl -n d rollout undo deployment/web
- pods cannot be made: {quota} (8 times, last 5s ago)
"
        )
    );
}

#[test]
fn a_condition_says_it_before_events_and_time_is_told_that_has_to_pass() {
    let mut failing = deployment();
    failing["status"]["conditions"] =
        json!([condition("ReplicaFailure", "True", ("FailedCreate", "quota"), 3)]);
    assert!(
        Subject::Deployment
            .explain(&evidence(failing))
            .text()
            .contains("- pods cannot be made: quota (FailedCreate)\n")
    );
    let mut young = deployment();
    young["spec"]["minReadySeconds"] = json!(100);
    let evidence = Evidence { pods: vec![well("web-a")], ..evidence(young) };
    assert!(
        Subject::Deployment
            .explain(&evidence)
            .text()
            .contains("- 1 pod is ready, and available only after 100s of it (minReadySeconds)\n")
    );
    let mut empty = deployment();
    empty["spec"]["replicas"] = json!(0);
    assert!(Subject::Deployment.explain(&super::evidence(empty)).text().contains("- it is scaled to zero\n"));
}
