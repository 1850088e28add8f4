//! How the pods of other nodes are reached from here, decided from addresses alone. Pure.
//!
//! A node whose address lies in the range of one of our uplinks stands on the same layer-2 network: its pods are routed there.
//! Routers between networks know nothing of pods: across them packets of pods travel inside packets of nodes (VXLAN). Each family
//! is decided by itself; packets of both travel inside packets of IPv4, which all nodes have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use oarlock_ebpf::direct;
use serde::{Deserialize, Serialize};

use crate::dual_ip::DualIp;

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

/// Who answers clients outside that have reached another node than that of their pod. Of IPv4: over IPv6 it is always the one that
/// they have reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum NorthSouth {
    /// The node that they have reached, which the pod sees instead of them.
    #[default]
    Snat,
    /// The pod's own node. The pod sees the client, and answers do not come by the node that it has reached. The network has to let a
    /// node send with the addresses of other nodes and of Services.
    Direct,
}

impl NorthSouth {
    /// The name in annotations and for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Direct => "direct",
        }
    }
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

/// A range of another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The range: a podCIDR.
    pub pod_cidr: IpNet,
    /// The node's addresses.
    pub address: DualIp,
    /// Whether it says that it answers clients outside itself that have reached another node.
    pub direct: bool,
}

impl Peer {
    /// The node's address of the range's family.
    fn own(&self) -> Option<IpAddr> {
        match self.pod_cidr {
            IpNet::V4(_) => Some(self.address.v4.into()),
            IpNet::V6(_) => self.address.v6.map(IpAddr::V6),
        }
    }
}

/// The pods of another node, and how they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRoute {
    /// The node's podCIDR.
    pub pod_cidr: IpNet,
    /// The node's address: of the same family, or of IPv4 where the tunnel ends there.
    pub via: IpAddr,
    /// How its pods are reached.
    pub way: Way,
}

/// The way to a node at this address, from uplinks with these addresses and prefixes.
fn way(routing: Routing, uplinks: &[IpNet], node: Option<IpAddr>) -> Way {
    let is_near = || node.is_some_and(|node| uplinks.iter().any(|net| net.contains(&node)));
    match routing {
        Routing::Direct => Way::Direct,
        Routing::Auto if is_near() => Way::Direct,
        Routing::Auto | Routing::Vxlan => Way::Vxlan,
    }
}

/// The ways to all of them, and the addresses of the nodes to whose pods no direct one leads.
pub(super) fn routes(
    routing: Routing,
    uplinks: &[IpNet],
    peers: &BTreeSet<Peer>,
) -> (BTreeSet<NodeRoute>, BTreeSet<IpAddr>) {
    let (mut routes, mut far) = (BTreeSet::new(), BTreeSet::new());
    for peer in peers {
        let own = peer.own();
        let way = way(routing, uplinks, own);
        let via = match way {
            Way::Direct => own,
            Way::Vxlan => {
                far.extend(own);
                Some(peer.address.v4.into())
            }
        };
        routes.extend(via.map(|via| NodeRoute { pod_cidr: peer.pod_cidr, via, way }));
    }
    (routes, far)
}

impl NodeRoute {
    /// The node at which the tunnel ends; none of a direct way.
    pub(super) const fn end(&self) -> Option<Ipv4Addr> {
        match (self.way, self.via) {
            (Way::Vxlan, IpAddr::V4(node)) => Some(node),
            _ => None,
        }
    }

    /// The next hop in the kernel's words.
    pub(super) fn hop(&self) -> IpAddr {
        match (self.pod_cidr, self.end()) {
            (IpNet::V6(_), Some(node)) => link_local(node).into(),
            _ => self.via,
        }
    }
}

/// Whether pods of a range can be told apart by what a frame says of them.
pub(super) const fn can_be_said(range: Ipv4Net) -> bool {
    range.prefix_len() >= direct::LEAST_PREFIX
}

/// The ranges of pods whose nodes answer clients outside themselves, and these nodes.
pub(super) fn answering(peers: &BTreeSet<Peer>) -> BTreeMap<Ipv4Net, Ipv4Addr> {
    let range = |peer: &Peer| match peer.pod_cidr {
        IpNet::V4(range) if peer.direct && can_be_said(range) => Some((range.trunc(), peer.address.v4)),
        _ => None,
    };
    peers.iter().filter_map(range).collect()
}

/// What the network adds to a packet of a pod on its way through a tunnel over IPv4, in bytes: Ethernet, VXLAN, UDP, IP.
const OVERHEAD: u32 = 14 + 8 + 8 + 20;
/// The least that IPv4 asks of a link for a path that fragments nothing (RFC 1122 3.3.3).
const LEAST: u32 = 576;
/// The least of a link with IPv6 (RFC 8200 5). What a tunnel does not take in one piece it carries in fragments of IPv4.
pub(super) const LEAST6: u32 = 1280;

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

