//! The same of IPv6: the programs of IPv4 hand its packets on to others.

use aya::maps::{Array, HashMap, MapData};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use oarlock_ebpf::affinity::{SourceRange, source_range6, source_range6_bits};
use oarlock_ebpf::flow::{FIN, LOCAL_POD, NODE, Owner};
use oarlock_ebpf::flow6::Settings6;
use oarlock_ebpf::layout::{Backend, EXTERNAL, FrontendKey6, SOURCE_RANGES, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use proptest::prelude::*;

use super::frames::{ACK, GO_ON, Node, RECEIVER, REDIRECT, SHOT, SYN, SYN_ACK, TCP, UDP};

pub(super) type Ip = [u8; 16];
pub(super) type End = (Ip, u16);

const fn ip(group: u16, last: u8) -> Ip {
    let [a, b] = group.to_be_bytes();
    [0xfd, 0, 0, 0x10, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

pub(super) const NODE_1: Ip = ip(0x77, 11);
pub(super) const CLIENT: Ip = ip(0x77, 200);
pub(super) const POD: Ip = ip(0x244, 5);
pub(super) const FAR_POD: Ip = ip(0x244, 105);
const CLUSTER_IP: Ip = ip(0x96, 80);
pub(super) const OUTSIDE: Ip = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// NodePorts 30080 (a pod here), 30081 (a pod elsewhere), 30082/UDP (here), 30083 (nobody), 30084 (here, for 2001:db8::/32 alone),
/// and a ClusterIP in front of the pod here.
pub(super) struct Six {
    pub(super) node: Node,
    pub(super) settings: Array<MapData, Settings6>,
    pub(super) addresses: HashMap<MapData, Ip, Owner>,
    pub(super) frontends: HashMap<MapData, FrontendKey6, u32>,
}

impl Six {
    pub(super) fn new() -> Self {
        Self::of(Node::new(false))
    }

    pub(super) fn of(mut node: Node) -> Self {
        let mut settings: Array<_, Settings6> = node.map(maps::SETTINGS6);
        let mut mask = [0; 16];
        mask[..6].fill(0xff);
        settings
            .set(0, Settings6 { node: NODE_1, cluster: ip(0x244, 0), mask, overlay_address: NODE_1 }, 0)
            .unwrap();
        let mut addresses: HashMap<_, Ip, Owner> = node.map(maps::ADDRESSES6);
        addresses.insert(POD, Owner::by_routes(LOCAL_POD), 0).unwrap();
        addresses.insert(NODE_1, Owner::by_routes(NODE), 0).unwrap();
        for (index, address) in [(11, POD), (12, FAR_POD)] {
            node.backends.set(index, Backend::new6(address, 8080, 1), 0).unwrap();
            node.slots.set(index, index, 0).unwrap();
        }
        let mut ranges: aya::maps::lpm_trie::LpmTrie<_, SourceRange, u32> = node.map(maps::SOURCE_RANGES);
        let key = aya::maps::lpm_trie::Key::new(source_range6_bits(32), source_range6(9, OUTSIDE));
        ranges.insert(&key, 1, 0).unwrap();
        let mut frontends: HashMap<_, FrontendKey6, u32> = node.map(maps::FRONTENDS6);
        for (index, address, port, protocol, base, count, flags) in [
            (11, NODE_1, 30080, TCP, 11, 1, EXTERNAL),
            (12, NODE_1, 30081, TCP, 12, 1, EXTERNAL),
            (13, NODE_1, 30082, UDP, 11, 1, EXTERNAL),
            (14, NODE_1, 30083, TCP, 11, 0, EXTERNAL),
            (15, NODE_1, 30084, TCP, 11, 1, EXTERNAL | SOURCE_RANGES),
            (16, CLUSTER_IP, 80, TCP, 11, 1, 0),
        ] {
            let range = SlotRange::new(base, count, 1);
            frontends.insert(FrontendKey6::new(address, port, protocol), index, 0).unwrap();
            node.lines.set(index, ServiceLine::new(range, range, 9, 0, flags), 0).unwrap();
        }
        Self { node, settings, addresses, frontends }
    }

    pub(super) fn run(&mut self, program: &str, frame: &[u8]) -> (i32, Vec<u8>) {
        self.node.run(program, frame)
    }

    /// Gives NodePorts 30080 and 30082/UDP the pod elsewhere; the one here goes on for others.
    fn move_away(&mut self) {
        let there = SlotRange::new(12, 1, 2);
        for index in [11, 13] {
            self.node.lines.set(index, ServiceLine::new(there, there, 9, 0, EXTERNAL), 0).unwrap();
        }
    }

    /// Where a packet of one client and port goes.
    fn sent(&mut self, protocol: u8, flags: u8) -> End {
        let (tcp_port, udp_port) = ((NODE_1, 30080), (NODE_1, 30082));
        let from = (CLIENT, 41000);
        let frame = if protocol == TCP { tcp(from, tcp_port, flags, b"") } else { udp(from, udp_port, b"") };
        ends(&self.run("uplink_ingress", &frame).1).1
    }

    /// That it goes on as it is.
    fn passes(&mut self, program: &str, frame: &[u8], what: &str) {
        assert_eq!(self.run(program, frame), (GO_ON, frame.to_vec()), "{what} at {program}");
    }
}

pub(super) fn packet(from: Ip, to: Ip, hops: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], RECEIVER).ipv6(from, to, hops)
}

pub(super) fn tcp(from: End, to: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut builder = packet(from.0, to.0, 64).tcp(from.1, to.1, 1000, 64000);
    if flags & SYN != 0 {
        builder = builder.syn();
    }
    if flags & ACK != 0 {
        builder = builder.ack(77);
    }
    if flags & FIN != 0 {
        builder = builder.fin();
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

pub(super) fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    packet(from.0, to.0, 64).udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}

/// Who sends to whom, after the checksum has been computed anew and compared.
pub(super) fn ends(frame: &[u8]) -> (End, End) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv6(ip)) = &packet.net else { panic!("no IPv6") };
    let header = ip.header().to_header();
    let (source, destination) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
            assert_eq!(tcp.checksum(), computed, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            let computed = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
            assert_eq!(udp.checksum(), computed, "UDP checksum");
            (udp.source_port(), udp.destination_port())
        }
        other => panic!("no ports: {other:?}"),
    };
    ((header.source, source), (header.destination, destination))
}

