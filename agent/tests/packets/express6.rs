//! The same of IPv6, which the XDP program hands on; and that tc makes the same of every frame.

use std::process::Command;

use oarlock_ebpf::count::ServiceCounts;
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::layout::{EXTERNAL, FrontendKey6, SOURCE_RANGES, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use proptest::prelude::*;

use super::counts::counts;
use super::express::{BACK, CLIENTS, DROP, FAR_NODES, OWN, UP, Uplinked, to_us};
use super::frames::{ACK, GO_ON, RECEIVER, REDIRECT, SHOT, SYN, SYN_ACK, TCP, UDP};
use super::six::{CLIENT, End, FAR_POD, NODE_1, OUTSIDE, POD, Six, ends, packet, tcp, udp};

/// A node with its uplink.
struct Uplinked6 {
    six: Six,
    number: u32,
}

impl Uplinked6 {
    fn new() -> Self {
        let Uplinked { node, number } = Uplinked::new();
        for command in [
            "addr add fd00:10:77::b/64 dev eth0 nodad",
            "neigh add fd00:10:77::c8 lladdr 02:00:00:00:00:c8 dev eth0",
            "neigh add fd00:10:77::c lladdr 02:00:00:00:00:12 dev eth0",
            "route add fd00:10:244::/64 via fd00:10:77::c",
        ] {
            let said = Command::new("ip").args(command.split(' ')).output().unwrap();
            assert!(said.status.success(), "{command}: {}", String::from_utf8_lossy(&said.stderr));
        }
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        Self { six: Six::of(node), number }
    }

    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        super::express::run(&mut self.six.node, self.number, frame)
    }

    fn counted(&self, reason: Reason) -> u64 {
        self.six.node.counted(reason)
    }

    /// One Service more, counted under 3.
    fn publish(&mut self, port: u16, protocol: u8, range: SlotRange, flags: u32) {
        let line = ServiceLine::new(range, range, 8, 0, EXTERNAL | flags).counted_as(3);
        self.six.frontends.insert(FrontendKey6::new(NODE_1, port, protocol), 17, 0).unwrap();
        self.six.node.lines.set(17, line, 0).unwrap();
    }
}

const NEAR: SlotRange = SlotRange::new(11, 1, 1);
const FAR: SlotRange = SlotRange::new(12, 1, 1);

/// As the uplink's neighbour sends a frame, and as tests of tc have it.
fn by_loopback(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&RECEIVER);
    frame
}

fn asked(from: u16, to: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    to_us(tcp((CLIENT, from), (NODE_1, to), flags, payload))
}

fn answered(to: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    to_us(tcp((FAR_POD, 8080), to, flags, payload))
}

#[test]
fn what_leaves_the_way_it_came_turns_round_in_the_driver() {
    let mut uplink = Uplinked6::new();
    let syn = asked(40000, 30081, SYN, b"");
    let (verdict, there) = uplink.run(&syn);
    let (source, destination) = ends(&there);
    assert_eq!((verdict, source.0, destination), (BACK, NODE_1, (FAR_POD, 8080)));
    assert_eq!((&there[..6], &there[6..12]), (&FAR_NODES[..], &OWN[..]), "by the next hop");
    assert_eq!(there[21], 63, "one hop");
    // Addresses, ports and checksum are looked at above.
    let unchanged = |frame: &[u8]| [&frame[12..21], &frame[58..70], &frame[72..]].concat();
    assert_eq!(unchanged(&there), unchanged(&syn), "nothing else has changed");
    let (verdict, back) = uplink.run(&answered(source, SYN_ACK, b""));
    assert_eq!((verdict, ends(&back)), (BACK, ((NODE_1, 30081), (CLIENT, 40000))));
    assert_eq!(&back[..6], &CLIENTS);
    let (_, more) = uplink.run(&asked(40000, 30081, ACK, &[7; 1400]));
    assert_eq!(ends(&more).0, source, "one connection, one port");
    assert_eq!(uplink.counted(Reason::Express), 3);
    assert_eq!(uplink.counted(Reason::Translated), 1);
}

