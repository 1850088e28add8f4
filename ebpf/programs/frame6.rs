//! Frames of XDP that are IPv6: as [`crate::frame`]. Whole and plain alone: no extension headers, no fragments, no tags.

use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::checksum::{Difference, is_partial6};
use oarlock_ebpf::event::XDP;
use oarlock_ebpf::flow::{TCP, UDP};
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::fragment::Part;

use crate::frame::{self, KIND, Neighbours, load, store};
use crate::maps6::Work;
use crate::packet6::{LENGTH, Packet};

/// Where things are, from the beginning of the Ethernet header.
const VERSION: usize = 14;
const PAYLOAD: usize = 18;
const NEXT: usize = 20;
const HOPS: usize = 21;
const ADDRESSES: usize = 22;
const TRANSPORT: usize = 54;

/// In an Ethernet header (RFC 2464 3).
const IPV6: u16 = 0x86dd;
/// How long all headers are.
const WITH_TCP: usize = TRANSPORT + 20;
const WITH_UDP: usize = TRANSPORT + 8;

/// A frame that can be rewritten. Its flow is in [`Work::flow`].
pub struct Frame {
    pub packet: Packet,
    start: *mut u8,
    checksum: *mut u16,
    /// Of the IP packet.
    pub length: u16,
    /// Hops that are left.
    pub hops: u8,
}

/// Whether a frame says that it is one.
#[inline(always)]
pub fn is_ipv6(ctx: &XdpContext) -> bool {
    let data = ctx.data();
    // SAFETY: it is in front of the end that it is compared with.
    data + WITH_UDP <= ctx.data_end() && unsafe { load::<u16>(data as *const u8, KIND) } == IPV6.to_be()
}

/// Reads a frame.
#[inline(always)]
pub fn read(ctx: &XdpContext, work: &mut Work) -> Option<Frame> {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + WITH_UDP > end {
        return None;
    }
    let start = data as *mut u8;
    // SAFETY: these are in front of the end that was just compared with.
    let (kind, version, payload, next, hops) = unsafe {
        (
            load::<u16>(start, KIND),
            load::<u8>(start, VERSION),
            u16::from_be(load::<u16>(start, PAYLOAD)),
            load::<u8>(start, NEXT),
            load::<u8>(start, HOPS),
        )
    };
    if u16::from_be(kind) != IPV6 || version >> 4 != 6 {
        return None;
    }
    let (flags, checksum) = match next {
        TCP => {
            if data + WITH_TCP > end {
                return None;
            }
            // SAFETY: as above.
            unsafe { (load::<u8>(start, TRANSPORT + 13), start.add(TRANSPORT + 16)) }
        }
        // SAFETY: as above.
        UDP => (0, unsafe { start.add(TRANSPORT + 6) }),
        _ => return None,
    };
    let flow: *mut u64 = (&raw mut work.flow).cast();
    // SAFETY: as above; a flow is five words, of addresses, ports and protocol as they are in packets, and zeros.
    unsafe {
        for word in 0..4 {
            flow.add(word).write(load::<u64>(start, ADDRESSES + 8 * word));
        }
        let [a, b, c, d] = load::<u32>(start, TRANSPORT).to_ne_bytes();
        flow.add(4).write(u64::from_ne_bytes([a, b, c, d, next, 0, 0, 0]));
    }
    let packet = Packet { flags, transport: TRANSPORT, part: Part::Whole, hook: XDP };
    let length = payload.saturating_add(LENGTH as u16);
    Some(Frame { packet, start, checksum: checksum.cast(), length, hops })
}

impl Frame {
    /// See [`frame::Frame::is_partial`].
    #[inline(always)]
    pub fn is_partial(&self, flow: &Flow6) -> bool {
        // SAFETY: `read` has found the checksum inside the frame.
        let checksum = unsafe { self.checksum.read_volatile() };
        is_partial6(checksum.to_ne_bytes(), flow, self.length.wrapping_sub(LENGTH as u16))
    }

    /// Whether the frame is for whom it would go on from.
    #[inline(always)]
    pub fn is_for(&self, neighbours: &Neighbours) -> bool {
        // SAFETY: `read` has found the headers inside the frame.
        unsafe { frame::is_for(self.start, neighbours) }
    }

    /// Makes it a frame of another flow, one hop on, between these neighbours. Checksum included.
    #[inline(always)]
    pub fn write(&self, from: &Flow6, to: &Flow6, neighbours: &Neighbours) {
        let words: *const u64 = core::ptr::from_ref(to).cast();
        // SAFETY: `read` has found headers and checksum inside the frame, and nobody else has it; a flow begins with its addresses.
        unsafe {
            let sum = self.checksum.read_volatile().to_ne_bytes();
            let sum = Difference::NONE.ends6(from, to).apply_transport(from.protocol, sum);
            self.checksum.write_volatile(u16::from_ne_bytes(sum));
            store(self.start, HOPS, self.hops.wrapping_sub(1));
            for word in 0..4 {
                store(self.start, ADDRESSES + 8 * word, words.add(word).read());
            }
            store(self.start, TRANSPORT, to.words()[8]);
            frame::readdress(self.start, neighbours);
        }
    }
}
