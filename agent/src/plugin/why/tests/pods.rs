//! Pods.

use serde_json::{Value, json};

use super::*;

fn answer(pod: &Value, events: Vec<Value>) -> String {
    let nodes = vec![node("node1", "True")];
    Subject::Pod.explain(&Evidence { events, nodes, ..evidence(pod.clone()) }).text()
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"name": "web", "image": "web:1", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": reason, "message": message}}})
}

#[test]
fn who_is_on_no_node_is_told_what_keeps_it() {
    let mut pod = pod("p");
    pod["spec"]["nodeName"] = Value::Null;
    assert_eq!(
        answer(&pod, vec![]),
        "pod d/p is on no node yet, for 5m\n- the scheduler has not looked at it yet: is a control plane leading?\n"
    );
    let why = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: none.";
    pod["status"]["conditions"] = json!([condition("PodScheduled", "False", ("Unschedulable", why), 300)]);
    let said = event(&pod, None, ("Warning", "FailedScheduling", why), 3);
    assert_eq!(
        answer(&pod, vec![said]),
        "\
pod d/p is on no node yet, for 5m
- no node takes it: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: none. (said 3 times, last 5s ago)
    less is free than it requests: lower spec.containers[].resources.requests, free some, or add a node
    nodes are cordoned: `kubectl uncordon NAME`
"
    );
    pod["status"]["nominatedNodeName"] = json!("node2");
    assert!(
        answer(&pod, vec![])
            .contains("- it gets node node2 as soon as pods of lower priority have left it\n")
    );
    pod["spec"]["schedulingGates"] = json!([{"name": "example.com/a"}, {"name": "example.com/b"}]);
    assert!(
        answer(&pod, vec![])
            .contains("- it is kept from being placed by its gates example.com/a and example.com/b\n")
    );
}

