//! Between whom a frame of XDP goes on: the kernel's answer, remembered for as long as a second has the same number. Asked for
//! each packet, routes and neighbours would cost more than everything else together.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_FIB_LKUP_RET_SUCCESS;
use aya_ebpf::bindings::bpf_fib_lookup as Route;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::flow::Flow;

use crate::flows;
use crate::frame::{Frame, Neighbours};

const AF_INET: u8 = 2;
/// A power of two.
const PLACES: u32 = 1024;

/// The next hop between two addresses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hop {
    source: [u8; 4],
    destination: [u8; 4],
    link: u32,
    /// When it was true, in seconds since boot; 0: never.
    second: u32,
    neighbours: Neighbours,
    /// The longest IP packet.
    mtu: u16,
    reserved: u16,
}
#[map]
static HOPS: PerCpuArray<Hop> = PerCpuArray::with_max_entries(PLACES, 0);

/// Nothing where the neighbour is not known yet, the frame is too long for the way, the way is another link, or the frame was not
/// for this node.
#[inline(always)]
pub fn of(ctx: &XdpContext, frame: &Frame, to: &Flow, uplink: u32) -> Option<Neighbours> {
    let second = flows::now();
    // Multiplicative hashing: the bits at the top depend on all below.
    let place = u32::from_ne_bytes(to.destination).wrapping_mul(0x9e37_79b1) >> 22;
    let hop = HOPS.get_ptr_mut(place & (PLACES - 1))?;
    // SAFETY: the element is this CPU's own.
    let hop = unsafe { &mut *hop };
    let is_known = hop.second == second
        && hop.destination == to.destination
        && hop.source == to.source
        && hop.link == uplink;
    if !is_known {
        let (neighbours, mtu) = ask(ctx, to, uplink)?;
        *hop = Hop {
            source: to.source,
            destination: to.destination,
            link: uplink,
            second,
            neighbours,
            mtu,
            reserved: 0,
        };
    }
    let fits = frame.length <= hop.mtu && hop.neighbours.1 == frame.receiver();
    fits.then_some(hop.neighbours)
}

/// The kernel's answer for a short packet, and how long one may be.
#[inline(always)]
fn ask(ctx: &XdpContext, to: &Flow, uplink: u32) -> Option<(Neighbours, u16)> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = AF_INET;
    route.l4_protocol = to.protocol;
    // Any that fits: the answer says how long it may be only where a length was asked for (Linux 5.12).
    route.__bindgen_anon_1.tot_len = 1;
    route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(to.source);
    route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(to.destination);
    route.ifindex = uplink;
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: the context is the kernel's, and the structure is of this size.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut route, size, 0) };
    if found != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || route.ifindex != uplink {
        return None;
    }
    // SAFETY: the helper has put it where the length was (bpf_fib_set_fwd_params).
    let mtu = unsafe { route.__bindgen_anon_1.mtu_result };
    Some(((route.dmac, route.smac), mtu))
}
