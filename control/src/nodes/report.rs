//! What agents report, written to objects: registration, heartbeats, statuses, departures, events.

use jiff::Timestamp;
use oarlock_api::catalogue::{LEASES, NODES, PERSISTENT_VOLUMES, PODS};
use oarlock_api::meta::{self, map_at, map_of};
use oarlock_api::node::agent_message::Message;
use oarlock_api::node::{NodeStatus, PodGone, PodStatus, VolumeGone};
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use oarlock_api::storage::{LOCAL_FINALIZER, local_node};
use serde_json::{Map, Value, json};

use super::settle::settle;
use super::{Nodes, mirror};
use crate::registry::{DeleteOptions, Sub, WriteOptions};

/// The namespace of the nodes' Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The domain of labels that isolate nodes.
pub(crate) const RESERVED: &str = "node-restriction.kubernetes.io";
/// Matches upstream's node lease.
const LEASE_SECONDS: i64 = 40;

impl Nodes {
    /// Handles one report. A failure is logged and does not end the session: the agent says everything again after the next
    /// connection, and the latest state on every change.
    pub(super) async fn report(&self, node: &str, message: Message) {
        let outcome = match message {
            Message::Heartbeat(_) => self.heartbeat(node).await,
            Message::NodeStatus(report) => self.node_status(node, report).await,
            Message::PodStatus(report) => self.pod_status(node, report).await,
            Message::PodGone(gone) => self.pod_gone(node, &gone).await,
            Message::StaticPods(report) => mirror::keep(&self.registry, node, &report).await,
            Message::VolumeGone(gone) => self.volume_gone(node, &gone).await,
            Message::Event(event) => self.events.report(node, &event).await,
            Message::Ack(ack) => {
                tracing::trace!(%node, version = ack.version, "acknowledged");
                Ok(())
            }
            Message::Stats(report) => {
                self.usage.take(node, report, Timestamp::now());
                Ok(())
            }
            Message::Hello(_) => Ok(()),
        };
        if let Err(status) = outcome
            && !status.is("NotFound")
        {
            tracing::warn!(%node, %status, "a node's report could not be written");
        }
    }

    /// Creates or completes the Node object of an agent that says hello.
    pub(super) async fn register(&self, node: &str, object: &[u8]) -> Result<(), Status> {
        let parse =
            |e: serde_json::Error| Status::bad_request(format!("the node's object does not parse: {e}"));
        let mut object: Value = serde_json::from_slice(object).map_err(parse)?;
        let metadata = meta::metadata_mut(&mut object);
        metadata.insert("name".to_owned(), json!(node));
        drop_reserved(metadata);
        let (labels, annotations) = (metadata.get("labels").cloned(), metadata.get("annotations").cloned());
        match self.registry.create(&NODES, "", object, &WriteOptions::default()).await {
            Err(status) if status.is("AlreadyExists") => {}
            other => return other.map(drop),
        }
        let options = WriteOptions::default();
        let keep = |mut present: Value| {
            for (field, wanted) in [("labels", &labels), ("annotations", &annotations)] {
                let map = map_at(meta::metadata_mut(&mut present), field);
                map.extend(wanted.as_ref().and_then(Value::as_object).cloned().unwrap_or_default());
            }
            Ok(present)
        };
        // The status of a node that is known stays as it is: an agent that starts again does not yet know whether its
        // pods are well, and a moment of "not ready" would take them out of their Services.
        self.registry.modify(&NODES, "", node, Sub::Main, &options, keep).await.map(drop)
    }

    async fn node_status(&self, node: &str, report: NodeStatus) -> Result<(), Status> {
        let parse =
            |e: serde_json::Error| Status::bad_request(format!("the node's status does not parse: {e}"));
        self.write_node_status(node, &serde_json::from_slice(&report.status).map_err(parse)?).await?;
        // An agent of before says none.
        let annotations = serde_json::from_slice(&report.annotations).unwrap_or_default();
        self.annotate(node, &annotations).await
    }

