//! The only access to buffers of tc: reading a flow out of them and writing another one into them.
//!
//! Through helpers of the kernel, which know about paged and partially checksummed buffers. What is not TCP or UDP over
//! IPv4, or too short is no flow: the stack deals with it. So are fragments that come before the first of their datagram.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::event::TC as TC_HOOK;
use oarlock_ebpf::flow::{Flow, TCP, UDP};
use oarlock_ebpf::fragment::{Datagram, Part};

use crate::nat;
use crate::watch::Seen;

/// Where the IP header is.
pub const IP: usize = 14;
/// In an Ethernet header (RFC 2464 3).
const IPV6: u16 = 0x86dd;
/// include/uapi/linux/if_packet.h.
const PACKET_HOST: u32 = 0;
const BPF_F_PSEUDO_HDR: u64 = 1 << 4;
const BPF_F_MARK_MANGLED_0: u64 = 1 << 5;

/// A packet's flow and where its parts are.
pub struct Packet {
    pub flow: Flow,
    /// TCP's flags; for UDP 0.
    pub flags: u8,
    /// Where the ports are.
    pub transport: usize,
    /// Hops that are left.
    pub ttl: u8,
    /// Of its datagram.
    pub part: Part,
    /// Where it is met: see [`oarlock_ebpf::event::Event::hook`].
    pub hook: u32,
}

impl Packet {
    /// What who looks is told of it, as one of a Service's port that is counted under this number.
    #[inline(always)]
    pub fn seen(&self, service: u32) -> Seen<'_> {
        Seen { hook: self.hook, flow: &self.flow, service, cgroup: 0 }
    }
}

/// The header of an IPv4 packet, options left out.
#[inline(always)]
pub fn header(ctx: &TcContext) -> Option<[u8; 20]> {
    let kind: [u8; 2] = ctx.load(12).ok()?;
    if kind != [8, 0] {
        return None;
    }
    let header: [u8; 20] = ctx.load(IP).ok()?;
    (header[0] >> 4 == 4).then_some(header)
}

/// The sender of a frame.
#[inline(always)]
pub fn sender(ctx: &TcContext) -> Option<[u8; 6]> {
    let at = ctx.data() + 6;
    if at + 8 > ctx.data_end() {
        return None;
    }
    // SAFETY: these bytes are of the packet's; any are a value.
    Some(unsafe { (at as *const [u8; 6]).read_unaligned() })
}

/// Whom an IPv4 packet is for.
#[inline(always)]
pub fn destination(header: &[u8; 20]) -> [u8; 4] {
    [header[16], header[17], header[18], header[19]]
}

/// How long an IPv4 header is, in bytes.
#[inline(always)]
pub fn length(header: &[u8; 20]) -> usize {
    ((header[0] & 0xf) as usize) * 4
}

/// The flow of a packet with this header and these ports.
#[inline(always)]
pub fn flow(header: &[u8; 20], ports: [u8; 4]) -> Flow {
    let source = ([header[12], header[13], header[14], header[15]], u16::from_be_bytes([ports[0], ports[1]]));
    let destination =
        ([header[16], header[17], header[18], header[19]], u16::from_be_bytes([ports[2], ports[3]]));
    Flow::new(source, destination, header[9])
}

/// Reads a packet.
#[inline(always)]
pub fn read(ctx: &TcContext, header: &[u8; 20]) -> Option<Packet> {
    let transport = IP + length(header);
    if header[9] != TCP && header[9] != UDP {
        return None;
    }
    let part = Part::of(header);
    let ports = match part {
        Part::Later => nat::ports(&Datagram::of(header))?,
        Part::Whole | Part::First => ctx.load(transport).ok()?,
    };
    let flags = if header[9] == TCP && part != Part::Later { ctx.load(transport + 13).ok()? } else { 0 };
    if part == Part::First {
        nat::remember_ports(&Datagram::of(header), ports);
    }
    Some(Packet { flow: flow(header, ports), flags, transport, ttl: header[8], part, hook: TC_HOOK })
}

