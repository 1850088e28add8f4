//! Nanoseconds per packet by `BPF_PROG_TEST_RUN`, above what a program that does nothing takes in the same round.
//!
//! A run is repeated on one frame, which each turn leaves as the next one's: entries of flows lead to each other in a circle, so
//! that all of 50,000 are met in an order that no cache foresees, every checksum is really computed, and nothing is copied between.

use std::process::Command;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use etherparse::PacketBuilder;
use oarlock_ebpf::flow::{Flow, REPLY, Settings, TCP, Translation};
use oarlock_ebpf::layout::{Backend, EXTERNAL, FrontendKey, ServiceLine, SlotRange};
use oarlock_ebpf::maps;

use crate::{Measured, ROUNDS};

pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OARLOCK_BPF_EMBEDDED"));

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const NODE: [u8; 4] = [172, 30, 77, 11];
/// Turns that a frame's hops are enough for.
const TURNS: u32 = 250;
/// Runs of so many turns. Before each the kernel patches its XDP dispatcher (bpf_prog_change_xdp), which takes it some 20 ms.
const CALLS: u32 = 40;
/// Frontends that are each other's backends: a first packet that was translated is the first one of the next flow.
const RING: u32 = 64;

/// The node's tables and its uplink, in a network namespace of its own.
struct Node {
    ebpf: Ebpf,
    tcp: HashMap<MapData, Flow, Translation>,
    uplink: u32,
}

impl Node {
    fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        for command in [
            "link add eth0 address 02:00:00:00:00:11 type veth peer name far",
            "link set far up",
            "addr add 172.30.77.11/24 dev eth0",
            "link set eth0 up",
            // Its own address: the frame that was sent is one that has come.
            "neigh add 172.30.77.12 lladdr 02:00:00:00:00:11 dev eth0",
            "route add 10.0.0.0/8 via 172.30.77.12",
        ] {
            let said = Command::new("ip").args(command.split(' ')).output().unwrap();
            assert!(said.status.success(), "{command}: {}", String::from_utf8_lossy(&said.stderr));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let mut ebpf = Ebpf::load(OBJECT).expect("needs root and `cargo xtask build`");
        let mut settings: Array<_, Settings> = map(&mut ebpf, maps::SETTINGS);
        let (cluster, mask) = ([10, 244, 0, 0], [255, 255, 0, 0]);
        settings.set(0, Settings { node: NODE, cluster, mask, ..Settings::default() }, 0).unwrap();
        let mut backends: Array<_, Backend> = map(&mut ebpf, maps::BACKENDS);
        let mut slots: Array<_, u32> = map(&mut ebpf, maps::SLOTS);
        let mut lines: Array<_, ServiceLine> = map(&mut ebpf, maps::SERVICE_TABLE);
        let mut frontends: HashMap<_, FrontendKey, u32> = map(&mut ebpf, maps::FRONTENDS);
        for index in 1..=RING {
            backends.set(index, Backend::new(of_ring(index % RING + 1), 80, 1), 0).unwrap();
            slots.set(index, index, 0).unwrap();
            let range = SlotRange::new(index, 1, 1);
            lines.set(index, ServiceLine::new(range, range, index.into(), 0, EXTERNAL), 0).unwrap();
            frontends.insert(FrontendKey::new(of_ring(index), 80, TCP), index, 0).unwrap();
        }
        for name in ["uplink_express", "peer_pass"] {
            xdp(&mut ebpf, name).load().unwrap();
        }
        for name in ["uplink_ingress", "pod_egress"] {
            classifier(&mut ebpf, name).load().unwrap();
        }
        let tcp = map(&mut ebpf, maps::FLOWS_TCP);
        let uplink = nix::net::if_::if_nametoindex("eth0").unwrap();
        Self { ebpf, tcp, uplink }
    }

    /// Entries that lead from one flow to the next, and from the last one to the first.
    fn enter(&mut self, flows: &[Flow]) {
        for (at, flow) in flows.iter().enumerate() {
            let to = flows[(at + 1) % flows.len()];
            let entry = Translation { to, link: self.uplink, backend: REPLY, generation: 0, seen: 1 };
            self.tcp.insert(flow, entry, 0).unwrap();
        }
    }

    fn forget_all(&mut self) {
        let keys: Vec<Flow> = self.tcp.keys().filter_map(Result::ok).collect();
        for key in keys {
            let _ = self.tcp.remove(&key);
        }
    }

