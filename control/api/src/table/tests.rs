//! Rows as kubectl would print them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cells, columns, conditions, human_duration};
use crate::catalogue::{
    CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, KINDS, Kind, LEASES, NAMESPACES, NODES,
    PODS, REPLICA_SETS, SECRETS, SERVICE_ACCOUNTS, SERVICES,
};

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

/// Recorded from kube-apiserver 1.20.2, `written.json` written after printers.go (v1.33); `Restarts` became a string in 1.22.
#[test]
fn columns_are_those_of_kube_apiserver() {
    let mut recorded: Value = serde_json::from_str(include_str!("recorded.json")).unwrap();
    let written: Value = serde_json::from_str(include_str!("written.json")).unwrap();
    recorded.as_object_mut().unwrap().extend(written.as_object().unwrap().clone());
    for kind in KINDS {
        let ours: Vec<Value> = columns(kind)
            .iter()
            .map(|c| {
                let kind = if c.name == "Restarts" { "integer" } else { c.kind };
                json!([c.name, kind, c.format, c.priority])
            })
            .collect();
        similar_asserts::assert_eq!(json!(ours), recorded[kind.qualified()], "{kind:?}");
    }
}

#[test]
fn no_cell_is_null_or_missing_even_of_an_empty_object() {
    for kind in KINDS {
        for cell in cells(kind, &json!({"metadata": {"name": "x"}}), now()) {
            assert!(
                cell.is_string() || cell.is_i64() || cell.is_u64() || cell.is_boolean(),
                "{kind:?}: {cell}"
            );
        }
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

fn row(kind: &Kind, object: Value) -> Vec<String> {
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells(kind, &object, now()).iter().map(text).collect()
}

/// A pod of one container with these statuses.
fn pod_row(status: Value) -> Vec<String> {
    let spec = json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
    row(&PODS, json!({"metadata": {"name": "p"}, "spec": spec, "status": status}))[1..4].to_vec()
}

#[test]
fn pods_tell_how_their_init_containers_do() {
    let done = json!({"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}, "restartCount": 1});
    let waits = |reason: &str| json!({"state": {"waiting": {"reason": reason}}, "restartCount": 2});
    let failed = json!({"state": {"terminated": {"exitCode": 7, "reason": "Error"}}, "restartCount": 0});
    let killed = json!({"state": {"terminated": {"exitCode": 137, "signal": 9}}});
    let init = |a: &Value, b: &Value| pod_row(json!({"phase": "Pending", "initContainerStatuses": [a, b]}));
    assert_eq!(init(&done, &waits("CrashLoopBackOff")), ["0/1", "Init:CrashLoopBackOff", "3"]);
    assert_eq!(init(&done, &waits("PodInitializing")), ["0/1", "Init:1/2", "3"]);
    assert_eq!(init(&failed, &waits("PodInitializing")), ["0/1", "Init:Error", "0"]);
    assert_eq!(init(&killed, &waits("")), ["0/1", "Init:Signal:9", "0"]);
    // With all of them done the containers speak, and restarts start from zero.
    let running = json!({"ready": true, "state": {"running": {}}, "restartCount": 0});
    let status =
        json!({"phase": "Running", "initContainerStatuses": [done, done], "containerStatuses": [running]});
    assert_eq!(pod_row(status), ["1/1", "Running", "0"]);
    // A pod that was initialized once does not go back to Init.
    let status = json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "True"}],
        "initContainerStatuses": [waits("x"), waits("x")], "containerStatuses": [waits("CrashLoopBackOff")]});
    assert_eq!(pod_row(status), ["0/1", "CrashLoopBackOff", "2"]);
}

