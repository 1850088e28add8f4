//! What the proxy takes from Nodes and endpoints: its own address, whether the node is to get traffic, which pods are here.
//! Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use oarlock_api::k8s::api::core::v1::Node;

use crate::desired::Snapshot;
use crate::dual_ip::DualIp;

/// By this taint the cluster autoscaler announces a node's end (KEP-3836, which made kube-proxy's /healthz say so).
const ENDING: &str = "ToBeDeletedByClusterAutoscaler";

/// The addresses at which the node answers: its first InternalIP, else its first ExternalIP, of IPv4, and where it has one of IPv6.
pub(super) fn address(snapshot: &Snapshot, name: &str) -> Result<DualIp, String> {
    let node = snapshot.nodes.get(&(String::new(), name.to_owned())).ok_or_else(|| {
        format!("the cluster has no Node {name}: --node-name has to be one that `kubectl get nodes` shows")
    })?;
    DualIp::of(of_kind(node, "InternalIP").chain(of_kind(node, "ExternalIP"))).ok_or_else(|| {
        format!("the Node {name} has no IPv4 address in status.addresses: its kubelet has not told it yet")
    })
}

fn of_kind<'n>(node: &'n Node, kind: &'n str) -> impl Iterator<Item = IpAddr> + Clone + 'n {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let addresses = addresses.into_iter().flatten().filter(move |a| a.type_ == kind);
    addresses.filter_map(|a| a.address.parse().ok())
}

/// Whether load balancers should still send traffic here, for /healthz.
pub(super) fn eligible(snapshot: &Snapshot, name: &str) -> Result<(), String> {
    let Some(node) = snapshot.nodes.get(&(String::new(), name.to_owned())) else {
        return Err(format!("the Node {name} is gone"));
    };
    let mut taints = node.spec.iter().filter_map(|spec| spec.taints.as_ref()).flatten();
    if node.metadata.deletion_timestamp.is_some() || taints.any(|taint| taint.key == ENDING) {
        return Err(format!("the Node {name} is about to be deleted"));
    }
    Ok(())
}

/// The pods of this node that Services lead to: the endpoints that say so, except where they are the node itself.
pub(super) fn pods(snapshot: &Snapshot, name: &str) -> BTreeSet<IpAddr> {
    let addresses = snapshot.nodes.values().filter_map(|node| node.status.as_ref()?.addresses.as_ref());
    let nodes: BTreeSet<IpAddr> = addresses.flatten().filter_map(|a| a.address.parse().ok()).collect();
    let slices = snapshot.endpoint_slices.values().filter(|slice| slice.address_type != "FQDN");
    let here = slices.flat_map(|slice| &slice.endpoints).filter(|e| e.node_name.as_deref() == Some(name));
    let addresses = here.filter_map(|endpoint| endpoint.addresses.first()?.parse().ok());
    addresses.filter(|ip: &IpAddr| !ip.is_loopback() && !nodes.contains(ip)).collect()
}

