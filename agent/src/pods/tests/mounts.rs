//! Pods with volumes of other machines, on a host whose helpers are scripts and a runtime that is only pretended. Mounting needs root.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::harness::{Node, is_ready, uid};
use crate::runtime::fake::Fake;
use crate::volumes::{Pretended, mounts_below};

fn spec(volumes: &serde_json::Value) -> serde_json::Value {
    json!({"containers": [{"name": "c", "image": "i", "imagePullPolicy": "IfNotPresent"}], "terminationGracePeriodSeconds": 0, "volumes": volumes})
}

const NFS: &str = "mount.nfs";
const MOUNTS: &str = "for place; do :; done; exec /bin/mount -t tmpfs -o size=1m none \"$place\"";

#[tokio::test]
async fn a_server_that_does_not_answer_holds_neither_other_pods_nor_its_own_end() {
    let pretended = Pretended::new();
    pretended.helper(NFS, "").helper("mount", "touch asked; exec sleep 1000");
    let node = Node::on_host(Arc::new(Fake::default()), "hung", pretended.host());
    let hung = node.pod("hung", spec(&json!([{"name": "v", "nfs": {"server": "s", "path": "/"}}])));
    let other = node.pod("other", spec(&json!([{"name": "v", "emptyDir": {}}])));
    node.want(&[hung.clone(), other.clone()]);
    node.until(&other, "Ready", is_ready).await;
    tokio::time::timeout(Duration::from_secs(5), async {
        while !pretended.path("asked").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the helper is started");
    let begun = tokio::time::Instant::now();
    node.delete(&hung, 0);
    node.until_gone(&hung).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    node.stop().await;
}

#[tokio::test]
async fn a_mount_that_fails_is_said_tried_again_and_gone_after_an_agent_that_was_killed() {
    let pretended = Pretended::new();
    let node = Node::on_host(Arc::new(Fake::default()), "remounts", pretended.host());
    let volumes = json!([{"name": "v", "nfs": {"server": "s", "path": "/"}}, {"name": "w", "emptyDir": {}}]);
    let pod = node.pod("p", spec(&volumes));
    node.want(std::slice::from_ref(&pod));
    let said = "MountVolume.SetUp failed for volume \"v\" : mount failed: this node has no mount.nfs: install nfs-common on it";
    tokio::time::timeout(Duration::from_secs(5), async {
        while !node.events().iter().any(|(reason, text)| reason == "FailedMount" && text == said) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is said");
    pretended.helper(NFS, "").helper("mount", MOUNTS);
    node.until(&pod, "Ready", is_ready).await;
    let folder = node.data_file("pods").join(uid(&pod));
    assert!(mounts_below(&folder).unwrap()[0].ends_with("volumes/kubernetes.io~nfs/v"));
    let node = node.kill_agent_and_start_again().await;
    node.want(std::slice::from_ref(&pod));
    node.until(&pod, "Ready", is_ready).await;
    assert_eq!(pretended.told().matches("mount -t nfs").count(), 1, "it was mounted already");
    let node = node.kill_agent_and_start_again().await;
    // Its object was removed meanwhile.
    node.want(&[]);
    tokio::time::timeout(Duration::from_secs(10), async {
        while folder.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("its folder goes, and what is mounted there before it");
    assert_eq!(mounts_below(&folder).unwrap(), Vec::<String>::new());
    node.stop().await;
}
