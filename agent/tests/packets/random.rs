//! Random frames, seeded: whatever comes, checksums stay as right or wrong as they were, nothing is dropped that had a hop left, and no
//! two connections get the same way. `cargo xtask soak packets` sends ten million of them.

use std::collections::HashMap;

use aya::maps::{Array, MapData};
use oarlock_ebpf::flow::{Flow, REPLY, Translation};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::table::Bucket;

use crate::frames::*;

/// Frames of a run that is not told otherwise.
const FRAMES: u64 = 20_000;

/// splitmix64: the next number, and the same ones for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }

    fn port(&mut self) -> u16 {
        1024 + u16::try_from(self.below(300)).unwrap()
    }
}

/// A frame to a Service, back from a backend, from a pod to the outside, or of nobody; now and then damaged.
fn frame(random: &mut Random, sent: &[(End, End)]) -> Vec<u8> {
    let clients = [CLIENT, OUTSIDE, [172, 30, 77, 201]];
    let frontends = [(NODE_1, 30080), (NODE_1, 30081), (NODE_1, 30082), (NODE_1, 30083), (CLUSTER_IP, 80)];
    let (from, to) = match random.below(8) {
        0..4 => ((random.of(&clients), random.port()), random.of(&frontends)),
        // Back the way that something went.
        4 | 5 if !sent.is_empty() => {
            let (from, to) = random.of(sent);
            (to, from)
        }
        6 => ((POD, random.port()), (random.of(&clients), 443)),
        _ => ((random.of(&[FAR_POD, POD]), 8080), (random.of(&[CLIENT, NODE_1, POD]), random.port())),
    };
    let payload = vec![random.next() as u8; usize::try_from(random.below(40)).unwrap()];
    let flags = random.of(&[SYN, SYN, SYN_ACK, ACK, ACK, ACK, RST, ACK | 1]);
    let mut frame = match random.below(3) {
        0 => udp(from, to, &payload),
        _ => tcp(from, to, flags, &payload),
    };
    if random.below(8) == 0 {
        let at = 14 + usize::try_from(random.below(frame.len() as u64 - 14)).unwrap();
        frame[at] ^= 1 << random.below(8);
    }
    frame
}

/// What a sum of 16-bit words is, folded; of a valid checksum's words 0xffff.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Two forms of zero.
    if sum == 0xffff { 0 } else { u16::try_from(sum).unwrap() }
}

/// How wrong the checksums of the IP header and of the segment are; none where there is no whole segment, or a datagram without.
fn errors(frame: &[u8]) -> Option<(u16, u16)> {
    let ip = &frame[14..];
    let header = usize::from(ip[0] & 0xf) * 4;
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let is_plain = frame[12..14] == [8, 0] && ip[0] >> 4 == 4 && header >= 20;
    if !is_plain || length != ip.len() || length < header + 8 || ip[6] & 0x3f != 0 || ip[7] != 0 {
        return None;
    }
    let (protocol, segment) = (ip[9], &ip[header..]);
    let is_there = match protocol {
        TCP => segment.len() >= 20,
        UDP => segment[6..8] != [0, 0] && segment[4..6] == (segment.len() as u16).to_be_bytes(),
        _ => false,
    };
    let pseudo = [&ip[12..20], &[0, protocol], &(segment.len() as u16).to_be_bytes(), segment].concat();
    is_there.then(|| (sum(&ip[..header]), sum(&pseudo)))
}

/// What `cargo xtask soak` says, which has no other way to.
#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[test]
fn random_frames_keep_their_checksums_and_their_ways_apart() {
    let (seed, frames) = (setting("OARLOCK_SEED", 1), setting("OARLOCK_FRAMES", FRAMES));
    let mut node = Node::new(true);
    let mut random = Random(seed);
    let mut sent: Vec<(End, End)> = Vec::new();
    for number in 0..frames {
        let came = frame(&mut random, &sent);
        let program = random.of(&["uplink_ingress", "uplink_ingress", "pod_egress", "uplink_egress"]);
        let (verdict, left) = node.run(program, &came);
        let what = format!("frame {number} of seed {seed} at {program}");
        assert_eq!(left.len(), came.len(), "{what}");
        assert!([GO_ON, REDIRECT, SHOT].contains(&verdict), "{what}: {verdict}");
        if let (Some(before), Some(after)) = (errors(&came), errors(&left)) {
            assert_eq!(after, before, "{what}: checksums\n{came:02x?}\n{left:02x?}");
            if after == (0, 0) && came[26..38] != left[26..38] && sent.len() < 5000 {
                sent.push(ends(&left));
            }
        }
    }
    check(&mut node);
}

/// Ways are apart, and there are no more lines than were begun.
fn check(node: &mut Node) {
    let table: Array<MapData, Bucket> = node.map(maps::FLOWS);
    let lines: Vec<(Flow, Translation)> = (0..table.len())
        .flat_map(|number| table.get(&number, 0).unwrap().flows().collect::<Vec<_>>())
        .collect();
    let begun = node.counted(Reason::Translated) + node.counted(Reason::Masqueraded);
    assert!(!lines.is_empty());
    // A datagram of an outsider to a pod's own address is a line too.
    let answered: u64 = lines.iter().filter(|(flow, line)| line.to == *flow).count() as u64;
    assert!(lines.len() as u64 <= 2 * begun + answered + 1000, "{} lines of {begun} flows", lines.len());
    let mut ways: HashMap<Flow, Flow> = HashMap::new();
    for (flow, line) in lines.iter().filter(|(_, line)| line.backend != REPLY) {
        if let Some(other) = ways.insert(line.to, *flow) {
            let current = |flow: &Flow| {
                lines.iter().any(|(key, back)| *key == line.to.reversed() && back.to == flow.reversed())
            };
            assert!(!(current(flow) && current(&other)), "{other:?} and {flow:?} leave as {:?}", line.to);
        }
    }
}
