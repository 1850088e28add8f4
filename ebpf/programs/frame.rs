//! The only access to frames of XDP: reading a flow out of them and writing another one into them, straight in memory.
//!
//! Whole, plain frames of TCP or UDP over IPv4 alone; everything else (options, fragments, tags) is left to the stack.

use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::checksum::{Difference, is_partial};
use oarlock_ebpf::event::XDP;
use oarlock_ebpf::flow::{Flow, TCP, UDP};
use oarlock_ebpf::fragment::Part;

use crate::packet::Packet;

/// Ethernet, IPv4 without options, and the ports. Bytes only, so that any address is aligned.
#[repr(C)]
struct Headers {
    receiver: [u8; 6],
    sender: [u8; 6],
    kind: [u8; 2],
    version: u8,
    service: u8,
    length: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// What follows the ports in TCP.
#[repr(C)]
struct Tcp {
    numbers: [u8; 8],
    offset: u8,
    flags: u8,
    window: [u8; 2],
    checksum: [u8; 2],
    urgent: [u8; 2],
}

/// What follows the ports in UDP.
#[repr(C)]
struct Udp {
    length: [u8; 2],
    checksum: [u8; 2],
}

const IP: usize = 20;
const TRANSPORT: usize = 34;

/// A frame that can be rewritten.
pub struct Frame {
    pub packet: Packet,
    headers: *mut Headers,
    checksum: *mut [u8; 2],
    /// Of the IP packet.
    pub length: u16,
}

/// Ethernet addresses: of the receiver and of the sender.
pub type Neighbours = ([u8; 6], [u8; 6]);

/// Reads a frame.
#[inline(always)]
pub fn read(ctx: &XdpContext) -> Option<Frame> {
    let headers: *mut Headers = at(ctx, 0)?;
    // SAFETY: `at` has compared the end of the headers with the end of the frame.
    let header = unsafe { &*headers };
    let is_whole = header.fragment[0] & 0x3f == 0 && header.fragment[1] == 0;
    if header.kind != [8, 0] || header.version != 0x45 || !is_whole {
        return None;
    }
    let after = core::mem::size_of::<Headers>();
    let (flags, checksum) = match header.protocol {
        TCP => {
            let tcp: *mut Tcp = at(ctx, after)?;
            // SAFETY: as above.
            unsafe { ((*tcp).flags, core::ptr::addr_of_mut!((*tcp).checksum)) }
        }
        UDP => {
            let udp: *mut Udp = at(ctx, after)?;
            // SAFETY: as above.
            (0, unsafe { core::ptr::addr_of_mut!((*udp).checksum) })
        }
        _ => return None,
    };
    let source = (header.source, u16::from_be_bytes(header.source_port));
    let destination = (header.destination, u16::from_be_bytes(header.destination_port));
    let flow = Flow::new(source, destination, header.protocol);
    let packet = Packet { flow, flags, transport: TRANSPORT, ttl: header.ttl, part: Part::Whole, hook: XDP };
    Some(Frame { packet, headers, checksum, length: u16::from_be_bytes(header.length) })
}

impl Frame {
    /// Whether its sender has left the checksum to a network card, as neighbours on virtual links do: only the stack knows.
    #[inline(always)]
    pub fn is_partial(&self) -> bool {
        // SAFETY: `read` has found the checksum inside the frame.
        let checksum = unsafe { *self.checksum };
        is_partial(checksum, &self.packet.flow, self.length.wrapping_sub(IP as u16))
    }

    /// Whom the frame is for.
    #[inline(always)]
    pub fn receiver(&self) -> [u8; 6] {
        // SAFETY: `read` has found the headers inside the frame.
        unsafe { (*self.headers).receiver }
    }

    /// Makes it a frame of another flow, one hop on, between these neighbours. Checksums included.
    #[inline(always)]
    pub fn write(&self, to: &Flow, (receiver, sender): Neighbours) {
        let from = &self.packet.flow;
        // SAFETY: `read` has found headers and checksum inside the frame, and nobody else has it.
        let (header, checksum) = unsafe { (&mut *self.headers, &mut *self.checksum) };
        let addresses = Difference::NONE.addresses(from, to);
        *checksum = addresses.ports(from, to).apply_transport(from.protocol, *checksum);
        let hops = ([header.ttl, header.protocol], [header.ttl.wrapping_sub(1), header.protocol]);
        header.checksum = addresses.word(hops.0, hops.1).apply(header.checksum);
        header.ttl = hops.1[0];
        header.source = to.source;
        header.destination = to.destination;
        header.source_port = to.source_port().to_be_bytes();
        header.destination_port = to.destination_port().to_be_bytes();
        header.receiver = receiver;
        header.sender = sender;
    }
}

/// A part of the frame, if it is all there.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + core::mem::size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}