#[test]
fn pods_that_end_say_how() {
    let ended = |state: Value| json!({"ready": false, "state": {"terminated": state}});
    let completed = ended(json!({"exitCode": 0, "reason": "Completed"}));
    assert_eq!(pod_row(json!({"phase": "Succeeded", "containerStatuses": [completed]}))[1], "Completed");
    let killed = ended(json!({"exitCode": 137, "reason": "OOMKilled"}));
    assert_eq!(pod_row(json!({"phase": "Failed", "containerStatuses": [killed]}))[1], "OOMKilled");
    let running = json!({"ready": true, "state": {"running": {}}});
    let one_done = json!({"phase": "Running", "containerStatuses": [completed, running]});
    assert_eq!(pod_row(one_done.clone())[1], "NotReady");
    let mut ready = one_done;
    ready["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    assert_eq!(pod_row(ready)[1], "Running");
    assert_eq!(pod_row(json!({"phase": "Failed", "reason": "Evicted"}))[1], "Evicted");
    assert_eq!(
        conditions(&PODS, &json!({"status": {"phase": "Succeeded"}})).unwrap()[0]["type"],
        "Completed"
    );
    assert_eq!(conditions(&PODS, &json!({"status": {"phase": "Running"}})), None);
}

#[test]
fn a_pod_that_ended_before_its_deletion_is_not_terminating() {
    let mut pod = json!({"metadata": {"name": "p", "deletionTimestamp": "2026-11-23T00:00:00Z"},
        "spec": {"containers": [{}]}, "status": {"phase": "Succeeded"}});
    assert_eq!(status(&pod), "Succeeded");
    pod["status"] = json!({"phase": "Running", "reason": "NodeLost"});
    assert_eq!(status(&pod), "Unknown");
}

#[test]
fn services_show_where_they_are_reached() {
    let service = |spec: Value| row(&SERVICES, json!({"metadata": {"name": "s"}, "spec": spec}));
    assert_eq!(
        service(json!({"type": "ClusterIP", "clusterIP": "None", "selector": {"b": "2", "a": "1"}}))[1..],
        ["ClusterIP", "None", "<none>", "<none>", "<unknown>", "a=1,b=2"]
    );
    let external = service(json!({"type": "ExternalName", "externalName": "example.com"}));
    assert_eq!(external[1..4], ["ExternalName", "<none>", "example.com"]);
    assert_eq!(service(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.2"}))[3], "<pending>");
    let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]);
    assert_eq!(service(json!({"type": "NodePort", "ports": ports}))[4], "80/TCP,53:30053/UDP");
}

#[test]
fn nodes_show_their_roles_and_addresses() {
    let node = json!({
        "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "172.30.77.11"}],
            "nodeInfo": {"kubeletVersion": "v1", "osImage": "Debian", "kernelVersion": "6.18", "containerRuntimeVersion": "docker://20"},
        },
    });
    assert_eq!(
        row(&NODES, node)[1..],
        [
            "Ready",
            "edge,worker",
            "<unknown>",
            "v1",
            "172.30.77.11",
            "<none>",
            "Debian",
            "6.18",
            "docker://20"
        ]
    );
    assert_eq!(row(&NODES, json!({}))[1..3], ["Unknown", "<none>"]);
}

