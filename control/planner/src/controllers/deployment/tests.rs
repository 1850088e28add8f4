//! Golden plans of single steps: what a Deployment does to its ReplicaSets and says of itself.

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{DEPLOYMENTS, PODS, REPLICA_SETS};
use oarlock_api::defaults;
use serde_json::{Value, json};

use super::super::{CONTROLLERS, Settings};
use crate::change::{Change, Plan};
use crate::world::World;

const START: &str = "2026-01-01T00:00:00Z";

fn deployment(spec: Value) -> Value {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 3,
            "annotations": {"kubernetes.io/change-cause": "why", "deployment.kubernetes.io/revision": "2"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "replicas": 4, "progressDeadlineSeconds": 60, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    defaults::apply(&DEPLOYMENTS, &mut object);
    object
}

/// A ReplicaSet of the image `i:<revision>`: wanted, present and available pods.
fn rs(revision: i64, [wanted, present, available]: [i64; 3]) -> Value {
    let name = format!("web-{revision}");
    let mut template = deployment(json!({}))["spec"]["template"].clone();
    template["metadata"]["labels"]["pod-template-hash"] = json!(revision.to_string());
    template["spec"]["containers"][0]["image"] = json!(format!("i:{revision}"));
    json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": template["metadata"]["labels"], "generation": 1,
            "creationTimestamp": format!("2026-01-01T00:00:{revision:02}Z"),
            "ownerReferences": [{"uid": "u", "controller": true}], "annotations": {
                "deployment.kubernetes.io/revision": revision.to_string(), "deployment.kubernetes.io/desired-replicas": "4",
                "deployment.kubernetes.io/max-replicas": "5", "kubernetes.io/change-cause": "why"}},
        "spec": {"replicas": wanted, "template": template},
        "status": {"replicas": present, "availableReplicas": available, "readyReplicas": available, "observedGeneration": 1}})
}

fn plan(deployment: &Value, sets: &[Value], pods: &[Value], now: &str) -> Plan {
    let mut world = World::default();
    let put = |world: &mut World, kind, object: &Value| {
        world.put(kind, "d", object["metadata"]["name"].as_str().unwrap(), &Arc::new(object.clone()), 2);
    };
    put(&mut world, &DEPLOYMENTS, deployment);
    for set in sets {
        put(&mut world, &REPLICA_SETS, set);
    }
    for pod in pods {
        put(&mut world, &PODS, pod);
    }
    let controller = CONTROLLERS.iter().find(|c| c.name == "deployment").unwrap();
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    let now: Timestamp = now.parse().unwrap();
    (controller.plan)(&world, &settings, &("d".to_owned(), "web".to_owned()), now)
}

/// What is done, one change a line; the status is another matter.
fn does(plan: &Plan) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        let _ = match change {
            Change::Create { object, .. } => {
                writeln!(text, "create of {}", object["spec"]["template"]["spec"]["containers"][0]["image"])
            }
            Change::Patch { kind, name, patch, .. } if **kind == REPLICA_SETS => {
                let mut patch = patch.clone();
                patch["metadata"].as_object_mut().unwrap().shift_remove("resourceVersion");
                writeln!(text, "patch {name} {patch}")
            }
            Change::Delete { name, .. } => writeln!(text, "delete {name}"),
            _ => Ok(()),
        };
    }
    text.trim_end().to_owned()
}

fn status(plan: &Plan) -> Value {
    let patches = plan.changes.iter().find_map(|change| match change {
        Change::Patch { kind, patch, .. } if **kind == DEPLOYMENTS => patch.get("status").cloned(),
        _ => None,
    });
    patches.unwrap_or(Value::Null)
}

/// Reason and status of a condition, and when it was written.
fn said(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    let condition = all.into_iter().find(|c| c["type"] == kind);
    condition.map_or_else(String::new, |c| {
        let text = |field: &str| c[field].as_str().unwrap().to_owned();
        format!("{} {} {}", text("status"), text("reason"), &text("lastUpdateTime")[14..19])
    })
}

fn with_status(mut deployment: Value, status: Value) -> Value {
    deployment["status"] = status;
    deployment
}

