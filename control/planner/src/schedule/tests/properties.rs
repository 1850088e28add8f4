//! What holds however pods come and go.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Needs, Verdict, find};
use super::{app, labelled, node, pod, world};
use crate::world::World;

/// Places every pod in turn; who went where.
fn settle(world: &mut World, names: &[String]) -> BTreeMap<String, String> {
    let mut went = BTreeMap::new();
    for name in names {
        let key = ("d".to_owned(), name.clone());
        if let Verdict::Node(node) = find(world, &key, world.pod(&key).unwrap(), &Needs::default()) {
            world.assume(&key, &node);
            went.insert(name.clone(), node);
        }
    }
    went
}

fn rules(kind: u8) -> Value {
    let selector = json!({"matchLabels": {"app": "x"}});
    let term = |key: &str| json!([{"labelSelector": selector, "topologyKey": key}]);
    let required = |of: Value| json!({"requiredDuringSchedulingIgnoredDuringExecution": of});
    match kind {
        0 => json!({}),
        1 => json!({"affinity": {"podAntiAffinity": required(term("kubernetes.io/hostname"))}}),
        2 => {
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "labelSelector": selector,
            "whenUnsatisfiable": "DoNotSchedule"}]})
        }
        _ => json!({"affinity": {"podAffinity": required(term("zone"))}}),
    }
}

proptest! {
    #[test]
    fn no_node_is_ever_overcommitted(cpus in prop::collection::vec(1u32..900, 1..12)) {
        let nodes = [node("n1", "1", json!({})), node("n2", "1", json!({}))];
        let names: Vec<String> = (0..cpus.len()).map(|i| format!("p{i}")).collect();
        let pods: Vec<Value> = names.iter().zip(&cpus).map(|(name, c)| pod(name, &format!("{c}m"), "")).collect();
        let mut world = world(&nodes, &pods);
        settle(&mut world, &names);
        for name in ["n1", "n2"] {
            let (cpu, count) = world.pods_on(name).fold((0, 0), |(c, n), (_, p)| (c + p.cpu_milli, n + 1));
            prop_assert!(cpu <= 1000 && count <= 3);
        }
    }

    #[test]
    fn rules_hold_for_all_pods_and_the_same_world_gives_the_same_places(
        kinds in prop::collection::vec(0u8..4, 1..14), zones in prop::collection::vec(0u8..3, 1..7),
    ) {
        let nodes: Vec<Value> = zones.iter().enumerate()
            .map(|(i, zone)| {
                let mut node = labelled(&format!("n{i}"), json!({"zone": zone.to_string()}));
                node["status"]["allocatable"]["pods"] = json!("99");
                node
            })
            .collect();
        let names: Vec<String> = (0..kinds.len()).map(|i| format!("p{i}")).collect();
        let pods: Vec<Value> = names.iter().zip(&kinds).map(|(name, kind)| app(name, "x", "", rules(*kind))).collect();
        let went = settle(&mut world(&nodes, &pods), &names);
        prop_assert_eq!(&went, &settle(&mut world(&nodes, &pods), &names));
        let zone = |node: &str| zones[node[1..].parse::<usize>().unwrap()];
        let mut per_node: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, kind) in names.iter().zip(&kinds) {
            let Some(node) = went.get(name) else { continue };
            if *kind == 3 && went.values().next() != Some(node) {
                let earlier = names.iter().take_while(|n| *n != name).filter_map(|n| went.get(n));
                let near = earlier.clone().any(|other| zone(other) == zone(node));
                prop_assert!(near || earlier.count() == 0, "{name} is alone in its zone");
            }
            *per_node.entry(node).or_default() += 1;
        }
        for (name, _) in names.iter().zip(&kinds).filter(|(_, kind)| **kind == 1) {
            if let Some(node) = went.get(name) {
                prop_assert_eq!(per_node[&**node], 1, "{} is not alone on {}", name, node);
            }
        }
        // All that could go anywhere did: a pod without rules is kept away by those that want to be alone only.
        let alone = kinds.contains(&1);
        prop_assert!(alone || names.iter().zip(&kinds).all(|(name, kind)| *kind != 0 || went.contains_key(name)));
    }
}