#[test]
fn endpoints_are_abridged_after_three() {
    let address = |n: u8| json!({"ip": format!("10.0.0.{n}")});
    let subset = |all: Vec<Value>| json!({"subsets": [{"addresses": all, "ports": [{"port": 80}]}]});
    assert_eq!(row(&ENDPOINTS, subset(vec![]))[1], "<none>");
    assert_eq!(row(&ENDPOINTS, subset(vec![address(1), address(2)]))[1], "10.0.0.1:80,10.0.0.2:80");
    let five = subset((1..=5).map(address).collect());
    assert_eq!(row(&ENDPOINTS, five)[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
    let six = json!({"subsets": [{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 80}]}]});
    assert_eq!(row(&ENDPOINTS, six)[1], "[fd00::1]:80");
    let slice = json!({"addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}, {}],
        "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(row(&ENDPOINT_SLICES, slice)[1..4], ["IPv4", "80,x,*", "10.0.0.1"]);
    assert_eq!(row(&ENDPOINT_SLICES, json!({"addressType": "IPv4"}))[2..4], ["<unset>", "<unset>"]);
}

#[test]
fn events_of_both_apis_read_the_same() {
    let old = json!({
        "metadata": {"name": "e"}, "type": "Warning", "reason": "BackOff", "message": "again\n", "count": 4,
        "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{c}"},
        "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": "2026-11-23T00:00:00Z", "lastTimestamp": "2026-11-23T00:09:00Z",
    });
    assert_eq!(
        row(&EVENTS, old),
        [
            "60s",
            "Warning",
            "BackOff",
            "pod/web",
            "spec.containers{c}",
            "kubelet, n1",
            "again",
            "10m",
            "4",
            "e"
        ]
    );
    let new = json!({
        "metadata": {"name": "e"}, "type": "Normal", "reason": "Scheduled", "message": "ok",
        "involvedObject": {"kind": "Pod", "name": "web"}, "eventTime": "2026-11-23T00:09:55.000000Z",
        "firstTimestamp": null, "lastTimestamp": null, "reportingComponent": "default-scheduler",
    });
    assert_eq!(
        row(&EVENTS, new),
        ["5s", "Normal", "Scheduled", "pod/web", "", "default-scheduler", "ok", "5s", "1", "e"]
    );
}

#[test]
fn small_kinds_count_what_they_hold() {
    assert_eq!(row(&CONFIG_MAPS, json!({"data": {"a": "1"}, "binaryData": {"b": ""}}))[1], "2");
    assert_eq!(row(&SECRETS, json!({"type": "Opaque", "data": {"a": ""}}))[1..3], ["Opaque", "1"]);
    assert_eq!(row(&SERVICE_ACCOUNTS, json!({}))[1], "0");
    assert_eq!(row(&LEASES, json!({"spec": {"holderIdentity": "n1"}}))[1], "n1");
    assert_eq!(row(&NAMESPACES, json!({"status": {"phase": "Terminating"}}))[1], "Terminating");
    let set = json!({"spec": {"replicas": 3}, "status": {"replicas": 2, "readyReplicas": 1}});
    assert_eq!(row(&REPLICA_SETS, set)[1..4], ["3", "2", "1"]);
}

#[test]
fn classes_ingresses_and_components_read_as_in_kubernetes() {
    use crate::catalogue::{
        COMPONENT_STATUSES, INGRESS_CLASSES, INGRESSES, POD_TEMPLATES, PRIORITY_CLASSES, RUNTIME_CLASSES,
    };
    let hosts = |hosts: &[&str]| -> Value { hosts.iter().map(|host| json!({"host": host})).collect() };
    let ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": "c", "rules": hosts(&["a", "b", "c", "d"]), "tls": [{}]},
        "status": {"loadBalancer": {"ingress": [{"hostname": "lb"}, {"ip": "192.0.2.1"}]}}});
    let template = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}, "metadata": {"labels": {"k": "v"}}});
    for (kind, object, row) in [
        (&INGRESSES, ingress, json!(["i", "c", "a,b,c + 1 more...", "192.0.2.1,lb", "80, 443", "<unknown>"])),
        (&INGRESSES, json!({"metadata": {"name": "i"}}), json!(["i", "<none>", "*", "", "80", "<unknown>"])),
        (
            &INGRESS_CLASSES,
            json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/c", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}}),
            json!(["c", "example.com/c", "K.g/n", "<unknown>"]),
        ),
        (
            &POD_TEMPLATES,
            json!({"metadata": {"name": "t"}, "template": template}),
            json!(["t", "a,b", "x,y", "k=v"]),
        ),
        (
            &COMPONENT_STATUSES,
            json!({"metadata": {"name": "scheduler"}, "conditions": [{"type": "Healthy", "status": "False", "message": "m", "error": "e"}]}),
            json!(["scheduler", "Unhealthy", "m", "e"]),
        ),
        (
            &PRIORITY_CLASSES,
            json!({"metadata": {"name": "p"}, "value": 7, "globalDefault": true}),
            json!(["p", 7, true, "<unknown>"]),
        ),
        (
            &RUNTIME_CLASSES,
            json!({"metadata": {"name": "r"}, "handler": "runc"}),
            json!(["r", "runc", "<unknown>"]),
        ),
    ] {
        assert_eq!(json!(cells(kind, &object, now())), row, "{kind:?}");
    }
}