/// Whatever is said of a connection, either program makes the same bytes of it, but for the addresses of Ethernet.
#[test]
fn tc_and_xdp_agree() {
    let mut uplink = Uplinked6::new();
    uplink.publish(30086, UDP, FAR, 0);
    let (_, there) = uplink.run(&asked(40000, 30081, SYN, b""));
    let (source, _) = ends(&there);
    let (_, datagram) = uplink.run(&to_us(udp((CLIENT, 40000), (NODE_1, 30086), b"question")));
    let (of_datagram, _) = ends(&datagram);
    let mut last_hop = asked(40000, 30081, ACK, b"");
    last_hop[21] = 1;
    for (what, frame) in [
        ("the same again", asked(40000, 30081, SYN, b"")),
        ("data", asked(40000, 30081, ACK, &[7; 1400])),
        ("an answer", answered(source, SYN_ACK, b"")),
        ("answered data", answered(source, ACK, &[9; 1001])),
        ("a datagram", to_us(udp((CLIENT, 40000), (NODE_1, 30086), b"another one"))),
        ("its answer", to_us(udp((FAR_POD, 8080), of_datagram, b"answer"))),
        ("the end", answered(source, ACK | 1, b"")),
    ] {
        let (verdict, by_xdp) = uplink.run(&frame);
        let (verdict_of_tc, by_tc) = uplink.six.run("uplink_ingress", &by_loopback(frame.clone()));
        assert_eq!((verdict, verdict_of_tc), (BACK, REDIRECT), "{what}");
        assert_eq!(by_xdp[12..], by_tc[12..], "{what}");
        assert_ne!(by_xdp[12..], frame[12..], "{what} is translated");
        let _ = ends(&by_xdp);
    }
    assert_eq!(uplink.run(&last_hop), (UP, last_hop.clone()));
    assert_eq!(uplink.six.run("uplink_ingress", &by_loopback(last_hop)).0, SHOT, "which tc alone judges");

    // Who may not ask is told so by neither.
    uplink.publish(30087, TCP, FAR, SOURCE_RANGES);
    let denied = asked(40001, 30087, SYN, b"");
    assert_eq!(uplink.run(&denied).0, DROP);
    assert_eq!(uplink.six.run("uplink_ingress", &by_loopback(denied)).0, SHOT);
    assert_eq!(uplink.counted(Reason::Denied), 2);
}

#[test]
fn tc_goes_on_with_what_xdp_began() {
    let mut uplink = Uplinked6::new();
    let table = uplink.six.node.map(maps::SERVICE_COUNTS);
    uplink.publish(30086, TCP, NEAR, 0);
    for flags in [SYN, ACK] {
        let frame = asked(40000, 30086, flags, b"");
        assert_eq!(uplink.run(&frame), (UP, frame.clone()), "a pod of this node: by tc");
        let (verdict, there) = uplink.six.run("uplink_ingress", &by_loopback(frame));
        assert_eq!((verdict, ends(&there)), (GO_ON, ((CLIENT, 40000), (POD, 8080))));
    }
    let once = ServiceCounts { packets: [2, 0], bytes: [120, 0], begun: [0, 1], dropped: [0; 4] };
    assert_eq!(counts(&table, 3), once, "each packet and the connection once");
    uplink.publish(30086, TCP, FAR, 0);
    let (verdict, there) = uplink.run(&asked(40001, 30086, SYN, b""));
    assert_eq!(verdict, BACK);
    assert_eq!(uplink.run(&answered(ends(&there).0, SYN_ACK, b"data")).0, BACK);
    let both = ServiceCounts { packets: [3, 1], bytes: [180, 64], begun: [0, 2], dropped: [0; 4] };
    assert_eq!(counts(&table, 3), both);
}

#[test]
fn every_doubt_goes_up_untouched() {
    let mut uplink = Uplinked6::new();
    uplink.publish(30086, UDP, FAR, 0);
    let syn = asked(40000, 30081, SYN, b"");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        change(&mut frame);
        frame
    };
    // The sum of the pseudo header alone, not complemented: what a virtual link's sender leaves to a card.
    let partial = changed(&|f| {
        let words = f[22..54].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
        let sum = words.sum::<u32>() + 6 + 20;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        f[70..72].copy_from_slice(&sum.to_be_bytes());
    });
    let mut fragment = to_us(udp((CLIENT, 5000), (NODE_1, 30086), &[9; 40]));
    fragment[20] = 44;
    fragment.splice(54..54, [UDP, 0, 0, 1, 1, 2, 3, 4]);
    let mut solicited = Vec::new();
    packet(CLIENT, NODE_1, 255).icmpv6_raw(135, 0, [0; 4]).write(&mut solicited, &NODE_1).unwrap();
    let cases = [
        ("a frame for somebody else", changed(&|f| f[5] = 0x13)),
        ("a checksum that is not complete", partial),
        ("no hop left", changed(&|f| f[21] = 1)),
        ("too long for the way", changed(&|f| f[18..20].copy_from_slice(&1461_u16.to_be_bytes()))),
        ("another version", changed(&|f| f[14] = 0x40)),
        ("options for each hop", changed(&|f| f[20] = 0)),
        ("a fragment", fragment),
        ("a VLAN", changed(&|f| f[12..14].copy_from_slice(&[0x81, 0]))),
        ("a neighbour's solicitation", to_us(solicited)),
        ("half a header", syn[..72].to_vec()),
        ("a pod's own address", to_us(tcp((CLIENT, 40000), (POD, 8080), SYN, b""))),
        ("no endpoints", asked(40000, 30083, SYN, b"")),
        ("no Service", asked(40000, 22, SYN, b"")),
        ("the middle of a connection", asked(40005, 30081, ACK, b"")),
    ];
    for (what, frame) in cases {
        assert_eq!(uplink.run(&frame), (UP, frame.clone()), "{what}");
    }
    assert_eq!(uplink.counted(Reason::Express), 0);
    assert_eq!(uplink.run(&syn).0, BACK, "the same frame, whole");
    let mut unchecked = to_us(udp((CLIENT, 5000), (NODE_1, 30086), b"question"));
    unchecked[60..62].fill(0);
    let (verdict, there) = uplink.run(&unchecked);
    assert_eq!((verdict, &there[60..62]), (BACK, &[0, 0][..]), "a missing checksum stays missing");
}

