//! Every node gets a range of pod addresses of its own, and keeps it.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES};
use oarlock_api::meta;
use serde_json::json;

use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Key, World};

/// The prefix length of a node's range.
const NODE_PREFIX: u8 = 24;

pub(super) fn affected(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    own(kind, &NODES, key)
}

pub(super) fn plan(world: &World, settings: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(held) = world.get(&NODES, key) else { return Plan::nothing() };
    if held.value["spec"]["podCIDR"].as_str().is_some_and(|c| !c.is_empty()) {
        return Plan::nothing();
    }
    let used: BTreeSet<Ipv4Net> = world.nodes().filter_map(|n| n.pod_cidr.as_deref()?.parse().ok()).collect();
    let Some(free) = free(settings.cluster_cidr, &used) else {
        let about = EventAbout {
            kind: &NODES,
            namespace: String::new(),
            name: key.1.clone(),
            uid: meta::uid(&held.value).to_owned(),
        };
        let message = format!("Node {} status is now: CIDRNotAvailable", key.1);
        let event = Change::Event {
            about,
            kind: "Warning",
            reason: "CIDRNotAvailable",
            message,
            component: "cidrAllocator",
        };
        return Plan::of(vec![event]).again(Duration::from_secs(60));
    };
    let patch = json!({
        "metadata": {"resourceVersion": held.revision.to_string()},
        "spec": {"podCIDR": free.to_string(), "podCIDRs": [free.to_string()]},
    });
    Plan::of(vec![Change::Patch {
        kind: &NODES,
        namespace: String::new(),
        name: key.1.clone(),
        part: Part::Main,
        patch,
    }])
}

fn free(cluster: Ipv4Net, used: &BTreeSet<Ipv4Net>) -> Option<Ipv4Net> {
    let prefix = NODE_PREFIX.max(cluster.prefix_len());
    cluster.subnets(prefix).ok()?.find(|range| !used.contains(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_in_order_until_none_is_left() {
        let cluster: Ipv4Net = "10.244.0.0/23".parse().unwrap();
        let mut used = BTreeSet::new();
        for expected in ["10.244.0.0/24", "10.244.1.0/24"] {
            let range = free(cluster, &used).unwrap();
            assert_eq!(range.to_string(), expected);
            used.insert(range);
        }
        assert_eq!(free(cluster, &used), None);
    }
}
