//! Between whom a frame of XDP that is IPv6 goes on: as [`crate::neighbours`], by destination alone: flows of IPv6 have no place for it.

use aya_ebpf::bindings::bpf_fib_lookup as Route;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::flow6::Flow6;

use crate::flows::now;
use crate::frame::Neighbours;
use crate::frame6::Frame;
use crate::neighbours::{PLACES, answer};
use crate::way6::{AF_INET6, words};

/// The next hop between two addresses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Way {
    source: [u8; 16],
    destination: [u8; 16],
    ends: Neighbours,
    link: u32,
    /// When it was true, in seconds since boot; 0: never.
    second: u32,
    /// The longest IP packet.
    mtu: u16,
    reserved: u16,
}
#[map]
static WAYS6: PerCpuArray<Way> = PerCpuArray::with_max_entries(PLACES, 0);

/// See [`crate::neighbours::of`].
#[inline(always)]
pub fn of(ctx: &XdpContext, frame: &Frame, to: &Flow6, uplink: u32) -> Option<Neighbours> {
    let second = now();
    let [.., a, b, c, d] = to.destination;
    // Mostly only the end differs: it is a pod's address of IPv4, or a client's own choice.
    let place = u32::from_ne_bytes([a, b, c, d]).wrapping_mul(0x9e37_79b1) >> 22;
    let way = WAYS6.get_ptr_mut(place & (PLACES - 1))?;
    // SAFETY: the element is this CPU's own.
    let way = unsafe { &mut *way };
    let is_known = way.second == second
        && way.link == uplink
        && way.destination == to.destination
        && way.source == to.source;
    if !is_known {
        let (ends, mtu) = ask(ctx, to, uplink)?;
        // Field by field, or the compiler makes it on the stack first.
        (way.source, way.destination, way.ends) = (to.source, to.destination, ends);
        (way.link, way.second, way.mtu) = (uplink, second, mtu);
    }
    let fits = frame.length <= way.mtu && frame.is_for(&way.ends);
    fits.then_some(way.ends)
}

#[inline(always)]
fn ask(ctx: &XdpContext, to: &Flow6, uplink: u32) -> Option<(Neighbours, u16)> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = AF_INET6;
    route.l4_protocol = to.protocol;
    route.__bindgen_anon_3.ipv6_src = words(&to.source);
    route.__bindgen_anon_4.ipv6_dst = words(&to.destination);
    answer(ctx, &mut route, uplink)
}