#[test]
fn a_neighbour_that_is_not_known_yet_is_asked_for_by_the_stack_and_another_one_followed() {
    let mut uplink = Uplinked6::new();
    let mut stranger = (CLIENT, 40000);
    stranger.0[15] = 99;
    let (_, there) = uplink.run(&to_us(tcp(stranger, (NODE_1, 30081), SYN, b"")));
    let answer = answered(ends(&there).0, SYN_ACK, b"");
    assert_eq!(uplink.run(&answer), (UP, answer.clone()));
    let (verdict, back) = uplink.six.run("uplink_ingress", &by_loopback(answer));
    assert_eq!((verdict, ends(&back)), (REDIRECT, ((NODE_1, 30081), stranger)), "tc asks for it");
    // From afar it is asked by a router, of which there is none.
    let (verdict, there) = uplink.run(&to_us(tcp((OUTSIDE, 40000), (NODE_1, 30081), SYN, b"")));
    assert_eq!(verdict, BACK);
    assert_eq!(uplink.run(&answered(ends(&there).0, SYN_ACK, b"")).0, UP);

    let syn = asked(40000, 30081, SYN, b"");
    assert_eq!(uplink.run(&syn).1[..6], FAR_NODES);
    let moved = [2, 0, 0, 0, 0, 0x99];
    let change = "neigh replace fd00:10:77::c lladdr 02:00:00:00:00:99 dev eth0";
    assert!(Command::new("ip").args(change.split(' ')).status().unwrap().success());
    // What is remembered is forgotten when the second changes, by the clock's last tick.
    assert!(Command::new("sleep").arg("1.05").status().unwrap().success());
    assert_eq!(uplink.run(&syn).1[..6], moved);
}

/// Whatever comes: what goes up is untouched, and what turns round has one hop less and a checksum as right as it was.
#[test]
fn no_frame_breaks_the_program() {
    let mut uplink = Uplinked6::new();
    uplink.publish(30086, UDP, FAR, 0);
    let uplink = std::cell::RefCell::new(uplink);
    let flips = proptest::collection::vec((12..110_usize, any::<u8>()), 0..4);
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let outcome = runner.run(&(flips, 54..120_usize, 0..3, any::<bool>()), |(flips, cut, kind, whole)| {
        let mut frame = match kind {
            0 => asked(40000, 30081, SYN, &[7; 30]),
            1 => asked(40001, 30080, SYN, &[7; 30]),
            _ => to_us(udp((CLIENT, 40000), (NODE_1, 30086), &[7; 40])),
        };
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
                prop_assert_eq!(out[21], frame[21] - 1);
                let is_unchecked = frame[20] == UDP && frame[60..62] == [0, 0];
                prop_assert!(is_unchecked || error(&out) == error(&frame), "as right as it was");
            }
            other => prop_assert!(false, "verdict {}", other),
        }
        Ok(())
    });
    outcome.unwrap();
    // The flows that were begun are whole pairs.
    let flows: aya::maps::HashMap<_, Flow6, oarlock_ebpf::flow6::Translation6> =
        uplink.borrow_mut().six.node.map(maps::FLOWS6_TCP);
    let all: std::collections::HashMap<_, _> = flows.iter().filter_map(Result::ok).collect();
    assert!(!all.is_empty());
    for entry in all.values() {
        assert!(all.contains_key(&entry.to.reversed()), "{entry:?} has no answer");
    }
}

/// The one's complement sum of addresses and segment: how wrong its checksum is, as neither length nor protocol change.
fn error(frame: &[u8]) -> u16 {
    let words = frame[22..]
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])));
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Two forms of zero.
    if sum == 0xffff { 0 } else { u16::try_from(sum).unwrap() }
}
