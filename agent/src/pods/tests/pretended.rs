//! Workers on a runtime that fails on request.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{Node, is_ready};
use crate::runtime::Runtime as _;
use crate::runtime::fake::Fake;

fn one(image: &str) -> Value {
    json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": "IfNotPresent"}]})
}

fn waiting(status: &Value) -> String {
    let reason = &status["containerStatuses"][0]["state"]["waiting"]["reason"];
    reason.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_runtime_that_goes_away_is_reported_and_work_goes_on_when_it_is_back() {
    let fake = Arc::new(Fake::default());
    fake.away(true);
    let node = Node::on(fake.clone(), "away");
    let pod = node.pod("p", one("i"));
    node.want(std::slice::from_ref(&pod));
    let mut health = node.pods.runtime_health();
    health.wait_for(|h| h.as_ref().is_err_and(|e| e.contains("does not answer"))).await.unwrap();
    fake.away(false);
    node.until(&pod, "Ready", is_ready).await;
    health.wait_for(Result::is_ok).await.unwrap();

    fake.away(true);
    health.wait_for(Result::is_err).await.unwrap();
    node.delete(&pod, 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fake.containers().len(), 2, "nothing can be removed now");
    fake.away(false);
    node.until_gone(&pod).await;
    assert!(fake.containers().is_empty());
    node.stop().await;
}

#[tokio::test]
async fn a_container_that_cannot_be_made_says_why_and_is_not_left_behind() {
    let fake = Arc::new(Fake::default());
    let node = Node::on(fake.clone(), "refused");
    let pod = node.pod("p", one("i"));
    fake.fail("create");
    node.want(std::slice::from_ref(&pod));
    // The sandbox was refused: tried again after a second.
    node.until(&pod, "Ready", is_ready).await;
    let events = node.events();
    assert!(
        events.iter().any(|(r, m)| r == "FailedCreatePodSandBox" && m.contains("on purpose")),
        "{events:?}"
    );

    let missing = node.pod(
        "m",
        json!({"containers": [{"name": "c", "image": "i:1",
            "env": [{"name": "V", "valueFrom": {"configMapKeyRef": {"name": "nobody", "key": "k"}}}]}]}),
    );
    node.want(&[pod, missing.clone()]);
    let reason = "CreateContainerConfigError";
    let status = node.until(&missing, reason, |s| waiting(s) == reason).await;
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "configmap \"nobody\" not found"
    );
    node.stop().await;
}

#[tokio::test]
async fn a_sandbox_that_runs_and_cannot_be_joined_gives_way_to_another() {
    let fake = Arc::new(Fake::default());
    let node = Node::on(fake.clone(), "unjoinable");
    let pod = node.pod("p", one("i"));
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "Ready", is_ready).await;
    let before = node.containers(&pod).await;
    let of = |sandbox: bool| before.iter().find(|c| c.is_sandbox() == sandbox).unwrap().id.clone();
    fake.refuse("start", "can't join IPC of container fake1: non-shareable IPC (hint: ...)");
    fake.kill(&of(false), "SIGKILL").await.unwrap();
    let changed = async {
        while !node.events().iter().any(|(reason, _)| reason == "SandboxChanged") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed).await.unwrap();
    node.until(&pod, "Ready", is_ready).await;
    let after = node.containers(&pod).await;
    assert!(after.iter().any(|c| c.is_sandbox() && c.is_running() && c.id != of(true)), "{after:?}");
    assert!(
        node.events().iter().any(|(reason, why)| reason == "Failed" && why.contains("non-shareable IPC"))
    );
    node.stop().await;
}

#[tokio::test]
async fn a_pod_on_the_nodes_network_has_its_address_or_is_refused() {
    let fake = Arc::new(Fake::default());
    let node = Node::on(fake.clone(), "on-host");
    let mut spec = one("i");
    spec["hostNetwork"] = json!(true);
    let (taken, refused) = (node.pod("taken", spec.clone()), node.pod("refused", spec));
    node.want(std::slice::from_ref(&taken));
    let status = node.until(&taken, "Ready", is_ready).await;
    assert_eq!((&status["podIP"], &status["podIPs"]), (&status["hostIP"], &status["hostIPs"]));
    assert!(status["podIP"].is_string(), "{status}");
    fake.fail("host_network");
    node.want(&[taken.clone(), refused.clone()]);
    let status = node.until(&refused, "Failed", |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "HostNetworkNotSupported");
    assert!(status["message"].as_str().unwrap().starts_with("Pod was rejected: "), "{status}");
    assert_eq!(fake.containers().len(), 2, "nothing was made for it");
    node.stop().await;
}

#[tokio::test]
async fn a_static_pod_needs_no_control_plane_and_waits_for_the_one_of_before() {
    let fake = Arc::new(Fake::default());
    let node = Node::on(fake.clone(), "static");
    let of = |uid: &str| {
        let mut spec = one("i");
        spec["hostNetwork"] = json!(true);
        let mut pod = node.pod("p", spec);
        pod.metadata.uid = Some(uid.to_owned());
        pod.metadata.annotations = Some([("kubernetes.io/config.hash".to_owned(), uid.to_owned())].into());
        pod
    };
    let (first, second) = (of("aa"), of("bb"));
    let left = node.pods.left();
    node.want_for_now(std::slice::from_ref(&first));
    node.until(&first, "Ready", is_ready).await;
    // It is tried again after a second.
    fake.fail("kill");
    node.want_for_now(std::slice::from_ref(&second));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!((node.containers(&first).await.len(), node.containers(&second).await.len()), (2, 0));
    node.until_gone(&first).await;
    assert!(left.has_changed().unwrap());
    node.want_for_now(std::slice::from_ref(&second));
    node.until(&second, "Ready", is_ready).await;
    node.want_for_now(&[]);
    node.until_gone(&second).await;
    assert!(fake.containers().is_empty());
    node.stop().await;
}

