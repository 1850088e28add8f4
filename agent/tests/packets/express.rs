//! The XDP program, in a network namespace of its own with one link, a route to another node's pods, and known neighbours.

use std::process::Command;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use oarlock_ebpf::count::ServiceCounts;
use oarlock_ebpf::flow::Settings;
use oarlock_ebpf::flow6::Settings6;
use oarlock_ebpf::layout::{EXTERNAL, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use proptest::prelude::*;

use super::counts::counts;
use super::frames::*;
use super::six;

/// Verdicts of XDP: drop, up to tc, back by the link.
pub(super) const DROP: u32 = 1;
pub(super) const UP: u32 = 2;
pub(super) const BACK: u32 = 3;

pub(super) const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
pub(super) const CLIENTS: [u8; 6] = [2, 0, 0, 0, 0, 0xc8];
pub(super) const FAR_NODES: [u8; 6] = [2, 0, 0, 0, 0, 0x12];

/// The node's tables and its uplink.
pub(super) struct Uplinked {
    pub(super) node: Node,
    pub(super) number: u32,
}

impl Uplinked {
    /// Moves the test's thread into a new network namespace, which ends with it.
    pub(super) fn new() -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        for command in [
            "link add eth0 address 02:00:00:00:00:11 type veth peer name far",
            "link set far up",
            "addr add 172.30.77.11/24 dev eth0",
            "link set eth0 up",
            "neigh add 172.30.77.200 lladdr 02:00:00:00:00:c8 dev eth0",
            "neigh add 172.30.77.12 lladdr 02:00:00:00:00:12 dev eth0",
            "route add 10.244.1.0/24 via 172.30.77.12",
        ] {
            let said = Command::new("ip").args(command.split(' ')).output().unwrap();
            assert!(said.status.success(), "{command}: {}", String::from_utf8_lossy(&said.stderr));
        }
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let number = nix::net::if_::if_nametoindex("eth0").unwrap();
        Self { node: Node::new(true), number }
    }

    /// Runs the program on a frame that came by the uplink.
    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        run(&mut self.node, self.number, frame)
    }
}

/// Runs the program of a node on a frame that came by the uplink of this number.
pub(super) fn run(node: &mut Node, uplink: u32, frame: &[u8]) -> (u32, Vec<u8>) {
    let program: &mut Xdp = node.ebpf.program_mut("uplink_express").unwrap().try_into().unwrap();
    let mut out = vec![0; frame.len() + 64];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let length = u32::try_from(frame.len()).unwrap();
    let context: Vec<u8> =
        [0, length, 0, uplink, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let options = TestRunOptions {
        data_in: Some(frame),
        data_out: Some(&mut out),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).unwrap();
    out.truncate(usize::try_from(result.data_size_out).unwrap());
    (result.return_value, out)
}

#[test]
fn behind_an_overlay_other_nodes_see_the_address_that_the_node_has_there() {
    let six::Six { mut node, settings: mut settings6, .. } = six::Six::of(Uplinked::new().node);
    for command in [
        "link add vx0 type veth peer name vx1",
        "link set vx1 up",
        "link set vx0 up",
        "link set lo up",
        "route replace 10.244.1.0/24 dev vx0",
        "route add fd00:10:244::/48 dev vx0",
    ] {
        assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success(), "{command}");
    }
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    let overlay = nix::net::if_::if_nametoindex("vx0").unwrap();
    let (inside, inside6) = ([10, 244, 0, 0], [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    let known = node.settings.get(&0, 0).unwrap();
    node.settings.set(0, Settings { overlay, overlay_address: inside, ..known }, 0).unwrap();
    let known = settings6.get(&0, 0).unwrap();
    settings6.set(0, Settings6 { overlay_address: inside6, ..known }, 0).unwrap();

    let (verdict, there) = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b""));
    assert_eq!((verdict, ends(&there).0.0, ends(&there).1), (REDIRECT, inside, (FAR_POD, 8080)));
    let asked = six::tcp((six::CLIENT, 40000), (six::NODE_1, 30081), SYN, b"");
    let (verdict, there) = node.run("uplink_ingress", &asked);
    let (source, destination) = six::ends(&there);
    assert_eq!((verdict, source.0, destination), (REDIRECT, inside6, (six::FAR_POD, 8080)));
    let (verdict, back) = node.run("uplink_ingress", &six::tcp((six::FAR_POD, 8080), source, SYN_ACK, b""));
    assert_eq!((verdict, six::ends(&back)), (REDIRECT, ((six::NODE_1, 30081), (six::CLIENT, 40000))));

    // What is reached by the uplink all the same sees the node's own.
    assert!(
        Command::new("ip").args("route del fd00:10:244::/48 dev vx0".split(' ')).status().unwrap().success()
    );
    let asked = six::tcp((six::CLIENT, 40001), (six::NODE_1, 30081), SYN, b"");
    assert_eq!(six::ends(&node.run("uplink_ingress", &asked).1).0.0, six::NODE_1);
}

