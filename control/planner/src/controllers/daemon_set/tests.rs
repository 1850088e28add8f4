//! What the pod of a daemon looks like, and what its revisions say.

use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use serde_json::{Value, json};

use super::super::{CONTROLLERS, Settings};
use crate::change::{Change, Plan};
use crate::world::World;

fn set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "log", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "updateStrategy": {"type": "OnDelete"}, "template": {
            "metadata": {"labels": {"app": "log"}},
            "spec": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "mine", "operator": "Exists"}],
                "containers": [{"name": "c", "image": "i"}]}}}})
}

fn world() -> World {
    let mut world = World::default();
    world.put(&DAEMON_SETS, "d", "log", &Arc::new(set()), 1);
    for (name, disk) in [("n1", "ssd"), ("n2", "tape")] {
        let node = json!({"metadata": {"name": name, "uid": name, "labels": {"disk": disk}}});
        world.put(&NODES, "", name, &Arc::new(node), 2);
    }
    world
}

fn plan(world: &World) -> Plan {
    let controller = CONTROLLERS.iter().find(|c| c.name == "daemonset").unwrap();
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    (controller.plan)(world, &settings, &("d".to_owned(), "log".to_owned()), Timestamp::UNIX_EPOCH)
}

fn created(plan: &Plan, kind: &'static oarlock_api::catalogue::Kind) -> Vec<Value> {
    let objects = plan.changes.iter().filter_map(|change| match change {
        Change::Create { kind: made, object, .. } if **made == *kind => Some(object.clone()),
        _ => None,
    });
    objects.collect()
}

/// The world with the revision of the present template.
fn with_revision(world: &mut World) -> Value {
    let mut revision = created(&plan(world), &CONTROLLER_REVISIONS).pop().unwrap();
    revision["metadata"]["uid"] = json!("r");
    let name = revision["metadata"]["name"].as_str().unwrap().to_owned();
    world.put(&CONTROLLER_REVISIONS, "d", &name, &Arc::new(revision.clone()), 3);
    revision
}

#[test]
fn a_revision_comes_before_any_pod_and_says_the_template() {
    let mut world = world();
    assert_eq!(created(&plan(&world), &PODS), Vec::<Value>::new());
    let revision = with_revision(&mut world);
    assert_eq!(revision["revision"], 1);
    let mut template = set()["spec"]["template"].clone();
    template["$patch"] = json!("replace");
    assert_eq!(revision["data"], json!({"spec": {"template": template}}));
    assert_eq!(created(&plan(&world), &CONTROLLER_REVISIONS), Vec::<Value>::new());
}

#[test]
fn pods_are_for_the_nodes_that_the_template_selects_and_name_them() {
    let mut world = world();
    let revision = with_revision(&mut world);
    let pods = created(&plan(&world), &PODS);
    assert_eq!(pods.len(), 1);
    let affinity =
        &pods[0]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        affinity["nodeSelectorTerms"],
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])
    );
    let hash = &revision["metadata"]["labels"]["controller-revision-hash"];
    assert_eq!(pods[0]["metadata"]["labels"], json!({"app": "log", "controller-revision-hash": hash}));
    let tolerated: Vec<&str> = pods[0]["spec"]["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["key"].as_str().unwrap())
        .collect();
    similar_asserts::assert_eq!(
        tolerated,
        [
            "mine",
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
            "node.kubernetes.io/disk-pressure",
            "node.kubernetes.io/memory-pressure",
            "node.kubernetes.io/pid-pressure",
            "node.kubernetes.io/unschedulable"
        ]
    );
    let mut on_host = set();
    on_host["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let pod = super::pod::on(&on_host, "n1", "h");
    let tolerated = pod["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(tolerated.last().unwrap()["key"], "node.kubernetes.io/network-unavailable");
}

#[test]
fn a_name_that_is_taken_is_counted_and_another_tried() {
    let mut world = world();
    let mut revision = created(&plan(&world), &CONTROLLER_REVISIONS).pop().unwrap();
    revision["metadata"]["ownerReferences"] = json!([{"uid": "other", "controller": true}]);
    let name = revision["metadata"]["name"].as_str().unwrap().to_owned();
    world.put(&CONTROLLER_REVISIONS, "d", &name, &Arc::new(revision), 3);
    let changes = plan(&world).changes;
    let counted = changes.iter().any(
        |change| matches!(change, Change::Patch { patch, .. } if patch["status"]["collisionCount"] == 1),
    );
    assert!(counted, "{changes:?}");
    let mut next = set();
    next["status"] = json!({"collisionCount": 1});
    world.put(&DAEMON_SETS, "d", "log", &Arc::new(next), 4);
    assert_ne!(created(&plan(&world), &CONTROLLER_REVISIONS)[0]["metadata"]["name"], name.as_str());
}
