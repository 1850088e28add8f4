//! ICMP errors about translated packets: "too big", "unreachable" and the like quote the packet that they are about, as it was
//! where the trouble was. Whoever sent it knows it by other addresses, and gets the error with those (RFC 5508 4).

use aya_ebpf::programs::TcContext;
use oarlock_ebpf::checksum::Difference;
use oarlock_ebpf::flow::{Flow, TCP, Translation, UDP};
use oarlock_ebpf::fragment::Part;

use crate::nat;
use crate::packet::{self, IP};

const ICMP: u8 = 1;
/// Types of RFC 792 that quote a packet.
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
/// ICMP's own header, before the quotation.
const OWN: usize = 8;

/// An error about a translated packet.
pub struct Error {
    outer: [u8; 20],
    quoted: [u8; 20],
    /// Where the ICMP header is, and where the IP header of the quoted packet.
    icmp: usize,
    inner: usize,
    /// The quoted packet, as it was there.
    from: Flow,
    /// The entry of its answers, which lead to who sent it.
    pub entry: Translation,
}

impl Error {
    /// Hops that are left.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.outer[8]
    }
}

/// Reads an error, if it is one about a packet that this node has translated.
#[inline(always)]
pub fn read(ctx: &TcContext, outer: &[u8; 20]) -> Option<Error> {
    if outer[9] != ICMP || Part::of(outer) != Part::Whole {
        return None;
    }
    let icmp = IP + packet::length(outer);
    let kind: u8 = ctx.load(icmp).ok()?;
    if !matches!(kind, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM) {
        return None;
    }
    let inner = icmp + OWN;
    let quoted: [u8; 20] = ctx.load(inner).ok()?;
    // The ports are in the first fragment alone.
    if quoted[0] >> 4 != 4 || Part::of(&quoted) == Part::Later || !matches!(quoted[9], TCP | UDP) {
        return None;
    }
    let ports: [u8; 4] = ctx.load(inner + packet::length(&quoted)).ok()?;
    let from = packet::flow(&quoted, ports);
    // Errors go to who has sent the packet; anything else is forged.
    if destination(outer) != from.source {
        return None;
    }
    let entry = nat::peek(&from.reversed())?;
    Some(Error { outer: *outer, quoted, icmp, inner, from, entry })
}

/// Makes it an error about the packet that its receiver has sent. Checksums included, those of the quotation too.
#[inline(always)]
pub fn write(ctx: &TcContext, error: &Error) -> Result<(), i64> {
    let (from, to) = (&error.from, &error.entry.to.reversed());
    let sum = error.icmp + 2;
    let addresses = Difference::NONE.addresses(from, to);
    let header = [error.quoted[10], error.quoted[11]];
    quote(ctx, sum, error.inner + 10, header, addresses.apply(header))?;
    quote4(ctx, sum, error.inner + 12, from.source, to.source)?;
    quote4(ctx, sum, error.inner + 16, from.destination, to.destination)?;
    let ports = error.inner + packet::length(&error.quoted);
    quote(ctx, sum, ports, from.source_port().to_be_bytes(), to.source_port().to_be_bytes())?;
    quote(ctx, sum, ports + 2, from.destination_port().to_be_bytes(), to.destination_port().to_be_bytes())?;
    // Eight bytes are quoted for certain (RFC 792), which hold UDP's checksum, but not TCP's.
    let transport = ports + if from.protocol == UDP { 6 } else { 16 };
    if let Ok(old) = ctx.load::<[u8; 2]>(transport) {
        let new = addresses.ports(from, to).apply_transport(from.protocol, old);
        quote(ctx, sum, transport, old, new)?;
    }
    packet::address(ctx, IP + 16, from.source, to.source)?;
    // The backend itself speaks for its Service; routers on the way speak for themselves.
    if source(&error.outer) == from.destination {
        packet::address(ctx, IP + 12, from.destination, to.destination)?;
    }
    Ok(())
}

#[inline(always)]
fn source(header: &[u8; 20]) -> [u8; 4] {
    [header[12], header[13], header[14], header[15]]
}

#[inline(always)]
fn destination(header: &[u8; 20]) -> [u8; 4] {
    [header[16], header[17], header[18], header[19]]
}

/// Changes two bytes of the quotation, which the ICMP checksum at `sum` covers.
#[inline(always)]
fn quote(ctx: &TcContext, sum: usize, at: usize, old: [u8; 2], new: [u8; 2]) -> Result<(), i64> {
    if old == new {
        return Ok(());
    }
    ctx.l4_csum_replace(sum, u64::from(u16::from_ne_bytes(old)), u64::from(u16::from_ne_bytes(new)), 2)?;
    ctx.store(at, &new, 0)
}

#[inline(always)]
fn quote4(ctx: &TcContext, sum: usize, at: usize, old: [u8; 4], new: [u8; 4]) -> Result<(), i64> {
    quote(ctx, sum, at, [old[0], old[1]], [new[0], new[1]])?;
    quote(ctx, sum, at + 2, [old[2], old[3]], [new[2], new[3]])
}
