//! Steps of claims and volumes, as values.

use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{
    Kind, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, STORAGE_CLASSES,
};
use oarlock_api::meta;
use serde_json::{Value, json};

use crate::change::{Change, Part};
use crate::controllers::Settings;
use crate::world::{Key, World};

fn merged(mut object: Value, patch: Value) -> Value {
    for (field, value) in patch.as_object().unwrap() {
        object[field] = value.clone();
    }
    object
}

fn volume(name: &str, size: &str, spec: Value) -> Value {
    let base = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"},
        "volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Retain"});
    json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}, "spec": merged(base, spec),
        "status": {"phase": "Available"}})
}

fn claim(name: &str, size: &str, spec: Value) -> Value {
    let base = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}},
        "storageClassName": "", "volumeMode": "Filesystem"});
    json!({"metadata": {"name": name, "namespace": "d", "uid": format!("u-{name}"), "resourceVersion": "1"},
        "spec": merged(base, spec), "status": {"phase": "Pending"}})
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "provisioner": provisioner, "reclaimPolicy": "Delete",
        "volumeBindingMode": mode})
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name},
            "annotations": {"oarlock.io/volumes-dir": "/data/volumes"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

fn kind_of(object: &Value) -> &'static Kind {
    if !object["provisioner"].is_null() {
        &STORAGE_CLASSES
    } else if !object["spec"]["capacity"].is_null() {
        &PERSISTENT_VOLUMES
    } else if !object["spec"]["containers"].is_null() {
        &PODS
    } else if !object["spec"]["resources"].is_null() {
        &PERSISTENT_VOLUME_CLAIMS
    } else {
        &NODES
    }
}

fn world(objects: &[Value]) -> World {
    let mut world = World::default();
    for object in objects {
        let (namespace, name) = (meta::namespace(object), meta::name(object));
        world.put(kind_of(object), namespace, name, &Arc::new(object.clone()), 1);
    }
    world
}

/// What is done for a claim (`d/name`) or a volume (`name`): patches as JSON, events as text.
fn said(objects: &[Value], key: &str) -> Vec<Value> {
    let key: Key = key.split_once('/').map_or(("".into(), key.into()), |(a, b)| (a.into(), b.into()));
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let plan = super::plan(&world(objects), &settings, &key, now);
    let shown = plan.changes.into_iter().map(|change| match change {
        Change::Patch { name, part, mut patch, .. } => {
            assert_eq!(
                patch["metadata"]["resourceVersion"], "1",
                "each write is at the version that was looked at"
            );
            meta::metadata_mut(&mut patch).shift_remove("resourceVersion");
            if patch["metadata"] == json!({}) {
                meta::map_of(&mut patch).shift_remove("metadata");
            }
            let part = if part == Part::Status { "status of " } else { "" };
            json!({format!("{part}{name}"): patch})
        }
        Change::Event { reason, message, .. } => json!(format!("{reason}: {message}")),
        Change::Create { object, .. } => object,
        Change::Delete { name, .. } => json!(format!("delete {name}")),
        Change::Bind { .. }
        | Change::Condition { .. }
        | Change::Unready { .. }
        | Change::Miss { .. }
        | Change::Remember { .. }
        | Change::Measure { .. } => Value::Null,
    });
    shown.collect()
}

fn reference(name: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": "d", "name": name,
        "uid": format!("u-{name}"), "resourceVersion": "1"})
}

fn given(volume: &str, claim: &str) -> Value {
    json!({volume: {"metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
        "spec": {"claimRef": reference(claim)}}})
}

#[test]
fn the_smallest_volume_that_does_is_given() {
    let volumes = [
        volume("large", "20Gi", json!({})),
        volume("small", "5Gi", json!({})),
        volume("b-fits", "10Gi", json!({})),
        volume("a-fits", "10Gi", json!({})),
        volume("other-class", "8Gi", json!({"storageClassName": "x"})),
        volume("other-mode", "8Gi", json!({"accessModes": ["ReadOnlyMany"]})),
        volume("block", "8Gi", json!({"volumeMode": "Block"})),
        volume("taken", "8Gi", json!({"claimRef": reference("somebody")})),
        merged(volume("new", "8Gi", json!({})), json!({"status": {"phase": "Pending"}})),
    ];
    let with = |claim: Value| {
        let mut objects = volumes.to_vec();
        objects.push(claim);
        said(&objects, "d/c")
    };
    assert_eq!(with(claim("c", "8Gi", json!({}))), [given("a-fits", "c")]);
    let selecting = claim("c", "1Gi", json!({"selector": {"matchLabels": {"k": "v"}}}));
    let nothing = "FailedBinding: no persistent volumes available for this claim and no storage class is set";
    assert_eq!(with(selecting), [json!(nothing)]);
    assert_eq!(with(claim("c", "21Gi", json!({}))), [json!(nothing)]);
}

