//! Carrying out the changes of a plan through the registry.

use std::net::IpAddr;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use oarlock_api::catalogue::{
    ENDPOINT_SLICES, ENDPOINTS, Kind, NAMESPACES, NODES, PODS, PRIORITY_CLASSES, REPLICA_SETS,
    REPLICATION_CONTROLLERS, SERVICES, STORAGE_CLASSES,
};
use oarlock_api::meta;
use oarlock_api::service::Family;
use oarlock_api::status::Status;
use oarlock_planner::{Change, Key, Part};
use serde_json::{Value, json};

use crate::nodes::{Event, Events};
use crate::patch::Patch;
use crate::registry::{Binding, DeleteOptions, Deleted, Registry, Sub, WriteOptions};

/// Changes of one plan under way at the same time.
const PARALLEL: usize = 64;

/// The field manager of the controllers, where somebody else's fields are told apart.
const MANAGER: &str = "kube-controller-manager";

/// What came of a plan's changes.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The latest revision written.
    pub(super) revision: u64,
    /// The first failure that is worth another try.
    pub(super) failure: Option<Status>,
    /// What the world assumes though it could not be written: pods to bind, nodes to give a range.
    pub(super) undone: Vec<(&'static Kind, Key)>,
}

/// Carries out changes that do not depend on each other.
pub(super) async fn execute(registry: &Registry, events: &Events, changes: Vec<Change>) -> Outcome {
    let mut outcome = Outcome::default();
    let mut results = futures_util::stream::iter(changes)
        .map(|change| async move {
            let assumed = match &change {
                Change::Bind { namespace, name, .. } => Some((&PODS, (namespace.clone(), name.clone()))),
                Change::Patch { kind, name, .. } if **kind == NODES => {
                    Some((&NODES, (String::new(), name.clone())))
                }
                _ => None,
            };
            (one(registry, events, change).await, assumed)
        })
        .buffer_unordered(PARALLEL);
    while let Some((result, assumed)) = results.next().await {
        match result {
            Ok(revision) => outcome.revision = outcome.revision.max(revision),
            Err(status) => {
                outcome.undone.extend(assumed);
                outcome.failure.get_or_insert(status);
            }
        }
    }
    outcome
}

async fn one(registry: &Registry, events: &Events, change: Change) -> Result<u64, Status> {
    match change {
        Change::Create { kind, namespace, object } => {
            let owner = if *kind == PODS { owner(&namespace, &object) } else { None };
            let created = registry.create(kind, &namespace, object, &WriteOptions::default()).await;
            let created = match created {
                Err(status) if status.is("AlreadyExists") || ends(&status) => return Ok(0),
                Err(status) => {
                    // A quota that is used up, an account that does not exist: whoever looks at the owner should see it.
                    if let Some((about, component)) = owner.filter(|_| status.is("Forbidden")) {
                        let message = format!("Error creating: {}", status.message);
                        say(events, &about, "Warning", "FailedCreate", &message, &component).await;
                        fails(registry, &about, &status).await;
                    }
                    return Err(status);
                }
                Ok(created) => created,
            };
            if *kind == PODS {
                say_created(events, &namespace, &created).await;
            }
            Ok(version(&created))
        }
        Change::Patch { kind, namespace, name, part, patch } => {
            let sub = match part {
                Part::Main => Sub::Main,
                Part::Status => Sub::Status,
                Part::Finalizers => Sub::Finalize,
            };
            let patch = Patch::Merge(patch);
            let patched = registry
                .patch(kind, &namespace, &name, sub, &patch, &WriteOptions::by(MANAGER).from_cache())
                .await;
            match patched {
                Err(status) if status.is("NotFound") => Ok(0),
                other => other.map(|object| version(&object)),
            }
        }
        Change::Delete { kind, namespace, name, uid, grace } => {
            let options = DeleteOptions {
                uid: Some(uid),
                grace_period_seconds: grace,
                propagation_policy: None,
                ..DeleteOptions::default()
            };
            match registry.delete(kind, &namespace, &name, &options).await {
                Ok(Deleted::Gone(_)) => Ok(0),
                Ok(Deleted::Terminating(object)) => Ok(version(&object)),
                // Another object of the same name, or none: what was to go is gone.
                Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(0),
                Err(status) => Err(status),
            }
        }
        Change::Bind { namespace, name, uid, node } => {
            let binding = Binding { node, uid, ..Binding::default() };
            registry.bind(&namespace, &name, &binding).await.map(|pod| version(&pod))
        }
        Change::Condition { namespace, name, condition } => {
            let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
            let options = WriteOptions::default().from_cache();
            match registry.patch(&PODS, &namespace, &name, Sub::Status, &patch, &options).await {
                Err(status) if status.is("NotFound") => Ok(0),
                other => other.map(|pod| version(&pod)),
            }
        }
        Change::Unready { namespace, name, uid, node } => {
            unready(registry, &namespace, &name, &uid, &node).await
        }
        // The driver has kept it, and asks.
        Change::Miss { .. } | Change::Remember { .. } | Change::Measure { .. } => Ok(0),
        Change::Event { about, kind, reason, message, component } => {
            say(events, &about.reference(), kind, reason, &message, component).await;
            Ok(0)
        }
    }
}

