//! Pods that are served packet by packet. Tests of tc run as if frames had come by the loopback, so that is the pod's link here.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap};
use oarlock_ebpf::flow::{LOCAL_POD, Owner, PER_PACKET, Settings};
use oarlock_ebpf::layout::{Backend, FrontendKey6, ServiceLine, SlotRange};
use oarlock_ebpf::policy::{Isolation, ONE_PORT, Rule, rule};
use oarlock_ebpf::{maps, opted_out, reason::Reason};

use super::frames::*;
use super::six::{self, Six};

/// The loopback's number.
const LINK: u32 = 1;
const ENDS: [u8; 12] = [2, 0, 0, 0, 0, 5, 2, 0, 0, 0, 0, 1];
const SERVICE: End = ([10, 96, 0, 81], 80);
const ASKER: End = (POD, 50000);

fn opt_out(node: &mut Node, link: u32) {
    let mut table: HashMap<_, u64, u32> = node.map(maps::OPTED_OUT);
    table.insert(opted_out::of_link(link), 1, 0).unwrap();
    let settings = node.settings.get(&0, 0).unwrap();
    node.settings.set(0, Settings { flags: settings.flags | PER_PACKET, ..settings }, 0).unwrap();
}

/// A node whose pod opts out, and which knows its link. The Service has the backend in this slot, or none.
fn node(slot: Option<u32>) -> Node {
    node_where(slot, LINK)
}

/// The same where the pod behind this link does.
fn node_where(slot: Option<u32>, link: u32) -> Node {
    let mut node = Node::new(false);
    opt_out(&mut node, link);
    node.addresses.insert(POD, Owner { kind: LOCAL_POD, link: LINK, ends: ENDS }, 0).unwrap();
    let range = SlotRange::new(slot.unwrap_or_default(), u16::from(slot.is_some()), 1);
    node.publish(SERVICE, TCP, ServiceLine::new(range, SlotRange::new(0, 0, 1), 9, 0, 0));
    node
}

#[test]
fn a_pod_that_opts_out_asks_a_pod_elsewhere_as_itself() {
    let mut node = node(Some(2));
    let asked = tcp(ASKER, SERVICE, SYN, b"");
    let (verdict, there) = node.run("pod_egress", &asked);
    assert_eq!((verdict, ends(&there), there[22]), (GO_ON, (ASKER, (FAR_POD, 8080)), 64));
    assert_eq!(node.run("uplink_egress", &there), (GO_ON, there), "nobody masquerades it");
    let (verdict, back) = node.run("uplink_ingress", &tcp((FAR_POD, 8080), ASKER, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back)), (REDIRECT, (SERVICE, ASKER)));
    let (_, more) = node.run("pod_egress", &tcp(ASKER, SERVICE, ACK, b"GET"));
    assert_eq!(ends(&more), (ASKER, (FAR_POD, 8080)));
    assert_eq!(node.counted(Reason::Translated), 1);
    // Another Service, from the same port, to the same pod.
    let range = SlotRange::new(2, 1, 1);
    node.lines.set(5, ServiceLine::new(range, range, 7, 0, 0), 0).unwrap();
    let (_, other) = node.run("pod_egress", &tcp(ASKER, (CLUSTER_IP, 80), SYN, b""));
    let (source, destination) = ends(&other);
    assert_eq!((source.0, destination), (POD, (FAR_POD, 8080)));
    let (_, back) = node.run("uplink_ingress", &tcp((FAR_POD, 8080), source, SYN_ACK, b""));
    assert_eq!((source.1 != ASKER.1, ends(&back)), (true, ((CLUSTER_IP, 80), ASKER)));
}

#[test]
fn a_pod_that_opts_out_reaches_itself_by_its_service() {
    let mut node = node(Some(1));
    let (verdict, there) = node.run("pod_egress", &tcp(ASKER, SERVICE, SYN, b""));
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination, &there[..12]), (REDIRECT, NODE_1, (POD, 8080), &ENDS[..]));
    let (verdict, back) = node.run("pod_egress", &tcp((POD, 8080), source, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back), &back[..12]), (REDIRECT, (SERVICE, ASKER), &ENDS[..]));
}

