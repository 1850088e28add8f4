//! Where pods go, and the sentence when they go nowhere.

mod near;
mod preempt;
mod properties;
mod spread;
mod volumes;

use std::sync::Arc;

use oarlock_api::catalogue::{NODES, PODS};
use serde_json::{Value, json};

use super::{Needs, Verdict, find};
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

/// A node with labels.
fn labelled(name: &str, labels: Value) -> Value {
    let mut node = node(name, "4", json!({}));
    for (key, value) in labels.as_object().unwrap() {
        node["metadata"]["labels"][key] = value.clone();
    }
    node
}

/// Nodes a1, a2, b1, b2 in zones a and b.
fn zones() -> Vec<Value> {
    ["a1", "a2", "b1", "b2"].map(|name| labelled(name, json!({"zone": name[..1]}))).into()
}

fn pod(name: &str, cpu: &str, on: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": [{"uid": "rs", "controller": true}]},
        "spec": {"nodeName": on, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
        "status": {"phase": "Pending"},
    })
}

/// A pod of nobody with a label, on a node or on none, and more of its spec.
fn app(name: &str, app: &str, on: &str, spec: Value) -> Value {
    let mut pod = pod(name, "1m", on);
    pod["metadata"]["labels"] = json!({"app": app});
    pod["metadata"]["ownerReferences"] = json!([]);
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn world(nodes: &[Value], pods: &[Value]) -> World {
    let mut world = World::default();
    for node in nodes {
        world.put(&NODES, "", node["metadata"]["name"].as_str().unwrap(), &Arc::new(node.clone()), 1);
    }
    for pod in pods {
        let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
        world.put(&PODS, namespace.as_str().unwrap(), name.as_str().unwrap(), &Arc::new(pod.clone()), 1);
    }
    world
}

fn place(world: &World, name: &str) -> Verdict {
    let key = ("d".into(), name.into());
    find(world, &key, world.pod(&key).unwrap(), &Needs::default())
}

/// The nodes to which a pod may go: those where it goes when the others are taken out.
fn choices(nodes: &[Value], pods: &[Value], name: &str) -> Vec<String> {
    let mut nodes = nodes.to_vec();
    let mut choices = Vec::new();
    while let Verdict::Node(node) = place(&world(&nodes, pods), name) {
        let at = nodes.iter().position(|n| n["metadata"]["name"] == *node).unwrap();
        nodes[at]["spec"]["unschedulable"] = json!(true);
        choices.push(node);
    }
    choices.sort();
    choices
}

#[track_caller]
fn assert_none(verdict: &Verdict, sentence: &str) {
    assert_eq!(*verdict, Verdict::None(sentence.to_owned()));
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
        let sentence = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. \
                        preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        let expected = if fits { Verdict::Node("n1".into()) } else { Verdict::None(sentence.into()) };
        assert_eq!(place(&world, "new"), expected, "{ip:?} {port}");
    }
}

#[test]
fn the_reasons_of_all_nodes_are_counted() {
    let taint = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let mut full = node("n5", "2", json!({}));
    full["status"]["allocatable"]["pods"] = json!("0");
    let nodes = [
        node("n1", "500m", json!({})),
        node("n2", "500m", json!({})),
        node("n3", "4", json!({"unschedulable": true})),
        node("n4", "4", json!({"taints": taint})),
        full,
    ];
    let world = world(&nodes, &[pod("a", "1", "")]);
    // Two nodes would not do if they were empty.
    assert_none(
        &place(&world, "a"),
        "0/5 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable, \
         2 Insufficient cpu. preemption: 0/5 nodes are available: 1 No preemption victims found for incoming pod, \
         4 Preemption is not helpful for scheduling.",
    );
    let key = ("d".into(), "a".into());
    assert_none(
        &find(&World::default(), &key, world.pod(&key).unwrap(), &Needs::default()),
        "no nodes available to schedule pods",
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

#[test]
fn other_resources_are_given_once_and_overhead_counts() {
    let mut with = node("n1", "1", json!({}));
    with["status"]["allocatable"]["example.com/foo"] = json!("3");
    let nodes = [with, node("n2", "1", json!({}))];
    let asking = |name: &str, on: &str, amount: &str| {
        let mut pod = pod(name, "1m", on);
        pod["spec"]["containers"][0]["resources"]["requests"]["example.com/foo"] = json!(amount);
        pod
    };
    let pods = [asking("there", "n1", "2"), asking("one", "", "1"), asking("two", "", "2")];
    let world = world(&nodes, &pods);
    assert_eq!(place(&world, "one"), Verdict::Node("n1".into()));
    assert!(matches!(place(&world, "two"), Verdict::None(s) if s.starts_with(
        "0/2 nodes are available: 2 Insufficient example.com/foo.")));
    let mut heavy = pod("heavy", "600m", "");
    heavy["spec"]["overhead"] = json!({"cpu": "500m"});
    assert!(matches!(place(&self::world(&nodes, &[heavy]), "heavy"), Verdict::None(_)));
}

#[test]
fn preferences_for_nodes_images_and_taints_decide_among_nodes_that_are_in() {
    let mut nodes =
        vec![labelled("n1", json!({})), labelled("n2", json!({"disk": "ssd"})), labelled("n3", json!({}))];
    nodes[0]["status"]["images"] = json!([{"names": ["big:1"], "sizeBytes": 800_000_000u64}]);
    let with = |spec: Value| place(&world(&nodes, &[app("p", "x", "", spec)]), "p");
    let ssd = json!({"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}});
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [ssd]}});
    assert_eq!(with(json!({"affinity": affinity})), Verdict::Node("n2".into()));
    assert_eq!(with(json!({"containers": [{"image": "big:1"}]})), Verdict::Node("n1".into()));
    for index in [0, 1] {
        nodes[index]["spec"]["taints"] = json!([{"key": "k", "effect": "PreferNoSchedule"}]);
    }
    assert_eq!(place(&world(&nodes, &[app("p", "x", "", json!({}))]), "p"), Verdict::Node("n3".into()));
}

#[test]
fn the_emptier_node_is_better_and_so_is_the_more_balanced() {
    let nodes = [node("n1", "4", json!({})), node("n2", "4", json!({}))];
    let taken = app(
        "t",
        "x",
        "n1",
        json!({"containers": [{"resources": {"requests": {"cpu": "2", "memory": "512Mi"}}}]}),
    );
    let one = app("p", "y", "", json!({}));
    assert_eq!(place(&world(&nodes, &[taken, one]), "p"), Verdict::Node("n2".into()));
    // Much CPU is taken of the one and much memory of the other; the pod wants CPU.
    let cpu = app(
        "c",
        "x",
        "n1",
        json!({"containers": [{"resources": {"requests": {"cpu": "2", "memory": "100Mi"}}}]}),
    );
    let memory = app(
        "m",
        "x",
        "n2",
        json!({"containers": [{"resources": {"requests": {"cpu": "100m", "memory": "600Mi"}}}]}),
    );
    let wants = app(
        "p",
        "y",
        "",
        json!({"containers": [{"resources": {"requests": {"cpu": "2", "memory": "1Mi"}}}]}),
    );
    assert_eq!(place(&world(&nodes, &[cpu, memory, wants]), "p"), Verdict::Node("n2".into()));
}