    /// Writes annotations that the node's object has otherwise or lacks.
    async fn annotate(&self, node: &str, wanted: &Value) -> Result<(), Status> {
        let wanted = wanted.as_object().into_iter().flatten();
        let present = self.registry.get(&NODES, "", node).await?;
        let differs =
            |(name, value): &(&String, &Value)| present["metadata"]["annotations"][*name] != **value;
        let missing: Vec<_> = wanted.filter(differs).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let change = |mut present: Value| {
            let annotations = map_at(meta::metadata_mut(&mut present), "annotations");
            annotations.extend(missing.iter().map(|(name, value)| ((*name).clone(), (*value).clone())));
            Ok(present)
        };
        self.registry.modify(&NODES, "", node, Sub::Main, &WriteOptions::default(), change).await.map(drop)
    }

    async fn write_node_status(&self, node: &str, status: &Value) -> Result<(), Status> {
        let options = WriteOptions::default();
        let change = |mut present: Value| {
            let mut next = status.clone();
            keep_transitions(&present["status"]["conditions"], &mut next);
            keep_extended(&present["status"], &mut next);
            map_of(&mut present).insert("status".to_owned(), next);
            Ok(present)
        };
        self.registry.modify(&NODES, "", node, Sub::Status, &options, change).await.map(drop)
    }

    /// Renews the node's Lease: what the node's health is judged by.
    pub(super) async fn heartbeat(&self, node: &str) -> Result<(), Status> {
        let now = json!(meta::micro_time(Timestamp::now()));
        let options = WriteOptions::default().from_cache();
        let renew = |mut lease: Value| {
            lease["spec"]["renewTime"] = now.clone();
            lease["spec"]["holderIdentity"] = json!(node);
            lease["spec"]["leaseDurationSeconds"] = json!(LEASE_SECONDS);
            Ok(lease)
        };
        match self.registry.modify(&LEASES, LEASE_NAMESPACE, node, Sub::Main, &options, renew).await {
            Err(status) if status.is("NotFound") => {}
            other => return other.map(drop),
        }
        let owner = self.registry.get(&NODES, "", node).await?;
        let lease = json!({
            "metadata": {"name": node, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": node, "uid": meta::uid(&owner)}]},
            "spec": {"holderIdentity": node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
        });
        self.registry.create(&LEASES, LEASE_NAMESPACE, lease, &options).await.map(drop)
    }

    async fn pod_status(&self, node: &str, report: PodStatus) -> Result<(), Status> {
        let parse =
            |e: serde_json::Error| Status::bad_request(format!("the pod's status does not parse: {e}"));
        let status: Value = serde_json::from_slice(&report.status).map_err(parse)?;
        let options = WriteOptions::default().from_cache();
        let change = |mut present: Value| {
            if static_pod::uid_on_node(&present) != report.uid || present["spec"]["nodeName"] != node {
                return Err(Status::not_found(&PODS, &report.name));
            }
            let mut next = status.clone();
            keep_foreign_conditions(&present["status"]["conditions"], &mut next);
            keep_transitions(&present["status"]["conditions"], &mut next);
            map_of(&mut present).insert("status".to_owned(), next);
            Ok(present)
        };
        self.registry
            .modify(&PODS, &report.namespace, &report.name, Sub::Status, &options, change)
            .await
            .map(drop)
    }

    async fn pod_gone(&self, node: &str, gone: &PodGone) -> Result<(), Status> {
        let present = self.registry.get(&PODS, &gone.namespace, &gone.name).await?;
        if static_pod::uid_on_node(&present) != gone.uid
            || present["spec"]["nodeName"] != node
            || !meta::is_terminating(&present)
        {
            return Ok(());
        }
        // It stays as long as somebody holds it, and is not to look as if it ran.
        if meta::finalizers(&present).next().is_some() {
            let (now, options) = (Timestamp::now(), WriteOptions::default());
            let last = |mut present: Value| {
                if static_pod::uid_on_node(&present) == gone.uid {
                    settle(&mut present["status"], now);
                }
                Ok(present)
            };
            self.registry.modify(&PODS, &gone.namespace, &gone.name, Sub::Status, &options, last).await?;
        }
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some(meta::uid(&present).to_owned()),
            ..DeleteOptions::default()
        };
        self.registry.delete(&PODS, &gone.namespace, &gone.name, &options).await.map(drop)
    }

    /// Lets a volume go whose directory the node has removed.
    async fn volume_gone(&self, node: &str, gone: &VolumeGone) -> Result<(), Status> {
        let release = |mut present: Value| {
            let is_its = meta::uid(&present) == gone.uid && local_node(&present) == Some(node);
            if is_its && meta::is_terminating(&present) {
                let left: Vec<&str> = meta::finalizers(&present).filter(|f| *f != LOCAL_FINALIZER).collect();
                let left = json!(left);
                meta::metadata_mut(&mut present).insert("finalizers".to_owned(), left);
            }
            Ok(present)
        };
        let options = WriteOptions::default();
        self.registry
            .modify(&PERSISTENT_VOLUMES, "", &gone.name, Sub::Main, &options, release)
            .await
            .map(drop)
    }
}

/// Conditions that the agent does not report are somebody else's and stay.
fn keep_foreign_conditions(present: &Value, next: &mut Value) {
    let conditions = map_of(next).entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    for foreign in present.as_array().into_iter().flatten() {
        if !conditions.iter().any(|c| c["type"] == foreign["type"]) {
            conditions.push(foreign.clone());
        }
    }
}

/// Resources that the agent does not know of (`example.com/dongle`) are somebody else's and stay; what was said of the capacity alone
/// can be given away as a whole.
fn keep_extended(present: &Value, next: &mut Value) {
    let extended = |of: &Value| -> Vec<(String, Value)> {
        let all = of.as_object().into_iter().flatten().filter(|(name, _)| name.contains('/'));
        all.map(|(name, amount)| (name.clone(), amount.clone())).collect()
    };
    for (to, from) in [("capacity", "capacity"), ("allocatable", "capacity"), ("allocatable", "allocatable")]
    {
        for (name, amount) in extended(&present[from]) {
            if next[to].is_object() {
                next[to][name] = amount;
            }
        }
    }
}

/// A condition whose status did not change keeps its lastTransitionTime.
fn keep_transitions(present: &Value, next: &mut Value) {
    let Some(conditions) = next.get_mut("conditions").and_then(Value::as_array_mut) else { return };
    for condition in conditions {
        let same = present
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == condition["type"] && c["status"] == condition["status"]);
        if let Some(time) = same.and_then(|c| c.get("lastTransitionTime")) {
            condition["lastTransitionTime"] = time.clone();
        }
    }
}