#[test]
fn the_nodes_own_processes_answer_a_pod_that_opts_out_as_the_service() {
    let mut node = node(Some(3));
    let (verdict, there) = node.run("pod_egress", &tcp(ASKER, SERVICE, SYN, b""));
    assert_eq!((verdict, ends(&there)), (GO_ON, (ASKER, (NODE_1, 9000))));
    let (verdict, back) = node.run("pod_ingress", &tcp((NODE_1, 9000), ASKER, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back)), (GO_ON, (SERVICE, ASKER)));
    let other = tcp((NODE_1, 9000), (POD, 50001), SYN_ACK, b"");
    assert_eq!(node.run("pod_ingress", &other), (GO_ON, other), "of no such flow");
    let mut refused = Vec::new();
    ip((NODE_1, 0), (POD, 0)).icmpv4_raw(3, 3, [0; 4]).write(&mut refused, &there[14..]).unwrap();
    let (verdict, told) = node.run("pod_ingress", &refused);
    assert_eq!((verdict, &told[26..30], &told[30..34]), (GO_ON, &SERVICE.0[..], &POD[..]));
    assert_eq!(&told[58..62], &SERVICE.0, "about what the pod has sent");
}

#[test]
fn who_does_not_opt_out_and_what_nobody_answers_goes_on_untouched() {
    let asked = tcp(ASKER, SERVICE, SYN, b"");
    let mut nobody = node(None);
    assert_eq!(nobody.run("pod_egress", &asked), (GO_ON, asked.clone()), "the routes refuse");
    assert_eq!(nobody.counted(Reason::NoEndpoints), 1);
    let middle = tcp(ASKER, SERVICE, ACK, b"x");
    assert_eq!(node(Some(2)).run("pod_egress", &middle), (GO_ON, middle.clone()), "of no connection");
    let mut others = node_where(Some(2), 2);
    assert_eq!(others.run("pod_egress", &asked), (GO_ON, asked), "another pod's link");
}

/// Policies name who answers.
#[test]
fn policies_judge_the_backend_of_a_pod_that_opts_out() {
    let isolate = |node: &mut Node| {
        let mut isolated: HashMap<_, u32, Isolation> = node.map(maps::ISOLATED);
        let both = Isolation { address: POD, ingress: 3, egress: 4, address6: six::POD };
        isolated.insert(LINK, both, 0).unwrap();
        let mut identities: LpmTrie<_, [u8; 4], u32> = node.map(maps::IDENTITIES);
        identities.insert(&Key::new(32, FAR_POD), 77, 0).unwrap();
        let mut identities: LpmTrie<_, six::Ip, u32> = node.map(maps::IDENTITIES6);
        identities.insert(&Key::new(128, six::FAR_POD), 77, 0).unwrap();
        let mut rules: LpmTrie<_, Rule, u32> = node.map(maps::RULES);
        rules.insert(&Key::new(ONE_PORT, rule(4, 77, TCP, 8080)), 1, 0).unwrap();
        let mut revision: Array<_, u32> = node.map(maps::POLICIES);
        revision.set(0, 1, 0).unwrap();
    };
    let asked = tcp(ASKER, SERVICE, SYN, b"");
    let mut allowed = node(Some(2));
    isolate(&mut allowed);
    assert_eq!(ends(&allowed.run("pod_egress", &asked).1).1, (FAR_POD, 8080));
    let (verdict, back) = allowed.run("uplink_ingress", &tcp((FAR_POD, 8080), ASKER, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back)), (REDIRECT, (SERVICE, ASKER)), "its answer comes in");
    assert_eq!(allowed.run_from(2, "pod_ingress", &back).0, GO_ON, "by the stack, too");
    let forged = tcp(SERVICE, (POD, 50009), SYN_ACK, b"");
    assert_eq!(allowed.run_from(2, "pod_ingress", &forged).0, SHOT, "no answer");
    allowed.backends.set(2, Backend::new(CLIENT, 8080, 2), 0).unwrap();
    assert_eq!(allowed.run("pod_egress", &tcp((POD, 50001), SERVICE, SYN, b"")).0, SHOT, "somebody else");
    let mut itself = node(Some(1));
    isolate(&mut itself);
    let (verdict, there) = itself.run("pod_egress", &asked);
    assert_eq!((verdict, ends(&there).1), (REDIRECT, (POD, 8080)));
    let back = itself.run("pod_egress", &tcp((POD, 8080), ends(&there).0, SYN_ACK, b""));
    assert_eq!((back.0, ends(&back.1)), (REDIRECT, (SERVICE, ASKER)));
    assert_eq!(itself.run_from(2, "pod_ingress", &there).0, GO_ON, "to itself by the stack");

    let mut six = six(Some(12));
    isolate(&mut six.node);
    let asker = (six::POD, 50000);
    let (verdict, there) = six.run("pod_egress", &six::tcp(asker, SERVICE6, SYN, b""));
    assert_eq!((verdict, six::ends(&there).1), (GO_ON, (six::FAR_POD, 8080)));
    let back = six.run("uplink_ingress", &six::tcp((six::FAR_POD, 8080), asker, SYN_ACK, b""));
    assert_eq!((back.0, six::ends(&back.1)), (REDIRECT, (SERVICE6, asker)));
    assert_eq!(six.node.run_from(2, "pod_ingress", &back.1).0, GO_ON, "by the stack, too");
    let (verdict, _) = six.run("pod_egress", &six::tcp(asker, (six::CLIENT, 80), SYN, b""));
    assert_eq!(verdict, SHOT);
}