#[test]
fn a_pod_of_the_node_sees_the_client_and_answers_as_the_service() {
    let mut node = Six::new();
    let (verdict, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    assert_eq!((verdict, ends(&there), there[21]), (GO_ON, ((CLIENT, 40000), (POD, 8080)), 64));
    let (verdict, back) = node.run("pod_egress", &tcp((POD, 8080), (CLIENT, 40000), SYN_ACK, b""));
    assert_eq!((verdict, ends(&back), back[21]), (REDIRECT, ((NODE_1, 30080), (CLIENT, 40000)), 63));
    let more = tcp((CLIENT, 40000), (NODE_1, 30080), ACK, b"GET / HTTP/1.1\r\n\r\n");
    let (_, there) = node.run("uplink_ingress", &more);
    assert_eq!((ends(&there), &there[74..]), (((CLIENT, 40000), (POD, 8080)), &more[74..]));
    let (_, datagram) = node.run("uplink_ingress", &udp((CLIENT, 5000), (NODE_1, 30082), b"question"));
    assert_eq!(ends(&datagram), ((CLIENT, 5000), (POD, 8080)));
    let (_, back) = node.run("pod_egress", &udp((POD, 8080), (CLIENT, 5000), b"answer"));
    assert_eq!(ends(&back), ((NODE_1, 30082), (CLIENT, 5000)));
    assert_eq!(node.node.counted(Reason::Translated), 2, "a connection and a datagram, not each packet");
}

#[test]
fn a_pod_elsewhere_sees_the_node_and_its_answers_come_back_to_the_client() {
    let mut node = Six::new();
    let asked = tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b"");
    let (verdict, there) = node.run("uplink_ingress", &asked);
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination, there[21]), (REDIRECT, NODE_1, (FAR_POD, 8080), 63));
    assert!((1024..30000).contains(&source.1), "no port of sockets or NodePorts: {}", source.1);
    let (verdict, back) = node.run("uplink_ingress", &tcp((FAR_POD, 8080), source, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back)), (REDIRECT, ((NODE_1, 30081), (CLIENT, 40000))));
    let (_, again) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30081), ACK, b"x"));
    assert_eq!(ends(&again).0, source, "one connection, one port");
    let mut last = Vec::new();
    let builder = packet(CLIENT, NODE_1, 1).tcp(40001, 30081, 1, 64000).syn();
    builder.write(&mut last, b"").unwrap();
    assert_eq!(node.run("uplink_ingress", &last).0, SHOT, "no hop is left");
}