/// Keeps of a Node what is looked at, so that heartbeats are no changes and thousands of Nodes are small.
pub(super) fn reduce(node: &mut Node) {
    let labels = node.metadata.labels.take();
    let metadata = std::mem::take(&mut node.metadata);
    node.metadata.name = metadata.name;
    node.metadata.uid = metadata.uid;
    node.metadata.deletion_timestamp = metadata.deletion_timestamp;
    node.metadata.labels =
        labels.map(|labels| labels.into_iter().filter(|(key, _)| key.starts_with("topology.")).collect());
    let taints = node.spec.take().and_then(|spec| spec.taints);
    node.spec.get_or_insert_default().taints = taints;
    let addresses = node.status.take().and_then(|status| status.addresses);
    node.status.get_or_insert_default().addresses = addresses;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    fn snapshot(node: Value, endpoints: Value) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let key = |name: &str| (String::new(), name.to_owned());
        snapshot.nodes.insert(key("n1"), Arc::new(serde_json::from_value(node).unwrap()));
        let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints});
        snapshot.endpoint_slices.insert(key("s"), Arc::new(serde_json::from_value(slice).unwrap()));
        snapshot
    }

    fn node(addresses: Value) -> Value {
        json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses}})
    }

    #[test]
    fn a_node_answers_at_its_internal_addresses_of_each_family() {
        let both = node(
            json!([{"type": "Hostname", "address": "n1"}, {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "InternalIP", "address": "fd00::1"}, {"type": "InternalIP", "address": "10.0.0.1"}]),
        );
        let at = |addresses: Value| address(&snapshot(addresses, json!([])), "n1").map(|ip| ip.to_string());
        assert_eq!(at(both).as_deref(), Ok("10.0.0.1,fd00::1"));
        let external = json!({"type": "ExternalIP", "address": "203.0.113.1"});
        assert_eq!(at(node(json!([external]))).as_deref(), Ok("203.0.113.1"));
        let six = json!({"type": "InternalIP", "address": "fd00::1"});
        assert_eq!(at(node(json!([external, six]))).as_deref(), Ok("203.0.113.1,fd00::1"));
        assert!(at(node(json!([six]))).unwrap_err().contains("no IPv4 address"));
        let none = snapshot(node(json!([])), json!([]));
        assert!(address(&none, "n1").unwrap_err().contains("status.addresses"));
        assert!(address(&none, "n2").unwrap_err().contains("--node-name"));
    }

    #[test]
    fn a_node_that_ends_gets_no_more_traffic() {
        let well = node(json!([]));
        assert_eq!(eligible(&snapshot(well.clone(), json!([])), "n1"), Ok(()));
        let mut tainted = well.clone();
        tainted["spec"] = json!({"taints": [{"key": ENDING, "effect": "NoSchedule"}]});
        assert!(eligible(&snapshot(tainted, json!([])), "n1").is_err());
        let mut deleted = well.clone();
        deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(eligible(&snapshot(deleted, json!([])), "n1").is_err());
        assert!(eligible(&snapshot(well, json!([])), "n2").is_err());
    }

    #[test]
    fn pods_of_this_node_are_its_endpoints_but_not_the_node_itself() {
        let internal = node(json!([{"type": "InternalIP", "address": "10.0.0.1"}]));
        let endpoints = json!([{"addresses": ["10.42.0.5"], "nodeName": "n1"}, {"addresses": ["10.42.1.5"], "nodeName": "n2"},
            {"addresses": ["10.0.0.1"], "nodeName": "n1"}, {"addresses": ["10.42.0.6"]}]);
        let mut snapshot = snapshot(internal, endpoints);
        let six = json!({"metadata": {}, "addressType": "IPv6", "endpoints": [
            {"addresses": ["fd00:10:42::5"], "nodeName": "n1"}, {"addresses": ["fd00:10:42::6"], "nodeName": "n2"}]});
        let key = (String::new(), "six".to_owned());
        snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(six).unwrap()));
        let pods: Vec<String> = pods(&snapshot, "n1").iter().map(ToString::to_string).collect();
        assert_eq!(pods, ["10.42.0.5", "fd00:10:42::5"]);
    }

    #[test]
    fn a_heartbeat_is_no_change_of_a_node_and_a_zone_is_one() {
        let beat = |time: &str, zone: &str| {
            let mut node: Node = serde_json::from_value(json!({
                "metadata": {"name": "n1", "resourceVersion": time, "labels": {"topology.kubernetes.io/zone": zone}},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": time}]}}))
            .unwrap();
            reduce(&mut node);
            node
        };
        let (one, two) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
        assert_eq!(beat(one, "a"), beat(two, "a"));
        assert_ne!(beat(one, "a"), beat(one, "b"));
        let kept: Vec<IpAddr> = of_kind(&beat(one, "a"), "InternalIP").collect();
        assert_eq!(kept, [IpAddr::from(Ipv4Addr::new(10, 0, 0, 1))]);
    }
}
