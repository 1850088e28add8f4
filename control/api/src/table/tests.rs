//! Rows as kubectl would print them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, columns, human_duration};
use crate::catalogue::{DEPLOYMENTS, KINDS, NODES, PODS, SERVICES};

fn now() -> Timestamp {
    "2026-11-23T00:10:00Z".parse().unwrap()
}

fn status(pod: &Value) -> String {
    cells(&PODS, pod, now())[2].as_str().unwrap().to_owned()
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for kind in KINDS {
        let row = cells(kind, &json!({"metadata": {"name": "x"}}), now());
        assert_eq!(row.len(), columns(kind).len(), "{kind:?}");
        let name = columns(kind).iter().position(|c| c.format == "name").unwrap();
        assert_eq!(row[name], "x", "{kind:?}");
    }
}

#[test]
fn ages_are_written_as_upstream_writes_them() {
    for (seconds, text) in [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (200, "3m20s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_520, "3h12m"),
        (172_799, "47h"),
        (172_800, "2d"),
        (187_200, "2d4h"),
        (864_000, "10d"),
        (-5, "<invalid>"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}

#[test]
fn the_status_of_a_pod_is_its_most_telling_word() {
    let pod =
        |status: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [{}]}, "status": status});
    assert_eq!(status(&pod(json!({"phase": "Pending"}))), "Pending");
    let waiting = json!({"state": {"waiting": {"reason": "ErrImagePull"}}});
    assert_eq!(status(&pod(json!({"phase": "Pending", "containerStatuses": [waiting]}))), "ErrImagePull");
    let ended = json!({"state": {"terminated": {"exitCode": 3}}});
    assert_eq!(status(&pod(json!({"phase": "Running", "containerStatuses": [ended]}))), "ExitCode:3");
    let running = json!({"state": {"running": {}}});
    let mut object = pod(json!({"phase": "Pending", "initContainerStatuses": [running]}));
    object["spec"]["initContainers"] = json!([{}, {}]);
    assert_eq!(status(&object), "Init:0/2");
    object["metadata"]["deletionTimestamp"] = json!("2026-11-23T00:00:00Z");
    assert_eq!(status(&object), "Terminating");
}

#[test]
fn a_pods_row_counts_what_is_ready_and_restarted() {
    let restarted = json!({"ready": true, "state": {"running": {}}, "restartCount": 2,
        "lastState": {"terminated": {"finishedAt": "2026-11-23T00:09:30Z"}}});
    let fresh = json!({"ready": false, "state": {"running": {}}, "restartCount": 0});
    let pod = json!({
        "metadata": {"name": "p", "creationTimestamp": "2026-11-23T00:00:00Z"},
        "spec": {"containers": [{}, {}], "nodeName": "n1"},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [restarted, fresh]},
    });
    let row = cells(&PODS, &pod, now());
    assert_eq!(row[..7], ["p", "1/2", "Running", "2 (30s ago)", "10m", "10.0.0.1", "n1"].map(|s| json!(s)));
}

#[test]
fn services_nodes_and_deployments_read_as_in_kubernetes() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.9",
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}], "selector": {"app": "web"}}});
    let row = cells(&SERVICES, &service, now());
    assert_eq!(row[1..5], ["NodePort", "10.96.0.9", "<none>", "80:30080/TCP"].map(|s| json!(s)));
    assert_eq!(row[6], "app=web");
    let node = json!({"metadata": {"name": "n"}, "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    assert_eq!(cells(&NODES, &node, now())[1], "NotReady,SchedulingDisabled");
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}, "status": {"readyReplicas": 1}});
    let row = cells(&DEPLOYMENTS, &deployment, now());
    assert_eq!(
        (&row[1], &row[5], &row[6], &row[7]),
        (&json!("1/3"), &json!("c"), &json!("i"), &json!("a=b"))
    );
}
