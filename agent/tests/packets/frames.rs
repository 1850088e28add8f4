//! A node of tables alone, and frames for it.

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use oarlock_agent::dataplane::verified;
use oarlock_ebpf::flow::{EXTERNAL_CLUSTER_IP, FIN, LOCAL_POD, NODE, Owner, Settings};
use oarlock_ebpf::flow6::{POD_IN, POD_OUT, UPLINK_IN, UPLINK_OUT};
use oarlock_ebpf::layout::{Backend, EXTERNAL, FrontendKey, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OARLOCK_BPF_EMBEDDED"));

/// The loopback's: tests of tc run as if a frame had come by it.
pub(super) const RECEIVER: [u8; 6] = [0; 6];
pub(super) const CLIENT: [u8; 4] = [172, 30, 77, 200];
pub(super) const NODE_1: [u8; 4] = [172, 30, 77, 11];
pub(super) const POD: [u8; 4] = [10, 244, 0, 5];
pub(super) const FAR_POD: [u8; 4] = [10, 244, 1, 5];
pub(super) const CLUSTER_IP: [u8; 4] = [10, 96, 0, 80];
pub(super) const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Verdicts of tc: on to the next program and the stack, drop, out by another link.
pub(super) const GO_ON: i32 = -1;
pub(super) const SHOT: i32 = 2;
pub(super) const REDIRECT: i32 = 7;

/// TCP flags.
pub(super) const SYN: u8 = 2;
pub(super) const SYN_ACK: u8 = 18;
pub(super) const ACK: u8 = 16;
pub(super) const RST: u8 = 4;

/// The programs with tables of their own: NodePorts 30080 (a pod here), 30081 (a pod elsewhere), 30082/UDP (here), 30083
/// (nobody), and a ClusterIP in front of the pod here.
pub(super) struct Node {
    pub(super) ebpf: Ebpf,
    pub(super) settings: Array<MapData, Settings>,
    frontends: HashMap<MapData, FrontendKey, u32>,
    pub(super) lines: Array<MapData, ServiceLine>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) slots: Array<MapData, u32>,
    counters: PerCpuArray<MapData, u64>,
    pub(super) addresses: HashMap<MapData, [u8; 4], Owner>,
}

impl Node {
    pub(super) fn new(external_cluster_ip: bool) -> Self {
        Self::of(Ebpf::load(OBJECT).expect("needs root and `cargo xtask build`"), external_cluster_ip)
    }

    /// The same of programs that were loaded otherwise.
    pub(super) fn of(mut ebpf: Ebpf, external_cluster_ip: bool) -> Self {
        let mut settings: Array<_, Settings> = map(&mut ebpf, maps::SETTINGS);
        let of_node = Settings {
            node: NODE_1,
            cluster: [10, 244, 0, 0],
            mask: [255, 255, 0, 0],
            flags: if external_cluster_ip { EXTERNAL_CLUSTER_IP } else { 0 },
            ..Settings::default()
        };
        settings.set(0, of_node, 0).unwrap();
        let mut addresses: HashMap<_, [u8; 4], Owner> = map(&mut ebpf, maps::ADDRESSES);
        addresses.insert(POD, Owner::by_routes(LOCAL_POD), 0).unwrap();
        addresses.insert(NODE_1, Owner::by_routes(NODE), 0).unwrap();
        let mut backends: Array<_, Backend> = map(&mut ebpf, maps::BACKENDS);
        backends.set(1, Backend::new(POD, 8080, 1), 0).unwrap();
        backends.set(2, Backend::new(FAR_POD, 8080, 1), 0).unwrap();
        backends.set(3, Backend::new(NODE_1, 9000, 1), 0).unwrap();
        let mut slots: Array<_, u32> = map(&mut ebpf, maps::SLOTS);
        slots.set(1, 1, 0).unwrap();
        slots.set(2, 2, 0).unwrap();
        slots.set(3, 3, 0).unwrap();
        let mut frontends: HashMap<_, FrontendKey, u32> = map(&mut ebpf, maps::FRONTENDS);
        let mut lines: Array<_, ServiceLine> = map(&mut ebpf, maps::SERVICE_TABLE);
        let services = [
            (FrontendKey::new(NODE_1, 30080, TCP), SlotRange::new(1, 1, 1)),
            (FrontendKey::new(NODE_1, 30081, TCP), SlotRange::new(2, 1, 1)),
            (FrontendKey::new(NODE_1, 30082, UDP), SlotRange::new(1, 1, 1)),
            (FrontendKey::new(NODE_1, 30083, TCP), SlotRange::new(1, 0, 1)),
            (FrontendKey::new(CLUSTER_IP, 80, TCP), SlotRange::new(1, 1, 1)),
        ];
        for (index, (key, range)) in (1..).zip(services) {
            frontends.insert(key, index, 0).unwrap();
            // The last one is a ClusterIP.
            let flags = if key.address() == CLUSTER_IP { 0 } else { EXTERNAL };
            lines.set(index, ServiceLine::new(range, range, 7, 0, flags), 0).unwrap();
        }
        for name in ["uplink_ingress", "uplink_egress", "pod_egress", "pod_ingress"] {
            let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
            verified(|| program.load()).unwrap();
        }
        hand_on(&mut ebpf);
        let program: &mut Xdp = ebpf.program_mut("uplink_express").unwrap().try_into().unwrap();
        verified(|| program.load()).unwrap();
        let counters = map(&mut ebpf, maps::COUNTERS);
        Self { ebpf, settings, frontends, lines, backends, slots, counters, addresses }
    }

