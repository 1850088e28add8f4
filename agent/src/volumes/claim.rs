//! `persistentVolumeClaim`: where the volume is that a claim is bound to. A directory that was provisioned is made when it is
//! first used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use oarlock_api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use oarlock_api::node_selector::NodeSelector;
use oarlock_api::storage::{LOCAL_PROVISIONER, PROVISIONED_BY};

use super::ownership::Heir;
use super::{directories, host_path};
use crate::desired::Snapshot;

/// The claim of a pod's volume, if it has one.
pub(super) fn of(volume: &Volume, pod: &Pod) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    volume.ephemeral.is_some().then(|| format!("{pod}-{}", volume.name))
}

/// The volume that a pod's claim is bound to, if the pod may use it here. The text is kubelet's where it has one.
pub(super) fn volume<'s>(
    claim: &str,
    of: &Volume,
    pod: &Pod,
    snapshot: &'s Snapshot,
) -> Result<&'s PersistentVolume, String> {
    if of.ephemeral.is_some() {
        is_own(claim, pod, snapshot)?;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let volume = bound(claim, namespace, snapshot)
        .map_err(|why| format!("error processing PVC {namespace}/{claim}: {why}"))?;
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
    reaches(volume, node, snapshot)?;
    Ok(volume)
}

/// Prepares the directory of a volume that this node has.
pub(super) fn path(volume: &PersistentVolume, root: &Path, heir: Option<&Heir>) -> Result<String, String> {
    let spec = volume.spec.as_ref().ok_or("the volume has no spec")?;
    if let Some(source) = &spec.host_path {
        host_path::check(&source.path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(source.path.clone());
    }
    let Some(source) = &spec.local else {
        return Err("this type of volume is not supported by this version of Oarlock".to_owned());
    };
    let at = Path::new(&source.path);
    if is_provisioned(volume) {
        directories::place(root, volume).map_err(|why| format!("{why}: not made"))?;
        make(at).map_err(|e| format!("cannot create {}: {e}", source.path))?;
    } else if !at.exists() {
        return Err(format!("path {:?} does not exist", source.path));
    }
    if let Some(heir) = heir {
        heir.take(at).map_err(|e| format!("cannot give {} to group {}: {e}", source.path, heir.group))?;
    }
    Ok(source.path.clone())
}

/// Whether the claim of an ephemeral volume was made for this pod.
fn is_own(claim: &str, pod: &Pod, snapshot: &Snapshot) -> Result<(), String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let found = snapshot.claims.get(&(namespace.clone(), claim.to_owned()));
    let owners = found.and_then(|claim| claim.metadata.owner_references.as_deref()).unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if found.is_none() || owners.iter().any(|owner| owner.uid == uid && owner.controller == Some(true)) {
        return Ok(());
    }
    Err(format!("PVC {namespace}/{claim} was not created for this pod (pod is not owner)"))
}

/// The volume of a claim that has one.
fn bound<'s>(claim: &str, namespace: &str, snapshot: &'s Snapshot) -> Result<&'s PersistentVolume, String> {
    let key = (namespace.to_owned(), claim.to_owned());
    let missing =
        || format!("failed to fetch PVC from API server: persistentvolumeclaims {claim:?} not found");
    let claim: &PersistentVolumeClaim = snapshot.claims.get(&key).ok_or_else(missing)?;
    let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
    if phase != "Bound" || name.is_empty() {
        return Err("PVC is not bound".to_owned());
    }
    let missing =
        || format!("failed to fetch PV {name} from API server: persistentvolumes {name:?} not found");
    let volume = snapshot.persistent_volumes.get(&(String::new(), name.to_owned())).ok_or_else(missing)?;
    let spec = volume.spec.as_ref();
    let owner = spec.and_then(|s| s.claim_ref.as_ref()?.uid.as_deref()).unwrap_or_default();
    if Some(owner) != claim.metadata.uid.as_deref() {
        return Err(format!("PV {name} is not bound to this PVC (its claimRef has uid {owner:?})"));
    }
    if spec.and_then(|s| s.volume_mode.as_deref()) == Some("Block") {
        return Err("it has volumeMode Block, but is specified in volumeMounts".to_owned());
    }
    Ok(volume)
}

/// Whether the volume is for this node, should a pod have come past the scheduler.
fn reaches(volume: &PersistentVolume, node: &str, snapshot: &Snapshot) -> Result<(), String> {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref()?.required.as_ref());
    let Some(required) = affinity else { return Ok(()) };
    let object = snapshot.nodes.get(&(String::new(), node.to_owned()));
    let labels = object.and_then(|node| node.metadata.labels.as_ref());
    let selector = serde_json::to_value(required).ok().and_then(|value| NodeSelector::parse(&value).ok());
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    if selector.is_some_and(|selector| selector.matches(node, label)) {
        return Ok(());
    }
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    Err(format!(
        "PersistentVolume {name:?} cannot be mounted on node {node}: its nodeAffinity does not select the node"
    ))
}

/// Whether the directory is one of those that agents make.
fn is_provisioned(volume: &PersistentVolume) -> bool {
    let annotations = volume.metadata.annotations.as_ref();
    annotations.and_then(|a| a.get(PROVISIONED_BY)).is_some_and(|by| by == LOCAL_PROVISIONER)
}

/// A directory that any user may write into, as a fresh disk would be.
fn make(at: &Path) -> std::io::Result<()> {
    if at.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(at)?;
    fs::set_permissions(at, fs::Permissions::from_mode(0o777))
}
