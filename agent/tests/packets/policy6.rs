//! The same of IPv6: what NetworkPolicies let through, packet by packet.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use oarlock_ebpf::flow::{LOCAL_POD, Owner};
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::policy::{
    ANYBODY, Allowed, EVERY_PROTOCOL, INGRESS, Isolation, ONE_PORT, Rule, judged6, rule,
};
use oarlock_ebpf::{maps, reason::Reason};

use super::frames::{ACK, GO_ON, REDIRECT, SHOT, SYN, SYN_ACK, TCP, UDP};
use super::six::{CLIENT, End, FAR_POD, Ip, NODE_1, OUTSIDE, POD, Six, packet, tcp, udp};

/// The loopback's number, where tests of tc run.
const LINK: u32 = 1;
const FRIEND: u32 = 77;
const WORLD: u32 = 78;
const COMES: u32 = 5;
const GOES: u32 = 6;

/// A node whose pod policies select: its port 8080 is the far pod's, and it may ask for HTTPS in 2001:db8::/32.
struct Isolated {
    six: Six,
    isolated: HashMap<MapData, u32, Isolation>,
    identities: LpmTrie<MapData, Ip, u32>,
    rules: LpmTrie<MapData, Rule, u32>,
    allowed: HashMap<MapData, Flow6, Allowed>,
    revision: Array<MapData, u32>,
}

impl Isolated {
    fn new() -> Self {
        let mut six = Six::new();
        let owner = Owner { kind: LOCAL_POD, link: LINK, ends: [2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 1] };
        six.addresses.insert(POD, owner, 0).unwrap();
        let mut this = Self {
            isolated: six.node.map(maps::ISOLATED),
            identities: six.node.map(maps::IDENTITIES6),
            rules: six.node.map(maps::RULES),
            allowed: six.node.map(maps::ALLOWED6),
            revision: six.node.map(maps::POLICIES),
            six,
        };
        let isolation = Isolation { address: [10, 244, 0, 5], ingress: COMES, egress: GOES, address6: POD };
        this.isolated.insert(LINK, isolation, 0).unwrap();
        this.identities.insert(&Key::new(128, FAR_POD), FRIEND, 0).unwrap();
        this.identities.insert(&Key::new(32, OUTSIDE), WORLD, 0).unwrap();
        this.allow(ONE_PORT, rule(COMES, FRIEND, TCP, 8080));
        this.allow(ONE_PORT, rule(GOES, WORLD, TCP, 443));
        this.revision.set(0, 1, 0).unwrap();
        this
    }

    fn allow(&mut self, bits: u32, data: Rule) {
        self.rules.insert(&Key::new(bits, data), 1, 0).unwrap();
    }

    /// Whether a packet comes to the pod by the uplink.
    fn enters(&mut self, frame: &[u8]) -> bool {
        match self.six.run("uplink_ingress", frame).0 {
            REDIRECT => true,
            SHOT => false,
            other => panic!("{other}"),
        }
    }

    /// Whether one leaves the pod.
    fn leaves(&mut self, frame: &[u8]) -> bool {
        match self.six.run("pod_egress", frame).0 {
            GO_ON | REDIRECT => true,
            SHOT => false,
            other => panic!("{other}"),
        }
    }

    /// Whether one comes to the pod by the node's stack, from this link; 0: from the node itself.
    fn enters_by_stack(&mut self, from_link: u32, frame: &[u8]) -> bool {
        let program: &mut SchedClassifier =
            self.six.node.ebpf.program_mut("pod_ingress").unwrap().try_into().unwrap();
        // struct __sk_buff (include/uapi/linux/bpf.h): ingress_ifindex is its tenth word.
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&from_link.to_ne_bytes());
        let options =
            TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() };
        program.test_run(options).unwrap().return_value.cast_signed() == GO_ON
    }
}

fn icmp(from: Ip, to: Ip, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    packet(from, to, 64).icmpv6_raw(kind, 0, [0; 4]).write(&mut frame, payload).unwrap();
    frame
}

const fn at(ip: Ip, port: u16) -> End {
    (ip, port)
}

#[test]
fn only_who_is_allowed_comes_in_and_is_answered() {
    let mut node = Isolated::new();
    assert!(node.enters(&tcp(at(FAR_POD, 40000), at(POD, 8080), SYN, b"")));
    assert!(node.leaves(&tcp(at(POD, 8080), at(FAR_POD, 40000), SYN_ACK, b"")), "its answer");
    assert!(node.enters(&tcp(at(FAR_POD, 40000), at(POD, 8080), ACK, b"GET")));
    for (what, frame) in [
        ("another port", tcp(at(FAR_POD, 40000), at(POD, 8081), SYN, b"")),
        ("another protocol", udp(at(FAR_POD, 40000), at(POD, 8080), b"q")),
        ("a stranger", tcp(at(CLIENT, 40000), at(POD, 8080), SYN, b"")),
        ("a stranger's later packet", tcp(at(CLIENT, 40000), at(POD, 8080), ACK, b"x")),
        ("a stranger by a NodePort", tcp(at(CLIENT, 40000), at(NODE_1, 30080), SYN, b"")),
    ] {
        assert!(!node.enters(&frame), "{what}");
    }
    assert!(node.enters(&tcp(at(FAR_POD, 40001), at(NODE_1, 30080), SYN, b"")), "a friend by a NodePort");
    assert!(node.leaves(&tcp(at(POD, 8080), at(FAR_POD, 40001), SYN_ACK, b"")), "answered as that");
    assert!(!node.leaves(&tcp(at(POD, 8080), at(CLIENT, 40000), SYN_ACK, b"")), "an answer to nothing");
    assert_eq!(node.six.node.counted(Reason::PolicyDenied), 6);
}

