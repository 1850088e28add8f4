//! Nanoseconds per packet by `BPF_PROG_TEST_RUN`, one packet at a time, above what a program that does nothing takes in the same
//! round. (Repeated runs of XDP make the kernel patch its dispatcher and wait, which leaves every cache cold.)

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use etherparse::PacketBuilder;
use oarlock_ebpf::count::Whose;
use oarlock_ebpf::flow::{Flow, OPEN, REPLY, Settings, TCP, Translation};
use oarlock_ebpf::layout::{Backend, EXTERNAL, FrontendKey, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::table::{self, Bucket, Mode, Place};

use crate::{Measured, ROUNDS};

pub(crate) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OARLOCK_BPF_EMBEDDED"));

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
const NODE: [u8; 4] = [172, 30, 77, 11];
const PORT: u16 = 30_080;
/// Under which the Service is counted.
const NUMBER: u32 = 1;
/// How many packets are sent for each figure of a round.
const PACKETS: usize = 20_000;
/// Clients and backends that the flows are between.
const CLIENTS: u32 = 256;
const BACKENDS: u32 = 64;

/// The node's tables and its uplink, in a network namespace of its own.
pub(crate) struct Node {
    pub(crate) ebpf: Ebpf,
    flows: Array<MapData, Bucket>,
    /// The same, as it was written.
    written: Vec<Bucket>,
    uplink: u32,
}

impl Node {
    pub(crate) fn new() -> Self {
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
        for index in 1..=BACKENDS {
            let [.., last] = index.to_be_bytes();
            backends.set(index, Backend::new([10, 200, 0, last], 8080, 1), 0).unwrap();
            slots.set(index, index, 0).unwrap();
        }
        let range = SlotRange::new(1, u16::try_from(BACKENDS).unwrap(), 1);
        lines.set(1, ServiceLine::new(range, range, 1, 0, EXTERNAL).counted_as(NUMBER), 0).unwrap();
        frontends.insert(FrontendKey::new(NODE, PORT, TCP), 1, 0).unwrap();
        for name in ["uplink_express", "peer_pass"] {
            xdp(&mut ebpf, name).load().unwrap();
        }
        for name in ["uplink_ingress", "pod_egress"] {
            classifier(&mut ebpf, name).load().unwrap();
        }
        let flows = map(&mut ebpf, maps::FLOWS);
        let written = vec![Bucket::EMPTY; maps::FLOW_BUCKETS as usize];
        let uplink = nix::net::if_::if_nametoindex("eth0").unwrap();
        Self { ebpf, flows, written, uplink }
    }

    /// Established connections, half of the flows there and half back.
    pub(crate) fn enter(&mut self, flows: &[(Flow, Flow)]) {
        let mut touched = BTreeSet::new();
        for (flow, to) in flows {
            let whose = Whose::new(1, NUMBER).word();
            let (backend, generation) =
                if flow.destination_port() == PORT { (whose, 1) } else { (REPLY, whose) };
            let entry = Translation { to: *to, link: self.uplink, backend, generation, seen: 1 | OPEN };
            let _ = table::insert_alone(&mut self.written, 0, (flow, &entry), Mode::Put, 1);
            let place = Place::of(flow, 0, maps::FLOW_BUCKETS);
            touched.extend([place.home, place.other]);
        }
        for bucket in touched {
            self.flows.set(bucket, self.written[bucket as usize], 0).unwrap();
        }
    }

    fn forget_all(&mut self) {
        self.written.fill(Bucket::EMPTY);
        for bucket in 0..maps::FLOW_BUCKETS {
            self.flows.set(bucket, Bucket::EMPTY, 0).unwrap();
        }
    }

    /// Nanoseconds per frame of an XDP program, which says this of most.
    fn express(&mut self, name: &str, frames: &[Vec<u8>], verdict: u32) -> f64 {
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let length = u32::try_from(frames[0].len()).unwrap();
        let context: Vec<u8> =
            [0, length, 0, self.uplink, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let program = xdp(&mut self.ebpf, name);
        mean(frames, verdict, |frame| {
            let options =
                TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() };
            let result = program.test_run(options).unwrap();
            (result.return_value, result.duration)
        })
    }

    /// The same of a classifier.
    fn classify(&mut self, name: &str, frames: &[Vec<u8>], verdict: u32) -> f64 {
        let program = classifier(&mut self.ebpf, name);
        mean(frames, verdict, |frame| {
            // What is run so has come by the loopback, whose address is zero; others' frames are not looked at.
            let frame = [&[0; 6], &frame[6..]].concat();
            let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
            let result = program.test_run(options).unwrap();
            (result.return_value, result.duration)
        })
    }
}

/// The mean without the slowest hundredth, which an interrupt has met. Of XDP one frame in 65,536 has the checksum of one that is
/// not complete, and goes up.
fn mean(frames: &[Vec<u8>], verdict: u32, mut run: impl FnMut(&[u8]) -> (u32, Duration)) -> f64 {
    let (mut times, mut others) = (Vec::with_capacity(PACKETS), 0);
    if frames.len() > PACKETS {
        for frame in frames {
            run(frame);
        }
    }
    let packets = PACKETS.max(frames.len());
    for frame in frames.iter().cycle().take(packets) {
        let (said, time) = run(frame);
        others += usize::from(said != verdict);
        times.push(time.as_secs_f64() * 1e9);
    }
    assert!(
        others < packets / 1000 || frames.len() == 1,
        "{others} of {packets} frames were not told {verdict}"
    );
    times.sort_by(f64::total_cmp);
    times.truncate(packets / 100 * 99);
    times.iter().sum::<f64>() / times.len() as f64
}

const PASS: u32 = 2;
const BACK: u32 = 3;
const REDIRECT: u32 = 7;
const GO_ON: u32 = u32::MAX;

pub(crate) fn measure() -> Vec<Measured> {
    let mut node = Node::new();
    let (empty, arp) = ("XDP, a program that does nothing", "tc, a frame that is not IP");
    let mut measured: Vec<Measured> = Vec::new();
    let mut add = |name: &str, baseline: Option<&str>, value: f64| {
        let place = measured.iter().position(|m| m.name == name).unwrap_or_else(|| {
            let unit = if baseline.is_some() { "ns/packet above it" } else { "ns/packet" };
            let new = Measured::new(name, unit, vec![]);
            measured.push(match baseline {
                Some(baseline) => new.compared(baseline),
                None => new,
            });
            measured.len() - 1
        });
        measured[place].rounds.push(value);
    };
    for round in 0..ROUNDS {
        let plain = frame(flow(0).0, false);
        let mut asked = plain.clone();
        asked[12..14].copy_from_slice(&[8, 6]);
        let nothing = node.express("peer_pass", &[plain], PASS);
        let untouched = node.classify("uplink_ingress", &[asked], GO_ON);
        add(empty, None, nothing);
        add(arp, None, untouched);
        for count in [1, 1000, 50_000] {
            let flows: Vec<(Flow, Flow)> = shuffled(count, round).map(flow).collect();
            node.enter(&flows);
            let frames: Vec<Vec<u8>> = flows.iter().map(|(flow, _)| frame(*flow, false)).collect();
            let what = if count == 1 {
                "one established flow".to_owned()
            } else {
                format!("{count} established flows")
            };
            add(
                &format!("XDP, {what}"),
                Some(empty),
                node.express("uplink_express", &frames, BACK) - nothing,
            );
            add(
                &format!("tc, {what}"),
                Some(arp),
                node.classify("uplink_ingress", &frames, REDIRECT) - untouched,
            );
            node.forget_all();
        }
        for (what, before) in [("new flows", 0), ("new flows over a full table", 140_000)] {
            let full: Vec<(Flow, Flow)> = shuffled(before, round).map(flow).collect();
            node.enter(&full);
            let frames: Vec<Vec<u8>> = (0..PACKETS).map(|at| frame(first(at), true)).collect();
            add(
                &format!("XDP, {what}"),
                Some(empty),
                node.express("uplink_express", &frames, BACK) - nothing,
            );
            node.forget_all();
        }
    }
    measured
}

/// One of the flows, as it comes and as it leaves: of a client to the NodePort, or back from its backend.
pub(crate) fn flow(number: u32) -> (Flow, Flow) {
    let [.., client] = (number % CLIENTS).to_be_bytes();
    let [.., backend] = (number % BACKENDS + 1).to_be_bytes();
    let port = 1024 + u16::try_from(number / CLIENTS).unwrap();
    let (client, backend) = (([10, 10, 0, client], port), ([10, 200, 0, backend], 8080));
    let asked = Flow::new(client, (NODE, PORT), TCP);
    // Ports that the node gave: as many for each backend.
    let leaves = Flow::new((NODE, 1024 + u16::try_from(number / BACKENDS).unwrap()), backend, TCP);
    if number.is_multiple_of(2) { (asked, leaves) } else { (leaves.reversed(), asked.reversed()) }
}

/// So many numbers, in an order that has nothing to do with where their flows lie.
pub(crate) fn shuffled(count: u32, round: usize) -> impl Iterator<Item = u32> {
    // A multiplicative permutation: the step is prime to any count below it.
    let (step, round) = (1_000_003_u64, u64::try_from(round).unwrap());
    (0..count).map(move |at| u32::try_from((u64::from(at) * step + round) % u64::from(count)).unwrap())
}

/// The first packet of a client's connection.
fn first(at: usize) -> Flow {
    let [.., client] = (at % 251).to_be_bytes();
    Flow::new(([10, 9, 0, client], 20_000 + u16::try_from(at / 251).unwrap()), (NODE, PORT), TCP)
}

pub(crate) fn frame(flow: Flow, first: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(OWN, OWN).ipv4(flow.source, flow.destination, 64).tcp(
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

pub(crate) fn xdp<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut Xdp {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}
