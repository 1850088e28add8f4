//! What NetworkPolicies let through, packet by packet. Tests of tc run as if frames had come by the loopback, so that is the pod's
//! link here.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use etherparse::{Icmpv4Type, PacketBuilder};
use oarlock_ebpf::flow::{Flow, LOCAL_POD, Owner};
use oarlock_ebpf::policy::{ANYBODY, Allowed, EVERY_PORT, EVERY_PROTOCOL, Isolation, ONE_PORT, Rule, rule};
use oarlock_ebpf::{maps, reason::Reason};

use super::frames::*;

/// The loopback's number.
const LINK: u32 = 1;
const FRIEND: u32 = 77;
const SCTP: u8 = 132;

/// A node whose pod policies select.
struct Isolated {
    node: Node,
    isolated: HashMap<MapData, u32, Isolation>,
    identities: LpmTrie<MapData, [u8; 4], u32>,
    rules: LpmTrie<MapData, Rule, u32>,
    allowed: HashMap<MapData, Flow, Allowed>,
    revision: Array<MapData, u32>,
}

impl Isolated {
    /// With these numbers for what comes and what goes. The client is a friend.
    fn new(ingress: u32, egress: u32) -> Self {
        let mut node = Node::new(false);
        let owner = Owner { kind: LOCAL_POD, link: LINK, ends: [2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 1] };
        node.addresses.insert(POD, owner, 0).unwrap();
        let mut this = Self {
            isolated: node.map(maps::ISOLATED),
            identities: node.map(maps::IDENTITIES),
            rules: node.map(maps::RULES),
            allowed: node.map(maps::ALLOWED),
            revision: node.map(maps::POLICIES),
            node,
        };
        this.isolated
            .insert(LINK, Isolation { address: POD, ingress, egress, address6: [0; 16] }, 0)
            .unwrap();
        this.identities.insert(&Key::new(32, CLIENT), FRIEND, 0).unwrap();
        this.revision.set(0, 1, 0).unwrap();
        this
    }

    fn allow(mut self, bits: u32, data: Rule) -> Self {
        self.rules.insert(&Key::new(bits, data), 1, 0).unwrap();
        self
    }

    /// Whether a packet comes to the pod by the uplink.
    fn enters(&mut self, frame: &[u8]) -> bool {
        match self.node.run("uplink_ingress", frame).0 {
            REDIRECT => true,
            SHOT => false,
            other => panic!("{other}"),
        }
    }

    /// Whether one leaves the pod.
    fn leaves(&mut self, frame: &[u8]) -> bool {
        match self.node.run("pod_egress", frame).0 {
            GO_ON | REDIRECT => true,
            SHOT => false,
            other => panic!("{other}"),
        }
    }

    /// Whether one comes to the pod by the node's stack, from this link; 0: from the node itself.
    fn enters_by_stack(&mut self, from_link: u32, frame: &[u8]) -> bool {
        match self.node.run_from(from_link, "pod_ingress", frame).0 {
            GO_ON => true,
            SHOT => false,
            other => panic!("{other}"),
        }
    }
}

fn ping(from: [u8; 4], to: [u8; 4], kind: u8) -> Vec<u8> {
    let kind = Icmpv4Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: [0; 4] };
    let mut frame = Vec::new();
    ip((from, 0), (to, 0)).icmpv4(kind).write(&mut frame, b"").unwrap();
    frame
}

const STRANGER: [u8; 4] = [172, 30, 77, 201];

#[test]
fn a_pod_that_no_policy_selects_is_free() {
    let mut node = Isolated::new(0, 0);
    node.isolated.remove(&LINK).unwrap();
    assert!(node.enters(&tcp((STRANGER, 5), (POD, 80), SYN, b"")));
    assert!(node.leaves(&tcp((POD, 80), (STRANGER, 5), SYN_ACK, b"")));
}

