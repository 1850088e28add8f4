//! What pods ask of the kernel and the disk, on a real Docker: rights, namespaces, parts of volumes, limits.

use oarlock_api::node::LogRequest;
use serde_json::{Value, json};

use super::harness::{IMAGE, Node};

fn of(container: &str) -> LogRequest {
    LogRequest { container: container.into(), ..LogRequest::default() }
}

#[tokio::test]
async fn rights_namespaces_and_parts_of_volumes_are_those_that_were_asked_for() {
    let node = Node::start("rights").await;
    let profile = node.data_file("seccomp/no-mkdir.json");
    let json = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    std::fs::write(profile, json.to_string()).unwrap();
    let seccomp = |kind: &str| json!({"seccompProfile": {"type": kind, "localhostProfile": "no-mkdir.json"}});
    let shown = |name: &str, kind: &str| {
        let script = format!(
            "cat /proc/self/status /proc/sys/net/ipv4/ping_group_range; hostname; id; \
             cat /proc/1/cmdline; busybox mkdir /v/{name} && echo made"
        );
        let mounts = json!([{"name": "v", "mountPath": "/v"}]);
        json!({"name": name, "image": IMAGE, "securityContext": seccomp(kind), "command": ["sh", "-c", script],
            "volumeMounts": mounts})
    };
    let pod = node.pod(
        "asks",
        json!({"restartPolicy": "Never", "subdomain": "sub", "setHostnameAsFQDN": true, "shareProcessNamespace": true,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "supplementalGroupsPolicy": "Merge",
                "sysctls": [{"name": "net/ipv4/ping_group_range", "value": "7 9"}]},
            "initContainers": [{"name": "i", "image": IMAGE, "securityContext": {"runAsUser": 1001},
                "command": ["sh", "-c", "echo $WHO > /part/file; echo $WHO > /other/file"],
                "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "volumeMounts": [{"name": "v", "mountPath": "/part", "subPath": "a/b"},
                    {"name": "v", "mountPath": "/other", "subPathExpr": "of-$(WHO)"}]}],
            "containers": [
                shown("free", "Unconfined"), shown("usual", "RuntimeDefault"), shown("own", "Localhost"),
                {"name": "parts", "image": IMAGE, "command": ["sh", "-c", "cat /v/a/b/file /v/of-asks/file /one"],
                    "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/one", "subPath": "a/b/file"}]}]}),
    );
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "over", |s| s["phase"] == "Succeeded" || s["phase"] == "Failed").await;
    assert_eq!(node.log(&pod, of("parts")).await, "asks\nasks\nasks\n");
    for (container, mode, makes) in [("free", 0, true), ("usual", 2, true), ("own", 2, false)] {
        let log = node.log(&pod, of(container)).await;
        assert!(log.contains(&format!("Seccomp:\t{mode}\n")), "{container}: {log}");
        assert_eq!(log.contains("made"), makes, "{container}: {log}");
        for part in ["7\t9\n", "asks.sub.test.svc.cluster.local\n", "uid=1000", "sleep"] {
            assert!(log.contains(part), "{container}: {part:?} in {log}");
        }
    }
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_in_kubelets_words() {
    let node = Node::start("refuses").await;
    let one =
        |context: Value| json!({"securityContext": context, "containers": [{"name": "c", "image": IMAGE}]});
    let sysctl = node.pod("sysctl", one(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})));
    let root = node.pod("root", one(json!({"runAsNonRoot": true})));
    let missing = node.pod(
        "missing",
        one(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}})),
    );
    node.want(&[sysctl.clone(), root.clone(), missing.clone()]);
    let status = node.until(&sysctl, "refused", |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "SysctlForbidden");
    assert_eq!(status["message"], "Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    assert!(node.containers(&sysctl).await.is_empty(), "nothing of it ever ran");
    let waiting = |s: &Value| s["containerStatuses"][0]["state"]["waiting"].clone();
    for (pod, part) in [(&root, "image will run as root (pod: \"root_test("), (&missing, "none.json")] {
        let what = "CreateContainerConfigError";
        let status = node.until(pod, what, |s| waiting(s)["reason"] == what).await;
        assert!(waiting(&status)["message"].as_str().unwrap().contains(part), "{status}");
    }
    node.want(&[]);
    for pod in [&sysctl, &root, &missing] {
        node.until_gone(pod).await;
    }
    node.stop().await;
}

