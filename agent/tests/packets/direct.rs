//! Direct answers: what goes to the node of a pod as it came, what that node makes of it, and the pod's answers. Two nodes of tables
//! alone; what one of them sends by its tunnel comes to the other by its own.

use std::process::Command;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, MapData};
use etherparse::PacketBuilder;
use oarlock_ebpf::flow::{FIN, Flow, LOCAL_POD, Owner, Settings, TUNNEL};
use oarlock_ebpf::layout::{Backend, EXTERNAL, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::table::Bucket;
use proptest::prelude::*;

use super::counts::counts;
use super::errors::{PORT_UNREACHABLE, ROUTER, TOO_BIG, cut, error, join, read};
use super::express::{UP, Uplinked, run, to_us};
use super::frames::*;

const NODE_2: [u8; 4] = [172, 30, 77, 12];
/// The other node's end of the tunnel, and how it is told of its pod's port 8080.
const END_2: [u8; 6] = [0x0a, 0x6f, 172, 30, 77, 12];
const TO_FAR_POD: [u8; 6] = [0x0a, 0x70, 1, 5, 0x1f, 0x90];
const FAR: SlotRange = SlotRange::new(2, 1, 1);
const KNOCKED: End = (NODE_1, 30090);
const ASKED: (End, End) = ((CLIENT, 40000), KNOCKED);
const INSIDE: (End, End) = ((CLIENT, 40000), (FAR_POD, 8080));
/// Under this the Service is counted.
const NUMBER: u32 = 41;

/// The node that clients reach: pods of 10.244.1.0/24 are at another one, which answers itself.
fn first() -> Node {
    let mut node = Node::new(false);
    hand_over(&mut node);
    node
}

fn hand_over(node: &mut Node) {
    let known = node.settings.get(&0, 0).unwrap();
    node.settings.set(0, Settings { overlay: 77, flags: known.flags | TUNNEL, ..known }, 0).unwrap();
    let mut direct: LpmTrie<MapData, [u8; 4], [u8; 4]> = node.map(maps::DIRECT);
    direct.insert(&Key::new(24, [10, 244, 1, 0]), NODE_2, 0).unwrap();
    let line = ServiceLine::new(FAR, FAR, 7, 0, EXTERNAL).counted_as(NUMBER);
    node.publish(KNOCKED, TCP, line);
}

/// The pod's node, to which tests come by its tunnel, in a namespace with an uplink to the client.
fn second() -> Node {
    let Uplinked { mut node, .. } = Uplinked::new();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let loopback = nix::net::if_::if_nametoindex("lo").unwrap();
    let known = node.settings.get(&0, 0).unwrap();
    let of_node = Settings {
        node: NODE_2,
        overlay: loopback,
        overlay_address: [10, 244, 1, 0],
        flags: known.flags | TUNNEL,
        ..known
    };
    node.settings.set(0, of_node, 0).unwrap();
    node.addresses.insert(FAR_POD, Owner::by_routes(LOCAL_POD), 0).unwrap();
    // By its own address clients meet the same Service.
    let line = ServiceLine::new(FAR, FAR, 7, 0, EXTERNAL).counted_as(NUMBER + 1);
    node.publish((NODE_2, KNOCKED.1), TCP, line);
    node
}

/// A frame that the first node has sent as it comes by the tunnel of the second. Tests run as if by the loopback's.
fn by_tunnel(frame: &[u8]) -> Vec<u8> {
    assert_eq!(frame[..6], END_2, "to the other node");
    [&RECEIVER[..], &frame[6..]].concat()
}

/// The same of a frame that says so of a pod of the second node.
fn saying(pod: [u8; 2], port: u16, frame: &[u8]) -> Vec<u8> {
    let said = [&[0x0a, 0x70][..], &pod, &port.to_be_bytes()].concat();
    [&RECEIVER[..], &said, &frame[12..]].concat()
}

fn lines(node: &mut Node) -> usize {
    let table: Array<MapData, Bucket> = node.map(maps::FLOWS);
    (0..table.len()).map(|number| table.get(&number, 0).unwrap().flows().count()).sum()
}

#[test]
fn what_is_for_a_pod_elsewhere_goes_to_its_node_as_it_came() {
    let mut node = first();
    let table = node.map(maps::SERVICE_COUNTS);
    let mut bytes = 0;
    for flags in [SYN, SYN, ACK, ACK] {
        let asked = tcp(ASKED.0, ASKED.1, flags, b"x");
        bytes += asked.len() as u64 - 14;
        let (verdict, there) = node.run("uplink_ingress", &asked);
        assert_eq!((verdict, ends(&there), there[22]), (REDIRECT, ASKED, 63), "{flags}");
        assert_eq!((&there[..6], &there[6..12]), (&END_2[..], &TO_FAR_POD[..]));
        assert_eq!(rest(&there, 34)[12..], rest(&asked, 34)[12..], "nothing else has changed");
    }
    assert_eq!(node.counted(Reason::Translated), 1, "the connection, not each packet");
    let counted = counts(&table, NUMBER);
    assert_eq!((counted.packets, counted.bytes, counted.begun), ([4, 0], [bytes, 0], [0, 1]));
    assert_eq!(lines(&mut node), 1, "answers do not come by here");
}

#[test]
fn pods_here_and_pods_of_nodes_that_do_not_answer_themselves_are_served_as_ever() {
    let mut node = first();
    let (verdict, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (POD, 8080))));
    node.backends.set(2, Backend::new([10, 244, 2, 5], 8080, 2), 0).unwrap();
    let (verdict, there) = node.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, SYN, b""));
    assert_eq!((verdict, ends(&there).0.0, ends(&there).1), (REDIRECT, NODE_1, ([10, 244, 2, 5], 8080)));
}

