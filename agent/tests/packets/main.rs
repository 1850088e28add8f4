//! The packet path's programs on frames, in and out byte for byte, by BPF_PROG_TEST_RUN. Needs root; no link is touched.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic, as tests do"
)]

mod counts;
mod direct;
mod errors;
mod express;
mod express6;
mod frames;
mod opted_out;
mod policy;
mod policy6;
mod random;
mod services;
mod six;
mod tunnel;

use etherparse::PacketBuilder;
use oarlock_ebpf::flow::{LOCAL_POD, Owner};
use oarlock_ebpf::reason::Reason;
use proptest::prelude::*;

use frames::*;

#[test]
fn a_pod_of_the_node_sees_the_client_and_answers_as_the_service() {
    let mut node = Node::new(false);
    let asked = tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b"");
    let (verdict, there) = node.run("uplink_ingress", &asked);
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (POD, 8080))));
    assert_eq!(rest(&there, 34), rest(&asked, 34), "nothing else has changed");
    assert_eq!(there[22], 64, "the stack takes the hop");
    let answer = tcp((POD, 8080), (CLIENT, 40000), SYN_ACK, b"");
    let (verdict, back) = node.run("pod_egress", &answer);
    assert_eq!((verdict, ends(&back)), (REDIRECT, ((NODE_1, 30080), (CLIENT, 40000))));
    assert_eq!(back[22], 63, "sent on without the stack, which would have taken the hop");
    let more = tcp((CLIENT, 40000), (NODE_1, 30080), ACK, b"GET / HTTP/1.1\r\n\r\n");
    let (_, there) = node.run("uplink_ingress", &more);
    assert_eq!(ends(&there), ((CLIENT, 40000), (POD, 8080)));
    assert_eq!(rest(&there, 34), rest(&more, 34));
    assert_eq!(node.counted(Reason::Translated), 1, "the connection, not each packet");
}

#[test]
fn a_pod_elsewhere_sees_the_node_and_its_answers_come_back_to_the_client() {
    let mut node = Node::new(false);
    let asked = tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b"");
    let (verdict, there) = node.run("uplink_ingress", &asked);
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination, there[22]), (REDIRECT, NODE_1, (FAR_POD, 8080), 63));
    assert!((1024..30000).contains(&source.1), "no port of sockets or NodePorts: {}", source.1);
    let (verdict, back) = node.run("uplink_ingress", &tcp((FAR_POD, 8080), source, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back)), (REDIRECT, ((NODE_1, 30081), (CLIENT, 40000))));
    let (_, again) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30081), ACK, b"x"));
    assert_eq!(ends(&again).0, source, "one connection, one port");
    let (_, other) = node.run("uplink_ingress", &tcp((CLIENT, 40001), (NODE_1, 30081), SYN, b""));
    assert_ne!(ends(&other).0, source, "another connection, another port");
}

#[test]
fn datagrams_are_translated_and_a_missing_checksum_stays_missing() {
    let mut node = Node::new(false);
    let asked = udp((CLIENT, 5000), (NODE_1, 30082), b"question");
    let (verdict, there) = node.run("uplink_ingress", &asked);
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 5000), (POD, 8080))));
    let (_, back) = node.run("pod_egress", &udp((POD, 8080), (CLIENT, 5000), b"answer"));
    assert_eq!(ends(&back), ((NODE_1, 30082), (CLIENT, 5000)));
    let mut unchecked = asked;
    unchecked[40..42].fill(0);
    let (_, there) = node.run("uplink_ingress", &unchecked);
    assert_eq!((ends(&there).1, &there[40..42]), ((POD, 8080), &[0, 0][..]));
}

#[test]
fn options_of_the_ip_header_move_the_ports() {
    let mut node = Node::new(false);
    let header = etherparse::Ipv4Header {
        source: CLIENT,
        destination: NODE_1,
        time_to_live: 64,
        // Two router alerts (RFC 2113).
        options: [148, 4, 0, 0, 148, 4, 0, 0].into(),
        ..etherparse::Ipv4Header::default()
    };
    let headers = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
    let builder = PacketBuilder::ethernet2([2; 6], RECEIVER).ip(headers).tcp(40000, 30080, 1, 64000).syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"").unwrap();
    let (verdict, there) = node.run("uplink_ingress", &frame);
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (POD, 8080))));
    assert_eq!(there[34..42], frame[34..42], "the options");
}