/// The frame as the uplink's neighbour would send it to this node.
pub(super) fn to_us(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&OWN);
    frame
}

#[test]
fn what_leaves_the_way_it_came_turns_round_in_the_driver() {
    let mut uplink = Uplinked::new();
    let asked = to_us(tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b""));
    let (verdict, there) = uplink.run(&asked);
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination), (BACK, NODE_1, (FAR_POD, 8080)));
    assert_eq!((&there[..6], &there[6..12]), (&FAR_NODES[..], &OWN[..]), "by the next hop");
    assert_eq!(there[22], 63, "one hop");
    assert_eq!(rest(&there, 34)[12..], rest(&asked, 34)[12..], "nothing else has changed");
    let (verdict, back) = uplink.run(&to_us(tcp((FAR_POD, 8080), source, SYN_ACK, b"")));
    assert_eq!((verdict, ends(&back)), (BACK, ((NODE_1, 30081), (CLIENT, 40000))));
    assert_eq!(&back[..6], &CLIENTS);
    let (_, more) = uplink.run(&to_us(tcp((CLIENT, 40000), (NODE_1, 30081), ACK, &[7; 1400])));
    assert_eq!(ends(&more).0, source, "one connection, one port");
    assert_eq!(uplink.node.counted(Reason::Express), 3);
    assert_eq!(uplink.node.counted(Reason::Translated), 1);
}

#[test]
fn tc_goes_on_with_what_xdp_began() {
    let mut uplink = Uplinked::new();
    let asked = tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b"");
    assert_eq!(uplink.run(&to_us(asked.clone())), (UP, to_us(asked.clone())), "a pod of this node: by tc");
    let (verdict, there) = uplink.node.run("uplink_ingress", &asked);
    assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (POD, 8080))));
    assert_eq!(uplink.node.counted(Reason::Translated), 1, "one connection");
}

/// XDP counts what it sends, tc what XDP leaves to it.
#[test]
fn a_packet_that_meets_two_programs_is_counted_once() {
    let mut uplink = Uplinked::new();
    let table = uplink.node.map(maps::SERVICE_COUNTS);
    let near = SlotRange::new(1, 1, 1);
    let line = |range| ServiceLine::new(range, range, 8, 0, EXTERNAL).counted_as(3);
    uplink.node.publish((NODE_1, 30084), TCP, line(near));
    for flags in [SYN, ACK] {
        let asked = tcp((CLIENT, 40000), (NODE_1, 30084), flags, b"");
        assert_eq!(uplink.run(&to_us(asked.clone())).0, UP);
        assert_eq!(uplink.node.run("uplink_ingress", &asked).0, GO_ON);
    }
    let once = ServiceCounts { packets: [2, 0], bytes: [80, 0], begun: [0, 1], dropped: [0; 4] };
    assert_eq!(counts(&table, 3), once);
    uplink.node.publish((NODE_1, 30084), TCP, line(SlotRange::new(2, 1, 1)));
    let (verdict, there) = uplink.run(&to_us(tcp((CLIENT, 40001), (NODE_1, 30084), SYN, b"")));
    assert_eq!(verdict, BACK);
    assert_eq!(uplink.run(&to_us(tcp((FAR_POD, 8080), ends(&there).0, SYN_ACK, b"data"))).0, BACK);
    let both = ServiceCounts { packets: [3, 1], bytes: [120, 44], begun: [0, 2], dropped: [0; 4] };
    assert_eq!(counts(&table, 3), both);
}

#[test]
fn datagrams_turn_round_and_a_missing_checksum_stays_missing() {
    let mut uplink = Uplinked::new();
    let far = SlotRange::new(2, 1, 1);
    uplink.node.publish((NODE_1, 30084), UDP, ServiceLine::new(far, far, 8, 0, EXTERNAL));
    let asked = to_us(udp((CLIENT, 5000), (NODE_1, 30084), b"question"));
    let (verdict, there) = uplink.run(&asked);
    assert_eq!((verdict, ends(&there).1), (BACK, (FAR_POD, 8080)));
    let mut unchecked = asked;
    unchecked[40..42].fill(0);
    let (verdict, there) = uplink.run(&unchecked);
    assert_eq!((verdict, &there[40..42]), (BACK, &[0, 0][..]));
    let (verdict, back) = uplink.run(&to_us(udp((FAR_POD, 8080), ends(&there).0, b"answer")));
    assert_eq!((verdict, ends(&back)), (BACK, ((NODE_1, 30084), (CLIENT, 5000))));
}

