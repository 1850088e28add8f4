//! The only access to frames of XDP: reading a flow out of them and writing another one into them, straight in memory.
//!
//! Whole, plain frames of TCP or UDP over IPv4 alone; everything else (options, fragments, tags) is left to the stack.

use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::checksum::{Difference, is_partial};
use oarlock_ebpf::event::XDP;
use oarlock_ebpf::flow::{Flow, TCP, UDP};
use oarlock_ebpf::fragment::Part;

use crate::packet::Packet;

/// Where things are, from the beginning of the Ethernet header.
pub const KIND: usize = 12;
const VERSION: usize = 14;
const LENGTH: usize = 16;
const FRAGMENT: usize = 20;
const TTL: usize = 22;
const PROTOCOL: usize = 23;
const HEADER_CHECKSUM: usize = 24;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const TRANSPORT: usize = 34;
const TCP_FLAGS: usize = TRANSPORT + 13;
const TCP_CHECKSUM: usize = TRANSPORT + 16;
const UDP_CHECKSUM: usize = TRANSPORT + 6;

/// How long the IP header is.
const IP: u16 = 20;
/// How long all headers are.
const WITH_TCP: usize = TRANSPORT + 20;
const WITH_UDP: usize = TRANSPORT + 8;

/// A frame that can be rewritten.
pub struct Frame {
    pub packet: Packet,
    start: *mut u8,
    checksum: *mut u16,
    /// Of the IP packet.
    pub length: u16,
}

/// An Ethernet header's beginning, as it lies in memory: the receiver's address and the sender's.
pub type Neighbours = [u32; 3];

/// Reads a frame.
#[inline(always)]
pub fn read(ctx: &XdpContext) -> Option<Frame> {
    let (data, end) = (ctx.data(), ctx.data_end());
    if data + WITH_UDP > end {
        return None;
    }
    let start = data as *mut u8;
    // SAFETY: these are in front of the end that was just compared with.
    let (kind, version, fragment, times, source, destination, ports) = unsafe {
        (
            load::<u16>(start, KIND),
            load::<u8>(start, VERSION),
            load::<u16>(start, FRAGMENT),
            load::<u16>(start, TTL),
            load::<u32>(start, SOURCE),
            load::<u32>(start, DESTINATION),
            load::<u32>(start, TRANSPORT),
        )
    };
    // More fragments, or not the first (RFC 791 3.1); "don't fragment" is neither.
    let is_whole = u16::from_be(fragment) & 0x3fff == 0;
    if u16::from_be(kind) != 0x0800 || version != 0x45 || !is_whole {
        return None;
    }
    let [ttl, protocol] = times.to_ne_bytes();
    let (flags, checksum) = match protocol {
        TCP => {
            if data + WITH_TCP > end {
                return None;
            }
            // SAFETY: as above.
            unsafe { (load::<u8>(start, TCP_FLAGS), start.add(TCP_CHECKSUM)) }
        }
        // SAFETY: as above.
        UDP => (0, unsafe { start.add(UDP_CHECKSUM) }),
        _ => return None,
    };
    let flow = Flow::of_packet(source, destination, ports, protocol);
    let packet = Packet { flow, flags, transport: TRANSPORT, ttl, part: Part::Whole, hook: XDP };
    // SAFETY: as above.
    let length = u16::from_be(unsafe { load::<u16>(start, LENGTH) });
    Some(Frame { packet, start, checksum: checksum.cast(), length })
}

impl Frame {
    /// Whether its sender has left the checksum to a network card, as neighbours on virtual links do: only the stack knows.
    #[inline(always)]
    pub fn is_partial(&self) -> bool {
        // SAFETY: `read` has found the checksum inside the frame.
        let checksum = unsafe { self.checksum.read_volatile() };
        is_partial(checksum.to_ne_bytes(), &self.packet.flow, self.length.wrapping_sub(IP))
    }

    /// Whether the frame is for whom it would go on from.
    #[inline(always)]
    pub fn is_for(&self, neighbours: &Neighbours) -> bool {
        // SAFETY: `read` has found the headers inside the frame.
        unsafe { is_for(self.start, neighbours) }
    }

    /// Makes it a frame of another flow, one hop on, between these neighbours. Checksums included.
    #[inline(always)]
    pub fn write(&self, to: &Flow, neighbours: &Neighbours) {
        let Packet { flow: from, ttl, .. } = &self.packet;
        let addresses = Difference::NONE.addresses(from, to);
        let hops = ([*ttl, from.protocol], [ttl.wrapping_sub(1), from.protocol]);
        // SAFETY: `read` has found headers and checksum inside the frame, and nobody else has it.
        unsafe {
            let sum = self.checksum.read_volatile().to_ne_bytes();
            let sum = addresses.ports(from, to).apply_transport(from.protocol, sum);
            self.checksum.write_volatile(u16::from_ne_bytes(sum));
            let header = load::<u16>(self.start, HEADER_CHECKSUM).to_ne_bytes();
            let header = addresses.word(hops.0, hops.1).apply(header);
            store(self.start, HEADER_CHECKSUM, u16::from_ne_bytes(header));
            store(self.start, TTL, hops.1[0]);
            store(self.start, SOURCE, u32::from_ne_bytes(to.source));
            store(self.start, DESTINATION, u32::from_ne_bytes(to.destination));
            store(self.start, TRANSPORT, to.ports());
            readdress(self.start, neighbours);
        }
    }
}

/// Whether the frame that begins there is for whom it would go on from.
#[inline(always)]
pub unsafe fn is_for(start: *const u8, neighbours: &Neighbours) -> bool {
    // SAFETY: of the caller: Ethernet's header is inside the frame.
    let (high, low) = unsafe { (load::<u32>(start, 0), load::<u16>(start, 4)) };
    let ([_, _, a, b], [c, d, e, f]) = (neighbours[1].to_ne_bytes(), neighbours[2].to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d]) == high && u16::from_ne_bytes([e, f]) == low
}

/// Makes the frame that begins there one between these neighbours.
#[inline(always)]
pub unsafe fn readdress(start: *mut u8, neighbours: &Neighbours) {
    // SAFETY: as above, and nobody else has it.
    unsafe {
        store(start, 0, neighbours[0]);
        store(start, 4, neighbours[1]);
        store(start, 8, neighbours[2]);
    }
}

/// A number of the frame, in one access: machines with an efficient one that is not aligned are those that the kernel has network cards
/// leave IP headers two bytes off for (NET_IP_ALIGN), and its verifier allows it there. Volatile, or the compiler takes bytes.
#[inline(always)]
pub unsafe fn load<T: Copy>(start: *const u8, at: usize) -> T {
    // SAFETY: of the caller: it is inside the frame.
    unsafe { start.add(at).cast::<T>().read_volatile() }
}

/// The same, written.
#[inline(always)]
pub unsafe fn store<T: Copy>(start: *mut u8, at: usize, value: T) {
    // SAFETY: of the caller: it is inside the frame.
    unsafe { start.add(at).cast::<T>().write_volatile(value) }
}

const _: () = assert!(PROTOCOL == TTL + 1);
