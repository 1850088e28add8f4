//! What is refused of volumes, claims and classes, with upstream's words.

use serde_json::{Value, json};

use super::{changed, said};
use crate::catalogue::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};

fn volume(patch: Value) -> Value {
    let mut spec =
        json!({"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}});
    merge(&mut spec, patch);
    json!({"metadata": {"name": "v"}, "spec": spec})
}

fn claim(patch: Value) -> Value {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}});
    merge(&mut spec, patch);
    json!({"metadata": {"name": "c"}, "spec": spec})
}

fn merge(spec: &mut Value, patch: Value) {
    for (field, value) in patch.as_object().unwrap() {
        spec[field] = value.clone();
    }
}

#[test]
fn volumes_say_what_and_where_they_are() {
    assert_eq!(said(&PERSISTENT_VOLUMES, volume(json!({}))), [""; 0]);
    for (patch, expected) in [
        (json!({"accessModes": []}), "spec.accessModes: Required value"),
        (
            json!({"accessModes": ["ReadWriteOncePod", "ReadWriteMany"]}),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        (json!({"capacity": {}}), "spec.capacity: Required value"),
        (
            json!({"capacity": {"storage": "0"}}),
            "spec.capacity[storage]: Invalid value: \"0\": must be greater than zero",
        ),
        (
            json!({"capacity": {"cpu": "1"}}),
            "spec.capacity: Unsupported value: {\"cpu\":\"1\"}: supported values: \"storage\"",
        ),
        (json!({"hostPath": null}), "spec: Required value: must specify a volume type"),
        (json!({"local": {"path": "/x"}}), "spec.local: Forbidden: may not specify more than 1 volume type"),
        (
            json!({"hostPath": null, "local": {"path": "/x"}}),
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ),
        (
            json!({"hostPath": {"path": "/a/../b"}}),
            "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            json!({"hostPath": null, "awsElasticBlockStore": {"volumeID": "x"}}),
            "spec.awsElasticBlockStore: Forbidden: is not supported by this version of Oarlock: volumes of type hostPath, local, nfs, glusterfs, iscsi, rbd are",
        ),
        (
            json!({"nodeAffinity": {}}),
            "spec.nodeAffinity.required: Required value: must specify required node constraints",
        ),
        (
            json!({"persistentVolumeReclaimPolicy": "Recycle"}),
            "spec.persistentVolumeReclaimPolicy: Forbidden: is not supported by this version of Oarlock",
        ),
    ] {
        assert_eq!(said(&PERSISTENT_VOLUMES, volume(patch)), [expected]);
    }
}

#[test]
fn a_volume_stays_where_it_is() {
    let old = volume(json!({}));
    let larger = volume(json!({"capacity": {"storage": "6Gi"}, "claimRef": {"name": "c", "namespace": "d"}}));
    assert_eq!(changed(&PERSISTENT_VOLUMES, &old, &larger), [""; 0]);
    let moved = volume(json!({"hostPath": {"path": "/e"}}));
    assert_eq!(
        changed(&PERSISTENT_VOLUMES, &old, &moved),
        ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]
    );
}

#[test]
fn claims_say_how_much_and_how() {
    assert_eq!(said(&PERSISTENT_VOLUME_CLAIMS, claim(json!({}))), [""; 0]);
    for (patch, expected) in [
        (json!({"accessModes": []}), "spec.accessModes: Required value: at least 1 access mode is required"),
        (json!({"resources": {}}), "spec.resources[storage]: Required value"),
        (
            json!({"resources": {"requests": {"storage": "-1"}}}),
            "spec.resources[storage]: Invalid value: \"-1\": must be greater than zero",
        ),
        (
            json!({"volumeMode": "Tape"}),
            "spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
        ),
        (
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}}),
            "spec.dataSource: Forbidden: is not supported by this version of Oarlock",
        ),
    ] {
        assert_eq!(said(&PERSISTENT_VOLUME_CLAIMS, claim(patch)), [expected]);
    }
}

#[test]
fn a_claim_gets_a_volume_and_a_class_once() {
    let why = "spec: Forbidden: spec is immutable after creation except resources.requests and \
        volumeAttributesClassName for bound claims";
    let (none, one) = (claim(json!({})), claim(json!({"volumeName": "v", "storageClassName": "s"})));
    assert_eq!(changed(&PERSISTENT_VOLUME_CLAIMS, &none, &one), [""; 0]);
    let other = claim(json!({"volumeName": "w", "storageClassName": "s"}));
    assert_eq!(changed(&PERSISTENT_VOLUME_CLAIMS, &one, &other), [why]);
    let class = claim(json!({"volumeName": "v", "storageClassName": "t"}));
    assert_eq!(changed(&PERSISTENT_VOLUME_CLAIMS, &one, &class), [why]);
    let same = claim(json!({"resources": {"requests": {"storage": "5120Mi"}}}));
    assert_eq!(changed(&PERSISTENT_VOLUME_CLAIMS, &none, &same), [""; 0], "the same, written otherwise");
    let more = claim(json!({"resources": {"requests": {"storage": "6Gi"}}}));
    assert!(changed(&PERSISTENT_VOLUME_CLAIMS, &none, &more)[0].contains("must support resize"));
}

#[test]
fn classes_keep_what_they_stand_for() {
    let class = |patch: Value| {
        let mut class = json!({"metadata": {"name": "s"}, "provisioner": "example.com/p"});
        merge(&mut class, patch);
        class
    };
    assert_eq!(said(&STORAGE_CLASSES, class(json!({"parameters": {"a": "b"}}))), [""; 0]);
    assert_eq!(said(&STORAGE_CLASSES, class(json!({"provisioner": ""}))), ["provisioner: Required value"]);
    let local = class(json!({"provisioner": "oarlock.io/local", "parameters": {"a": "b"}}));
    assert_eq!(
        said(&STORAGE_CLASSES, local),
        ["parameters: Forbidden: oarlock.io/local makes plain directories: it takes none"]
    );
    assert_eq!(said(&STORAGE_CLASSES, crate::storage::local_class()), [""; 0]);
    let other = class(
        json!({"provisioner": "x", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    assert_eq!(
        changed(&STORAGE_CLASSES, &class(json!({})), &other),
        [
            "provisioner: Forbidden: updates to provisioner are forbidden.",
            "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.",
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
        ]
    );
}
