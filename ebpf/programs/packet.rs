//! The only access to buffers of tc: reading a flow out of them and writing another one into them.
//!
//! Through helpers of the kernel, which know about paged and partially checksummed buffers. What is not TCP or UDP over
//! IPv4, a fragment, or too short is no flow: the stack deals with it.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::flow::{Flow, TCP, UDP};

const IP: usize = 14;
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
}

/// Reads a packet.
#[inline(always)]
pub fn read(ctx: &TcContext) -> Option<Packet> {
    let kind: [u8; 2] = ctx.load(12).ok()?;
    if kind != [8, 0] {
        return None;
    }
    let header: [u8; 20] = ctx.load(IP).ok()?;
    if header[0] >> 4 != 4 || header[6] & 0x3f != 0 || header[7] != 0 {
        return None;
    }
    let transport = IP + ((header[0] & 0xf) as usize) * 4;
    let protocol = header[9];
    let ports: [u8; 4] = ctx.load(transport).ok()?;
    let flags = match protocol {
        TCP => ctx.load::<u8>(transport + 13).ok()?,
        UDP => 0,
        _ => return None,
    };
    let source = ([header[12], header[13], header[14], header[15]], u16::from_be_bytes([ports[0], ports[1]]));
    let destination =
        ([header[16], header[17], header[18], header[19]], u16::from_be_bytes([ports[2], ports[3]]));
    Some(Packet { flow: Flow::new(source, destination, protocol), flags, transport, ttl: header[8] })
}

/// Makes the packet one of another flow, checksums included.
#[inline(always)]
pub fn write(ctx: &TcContext, packet: &Packet, to: &Flow) -> Result<(), i64> {
    let from = &packet.flow;
    let udp = from.protocol == UDP;
    let sum = packet.transport + if udp { 6 } else { 16 };
    // A zero UDP checksum means that there is none, and has to stay zero (RFC 768).
    let kind = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
    let transport = packet.transport;
    address(ctx, sum, kind, IP + 12, from.source, to.source)?;
    address(ctx, sum, kind, IP + 16, from.destination, to.destination)?;
    port(ctx, sum, kind, transport, from.source_port(), to.source_port())?;
    port(ctx, sum, kind, transport + 2, from.destination_port(), to.destination_port())
}

/// One hop less, as forwarding by ourselves asks. False: the packet has no hop left.
#[inline(always)]
pub fn hop(ctx: &TcContext, packet: &Packet) -> bool {
    if packet.ttl <= 1 {
        return false;
    }
    let (old, new) = (u16::from_ne_bytes([packet.ttl, 0]), u16::from_ne_bytes([packet.ttl - 1, 0]));
    ctx.l3_csum_replace(IP + 10, u64::from(old), u64::from(new), 2).is_ok()
        && ctx.store(IP + 8, &(packet.ttl - 1), 0).is_ok()
}

#[inline(always)]
fn address(ctx: &TcContext, sum: usize, kind: u64, at: usize, old: [u8; 4], new: [u8; 4]) -> Result<(), i64> {
    let (from, to) = (u32::from_ne_bytes(old), u32::from_ne_bytes(new));
    if from == to {
        return Ok(());
    }
    ctx.l4_csum_replace(sum, u64::from(from), u64::from(to), BPF_F_PSEUDO_HDR | kind | 4)?;
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

/// The link that the packet is on.
#[inline(always)]
pub fn link(ctx: &TcContext) -> u32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context.
    unsafe { (*skb).ifindex }
}