#[test]
fn a_port_that_is_used_again_is_balanced_again() {
    let mut node = Six::new();
    assert_eq!(node.sent(TCP, SYN), (POD, 8080));
    node.move_away();
    // What has begun stays, and so does its SYN that comes twice.
    for flags in [SYN, ACK, ACK | FIN, ACK] {
        assert_eq!(node.sent(TCP, flags), (POD, 8080));
    }
    let _ = node.run("pod_egress", &tcp((POD, 8080), (CLIENT, 41000), ACK | FIN, b""));
    assert_eq!(node.sent(TCP, ACK), (POD, 8080), "the last one of the old connection");
    assert_eq!(node.sent(TCP, SYN), (FAR_POD, 8080));
    assert_eq!(node.sent(TCP, ACK), (FAR_POD, 8080));
}

#[test]
fn what_begins_is_not_sent_to_a_backend_that_is_gone() {
    for protocol in [TCP, UDP] {
        let mut node = Six::new();
        assert_eq!(node.sent(protocol, SYN), (POD, 8080));
        node.move_away();
        assert_eq!(node.sent(protocol, SYN), (POD, 8080), "it serves others");
        node.node.backends.set(11, Backend::new6(POD, 8080, 0), 0).unwrap();
        // A connection that there is ends with its pod, a segment that is sent again and datagrams find another one.
        if protocol == TCP {
            assert_eq!(node.sent(protocol, ACK), (POD, 8080));
        }
        assert_eq!(node.sent(protocol, SYN), (FAR_POD, 8080));
    }
}

#[test]
fn what_a_pod_begins_leaves_with_the_nodes_address() {
    let mut node = Six::new();
    let (verdict, there) = node.run("uplink_egress", &tcp((POD, 50000), (OUTSIDE, 443), SYN, b""));
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination), (GO_ON, NODE_1, (OUTSIDE, 443)));
    let (_, back) = node.run("uplink_ingress", &tcp((OUTSIDE, 443), source, SYN_ACK, b""));
    assert_eq!(ends(&back), ((OUTSIDE, 443), (POD, 50000)));
    for inside in [(FAR_POD, 80), (NODE_1, 80)] {
        node.passes("uplink_egress", &tcp((POD, 50000), inside, SYN, b""), "within the cluster");
    }
    node.passes("uplink_ingress", &udp((OUTSIDE, 601), (POD, 53), b"q"), "a datagram to the pod itself");
    node.passes("uplink_egress", &udp((POD, 53), (OUTSIDE, 601), b"a"), "its answer");
}

#[test]
fn a_port_that_comes_again_by_another_way_is_told_apart() {
    let mut node = Six::new();
    let (_, first) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    let (verdict, second) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (POD, 8080), SYN, b""));
    let (source, destination) = ends(&second);
    assert_eq!(
        (ends(&first).0, verdict, source.0, destination),
        ((CLIENT, 40000), GO_ON, CLIENT, (POD, 8080))
    );
    assert_ne!(source.1, 40000);
    for (to, is) in [((CLIENT, 40000), (NODE_1, 30080)), (source, (POD, 8080))] {
        let (_, back) = node.run("pod_egress", &tcp((POD, 8080), to, SYN_ACK, b""));
        assert_eq!(ends(&back), (is, (CLIENT, 40000)));
    }
}

