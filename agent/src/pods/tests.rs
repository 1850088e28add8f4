//! Pods against a real Docker: needs root and a dockerd at `DOCKER_HOST` or `/var/run/docker.sock`.

mod harness;
mod mounts;
mod pretended;
mod registry;
mod rights;

use std::time::Duration;

use oarlock_api::node::LogRequest;
use serde_json::json;

use harness::Node;

const IMAGE: &str = harness::IMAGE;

#[tokio::test]
async fn a_pod_runs_is_probed_restarted_logged_and_deleted() {
    let node = Node::start("life").await;
    let pod = node.pod(
        "web",
        json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": IMAGE,
            "command": ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo hello $WHO; touch /tmp/ok; while true; do sleep 0.1; done"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1},
            "livenessProbe": {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1,
                "failureThreshold": 1}}]}),
    );
    node.want(std::slice::from_ref(&pod));
    let status = node.until(&pod, "Ready", harness::is_ready).await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIP"], "10.9.8.7");
    let first = status["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();

    // The liveness probe fails: restarted at once the first time.
    node.exec(&first, &["rm", "/tmp/ok"]).await;
    let status = node
        .until(&pod, "restarted", |s| s["containerStatuses"][0]["restartCount"] == 1 && harness::is_ready(s))
        .await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 0);
    let events = node.events();
    for expected in ["Pulled", "Created", "Started", "Unhealthy", "Killing"] {
        assert!(events.iter().any(|e| e.0 == expected), "{expected} in {events:?}");
    }

    let of_c = || LogRequest { container: "c".into(), ..LogRequest::default() };
    let log = node.log(&pod, of_c()).await;
    assert_eq!(log, "hello web\n");
    let other =
        LogRequest { namespace: "other".into(), pod: "web".into(), uid: harness::uid(&pod), ..of_c() };
    let refused =
        node.pods.open_log(other).await.err().expect("who says that it is this one's mirror is not believed");
    assert_eq!(refused.code, 400, "{}", refused.message);
    let before = LogRequest { previous: true, tail_lines: Some(1), ..of_c() };
    assert_eq!(node.log(&pod, before).await, "bye\n");

    node.delete(&pod, 5);
    node.until_gone(&pod).await;
    assert!(node.containers(&pod).await.is_empty());
    assert!(node.removed_networks().contains(&harness::uid(&pod)));
    node.stop().await;
}

#[tokio::test]
async fn an_agent_that_comes_back_touches_no_container_and_removes_what_nobody_wants() {
    let node = Node::start("back").await;
    let forever = json!({"containers": [{"name": "c", "image": IMAGE, "command": ["sleep", "1000"]}],
        "terminationGracePeriodSeconds": 0});
    let (kept, orphan) = (node.pod("kept", forever.clone()), node.pod("orphan", forever));
    node.want(&[kept.clone(), orphan.clone()]);
    node.until(&kept, "Ready", harness::is_ready).await;
    node.until(&orphan, "Ready", harness::is_ready).await;
    let before = node.containers(&kept).await;

    let node = node.kill_agent_and_start_again().await;
    node.want(std::slice::from_ref(&kept));
    node.until(&kept, "Ready", harness::is_ready).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while !node.containers(&orphan).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the orphan is removed");
    assert_eq!(node.containers(&kept).await, before);
    node.delete(&kept, 0);
    node.until_gone(&kept).await;
    node.stop().await;
}