#[test]
fn a_packet_without_a_hop_left_is_not_handed_over() {
    let mut node = first();
    let builder = PacketBuilder::ethernet2([2; 6], RECEIVER).ipv4(CLIENT, NODE_1, 1);
    let mut last = Vec::new();
    builder.tcp(40000, KNOCKED.1, 1, 64000).syn().write(&mut last, b"").unwrap();
    assert_eq!(node.run("uplink_ingress", &last).0, SHOT);
}

#[test]
fn the_pods_node_shows_it_the_client_and_answers_as_the_service_by_its_own_uplink() {
    let (mut one, mut two) = (first(), second());
    let table = two.map(maps::SERVICE_COUNTS);
    for flags in [SYN, ACK] {
        let (_, sent) = one.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, flags, b"x"));
        let (verdict, there) = two.run("uplink_ingress", &by_tunnel(&sent));
        assert_eq!((verdict, ends(&there)), (GO_ON, INSIDE), "by the node's routes: its link is not known");
        let (verdict, back) = two.run("pod_egress", &tcp(INSIDE.1, INSIDE.0, flags | ACK, b""));
        assert_eq!((verdict, ends(&back), back[22]), (REDIRECT, (KNOCKED, ASKED.0), 63));
    }
    assert_eq!((two.counted(Reason::Direct), two.counted(Reason::Translated)), (1, 0));
    let counted = counts(&table, NUMBER + 1);
    assert_eq!(
        (counted.packets, counted.begun),
        ([0, 2], [0, 0]),
        "what comes in is the first node's to count"
    );

    let ends_known: [u8; 12] = [[7; 6], [8; 6]].concat().try_into().unwrap();
    two.addresses.insert(FAR_POD, Owner { kind: LOCAL_POD, link: 99, ends: ends_known }, 0).unwrap();
    let (_, sent) = one.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, ACK, b"x"));
    let (verdict, there) = two.run("uplink_ingress", &by_tunnel(&sent));
    assert_eq!((verdict, &there[..12], there[22]), (REDIRECT, &ends_known[..], 62), "straight into the pod");
}

#[test]
fn a_node_that_has_forgotten_its_flows_goes_on_in_the_middle_of_a_connection() {
    let mut one = first();
    for flags in [SYN, ACK] {
        let (_, sent) = one.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, flags, b"x"));
        let mut two = second();
        assert_eq!(ends(&two.run("uplink_ingress", &by_tunnel(&sent)).1), INSIDE);
        let (_, back) = two.run("pod_egress", &tcp(INSIDE.1, INSIDE.0, ACK, b""));
        assert_eq!(ends(&back), (KNOCKED, ASKED.0));
    }
}