#[test]
fn every_doubt_goes_up_untouched() {
    let mut uplink = Uplinked::new();
    let syn = to_us(tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b""));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        change(&mut frame);
        frame
    };
    // The sum of pseudo header alone, not complemented: what a virtual link's sender leaves to a card.
    let partial: u32 = [0xac1e_u32, 0x4dc8, 0xac1e, 0x4d0b, 6, 20].iter().sum();
    let partial = u16::try_from((partial & 0xffff) + (partial >> 16)).unwrap();
    let cases = [
        ("a frame for somebody else", changed(&|f| f[5] = 0x13)),
        ("a checksum that is not complete", changed(&|f| f[50..52].copy_from_slice(&partial.to_be_bytes()))),
        ("no hop left", changed(&|f| f[22] = 1)),
        ("too long for the way", changed(&|f| f[16..18].copy_from_slice(&1501_u16.to_be_bytes()))),
        ("options", changed(&|f| f[14] = 0x46)),
        ("a fragment", changed(&|f| f[20] = 0x20)),
        ("a VLAN", changed(&|f| f[12..14].copy_from_slice(&[0x81, 0]))),
        ("ICMP", changed(&|f| f[23] = 1)),
        ("half a header", syn[..44].to_vec()),
        ("a pod's own address", to_us(tcp((CLIENT, 40000), (POD, 8080), SYN, b""))),
        ("no endpoints", to_us(tcp((CLIENT, 40000), (NODE_1, 30083), SYN, b""))),
        ("no Service", to_us(tcp((CLIENT, 40000), (NODE_1, 22), SYN, b""))),
    ];
    for (what, frame) in cases {
        assert_eq!(uplink.run(&frame), (UP, frame.clone()), "{what}");
    }
    assert_eq!(uplink.node.counted(Reason::Express), 0);
    assert_eq!(uplink.run(&syn).0, BACK, "the same frame, whole");
}

#[test]
fn a_neighbour_that_is_not_known_yet_is_asked_for_by_the_stack() {
    let mut uplink = Uplinked::new();
    let stranger = ([172, 30, 77, 99], 40000);
    let (_, there) = uplink.run(&to_us(tcp(stranger, (NODE_1, 30081), SYN, b"")));
    let answer = to_us(tcp((FAR_POD, 8080), ends(&there).0, SYN_ACK, b""));
    assert_eq!(uplink.run(&answer), (UP, answer.clone()));
    let (verdict, back) = uplink.node.run("uplink_ingress", &answer_by_loopback(answer));
    assert_eq!((verdict, ends(&back)), (REDIRECT, ((NODE_1, 30081), stranger)), "tc asks for it");
}

/// The frame as tests of tc have it.
fn answer_by_loopback(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&RECEIVER);
    frame
}

/// Whatever comes: what goes up is untouched, and what turns round has one hop less and right checksums if it had them.
#[test]
fn no_frame_breaks_the_program() {
    let uplink = std::cell::RefCell::new(Uplinked::new());
    let flips = proptest::collection::vec((12..80_usize, any::<u8>()), 0..4);
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&(flips, 34..90_usize, 0..3, any::<bool>()), |(flips, cut, kind, whole)| {
        let mut frame = to_us(match kind {
            0 => tcp((CLIENT, 40000), (NODE_1, 30081), SYN, &[7; 30]),
            1 => tcp((CLIENT, 40001), (NODE_1, 30080), SYN, &[7; 30]),
            _ => udp((CLIENT, 40000), (NODE_1, 30082), &[7; 40]),
        });
        for (at, value) in flips {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if !whole {
            frame.truncate(cut);
        }
        let (verdict, out) = uplink.borrow_mut().run(&frame);
        match verdict {
            UP => prop_assert_eq!(&out, &frame),
            BACK => {
                prop_assert_eq!(out.len(), frame.len());
                prop_assert_eq!(out[22], frame[22] - 1);
                prop_assert_eq!(sum_of_header(&out), sum_of_header(&frame), "as right as it was");
            }
            other => prop_assert!(false, "verdict {}", other),
        }
        Ok(())
    });
    outcome.unwrap();
}

/// The one's complement sum of the IP header: all ones where its checksum is right.
fn sum_of_header(frame: &[u8]) -> u16 {
    let words = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

#[test]
fn another_next_hop_is_followed_within_a_second() {
    let mut uplink = Uplinked::new();
    let asked = to_us(tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b""));
    let receiver = |(verdict, frame): (u32, Vec<u8>)| {
        assert_eq!(verdict, BACK);
        frame[..6].to_vec()
    };
    assert_eq!(receiver(uplink.run(&asked)), FAR_NODES);
    let moved = [2, 0, 0, 0, 0, 0x99];
    let change = "neigh replace 172.30.77.12 lladdr 02:00:00:00:00:99 dev eth0";
    assert!(Command::new("ip").args(change.split(' ')).status().unwrap().success());
    // What is remembered is forgotten when the second changes, by the clock's last tick.
    assert!(Command::new("sleep").arg("1.05").status().unwrap().success());
    assert_eq!(receiver(uplink.run(&asked)), moved);
}