#[test]
fn claims_are_told_that_are_missing_or_unbound_and_not_those_that_wait_for_the_pod() {
    let mut pod = pod("p");
    pod["spec"]["nodeName"] = Value::Null;
    pod["spec"]["schedulingGates"] = json!([{"name": "g"}]);
    let volume = |name: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
    pod["spec"]["volumes"] = json!([volume("none"), volume("bound"), volume("stuck"), volume("patient"),
        {"name": "own", "ephemeral": {}}]);
    let claim = |name: &str, phase: &str| json!({"metadata": {"name": name, "uid": name}, "status": {"phase": phase}});
    let claims = vec![claim("bound", "Bound"), claim("stuck", "Pending"), claim("patient", "Pending")];
    let events = vec![
        event(
            &claims[1],
            None,
            (
                "Normal",
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
            ),
            9,
        ),
        event(
            &claims[2],
            None,
            ("Normal", "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            1,
        ),
    ];
    let text = Subject::Pod.explain(&Evidence { claims, events, ..evidence(pod) }).text();
    assert_eq!(
        text,
        "\
pod d/p is on no node yet, for 5m
- the claim none of its volume none does not exist
    kubectl -n d describe pvc none
- the claim stuck is Pending: no persistent volumes available for this claim and no storage class is set
    kubectl -n d describe pvc stuck
- the claim p-own of its volume own does not exist
    kubectl -n d describe pvc p-own
- it is kept from being placed by its gates g
    who has set them has to take them out of spec.schedulingGates
"
    );
}

#[test]
fn images_volumes_and_configuration_are_told_with_their_errors() {
    let pod = with("p", waiting("ImagePullBackOff", "Back-off pulling image \"web:1\""));
    let failed = "Failed to pull image \"web:1\": no such host";
    let events = vec![
        event(&pod, Some("web"), ("Warning", "Failed", failed), 4),
        event(&pod, Some("web"), ("Warning", "Failed", "Error: ImagePullBackOff"), 4),
    ];
    assert_eq!(
        answer(&pod, events),
        "\
pod d/p is not ready, for 60s, on node1
- container web has no image web:1 (ImagePullBackOff): Failed to pull image \"web:1\": no such host
    is the name right, and can the node reach the registry?
"
    );
    let pod = with("p", waiting("ContainerCreating", ""));
    let mount =
        ("Warning", "FailedMount", "MountVolume.SetUp failed for volume \"c\" : configmap \"c\" not found");
    let events = vec![event(&pod, None, mount, 7)];
    assert_eq!(
        answer(&pod, events),
        "\
pod d/p is not ready, for 60s, on node1
- a volume cannot be had: MountVolume.SetUp failed for volume \"c\" : configmap \"c\" not found (7 times, last 5s ago)
"
    );
    assert!(answer(&pod, vec![]).contains("- container web is being made, 5m after the pod\n"));
    let pod = with("p", waiting("CreateContainerConfigError", "secret \"s\" not found"));
    assert!(answer(&pod, vec![]).contains(
        "- container web cannot be started: secret \"s\" not found (CreateContainerConfigError)\n"
    ));
}

#[test]
fn containers_that_end_are_told_how_they_ended() {
    let mut status = waiting("CrashLoopBackOff", "back-off 20s restarting failed container");
    status["restartCount"] = json!(4);
    status["lastState"]["terminated"] =
        json!({"exitCode": 137, "reason": "OOMKilled", "finishedAt": ago(12), "message": "too much\n"});
    let mut pod = with("p", status);
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "128Mi"}});
    assert_eq!(
        answer(&pod, vec![]),
        "\
pod d/p is not ready, for 60s, on node1
- container web ends again and again (restarts: 4) and waits before the next start: it ended 12s ago with exit code 137: it wanted more memory than its limit of 128Mi (OOMKilled), and said: too much
    kubectl -n d logs p -c web --previous
"
    );
    let mut failed = with(
        "p",
        json!({"name": "web", "state": {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": ago(90)}}}),
    );
    failed["status"]["phase"] = json!("Failed");
    assert_eq!(
        answer(&failed, vec![]),
        "pod d/p has failed: no reason is given\n- container web ended 90s ago with exit code 3 (Error)\n    kubectl -n d logs p -c web\n"
    );
}

#[test]
fn who_is_not_ready_is_told_its_probe_its_gate_or_who_comes_first() {
    let pod = unready("p");
    assert_eq!(
        answer(&pod, vec![event(&pod, Some("web"), REFUSED, 12)]),
        "\
pod d/p is not ready, for 60s, on node1
- container web has run for 90s and does not pass its readiness probe: Readiness probe failed: HTTP probe failed with statuscode: 503 (12 times, last 5s ago)
    kubectl -n d logs p -c web
"
    );
    let mut starting = unready("p");
    starting["status"]["containerStatuses"][0]["started"] = json!(false);
    starting["spec"]["containers"][0]["startupProbe"] = json!({"tcpSocket": {"port": 80}});
    assert!(answer(&starting, vec![]).contains("has run for 90s and has not passed its startup probe yet"));

    let mut gated = well("p");
    gated["status"]["conditions"][0]["status"] = json!("False");
    gated["spec"]["readinessGates"] = json!([{"conditionType": "example.com/in"}]);
    assert!(
        answer(&gated, vec![])
            .contains("- its readiness gate example.com/in is not open: nobody has set it\n")
    );

    let mut first = with("p", waiting("PodInitializing", ""));
    first["spec"]["initContainers"] = json!([{"name": "prepare"}]);
    first["status"]["initContainerStatuses"] =
        json!([{"name": "prepare", "state": {"running": {"startedAt": ago(70)}}}]);
    assert!(
        answer(&first, vec![])
            .contains("- init container prepare has run for 70s; the others wait for its end\n")
    );
}

#[test]
fn who_is_to_end_is_told_who_keeps_it() {
    let mut pod = well("p");
    pod["metadata"]["deletionTimestamp"] = json!(ago(-20));
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    pod["spec"]["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {}}});
    assert_eq!(
        answer(&pod, vec![]),
        "\
pod d/p is to end
- its container web may take 20s more to end (terminationGracePeriodSeconds: 30)
    the preStop hook of web comes first
"
    );
    pod["metadata"]["deletionTimestamp"] = json!(ago(45));
    pod["metadata"]["finalizers"] = json!(["example.com/keep"]);
    let nodes = vec![node("node1", "Unknown")];
    assert_eq!(
        Subject::Pod.explain(&Evidence { nodes, ..evidence(pod.clone()) }).text(),
        "\
pod d/p is to end
- its finalizers keep it: example.com/keep
    who has set them has to take them out of metadata.finalizers
- its node node1 is not ready, for 3m20s: Kubelet stopped posting node status. (NodeStatusUnknown)
    kubectl oarlock why node node1
    kubectl -n d delete pod p --force forgets it without asking its node
"
    );
    assert!(
        answer(&pod, vec![])
            .contains("its time to end is over since 45s, and node1 has not said that it has")
    );
    pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0}});
    assert!(!answer(&pod, vec![]).contains("its time to end"), "only the finalizers are left");
}

#[test]
fn who_is_ready_may_be_slow_or_have_been_warned_of() {
    let mut pod = well("p");
    assert_eq!(answer(&pod, vec![]), "pod d/p is ready, for 60s\n");
    let warned = event(&pod, Some("web"), REFUSED, 2);
    assert_eq!(
        answer(&pod, vec![warned.clone()]),
        "pod d/p is ready, for 60s\n- a warning, 2 times, last 5s ago: Unhealthy: Readiness probe failed: HTTP probe failed with \
         statuscode: 503\n"
    );
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "100m", "memory": "64Mi"}});
    let usage = vec![json!({"metadata": {"name": "p", "namespace": "d"},
        "containers": [{"name": "web", "usage": {"cpu": "98500000n", "memory": "32Mi"}}]})];
    let text = Subject::Pod
        .explain(&Evidence { usage, nodes: vec![node("node1", "True")], ..evidence(pod.clone()) })
        .text();
    assert_eq!(
        text,
        "pod d/p is ready, for 60s\n- container web uses 99 % of its limit of 100m cpu: it is slowed down\n"
    );
    pod["status"]["containerStatuses"][0]["restartCount"] = json!(2);
    pod["status"]["containerStatuses"][0]["lastState"]["terminated"] =
        json!({"exitCode": 1, "reason": "Error", "finishedAt": ago(61)});
    assert!(answer(&pod, vec![]).contains(
        "- container web was restarted (restarts: 2): it ended 61s ago with exit code 1 (Error)\n"
    ));
}
