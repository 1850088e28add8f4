//! Bindings: a pod gets its node, once.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/pod/storage/storage.go (`BindingREST`).

use jiff::Timestamp;
use oarlock_api::catalogue::PODS;
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Map, Value, json};

use super::{ATTEMPTS, Present, Registry};

/// Which pod gets which node.
#[derive(Debug, Clone, Default)]
pub struct Binding {
    /// The node.
    pub node: String,
    /// The pod's uid as whoever binds knows it; empty: any.
    pub uid: String,
    /// The same of its resourceVersion.
    pub resource_version: String,
    /// What is laid over the pod's annotations.
    pub annotations: Map<String, Value>,
    /// Do everything but write.
    pub dry_run: bool,
}

impl Registry {
    /// Gives a pod its node.
    ///
    /// # Errors
    /// `Conflict` when it is bound already, is being deleted, or is another pod than the one meant.
    pub async fn bind(&self, namespace: &str, name: &str, binding: &Binding) -> Result<Value, Status> {
        if let Some(present) = self.cached(&PODS, namespace, name).filter(|_| !binding.dry_run)
            && may_bind(&present.value, name, binding).is_ok()
            && let Ok(Some(written)) = self.bind_over(present, binding).await
        {
            return Ok(written);
        }
        for _ in 0..ATTEMPTS {
            let present = self.read(&PODS, namespace, name).await?;
            may_bind(&present.value, name, binding)?;
            if let Some(written) = self.bind_over(present, binding).await? {
                return Ok(written);
            }
        }
        Err(Status::modified(&PODS, name))
    }

    async fn bind_over(&self, mut present: Present, binding: &Binding) -> Result<Option<Value>, Status> {
        let bound = bound(std::mem::take(&mut present.value), binding, Timestamp::now());
        self.commit_update(&PODS, &present.record, bound, (Vec::new(), &[]), binding.dry_run).await
    }
}

/// Whether a pod may be given a node.
fn may_bind(pod: &Value, name: &str, binding: &Binding) -> Result<(), Status> {
    let refused = |why: &str| Err(Status::conflict_resource("", "pods/binding", name, why));
    let differs = |meant: &str, is: &str| !meant.is_empty() && meant != is;
    let other = |what: &str, meant: &str, is: &str| {
        refused(&format!("Precondition failed: {what} in precondition: {meant}, {what} in object meta: {is}"))
    };
    if differs(&binding.uid, meta::uid(pod)) {
        return other("UID", &binding.uid, meta::uid(pod));
    }
    if differs(&binding.resource_version, meta::resource_version(pod)) {
        return other("ResourceVersion", &binding.resource_version, meta::resource_version(pod));
    }
    if meta::is_terminating(pod) {
        return refused(&format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return refused(&format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return refused(&format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    Ok(())
}

/// The pod with its node and the condition that says so.
fn bound(mut pod: Value, binding: &Binding, now: Timestamp) -> Value {
    pod["spec"]["nodeName"] = json!(binding.node);
    if !binding.annotations.is_empty() {
        let annotations = meta::map_at(meta::metadata_mut(&mut pod), "annotations");
        annotations.extend(binding.annotations.clone());
    }
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::time(now),
    });
    let status = meta::map_at(meta::map_of(&mut pod), "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(condition);
    }
    pod
}