    /// Nanoseconds per turn of an XDP program, whose last verdict is this.
    fn express(&mut self, name: &str, frame: &[u8], verdict: u32) -> f64 {
        let length = u32::try_from(frame.len()).unwrap();
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> =
            [0, length, 0, self.uplink, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let options = options(frame, Some(&context));
        let result = xdp(&mut self.ebpf, name).test_run(options).unwrap();
        assert_eq!(result.return_value, verdict, "{name}");
        nanoseconds(result.duration)
    }

    /// The same of a classifier.
    fn classify(&mut self, name: &str, frame: &[u8], verdict: i32) -> f64 {
        // What is run so has come by the loopback, whose address is zero; others' frames are not looked at.
        let mut frame = frame.to_vec();
        frame[..6].fill(0);
        let result = classifier(&mut self.ebpf, name).test_run(options(&frame, None)).unwrap();
        assert_eq!(result.return_value.cast_signed(), verdict, "{name}");
        nanoseconds(result.duration)
    }
}

// Verdicts: of XDP up to the stack and back by the link, of tc by another link and to the next program.
const PASS: u32 = 2;
const BACK: u32 = 3;
const REDIRECT: i32 = 7;
const GO_ON: i32 = -1;

pub(crate) fn measure() -> Vec<Measured> {
    let mut node = Node::new();
    let (empty, arp) = ("empty XDP program", "tc program on a frame that is not IP");
    let mut measured =
        vec![Measured::new(empty, "ns/packet", vec![]), Measured::new(arp, "ns/packet", vec![])];
    let mut add = |place: usize, name: &str, baseline: &str, value: f64| {
        if measured.len() <= place {
            measured.push(Measured::new(name, "ns/packet above it", vec![]).compared(baseline));
        }
        measured[place].rounds.push(value);
    };
    for round in 0..ROUNDS {
        let plain = frame(flow(0), false);
        let nothing = calls(CALLS, |_| node.express("peer_pass", &plain, PASS));
        let not_ip = PacketBuilder::ethernet2(OWN, OWN).arp(
            etherparse::ArpPacket::new(
                etherparse::ArpHardwareId::ETHERNET,
                etherparse::EtherType::IPV4,
                etherparse::ArpOperation::REQUEST,
                &OWN,
                &NODE,
                &OWN,
                &NODE,
            )
            .unwrap(),
        );
        let mut asked = Vec::new();
        not_ip.write(&mut asked).unwrap();
        asked.resize(64, 0);
        let untouched = calls(CALLS, |_| node.classify("uplink_ingress", &asked, GO_ON));
        add(0, empty, "", nothing);
        add(1, arp, "", untouched);
        let mut place = 2;
        for count in [1, 1000, 50_000] {
            let flows = flows(count, round);
            node.enter(&flows);
            let turns = usize::try_from(TURNS).unwrap();
            let at = |call: usize| frame(flows[call * turns % flows.len()], false);
            let frames: Vec<Vec<u8>> = (0..CALLS as usize).map(at).collect();
            let express = calls(CALLS, |call| node.express("uplink_express", &frames[call], BACK));
            let tc = calls(CALLS, |call| node.classify("uplink_ingress", &frames[call], REDIRECT));
            let what = if count == 1 {
                "one established flow".to_owned()
            } else {
                format!("{count} established flows")
            };
            add(place, &format!("XDP, {what}"), empty, express - nothing);
            add(place + 1, &format!("tc, {what}"), arp, tc - untouched);
            place += 2;
            node.forget_all();
        }
        // 10,000 connections, and again where each has to push another one out.
        for what in ["XDP, new flow", "XDP, new flow over a full table"] {
            if place > 8 {
                node.enter(&flows(140_000, round));
            }
            let frames: Vec<Vec<u8>> = (0..CALLS).map(|call| frame(first(round, call), true)).collect();
            let new = calls(CALLS, |call| node.express("uplink_express", &frames[call], BACK));
            add(place, what, empty, new - nothing);
            place += 1;
            node.forget_all();
        }
    }
    measured
}

/// The mean of several calls.
fn calls(count: u32, mut call: impl FnMut(usize) -> f64) -> f64 {
    (0..count).map(|at| call(at as usize)).sum::<f64>() / f64::from(count)
}

fn options<'a>(frame: &'a [u8], context: Option<&'a [u8]>) -> TestRunOptions<'a> {
    TestRunOptions { data_in: Some(frame), ctx_in: context, repeat: TURNS, ..TestRunOptions::default() }
}

/// The kernel gives the mean of the turns in whole nanoseconds.
fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// One of the flows that are told from each other.
fn flow(number: u32) -> Flow {
    let [_, a, b, c] = number.to_be_bytes();
    Flow::new(([10, 10 + a, b, c], 40_000), ([10, 200, c, b], 8080), TCP)
}

/// So many flows, in an order that has nothing to do with where they lie.
fn flows(count: u32, round: usize) -> Vec<Flow> {
    // A multiplicative permutation: the step is prime to any count below it.
    let step = 1_000_003_u64;
    let round = u64::try_from(round).unwrap();
    let of = |at: u32| u32::try_from((u64::from(at) * step + round) % u64::from(count)).unwrap();
    (0..count).map(|at| flow(of(at))).collect()
}

/// The first packet of a client's connection.
fn first(round: usize, call: u32) -> Flow {
    let port = 20_000 + u16::try_from(call).unwrap() + u16::try_from(round).unwrap() * 200;
    Flow::new(([10, 9, 9, 9], port), (of_ring(1 + call % RING), 80), TCP)
}

const fn of_ring(index: u32) -> [u8; 4] {
    [10, 96, 0, index as u8]
}

fn frame(flow: Flow, first: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OWN, OWN).ipv4(flow.source, flow.destination, 255).tcp(
        flow.source_port(),
        flow.destination_port(),
        1,
        64_000,
    );
    let builder = if first { builder.syn() } else { builder.ack(1) };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[7; 10]).unwrap();
    frame
}

fn map<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &str) -> M
where
    M::Error: std::fmt::Debug,
{
    M::try_from(ebpf.take_map(name).unwrap()).unwrap()
}

fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut Xdp {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}