#[test]
fn progress_is_told_from_the_first_pod_to_the_last() {
    let mut object = deployment(json!({}));
    let step = |object: &mut Value, sets: &[Value], now: &str| {
        let next = status(&plan(object, sets, &[], now));
        if !next.is_null() {
            object["status"] = next;
        }
        said(&object["status"], "Progressing")
    };
    assert_eq!(step(&mut object, &[], START), "True NewReplicaSetCreated 00:00");
    assert_eq!(said(&object["status"], "Available"), "False MinimumReplicasUnavailable 00:00");
    let at = |s| format!("2026-01-01T00:00:{s}Z");
    assert_eq!(step(&mut object, &[rs(2, [4, 2, 0])], &at("10")), "True ReplicaSetUpdated 00:10");
    assert_eq!(step(&mut object, &[rs(2, [4, 2, 0])], &at("15")), "True ReplicaSetUpdated 00:10");
    assert_eq!(step(&mut object, &[rs(2, [4, 4, 3])], &at("20")), "True ReplicaSetUpdated 00:20");
    assert_eq!(said(&object["status"], "Available"), "True MinimumReplicasAvailable 00:20");
    assert_eq!(step(&mut object, &[rs(2, [4, 4, 4])], &at("30")), "True NewReplicaSetAvailable 00:30");
    // A pod less, or more replicas, is no rollout.
    assert_eq!(step(&mut object, &[rs(2, [4, 4, 1])], &at("40")), "True NewReplicaSetAvailable 00:30");
    object["spec"]["replicas"] = json!(9);
    assert_eq!(step(&mut object, &[rs(2, [9, 5, 5])], &at("50")), "True NewReplicaSetAvailable 00:30");
}

#[test]
fn a_rollout_that_does_not_move_runs_out_of_time_once_until_it_moves() {
    let condition = json!([{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated",
        "lastUpdateTime": START, "lastTransitionTime": START}]);
    let numbers = json!({"replicas": 5, "updatedReplicas": 1, "readyReplicas": 4, "availableReplicas": 4, "conditions": condition});
    let mut object = with_status(deployment(json!({})), numbers);
    let sets = [rs(1, [4, 4, 4]), rs(2, [1, 1, 0])];
    let early = plan(&object, &sets, &[], "2026-01-01T00:00:50Z");
    assert_eq!(early.again.map(|d| d.as_secs()), Some(10));
    assert_eq!(said(&status(&early), "Progressing"), "True ReplicaSetUpdated 00:00");
    object["status"] = status(&plan(&object, &sets, &[], "2026-01-01T00:01:00Z"));
    assert_eq!(said(&object["status"], "Progressing"), "False ProgressDeadlineExceeded 01:00");
    let late = plan(&object, &sets, &[], "2026-01-01T00:01:30Z");
    assert_eq!((status(&late), late.again), (Value::Null, None), "it stays so");
    let moved = plan(&object, &[rs(1, [4, 4, 4]), rs(2, [1, 1, 1])], &[], "2026-01-01T00:02:00Z");
    assert_eq!(said(&status(&moved), "Progressing"), "True ReplicaSetUpdated 02:00");
    object["spec"]["progressDeadlineSeconds"] = json!(i32::MAX);
    let endless = status(&plan(&object, &sets, &[], "2026-01-01T00:02:00Z"));
    assert_eq!(said(&endless, "Progressing"), "", "no deadline, no condition");
}

