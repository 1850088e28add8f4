//! What a pod cannot send to nodes: frames of the tunnel between them. Tests of tc run as if frames had come by the loopback, so that is
//! the pod's link here.

use std::process::Command;

use aya::maps::HashMap;
use oarlock_ebpf::direct::PORT;
use oarlock_ebpf::flow::{LOCAL_POD, NODE, Owner, PER_PACKET, Settings, TUNNEL_END};
use oarlock_ebpf::layout::{Backend, ServiceLine, SlotRange};
use oarlock_ebpf::{maps, opted_out, reason::Reason};

use super::errors::cut;
use super::express::Uplinked;
use super::frames::*;

const NEAR: [u8; 4] = [172, 30, 77, 12];
const FAR: [u8; 4] = [172, 31, 77, 12];
/// The other node's own address in the tunnel.
const INSIDE: [u8; 4] = [10, 244, 1, 0];
/// One of the node's addresses that the programs are not told.
const SECOND: [u8; 4] = [198, 51, 100, 7];
const FROM: End = (POD, 50000);

fn node() -> Node {
    let Uplinked { mut node, .. } = Uplinked::new();
    for command in
        ["link set lo up", "addr add 198.51.100.7/32 dev eth0", "route add default via 172.30.77.200"]
    {
        assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success(), "{command}");
    }
    for (address, kind) in [(NEAR, NODE), (FAR, TUNNEL_END), (INSIDE, TUNNEL_END)] {
        node.addresses.insert(address, Owner::by_routes(kind), 0).unwrap();
    }
    node
}

#[test]
fn what_a_pod_sends_to_where_nodes_take_frames_goes_nowhere() {
    let mut node = node();
    for (at, address) in (1..).zip([NODE_1, NEAR, FAR, INSIDE, SECOND]) {
        assert_eq!(node.run("pod_egress", &udp(FROM, (address, PORT), b"frame")).0, SHOT, "{address:?}");
        assert_eq!(node.counted(Reason::TunnelForged), at, "{address:?}");
    }
    let parts = cut(&udp(FROM, (NEAR, PORT), &[7; 1001]), 512, 9);
    for part in &parts {
        assert_eq!(node.run("pod_egress", part).0, SHOT, "nor in pieces");
    }
}

#[test]
fn what_else_a_pod_sends_there_and_frames_to_others_pass() {
    let mut node = node();
    node.addresses.insert([10, 244, 0, 6], Owner::by_routes(LOCAL_POD), 0).unwrap();
    for address in [NODE_1, NEAR, FAR, SECOND] {
        for other in [udp(FROM, (address, PORT + 1), b"x"), tcp(FROM, (address, PORT), SYN, b"")] {
            assert_eq!(node.run("pod_egress", &other).0, GO_ON, "{address:?}");
        }
    }
    // Pods may be nodes of a cluster of their own, and a machine outside may be the end of a tunnel of theirs.
    for address in [[10, 244, 0, 6], FAR_POD, OUTSIDE] {
        let frame = udp(FROM, (address, PORT), b"frame");
        assert_eq!(node.run("pod_egress", &frame), (GO_ON, frame), "{address:?}");
    }
    let of_nodes = udp((NEAR, 40000), (NODE_1, PORT), b"frame");
    assert_eq!(node.run("uplink_ingress", &of_nodes), (GO_ON, of_nodes), "nodes may");
    assert_eq!(node.counted(Reason::TunnelForged), 0);
}

/// Routers between networks do not know pods' addresses.
#[test]
fn what_goes_to_a_node_on_another_network_leaves_with_the_nodes_address() {
    let mut node = node();
    let (_, there) = node.run("uplink_egress", &tcp(FROM, (FAR, 443), SYN, b""));
    assert_eq!((ends(&there).0.0, ends(&there).1), (NODE_1, (FAR, 443)));
    let near = tcp(FROM, (NEAR, 443), SYN, b"");
    assert_eq!(node.run("uplink_egress", &near), (GO_ON, near));
}

#[test]
fn a_service_is_no_way_round_for_a_pod_that_is_served_packet_by_packet() {
    let mut node = node();
    let mut table: HashMap<_, u64, u32> = node.map(maps::OPTED_OUT);
    table.insert(opted_out::of_link(1), 1, 0).unwrap();
    let settings = node.settings.get(&0, 0).unwrap();
    node.settings.set(0, Settings { flags: settings.flags | PER_PACKET, ..settings }, 0).unwrap();
    let service = ([10, 96, 0, 81], 53);
    let range = SlotRange::new(2, 1, 1);
    node.publish(service, UDP, ServiceLine::new(range, range, 9, 0, 0));
    let asked = udp(FROM, service, b"frame");
    assert_eq!(node.run("pod_egress", &asked).0, GO_ON, "a pod elsewhere answers for it");
    node.backends.set(2, Backend::new(NEAR, PORT, 2), 0).unwrap();
    assert_eq!(node.run("pod_egress", &asked).0, SHOT);
    assert_eq!(node.counted(Reason::TunnelForged), 1);
}
