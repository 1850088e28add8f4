//! `cargo xtask bench scheduler`: how many pods a second the scheduler decides about on 5,000 nodes, each decision seen by the next.
//! The planner alone: no store, no network.
//!
//! Writes a list of `{name, unit, rounds}` to the file that is its argument.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot be made ends, and says what it is at"
)]

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use oarlock_api::catalogue::{NODES, PODS};
use oarlock_planner::{CONTROLLERS, Change, Controller, Key, Settings, World};
use serde_json::{Value, json};

const NODES_AT_ALL: usize = 5_000;
const ZONES: usize = 3;
/// Pods that are there before, as in upstream's benchmarks (scheduler_perf), and pods that are measured.
const BEFORE: usize = 5_000;
const MEASURED: usize = 2_000;
const ROUNDS: usize = 5;

/// A name, and what its pods say beside what all say.
type Case = (&'static str, fn() -> Value);

fn main() {
    let path = std::env::args().find(|argument| argument.ends_with(".json"));
    let path = path.expect("the file to write to: run `cargo xtask bench scheduler`");
    let none = || json!({});
    let cases: [Case; 5] = [
        ("basic", none),
        ("required node affinity", node_affinity),
        ("required anti-affinity by node", || near("podAntiAffinity", "kubernetes.io/hostname")),
        ("required affinity by zone", || near("podAffinity", "topology.kubernetes.io/zone")),
        ("topology spread over zones", spread),
    ];
    let mut all = Vec::new();
    for (name, spec) in cases {
        let rounds: Vec<f64> = (0..ROUNDS).map(|_| decided(&spec())).collect();
        println!("{name}: {rounds:.0?} pods/s");
        all.push(
            json!({"name": format!("{name}, {NODES_AT_ALL} nodes"), "unit": "pods/s", "rounds": rounds}),
        );
    }
    let rounds: Vec<f64> = (0..ROUNDS).map(|_| change()).collect();
    println!("a change of a pod: {rounds:.1?} us");
    all.push(
        json!({"name": format!("one pod changes among {}", BEFORE * 30), "unit": "us", "rounds": rounds}),
    );
    std::fs::write(path, serde_json::to_string_pretty(&all).unwrap()).unwrap();
}

fn node_affinity() -> Value {
    let term = json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone0", "zone1"]});
    let terms = json!([{"matchExpressions": [term]}]);
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn near(which: &str, topology: &str) -> Value {
    let term = json!({"labelSelector": {"matchLabels": {"app": "measured"}}, "topologyKey": topology});
    json!({"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

fn spread() -> Value {
    json!({"topologySpreadConstraints": [{
        "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "measured"}},
    }]})
}

fn node(index: usize) -> Value {
    let name = format!("node{index}");
    let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone{}", index % ZONES)});
    json!({
        "metadata": {"name": name, "uid": name, "labels": labels},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn pod(name: &str, app: &str, node: Option<usize>, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": format!("uid-{name}"), "labels": {"app": app},
            "ownerReferences": [{"uid": app, "controller": true, "blockOwnerDeletion": true, "kind": "ReplicaSet",
                "apiVersion": "apps/v1", "name": app}]},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"image": "pause:3", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
        "status": {"phase": "Pending"},
    });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    if let Some(node) = node {
        pod["spec"]["nodeName"] = format!("node{node}").into();
    }
    pod
}

fn nodes() -> World {
    let mut world = World::default();
    for index in 0..NODES_AT_ALL {
        world.put(&NODES, "", &format!("node{index}"), &Arc::new(node(index)), 1);
    }
    world
}

/// Pods decided about per second.
fn decided(spec: &Value) -> f64 {
    let mut world = nodes();
    for index in 0..BEFORE {
        let name = format!("before{index}");
        // Another application with the same rules: those count for these as for nobody.
        let pod = pod(&name, &format!("other{}", index % 100), Some(index % NODES_AT_ALL), &json!({}));
        world.put(&PODS, "d", &name, &Arc::new(pod), 1);
    }
    let keys: Vec<Key> = (0..MEASURED).map(|index| ("d".to_owned(), format!("measured{index}"))).collect();
    for key in &keys {
        world.put(&PODS, "d", &key.1, &Arc::new(pod(&key.1, "measured", None, spec)), 1);
    }
    let settings = Settings { cluster_cidr: "10.244.0.0/16".parse().unwrap(), ca_pem: String::new() };
    let scheduler: &Controller =
        CONTROLLERS.iter().find(|controller| controller.name == "scheduler").unwrap();
    let now = Timestamp::UNIX_EPOCH;
    let start = Instant::now();
    for key in &keys {
        let plan = (scheduler.plan)(&world, &settings, key, now);
        let bound = plan.changes.iter().find_map(|change| match change {
            Change::Bind { node, .. } => Some(node.clone()),
            _ => None,
        });
        let node = bound.unwrap_or_else(|| panic!("{} fits nowhere: {plan:?}", key.1));
        world.assume(key, &node);
    }
    MEASURED as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds that a change of one pod takes until the scheduler's view has it, with 150,000 pods there.
fn change() -> f64 {
    const CHANGES: usize = 10_000;
    let mut world = nodes();
    let apart = near("podAntiAffinity", "kubernetes.io/hostname");
    for index in 0..BEFORE * 30 {
        let name = format!("before{index}");
        let spec = if index % 30 == 0 { &apart } else { &json!({}) };
        let pod = pod(&name, &format!("app{}", index % 1000), Some(index % NODES_AT_ALL), spec);
        world.put(&PODS, "d", &name, &Arc::new(pod), 1);
    }
    let changed: Vec<(String, Arc<Value>)> = (0..CHANGES)
        .map(|index| {
            let name = format!("before{}", index * 7);
            let object =
                pod(&name, &format!("app{}", index % 1000), Some((index * 11) % NODES_AT_ALL), &json!({}));
            (name, Arc::new(object))
        })
        .collect();
    let start = Instant::now();
    for (name, object) in &changed {
        world.put(&PODS, "d", name, object, 2);
    }
    start.elapsed().as_secs_f64() * 1e6 / CHANGES as f64
}
