//! What a node may write: mirrors of its static pods, the status of its pods and claims, its own Node, Lease and CSINode, whatever
//! roles say.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/noderestriction/admission.go, k8s.io/kubelet/pkg/apis/well_known_labels.go.

use std::collections::BTreeSet;

use oarlock_api::catalogue::{
    self, CSI_NODES, Kind, NODES, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICE_ACCOUNTS,
};
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::super::User;
use super::{LEASES, node_of, of};
use crate::cache::Cache;
use crate::nodes::{RESERVED_LABELS, may_mirror};

/// Labels of the cluster that a node may give itself.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// And the domains of others.
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// What of a claim's status is a node's to say.
const CLAIM_STATUS: &[&str] = &["allocatedResourceStatuses", "allocatedResources", "capacity", "conditions"];

/// Lets a node write an object, or says why it may not. `part` is what of it is written, empty for the object.
pub(in crate::auth) fn may_write(
    cache: &Cache,
    node: &str,
    (kind, part, namespace): (&Kind, &str, &str),
    old: Option<&Value>,
    new: &Value,
) -> Result<(), Status> {
    let outcome = if *kind == PODS {
        pod(cache, node, part, old, new)?;
        Ok(())
    } else if *kind == NODES {
        itself(node, old, new)
    } else if *kind == PERSISTENT_VOLUME_CLAIMS {
        match (part, old) {
            ("status", Some(old)) => claim(node, old, new),
            _ => Err("may only update PVC status".to_owned()),
        }
    } else if *kind == catalogue::LEASES {
        match (namespace, meta::name(new) == node) {
            (LEASES, true) => Ok(()),
            (LEASES, false) => {
                Err("can only access node lease with the same name as the requesting node".to_owned())
            }
            _ => Err(format!("can only access leases in the {LEASES:?} system namespace")),
        }
    } else if *kind == CSI_NODES && meta::name(new) != node {
        Err("can only access CSINode with the same name as the requesting node".to_owned())
    } else {
        Ok(())
    };
    outcome.map_err(|why| Status::forbidden(kind, meta::name(new), &why))
}

fn pod(cache: &Cache, node: &str, part: &str, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    let refused = |why: String| Err(Status::forbidden(&PODS, meta::name(new), &why));
    match (part, old) {
        ("", None) => {
            may_mirror(node, new)?;
            owner(cache, node, new).or_else(refused)
        }
        ("status", Some(old)) if node_of(old) != node => {
            let whose = "can only update pod status for pods with spec.nodeName set to itself";
            refused(format!("node {node:?} {whose}"))
        }
        ("status", Some(old)) if labels(old) != labels(new) => {
            refused(format!("node {node:?} cannot update labels through pod status"))
        }
        ("status", Some(_)) => Ok(()),
        ("", Some(_)) => refused(format!(
            "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
        )),
        (part, _) => {
            refused(format!("unexpected pod subresource {part:?}, only 'status' and 'eviction' are allowed"))
        }
    }
}

/// A mirror is its node's.
fn owner(cache: &Cache, node: &str, pod: &Value) -> Result<(), String> {
    let owners = meta::owner_references(pod);
    let itself = format!("node {node:?} can only create pods with");
    let [owner] = owners else {
        let one = if owners.is_empty() { "an" } else { "a single" };
        return Err(format!("{itself} {one} owner reference set to itself"));
    };
    if (&owner["apiVersion"], &owner["kind"], &owner["name"]) != (&json!("v1"), &json!("Node"), &json!(node))
    {
        return Err(format!("{itself} an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return Err(format!("{itself} a controller owner reference set to itself"));
    }
    if owner["blockOwnerDeletion"] == true {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let uid = cache.get(&NODES, "", node).map(|node| node.uid.clone()).unwrap_or_default();
    let said = owner["uid"].as_str().unwrap_or_default();
    if *uid != *said {
        return Err(format!("node {node} UID mismatch: expected {said} got {uid}"));
    }
    Ok(())
}

fn itself(node: &str, old: Option<&Value>, new: &Value) -> Result<(), String> {
    if meta::name(new) != node {
        return Err(format!("node {node:?} is not allowed to modify node {:?}", meta::name(new)));
    }
    let taints = |node: &Value| node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if old.is_some_and(|old| taints(old) != taints(new)) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    let refused = foreign(&old.map(labels).unwrap_or_default(), &labels(new)).join(", ");
    match (refused.is_empty(), old) {
        (true, _) => Ok(()),
        (false, None) => Err(format!("node {node:?} is not allowed to set the following labels: {refused}")),
        (false, Some(_)) => Err(format!("is not allowed to modify labels: {refused}")),
    }
}

type Labels<'v> = BTreeSet<(&'v str, &'v str)>;

fn labels(object: &Value) -> Labels<'_> {
    let labels = object["metadata"]["labels"].as_object().into_iter().flatten();
    labels.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())).collect()
}

/// The labels that differ and are not a node's to say.
fn foreign<'v>(old: &Labels<'v>, new: &Labels<'v>) -> Vec<&'v str> {
    let changed: BTreeSet<&str> = old.symmetric_difference(new).map(|(key, _)| *key).collect();
    changed.into_iter().filter(|key| is_foreign(key)).collect()
}

fn is_foreign(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let below = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let is_own = OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|own| below(own));
    below(RESERVED_LABELS) || (below("kubernetes.io") || below("k8s.io")) && !is_own
}

fn claim(node: &str, old: &Value, new: &Value) -> Result<(), String> {
    let rest = |claim: &Value| {
        let mut rest = claim.clone();
        if let Some(status) = rest.get_mut("status").and_then(Value::as_object_mut) {
            status.retain(|field, _| !CLAIM_STATUS.contains(&field.as_str()));
        }
        let metadata = meta::metadata_mut(&mut rest);
        for field in ["resourceVersion", "managedFields"] {
            metadata.shift_remove(field);
        }
        rest
    };
    if rest(old) == rest(new) {
        return Ok(());
    }
    Err(format!(
        "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
    ))
}

/// Whether a user may delete or evict (`verb`) a pod: nodes may their own.
pub(crate) fn may_end(user: &User, verb: &str, pod: &Value) -> Result<(), Status> {
    match of(user) {
        Some(node) if node_of(pod) != node => {
            let why = format!("node {node:?} can only {verb} pods with spec.nodeName set to itself");
            Err(Status::forbidden(&PODS, meta::name(pod), &why))
        }
        _ => Ok(()),
    }
}

/// Whether a user may have a token of an account: a node may for a pod that it has.
pub(crate) fn may_have_token(
    cache: &Cache,
    user: &User,
    (namespace, account): (&str, &str),
    request: &Value,
) -> Result<(), Status> {
    let Some(node) = of(user) else { return Ok(()) };
    let refused = |why: &str| Err(Status::forbidden(&SERVICE_ACCOUNTS, account, why));
    let bound = &request["spec"]["boundObjectRef"];
    let name = bound["name"].as_str().unwrap_or_default();
    if bound["apiVersion"] != "v1" || bound["kind"] != "Pod" || name.is_empty() {
        return refused("node requested token not bound to a pod");
    }
    let uid = bound["uid"].as_str().unwrap_or_default();
    if uid.is_empty() {
        return refused("node requested token with a pod binding without a uid");
    }
    let pod = cache.get(&PODS, namespace, name).ok_or_else(|| Status::not_found(&PODS, name))?;
    if *pod.uid != *uid {
        return refused(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        ));
    }
    if pod.node_name.as_deref() != Some(node) {
        return refused("node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}
