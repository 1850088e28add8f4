//! Rows of volumes, claims and classes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, text, wide};
use crate::meta;
use crate::storage::{DEFAULT_CLASS, access_modes, class_name};

pub(super) const VOLUME: &[Column] = &[
    NAME,
    text("Capacity"),
    text("Access Modes"),
    text("Reclaim Policy"),
    text("Status"),
    text("Claim"),
    text("StorageClass"),
    text("Reason"),
    AGE,
    wide("VolumeMode"),
];
pub(super) const CLAIM: &[Column] = &[
    NAME,
    text("Status"),
    text("Volume"),
    text("Capacity"),
    text("Access Modes"),
    text("StorageClass"),
    AGE,
    wide("VolumeMode"),
];
pub(super) const CLASS: &[Column] = &[
    NAME,
    text("Provisioner"),
    text("ReclaimPolicy"),
    text("VolumeBindingMode"),
    text("AllowVolumeExpansion"),
    AGE,
];

const fn boolean(name: &'static str) -> Column {
    Column { kind: "boolean", ..text(name) }
}

pub(super) const DRIVER: &[Column] = &[
    NAME,
    boolean("AttachRequired"),
    boolean("PodInfoOnMount"),
    boolean("StorageCapacity"),
    text("TokenRequests"),
    boolean("RequiresRepublish"),
    text("Modes"),
    AGE,
];
pub(super) const ATTACHMENT: &[Column] = &[
    NAME,
    Column { format: "name", ..text("Attacher") },
    text("PV"),
    text("Node"),
    boolean("Attached"),
    AGE,
];

fn plain(value: &Value) -> Value {
    json!(value.as_str().unwrap_or(""))
}

fn phase(object: &Value) -> Value {
    if meta::is_terminating(object) { json!("Terminating") } else { plain(&object["status"]["phase"]) }
}

fn mode(object: &Value) -> Value {
    json!(object["spec"]["volumeMode"].as_str().unwrap_or("<unset>"))
}

pub(super) fn volume(volume: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, claim) = (&volume["spec"], &volume["spec"]["claimRef"]);
    let claim = match claim["name"].as_str() {
        Some(name) => format!("{}/{name}", claim["namespace"].as_str().unwrap_or("")),
        None => String::new(),
    };
    vec![
        json!(meta::name(volume)),
        plain(&spec["capacity"]["storage"]),
        json!(access_modes(&spec["accessModes"])),
        plain(&spec["persistentVolumeReclaimPolicy"]),
        phase(volume),
        json!(claim),
        json!(class_name(volume)),
        plain(&volume["status"]["reason"]),
        json!(age(volume, now)),
        mode(volume),
    ]
}

pub(super) fn claim(claim: &Value, now: Timestamp) -> Vec<Value> {
    let status = &claim["status"];
    let bound = claim["spec"]["volumeName"].as_str().is_some_and(|name| !name.is_empty());
    let (capacity, modes) = if bound {
        (plain(&status["capacity"]["storage"]), access_modes(&status["accessModes"]))
    } else {
        (json!(""), String::new())
    };
    vec![
        json!(meta::name(claim)),
        phase(claim),
        plain(&claim["spec"]["volumeName"]),
        capacity,
        json!(modes),
        json!(class_name(claim)),
        json!(age(claim, now)),
        mode(claim),
    ]
}

pub(super) fn class(class: &Value, now: Timestamp) -> Vec<Value> {
    let default = meta::annotation(class, DEFAULT_CLASS) == Some("true");
    let name = format!("{}{}", meta::name(class), if default { " (default)" } else { "" });
    vec![
        json!(name),
        plain(&class["provisioner"]),
        json!(class["reclaimPolicy"].as_str().unwrap_or("Delete")),
        json!(class["volumeBindingMode"].as_str().unwrap_or("Immediate")),
        json!((class["allowVolumeExpansion"] == true).to_string()),
        json!(age(class, now)),
    ]
}

