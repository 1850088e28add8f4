//! ICMPv6 errors about translated packets (RFC 4443): as [`crate::icmp`]. "Packet too big" is the one without which connections hang,
//! as no router cuts packets up.

use aya_ebpf::programs::TcContext;
use oarlock_ebpf::checksum;
use oarlock_ebpf::flow::{TCP, UDP};
use oarlock_ebpf::flow6::Flow6;

use crate::maps6::{self, Work};
use crate::packet::IP;
use crate::packet6::{self, LENGTH, addresses_of, difference};

const ICMP: u8 = 58;
/// Types below this one are errors (RFC 4443 2.1), and the last of them that quotes a packet: unreachable, too big, time exceeded,
/// parameter problem.
const LAST: u8 = 4;
/// ICMP's own header, before the quotation.
const OWN: usize = 8;

/// Where the parts of an error are: the ICMP header, and the header of the quoted packet.
const AT: usize = IP + LENGTH;
const INNER: usize = AT + OWN;
const PORTS: usize = INNER + LENGTH;

/// Whether the packet whose header is read is an error, whoever it is about.
#[inline(always)]
pub fn is_error(ctx: &TcContext, work: &Work) -> bool {
    work.header.next == ICMP && ctx.load::<u8>(AT).is_ok_and(|kind| kind != 0 && kind <= LAST)
}

/// Whether it is one about a packet that this node has translated: that is then in [`Work::flow`] as it was there, and the
/// entry of its answers, which lead to who sent it, in [`Work::entry`].
#[inline(always)]
pub fn read(ctx: &TcContext, work: &mut Work) -> bool {
    if !is_error(ctx, work) {
        return false;
    }
    if !packet6::load(ctx, INNER, &mut work.quoted) {
        return false;
    }
    let quoted = &work.quoted;
    // Of fragments only the first has ports, after another header: they are left to the stack.
    if quoted.version >> 4 != 6 || !matches!(quoted.next, TCP | UDP) {
        return false;
    }
    let Ok(ports) = ctx.load::<[u8; 4]>(PORTS) else { return false };
    work.flow = packet6::flow(quoted, quoted.next, ports);
    // Errors go to who has sent the packet; anything else is forged.
    if work.header.destination != work.flow.source {
        return false;
    }
    work.key = work.flow.reversed();
    let Some(entry) = maps6::entry(&work.key) else { return false };
    // SAFETY: the element lives in the map and is copied at once; an error that comes as its entry is given to another flow
    // is lost, as any may be.
    work.entry = unsafe { *entry };
    true
}

/// Makes it an error about the packet that its receiver has sent. Checksums included, those of the quotation too.
#[inline(always)]
pub fn write(ctx: &TcContext, work: &mut Work) -> Result<(), i64> {
    let sum = AT + 2;
    work.key = work.entry.to.reversed();
    let (from, to) = (&work.flow, &work.key);
    // TCP's checksum may lie beyond the quotation.
    let transport = PORTS + if from.protocol == UDP { 6 } else { 16 };
    if let Ok(old) = ctx.load::<[u8; 2]>(transport) {
        let new = checksum::changed(from.protocol, old, difference(ends_of(from), ends_of(to)));
        quote(ctx, sum, transport, old, new)?;
    }
    quote(ctx, sum, PORTS, from.source_port().to_be_bytes(), to.source_port().to_be_bytes())?;
    quote(ctx, sum, PORTS + 2, from.destination_port().to_be_bytes(), to.destination_port().to_be_bytes())?;
    let addresses = (addresses_of(from), addresses_of(to));
    ctx.l4_csum_replace(sum, 0, u64::from(difference(addresses.0, addresses.1)), 0)?;
    ctx.store(INNER + 8, addresses.1, 0)?;
    // The packet itself: the backend speaks for its Service, routers on the way speak for themselves.
    let speaks = work.header.source == from.destination;
    work.leaves = Flow6::new((work.header.source, 0), (work.header.destination, 0), 0);
    work.reply.source = if speaks { to.destination } else { work.header.source };
    work.reply.destination = to.source;
    packet6::covered(ctx, sum, 0, addresses_of(&work.leaves), addresses_of(&work.reply))?;
    packet6::addresses(ctx, addresses_of(&work.reply))
}

/// Addresses and ports.
#[inline(always)]
fn ends_of(flow: &Flow6) -> &[u8; 36] {
    // SAFETY: a flow begins with them (repr(C), and bytes have no alignment).
    unsafe { &*core::ptr::from_ref(flow).cast() }
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