#[test]
fn only_who_is_allowed_comes_in_and_its_answers_leave() {
    let allowed = rule(5, FRIEND, TCP, 80);
    // Nothing at all is allowed to leave but answers.
    let mut node = Isolated::new(5, 6).allow(ONE_PORT, allowed);
    assert!(!node.enters(&tcp((STRANGER, 5), (POD, 80), SYN, b"")));
    assert!(!node.enters(&tcp((CLIENT, 5), (POD, 81), SYN, b"")));
    assert!(!node.enters(&udp((CLIENT, 5), (POD, 80), b"x")));
    assert!(!node.leaves(&tcp((POD, 80), (CLIENT, 5), SYN_ACK, b"")), "of no connection");
    assert_eq!(node.node.counted(Reason::PolicyDenied), 4);
    assert!(node.enters(&tcp((CLIENT, 5), (POD, 80), SYN, b"")));
    assert!(node.leaves(&tcp((POD, 80), (CLIENT, 5), SYN_ACK, b"")));
    assert!(node.enters(&tcp((CLIENT, 5), (POD, 80), ACK, b"x")));
    assert!(!node.leaves(&tcp((POD, 81), (CLIENT, 5), SYN_ACK, b"")), "of another port");
    assert!(!node.leaves(&tcp((POD, 5000), (CLIENT, 80), SYN, b"")), "what the pod begins");
    assert_eq!(node.node.counted(Reason::PolicyDenied), 6);
}

#[test]
fn answers_come_back_to_a_pod_that_nobody_may_talk_to() {
    let mut node = Isolated::new(5, 0);
    assert!(!node.enters(&tcp((STRANGER, 443), (POD, 5000), SYN_ACK, b"")));
    assert!(node.leaves(&tcp((POD, 5000), (STRANGER, 443), SYN, b"")));
    assert!(node.enters(&tcp((STRANGER, 443), (POD, 5000), SYN_ACK, b"")));
    assert!(!node.enters(&tcp((STRANGER, 444), (POD, 5000), SYN_ACK, b"")));
    assert!(node.leaves(&udp((POD, 5000), (STRANGER, 53), b"?")));
    assert!(node.enters(&udp((STRANGER, 53), (POD, 5000), b"!")));
}

#[test]
fn rules_for_all_ports_and_all_protocols_and_everybody_are_what_they_say() {
    let mut ports = Isolated::new(5, 0).allow(EVERY_PORT, rule(5, ANYBODY, UDP, 0));
    assert!(
        ports.enters(&udp((STRANGER, 1), (POD, 9), b""))
            && !ports.enters(&tcp((CLIENT, 1), (POD, 9), SYN, b""))
    );
    let mut range = Isolated::new(5, 0).allow(ONE_PORT - 4, rule(5, ANYBODY, TCP, 0x50));
    for (port, expected) in [(0x4f, false), (0x50, true), (0x5f, true), (0x60, false)] {
        assert_eq!(range.enters(&tcp((STRANGER, 1), (POD, port), SYN, b"")), expected, "{port:#x}");
    }
    let mut all = Isolated::new(5, 0).allow(EVERY_PROTOCOL, rule(5, FRIEND, 0, 0));
    assert!(all.enters(&tcp((CLIENT, 1), (POD, 9), SYN, b"")) && all.enters(&ping(CLIENT, POD, 8)));
    assert!(!all.enters(&ping(STRANGER, POD, 8)));
    let mut ports = Isolated::new(5, 6).allow(ONE_PORT, rule(6, ANYBODY, SCTP, 132));
    let sctp = |port: u16| {
        let mut frame = Vec::new();
        let head = [&[0x10, 0][..], &port.to_be_bytes(), &[0; 8]].concat();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], RECEIVER)
            .ipv4(POD, STRANGER, 64)
            .write(&mut frame, etherparse::IpNumber(SCTP), &head)
            .unwrap();
        frame
    };
    assert!(ports.leaves(&sctp(132)) && !ports.leaves(&sctp(133)));
}

#[test]
fn node_ports_are_judged_by_who_asks_not_by_whom_it_is_translated_to() {
    let mut node = Isolated::new(5, 0).allow(ONE_PORT, rule(5, FRIEND, TCP, 8080));
    assert!(!node.enters(&tcp((STRANGER, 5), (NODE_1, 30080), SYN, b"")));
    assert!(node.enters(&tcp((CLIENT, 5), (NODE_1, 30080), SYN, b"")));
    let answer = tcp((POD, 8080), (CLIENT, 5), SYN_ACK, b"");
    let (verdict, back) = node.node.run("pod_egress", &answer);
    assert_eq!((verdict, ends(&back)), (REDIRECT, ((NODE_1, 30080), (CLIENT, 5))));
}