#[test]
fn what_names_no_pod_of_the_node_goes_nowhere() {
    let mut node = second();
    let asked = tcp(ASKED.0, ASKED.1, SYN, b"");
    let mut echo = asked.clone();
    echo[23] = 1;
    let not_ours = saying([1, 6], 8080, &asked);
    let no_ports = saying([1, 5], 8080, &echo);
    for frame in [&not_ours, &no_ports] {
        assert_eq!(node.run("uplink_ingress", frame).0, SHOT);
    }
    assert_eq!((node.counted(Reason::DirectUnknown), lines(&mut node)), (2, 0));
    // By another link, or where the overlay is somebody else's, frames say nothing.
    let known = node.settings.get(&0, 0).unwrap();
    for settings in [Settings { overlay: 77, ..known }, Settings { flags: 0, ..known }] {
        node.settings.set(0, settings, 0).unwrap();
        assert_eq!(node.run("uplink_ingress", &not_ours), (GO_ON, not_ours.clone()));
    }
    node.settings.set(0, known, 0).unwrap();
    let (verdict, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (FAR_POD, 80), SYN, b""));
    assert_eq!((verdict, ends(&there).1), (GO_ON, (FAR_POD, 80)), "without a word of a pod it is as ever");
}

#[test]
fn the_first_nodes_choice_holds() {
    let mut node = second();
    node.addresses.insert([10, 244, 1, 6], Owner::by_routes(LOCAL_POD), 0).unwrap();
    let asked = tcp(ASKED.0, ASKED.1, SYN, b"");
    assert_eq!(ends(&node.run("uplink_ingress", &saying([1, 5], 8080, &asked)).1), INSIDE);
    let (_, there) = node.run("uplink_ingress", &saying([1, 6], 80, &asked));
    assert_eq!(ends(&there), (ASKED.0, ([10, 244, 1, 6], 80)), "chosen anew for a port that came again");
    let (_, back) = node.run("pod_egress", &tcp(([10, 244, 1, 6], 80), ASKED.0, SYN_ACK, b""));
    assert_eq!(ends(&back), (KNOCKED, ASKED.0));
    let late = tcp(INSIDE.1, INSIDE.0, ACK, b"");
    assert_eq!(node.run("pod_egress", &late), (GO_ON, late.clone()), "the other one is nobody's any more");
    assert_eq!(lines(&mut node), 2);
}

#[test]
fn a_client_port_that_comes_by_two_frontends_is_told_apart() {
    let mut node = second();
    let balanced = ([192, 0, 2, 7], 80);
    let (_, one) = node.run("uplink_ingress", &saying([1, 5], 8080, &tcp(ASKED.0, ASKED.1, SYN, b"")));
    let (_, other) = node.run("uplink_ingress", &saying([1, 5], 8080, &tcp(ASKED.0, balanced, SYN, b"")));
    let told = ends(&other).0;
    assert_eq!((ends(&one), told.0, ends(&other).1), (INSIDE, CLIENT, (FAR_POD, 8080)));
    assert_ne!(told.1, 40000);
    for (to, is) in [(ASKED.0, KNOCKED), (told, balanced)] {
        let (verdict, back) = node.run("pod_egress", &tcp((FAR_POD, 8080), to, SYN_ACK, b""));
        assert_eq!((verdict, ends(&back)), (REDIRECT, (is, ASKED.0)));
    }
    let (_, more) = node.run("uplink_ingress", &saying([1, 5], 8080, &tcp(ASKED.0, balanced, ACK, b"x")));
    assert_eq!(ends(&more), ends(&other), "one connection, one port");
}

#[test]
fn a_pod_that_knocks_at_another_node_may_be_its_own_backend() {
    let mut node = second();
    let asked = ((FAR_POD, 40000), KNOCKED);
    let (verdict, there) =
        node.run("uplink_ingress", &saying([1, 5], 8080, &tcp(asked.0, asked.1, SYN, b"")));
    let (source, destination) = ends(&there);
    assert_eq!(
        (verdict, source.0, destination),
        (GO_ON, NODE_2, (FAR_POD, 8080)),
        "it sees the node, not itself"
    );
    let (_, back) = node.run("pod_egress", &tcp(destination, source, SYN_ACK, b""));
    assert_eq!(ends(&back), (KNOCKED, asked.0));
}

