//! However the objects of a cluster came to be what they are, and however often the agent began anew meanwhile: the kernel's
//! tables are those of a fresh compile.

use oarlock_agent::desired::Snapshot;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::{Node, key, put_node, put_service, put_slice};

/// What happens to a cluster.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A Service is made or changed: its number, what it is like.
    Service(u8, Like),
    /// A Service is deleted; its slices may stay for a while.
    NoService(u8),
    /// A slice of a Service has these endpoints: their last byte, whether they are ready.
    Slice { service: u8, slice: u8, endpoints: Vec<(u8, bool)> },
    /// A slice is deleted.
    NoSlice { service: u8, slice: u8 },
    /// There are so many other nodes.
    Nodes(u8),
    /// The agent begins anew.
    Restart,
}

#[derive(Debug, Clone)]
pub(crate) struct Like {
    affinity: bool,
    local_outside: bool,
    local_inside: bool,
    node_port: bool,
    ranges: u8,
    /// An external IP, which other Services may claim too.
    external: Option<u8>,
    balanced: bool,
    datagrams: bool,
}

fn like() -> impl Strategy<Value = Like> {
    let flags = any::<(bool, bool, bool, bool, bool, bool)>();
    (flags, 0u8..3, prop::option::of(0u8..2)).prop_map(|(flags, ranges, external)| {
        let (affinity, local_outside, local_inside, node_port, balanced, datagrams) = flags;
        Like { affinity, local_outside, local_inside, node_port, ranges, external, balanced, datagrams }
    })
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let endpoints = prop::collection::vec((1u8..9, any::<bool>()), 0..6);
    prop_oneof![
        4 => (0u8..5, like()).prop_map(|(number, like)| Step::Service(number, like)),
        1 => (0u8..5).prop_map(Step::NoService),
        5 => (0u8..5, 0u8..2, endpoints)
            .prop_map(|(service, slice, endpoints)| Step::Slice { service, slice, endpoints }),
        1 => (0u8..5, 0u8..2).prop_map(|(service, slice)| Step::NoSlice { service, slice }),
        1 => (0u8..4).prop_map(Step::Nodes),
        1 => Just(Step::Restart),
    ]
}

fn spec(number: u8, like: &Like) -> Value {
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let mut tcp = json!({"name": "p", "port": 80, "protocol": "TCP"});
    if like.node_port {
        tcp["nodePort"] = json!(30_000 + u32::from(number));
    }
    let mut ports = vec![tcp];
    if like.datagrams {
        ports.push(json!({"name": "u", "port": 53, "protocol": "UDP"}));
    }
    let ranges = ["198.51.100.0/24", "203.0.113.0/25"].iter().take(like.ranges.into());
    json!({"type": "LoadBalancer", "clusterIP": format!("127.96.0.{}", number + 1), "ports": ports,
        "sessionAffinity": if like.affinity { "ClientIP" } else { "None" },
        "externalTrafficPolicy": policy(like.local_outside), "internalTrafficPolicy": policy(like.local_inside),
        "externalIPs": like.external.iter().map(|last| format!("127.51.100.{last}")).collect::<Vec<_>>(),
        "loadBalancerSourceRanges": ranges.collect::<Vec<_>>()})
}

/// What the step makes of the objects.
pub(crate) fn take(snapshot: &mut Snapshot, step: &Step, own: &str) {
    match step {
        Step::Service(number, like) => {
            let ingress = format!("127.0.2.{number}");
            let ingress = if like.balanced { vec![ingress.as_str()] } else { vec![] };
            put_service(snapshot, &format!("s{number}"), spec(*number, like), &ingress);
        }
        Step::NoService(number) => drop(snapshot.services.remove(&key(&format!("s{number}")))),
        Step::Slice { service, slice, endpoints } => {
            let endpoint = |(last, ready): &(u8, bool)| {
                let node = if last % 2 == 0 { own } else { "elsewhere" };
                json!({"addresses": [format!("127.244.0.{last}")], "nodeName": node,
                    "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
            };
            let endpoints = endpoints.iter().map(endpoint).collect();
            put_slice(snapshot, &format!("s{service}-{slice}"), &format!("s{service}"), endpoints);
        }
        Step::NoSlice { service, slice } => {
            drop(snapshot.endpoint_slices.remove(&key(&format!("s{service}-{slice}"))));
        }
        Step::Nodes(count) => {
            snapshot.nodes.clear();
            for number in 0..*count {
                put_node(snapshot, &format!("n{number}"), &format!("127.30.78.{number}"));
            }
        }
        Step::Restart => {}
    }
}

#[test]
fn any_history_ends_in_the_tables_of_a_fresh_compile() {
    let histories = prop::collection::vec(step(), 1..16);
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&histories, |history| {
        let node = Node::new("history");
        let mut dataplane = node.open();
        let mut snapshot = Snapshot::default();
        for step in &history {
            take(&mut snapshot, step, &node.config.node_name);
            if matches!(step, Step::Restart) {
                drop(dataplane);
                dataplane = node.open();
            }
            dataplane.sync(&snapshot).unwrap();
            let differences = node.said(&snapshot);
            prop_assert!(differences.is_empty(), "after {step:?}: {differences:#?}");
        }
        Ok(())
    });
    outcome.unwrap();
}
