//! Between whom a frame of XDP goes on: the kernel's answer, remembered for as long as a second has the same number, by the flow's line
//! and, for flows that begin, by destination. Asked for each packet, routes and neighbours would cost more than everything else together.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_FIB_LKUP_RET_SUCCESS;
use aya_ebpf::bindings::bpf_fib_lookup as Route;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::table::Hop;

use crate::frame::{Frame, Neighbours};
use crate::nat::Entry;

const AF_INET: u8 = 2;
/// A power of two.
pub const PLACES: u32 = 1024;

/// The next hop between two addresses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    pub ends: Neighbours,
    source: u32,
    destination: u32,
    link: u32,
    /// When it was true, in seconds since boot; 0: never.
    second: u32,
    /// The longest IP packet.
    mtu: u16,
    reserved: u16,
}
#[map]
static WAYS: PerCpuArray<Way> = PerCpuArray::with_max_entries(PLACES, 0);

/// Of a flow that has an entry.
#[inline(always)]
pub fn of_flow(ctx: &XdpContext, frame: &Frame, entry: &Entry, uplink: u32, now: u32) -> Option<Neighbours> {
    let second = now as u16;
    if let Some((ends, known, mtu)) = entry.hop()
        && known == second
        && frame.length <= mtu
        && frame.is_for(&ends)
    {
        return Some(ends);
    }
    let way = of(ctx, frame, &entry.translation.to, uplink, now)?;
    let [a, b, c] = way.ends.map(u32::to_ne_bytes);
    let ends = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3]];
    entry.set_hop(&Hop { ends, second, mtu: way.mtu });
    Some(way.ends)
}

/// Nothing where the neighbour is not known yet, the frame is too long for the way, the way is another link, or the frame was not
/// for this node.
#[inline(always)]
pub fn of(ctx: &XdpContext, frame: &Frame, to: &Flow, uplink: u32, second: u32) -> Option<&'static Way> {
    let (source, destination) = (u32::from_ne_bytes(to.source), u32::from_ne_bytes(to.destination));
    // Multiplicative hashing: the bits at the top depend on all below.
    let place = destination.wrapping_mul(0x9e37_79b1) >> 22;
    let way = WAYS.get_ptr_mut(place & (PLACES - 1))?;
    // SAFETY: the element is this CPU's own.
    let way = unsafe { &mut *way };
    let is_known =
        way.second == second && way.destination == destination && way.source == source && way.link == uplink;
    if !is_known {
        let (ends, mtu) = ask(ctx, to, uplink)?;
        *way = Way { ends, source, destination, link: uplink, second, mtu, reserved: 0 };
    }
    let fits = frame.length <= way.mtu && frame.is_for(&way.ends);
    fits.then_some(way)
}

/// The kernel's answer for a short packet, and how long one may be.
#[inline(always)]
fn ask(ctx: &XdpContext, to: &Flow, uplink: u32) -> Option<(Neighbours, u16)> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = AF_INET;
    route.l4_protocol = to.protocol;
    route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(to.source);
    route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(to.destination);
    answer(ctx, &mut route, uplink)
}

/// The same to a question of either family.
#[inline(always)]
pub fn answer(ctx: &XdpContext, route: &mut Route, uplink: u32) -> Option<(Neighbours, u16)> {
    // Any that fits: the answer says how long it may be only where a length was asked for (Linux 5.12).
    route.__bindgen_anon_1.tot_len = 1;
    route.ifindex = uplink;
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: the context is the kernel's, and the structure is of this size.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut *route, size, 0) };
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || route.ifindex != uplink {
        return None;
    }
    // SAFETY: the helper has put it where the length was (bpf_fib_set_fwd_params).
    let mtu = unsafe { route.__bindgen_anon_1.mtu_result };
    let (d, s) = (route.dmac, route.smac);
    let ends = [
        u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
        u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
        u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
    ];
    Some((ends, mtu))
}
