//! Every node gets a range of pod addresses of its own, of each family that the cluster has, and keeps it.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES};
use oarlock_api::meta;
use serde_json::json;

use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Key, World};

/// The prefix lengths of a node's ranges, of IPv4 and IPv6: upstream's own (`--node-cidr-mask-size-ipv4` and `-ipv6`).
const NODE_PREFIXES: (u8, u8) = (24, 64);

pub(super) fn affected(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    own(kind, &NODES, key)
}

pub(super) fn plan(world: &World, settings: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(held) = world.get(&NODES, key) else { return Plan::nothing() };
    if held.value["spec"]["podCIDR"].as_str().is_some_and(|c| !c.is_empty()) {
        return Plan::nothing();
    }
    let used: BTreeSet<IpNet> =
        world.nodes().flat_map(|n| &n.pod_cidrs).filter_map(|range| range.parse().ok()).collect();
    let all = settings.cluster_cidr.all().into_iter();
    let Some(free) = all.map(|range| free(range, &used)).collect::<Option<Vec<IpNet>>>() else {
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
    let free: Vec<String> = free.iter().map(ToString::to_string).collect();
    let patch = json!({
        "metadata": {"resourceVersion": held.revision.to_string()},
        "spec": {"podCIDR": free[0], "podCIDRs": free},
    });
    Plan::of(vec![Change::Patch {
        kind: &NODES,
        namespace: String::new(),
        name: key.1.clone(),
        part: Part::Main,
        patch,
    }])
}

fn free(cluster: IpNet, used: &BTreeSet<IpNet>) -> Option<IpNet> {
    let prefix = if cluster.network().is_ipv4() { NODE_PREFIXES.0 } else { NODE_PREFIXES.1 };
    cluster.subnets(prefix.max(cluster.prefix_len())).ok()?.find(|range| !used.contains(range))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn ranges_are_given_in_order_until_none_is_left() {
        for (cluster, ranges) in [
            ("10.244.0.0/23", ["10.244.0.0/24", "10.244.1.0/24"]),
            ("fd00:10:244::/63", ["fd00:10:244::/64", "fd00:10:244:1::/64"]),
        ] {
            let cluster: IpNet = cluster.parse().unwrap();
            let mut used = BTreeSet::new();
            for expected in ranges {
                let range = free(cluster, &used).unwrap();
                assert_eq!(range.to_string(), expected);
                used.insert(range);
            }
            assert_eq!(free(cluster, &used), None);
        }
    }

    #[test]
    fn a_node_gets_a_range_of_each_family_or_none() {
        let mut world = World::default();
        for name in ["a", "b"] {
            let node = Arc::new(json!({"metadata": {"name": name, "uid": name}}));
            world.put(&NODES, "", name, &node, 1);
        }
        let given = |world: &World, cluster: &str, node: &str| {
            let settings = Settings { cluster_cidr: cluster.parse().unwrap(), ca_pem: String::new() };
            let key = (String::new(), node.to_owned());
            match plan(world, &settings, &key, Timestamp::UNIX_EPOCH).changes.pop() {
                Some(Change::Patch { patch, .. }) => patch["spec"].clone(),
                _ => json!(null),
            }
        };
        let cluster = "10.244.0.0/16,fd00:10:244::/64";
        let first = json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]});
        assert_eq!(given(&world, cluster, "a"), first);
        world.assume_pod_cidrs("a", vec!["10.244.0.0/24".into(), "fd00:10:244::/64".into()]);
        assert_eq!(given(&world, cluster, "b"), json!(null), "there is no second range of IPv6");
        let second = json!({"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]});
        assert_eq!(given(&world, "10.244.0.0/16", "b"), second);
    }
}