#[test]
fn what_is_none_of_ours_goes_on_untouched() {
    let syn = tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b"");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        change(&mut frame);
        frame
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("another port", tcp((CLIENT, 40000), (NODE_1, 22), SYN, b"")),
        ("another protocol's port", udp((CLIENT, 40000), (NODE_1, 30080), b"")),
        ("another node's address", tcp((CLIENT, 40000), ([172, 30, 77, 12], 30080), SYN, b"")),
        ("the middle of a connection that is not known", tcp((CLIENT, 40000), (NODE_1, 30080), ACK, b"x")),
        ("a reset of one", tcp((CLIENT, 40000), (NODE_1, 30080), RST, b"")),
        (
            "a Service without endpoints, which the stack refuses",
            tcp((CLIENT, 40000), (NODE_1, 30083), SYN, b""),
        ),
        (
            "a ClusterIP from outside, which is not asked for",
            tcp((CLIENT, 40000), (CLUSTER_IP, 80), SYN, b""),
        ),
        ("a pod's own address", tcp((CLIENT, 40000), (POD, 8080), SYN, b"")),
        ("a later fragment whose first has not come", changed(&|f| f[21] = 5)),
        ("ICMP", changed(&|f| f[23] = 1)),
        ("IPv6", changed(&|f| f[12..14].copy_from_slice(&[0x86, 0xdd]))),
        ("ARP", changed(&|f| f[12..14].copy_from_slice(&[8, 6]))),
        ("a VLAN", changed(&|f| f[12..14].copy_from_slice(&[0x81, 0]))),
        ("another version", changed(&|f| f[14] = 0x65)),
        ("half a TCP header", syn[..44].to_vec()),
        ("no more than an IP header (less the kernel does not take for a test)", syn[..34].to_vec()),
    ];
    let mut node = Node::new(false);
    for (what, frame) in cases {
        for program in ["uplink_ingress", "pod_egress"] {
            assert_eq!(node.run(program, &frame), (GO_ON, frame.clone()), "{what} at {program}");
        }
    }
    assert_eq!(node.counted(Reason::NoEndpoints), 1);
    assert_eq!(node.counted(Reason::Translated), 0);
}

#[test]
fn cluster_ips_are_answered_for_outsiders_where_that_is_asked_for() {
    let mut node = Node::new(true);
    let (verdict, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (CLUSTER_IP, 80), SYN, b""));
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (POD, 8080))));
}

#[test]
fn a_packet_without_a_hop_left_goes_no_further() {
    let mut node = Node::new(false);
    let builder =
        PacketBuilder::ethernet2([2; 6], RECEIVER).ipv4(CLIENT, NODE_1, 1).tcp(40000, 30081, 1, 64000);
    let mut frame = Vec::new();
    builder.syn().write(&mut frame, b"").unwrap();
    assert_eq!(node.run("uplink_ingress", &frame).0, SHOT);
    assert_eq!(node.counted(Reason::BadPacket), 1);
}

#[test]
fn a_port_that_comes_again_by_another_way_is_told_apart() {
    let mut node = Node::new(true);
    let (_, first) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    assert_eq!(ends(&first), ((CLIENT, 40000), (POD, 8080)));
    let (verdict, second) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (CLUSTER_IP, 80), SYN, b""));
    let (source, destination) = ends(&second);
    assert_eq!((verdict, source.0, destination), (GO_ON, CLIENT, (POD, 8080)), "the client's address stays");
    let (_, third) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (POD, 8080), SYN, b""));
    let direct = ends(&third).0;
    assert!(source.1 != 40000 && direct.1 != 40000 && source.1 != direct.1, "{source:?} {direct:?}");
    for (to, is) in [((CLIENT, 40000), (NODE_1, 30080)), (source, (CLUSTER_IP, 80)), (direct, (POD, 8080))] {
        let (_, back) = node.run("pod_egress", &tcp((POD, 8080), to, SYN_ACK, b""));
        assert_eq!(ends(&back), (is, (CLIENT, 40000)));
    }
}

#[test]
fn connections_that_were_reset_give_their_port_free() {
    let mut node = Node::new(true);
    let _ = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    let _ = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), RST, b""));
    let (_, second) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (CLUSTER_IP, 80), SYN, b""));
    assert_eq!(ends(&second).0, (CLIENT, 40000));
    let (_, back) = node.run("pod_egress", &tcp((POD, 8080), (CLIENT, 40000), SYN_ACK, b""));
    assert_eq!(ends(&back).0, (CLUSTER_IP, 80));
}

