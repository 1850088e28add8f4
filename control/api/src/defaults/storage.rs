//! Defaults of volumes, claims and classes.

use serde_json::{Map, Value, json};

use super::set;
use crate::meta::map_at;

pub(super) fn claim(claim: &mut Map<String, Value>) {
    claim_spec(map_at(claim, "spec"));
    set(map_at(claim, "status"), "phase", json!("Pending"));
}

/// A claim's spec, in a claim or in a template.
pub(super) fn claim_spec(spec: &mut Map<String, Value>) {
    set(spec, "volumeMode", json!("Filesystem"));
}

pub(super) fn volume(volume: &mut Map<String, Value>) {
    let spec = map_at(volume, "spec");
    set(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
    set(spec, "volumeMode", json!("Filesystem"));
    if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
        set(path, "type", json!(""));
    }
    remote(spec);
    set(map_at(volume, "status"), "phase", json!("Pending"));
}

/// The source of a volume, in a pod or in a PersistentVolume, that another machine has.
pub(super) fn remote(volume: &mut Map<String, Value>) {
    if let Some(iscsi) = volume.get_mut("iscsi").and_then(Value::as_object_mut) {
        set(iscsi, "iscsiInterface", json!("default"));
    }
    if let Some(rbd) = volume.get_mut("rbd").and_then(Value::as_object_mut) {
        for (field, default) in [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")] {
            set(rbd, field, json!(default));
        }
    }
}

pub(super) fn class(class: &mut Map<String, Value>) {
    set(class, "reclaimPolicy", json!("Delete"));
    set(class, "volumeBindingMode", json!("Immediate"));
}

/// What a driver of volumes says of itself.
pub(super) fn driver(spec: &mut Map<String, Value>) {
    set(spec, "attachRequired", json!(true));
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        set(spec, field, json!(false));
    }
    set(spec, "fsGroupPolicy", json!("ReadWriteOnceWithFSType"));
    let modes = spec.get("volumeLifecycleModes").and_then(Value::as_array);
    if modes.is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
    }
}
