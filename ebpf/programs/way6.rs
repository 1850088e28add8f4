//! By which link, and with which address of the node, a backend on another node is reached over IPv6: as [`crate::way`].

use aya_ebpf::bindings::bpf_fib_lookup as Route;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use oarlock_ebpf::flow6::Settings6;

use crate::maps6::Work;
use crate::nat;

pub const AF_INET6: u8 = 10;

/// The node's address and the link.
#[inline(always)]
pub fn to<'s>(ctx: *mut c_void, work: &Work, settings: &'s Settings6, uplink: u32) -> (&'s [u8; 16], u32) {
    let overlay = nat::settings().map_or(0, |settings| settings.overlay);
    if overlay == 0 {
        return (&settings.node, uplink);
    }
    match of(ctx, work, settings, uplink) {
        0 => (&settings.node, uplink),
        link if link == overlay => (&settings.overlay_address, link),
        link => (&settings.node, link),
    }
}

/// The link that the node's routes say for what came by this one; 0: they say none.
#[inline(always)]
pub fn of(ctx: *mut c_void, work: &Work, settings: &Settings6, came_by: u32) -> u32 {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = AF_INET6;
    route.l4_protocol = work.flow.protocol;
    route.__bindgen_anon_3.ipv6_src = words(&settings.node);
    route.__bindgen_anon_4.ipv6_dst = words(&work.leaves.destination);
    route.ifindex = came_by;
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: the context is the kernel's, and the structure is of this size.
    let found = unsafe { bpf_fib_lookup(ctx, &raw mut route, size, 0) };
    // The link is known with each of them; who is there is asked when the packet leaves.
    let known = [BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_FRAG_NEEDED];
    if known.iter().any(|code| i64::from(*code) == found) { route.ifindex } else { 0 }
}

#[inline(always)]
pub fn words(b: &[u8; 16]) -> [u32; 4] {
    [
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
    ]
}
