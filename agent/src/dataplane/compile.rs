//! From Services and EndpointSlices to frontends and their backends. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use oarlock_api::k8s::api::core::v1::{Service, ServicePort};
use oarlock_api::k8s::api::discovery::v1::{Endpoint, EndpointSlice};
use oarlock_ebpf::layout::FrontendKey;

use crate::desired::Snapshot;

/// A backend: address and port.
pub(super) type Peer = (Ipv4Addr, u16);

/// Each frontend with its backends, sorted. None means that clients are refused.
pub type Frontends = BTreeMap<FrontendKey, Vec<(Ipv4Addr, u16)>>;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Compiles everything.
pub(super) fn compile(snapshot: &Snapshot, node_ip: Ipv4Addr) -> Frontends {
    let mut slices: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for ((namespace, _), slice) in &snapshot.endpoint_slices {
        let service = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_LABEL));
        if let Some(service) = service.filter(|_| slice.address_type == "IPv4") {
            slices.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut frontends = Frontends::new();
    for ((namespace, name), service) in &snapshot.services {
        let slices = slices.get(&(namespace.as_str(), name.as_str())).map_or(&[][..], Vec::as_slice);
        add_service(&mut frontends, service, slices, node_ip);
    }
    frontends
}

/// The addresses of all nodes.
pub(super) fn nodes(snapshot: &Snapshot) -> BTreeSet<Ipv4Addr> {
    let addresses =
        snapshot.nodes.values().filter_map(|node| node.status.as_ref()?.addresses.as_ref()).flatten();
    addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
}

fn add_service(frontends: &mut Frontends, service: &Service, slices: &[&EndpointSlice], node_ip: Ipv4Addr) {
    let Some(spec) = &service.spec else { return };
    let cluster_ip: Option<Ipv4Addr> = spec.cluster_ip.as_ref().and_then(|ip| ip.parse().ok());
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let peers = peers(port, slices);
        let mut add = |ip: Ipv4Addr, number: i32| {
            if let Some(number) = u16::try_from(number).ok().filter(|n| *n != 0) {
                frontends.insert(FrontendKey::new(ip.octets(), number, protocol), peers.clone());
            }
        };
        if let Some(ip) = cluster_ip {
            add(ip, port.port);
        }
        if let Some(node_port) = port.node_port {
            add(node_ip, node_port);
            add(Ipv4Addr::LOCALHOST, node_port);
        }
    }
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        _ => None,
    }
}

/// Endpoints that are ready; when there is none, those that are ending but still serve (KEP-1669).
fn peers(port: &ServicePort, slices: &[&EndpointSlice]) -> Vec<Peer> {
    let select = |serves: fn(&Endpoint) -> bool| {
        let mut found: Vec<Peer> = slices
            .iter()
            .filter_map(|slice| Some((slice, target(port, slice)?)))
            .flat_map(|(slice, number)| {
                let endpoints = slice.endpoints.iter().filter(move |e| serves(e));
                endpoints.filter_map(move |e| Some((e.addresses.first()?.parse().ok()?, number)))
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let ready = select(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
    if !ready.is_empty() {
        return ready;
    }
    select(|e| {
        let is = |get: fn(&oarlock_api::k8s::api::discovery::v1::EndpointConditions) -> Option<bool>| {
            e.conditions.as_ref().and_then(get).unwrap_or(false)
        };
        is(|c| c.serving) && is(|c| c.terminating)
    })
}

/// The port's number in a slice, by its name and protocol.
fn target(port: &ServicePort, slice: &EndpointSlice) -> Option<u16> {
    let name = |text: &Option<String>| text.clone().unwrap_or_default();
    let wanted = (name(&port.name), port.protocol.as_deref().unwrap_or("TCP"));
    let found = slice
        .ports
        .iter()
        .flatten()
        .find(|p| (name(&p.name), p.protocol.as_deref().unwrap_or("TCP")) == wanted);
    u16::try_from(found?.port?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 77, 11);

    fn snapshot(spec: Value, endpoints: Value) -> Snapshot {
        let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec});
        let slice = json!({"metadata": {"labels": {SERVICE_LABEL: "web"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        let mut snapshot = Snapshot::default();
        let key = |name: &str| ("d".to_owned(), name.to_owned());
        snapshot
            .services
            .insert(key("web"), serde_json::from_value(service).map(std::sync::Arc::new).unwrap());
        snapshot
            .endpoint_slices
            .insert(key("web-1"), serde_json::from_value(slice).map(std::sync::Arc::new).unwrap());
        snapshot
    }

    fn spec() -> Value {
        json!({"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]})
    }

    fn endpoint(last: u8, conditions: Value) -> Value {
        json!({"addresses": [format!("10.244.0.{last}")], "conditions": conditions})
    }

    #[test]
    fn a_service_answers_on_its_address_and_on_the_nodes() {
        let ready = json!({"ready": true});
        let snapshot = snapshot(spec(), json!([endpoint(2, ready.clone()), endpoint(1, ready)]));
        let frontends = compile(&snapshot, NODE);
        let peers = vec![(Ipv4Addr::new(10, 244, 0, 1), 8080), (Ipv4Addr::new(10, 244, 0, 2), 8080)];
        for (ip, port) in [([10, 96, 0, 9], 80), (NODE.octets(), 30080), ([127, 0, 0, 1], 30080)] {
            assert_eq!(frontends[&FrontendKey::new(ip, port, 6)], peers);
        }
        assert_eq!(frontends.len(), 3);
    }

    #[test]
    fn endpoints_that_end_serve_only_when_nobody_else_does() {
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let with = |endpoints: Value| {
            compile(&snapshot(spec(), endpoints), NODE)[&FrontendKey::new([10, 96, 0, 9], 80, 6)].clone()
        };
        assert_eq!(with(json!([endpoint(1, ending.clone()), endpoint(2, json!({"ready": true}))])).len(), 1);
        assert_eq!(with(json!([endpoint(1, ending)])), [(Ipv4Addr::new(10, 244, 0, 1), 8080)]);
        assert!(
            with(json!([endpoint(1, json!({"ready": false}))])).is_empty(),
            "nobody: clients are refused"
        );
    }

    #[test]
    fn headless_services_have_no_frontend() {
        let headless = json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]});
        assert!(compile(&snapshot(headless, json!([])), NODE).is_empty());
    }
}
