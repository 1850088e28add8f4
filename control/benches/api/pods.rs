//! Pods as clusters have them: a web server and a sidecar, with what people write and what the server adds (about 2.5 KB of JSON).

use bytes::Bytes;
use oarlock_api::catalogue::PODS;
use oarlock_store::{Op, Outcome, Store};
use serde_json::{Value, json};

/// Namespaces that the pods lie in.
pub(crate) const NAMESPACES: usize = 20;
/// Keys of a transaction, below etcd's limit.
const AT_ONCE: usize = 64;

/// The name of one.
pub(crate) fn name(index: usize) -> String {
    format!("web-7d4b9c6f5-{index:06}")
}

/// The namespace of one.
pub(crate) fn namespace(index: usize) -> String {
    format!("team-{}", index % NAMESPACES)
}

/// What a client sends. Our scheduler leaves it alone: with no node it would write that of every pod.
pub(crate) fn body(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web", "pod-template-hash": "7d4b9c6f5"}},
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [
                {"name": "web", "image": "registry.example.com/shop/web:v1.14.2", "ports": [{"containerPort": 8080, "name": "http"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}},
            ],
        },
    })
}

/// The stored form of a pod that was made, as one that runs.
pub(crate) fn running(stored: &[u8]) -> Value {
    let mut pod: Value = serde_json::from_slice(stored).unwrap();
    let at = "2026-11-28T04:00:00Z";
    let condition =
        |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": at});
    let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
    pod["status"] = json!({
        "phase": "Running",
        "conditions": conditions,
        "hostIP": "172.16.0.11", "podIP": "10.244.3.17", "podIPs": [{"ip": "10.244.3.17"}], "startTime": at,
        "qosClass": "Burstable",
        "containerStatuses": [{"name": "web", "state": {"running": {"startedAt": at}}, "lastState": {}, "ready": true,
            "restartCount": 0, "image": "registry.example.com/shop/web:v1.14.2", "started": true,
            "containerID": "docker://8b2c5f1d3e4a69788796a5b4c3d2e1f00112233445566778899aabbccddeeff0"}],
    });
    pod
}

/// Writes pods like `pod` into a store, from one number to another.
pub(crate) async fn fill(store: &dyn Store, pod: &Value, from: usize, to: usize) {
    let mut pod = pod.clone();
    let mut ops = Vec::with_capacity(AT_ONCE);
    for index in from..to {
        let (namespace, name) = (namespace(index), name(index));
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["uid"] = json!(format!("5a1c9e70-1111-4222-8333-{index:012}"));
        let bytes = Bytes::from(serde_json::to_vec(&pod).unwrap());
        ops.push(Op::Put(PODS.key(&namespace, &name), bytes, None));
        if ops.len() == AT_ONCE || index + 1 == to {
            let outcome = store.txn(Vec::new(), std::mem::take(&mut ops)).await.unwrap();
            assert!(matches!(outcome, Outcome::Committed(_)));
        }
    }
}