pub(super) fn driver(driver: &Value, age: Value) -> Vec<Value> {
    let spec = &driver["spec"];
    let words = |list: &Value, word: fn(&Value) -> Option<&str>| {
        list.as_array().map(|list| list.iter().filter_map(word).collect::<Vec<_>>().join(","))
    };
    let tokens = words(&spec["tokenRequests"], |request| request["audience"].as_str());
    let modes = words(&spec["volumeLifecycleModes"], Value::as_str).filter(|modes| !modes.is_empty());
    vec![
        json!(meta::name(driver)),
        json!(spec["attachRequired"] != false),
        json!(spec["podInfoOnMount"] == true),
        json!(spec["storageCapacity"] == true),
        json!(tokens.as_deref().unwrap_or("<unset>")),
        json!(spec["requiresRepublish"] == true),
        json!(modes.as_deref().unwrap_or("<none>")),
        age,
    ]
}

pub(super) fn capacity(capacity: &Value) -> Vec<Value> {
    let left = capacity["capacity"].as_str().unwrap_or("<unset>");
    vec![json!(meta::name(capacity)), plain(&capacity["storageClassName"]), json!(left)]
}

pub(super) fn attachment(attachment: &Value, age: Value) -> Vec<Value> {
    let spec = &attachment["spec"];
    vec![
        json!(meta::name(attachment)),
        plain(&spec["attacher"]),
        plain(&spec["source"]["persistentVolumeName"]),
        plain(&spec["nodeName"]),
        json!(attachment["status"]["attached"] == true),
        age,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T00:10:00Z".parse().unwrap()
    }

    #[test]
    fn rows_read_as_upstreams() {
        let metadata = json!({"name": "v", "creationTimestamp": "2026-11-23T00:09:00Z"});
        let row = volume(
            &json!({"metadata": metadata, "spec": {
                "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "fast", "volumeMode": "Filesystem",
                "claimRef": {"namespace": "d", "name": "c"}}, "status": {"phase": "Bound"}}),
            now(),
        );
        let expected =
            json!(["v", "5Gi", "RWO,RWX", "Retain", "Bound", "d/c", "fast", "", "60s", "Filesystem"]);
        assert_eq!(json!(row), expected);
        let bound = json!({"metadata": metadata, "spec": {"volumeName": "x", "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"]}});
        assert_eq!(
            json!(claim(&bound, now())),
            json!(["v", "Bound", "x", "5Gi", "RWO", "fast", "60s", "<unset>"])
        );
        let mut pending = bound;
        pending["spec"]["volumeName"] = json!("");
        pending["status"] = json!({"phase": "Pending"});
        pending["metadata"]["deletionTimestamp"] = json!("2026-11-23T00:09:00Z");
        assert_eq!(
            json!(claim(&pending, now())),
            json!(["v", "Terminating", "", "", "", "fast", "60s", "<unset>"])
        );
        let told = json!({"metadata": {"name": "d"}, "spec": {"attachRequired": false, "requiresRepublish": true,
            "tokenRequests": [{"audience": "a"}, {"audience": "b"}], "volumeLifecycleModes": ["Persistent", "Ephemeral"]}});
        let row = json!(["d", false, false, false, "a,b", true, "Persistent,Ephemeral", "1s"]);
        assert_eq!(json!(driver(&told, json!("1s"))), row);
        let attached = json!({"metadata": {"name": "a"}, "status": {"attached": true},
            "spec": {"attacher": "d", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
        assert_eq!(json!(attachment(&attached, json!("1s"))), json!(["a", "d", "v", "n", true, "1s"]));
        assert_eq!(json!(capacity(&json!({"metadata": {"name": "c"}}))), json!(["c", "", "<unset>"]));
        let local = json!({"metadata": {"name": "s", "annotations": {DEFAULT_CLASS: "true"}}, "provisioner": "p",
            "volumeBindingMode": "WaitForFirstConsumer"});
        let row = class(&local, now());
        assert_eq!(
            json!(row),
            json!(["s (default)", "p", "Delete", "WaitForFirstConsumer", "false", "<unknown>"])
        );
    }
}
