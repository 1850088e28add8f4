//! `hostPort`: what a pod's containers answer at addresses of its node. Pure.
//!
//! As the portmap plugin of CNI does it for kubelet: at all addresses of the node and its loopback, or at `hostIP` alone. An
//! address that is not the node's is not answered: a pod could take any Service's traffic by it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use oarlock_api::k8s::api::core::v1::{ContainerPort, Pod};

use super::{Door, Frontend, Frontends, PortName};
use crate::dual_ip::DualIp;

/// Where a pod of this node answers, by the addresses that it has: at one of the node with its own of the same family.
pub(super) fn frontends(pod: &Pod, pod_ips: DualIp, node_ips: &BTreeSet<IpAddr>) -> Frontends {
    let mut frontends = Frontends::new();
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let Some(spec) = pod.spec.as_ref().filter(|_| !matches!(ended, Some("Succeeded" | "Failed"))) else {
        return frontends;
    };
    // Init containers that go on beside the others have ports too (KEP-753).
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let Some((number, protocol)) = wanted(port) else { continue };
        let Ok(target) = u16::try_from(port.container_port) else { continue };
        let name = PortName::of_pod(pod, number);
        for ip in addresses(port, node_ips) {
            let Some(pod_ip) = pod_ips.all().find(|pod_ip| pod_ip.is_ipv4() == ip.is_ipv4()) else {
                continue;
            };
            let peers = vec![(pod_ip, target)];
            let frontend = Frontend {
                inside: peers.clone(),
                outside: peers,
                service: super::hash(&format!("pod {name}/{protocol}")),
                name: Arc::new(name.clone()),
                external: !ip.is_loopback(),
                ..Frontend::default()
            };
            frontends.entry(Door::new(ip, number, protocol)).or_insert(frontend);
        }
    }
    frontends
}

/// The port on the node and its protocol's number, where one is asked for.
fn wanted(port: &ContainerPort) -> Option<(u16, u8)> {
    let number = u16::try_from(port.host_port?).ok().filter(|number| *number != 0)?;
    Some((number, super::protocol(port.protocol.as_deref())?))
}

fn addresses(port: &ContainerPort, node_ips: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let all = node_ips.iter().copied().chain([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    match port.host_ip.as_deref() {
        None | Some("") => all.collect(),
        Some(ip) => {
            let Ok(asked) = ip.parse::<IpAddr>() else { return Vec::new() };
            let is_any = |ip: &IpAddr| asked.is_unspecified() && asked.is_ipv4() == ip.is_ipv4();
            all.filter(|ip| is_any(ip) || asked == *ip).collect()
        }
    }
}
