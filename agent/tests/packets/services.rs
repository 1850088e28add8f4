//! What a Service's policies do with packets of clients outside: both backends, of this node and of another, are in slots 1
//! and 2.

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, MapData};
use oarlock_ebpf::affinity::{Member, SourceRange, source_range, source_range_bits};
use oarlock_ebpf::flow::FIN;
use oarlock_ebpf::layout::{Backend, EXTERNAL, MAGLEV, RANDOM, SOURCE_RANGES, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::select;

use super::frames::*;

const BALANCED: End = ([192, 0, 2, 7], 80);
const BOTH: SlotRange = SlotRange::new(1, 2, 1);
const HERE: SlotRange = SlotRange::new(1, 1, 1);
const SERVICE: u64 = 77;

/// The backends of twenty new connections from one client.
fn backends(node: &mut Node, client: [u8; 4]) -> Vec<[u8; 4]> {
    let first = 40000 + 20 * u16::try_from(node.counted(Reason::Translated)).unwrap();
    let from = (first..first + 20).map(|port| (client, port));
    let mut hit: Vec<[u8; 4]> =
        from.map(|from| ends(&node.run("uplink_ingress", &tcp(from, BALANCED, SYN, b"")).1).1.0).collect();
    hit.sort_unstable();
    hit.dedup();
    hit
}

#[test]
fn a_local_policy_keeps_clients_outside_on_the_node_and_shows_who_they_are() {
    let mut node = Node::new(false);
    node.publish(BALANCED, TCP, ServiceLine::new(BOTH, BOTH, SERVICE, 0, EXTERNAL));
    assert_eq!(backends(&mut node, CLIENT), [POD, FAR_POD]);
    node.publish(BALANCED, TCP, ServiceLine::new(BOTH, HERE, SERVICE, 0, EXTERNAL));
    let (_, there) = node.run("uplink_ingress", &tcp((OUTSIDE, 50000), BALANCED, SYN, b""));
    assert_eq!(ends(&there), ((OUTSIDE, 50000), (POD, 8080)));
    assert_eq!(backends(&mut node, [192, 0, 2, 9]), [POD]);
}

#[test]
fn a_client_with_affinity_keeps_its_backend_until_that_leaves_the_service() {
    let mut node = Node::new(false);
    let mut members: HashMap<MapData, Member, u32> = node.map(maps::MEMBERS);
    for backend in [1, 2] {
        members.insert(Member::new(SERVICE, backend, 1), 1, 0).unwrap();
    }
    node.publish(BALANCED, TCP, ServiceLine::new(BOTH, BOTH, SERVICE, 600, EXTERNAL));
    let clients: Vec<[u8; 4]> = (1..=8).map(|last| [192, 0, 2, last]).collect();
    let first: Vec<_> = clients.iter().map(|client| backends(&mut node, *client)).collect();
    assert!(first.iter().all(|hit| hit.len() == 1), "one each: {first:?}");
    assert!(first.contains(&vec![POD]) && first.contains(&vec![FAR_POD]), "not one for all: {first:?}");
    // The far one serves others still, but this Service no more.
    members.remove(&Member::new(SERVICE, 2, 1)).unwrap();
    node.publish(BALANCED, TCP, ServiceLine::new(HERE, HERE, SERVICE, 600, EXTERNAL));
    assert!(clients.iter().all(|client| backends(&mut node, *client) == [POD]));
}

#[test]
fn by_maglev_every_node_leads_a_client_to_the_same_backend() {
    let mut node = Node::new(false);
    let line = ServiceLine::new(HERE, BOTH, SERVICE, 0, EXTERNAL | MAGLEV);
    let mut led = [0; 2];
    for at in [BALANCED, (NODE_1, 30085)] {
        node.publish(at, TCP, line);
        for port in 40000..40040 {
            let (_, there) = node.run("uplink_ingress", &tcp((CLIENT, port), at, SYN, b""));
            let slot = select::by_hash(BOTH, select::of_client(CLIENT, port)).unwrap() - BOTH.base();
            assert_eq!(ends(&there).1.0, [POD, FAR_POD][slot as usize], "{at:?} {port}");
            led[slot as usize] += 1;
        }
    }
    assert!(led.iter().all(|count| *count >= 10), "{led:?}");
}

#[test]
fn at_random_backends_follow_no_order() {
    let mut node = Node::new(false);
    node.publish(BALANCED, TCP, ServiceLine::new(BOTH, BOTH, SERVICE, 0, EXTERNAL | RANDOM));
    let led: Vec<[u8; 4]> = (40000..40064)
        .map(|port| ends(&node.run("uplink_ingress", &tcp((CLIENT, port), BALANCED, SYN, b"")).1).1.0)
        .collect();
    let again = led.windows(2).filter(|two| two[0] == two[1]).count();
    // In turn there is none; that as few or as many come by chance happens once in 10^10 runs.
    assert!((8..=55).contains(&again), "{led:?}");
}

#[test]
fn clients_outside_the_source_ranges_are_dropped_and_counted() {
    let mut node = Node::new(false);
    let mut ranges: LpmTrie<MapData, SourceRange, u32> = node.map(maps::SOURCE_RANGES);
    let mut allow = |service: u64, net: [u8; 4], bits: u8| {
        ranges.insert(&Key::new(source_range_bits(bits), source_range(service, net)), 1, 0).unwrap();
    };
    allow(SERVICE, [172, 30, 0, 0], 16);
    allow(SERVICE + 1, [0, 0, 0, 0], 0);
    node.publish(BALANCED, TCP, ServiceLine::new(BOTH, HERE, SERVICE, 0, EXTERNAL | SOURCE_RANGES));
    assert_eq!(backends(&mut node, CLIENT), [POD]);
    assert_eq!(node.run("uplink_ingress", &tcp((OUTSIDE, 50000), BALANCED, SYN, b"")).0, SHOT);
    assert_eq!(node.counted(Reason::Denied), 1);
}

#[test]
fn an_address_that_is_not_for_clients_outside_is_not_translated() {
    let mut node = Node::new(false);
    node.publish(BALANCED, TCP, ServiceLine::new(BOTH, BOTH, SERVICE, 0, 0));
    let asked = tcp((CLIENT, 40000), BALANCED, SYN, b"");
    assert_eq!(node.run("uplink_ingress", &asked), (GO_ON, asked.clone()));
}

#[test]
fn a_process_of_the_node_sees_the_client_and_answers_as_the_service() {
    let mut node = Node::new(false);
    let itself = SlotRange::new(3, 1, 1);
    node.publish(BALANCED, TCP, ServiceLine::new(itself, itself, SERVICE, 0, EXTERNAL));
    let (verdict, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, SYN, b""));
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (NODE_1, 9000))));
    let answer = tcp((NODE_1, 9000), (CLIENT, 40000), SYN_ACK, b"");
    for program in ["uplink_egress", "pod_egress"] {
        let (verdict, back) = node.run(program, &answer);
        assert_eq!((verdict, ends(&back)), (REDIRECT, (BALANCED, (CLIENT, 40000))), "{program}");
    }
    let own = tcp((NODE_1, 22), (CLIENT, 40000), SYN_ACK, b"");
    assert_eq!(node.run("uplink_egress", &own), (GO_ON, own.clone()), "what no Service has to do with");
}

