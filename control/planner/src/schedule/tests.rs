//! Where pods go, and the sentence when they go nowhere.

use std::sync::Arc;

use oarlock_api::catalogue::{NODES, PODS};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Verdict, find};
use crate::world::World;

fn node(name: &str, cpu: &str, patch: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "uid": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"allocatable": {"cpu": cpu, "memory": "1Gi", "pods": "3"}, "conditions": [{"type": "Ready", "status": "True"}]},
    });
    for (key, value) in patch.as_object().unwrap() {
        node["spec"][key] = value.clone();
    }
    node
}

fn pod(name: &str, cpu: &str, on: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": [{"uid": "rs", "controller": true}]},
        "spec": {"nodeName": on, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"},
    })
}

fn world(nodes: &[Value], pods: &[Value]) -> World {
    let mut world = World::default();
    for node in nodes {
        world.put(&NODES, "", node["metadata"]["name"].as_str().unwrap(), &Arc::new(node.clone()), 1);
    }
    for pod in pods {
        world.put(&PODS, "d", pod["metadata"]["name"].as_str().unwrap(), &Arc::new(pod.clone()), 1);
    }
    world
}

fn place(world: &World, name: &str) -> Verdict {
    find(world, world.pod(&("d".into(), name.into())).unwrap())
}

#[test]
fn replicas_spread_over_the_nodes() {
    let nodes = [node("n1", "4", json!({})), node("n2", "4", json!({}))];
    let world = world(&nodes, &[pod("a", "1m", "n1"), pod("b", "1m", "")]);
    assert_eq!(place(&world, "b"), Verdict::Node("n2".into()));
}

#[test]
fn a_port_of_the_node_is_given_once() {
    let with = |name: &str, on: &str, ip: &str, port: u16| {
        let mut pod = pod(name, "1m", on);
        pod["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": "TCP"}]);
        pod
    };
    let nodes = [node("n1", "4", json!({}))];
    let there = with("there", "n1", "10.0.0.1", 80);
    for (ip, port, fits) in [
        ("", 80, false),
        ("0.0.0.0", 80, false),
        ("10.0.0.1", 80, false),
        ("10.0.0.2", 80, true),
        ("", 81, true),
    ] {
        let world = world(&nodes, &[there.clone(), with("new", "", ip, port)]);
        let sentence =
            "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
        let expected = if fits { Verdict::Node("n1".into()) } else { Verdict::None(sentence.into()) };
        assert_eq!(place(&world, "new"), expected, "{ip:?} {port}");
    }
}

#[test]
fn the_reasons_of_all_nodes_are_counted() {
    let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let nodes = [
        node("n1", "500m", json!({})),
        node("n2", "500m", json!({})),
        node("n3", "4", json!({"unschedulable": true})),
        node("n4", "4", json!({"taints": taint})),
    ];
    let world = world(&nodes, &[pod("a", "1", "")]);
    let sentence = "0/4 nodes are available: 2 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable.";
    assert_eq!(place(&world, "a"), Verdict::None(sentence.into()));
    assert_eq!(
        find(&World::default(), world.pod(&("d".into(), "a".into())).unwrap()),
        Verdict::None("no nodes available to schedule pods".into())
    );
}

#[test]
fn an_assumed_pod_takes_its_place_before_the_store_says_so() {
    let mut world = world(&[node("n1", "1", json!({}))], &[pod("a", "700m", ""), pod("b", "700m", "")]);
    assert_eq!(place(&world, "a"), Verdict::Node("n1".into()));
    world.assume(&("d".into(), "a".into()), "n1");
    assert!(matches!(place(&world, "b"), Verdict::None(s) if s.contains("Insufficient cpu")));
    assert_eq!(world.pending().count(), 1);
}

proptest! {
    #[test]
    fn no_node_is_ever_overcommitted(cpus in prop::collection::vec(1u32..900, 1..12)) {
        let nodes = [node("n1", "1", json!({})), node("n2", "1", json!({}))];
        let pods: Vec<Value> = cpus.iter().enumerate().map(|(i, c)| pod(&format!("p{i}"), &format!("{c}m"), "")).collect();
        let mut world = world(&nodes, &pods);
        for i in 0..cpus.len() {
            let key = ("d".to_owned(), format!("p{i}"));
            if let Verdict::Node(node) = find(&world, world.pod(&key).unwrap()) {
                world.assume(&key, &node);
            }
        }
        for name in ["n1", "n2"] {
            let (cpu, count) = world.pods_on(name).fold((0, 0), |(c, n), (_, p)| (c + p.cpu_milli, n + 1));
            prop_assert!(cpu <= 1000 && count <= 3);
        }
    }
}