#[test]
fn a_connection_that_its_client_has_ended_and_one_to_a_backend_that_is_gone_give_way() {
    let both = SlotRange::new(1, 2, 1);
    for end in [RST, ACK | FIN] {
        let mut node = first();
        node.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, SYN, b""));
        node.publish(
            KNOCKED,
            TCP,
            ServiceLine::new(SlotRange::new(1, 1, 1), SlotRange::new(1, 1, 1), 7, 0, EXTERNAL),
        );
        let (verdict, again) = node.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, SYN, b""));
        assert_eq!((verdict, &again[6..12]), (REDIRECT, &TO_FAR_POD[..]), "sent again, not begun again");
        node.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, end, b""));
        let (_, anew) = node.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, SYN, b""));
        assert_eq!(ends(&anew).1, (POD, 8080), "of the Service as it is by now");
    }
    let mut node = first();
    node.publish((NODE_1, 30084), UDP, ServiceLine::new(FAR, FAR, 8, 0, EXTERNAL));
    let asked = udp((CLIENT, 5000), (NODE_1, 30084), b"x");
    assert_eq!(node.run("uplink_ingress", &asked).1[6..12], TO_FAR_POD);
    node.backends.set(2, Backend::new([10, 244, 1, 9], 53, 2), 0).unwrap();
    assert_eq!(
        node.run("uplink_ingress", &asked).1[8..12],
        [1, 9, 0, 53],
        "another datagram, another backend"
    );
    node.publish(KNOCKED, TCP, ServiceLine::new(both, both, 7, 0, EXTERNAL));
    let hit: Vec<bool> = (0..4)
        .map(|port| node.run("uplink_ingress", &tcp((CLIENT, 41000 + port), KNOCKED, SYN, b"")).0 == REDIRECT)
        .collect();
    assert_eq!(hit.iter().filter(|handed| **handed).count(), 2, "in turn, here and there: {hit:?}");
}

#[test]
fn errors_about_answers_come_to_the_pod_and_those_of_the_pod_to_its_client() {
    let (mut one, mut two) = (first(), second());
    let (_, sent) = one.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, SYN, b""));
    two.run("uplink_ingress", &by_tunnel(&sent));
    let answer = tcp(INSIDE.1, INSIDE.0, ACK, &[7; 100]);
    let (_, back) = two.run("pod_egress", &answer);
    // To the address that the answer has: that of the node that the client has reached.
    let too_big = error(ROUTER, NODE_1, TOO_BIG, &back, 8);
    let (verdict, sent) = one.run("uplink_ingress", &too_big);
    assert_eq!((verdict, &sent[6..12], sent[22]), (REDIRECT, &TO_FAR_POD[..], 63));
    assert_eq!((&sent[26..], read(&sent).1), (&too_big[26..], NODE_1), "as it came");
    let (verdict, told) = two.run("uplink_ingress", &by_tunnel(&sent));
    let (from, to, quoted) = read(&told);
    assert_eq!((verdict, from, to), (GO_ON, ROUTER, FAR_POD));
    assert_eq!(quoted[12..], answer[26..42], "the pod's addresses, ports and number");
    assert_eq!((one.counted(Reason::Reported), two.counted(Reason::Reported)), (0, 1));

    one.publish((NODE_1, 30084), UDP, ServiceLine::new(FAR, FAR, 8, 0, EXTERNAL));
    let asked = udp((CLIENT, 5000), (NODE_1, 30084), b"question");
    let (_, sent) = one.run("uplink_ingress", &asked);
    let (_, there) = two.run("uplink_ingress", &by_tunnel(&sent));
    let (verdict, told) = two.run("pod_egress", &error(FAR_POD, CLIENT, PORT_UNREACHABLE, &there, 8));
    let (from, to, quoted) = read(&told);
    assert_eq!((verdict, from, to), (REDIRECT, NODE_1, CLIENT));
    assert_eq!(quoted[12..], asked[26..42], "what the client has sent");
    let stranger =
        saying([1, 5], 8080, &error(ROUTER, NODE_1, TOO_BIG, &tcp(KNOCKED, (CLIENT, 1), ACK, b""), 8));
    assert_eq!(two.run("uplink_ingress", &stranger).0, SHOT, "about nothing that this node knows");
}

