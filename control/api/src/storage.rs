//! What the control plane and agents agree on about volumes and claims: names of annotations and finalizers, and how a
//! volume's and a claim's fields read. Pure.

use std::str::FromStr as _;

use serde_json::{Value, json};

use crate::meta;
use crate::quantity::Quantity;

/// The provisioner that is built in: a directory of one node for each claim.
pub const LOCAL_PROVISIONER: &str = "oarlock.io/local";
/// The StorageClass that a cluster begins with.
pub const LOCAL_CLASS: &str = "local";
/// Where a node's agent keeps those directories: an annotation of the Node.
pub const VOLUMES_DIR: &str = "oarlock.io/volumes-dir";
/// Holds a volume of [`LOCAL_PROVISIONER`] until its node has removed the directory.
pub const LOCAL_FINALIZER: &str = "oarlock.io/local-directory";
/// Provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Finalizer of claims.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer of volumes.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// The claim was bound once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// The controller bound it, not the user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Who made the volume.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Where the first pod of a claim goes.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who is to make the volume of a claim.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The class of claims that name none.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// What named a claim's or volume's class before the field did.
pub const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The name of the class of a volume or claim; empty for none.
#[must_use]
pub fn class_name(object: &Value) -> &str {
    meta::annotation(object, BETA_CLASS).or_else(|| object["spec"]["storageClassName"].as_str()).unwrap_or("")
}

/// Whether a claim says nothing of a class: it gets the default one.
#[must_use]
pub fn wants_default_class(claim: &Value) -> bool {
    claim["spec"].get("storageClassName").is_none_or(Value::is_null)
        && meta::annotation(claim, BETA_CLASS).is_none()
}

/// The name of the default class: the newest of those that say so, then the first by name.
pub fn default_class<'v>(classes: impl Iterator<Item = &'v Value>) -> Option<&'v str> {
    let marked = classes.filter(|class| meta::annotation(class, DEFAULT_CLASS) == Some("true"));
    let newest = marked.max_by(|a, b| {
        let made = |class: &'v Value| class["metadata"]["creationTimestamp"].as_str().unwrap_or("");
        made(a).cmp(made(b)).then_with(|| meta::name(b).cmp(meta::name(a)))
    });
    newest.map(meta::name)
}

/// `Filesystem` or `Block`.
#[must_use]
pub fn volume_mode(object: &Value) -> &str {
    object["spec"]["volumeMode"].as_str().unwrap_or("Filesystem")
}

/// How much a volume holds, or a claim asks for.
#[must_use]
pub fn size(resources: &Value) -> Option<Quantity> {
    Quantity::from_str(resources["storage"].as_str()?).ok()
}

/// `RWO,ROX,RWX,RWOP`, as kubectl prints them.
#[must_use]
pub fn access_modes(modes: &Value) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.as_array().into_iter().flatten().any(|m| m == mode);
    let short: Vec<&str> = known.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect();
    short.join(",")
}

/// Whether a volume is a directory that [`LOCAL_PROVISIONER`] made.
#[must_use]
pub fn is_local_directory(volume: &Value) -> bool {
    meta::annotation(volume, PROVISIONED_BY) == Some(LOCAL_PROVISIONER)
        && volume["spec"]["local"]["path"].is_string()
}

/// The node that has the directory of such a volume: the one that its affinity names.
#[must_use]
pub fn local_node(volume: &Value) -> Option<&str> {
    let terms = &volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"];
    let expression = &terms[0]["matchExpressions"][0];
    let named = expression["key"] == "kubernetes.io/hostname" && is_local_directory(volume);
    expression["values"][0].as_str().filter(|_| named)
}

/// The claim of a pod's volume: named, or made from the template of an ephemeral one.
#[must_use]
pub fn claim_of(pod: &str, volume: &Value) -> Option<String> {
    if let Some(name) = volume["persistentVolumeClaim"]["claimName"].as_str() {
        return Some(name.to_owned());
    }
    volume.get("ephemeral").filter(|e| e.is_object())?;
    Some(format!("{pod}-{}", volume["name"].as_str()?))
}

/// The class that makes claims work with nothing installed.
#[must_use]
pub fn local_class() -> Value {
    json!({
        "metadata": {"name": LOCAL_CLASS, "annotations": {DEFAULT_CLASS: "true"}},
        "provisioner": LOCAL_PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_default_class_wins() {
        let class = |name: &str, made: &str, marked: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {DEFAULT_CLASS: marked}}});
        let of = |classes: &[Value]| default_class(classes.iter()).map(str::to_owned);
        let old = class("old", "2026-01-01T00:00:00Z", "true");
        let new = class("new", "2026-02-01T00:00:00Z", "true");
        let twin = class("b-twin", "2026-02-01T00:00:00Z", "true");
        let not = class("not", "2026-03-01T00:00:00Z", "false");
        assert_eq!(of(&[old.clone(), new.clone(), not.clone()]).as_deref(), Some("new"));
        assert_eq!(of(&[new, twin, old]).as_deref(), Some("b-twin"));
        assert_eq!(of(&[not]), None);
    }

    #[test]
    fn the_claim_of_a_volume_is_named_or_made() {
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let made = json!({"name": "v", "ephemeral": {"volumeClaimTemplate": {}}});
        assert_eq!(claim_of("p", &named).as_deref(), Some("c"));
        assert_eq!(claim_of("p", &made).as_deref(), Some("p-v"));
        assert_eq!(claim_of("p", &json!({"name": "v", "emptyDir": {}})), None);
    }
}