/// Takes back that a pod is ready. A node that is heard of again says itself how its pods are, and is not spoken over.
async fn unready(
    registry: &Registry,
    namespace: &str,
    name: &str,
    uid: &str,
    node: &str,
) -> Result<u64, Status> {
    registry.catch_up().await?;
    let is_lost = || {
        let node = registry.cache().get(&NODES, "", node);
        node.is_some_and(|node| crate::nodes::is_lost(&node.value()).is_some())
    };
    let take_back = |mut pod: Value| {
        if meta::uid(&pod) != uid || !is_lost() {
            return Ok(pod);
        }
        let conditions = pod["status"]["conditions"].as_array_mut().into_iter().flatten();
        for ready in conditions.filter(|c| c["type"] == "Ready" && c["status"] == "True") {
            ready["status"] = json!("False");
            ready["lastTransitionTime"] = json!(meta::time(Timestamp::now()));
        }
        Ok(pod)
    };
    let options = WriteOptions::by(MANAGER);
    match registry.modify(&PODS, namespace, name, Sub::Status, &options, take_back).await {
        Err(status) if status.is("NotFound") => Ok(0),
        other => other.map(|pod| version(&pod)),
    }
}

/// A namespace that ends takes nothing new: no failure of the plan.
fn ends(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
}

fn version(object: &Value) -> u64 {
    meta::resource_version(object).parse().unwrap_or(0)
}

/// Events are for people: one that cannot be written does not hold anything up.
async fn say(events: &Events, object: &Value, kind: &str, reason: &str, message: &str, component: &str) {
    let event = Event { object: object.clone(), kind, reason, message, component, host: "" };
    if let Err(status) = events.write(&event).await {
        tracing::debug!(%status, reason, "an event could not be written");
    }
}

/// The controller of a pod as events name it, and who speaks for it.
fn owner(namespace: &str, pod: &Value) -> Option<(Value, String)> {
    let owner = meta::controller_of(pod)?;
    let kind = owner["kind"].as_str().unwrap_or("");
    let component = match kind {
        "ReplicationController" => "replication-controller".to_owned(),
        kind => format!("{}-controller", kind.to_lowercase()),
    };
    let about = json!({
        "kind": kind, "apiVersion": owner["apiVersion"], "namespace": namespace, "name": owner["name"], "uid": owner["uid"],
    });
    Some((about, component))
}

/// Has a ReplicaSet or ReplicationController say that pods cannot be made, once: its controller takes that back.
async fn fails(registry: &Registry, about: &Value, why: &Status) {
    let kind = match about["kind"].as_str() {
        Some("ReplicaSet") => &REPLICA_SETS,
        Some("ReplicationController") => &REPLICATION_CONTROLLERS,
        _ => return,
    };
    let say = |mut object: Value| {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if meta::uid(&object) == about["uid"] && !conditions.iter().any(|c| c["type"] == "ReplicaFailure") {
            let failure = json!({
                "type": "ReplicaFailure", "status": "True", "lastTransitionTime": meta::time(Timestamp::now()),
                "reason": "FailedCreate", "message": why.message,
            });
            object["status"]["conditions"] = conditions.into_iter().chain([failure]).collect();
        }
        Ok(object)
    };
    let text = |field: &str| about[field].as_str().unwrap_or("");
    let (namespace, name, options) = (text("namespace"), text("name"), WriteOptions::by(MANAGER));
    if let Err(status) = registry.modify(kind, namespace, name, Sub::Status, &options, say).await {
        tracing::debug!(%status, name, "a condition could not be written");
    }
}