#[test]
fn what_is_none_of_ours_goes_on_untouched() {
    let mut node = Six::new();
    let syn = |to| tcp((CLIENT, 40000), to, SYN, b"");
    let mut extended = syn((NODE_1, 30080));
    extended[20] = 0;
    extended.splice(54..54, [TCP, 0, 1, 4, 0, 0, 0, 0]);
    let mut solicited = Vec::new();
    packet(CLIENT, NODE_1, 255).icmpv6_raw(135, 0, [0; 4]).write(&mut solicited, &NODE_1).unwrap();
    let mut echo = Vec::new();
    packet(CLIENT, NODE_1, 64).icmpv6_echo_request(1, 2).write(&mut echo, b"ping").unwrap();
    for (what, frame) in [
        ("another port", syn((NODE_1, 22))),
        ("a Service without endpoints, which the stack refuses", syn((NODE_1, 30083))),
        ("a ClusterIP from outside, which is not asked for", syn((CLUSTER_IP, 80))),
        ("a pod's own address", syn((POD, 80))),
        ("the middle of a connection", tcp((CLIENT, 40000), (NODE_1, 30080), ACK, b"x")),
        ("options for each hop", extended),
        ("a neighbour's solicitation", solicited),
        ("an echo request", echo),
        ("half a TCP header", syn((NODE_1, 30080))[..64].to_vec()),
        (
            "no more than an IP header (less the kernel does not take for a test)",
            syn((NODE_1, 30080))[..54].to_vec(),
        ),
    ] {
        for program in ["uplink_ingress", "pod_egress", "uplink_egress"] {
            node.passes(program, &frame, what);
        }
    }
    assert_eq!(node.node.counted(Reason::NoEndpoints), 1);
}

#[test]
fn source_ranges_hold() {
    let mut node = Six::new();
    assert_eq!(node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30084), SYN, b"")).0, SHOT);
    let (verdict, there) = node.run("uplink_ingress", &tcp((OUTSIDE, 40000), (NODE_1, 30084), SYN, b""));
    assert_eq!((verdict, ends(&there).1), (GO_ON, (POD, 8080)));
}

#[test]
fn fragments_go_where_their_first_goes() {
    let mut node = Six::new();
    let whole = udp((CLIENT, 5000), (NODE_1, 30082), &[9; 40]);
    let fragment = |offset: u8, more: u8, payload: &[u8]| {
        let mut frame = whole[..54].to_vec();
        frame[20] = 44;
        frame[18..20].copy_from_slice(&(8 + u16::try_from(payload.len()).unwrap()).to_be_bytes());
        frame.extend([UDP, 0, 0, offset | more, 1, 2, 3, 4]);
        frame.extend(payload);
        frame
    };
    let (first, later) = (fragment(0, 1, &whole[54..78]), fragment(24, 0, &whole[78..]));
    node.passes("uplink_ingress", &later, "one before its first");
    let (verdict, out) = node.run("uplink_ingress", &first);
    assert_eq!((verdict, &out[38..54], &out[64..66]), (GO_ON, &POD[..], &8080_u16.to_be_bytes()[..]));
    let (verdict, rest) = node.run("uplink_ingress", &later);
    assert_eq!((verdict, &rest[38..54], &rest[54..]), (GO_ON, &POD[..], &later[54..]));
    // Put together again it is a datagram whose checksum is right.
    let mut joined = whole.clone();
    joined[22..54].copy_from_slice(&out[22..54]);
    joined[54..78].copy_from_slice(&out[62..]);
    assert_eq!(ends(&joined), ((CLIENT, 5000), (POD, 8080)));
}

