//! By which link, and with which address of the node, a backend on another node is reached.
//!
//! Mostly that is the link by which the client came. Where other nodes' pods are behind an overlay, the node's routes say it.

use aya_ebpf::bindings::bpf_fib_lookup as Route;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use oarlock_ebpf::flow::{Flow, Settings};

use crate::nat;

const AF_INET: u8 = 2;

/// The node's address and the link.
#[inline(always)]
pub fn to(ctx: *mut c_void, settings: &Settings, flow: &Flow, uplink: u32) -> ([u8; 4], u32) {
    if settings.overlay == 0 {
        return (settings.node, uplink);
    }
    match of(ctx, flow, uplink) {
        0 => (settings.node, uplink),
        link if link == settings.overlay => (settings.overlay_address, link),
        link => (settings.node, link),
    }
}

/// The link that the node's routes say for a flow that came by this one and leaves with the node's address; 0: they say none.
#[inline(always)]
pub fn of(ctx: *mut c_void, flow: &Flow, came_by: u32) -> u32 {
    by_routes(ctx, flow, came_by) as u32
}

/// A function of its own: what it asks with is large for the stack.
#[inline(never)]
fn by_routes(ctx: *mut c_void, flow: &Flow, uplink: u32) -> u64 {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = AF_INET;
    route.l4_protocol = flow.protocol;
    if let Some(settings) = nat::settings() {
        route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(settings.node);
    }
    route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(flow.destination);
    route.ifindex = uplink;
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: the context is the kernel's, and the structure is of this size.
    let found = unsafe { bpf_fib_lookup(ctx, &raw mut route, size, 0) };
    // The link is known with each of them; who is there is asked when the packet leaves.
    let known = [BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_FRAG_NEEDED];
    if known.iter().any(|code| i64::from(*code) == found) { u64::from(route.ifindex) } else { 0 }
}