#[test]
fn what_a_pod_begins_leaves_with_the_nodes_address_and_what_it_answers_with_its_own() {
    let mut node = Node::new(false);
    let (verdict, there) = node.run("uplink_egress", &tcp((POD, 50000), (OUTSIDE, 443), SYN, b""));
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination), (GO_ON, NODE_1, (OUTSIDE, 443)));
    let (_, back) = node.run("uplink_ingress", &tcp((OUTSIDE, 443), source, SYN_ACK, b""));
    assert_eq!(ends(&back), ((OUTSIDE, 443), (POD, 50000)));
    // The pod's next packet passes its own link first, where only answers are translated.
    let next = tcp((POD, 50000), (OUTSIDE, 443), ACK, b"");
    assert_eq!(node.run("pod_egress", &next), (GO_ON, next.clone()));
    let (_, again) = node.run("uplink_egress", &next);
    assert_eq!(ends(&again).0, source);
    for answer in
        [tcp((POD, 8080), (OUTSIDE, 600), SYN_ACK, b""), tcp((POD, 8080), (OUTSIDE, 600), ACK, b"x")]
    {
        assert_eq!(
            node.run("uplink_egress", &answer),
            (GO_ON, answer.clone()),
            "of a connection from outside"
        );
    }
    let asked = udp((OUTSIDE, 601), (POD, 53), b"q");
    assert_eq!(node.run("uplink_ingress", &asked), (GO_ON, asked.clone()));
    let answer = udp((POD, 53), (OUTSIDE, 601), b"a");
    assert_eq!(node.run("uplink_egress", &answer), (GO_ON, answer.clone()), "a datagram's answer too");
    for inside in [tcp((POD, 50000), (FAR_POD, 80), SYN, b""), tcp((POD, 50000), (NODE_1, 80), SYN, b"")] {
        assert_eq!(node.run("uplink_egress", &inside), (GO_ON, inside.clone()), "within the cluster");
    }
}

/// Whatever comes: what is let through is untouched or whole, and only a packet without a hop left is dropped.
#[test]
fn no_frame_breaks_the_programs() {
    let mut node = Node::new(true);
    let (_, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b""));
    let mut about_what_was_sent = Vec::new();
    let builder = ip(ends(&there).0, ends(&there).0).icmpv4_raw(3, 4, [0; 4]);
    builder.write(&mut about_what_was_sent, &there[14..]).unwrap();
    let mut first = tcp((CLIENT, 40000), (NODE_1, 30080), SYN, &[7; 30]);
    first[20] = 0x20;
    let _ = node.run("uplink_ingress", &first);
    let mut later = first;
    later[20..22].copy_from_slice(&[0, 8]);
    let node = std::cell::RefCell::new(node);
    let flips = proptest::collection::vec((12..80_usize, any::<u8>()), 0..6);
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&(flips, 34..90_usize, 0..5), |(flips, cut, kind)| {
        let mut frame = match kind {
            0 => tcp((CLIENT, 40000), (NODE_1, 30080), SYN, &[7; 30]),
            1 => tcp((CLIENT, 40000), (NODE_1, 30081), SYN, &[7; 30]),
            2 => udp((CLIENT, 40000), (NODE_1, 30082), &[7; 40]),
            3 => about_what_was_sent.clone(),
            _ => later.clone(),
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
                prop_assert!(frame[22] <= 1 || frame.len() < 54, "dropped with hops left");
            }
            prop_assert_eq!(&out[..12], &frame[..12], "no program touches Ethernet's addresses");
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn packets_for_a_pod_with_a_known_link_go_straight_into_it() {
    let mut node = Node::new(false);
    let macs: [u8; 12] = [[7; 6], [8; 6]].concat().try_into().unwrap();
    node.addresses.insert(POD, Owner { kind: LOCAL_POD, link: 99, ends: macs }, 0).unwrap();
    let asked = tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b"");
    let (verdict, there) = node.run("uplink_ingress", &asked);
    assert_eq!((verdict, ends(&there)), (REDIRECT, ((CLIENT, 40000), (POD, 8080))));
    assert_eq!((&there[..12], there[22]), (&macs[..], 63), "its neighbours, and one hop");
    let mut echo = tcp((FAR_POD, 0), (POD, 0), ACK, b"ping");
    echo[23] = 1;
    for (what, frame) in [
        ("a pod of another node", tcp((FAR_POD, 40000), (POD, 8080), SYN, b"")),
        ("a datagram", udp((FAR_POD, 40000), (POD, 8080), b"x")),
        ("another protocol", echo),
    ] {
        for program in ["uplink_ingress", "pod_egress"] {
            let (verdict, out) = node.run(program, &frame);
            assert_eq!((verdict, &out[..12], out[22]), (REDIRECT, &macs[..], 63), "{what} at {program}");
            assert_eq!(out[26..], frame[26..], "{what} at {program}: nothing else has changed");
        }
    }
    let builder = PacketBuilder::ethernet2([2; 6], RECEIVER).ipv4(FAR_POD, POD, 1).tcp(40000, 8080, 1, 64000);
    let mut last = Vec::new();
    builder.syn().write(&mut last, b"").unwrap();
    assert_eq!(node.run("pod_egress", &last), (GO_ON, last), "the stack says that its time was exceeded");
}