#[test]
fn claim_and_volume_name_each_other_in_turn() {
    let given = volume("v", "8Gi", json!({"claimRef": reference("c")}));
    let asks = claim("c", "5Gi", json!({}));
    let taken = json!({"c": {"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes",
        "pv.kubernetes.io/bound-by-controller": "yes"}}, "spec": {"volumeName": "v"}}});
    assert_eq!(said(&[given.clone(), asks.clone()], "d/c"), [taken]);
    assert_eq!(said(&[given.clone(), asks], "v"), [json!(null); 0], "the claim is about to take it");
    let mut bound = claim("c", "5Gi", json!({"volumeName": "v"}));
    bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    let status = json!({"status of c": {"status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "8Gi"}}}});
    assert_eq!(said(&[given.clone(), bound.clone()], "d/c"), [status]);
    let status = json!({"status of v": {"status": {"phase": "Bound", "message": null, "reason": null,
        "lastPhaseTransitionTime": "2026-01-01T00:00:00Z"}}});
    assert_eq!(said(&[given, bound], "v"), [status]);
}

#[test]
fn who_names_the_other_first_gets_it() {
    let mine = volume("mine", "50Gi", json!({"claimRef": {"namespace": "d", "name": "c"}}));
    let better = volume("better", "5Gi", json!({}));
    let named = json!({"mine": {"spec": {"claimRef": reference("c")}}});
    let asks = claim("c", "5Gi", json!({}));
    assert_eq!(said(&[mine.clone(), better.clone(), asks], "d/c"), [named], "not bound by the controller");
    let asks = claim("c", "9Gi", json!({"volumeName": "better"}));
    let small =
        json!("VolumeMismatch: Cannot bind to requested volume \"better\": requested PV is too small");
    assert_eq!(said(&[mine.clone(), better.clone(), asks], "d/c"), [small]);
    let other = claim("other", "5Gi", json!({"volumeName": "mine"}));
    let taken = json!("FailedBinding: volume \"mine\" already bound to a different claim.");
    assert_eq!(said(&[mine, other], "d/other"), [taken]);
    let asks = claim("c", "5Gi", json!({"volumeName": "better"}));
    assert_eq!(said(&[better, asks], "d/c"), [given("better", "c")]);
}

#[test]
fn what_was_bound_and_is_gone_is_lost() {
    let mut bound = claim("c", "5Gi", json!({"volumeName": "v"}));
    bound["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    let lost = json!({"status of c": {"status": {"phase": "Lost", "accessModes": null, "capacity": null}}});
    let why = json!("ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    assert_eq!(said(&[bound.clone()], "d/c"), [lost, why]);
    let theirs = volume("v", "5Gi", json!({"claimRef": reference("somebody")}));
    let changes = said(&[bound, theirs], "d/c");
    assert!(changes[1].as_str().unwrap().starts_with("ClaimMisbound"), "{changes:?}");
}

#[test]
fn a_volume_without_its_claim_is_kept_or_removed_as_it_says() {
    let left = |policy: &str, by: &str, phase: &str| {
        let mut v = volume(
            "v",
            "5Gi",
            json!({"claimRef": reference("gone"), "persistentVolumeReclaimPolicy": policy}),
        );
        v["status"]["phase"] = json!(phase);
        if !by.is_empty() {
            v["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": by});
        }
        said(&[v], "v")
    };
    let phase = |changes: &[Value]| changes[0]["status of v"]["status"]["phase"].clone();
    assert_eq!(phase(&left("Retain", "", "Bound")), "Released");
    assert_eq!(left("Retain", "", "Released"), [json!(null); 0]);
    assert_eq!(phase(&left("Delete", "oarlock.io/local", "Bound")), "Released");
    assert_eq!(left("Delete", "oarlock.io/local", "Released"), [json!("delete v")]);
    assert_eq!(left("Delete", "example.com/p", "Released"), [json!(null); 0], "who made it removes it");
    let failed = left("Delete", "", "Released");
    assert_eq!(phase(&failed), "Failed");
    assert!(failed[1].as_str().unwrap().contains("no deletable volume plugin matched"), "{failed:?}");
}

#[test]
fn a_directory_is_made_where_the_scheduler_wants_it() {
    let local = class("local", "oarlock.io/local", "WaitForFirstConsumer");
    let mut asks = claim("c", "5Gi", json!({"storageClassName": "local"}));
    let first = json!("WaitForFirstConsumer: waiting for first consumer to be created before binding");
    assert_eq!(said(&[local.clone(), asks.clone(), node("n1")], "d/c"), [first]);
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"}, "spec": {"containers": [],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, "status": {"phase": "Pending"}});
    let waits = json!("WaitForPodScheduled: waiting for pod p to be scheduled");
    assert_eq!(said(&[local.clone(), asks.clone(), pod], "d/c"), [waits]);

    asks["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "n1"});
    let named = said(&[local.clone(), asks.clone(), node("n1")], "d/c");
    assert_eq!(
        named[0]["c"]["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"],
        "oarlock.io/local"
    );
    asks["metadata"]["annotations"]["volume.kubernetes.io/storage-provisioner"] = json!("oarlock.io/local");
    let made = said(&[local.clone(), asks.clone(), node("n1")], "d/c");
    let spec = &made[0]["spec"];
    assert_eq!(made[0]["metadata"]["name"], "pvc-u-c");
    assert_eq!(spec["local"]["path"], "/data/volumes/pvc-u-c");
    assert_eq!(spec["claimRef"], reference("c"));
    assert_eq!(oarlock_api::storage::local_node(&made[0]), Some("n1"));
    let mut checked = made[0].clone();
    oarlock_api::defaults::apply(&PERSISTENT_VOLUMES, &mut checked);
    assert_eq!(oarlock_api::validate::create(&PERSISTENT_VOLUMES, &checked), []);

    let elsewhere = said(&[local, asks, node("n2")], "d/c");
    assert_eq!(
        elsewhere[0],
        json!({"c": {"metadata": {"annotations": {"volume.kubernetes.io/selected-node": null}}}})
    );
    assert!(elsewhere[1].as_str().unwrap().starts_with("ProvisioningFailed"), "{elsewhere:?}");
}

#[test]
fn a_claim_without_a_class_gets_the_default_one_later_too() {
    let mut local = class("local", "oarlock.io/local", "Immediate");
    local["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let asks = claim("c", "5Gi", json!({"storageClassName": null}));
    let named = json!({"c": {"spec": {"storageClassName": "local"}}});
    assert_eq!(said(&[local.clone(), asks], "d/c"), [named]);
    let none = claim("c", "5Gi", json!({}));
    let changes = said(&[local, none], "d/c");
    assert!(changes[0].as_str().unwrap().starts_with("FailedBinding"), "an empty class is one: {changes:?}");
}

#[test]
fn a_directory_is_held_until_its_node_has_removed_it_or_is_gone() {
    let mut going = volume(
        "v",
        "5Gi",
        json!({"claimRef": reference("gone"), "persistentVolumeReclaimPolicy": "Delete",
        "hostPath": null, "local": {"path": "/data/volumes/v"}, "nodeAffinity": {"required": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]}}}),
    );
    going["metadata"] = json!({"name": "v", "uid": "v", "deletionTimestamp": "2026-01-01T00:00:00Z",
        "finalizers": ["oarlock.io/local-directory", "x"],
        "annotations": {"pv.kubernetes.io/provisioned-by": "oarlock.io/local"}});
    going["status"]["phase"] = json!("Released");
    assert_eq!(said(&[going.clone(), node("n1")], "v"), [json!(null); 0]);
    let lets_go = json!({"v": {"metadata": {"finalizers": ["x"]}}});
    assert_eq!(said(std::slice::from_ref(&going), "v"), vec![lets_go.clone()]);
    going["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
    assert_eq!(said(&[going, node("n1")], "v"), [lets_go]);
}