#[test]
fn a_pause_is_told_and_so_is_its_end() {
    let sets = [rs(1, [4, 4, 4])];
    let mut object = deployment(json!({"paused": true}));
    let paused = plan(&object, &sets, &[], START);
    assert_eq!(does(&paused), "", "no new ReplicaSet");
    object["status"] = status(&paused);
    assert_eq!(said(&object["status"], "Progressing"), "Unknown DeploymentPaused 00:00");
    object["spec"]["paused"] = json!(false);
    let mut back = object.clone();
    back["status"]["updatedReplicas"] = json!(4);
    back["spec"]["template"]["spec"]["containers"][0]["image"] = json!("i:1");
    let resumed = status(&plan(&back, &[rs(1, [4, 4, 3])], &[], START));
    assert_eq!(said(&resumed, "Progressing"), "Unknown DeploymentResumed 00:00");
    assert_eq!(
        said(&status(&plan(&object, &sets, &[], START)), "Progressing"),
        "True NewReplicaSetCreated 00:00"
    );
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone_and_lacks_no_pod() {
    let object = deployment(json!({"strategy": {"type": "Recreate"}}));
    let ending = json!({"metadata": {"name": "p", "uid": "p", "ownerReferences": [{"uid": "web-1", "controller": true}],
        "deletionTimestamp": START}, "status": {"phase": "Running"}});
    let waits = plan(&object, &[rs(1, [0, 0, 0])], std::slice::from_ref(&ending), START);
    assert_eq!(does(&waits), "");
    assert_eq!(said(&status(&waits), "Available"), "False MinimumReplicasUnavailable 00:00");
    let mut ended = ending;
    ended["status"]["phase"] = json!("Failed");
    assert_eq!(does(&plan(&object, &[rs(1, [0, 0, 0])], &[ended], START)), "create of \"i:2\"");
}

#[test]
fn a_change_of_replicas_in_the_middle_of_a_rollout_is_shared() {
    let object = deployment(
        json!({"replicas": 8, "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}}}),
    );
    let annotations = |most: &str| json!({"metadata": {"annotations": {"deployment.kubernetes.io/desired-replicas": "8", "deployment.kubernetes.io/max-replicas": most}}});
    let patch = |replicas: i64| {
        let mut patch = annotations("10");
        patch["spec"] = json!({"replicas": replicas});
        patch
    };
    assert_eq!(
        does(&plan(&object, &[rs(1, [3, 3, 3]), rs(2, [2, 2, 0])], &[], START)),
        format!("patch web-2 {}\npatch web-1 {}", patch(4), patch(6))
    );
}

#[test]
fn the_new_one_gets_what_its_deployment_says() {
    let mut object = deployment(json!({"minReadySeconds": 5}));
    object["metadata"]["annotations"]["kubernetes.io/change-cause"] = json!("because");
    // It is the new one again: an older revision's template.
    let sets = [rs(2, [4, 4, 4]), rs(3, [0, 0, 0])];
    assert_eq!(
        does(&plan(&object, &sets, &[], START)),
        r#"patch web-2 {"metadata":{"annotations":{"kubernetes.io/change-cause":"because","deployment.kubernetes.io/revision":"4","deployment.kubernetes.io/revision-history":"2"}},"spec":{"minReadySeconds":5}}"#
    );
}

#[test]
fn old_ones_go_when_the_rollout_is_complete() {
    let object = deployment(json!({"revisionHistoryLimit": 0}));
    let running = [rs(1, [0, 0, 0]), rs(2, [4, 4, 3])];
    assert_eq!(does(&plan(&object, &running, &[], START)), "");
    let done = [rs(1, [0, 0, 0]), rs(2, [4, 4, 4])];
    assert_eq!(does(&plan(&object, &done, &[], START)), "delete web-1");
    let mut unseen = done;
    unseen[0]["metadata"]["generation"] = json!(2);
    assert_eq!(does(&plan(&object, &unseen, &[], START)), "", "it may have pods again");
}

#[test]
fn what_was_left_by_a_deleted_deployment_is_taken_in() {
    let mut orphan = rs(2, [4, 4, 4]);
    orphan["metadata"]["ownerReferences"] = Value::Null;
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "u", "controller": true, "blockOwnerDeletion": true}]);
    assert_eq!(
        does(&plan(&deployment(json!({})), &[orphan], &[], START)),
        format!("patch web-2 {}", json!({"metadata": {"ownerReferences": owner}}))
    );
    let mut stranger = rs(2, [4, 4, 4]);
    stranger["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(
        does(&plan(&deployment(json!({})), &[stranger], &[], START)),
        r#"patch web-2 {"metadata":{"ownerReferences":null}}"#
    );
}
