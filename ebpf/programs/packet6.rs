//! Packets of IPv6 at tc: reading a flow out of them and writing another one into them, as [`crate::packet`].
//!
//! TCP and UDP that follow the header at once, or after a Fragment header alone; whatever has other extension headers is no flow: the
//! stack deals with it. There is no checksum of the header, so what changes in it is told to the kernel, which may have one of all.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::event::TC;
use oarlock_ebpf::flow::{TCP, UDP};
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::fragment::{Datagram6, Part};

use crate::maps6::{self, Work};
use crate::packet::IP;

/// Next headers (RFC 8200 4).
const FRAGMENT: u8 = 44;
const BPF_F_RECOMPUTE_CSUM: u64 = 1;
const BPF_F_PSEUDO_HDR: u64 = 1 << 4;
const BPF_F_MARK_MANGLED_0: u64 = 1 << 5;

/// Source and destination: where they lie together in a header they do so in a flow.
pub type Addresses = [u8; 32];

/// The header of a packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Header {
    pub version: u8,
    class: [u8; 3],
    length: [u8; 2],
    /// What follows it.
    pub next: u8,
    /// Hops that are left.
    pub hops: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

/// How long it is.
pub const LENGTH: usize = core::mem::size_of::<Header>();

/// A packet whose flow is in [`Work::flow`].
pub struct Packet {
    /// TCP's flags; for UDP 0.
    pub flags: u8,
    /// Where the ports are.
    pub transport: usize,
    /// Of its datagram.
    pub part: Part,
    /// Where it is met: see [`oarlock_ebpf::event::Event::hook`].
    pub hook: u32,
}

/// Reads the header of a packet.
#[inline(always)]
pub fn header(ctx: &TcContext, work: &mut Work) -> bool {
    load(ctx, IP, &mut work.header) && work.header.version >> 4 == 6
}

/// Reads a header straight to where it is to be. False: the packet ends before.
#[inline(always)]
pub fn load(ctx: &TcContext, at: usize, header: &mut Header) -> bool {
    let to: *mut Header = header;
    // SAFETY: as many bytes are written as a header has, for which any are a value.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), at as u32, to.cast(), LENGTH as u32) == 0 }
}

/// Reads a packet whose header is read.
#[inline(always)]
pub fn read(ctx: &TcContext, work: &mut Work) -> Option<Packet> {
    let (mut protocol, mut transport, mut part) = (work.header.next, IP + LENGTH, Part::Whole);
    let mut fragment = [0; 8];
    if protocol == FRAGMENT {
        fragment = ctx.load(transport).ok()?;
        (protocol, part) = (fragment[0], Part::of_ipv6(&fragment));
        transport += fragment.len();
    }
    if protocol != TCP && protocol != UDP {
        return None;
    }
    if part != Part::Whole {
        work.datagram = Datagram6::of(work.header.source, work.header.destination, &fragment);
    }
    let ports: [u8; 4] = match part {
        Part::Later => maps6::ports(&work.datagram)?,
        Part::Whole | Part::First => ctx.load(transport).ok()?,
    };
    if part == Part::First {
        maps6::remember_ports(&work.datagram, ports);
    }
    let flags = if protocol == TCP && part != Part::Later { ctx.load(transport + 13).ok()? } else { 0 };
    work.flow = flow(&work.header, protocol, ports);
    Some(Packet { flags, transport, part, hook: TC })
}

/// The flow of a packet with this header and these ports.
#[inline(always)]
pub fn flow(header: &Header, protocol: u8, ports: [u8; 4]) -> Flow6 {
    let (from, to) = (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
    Flow6::new((header.source, from), (header.destination, to), protocol)
}

/// Makes the packet one of another flow, checksums included.
#[inline(always)]
pub fn write(ctx: &TcContext, packet: &Packet, from: &Flow6, to: &Flow6) -> Result<(), i64> {
    if packet.part != Part::Later {
        let udp = from.protocol == UDP;
        let sum = packet.transport + if udp { 6 } else { 16 };
        // Tunnels may send UDP without a checksum (RFC 6935): it stays so.
        let kind = if udp { BPF_F_MARK_MANGLED_0 } else { 0 };
        covered(ctx, sum, kind, addresses_of(from), addresses_of(to))?;
        port(ctx, sum, kind, packet.transport, from.source_port(), to.source_port())?;
        port(ctx, sum, kind, packet.transport + 2, from.destination_port(), to.destination_port())?;
    }
    addresses(ctx, addresses_of(to))
}

/// The addresses of a flow.
#[inline(always)]
pub fn addresses_of(flow: &Flow6) -> &Addresses {
    // SAFETY: a flow begins with both (repr(C), and bytes have no alignment).
    unsafe { &*core::ptr::from_ref(flow).cast() }
}

/// Tells a checksum of the transport that the addresses change, which its pseudo header has (RFC 8200 8.1).
#[inline(always)]
pub fn covered(ctx: &TcContext, sum: usize, kind: u64, old: &Addresses, new: &Addresses) -> Result<(), i64> {
    ctx.l4_csum_replace(sum, 0, difference(old, new) as u64, BPF_F_PSEUDO_HDR | kind)
}

/// Writes both addresses.
#[inline(always)]
pub fn addresses(ctx: &TcContext, new: &Addresses) -> Result<(), i64> {
    ctx.store(IP + 8, new, BPF_F_RECOMPUTE_CSUM)
}

/// What becomes of a sum over `old` with `new` in its place. Sizes are multiples of four.
#[inline(always)]
pub fn difference<const N: usize>(old: &[u8; N], new: &[u8; N]) -> u32 {
    let [old, new] = [old, new].map(|bytes| bytes.as_ptr().cast_mut().cast());
    // SAFETY: both are as long as is said, and only read.
    unsafe { bpf_csum_diff(old, N as u32, new, N as u32, 0) as u32 }
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

/// One hop less, as forwarding by ourselves asks. False: the packet has no hop left.
#[inline(always)]
pub fn hop(ctx: &TcContext, hops: u8) -> bool {
    hops > 1 && ctx.store(IP + 7, &(hops - 1), BPF_F_RECOMPUTE_CSUM).is_ok()
}