/// Where a packet of one client and port goes.
fn sent(node: &mut Node, protocol: u8, flags: u8) -> End {
    let from = (CLIENT, 41000);
    let frame = if protocol == TCP { tcp(from, BALANCED, flags, b"") } else { udp(from, BALANCED, b"") };
    ends(&node.run("uplink_ingress", &frame).1).1
}

#[test]
fn a_port_that_is_used_again_is_balanced_again() {
    let mut node = Node::new(false);
    node.publish(BALANCED, TCP, ServiceLine::new(HERE, HERE, SERVICE, 0, EXTERNAL));
    let there = ServiceLine::new(SlotRange::new(2, 1, 1), SlotRange::new(2, 1, 1), SERVICE, 0, EXTERNAL);
    assert_eq!(sent(&mut node, TCP, SYN), (POD, 8080));
    // The Service goes on elsewhere, the pod serves others: what has begun stays, and so does its SYN that comes twice.
    node.publish(BALANCED, TCP, there);
    assert_eq!(sent(&mut node, TCP, SYN), (POD, 8080));
    assert_eq!(sent(&mut node, TCP, ACK), (POD, 8080));
    assert_eq!(sent(&mut node, TCP, ACK | FIN), (POD, 8080));
    // One side may say more after the other has ended.
    assert_eq!(sent(&mut node, TCP, ACK), (POD, 8080));
    let _ = node.run("pod_egress", &tcp((POD, 8080), (CLIENT, 41000), ACK | FIN, b""));
    assert_eq!(sent(&mut node, TCP, ACK), (POD, 8080), "the last one of the old connection");
    assert_eq!(sent(&mut node, TCP, SYN), (FAR_POD, 8080));
    assert_eq!(sent(&mut node, TCP, ACK), (FAR_POD, 8080));
}

#[test]
fn what_begins_is_not_sent_to_a_backend_that_is_gone() {
    for protocol in [TCP, UDP] {
        let mut node = Node::new(false);
        node.publish(BALANCED, protocol, ServiceLine::new(HERE, HERE, SERVICE, 0, EXTERNAL));
        assert_eq!(sent(&mut node, protocol, SYN), (POD, 8080));
        let there = SlotRange::new(2, 1, 1);
        node.publish(BALANCED, protocol, ServiceLine::new(there, there, SERVICE, 0, EXTERNAL));
        assert_eq!(sent(&mut node, protocol, SYN), (POD, 8080), "it serves others");
        node.backends.set(1, Backend::new(POD, 8080, 0), 0).unwrap();
        // A connection that there is ends with its pod, a segment that is sent again and datagrams find another one.
        if protocol == TCP {
            assert_eq!(sent(&mut node, protocol, ACK), (POD, 8080));
        }
        assert_eq!(sent(&mut node, protocol, SYN), (FAR_POD, 8080));
    }
}
