//! What is counted of each Service's port and of each backend: every translated packet once, wherever it is translated.

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader};
use oarlock_ebpf::count::{BackendCounts, ServiceCounts};
use oarlock_ebpf::event::{self, Event};
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::layout::{Backend, EXTERNAL, SOURCE_RANGES, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;

use super::frames::*;

const BALANCED: End = ([192, 0, 2, 7], 80);
const HERE: SlotRange = SlotRange::new(1, 1, 1);
const FAR: SlotRange = SlotRange::new(2, 1, 1);
const NOBODY: SlotRange = SlotRange::new(1, 0, 1);
/// Under this the Service is counted.
const NUMBER: u32 = 41;

pub(super) fn counts(table: &PerCpuArray<MapData, ServiceCounts>, number: u32) -> ServiceCounts {
    table.get(&number, 0).unwrap().iter().fold(ServiceCounts::default(), |sum, one| {
        let add = |a: [u64; 2], b: [u64; 2]| [a[0] + b[0], a[1] + b[1]];
        ServiceCounts {
            packets: add(sum.packets, one.packets),
            bytes: add(sum.bytes, one.bytes),
            begun: add(sum.begun, one.begun),
            dropped: std::array::from_fn(|at| sum.dropped[at] + one.dropped[at]),
        }
    })
}

fn line(range: SlotRange, flags: u32) -> ServiceLine {
    ServiceLine::new(range, range, 77, 0, flags).counted_as(NUMBER)
}

#[test]
fn packets_of_a_pod_here_are_counted_in_at_the_uplink_and_out_at_the_pod() {
    let mut node = Node::new(false);
    let table = node.map(maps::SERVICE_COUNTS);
    node.publish(BALANCED, TCP, line(HERE, EXTERNAL));
    node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, SYN, b""));
    node.run("pod_egress", &tcp((POD, 8080), (CLIENT, 40000), SYN_ACK, b""));
    node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, ACK, b"0123456789"));
    // Its way out: the uplink has nothing left to translate, and counts nothing again.
    node.run("uplink_egress", &tcp(BALANCED, (CLIENT, 40000), SYN_ACK, b""));
    let expected = ServiceCounts { packets: [2, 1], bytes: [40 + 50, 40], begun: [0, 1], dropped: [0; 4] };
    assert_eq!(counts(&table, NUMBER), expected);
    node.run("uplink_egress", &tcp((POD, 41000), (OUTSIDE, 443), SYN, b""));
    node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    assert_eq!(counts(&table, NUMBER), expected, "neither masquerading nor another Service's is this one's");
    assert_eq!(counts(&table, 0), ServiceCounts::default(), "and nobody's are not counted");
}

#[test]
fn what_goes_nowhere_is_counted_with_its_reason() {
    let mut node = Node::new(false);
    let table = node.map(maps::SERVICE_COUNTS);
    node.publish(BALANCED, TCP, line(NOBODY, EXTERNAL));
    node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, SYN, b""));
    node.publish(BALANCED, TCP, line(HERE, EXTERNAL | SOURCE_RANGES));
    assert_eq!(node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, SYN, b"")).0, SHOT);
    assert_eq!(node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, SYN, b"")).0, SHOT);
    let expected = ServiceCounts { dropped: [1, 2, 0, 0], ..ServiceCounts::default() };
    assert_eq!(counts(&table, NUMBER), expected, "no endpoints, source ranges");
}

/// The same object, loaded as an agent does that counts backends.
fn counting_backends() -> Ebpf {
    EbpfLoader::new()
        .map_max_entries(maps::BACKEND_COUNTS, maps::MAX_BACKENDS)
        .override_global("COUNT_BACKENDS", &1_u32, true)
        .load(OBJECT)
        .expect("needs root and `cargo xtask build`")
}

#[test]
fn backends_are_counted_where_that_is_asked_for_and_never_under_who_came_after() {
    let mut node = Node::of(counting_backends(), false);
    let table: PerCpuArray<MapData, BackendCounts> = node.map(maps::BACKEND_COUNTS);
    let of = |index: u32| {
        let each = table.get(&index, 0).unwrap();
        each.iter().fold([0; 6], |sum: [u64; 6], one| {
            let all = [one.packets, one.bytes, one.begun].concat();
            std::array::from_fn(|at| sum[at] + all[at])
        })
    };
    node.publish(BALANCED, TCP, line(FAR, EXTERNAL));
    let (_, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, SYN, b""));
    node.run("uplink_ingress", &tcp((FAR_POD, 8080), ends(&there).0, SYN_ACK, b""));
    node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, ACK, b"x"));
    assert_eq!(of(2), [2, 1, 81, 40, 0, 1]);
    node.backends.set(2, Backend::new([10, 244, 9, 9], 8080, 2), 0).unwrap();
    node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, ACK, b"x"));
    node.run("uplink_ingress", &tcp((FAR_POD, 8080), ends(&there).0, ACK, b"x"));
    assert_eq!(of(2), [2, 1, 81, 40, 0, 1], "the index is another one's by now");
}

#[test]
fn who_looks_is_told_of_new_flows_and_drops_and_not_of_each_packet() {
    let mut node = Node::new(false);
    let mut events: RingBuf<MapData> = node.map(maps::EVENTS);
    let mut watch: Array<MapData, u32> = node.map(maps::WATCH);
    let mut told = move || {
        let mut told = Vec::new();
        while let Some(item) = events.next() {
            let event: Event = bytemuck::pod_read_unaligned(&item);
            told.push((event.what, event.hook, event.service, event.flow, event.to));
        }
        told
    };
    node.publish(BALANCED, TCP, line(HERE, EXTERNAL));
    node.run("uplink_ingress", &tcp((CLIENT, 39999), BALANCED, SYN, b""));
    assert_eq!(told(), [], "nobody looks");
    watch.set(0, u32::MAX, 0).unwrap();
    for flags in [SYN, ACK, ACK] {
        node.run("uplink_ingress", &tcp((CLIENT, 40000), BALANCED, flags, b""));
    }
    node.publish(BALANCED, TCP, line(HERE, EXTERNAL | SOURCE_RANGES));
    node.run("uplink_ingress", &tcp((CLIENT, 40001), BALANCED, SYN, b""));
    node.run("uplink_egress", &tcp((POD, 41000), (OUTSIDE, 443), SYN, b""));
    let asked = |port| Flow::new((CLIENT, port), BALANCED, TCP);
    let [begun, denied, masqueraded] = told().try_into().unwrap();
    assert_eq!(
        begun,
        (Reason::Translated as u32, event::TC, NUMBER, asked(40000), asked(40000).to(POD, 8080))
    );
    assert_eq!(denied, (Reason::Denied as u32, event::TC, NUMBER, asked(40001), Flow::NONE));
    assert_eq!((masqueraded.0, masqueraded.3.source, masqueraded.4.source), (4, POD, NODE_1));
}