const SERVICE6: six::End = ([0xfd, 0, 0, 0x10, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 81], 80);

fn six(slot: Option<u32>) -> Six {
    let mut six = Six::new();
    opt_out(&mut six.node, LINK);
    six.addresses.insert(six::POD, Owner { kind: LOCAL_POD, link: LINK, ends: ENDS }, 0).unwrap();
    six.node.backends.set(13, Backend::new6(six::NODE_1, 9000, 1), 0).unwrap();
    six.node.slots.set(13, 13, 0).unwrap();
    let range = SlotRange::new(slot.unwrap_or_default(), u16::from(slot.is_some()), 1);
    six.frontends.insert(FrontendKey6::new(SERVICE6.0, SERVICE6.1, TCP), 20, 0).unwrap();
    six.node.lines.set(20, ServiceLine::new(range, SlotRange::new(0, 0, 1), 9, 0, 0), 0).unwrap();
    six
}

#[test]
fn over_ipv6_too() {
    let asker = (six::POD, 50000);
    let asked = six::tcp(asker, SERVICE6, SYN, b"");
    let mut node = six(Some(12));
    let (verdict, there) = node.run("pod_egress", &asked);
    assert_eq!((verdict, six::ends(&there)), (GO_ON, (asker, (six::FAR_POD, 8080))));
    assert_eq!(node.run("uplink_egress", &there), (GO_ON, there), "nobody masquerades it");
    let (verdict, back) = node.run("uplink_ingress", &six::tcp((six::FAR_POD, 8080), asker, SYN_ACK, b""));
    assert_eq!((verdict, six::ends(&back)), (REDIRECT, (SERVICE6, asker)));
    let (_, more) = node.run("pod_egress", &six::tcp(asker, SERVICE6, ACK, b"GET"));
    assert_eq!(six::ends(&more), (asker, (six::FAR_POD, 8080)));

    let mut itself = six(Some(11));
    let (verdict, there) = itself.run("pod_egress", &asked);
    let (source, destination) = six::ends(&there);
    assert_eq!((verdict, source.0, destination), (REDIRECT, six::NODE_1, (six::POD, 8080)));
    let (verdict, back) = itself.run("pod_egress", &six::tcp((six::POD, 8080), source, SYN_ACK, b""));
    assert_eq!((verdict, six::ends(&back)), (REDIRECT, (SERVICE6, asker)));

    let mut own = six(Some(13));
    let (verdict, there) = own.run("pod_egress", &asked);
    assert_eq!((verdict, six::ends(&there)), (GO_ON, (asker, (six::NODE_1, 9000))));
    let (verdict, back) = own.run("pod_ingress", &six::tcp((six::NODE_1, 9000), asker, SYN_ACK, b""));
    assert_eq!((verdict, six::ends(&back)), (GO_ON, (SERVICE6, asker)));
    let mut refused = Vec::new();
    let builder = six::packet(six::NODE_1, six::POD, 64).icmpv6_raw(1, 4, [0; 4]);
    builder.write(&mut refused, &there[14..]).unwrap();
    let (verdict, told) = own.run("pod_ingress", &refused);
    assert_eq!((verdict, &told[22..38], &told[86..102]), (GO_ON, &SERVICE6.0[..], &SERVICE6.0[..]));

    let mut nobody = six(None);
    assert_eq!(nobody.run("pod_egress", &asked), (GO_ON, asked), "the routes refuse");
}