#[tokio::test]
async fn an_image_that_cannot_be_fetched_backs_off() {
    let node = Node::on(Arc::new(Fake::default()), "pull");
    let pod = node.pod("p", one("missing/image:1"));
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "ErrImagePull", |s| waiting(s) == "ErrImagePull").await;
    let status = node.until(&pod, "ImagePullBackOff", |s| waiting(s) == "ImagePullBackOff").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("Back-off pulling image \"missing/image:1\": ErrImagePull: "), "{message}");
    let events = node.events();
    for (reason, text) in [
        ("Pulling", "Pulling image \"missing/image:1\""),
        ("Failed", "Error: ErrImagePull"),
        ("BackOff", "Back-off pulling image \"missing/image:1\""),
        ("Failed", "Error: ImagePullBackOff"),
    ] {
        assert!(events.iter().any(|(r, m)| r == reason && m == text), "{reason} {text} in {events:?}");
    }
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_not_there_yet_is_waited_for() {
    let node = Node::on(Arc::new(Fake::default()), "mount");
    let mut spec = one("i");
    spec["volumes"] = json!([{"name": "v", "secret": {"secretName": "late"}}]);
    let pod = node.pod("p", spec);
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "ContainerCreating", |s| waiting(s) == "ContainerCreating").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let events = node.events();
    let expected = "MountVolume.SetUp failed for volume \"v\" : secret \"late\" not found";
    assert!(events.iter().any(|(r, m)| r == "FailedMount" && m == expected), "{events:?}");
    node.secret("late", "k", "v");
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "Ready", is_ready).await;
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_killed_in_any_phase_starts_nothing_twice_and_leaves_nothing() {
    for pause in [0, 1, 2, 4, 7, 11u64] {
        let fake = Arc::new(Fake::default());
        let node = Node::on(fake.clone(), "killed");
        let pod = node.pod("p", one("i"));
        node.want(std::slice::from_ref(&pod));
        tokio::time::sleep(Duration::from_micros(pause * 150)).await;
        let node = node.kill_agent_and_start_again().await;
        node.want(std::slice::from_ref(&pod));
        node.until(&pod, "Ready", is_ready).await;
        let running: Vec<_> = fake.containers().into_iter().filter(|(_, runs)| *runs).collect();
        assert_eq!(running.len(), 2, "{running:?}");
        node.delete(&pod, 0);
        tokio::time::sleep(Duration::from_micros(pause * 50)).await;
        let node = node.kill_agent_and_start_again().await;
        node.delete(&pod, 0);
        node.until_gone(&pod).await;
        assert!(fake.containers().is_empty());
        node.stop().await;
    }
}

#[tokio::test]
async fn a_running_pod_sees_a_changed_object_and_one_that_is_gone_keeps_its_files() {
    let node = Node::on(Arc::new(Fake::default()), "refresh");
    let mut spec = one("i");
    spec["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    let pod = node.pod("p", spec);
    node.secret("s", "k", "old");
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "Ready", is_ready).await;
    assert_eq!(node.volume(&pod, "secret/v/k"), "old");
    node.secret("s", "k", "new");
    node.want(std::slice::from_ref(&pod));
    tokio::time::timeout(Duration::from_secs(5), async {
        while node.volume(&pod, "secret/v/k") != "new" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the file changes");
    node.forget_secret("s");
    node.want(std::slice::from_ref(&pod));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(node.volume(&pod, "secret/v/k"), "new");
    node.delete(&pod, 0);
    node.until_gone(&pod).await;
    node.stop().await;
}

#[tokio::test]
async fn a_pod_is_evicted_and_a_node_under_pressure_takes_no_other_of_its_kind() {
    let fake = Arc::new(Fake::default());
    let node = Node::on(fake.clone(), "evicted");
    let pod = node.pod("p", one("i"));
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "Ready", is_ready).await;
    let why = "The node was low on resource: ephemeral-storage. ";
    let evicted = crate::pods::Evicted { why: why.to_owned(), frees_disk: true, grace: 1 };
    assert!(node.pods.evict(&super::harness::uid(&pod), evicted.clone()));
    assert!(!node.pods.evict(&super::harness::uid(&pod), evicted), "once");
    let status = node.until(&pod, "Failed", |s| s["phase"] == "Failed").await;
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(why)));
    let is_target = |c: &Value| c["type"] == "DisruptionTarget" && c["reason"] == "TerminationByKubelet";
    assert!(status["conditions"].as_array().unwrap().iter().any(is_target), "{status}");
    for _ in 0..200 {
        if fake.containers().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(fake.containers().is_empty(), "what it wrote is gone: {:?}", fake.containers());
    let after = node.until(&pod, "Failed", |s| s["phase"] == "Failed").await;
    let state = |status: &Value| status["containerStatuses"][0]["state"]["terminated"]["exitCode"].clone();
    assert!(state(&after).is_number(), "what it was stays known: {after}");

    node.pods.set_pressures([crate::eviction::Pressure::Memory].into());
    let refused = node.pod("best-effort", one("i"));
    node.want(std::slice::from_ref(&refused));
    let status = node.until(&refused, "rejected", |s| s["phase"] == "Failed").await;
    let said = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(said)));
    let mut spec = one("i");
    spec["containers"][0]["resources"] = json!({"requests": {"memory": "1Mi"}});
    let taken = node.pod("burstable", spec);
    node.want(std::slice::from_ref(&taken));
    node.until(&taken, "Ready", is_ready).await;
    node.stop().await;
}