#[test]
fn the_pod_asks_only_whom_it_may_and_as_itself() {
    let mut node = Isolated::new();
    assert!(node.leaves(&tcp(at(POD, 50000), at(OUTSIDE, 443), SYN, b"")));
    assert!(node.enters(&tcp(at(OUTSIDE, 443), at(POD, 50000), SYN_ACK, b"")), "the answer");
    assert!(!node.enters(&tcp(at(OUTSIDE, 443), at(POD, 50001), SYN_ACK, b"")), "an answer to nothing");
    assert!(!node.leaves(&tcp(at(POD, 50000), at(OUTSIDE, 80), SYN, b"")), "another port");
    assert!(!node.leaves(&tcp(at(POD, 50000), at(FAR_POD, 443), SYN, b"")), "outside the range");
    assert!(!node.leaves(&tcp(at(FAR_POD, 50000), at(OUTSIDE, 443), SYN, b"")), "with another's address");
    assert!(node.leaves(&tcp(at(POD, 50000), at(NODE_1, 10250), SYN, b"")), "its own node");
}

#[test]
fn neighbours_and_errors_always_pass_and_other_icmp_by_rules_without_ports() {
    let mut node = Isolated::new();
    let link_local: Ip = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
    let solicited: Ip = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    for source in [link_local, [0; 16], POD] {
        assert!(node.leaves(&icmp(source, solicited, 135, &POD)), "a neighbour's solicitation");
    }
    let too_big = icmp(OUTSIDE, POD, 2, &tcp(at(POD, 1), at(OUTSIDE, 2), ACK, b"")[14..]);
    assert!(node.enters(&too_big), "a packet was too big");
    assert!(
        node.leaves(&icmp(POD, CLIENT, 1, &udp(at(CLIENT, 1), at(POD, 2), b"q")[14..])),
        "nobody listens"
    );
    let echo = icmp(FAR_POD, POD, 128, b"ping");
    let mut hidden = tcp(at(FAR_POD, 40000), at(POD, 8080), SYN, b"");
    hidden[20] = 60;
    hidden[18..20].copy_from_slice(&28_u16.to_be_bytes());
    hidden.splice(54..54, [TCP, 0, 1, 4, 0, 0, 0, 0]);
    for (what, frame) in [("an echo request", &echo), ("TCP behind options", &hidden)] {
        assert!(!node.enters(frame), "{what}");
    }
    node.allow(EVERY_PROTOCOL, rule(COMES, FRIEND, 0, 0));
    for (what, frame) in [("an echo request", &echo), ("TCP behind options", &hidden)] {
        assert!(node.enters(frame), "{what}");
    }
    assert!(!node.enters(&icmp(CLIENT, POD, 128, b"ping")), "of a stranger");
}

#[test]
fn what_comes_by_the_stack_is_judged_too_but_not_the_nodes_own() {
    let mut node = Isolated::new();
    node.six.addresses.insert(POD, Owner::by_routes(LOCAL_POD), 0).unwrap();
    let stranger = tcp(at(CLIENT, 40000), at(POD, 8080), SYN, b"");
    assert!(!node.enters_by_stack(LINK, &stranger));
    assert!(node.enters_by_stack(0, &stranger), "the node's own");
    assert!(node.enters_by_stack(LINK, &tcp(at(FAR_POD, 40000), at(POD, 8080), SYN, b"")));
    assert!(!node.enters_by_stack(LINK, &icmp(CLIENT, POD, 128, b"ping")));
}

#[test]
fn a_policy_that_is_tightened_ends_what_it_had_allowed() {
    let mut node = Isolated::new();
    node.allow(ONE_PORT, rule(COMES, ANYBODY, UDP, 53));
    let asked = udp(at(CLIENT, 40000), at(POD, 53), b"q");
    let more = tcp(at(FAR_POD, 40000), at(POD, 8080), ACK, b"more");
    assert!(node.enters(&asked));
    assert!(node.enters(&tcp(at(FAR_POD, 40000), at(POD, 8080), SYN, b"")));
    node.rules.remove(&Key::new(ONE_PORT, rule(COMES, FRIEND, TCP, 8080))).unwrap();
    assert!(node.enters(&more), "until it is said");
    node.revision.set(0, 2, 0).unwrap();
    assert!(!node.enters(&more));
    assert!(!node.leaves(&tcp(at(POD, 8080), at(FAR_POD, 40000), ACK, b"")), "nor is it answered");
    assert!(node.enters(&asked), "what is allowed still");
    // A connection that the agent has found when the pod was isolated: judged by who has begun it.
    let begun = Flow6::new(at(FAR_POD, 41000), at(POD, 8080), TCP);
    node.allow(ONE_PORT, rule(COMES, FRIEND, TCP, 8080));
    node.allowed.insert(judged6(begun, INGRESS), Allowed::new(0, 0, 1), 0).unwrap();
    assert!(node.leaves(&tcp(at(POD, 8080), at(FAR_POD, 41000), ACK, b"said before")));
}

#[test]
fn without_policies_nothing_is_judged() {
    let mut node = Isolated::new();
    node.revision.set(0, 0, 0).unwrap();
    assert!(node.enters(&tcp(at(CLIENT, 40000), at(POD, 8080), SYN, b"")));
    assert!(node.leaves(&tcp(at(FAR_POD, 50000), at(OUTSIDE, 80), SYN, b"")));
    assert_eq!(node.six.node.counted(Reason::PolicyDenied), 0);
}