#[test]
fn the_node_itself_and_errors_pass_whatever_the_policies() {
    let mut node = Isolated::new(5, 6);
    assert!(node.leaves(&tcp((POD, 5000), (NODE_1, 10250), SYN, b"")));
    assert!(node.enters_by_stack(0, &tcp((NODE_1, 5000), (POD, 80), SYN, b"")));
    assert!(!node.enters_by_stack(2, &tcp((STRANGER, 5000), (POD, 80), SYN, b"")));
    for kind in [3, 11, 12] {
        assert!(node.enters(&ping(STRANGER, POD, kind)) && node.leaves(&ping(POD, STRANGER, kind)));
    }
    assert!(!node.enters(&ping(STRANGER, POD, 8)) && !node.leaves(&ping(POD, STRANGER, 0)));
    assert!(node.enters(&tcp((POD, 5000), (POD, 80), SYN, b"")), "from itself");
}

#[test]
fn nobody_leaves_with_an_address_that_is_not_the_pods() {
    let mut node = Isolated::new(0, 6).allow(EVERY_PROTOCOL, rule(6, ANYBODY, 0, 0));
    assert!(node.leaves(&tcp((POD, 5), (STRANGER, 80), SYN, b"")));
    assert!(!node.leaves(&tcp((CLIENT, 5), (STRANGER, 80), SYN, b"")));
}

#[test]
fn a_change_of_policies_is_felt_by_connections_that_there_are() {
    let mut node = Isolated::new(5, 6).allow(ONE_PORT, rule(5, FRIEND, TCP, 80));
    assert!(node.enters(&tcp((CLIENT, 5), (POD, 80), SYN, b"")));
    node.revision.set(0, 2, 0).unwrap();
    assert!(node.leaves(&tcp((POD, 80), (CLIENT, 5), ACK, b"still allowed")));
    node.rules.remove(&Key::new(ONE_PORT, rule(5, FRIEND, TCP, 80))).unwrap();
    assert!(
        node.enters(&tcp((CLIENT, 5), (POD, 80), ACK, b"remembered")),
        "nobody has said that anything changed"
    );
    node.revision.set(0, 3, 0).unwrap();
    assert!(
        !node.leaves(&tcp((POD, 80), (CLIENT, 5), ACK, b""))
            && !node.enters(&tcp((CLIENT, 5), (POD, 80), ACK, b""))
    );
    assert_eq!(node.allowed.iter().count(), 0, "and forgotten");
}

#[test]
fn another_policy_of_the_pod_judges_anew_what_the_last_one_allowed() {
    let mut node = Isolated::new(5, 0).allow(ONE_PORT, rule(5, FRIEND, TCP, 80));
    assert!(node.enters(&tcp((CLIENT, 5), (POD, 80), SYN, b"")));
    node.isolated
        .insert(LINK, Isolation { address: POD, ingress: 8, egress: 0, address6: [0; 16] }, 0)
        .unwrap();
    assert!(!node.enters(&tcp((CLIENT, 5), (POD, 80), ACK, b"")));
}

#[test]
fn only_the_first_packet_of_a_connection_is_remembered() {
    let mut node = Isolated::new(5, 0);
    assert!(node.leaves(&tcp((POD, 80), (STRANGER, 5), ACK, b"an answer to what is not allowed")));
    assert!(!node.enters(&tcp((STRANGER, 5), (POD, 80), ACK, b"")), "is no connection of the pod's");
    assert_eq!(node.allowed.iter().count(), 0);
}

#[test]
fn no_frame_however_damaged_gets_past_a_policy_that_allows_nothing() {
    let mut node = Isolated::new(5, 6);
    let whole = tcp((STRANGER, 5), (POD, 80), SYN, b"payload");
    for length in 34..whole.len() {
        // The kernel tests no shorter ones.
        let (verdict, _) = node.node.run("uplink_ingress", &whole[..length]);
        assert_ne!(verdict, REDIRECT, "{length}");
    }
    for at in 14..whole.len() {
        for value in [0, 0x45, 0xff] {
            let mut frame = whole.clone();
            frame[at] = value;
            let (verdict, _) = node.node.run("uplink_ingress", &frame);
            // Of errors, of packets to others and of what is not IPv4 there is nothing to judge.
            let is_exempt =
                frame[23] == 1 || frame[14] >> 4 != 4 || frame[30..34] != POD || frame[26..30] == POD;
            assert!(verdict != REDIRECT || is_exempt, "byte {at} = {value:#x}");
        }
    }
}