#[test]
fn all_fragments_of_a_datagram_are_handed_over_and_answered() {
    let (mut one, mut two) = (first(), second());
    one.publish((NODE_1, 30084), UDP, ServiceLine::new(FAR, FAR, 8, 0, EXTERNAL));
    let payload: Vec<u8> = (0..=255).cycle().take(1001).collect();
    let parts = cut(&udp((CLIENT, 5000), (NODE_1, 30084), &payload), 512, 9);
    let there: Vec<_> = parts
        .iter()
        .map(|part| two.run("uplink_ingress", &by_tunnel(&one.run("uplink_ingress", part).1)).1)
        .collect();
    assert_eq!(ends(&join([&there[0], &there[1]])), ((CLIENT, 5000), (FAR_POD, 8080)));
    let answer = cut(&udp((FAR_POD, 8080), (CLIENT, 5000), &payload), 256, 9);
    let back: Vec<_> = answer.iter().map(|part| two.run("pod_egress", part).1).collect();
    assert_eq!(ends(&join([&back[0], &back[1]])), ((NODE_1, 30084), (CLIENT, 5000)));
}

#[test]
fn frames_of_xdp_go_up_to_tc_which_hands_them_over() {
    let Uplinked { mut node, number } = Uplinked::new();
    hand_over(&mut node);
    for flags in [SYN, ACK] {
        let frame = to_us(tcp(ASKED.0, ASKED.1, flags, b"x"));
        assert_eq!(run(&mut node, number, &frame), (UP, frame.clone()));
        let (verdict, there) = node.run("uplink_ingress", &tcp(ASKED.0, ASKED.1, flags, b"x"));
        assert_eq!((verdict, &there[6..12]), (REDIRECT, &TO_FAR_POD[..]));
    }
    assert_eq!((node.counted(Reason::Translated), node.counted(Reason::Express)), (1, 0));
    // An uplink whose number is the node's address: no packet may turn round there.
    let as_number = u32::from_ne_bytes(NODE_2);
    let table: Array<MapData, Bucket> = node.map(maps::FLOWS);
    let known: Vec<(Flow, _)> =
        (0..table.len()).flat_map(|at| table.get(&at, 0).unwrap().flows().collect::<Vec<_>>()).collect();
    assert_eq!((known.len(), known[0].1.link), (1, as_number));
}

/// Whatever a frame says: what is let through is whole, and is for a pod of the node or goes to the client.
#[test]
fn no_frame_by_the_tunnel_breaks_the_program() {
    let node = std::cell::RefCell::new(second());
    let flips = proptest::collection::vec((12..80_usize, any::<u8>()), 0..6);
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(
        &(flips, 34..90_usize, 0..3, any::<bool>(), 40000..40004_u16),
        |(flips, cut, kind, known, port)| {
            let frame = match kind {
                0 => tcp((CLIENT, port), KNOCKED, SYN, &[7; 30]),
                1 => udp((CLIENT, port), KNOCKED, &[7; 40]),
                _ => error(ROUTER, NODE_1, TOO_BIG, &tcp(KNOCKED, (CLIENT, port), ACK, b""), 8),
            };
            let mut frame = saying([1, if known { 5 } else { 6 }], 8080, &frame);
            for (at, value) in flips {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            frame.truncate(cut);
            let (verdict, out) = node.borrow_mut().run("uplink_ingress", &frame);
            prop_assert_eq!((out.len(), &out[..12]), (frame.len(), &frame[..12]));
            prop_assert!(matches!(verdict, GO_ON | SHOT), "{}", verdict);
            let is_packet = frame[12..14] == [8, 0];
            prop_assert!(verdict == SHOT || !is_packet || out[30..34] == FAR_POD, "{:02x?}", out);
            Ok(())
        },
    );
    outcome.unwrap();
}