    /// One Service more.
    pub(super) fn publish(&mut self, (address, port): End, protocol: u8, line: ServiceLine) {
        self.frontends.insert(FrontendKey::new(address, port, protocol), 9, 0).unwrap();
        self.lines.set(9, line, 0).unwrap();
    }

    /// A map that the programs use.
    pub(super) fn map<M: TryFrom<aya::maps::Map>>(&mut self, name: &str) -> M
    where
        M::Error: std::fmt::Debug,
    {
        map(&mut self.ebpf, name)
    }

    /// Runs a program on a frame: its verdict, and the frame as it leaves.
    pub(super) fn run(&mut self, program: &str, frame: &[u8]) -> (i32, Vec<u8>) {
        let program: &mut SchedClassifier = self.ebpf.program_mut(program).unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len() + 64];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = program.test_run(options).unwrap();
        out.truncate(usize::try_from(result.data_size_out).unwrap());
        (result.return_value.cast_signed(), out)
    }

    /// The same of one that has come to the node by this link.
    pub(super) fn run_from(&mut self, link: u32, program: &str, frame: &[u8]) -> (i32, Vec<u8>) {
        let program: &mut SchedClassifier = self.ebpf.program_mut(program).unwrap().try_into().unwrap();
        let mut out = vec![0; frame.len() + 64];
        // struct __sk_buff (include/uapi/linux/bpf.h): ingress_ifindex is its tenth word.
        let mut context = [0_u8; 192];
        context[36..40].copy_from_slice(&link.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).unwrap();
        out.truncate(usize::try_from(result.data_size_out).unwrap());
        (result.return_value.cast_signed(), out)
    }

    pub(super) fn counted(&self, reason: Reason) -> u64 {
        self.counters.get(&(reason as u32), 0).unwrap().iter().sum()
    }
}

/// Puts the programs of IPv6 where packets are handed on to them.
fn hand_on(ebpf: &mut Ebpf) {
    let mut programs: ProgramArray<_> = map(ebpf, maps::PROGRAMS6);
    for (name, index) in [
        ("uplink_ingress6", UPLINK_IN),
        ("uplink_egress6", UPLINK_OUT),
        ("pod_egress6", POD_OUT),
        ("pod_ingress6", POD_IN),
    ] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        verified(|| program.load()).unwrap();
        programs.set(index, program.fd().unwrap(), 0).unwrap();
    }
    let mut express: ProgramArray<_> = map(ebpf, maps::EXPRESS6);
    let program: &mut Xdp = ebpf.program_mut("uplink_express6").unwrap().try_into().unwrap();
    verified(|| program.load()).unwrap();
    express.set(0, program.fd().unwrap(), 0).unwrap();
    // Their entries go with the last one who has them open.
    std::mem::forget((programs, express));
}

pub(super) fn map<M: TryFrom<aya::maps::Map>>(ebpf: &mut Ebpf, name: &str) -> M
where
    M::Error: std::fmt::Debug,
{
    M::try_from(ebpf.take_map(name).unwrap()).unwrap()
}

pub(super) type End = ([u8; 4], u16);

pub(super) fn ip(from: End, to: End) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], RECEIVER).ipv4(from.0, to.0, 64)
}

pub(super) fn tcp(from: End, to: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut builder = ip(from, to).tcp(from.1, to.1, 1000, 64000);
    if flags & SYN != 0 {
        builder = builder.syn();
    }
    if flags & ACK != 0 {
        builder = builder.ack(77);
    }
    if flags & RST != 0 {
        builder = builder.rst();
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
    ip(from, to).udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}

/// Who sends to whom, after every checksum has been computed anew and compared.
pub(super) fn ends(frame: &[u8]) -> (End, End) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("no IPv4") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    let (source, destination) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
            assert_eq!(tcp.checksum(), computed, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            let computed = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
            assert!(udp.checksum() == 0 || udp.checksum() == computed, "UDP checksum");
            (udp.source_port(), udp.destination_port())
        }
        other => panic!("no ports: {other:?}"),
    };
    ((header.source, source), (header.destination, destination))
}

/// A frame without what a translation changes: addresses, ports, checksums, TTL.
pub(super) fn rest(frame: &[u8], transport: usize) -> Vec<u8> {
    let mut rest = frame.to_vec();
    let sum = transport + if frame[23] == UDP { 6 } else { 16 };
    for at in (22..23).chain(24..34).chain(transport..transport + 4).chain(sum..sum + 2) {
        rest[at] = 0;
    }
    rest
}