#[tokio::test]
async fn init_containers_volumes_limits_and_exit_codes_reach_the_status() {
    let node = Node::start("batch").await;
    let pod = node.pod(
        "job",
        json!({"restartPolicy": "Never", "volumes": [{"name": "v", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "secret"}}],
            "initContainers": [{"name": "i", "image": IMAGE, "command": ["sh", "-c", "cat /s/key > /v/copy"],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "s", "mountPath": "/s"}]}],
            "containers": [
                {"name": "good", "image": IMAGE, "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}],
                    "command": ["sh", "-c", "cat /v/copy; cat /v/copy > /dev/termination-log; touch /v/x && exit 9; hostname"]},
                {"name": "bad", "image": IMAGE, "command": ["sh", "-c", "echo last words; exit 3"],
                    "terminationMessagePolicy": "FallbackToLogsOnError"}]}),
    );
    node.secret("secret", "key", "hunter2");
    node.want(std::slice::from_ref(&pod));
    let status = node.until(&pod, "Failed", |s| s["phase"] == "Failed").await;
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let good = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((good["exitCode"].as_i64(), good["message"].as_str()), (Some(0), Some("hunter2")), "{status}");
    let bad = &status["containerStatuses"][1]["state"]["terminated"];
    assert_eq!((bad["exitCode"].as_i64(), bad["reason"].as_str()), (Some(3), Some("Error")));
    assert_eq!(bad["message"], "last words\n");
    let log = node.log(&pod, LogRequest { container: "good".into(), ..LogRequest::default() }).await;
    assert!(["hunter2", "job\n", "Read-only"].iter().all(|text| log.contains(text)), "{log}");
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn an_image_that_is_not_there_is_said_in_kubelets_words_and_the_pod_can_be_deleted() {
    let node = Node::start("image").await;
    let pod = node.pod(
        "nobody",
        json!({"containers": [{"name": "c", "image": "oarlock-test/nobody:1", "imagePullPolicy": "Never"}]}),
    );
    node.want(std::slice::from_ref(&pod));
    let reason = |s: &serde_json::Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let status = node.until(&pod, "ErrImageNeverPull", |s| reason(s) == "ErrImageNeverPull").await;
    assert_eq!(status["phase"], "Pending");
    node.delete(&pod, 30);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn a_log_is_followed_until_the_container_ends() {
    let node = Node::start("follow").await;
    let script = "for i in 1 2 3; do echo line $i; sleep 0.3; done";
    let pod = node.pod(
        "f",
        json!({"restartPolicy": "Never",
        "containers": [{"name": "c", "image": IMAGE, "command": ["sh", "-c", script]}]}),
    );
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "started", |s| s["containerStatuses"][0]["containerID"].is_string()).await;
    let request = LogRequest { container: "c".into(), follow: true, ..LogRequest::default() };
    assert_eq!(node.log(&pod, request).await, "line 1\nline 2\nline 3\n");
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn hooks_run_and_a_container_over_its_memory_limit_says_so() {
    let node = Node::start("hooks").await;
    let pod = node.pod(
        "h",
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 10,
            "volumes": [{"name": "v", "hostPath": {"path": node.scratch(), "type": "Directory"}}],
            "containers": [
            {"name": "hooked", "image": IMAGE, "command": ["sleep", "1000"],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo up > /v/hook"]}},
                    "preStop": {"exec": {"command": ["sh", "-c", "echo down > /v/hook"]}}}},
            {"name": "greedy", "image": IMAGE, "resources": {"limits": {"memory": "16Mi"}},
                "command": ["sh", "-c", "x=0123456789abcdef; while true; do x=$x$x; done"]}]}),
    );
    node.want(std::slice::from_ref(&pod));
    let greedy = |s: &serde_json::Value| s["containerStatuses"][1]["state"]["terminated"]["reason"].clone();
    let status = node.until(&pod, "OOMKilled", |s| greedy(s) == "OOMKilled").await;
    assert_eq!(status["qosClass"], "Burstable");
    let hook = std::path::Path::new(&node.scratch()).join("hook");
    let written = async {
        while std::fs::read_to_string(&hook).unwrap_or_default() != "up\n" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), written).await.expect("the hook runs");
    node.delete(&pod, 1);
    node.until_gone(&pod).await;
    assert_eq!(std::fs::read_to_string(&hook).unwrap(), "down\n");
    node.stop().await;
}

#[tokio::test]
async fn a_server_is_probed_over_its_own_link() {
    let node = Node::start("links").await.with_links().await;
    let pod = node.pod(
        "web",
        json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": IMAGE,
            "command": ["sh", "-c", "echo ok > /tmp/healthz; exec httpd -f -p 80 -h /tmp"],
            "ports": [{"name": "http", "containerPort": 80}],
            "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1,
                "failureThreshold": 1}}]}),
    );
    node.want(std::slice::from_ref(&pod));
    let status = node.until(&pod, "Ready", harness::is_ready).await;
    assert!(status["podIP"].as_str().unwrap().starts_with("10.77.0."), "{status}");
    let id = status["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    node.exec(&id, &["rm", "/tmp/healthz"]).await;
    let status = node.until(&pod, "unready", |s| !harness::is_ready(s)).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "readiness ends nothing");
    let expected = "Readiness probe failed: HTTP probe failed with statuscode: 404";
    assert!(node.events().iter().any(|(r, m)| r == "Unhealthy" && m == expected), "{:?}", node.events());
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}
