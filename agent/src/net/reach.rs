//! How the pods of other nodes are reached from here, decided from addresses alone. Pure.
//!
//! A node whose address lies in the range of one of our uplinks stands on the same layer-2 network: its pods are routed there.
//! Routers between networks know nothing of pods: across them packets of pods travel inside packets of nodes (VXLAN).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// How the way to another node's pods is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Routing {
    /// Routes to nodes on a network of the uplinks, VXLAN to the others.
    #[default]
    Auto,
    /// Routes to all: the network carries packets of pods, or all nodes are on one.
    Direct,
    /// VXLAN to all: also between neighbours, for networks that filter by address.
    Vxlan,
}

/// How packets get to another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// As they are, with the node as the next hop.
    Direct,
    /// Inside packets to the node.
    Vxlan,
}

impl Way {
    /// The name in annotations and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Vxlan => "vxlan",
        }
    }
}

/// Another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its podCIDR.
    pub pod_cidr: Ipv4Net,
    /// Its address.
    pub address: Ipv4Addr,
}

/// The pods of another node, and how they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRoute {
    /// The node's podCIDR.
    pub pod_cidr: Ipv4Net,
    /// The node's address.
    pub via: Ipv4Addr,
    /// How its pods are reached.
    pub way: Way,
}

/// The way to a node at this address, from uplinks with these addresses and prefixes.
pub(super) fn way(routing: Routing, uplinks: &[Ipv4Net], node: Ipv4Addr) -> Way {
    let is_near = || uplinks.iter().any(|net| net.contains(&node));
    match routing {
        Routing::Direct => Way::Direct,
        Routing::Auto if is_near() => Way::Direct,
        Routing::Auto | Routing::Vxlan => Way::Vxlan,
    }
}

/// The ways to all of them.
pub(super) fn routes(routing: Routing, uplinks: &[Ipv4Net], peers: &BTreeSet<Peer>) -> BTreeSet<NodeRoute> {
    let route = |peer: &Peer| NodeRoute {
        pod_cidr: peer.pod_cidr,
        via: peer.address,
        way: way(routing, uplinks, peer.address),
    };
    peers.iter().map(route).collect()
}

/// What the network adds to a packet of a pod on its way through a tunnel over IPv4, in bytes: Ethernet, VXLAN, UDP, IP.
const OVERHEAD: u32 = 14 + 8 + 8 + 20;
/// The least that IPv4 asks of a link for a path that fragments nothing (RFC 1122 3.3.3).
const LEAST: u32 = 576;

/// How long packets may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mtu {
    /// Of links: what comes in may be as long as on the uplinks, from neighbours that know no tunnel.
    pub(super) link: u32,
    /// Of what pods send.
    pub(super) pods: u32,
}

impl Mtu {
    /// With uplinks of which the narrowest takes this.
    pub(super) fn of(uplink: u32, tunnels: bool) -> Self {
        let pods = if tunnels { inside(uplink) } else { uplink };
        Self { link: uplink, pods }
    }
}

/// What fits into a tunnel over a link that takes this.
pub(super) fn inside(uplink: u32) -> u32 {
    uplink.saturating_sub(OVERHEAD).max(LEAST)
}

/// The hardware address of a node's end of the tunnel: known to all who know the node's address, so that nobody has to ask. The
/// first byte says that it is administered locally, and no group's (IEEE 802).
pub(super) fn hardware_address(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x0a, 0x6f, a, b, c, d]
}

/// What a node says of itself: which ways it uses, and how long packets of its pods may be.
#[must_use]
pub(super) fn describe(routes: &BTreeSet<NodeRoute>, mtu: Mtu) -> String {
    let ways: BTreeSet<Way> = routes.iter().map(|route| route.way).collect();
    let names: Vec<&str> = ways.into_iter().map(Way::name).collect();
    let names = if names.is_empty() { Way::Direct.name().to_owned() } else { names.join(",") };
    format!("{names} mtu={}", mtu.pods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn neighbours_are_routed_to_and_others_reached_through_a_tunnel() {
        let uplinks = [net("172.30.77.11/24"), net("10.0.0.1/32"), net("192.168.4.2/23")];
        for (node, expected) in [
            ([172, 30, 77, 12], Way::Direct),
            ([172, 30, 78, 12], Way::Vxlan),
            ([192, 168, 5, 9], Way::Direct),
            ([192, 168, 6, 1], Way::Vxlan),
            ([10, 0, 0, 2], Way::Vxlan),
        ] {
            let node = Ipv4Addr::from(node);
            assert_eq!(way(Routing::Auto, &uplinks, node), expected, "{node}");
            assert_eq!(way(Routing::Direct, &uplinks, node), Way::Direct);
            assert_eq!(way(Routing::Vxlan, &uplinks, node), Way::Vxlan);
        }
    }

    #[test]
    fn pods_send_what_fits_and_take_what_the_uplinks_take() {
        assert_eq!(Mtu::of(1500, true), Mtu { link: 1500, pods: 1450 });
        assert_eq!(Mtu::of(9000, false), Mtu { link: 9000, pods: 9000 });
        assert_eq!(Mtu::of(600, true).pods, 576);
    }

    #[test]
    fn a_node_says_which_ways_it_uses() {
        let route = |n: u8, way| NodeRoute {
            pod_cidr: Ipv4Net::new(Ipv4Addr::new(10, 244, n, 0), 24).unwrap(),
            via: Ipv4Addr::new(172, 30, 77, n),
            way,
        };
        let (near, far) = (route(1, Way::Direct), route(2, Way::Vxlan));
        assert_eq!(describe(&BTreeSet::new(), Mtu::of(1500, false)), "direct mtu=1500");
        assert_eq!(describe(&BTreeSet::from([near, far]), Mtu::of(1500, true)), "direct,vxlan mtu=1450");
        assert_eq!(describe(&BTreeSet::from([far]), Mtu::of(1500, true)), "vxlan mtu=1450");
    }

    proptest! {
        #[test]
        fn hardware_addresses_differ_and_are_no_groups(a: [u8; 4], b: [u8; 4]) {
            let (one, other) = (hardware_address(a.into()), hardware_address(b.into()));
            prop_assert_eq!(one == other, a == b);
            prop_assert_eq!(one[0] & 3, 2, "local, and of one");
        }

        #[test]
        fn whoever_shares_a_network_takes_the_same_way_both_ways(a: [u8; 4], b: [u8; 4], prefix in 0u8..=32) {
            let (here, there) = (Ipv4Net::new(a.into(), prefix).unwrap(), Ipv4Net::new(b.into(), prefix).unwrap());
            prop_assert_eq!(
                way(Routing::Auto, &[here], there.addr()),
                way(Routing::Auto, &[there], here.addr())
            );
        }
    }
}