#[tokio::test]
async fn who_writes_more_than_a_volume_holds_is_evicted() {
    let node = Node::start("evicts").await;
    let pod = node.pod(
        "greedy",
        json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}], "terminationGracePeriodSeconds": 600,
            "containers": [{"name": "c", "image": IMAGE, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "command": ["sh", "-c", "busybox dd if=/dev/zero of=/v/x bs=1024 count=3000; trap '' TERM; while true; do sleep 1; done"]}]}),
    );
    node.want(std::slice::from_ref(&pod));
    let still =
        |s: &Value| s["phase"] == "Failed" && s["containerStatuses"][0]["state"]["terminated"].is_object();
    let status = node.until(&pod, "evicted", still).await;
    assert_eq!(status["reason"], "Evicted");
    assert_eq!(status["message"], "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ");
    let target =
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "DisruptionTarget").unwrap();
    assert_eq!((&target["status"], &target["reason"]), (&json!("True"), &json!("TerminationByKubelet")));
    assert!(
        node.events().iter().any(|(reason, message)| reason == "Evicted" && message.contains("EmptyDir"))
    );
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn sidecars_run_beside_the_others_and_an_added_container_sees_its_target() {
    let node = Node::start("beside").await;
    let beside = json!({"name": "s", "image": IMAGE, "restartPolicy": "Always",
        "startupProbe": {"exec": {"command": ["test", "-e", "/tmp/up"]}, "periodSeconds": 1},
        "command": ["sh", "-c", "trap 'exit 0' TERM; busybox touch /tmp/up; while true; do sleep 0.1; done"]});
    let main = json!({"name": "c", "image": IMAGE, "command": ["sh", "-c", "while [ ! -e /tmp/end ]; do sleep 0.1; done"]});
    let spec = json!({"restartPolicy": "Never", "initContainers": [beside], "containers": [main],
        "readinessGates": [{"conditionType": "example.com/gate"}]});
    let mut pod = node.pod("beside", spec);
    node.want(std::slice::from_ref(&pod));
    let status = node.until(&pod, "running", |s| s["containerStatuses"][0]["started"] == true).await;
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    let ready = |s: &Value| {
        s["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap().clone()
    };
    assert_eq!(ready(&status)["reason"], "ReadinessGatesNotReady");
    let id = status["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();

    pod.status =
        serde_json::from_value(json!({"conditions": [{"type": "example.com/gate", "status": "True"}]})).ok();
    let added = json!([{"name": "look", "image": IMAGE, "targetContainerName": "c", "command": ["cat", "/proc/1/cmdline"]}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).ok();
    node.want(std::slice::from_ref(&pod));
    let looked =
        |s: &Value| s["ephemeralContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed";
    let status = node.until(&pod, "looked at", |s| looked(s) && ready(s)["status"] == "True").await;
    assert_eq!(status["phase"], "Running");
    assert!(node.log(&pod, of("look")).await.contains("/tmp/end"));

    node.exec(&id, &["touch", "/tmp/end"]).await;
    let status = node.until(&pod, "over", |s| s["phase"] == "Succeeded").await;
    let ended = &status["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &status["initContainerStatuses"][0]["restartCount"]),
        (&json!(0), &json!(0))
    );
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn groups_of_the_image_count_unless_that_is_forbidden_and_containers_end_by_their_signal() {
    let node = Node::start("groups").await;
    let with = |context: Value| {
        json!({"restartPolicy": "Never", "securityContext": context,
            "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", "id -G"]}]})
    };
    let merged = node.pod("merged", with(json!({"runAsUser": 1000, "supplementalGroups": [9]})));
    let strict = json!({"runAsUser": 1000, "runAsGroup": 7, "supplementalGroups": [9], "supplementalGroupsPolicy": "Strict"});
    let strict = node.pod("strict", with(strict));
    let script =
        "trap 'echo hup; exit 0' HUP; trap 'echo term; exit 0' TERM; echo up; while true; do sleep 0.1; done";
    let signalled = node.pod(
        "signalled",
        json!({"os": {"name": "linux"}, "runtimeClassName": "usual", "terminationGracePeriodSeconds": 5, "containers": [
            {"name": "c", "image": IMAGE, "command": ["sh", "-c", script], "lifecycle": {"stopSignal": "SIGHUP"},
                "terminationMessagePolicy": "FallbackToLogsOnError"}]}),
    );
    let mut odd = signalled.clone();
    odd.metadata.name = Some("odd".to_owned());
    odd.metadata.uid = Some(format!("{}-odd", signalled.metadata.uid.clone().unwrap()));
    odd.spec.as_mut().unwrap().runtime_class_name = Some("odd".to_owned());
    node.runtime_class("usual", "runc");
    node.runtime_class("odd", "oarlock-test-none");
    node.want(&[merged.clone(), strict.clone(), signalled.clone(), odd.clone()]);
    for (pod, groups) in [(&merged, "1000 9 4242\n"), (&strict, "7 9\n")] {
        node.until(pod, "over", |s| s["phase"] == "Succeeded").await;
        let log = node.log(pod, of("c")).await;
        let sorted = |text: &str| {
            text.split_whitespace().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(sorted(&log), sorted(groups), "{log}");
    }
    let status = node.until(&signalled, "Ready", super::harness::is_ready).await;
    assert_eq!(status["containerStatuses"][0]["stopSignal"], "SIGHUP");
    let why = node.events().into_iter().find(|(reason, _)| reason == "FailedCreatePodSandBox");
    let why = why.expect("no such runtime").1;
    assert!(why.starts_with("Failed to create pod sandbox: ") && why.contains("oarlock-test-none"), "{why}");
    assert_eq!(node.containers(&odd).await.len(), 0, "and nothing was made");

    let mut ends = signalled.clone();
    ends.spec.as_mut().unwrap().active_deadline_seconds = Some(1);
    node.want(&[ends]);
    node.until(&signalled, "over", |s| s["phase"] == "Failed").await;
    let log = async || node.log(&signalled, of("c")).await;
    while !log().await.ends_with("hup\n") {
        assert!(!log().await.contains("term"));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    node.want(&[]);
    for pod in [&merged, &strict, &signalled, &odd] {
        node.until_gone(pod).await;
    }
    node.stop().await;
}