async fn say_created(events: &Events, namespace: &str, pod: &Value) {
    let Some((about, component)) = owner(namespace, pod) else { return };
    let name = meta::name(pod);
    let message = if about["kind"] == "StatefulSet" {
        format!("create Pod {name} in StatefulSet {} successful", about["name"].as_str().unwrap_or(""))
    } else {
        format!("Created pod: {name}")
    };
    say(events, &about, "Normal", "SuccessfulCreate", &message, &component).await;
}

/// What a cluster has from its first moment: the system namespaces, and the Service `kubernetes` with the API server behind
/// it. Repeated at every start; what is there stays.
///
/// # Errors
/// The store is away.
pub async fn bootstrap(
    registry: &Registry,
    advertise: IpAddr,
    port: u16,
    service: IpAddr,
    dns: &[IpAddr],
) -> Result<(), Status> {
    // First: a cluster counts as ready when it has its namespaces.
    crate::auth::bootstrap::bootstrap(registry).await?;
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        ensure(registry, &NAMESPACES, "", json!({"metadata": {"name": name}})).await?;
    }
    for (name, value, description) in [
        (
            "system-node-critical",
            2_000_001_000_i64,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ] {
        let object = json!({"metadata": {"name": name}, "value": value, "description": description});
        ensure(registry, &PRIORITY_CLASSES, "", object).await?;
    }
    // A claim works with nothing installed.
    ensure(registry, &STORAGE_CLASSES, "", oarlock_api::storage::local_class()).await?;
    registry.catch_up().await?;
    // Each node's agent answers there: no pods are selected, and its endpoint is known to that node alone.
    let ports = ["UDP", "TCP"].map(|protocol| {
        let name = if protocol == "UDP" { "dns" } else { "dns-tcp" };
        json!({"name": name, "port": 53, "protocol": protocol})
    });
    let policy = if dns.len() > 1 { "PreferDualStack" } else { "SingleStack" };
    let object = json!({
        "metadata": {"name": "kube-dns", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": dns.first(), "clusterIPs": dns, "ipFamilyPolicy": policy, "ports": ports},
    });
    ensure(registry, &SERVICES, "kube-system", object).await?;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let object = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": service.to_string(),
            "ports": [{"name": "https", "port": 443, "targetPort": port, "protocol": "TCP"}],
        },
    });
    ensure(registry, &SERVICES, "default", object).await?;
    if advertise.is_loopback() {
        tracing::info!("no endpoints for the kubernetes Service: --advertise-address is a loopback address");
        return Ok(());
    }
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": advertise.to_string()}], "ports": ports}],
    });
    put(registry, &ENDPOINTS, endpoints, "subsets").await?;
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": Family::of(advertise).name(),
        "endpoints": [{"addresses": [advertise.to_string()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    put(registry, &ENDPOINT_SLICES, slice, "endpoints").await
}

async fn ensure(
    registry: &Registry,
    kind: &'static Kind,
    namespace: &str,
    object: Value,
) -> Result<(), Status> {
    match registry.ensure(kind, namespace, object).await {
        // The address is taken: by an older form of the same Service, or by a user's.
        Err(status) if status.is("Invalid") => {
            tracing::warn!(%status, "a part of the cluster's own objects cannot be made");
            Ok(())
        }
        other => other,
    }
}

/// Creates an object, or gives the present one this field: addresses of the API server may change between starts.
async fn put(registry: &Registry, kind: &'static Kind, object: Value, field: &str) -> Result<(), Status> {
    ensure(registry, kind, "default", object.clone()).await?;
    let patch = Patch::Merge(json!({field: object[field], "ports": object.get("ports")}));
    registry
        .patch(kind, "default", meta::name(&object), Sub::Main, &patch, &WriteOptions::default())
        .await
        .map(drop)
}