#[test]
fn errors_reach_who_has_sent_what_they_are_about() {
    let mut node = Six::new();
    let asked = tcp((CLIENT, 40000), (NODE_1, 30081), SYN, &[7; 60]);
    let (_, sent) = node.run("uplink_ingress", &asked);
    let ((as_node, port), _) = ends(&sent);
    assert_eq!(as_node, NODE_1);
    for (who, shown, quoted) in [(OUTSIDE, OUTSIDE, 120), (FAR_POD, NODE_1, 120), (OUTSIDE, OUTSIDE, 48)] {
        let mut error = Vec::new();
        let too_big = packet(who, NODE_1, 64).icmpv6_raw(2, 0, 1280_u32.to_be_bytes());
        too_big.write(&mut error, &sent[14..sent.len().min(14 + quoted)]).unwrap();
        let (verdict, told) = node.run("uplink_ingress", &error);
        assert_eq!((verdict, &told[22..38], &told[38..54]), (REDIRECT, &shown[..], &CLIENT[..]));
        assert_eq!(
            (told[54], &told[58..62]),
            (2, &1280_u32.to_be_bytes()[..]),
            "too big, and how much is not"
        );
        let packet = SlicedPacket::from_ethernet(&told).unwrap();
        let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) = (&packet.net, &packet.transport)
        else {
            panic!("no ICMPv6")
        };
        let header = ip.header();
        assert!(icmp.is_checksum_valid(header.source(), header.destination()), "ICMPv6 checksum");
        // The packet as the client has sent it, but for the hop.
        let mut expected = asked[14..asked.len().min(14 + quoted)].to_vec();
        expected[7] = sent[21];
        assert_eq!(told[62..], expected, "the quotation, its checksum too");
    }
    let mut forged = Vec::new();
    let builder = packet(OUTSIDE, POD, 64).icmpv6_raw(1, 0, [0; 4]);
    builder.write(&mut forged, &sent[14..]).unwrap();
    node.passes("uplink_ingress", &forged, "an error to somebody else");
    assert_ne!(port, 40000);
    assert_eq!(node.node.counted(Reason::Reported), 3);
}

/// Whatever comes: what is let through is as long as it was, and nothing is dropped but what has no hop left.
#[test]
fn no_frame_breaks_the_programs() {
    let mut node = Six::new();
    let (_, sent) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b""));
    let mut error = Vec::new();
    packet(OUTSIDE, NODE_1, 64).icmpv6_raw(2, 0, [0; 4]).write(&mut error, &sent[14..]).unwrap();
    let node = std::cell::RefCell::new(node);
    let flips = proptest::collection::vec((14..110_usize, any::<u8>()), 0..6);
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&(flips, 54..130_usize, 0..4), |(flips, cut, kind)| {
        let mut frame = match kind {
            0 => tcp((CLIENT, 40000), (NODE_1, 30080), SYN, &[7; 30]),
            1 => tcp((CLIENT, 40000), (NODE_1, 30081), SYN, &[7; 30]),
            2 => udp((CLIENT, 40000), (NODE_1, 30082), &[7; 40]),
            _ => error.clone(),
        };
        for (at, value) in flips {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut);
        for program in ["uplink_ingress", "pod_egress", "uplink_egress"] {
            let (verdict, out) = node.borrow_mut().run(program, &frame);
            prop_assert_eq!(out.len(), frame.len());
            prop_assert!(matches!(verdict, GO_ON | REDIRECT | SHOT), "{}", verdict);
            if verdict == SHOT {
                // A flip may lead to the NodePort that only some may ask.
                let denied = frame.get(56..58) == Some(&30084_u16.to_be_bytes()[..]);
                prop_assert!(denied || frame[21] <= 1 || frame.len() < 82, "dropped with hops left");
            }
            prop_assert_eq!(&out[..12], &frame[..12], "no program touches Ethernet's addresses");
        }
        Ok(())
    });
    outcome.unwrap();
}