/// The hardware address of a node's end of the tunnel.
pub(super) fn hardware_address(node: Ipv4Addr) -> [u8; 6] {
    direct::end(node.octets())
}

/// The address of a node's end of the tunnel on the link: the one that goes with its hardware address (RFC 4291 appendix A). Next hop of
/// IPv6, because the kernel takes the node's own address for none on a link where another route leads to it.
fn link_local(node: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = hardware_address(node);
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The node whose end of the tunnel has an address of the link.
pub(super) fn node_at(hop: IpAddr) -> Option<Ipv4Addr> {
    match hop {
        IpAddr::V4(node) => Some(node),
        IpAddr::V6(hop) => {
            let octets = hop.octets();
            let node = Ipv4Addr::new(octets[10], octets[13], octets[14], octets[15]);
            (link_local(node) == hop).then_some(node)
        }
    }
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

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn peer(pod_cidr: &str, address: &str) -> Peer {
        Peer { pod_cidr: net(pod_cidr), address: address.parse().unwrap(), direct: false }
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
            let node = Some(IpAddr::from(node));
            assert_eq!(way(Routing::Auto, &uplinks, node), expected, "{node:?}");
            assert_eq!(way(Routing::Direct, &uplinks, node), Way::Direct);
            assert_eq!(way(Routing::Vxlan, &uplinks, node), Way::Vxlan);
        }
    }

    #[test]
    fn each_family_is_decided_by_itself_and_tunnels_end_at_addresses_of_ipv4() {
        let uplinks = [net("10.0.0.1/24"), net("fd00:77::1/64")];
        let ranges = |address: &str| {
            BTreeSet::from([peer("10.244.2.0/24", address), peer("fd00:10:244:2::/64", address)])
        };
        let ways = |address: &str| {
            let (routes, far) = routes(Routing::Auto, &uplinks, &ranges(address));
            let told = |route: &NodeRoute| format!("{} by {} {}", route.way.name(), route.via, route.hop());
            let far: Vec<String> = far.iter().map(ToString::to_string).collect();
            (routes.iter().map(told).collect::<Vec<_>>().join(", "), far.join(" "))
        };
        let both = "direct by 10.0.0.2 10.0.0.2, direct by fd00:77::2 fd00:77::2";
        assert_eq!(ways("10.0.0.2,fd00:77::2"), (both.to_owned(), String::new()));
        let hop = "vxlan by 10.0.0.2 fe80::86f:aff:fe00:2";
        assert_eq!(
            ways("10.0.0.2,fd00:78::2"),
            (format!("direct by 10.0.0.2 10.0.0.2, {hop}"), "fd00:78::2".to_owned())
        );
        assert_eq!(
            ways("10.0.0.2").0,
            format!("direct by 10.0.0.2 10.0.0.2, {hop}"),
            "without one of its own"
        );
        let (of_four, far) = ways("10.0.1.2,fd00:77::2");
        assert_eq!(
            (of_four.as_str(), far.as_str()),
            ("vxlan by 10.0.1.2 10.0.1.2, direct by fd00:77::2 fd00:77::2", "10.0.1.2")
        );
        let (direct, _) = routes(Routing::Direct, &uplinks, &ranges("10.0.1.2"));
        assert_eq!(direct.len(), 1, "no direct way of IPv6 leads to a node without an address of it");
    }

    #[test]
    fn nodes_answer_themselves_that_say_so_and_whose_pods_can_be_told_apart() {
        let direct = |pod_cidr, address| Peer { direct: true, ..peer(pod_cidr, address) };
        let peers = BTreeSet::from([
            peer("10.244.1.0/24", "10.0.0.1"),
            direct("10.244.2.0/24", "10.0.0.2"),
            direct("fd00:10:244:2::/64", "10.0.0.2"),
            direct("10.245.0.0/16", "10.0.0.3"),
            direct("10.246.0.0/15", "10.0.0.4"),
        ]);
        let ranges = answering(&peers);
        let told: Vec<String> = ranges.iter().map(|(range, node)| format!("{range} {node}")).collect();
        assert_eq!(told, ["10.244.2.0/24 10.0.0.2", "10.245.0.0/16 10.0.0.3"]);
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
            pod_cidr: IpNet::new(Ipv4Addr::new(10, 244, n, 0).into(), 24).unwrap(),
            via: Ipv4Addr::new(172, 30, 77, n).into(),
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
            prop_assert_eq!(node_at(link_local(a.into()).into()), Some(a.into()));
        }

        #[test]
        fn whoever_shares_a_network_takes_the_same_way_both_ways(a: [u8; 4], b: [u8; 4], prefix in 0u8..=32) {
            let [here, there] = [a, b].map(|ip| IpNet::new(ip.into(), prefix).unwrap());
            prop_assert_eq!(
                way(Routing::Auto, &[here], Some(there.addr())),
                way(Routing::Auto, &[there], Some(here.addr()))
            );
        }
    }
}