/// Makes the packet one of another flow, checksums included.
#[inline(always)]
pub fn write(ctx: &TcContext, packet: &Packet, to: &Flow) -> Result<(), i64> {
    let from = &packet.flow;
    if packet.part == Part::Later {
        address(ctx, IP + 12, from.source, to.source)?;
        return address(ctx, IP + 16, from.destination, to.destination);
    }
    let udp = from.protocol == UDP;
    let sum = packet.transport + if udp { 6 } else { 16 };
    // A zero UDP checksum means that there is none, and has to stay zero (RFC 768).
    let kind = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
    let transport = packet.transport;
    covered(ctx, sum, kind, from.source, to.source)?;
    covered(ctx, sum, kind, from.destination, to.destination)?;
    address(ctx, IP + 12, from.source, to.source)?;
    address(ctx, IP + 16, from.destination, to.destination)?;
    port(ctx, sum, kind, transport, from.source_port(), to.source_port())?;
    port(ctx, sum, kind, transport + 2, from.destination_port(), to.destination_port())
}

/// One hop less, as forwarding by ourselves asks. False: the packet has no hop left.
#[inline(always)]
pub fn hop(ctx: &TcContext, ttl: u8) -> bool {
    if ttl <= 1 {
        return false;
    }
    let (old, new) = (u16::from_ne_bytes([ttl, 0]), u16::from_ne_bytes([ttl - 1, 0]));
    ctx.l3_csum_replace(IP + 10, u64::from(old), u64::from(new), 2).is_ok()
        && ctx.store(IP + 8, &(ttl - 1), 0).is_ok()
}

/// An address of the pseudo header that a transport checksum covers.
#[inline(always)]
fn covered(ctx: &TcContext, sum: usize, kind: u64, old: [u8; 4], new: [u8; 4]) -> Result<(), i64> {
    let (from, to) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
    if from == to {
        return Ok(());
    }
    ctx.l4_csum_replace(sum, u64::from(from), u64::from(to), BPF_F_PSEUDO_HDR | kind | 4)
}

/// An address of the IP header, with its checksum.
#[inline(always)]
pub fn address(ctx: &TcContext, at: usize, old: [u8; 4], new: [u8; 4]) -> Result<(), i64> {
    let (from, to) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
    if from == to {
        return Ok(());
    }
    ctx.l3_csum_replace(IP + 10, u64::from(from), u64::from(to), 4)?;
    ctx.store(at, &to, 0)
}

#[inline(always)]
fn port(ctx: &TcContext, sum: usize, kind: u64, at: usize, old: u16, new: u16) -> Result<(), i64> {
    if old == new {
        return Ok(());
    }
    let (from, to) = (old.to_be(), new.to_be());
    ctx.l4_csum_replace(sum, u64::from(from), u64::from(to), kind | 2)?;
    ctx.store(at, &to, 0)
}

/// Whether the frame is for this node, and not one that a bridge floods to everybody.
#[inline(always)]
pub fn is_ours(ctx: &TcContext) -> bool {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    unsafe { (*skb).pkt_type == PACKET_HOST }
}

/// Whether it is a packet of IPv6: as the kernel has read from the frame.
#[inline(always)]
pub fn is_ipv6(ctx: &TcContext) -> bool {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    unsafe { (*skb).protocol == u32::from(IPV6.to_be()) }
}

/// How many packets of the wire it is, which the stack may have joined, and how many bytes of IP.
#[inline(always)]
pub fn size(ctx: &TcContext) -> (u64, u64) {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    let (length, segments) = unsafe { ((*skb).len, (*skb).gso_segs) };
    (u64::from(segments.max(1)), u64::from(length.saturating_sub(IP as u32)))
}

/// The link that the packet is on.
#[inline(always)]
pub fn link(ctx: &TcContext) -> u32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    unsafe { (*skb).ifindex }
}

/// The link by which the packet came to the node; 0: the node itself has made it.
#[inline(always)]
pub fn from_link(ctx: &TcContext) -> u32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    unsafe { (*skb).ingress_ifindex }
}
