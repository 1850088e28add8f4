//! ICMP errors about translated packets, and fragments of them.

use etherparse::{Ipv4HeaderSlice, NetSlice, SlicedPacket, TransportSlice};
use oarlock_ebpf::layout::{EXTERNAL, ServiceLine, SlotRange};
use oarlock_ebpf::reason::Reason;

use super::frames::*;

pub(super) const ROUTER: [u8; 4] = [172, 30, 77, 254];
pub(super) const PORT_UNREACHABLE: (u8, u8) = (3, 3);
pub(super) const TOO_BIG: (u8, u8) = (3, 4);
const TIME_EXCEEDED: (u8, u8) = (11, 0);

/// An ICMP error about the packet in a frame, of which so many bytes after its IP header are quoted.
pub(super) fn error(from: [u8; 4], to: [u8; 4], kind: (u8, u8), about: &[u8], quoted: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let path_mtu = if kind == TOO_BIG { 1400_u32 } else { 0 };
    let builder = ip((from, 0), (to, 0)).icmpv4_raw(kind.0, kind.1, path_mtu.to_be_bytes());
    builder.write(&mut frame, &about[14..34 + quoted]).unwrap();
    frame
}

/// From whom to whom an error goes and what it quotes, after its checksums have been computed anew and compared.
pub(super) fn read(frame: &[u8]) -> ([u8; 4], [u8; 4], Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) = (&packet.net, &packet.transport)
    else {
        panic!("no ICMP")
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP checksum");
    let quoted = icmp.payload();
    assert_eq!(icmp.header().checksum, icmp.icmp_type().calc_checksum(quoted), "ICMP checksum");
    let inner = Ipv4HeaderSlice::from_slice(quoted).unwrap().to_header();
    assert_eq!(inner.header_checksum, inner.calc_header_checksum(), "the quoted header's checksum");
    (header.source, header.destination, quoted.to_vec())
}

#[test]
fn a_backend_here_that_refuses_is_the_service_that_refuses() {
    let mut node = Node::new(false);
    let asked = udp((CLIENT, 5000), (NODE_1, 30082), b"question");
    let (_, there) = node.run("uplink_ingress", &asked);
    let refused = error(POD, CLIENT, PORT_UNREACHABLE, &there, 8);
    let (verdict, told) = node.run("pod_egress", &refused);
    let (from, to, quoted) = read(&told);
    assert_eq!((verdict, from, to, told[22]), (REDIRECT, NODE_1, CLIENT, 63));
    assert_eq!(quoted, asked[14..42], "what the client has sent, to the byte");
    assert_eq!(told[34..36], refused[34..36], "type and code");
    assert_eq!(told[38..42], refused[38..42], "the rest of its header");
    assert_eq!(node.counted(Reason::Reported), 1);
}

#[test]
fn a_router_on_the_way_to_a_backend_elsewhere_is_heard_by_the_client() {
    let mut node = Node::new(false);
    let asked = tcp((CLIENT, 40000), (NODE_1, 30081), SYN, &[7; 40]);
    let (_, there) = node.run("uplink_ingress", &asked);
    // All of the packet is quoted (RFC 1812 4.3.2.3): also TCP's checksum is set right.
    for quoted in [8, there.len() - 34] {
        let too_big = error(ROUTER, NODE_1, TOO_BIG, &there, quoted);
        let (verdict, told) = node.run("uplink_ingress", &too_big);
        let (from, to, quote) = read(&told);
        assert_eq!((verdict, from, to), (REDIRECT, ROUTER, CLIENT));
        // It was quoted after a hop.
        let mut sent = asked[14..34 + quoted].to_vec();
        sent[8] -= 1;
        assert_eq!((&quote[..10], &quote[12..]), (&sent[..10], &sent[12..]));
        assert_eq!(told[38..42], 1400_u32.to_be_bytes(), "the path MTU");
    }
}

#[test]
fn a_router_on_the_way_back_is_heard_by_the_backend() {
    let mut node = Node::new(false);
    let _ = node.run("uplink_ingress", &tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b""));
    let answer = tcp((POD, 8080), (CLIENT, 40000), ACK, &[7; 100]);
    let (_, back) = node.run("pod_egress", &answer);
    let (verdict, told) = node.run("uplink_ingress", &error(ROUTER, NODE_1, TOO_BIG, &back, 8));
    let (from, to, quoted) = read(&told);
    assert_eq!((verdict, from, to), (GO_ON, ROUTER, POD));
    assert_eq!(quoted[12..], answer[26..42], "the pod's addresses, ports and number");

    let asked = tcp((POD, 50000), (OUTSIDE, 443), SYN, b"");
    let (_, there) = node.run("uplink_egress", &asked);
    let (verdict, told) = node.run("uplink_ingress", &error(ROUTER, NODE_1, TIME_EXCEEDED, &there, 8));
    let (from, to, quoted) = read(&told);
    assert_eq!((verdict, from, to), (GO_ON, ROUTER, POD), "of what was masqueraded too");
    assert_eq!(quoted, asked[14..42]);
}

#[test]
fn the_nodes_own_errors_are_about_what_the_client_has_sent() {
    let mut node = Node::new(false);
    let asked = tcp((CLIENT, 40000), (NODE_1, 30080), SYN, b"");
    let (_, there) = node.run("uplink_ingress", &asked);
    let (verdict, told) = node.run("uplink_egress", &error(NODE_1, CLIENT, TOO_BIG, &there, 8));
    let (from, to, quoted) = read(&told);
    assert_eq!((verdict, from, to), (GO_ON, NODE_1, CLIENT));
    assert_eq!(quoted, asked[14..42]);
}

