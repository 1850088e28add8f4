//! Pods with claims: where they may go, and what happens before they go there.

use oarlock_api::catalogue::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, STORAGE_CLASSES};

use super::*;
use crate::change::Change;

fn with_volumes_dir(name: &str) -> Value {
    let mut node = node(name, "4", json!({}));
    node["metadata"]["annotations"] = json!({"oarlock.io/volumes-dir": "/data/volumes"});
    node
}

fn claiming(name: &str) -> Value {
    let mut pod = pod(name, "1m", "");
    pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    pod
}

fn claim(spec: Value, annotations: Value) -> Value {
    let mut claim = json!({"metadata": {"name": "c", "namespace": "d", "uid": "c1", "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}});
    for (field, value) in spec.as_object().unwrap() {
        claim["spec"][field] = value.clone();
    }
    claim
}

fn volume(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name}, "status": {"phase": "Available"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "late", "local": {"path": "/d"},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}})
}

fn class(provisioner: &str) -> Value {
    json!({"metadata": {"name": "late", "uid": "late"}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"})
}

/// Two nodes, a pod with a claim, and the rest.
fn cluster(objects: &[Value]) -> World {
    let mut world = world(&[with_volumes_dir("n1"), with_volumes_dir("n2")], &[claiming("p")]);
    for object in objects {
        let (kind, namespace) = if !object["provisioner"].is_null() {
            (&STORAGE_CLASSES, "")
        } else if object["spec"]["capacity"].is_null() {
            (&PERSISTENT_VOLUME_CLAIMS, "d")
        } else {
            (&PERSISTENT_VOLUMES, "")
        };
        world.put(
            kind,
            namespace,
            object["metadata"]["name"].as_str().unwrap(),
            &Arc::new(object.clone()),
            1,
        );
    }
    world
}

/// Where the pod goes, and what comes first; or why nowhere.
fn placed(objects: &[Value]) -> Result<(String, Vec<Change>), String> {
    let world = cluster(objects);
    let key = ("d".to_owned(), "p".to_owned());
    let pod = world.pod(&key).unwrap();
    let needs = Needs::of(&world, &key, pod)?;
    match find(&world, &key, pod, &needs) {
        Verdict::Node(name) => {
            let changes = needs.settle(&world, world.node(&name).unwrap());
            Ok((name, changes))
        }
        Verdict::None(why) => Err(why),
        other @ Verdict::Preempt(..) => Err(format!("{other:?}")),
    }
}

fn patched(changes: &[Change]) -> Vec<(String, Value)> {
    let shown = changes.iter().filter_map(|change| match change {
        Change::Patch { name, patch, .. } => Some((name.clone(), patch.clone())),
        _ => None,
    });
    shown.collect()
}

#[test]
fn claims_that_are_missing_or_not_bound_hold_a_pod_back() {
    let immediate = claim(json!({"storageClassName": ""}), json!({}));
    let mut going = immediate.clone();
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut lost = claim(json!({"volumeName": "v"}), json!({"pv.kubernetes.io/bind-completed": "yes"}));
    lost["status"]["phase"] = json!("Lost");
    let named = claim(json!({"storageClassName": "late", "volumeName": "v"}), json!({}));
    for (objects, why) in [
        (vec![], "persistentvolumeclaim \"c\" not found"),
        (vec![immediate], "pod has unbound immediate PersistentVolumeClaims"),
        (vec![going], "persistentvolumeclaim \"c\" is being deleted"),
        (vec![lost], "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\""),
        (vec![class("x"), named], "pod has unbound immediate PersistentVolumeClaims"),
    ] {
        assert_eq!(placed(&objects), Err(why.to_owned()));
    }
}

#[test]
fn a_pod_goes_where_its_volume_is() {
    let bound = claim(json!({"volumeName": "v"}), json!({"pv.kubernetes.io/bind-completed": "yes"}));
    let there = |node: &str| placed(&[bound.clone(), volume("v", node)]);
    assert_eq!(there("n2"), Ok(("n2".to_owned(), vec![])));
    let nowhere = "0/2 nodes are available: 2 node(s) had volume node affinity conflict. preemption: 0/2 nodes are \
        available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(there("n3"), Err(nowhere.to_owned()));
}

#[test]
fn a_claim_that_waits_gets_a_volume_of_the_node_or_has_one_made_there() {
    let waits = claim(json!({"storageClassName": "late"}), json!({}));
    let by_hand = class("kubernetes.io/no-provisioner");
    let nothing = "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. preemption: 0/2 \
        nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(placed(&[by_hand.clone(), waits.clone()]), Err(nothing.to_owned()));
    let (node, changes) = placed(&[by_hand, waits.clone(), volume("v", "n2")]).unwrap();
    let patches = patched(&changes);
    assert_eq!((node.as_str(), patches[0].0.as_str()), ("n2", "v"));
    assert_eq!(patches[0].1["spec"]["claimRef"]["uid"], "c1");
    assert_eq!(patches[0].1["metadata"]["resourceVersion"], "1");

    let (node, changes) = placed(&[class("oarlock.io/local"), waits]).unwrap();
    let patches = patched(&changes);
    assert_eq!(patches[0].0, "c");
    assert_eq!(patches[0].1["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], node.as_str());

    let sent =
        claim(json!({"storageClassName": "late"}), json!({"volume.kubernetes.io/selected-node": "n2"}));
    let on_its_way = placed(&[class("oarlock.io/local"), sent]).unwrap();
    assert_eq!(on_its_way, ("n2".to_owned(), vec![]), "nothing more to do, and not anywhere else");
}

#[test]
fn a_claim_for_one_pod_is_not_shared() {
    let bound = claim(
        json!({"volumeName": "v", "accessModes": ["ReadWriteOncePod"]}),
        json!({"pv.kubernetes.io/bind-completed": "yes"}),
    );
    let mut world = cluster(&[bound, volume("v", "n1")]);
    let mut other = claiming("other");
    other["spec"]["nodeName"] = json!("n1");
    world.put(&PODS, "d", "other", &Arc::new(other), 2);
    let key = ("d".to_owned(), "p".to_owned());
    let needs = Needs::of(&world, &key, world.pod(&key).unwrap()).unwrap();
    let verdict = find(&world, &key, world.pod(&key).unwrap(), &needs);
    assert!(matches!(verdict, Verdict::None(why) if why.contains("ReadWriteOncePod access mode")));
}
