//! Mirrors of the static pods of nodes: made, made anew when they change or were deleted, taken away with them.
//!
//! A node may have mirrors of its own alone, as upstream's NodeRestriction has it: bound to it, owned by it, of nobody's Secrets.

use std::collections::BTreeMap;

use oarlock_api::catalogue::{NODES, PODS};
use oarlock_api::meta;
use oarlock_api::node::StaticPods;
use oarlock_api::static_pod::{self, HASH, MIRROR};
use oarlock_api::status::Status;
use serde_json::{Value, json};

use crate::registry::{DeleteOptions, Registry, WriteOptions};

/// Makes the mirrors of a node as it says. What cannot be is logged, and the others are made; the node says it again.
pub(super) async fn keep(registry: &Registry, node: &str, report: &StaticPods) -> Result<(), Status> {
    let mut wanted = BTreeMap::new();
    for json in &report.pods {
        let parse = |e: serde_json::Error| Status::bad_request(format!("a static pod does not parse: {e}"));
        let pod: Value = serde_json::from_slice(json).map_err(parse)?;
        match may_mirror(node, &pod) {
            Ok(()) => {
                drop(wanted.insert((meta::namespace(&pod).to_owned(), meta::name(&pod).to_owned()), pod))
            }
            Err(status) => say(node, &pod, &status),
        }
    }
    for present in registry.cache().pods_on(node) {
        let present = present.value();
        let key = (meta::namespace(&present).to_owned(), meta::name(&present).to_owned());
        let Some(hash) = static_pod::mirrored(&present) else { continue };
        let is_wanted = wanted.get(&key).is_some_and(|pod| static_pod::mirrored(pod) == Some(hash));
        if is_wanted && !meta::is_terminating(&present) {
            wanted.remove(&key);
        } else if let Err(status) = remove(registry, &present).await {
            say(node, &present, &status);
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let owner = registry.get(&NODES, "", node).await?;
    for ((namespace, _), mut pod) in wanted {
        let metadata = meta::metadata_mut(&mut pod);
        let owners = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": meta::uid(&owner), "controller": true}]);
        metadata.insert("ownerReferences".to_owned(), owners);
        if let Err(status) = registry.create(&PODS, &namespace, pod.clone(), &WriteOptions::default()).await {
            say(node, &pod, &status);
        }
    }
    Ok(())
}

fn say(node: &str, pod: &Value, status: &Status) {
    let (namespace, name) = (meta::namespace(pod), meta::name(pod));
    tracing::warn!(%node, %namespace, %name, %status, "the mirror of a static pod is not as it should be");
}

async fn remove(registry: &Registry, present: &Value) -> Result<(), Status> {
    let uid = Some(meta::uid(present).to_owned());
    let options = DeleteOptions { grace_period_seconds: Some(0), uid, ..DeleteOptions::default() };
    match registry.delete(&PODS, meta::namespace(present), meta::name(present), &options).await {
        Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
        done => done.map(drop),
    }
}

/// Whether a node may have this mirror.
pub(crate) fn may_mirror(node: &str, pod: &Value) -> Result<(), Status> {
    let refused = |why: String| Err(Status::forbidden(&PODS, meta::name(pod), &why));
    let annotations = &pod["metadata"]["annotations"];
    if !annotations[MIRROR].is_string() || annotations[MIRROR] != annotations[HASH] {
        return refused(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod["spec"]["nodeName"] != node {
        return refused(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    match static_pod::foreign(&pod["spec"]) {
        Some(what) => refused(format!("node {node:?} can not create pods that reference {what}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::registry::tests::fixture;

    /// What a file of a node makes.
    fn of(spec: Value, hash: &str) -> Value {
        let file = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "d"}, "spec": spec});
        static_pod::mirror(file, "n1", hash).unwrap()
    }

    fn plain(hash: &str) -> Value {
        of(json!({"containers": [{"name": "c", "image": "i"}]}), hash)
    }

    #[test]
    fn a_node_has_mirrors_of_its_own_alone() {
        let pod = plain("h");
        may_mirror("n1", &pod).unwrap();
        let said = |node: &str, pod: &Value| may_mirror(node, pod).unwrap_err().message;
        let why = said("n2", &pod);
        assert!(why.ends_with("node \"n2\" can only create pods with spec.nodeName set to itself"), "{why}");
        let mut other = pod.clone();
        other["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        let why = said("n1", &other);
        assert!(why.ends_with("node \"n1\" can not create pods that reference secrets"), "{why}");
        other = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "n1"}});
        assert!(said("n1", &other).contains("can only create mirror pods"));
    }

    #[tokio::test]
    async fn mirrors_are_as_their_node_says() {
        let f = fixture().await;
        let options = WriteOptions::default();
        f.registry.create(&NODES, "", json!({"metadata": {"name": "n1"}}), &options).await.unwrap();
        let report = async |pods: &[Value]| {
            let pods = pods.iter().map(|pod| pod.to_string().into_bytes().into()).collect();
            keep(&f.registry, "n1", &StaticPods { pods }).await.unwrap();
        };
        let present = async || f.registry.get(&PODS, "d", "a-n1").await;
        // The cache follows.
        let settled = async |uid: &str| {
            while f
                .registry
                .cache()
                .get(&PODS, "d", "a-n1")
                .map(|pod| pod.uid.to_string())
                .unwrap_or_default()
                != uid
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut lost = plain("h");
        lost["metadata"]["namespace"] = json!("nowhere");
        report(&[lost, plain("h1")]).await;
        let first = present().await.unwrap();
        let metadata = &first["metadata"];
        assert_eq!(metadata["annotations"]["kubernetes.io/config.mirror"], "h1");
        assert_eq!(
            (&metadata["ownerReferences"][0]["kind"], &metadata["ownerReferences"][0]["controller"]),
            (&json!("Node"), &json!(true))
        );
        assert!(
            first["spec"]["serviceAccountName"].is_null() && first["spec"]["volumes"].is_null(),
            "{first}"
        );
        settled(meta::uid(&first)).await;
        report(&[plain("h1")]).await;
        assert_eq!(meta::uid(&present().await.unwrap()), meta::uid(&first), "it is as it should be");

        f.registry.delete(&PODS, "d", "a-n1", &DeleteOptions::default()).await.unwrap();
        while !f
            .registry
            .cache()
            .get(&PODS, "d", "a-n1")
            .is_some_and(|pod| meta::is_terminating(&pod.value()))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        report(&[plain("h1")]).await;
        let second = present().await.unwrap();
        assert_ne!(meta::uid(&second), meta::uid(&first), "it is back");
        settled(meta::uid(&second)).await;
        report(&[plain("h2")]).await;
        let third = present().await.unwrap();
        assert_eq!(static_pod::mirrored(&third), Some("h2"));
        settled(meta::uid(&third)).await;
        report(&[]).await;
        assert!(present().await.unwrap_err().is("NotFound"));
        let mut forged = plain("h3");
        forged["spec"]["serviceAccountName"] = json!("default");
        let why = f.registry.create(&PODS, "d", forged, &options).await.unwrap_err().message;
        assert!(why.ends_with("a mirror pod may not reference service accounts"), "{why}");
        f.tasks.shut_down();
    }
}