/// Takes away labels by which whoever runs the cluster isolates nodes: no node gives them to itself.
fn drop_reserved(metadata: &mut Map<String, Value>) {
    let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) else { return };
    labels.retain(|name, _| {
        let domain = name.split_once('/').map_or("", |(domain, _)| domain);
        domain != RESERVED && !domain.ends_with(&format!(".{RESERVED}"))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_node_gives_itself_the_labels_that_isolate_nodes() {
        let mut metadata = json!({"labels": {
            "node-restriction.kubernetes.io/pci": "1", "example.com.node-restriction.kubernetes.io/pci": "1",
            "kubernetes.io/hostname": "n1", "my-node-restriction.kubernetes.io/a": "1"}});
        drop_reserved(metadata.as_object_mut().unwrap());
        let kept: Vec<&String> = metadata["labels"].as_object().unwrap().keys().collect();
        assert_eq!(kept, ["kubernetes.io/hostname", "my-node-restriction.kubernetes.io/a"]);
    }

    #[test]
    fn resources_that_others_added_stay() {
        let present = json!({"capacity": {"cpu": "1", "example.com/a": "4"}, "allocatable": {"cpu": "1", "example.com/b": "2"}});
        let mut next = json!({"capacity": {"cpu": "2"}, "allocatable": {"cpu": "2"}});
        keep_extended(&present, &mut next);
        assert_eq!(next["capacity"], json!({"cpu": "2", "example.com/a": "4"}));
        assert_eq!(next["allocatable"], json!({"cpu": "2", "example.com/a": "4", "example.com/b": "2"}));
    }

    #[test]
    fn conditions_keep_their_transition_and_foreign_ones_stay() {
        let present = json!([
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "1"},
            {"type": "Ready", "status": "True", "lastTransitionTime": "1"}]);
        let mut next =
            json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2"}]});
        keep_foreign_conditions(&present, &mut next);
        keep_transitions(&present, &mut next);
        assert_eq!(next["conditions"][0]["lastTransitionTime"], "1");
        assert_eq!(next["conditions"][1]["type"], "PodScheduled");
        assert_eq!(next.as_object().unwrap().len(), 1);
    }
}
