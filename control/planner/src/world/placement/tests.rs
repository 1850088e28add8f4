//! Whatever came and went: what is kept change by change is what a fresh look at the same objects finds.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_api::catalogue::{NAMESPACES, NODES, PODS};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Placement;
use crate::world::World;

impl Placement {
    /// Everything, as text, with nodes by their names.
    fn text(&self) -> String {
        let names: BTreeMap<u32, &str> = self.by_name.iter().map(|(name, slot)| (*slot, &**name)).collect();
        let mut lines = vec![format!("{} nodes", self.nodes)];
        for (name, slot) in &self.by_name {
            let of = &self.slots[*slot as usize];
            let node = of.node.as_deref().map(|node| (node.cpu_milli, &node.labels));
            let mut nominated = of.nominated.clone();
            nominated.sort();
            let mut ports: Vec<u16> = of.used.ports.iter().map(|port| port.number).collect();
            ports.sort_unstable();
            let used = super::Used { ports: Vec::new(), ..of.used.clone() };
            lines.push(format!("{name}: {node:?} {used:?} {ports:?} {nominated:?}"));
        }
        for (controller, places) in &self.siblings {
            let places: BTreeMap<&str, _> = places.iter().map(|(slot, count)| (names[slot], count)).collect();
            lines.push(format!("{controller}: {places:?}"));
        }
        lines.push(self.topologies.text(&names));
        lines.push(self.crowd.text(&names));
        for (image, sizes) in [("a:1", self.images.sizes("a:1")), ("b", self.images.sizes("b"))] {
            let sizes = sizes.into_iter().flatten();
            let sizes: BTreeMap<&str, i64> = sizes.map(|(slot, size)| (names[slot], *size)).collect();
            lines.push(format!("{image}: {sizes:?}"));
        }
        lines.join("\n")
    }
}

/// What happens to an object: it is put as this number says, or deleted.
type Step = (u8, u8, Option<u32>);

fn node(name: &str, how: u32) -> Value {
    let labels = json!({"kubernetes.io/hostname": name, "zone": format!("z{}", how % 3), "rack": format!("r{}", how % 2)});
    let images =
        json!([{"names": [if how.is_multiple_of(2) { "a:1" } else { "b:latest" }], "sizeBytes": how % 5}]);
    json!({
        "metadata": {"name": name, "uid": name, "labels": if how.is_multiple_of(7) { json!({}) } else { labels }},
        "status": {"allocatable": {"cpu": (1 + how % 4).to_string(), "pods": "9"}, "images": images},
    })
}

fn pod(name: &str, how: u32) -> Value {
    let bit = |n: u32| how >> n & 1 == 1;
    let selector = json!({"matchLabels": {"app": format!("a{}", how >> 10 & 1)}});
    let near = |key: &str| json!({"labelSelector": selector, "topologyKey": key});
    let elsewhere = json!({"labelSelector": {}, "topologyKey": "zone", "namespaceSelector": {"matchLabels": {"team": "x"}}});
    let required = |terms: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
    let mut spec = json!({"containers": [{"image": "a:1", "resources": {"requests": {"cpu": "100m", "x.y/z": "1"}},
        "ports": [{"containerPort": 80, "hostPort": 1000 + (how >> 12 & 1)}]}]});
    if bit(0) {
        spec["nodeName"] = json!(format!("n{}", how >> 1 & 3));
    }
    if bit(3) {
        spec["affinity"]["podAntiAffinity"] = required(json!([near("zone"), elsewhere]));
    }
    if bit(4) {
        spec["affinity"]["podAffinity"] = required(json!([near("rack"), near("kubernetes.io/hostname")]));
        spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] =
            json!([{"weight": 3, "podAffinityTerm": near("zone")}]);
    }
    if bit(5) {
        spec["topologySpreadConstraints"] =
            json!([{"maxSkew": 1, "topologyKey": "zone", "labelSelector": selector}]);
    }
    let mut metadata =
        json!({"name": name, "uid": name, "namespace": "d", "labels": {"app": format!("a{}", how >> 6 & 1)}});
    if bit(7) {
        metadata["ownerReferences"] = json!([{"uid": "rs", "controller": true}]);
    }
    if bit(8) {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let mut status = json!({"phase": if bit(9) { "Succeeded" } else { "Running" }});
    if bit(11) {
        status["nominatedNodeName"] = json!(format!("n{}", how >> 1 & 3));
    }
    json!({"metadata": metadata, "spec": spec, "status": status})
}

fn object(kind: u8, name: &str, how: u32) -> Value {
    match kind {
        0 => node(name, how),
        1 => {
            json!({"metadata": {"name": "d", "labels": {"team": if how.is_multiple_of(2) { "x" } else { "y" }}}})
        }
        _ => pod(name, how),
    }
}

fn put(world: &mut World, kind: u8, index: u8, how: Option<u32>) {
    let (table, namespace, name) = match kind {
        0 => (&NODES, "", format!("n{}", index % 4)),
        1 => (&NAMESPACES, "", "d".to_owned()),
        _ => (&PODS, "d", format!("p{index}")),
    };
    match how {
        Some(how) => world.put(table, namespace, &name, &Arc::new(object(kind, &name, how)), 1),
        None => world.delete(table, namespace, &name, 1),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..6, 0u8..6, prop::option::weighted(0.8, any::<u32>())), 1..60)
}

proptest! {
    #[test]
    fn what_is_kept_is_what_a_fresh_look_finds(steps in steps()) {
        let (mut kept, mut last) = (World::default(), BTreeMap::new());
        for (kind, index, how) in steps {
            let kind = kind.min(2);
            let index = match kind { 0 => index % 4, 1 => 0, _ => index };
            put(&mut kept, kind, index, how);
            last.insert((kind, index), how);
        }
        // In another order, so that numbers given on the way do not matter.
        let mut fresh = World::default();
        for ((kind, index), how) in last.iter().rev().filter(|(_, how)| how.is_some()) {
            put(&mut fresh, *kind, *index, *how);
        }
        prop_assert_eq!(kept.placement().text(), fresh.placement().text());
        for ((kind, index), _) in last.iter().filter(|((kind, _), how)| *kind != 1 && how.is_some()) {
            put(&mut kept, *kind, *index, None);
        }
        put(&mut kept, 1, 0, None);
        prop_assert_eq!(kept.placement().text(), World::default().placement().text(), "nothing stays behind");
    }
}