#[test]
fn errors_about_anything_else_go_on_untouched() {
    let mut node = Node::new(false);
    let asked = tcp((CLIENT, 40000), (NODE_1, 30081), SYN, b"");
    let (_, there) = node.run("uplink_ingress", &asked);
    let mut later = there.clone();
    later[21] = 9;
    let mut of_icmp = there.clone();
    of_icmp[23] = 1;
    let cases = [
        ("not to who has sent it", error(ROUTER, [172, 30, 77, 12], TOO_BIG, &there, 8)),
        ("a flow that is not known", error(ROUTER, CLIENT, TOO_BIG, &asked, 8)),
        ("an answer, no error", error(ROUTER, NODE_1, (0, 0), &there, 8)),
        ("a redirect, which is for the next hop only", error(ROUTER, NODE_1, (5, 1), &there, 8)),
        ("a later fragment", error(ROUTER, NODE_1, TOO_BIG, &later, 8)),
        ("ICMP", error(ROUTER, NODE_1, TOO_BIG, &of_icmp, 8)),
        ("less than the ports", error(ROUTER, NODE_1, TOO_BIG, &there, 3)),
    ];
    for (what, frame) in cases {
        for program in ["uplink_ingress", "pod_egress", "uplink_egress"] {
            assert_eq!(node.run(program, &frame), (GO_ON, frame.clone()), "{what} at {program}");
        }
    }
    assert_eq!(node.counted(Reason::Reported), 0);
}

/// The fragments of a frame's packet, cut after so many bytes of its payload.
pub(super) fn cut(frame: &[u8], after: usize, identification: u16) -> [Vec<u8>; 2] {
    assert_eq!(after % 8, 0, "offsets count in eights");
    let part = |payload: &[u8], more: bool, offset: usize| {
        let mut header = Ipv4HeaderSlice::from_slice(&frame[14..]).unwrap().to_header();
        header.identification = identification;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = u16::try_from(offset / 8).unwrap().try_into().unwrap();
        header.set_payload_len(payload.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        [&frame[..14], &header.to_bytes(), payload].concat()
    };
    [part(&frame[34..34 + after], true, 0), part(&frame[34 + after..], false, after)]
}

/// The frame whose packet was cut up.
pub(super) fn join([first, later]: [&[u8]; 2]) -> Vec<u8> {
    let mut header = Ipv4HeaderSlice::from_slice(&first[14..]).unwrap().to_header();
    header.more_fragments = false;
    header.set_payload_len(first.len() + later.len() - 68).unwrap();
    header.header_checksum = header.calc_header_checksum();
    [&first[..14], &header.to_bytes(), &first[34..], &later[34..]].concat()
}

#[test]
fn all_fragments_of_a_datagram_go_where_the_first_goes() {
    let mut node = Node::new(false);
    let payload: Vec<u8> = (0..=255).cycle().take(1001).collect();
    for (port, verdict) in [(30082, GO_ON), (30084, REDIRECT)] {
        let far = SlotRange::new(2, 1, 1);
        node.publish((NODE_1, 30084), UDP, ServiceLine::new(far, far, 8, 0, EXTERNAL));
        let [first, later] = cut(&udp((CLIENT, 5000), (NODE_1, port), &payload), 512, port);
        assert_eq!(node.run("uplink_ingress", &later), (GO_ON, later.clone()), "nothing is known of it yet");
        let (verdicts, there): (Vec<_>, Vec<_>) =
            [first, later].iter().map(|part| node.run("uplink_ingress", part)).unzip();
        assert_eq!(verdicts, [verdict; 2]);
        let (source, destination) = ends(&join([&there[0], &there[1]]));
        let (hook, answering) =
            if verdict == GO_ON { ("pod_egress", POD) } else { ("uplink_ingress", FAR_POD) };
        assert_eq!(destination, (answering, 8080));
        let answer = cut(&udp(destination, source, &payload), 256, port);
        let (verdicts, back): (Vec<_>, Vec<_>) = answer.iter().map(|part| node.run(hook, part)).unzip();
        assert_eq!(verdicts, [REDIRECT; 2]);
        assert_eq!(ends(&join([&back[0], &back[1]])), ((NODE_1, port), (CLIENT, 5000)));
    }
}

#[test]
fn what_a_pod_sends_in_fragments_is_masqueraded_whole() {
    let mut node = Node::new(false);
    let parts = cut(&udp((POD, 5000), (OUTSIDE, 53), &[7; 900]), 400, 1);
    let there: Vec<_> = parts.iter().map(|part| node.run("uplink_egress", part).1).collect();
    let (source, destination) = ends(&join([&there[0], &there[1]]));
    assert_eq!((source.0, destination), (NODE_1, (OUTSIDE, 53)));
    let [first, later] = cut(&tcp((POD, 5000), (OUTSIDE, 80), SYN, &[7; 100]), 64, 2);
    let there = [node.run("uplink_egress", &first).1, node.run("uplink_egress", &later).1];
    assert_eq!(ends(&join([&there[0], &there[1]])).1, (OUTSIDE, 80));
}
