//! The XDP hook of uplinks: translated packets that leave the way they came (a NodePort's remote backends, and their
//! replies) turn round in the driver. Everything else, and every doubt, goes up to tc, which knows the same flows.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_fib_lookup as Route;
use aya_ebpf::bindings::{BPF_FIB_LKUP_RET_SUCCESS, xdp_action};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::flow::{Flow, LOCAL_POD};
use oarlock_ebpf::reason::Reason;

use crate::flows::Begun;
use crate::frame::{self, Frame, Neighbours};
use crate::{flows, maps, nat};

/// Up to tc and the stack.
const UP: u32 = xdp_action::XDP_PASS;
const AF_INET: u8 = 2;

/// Takes frames in several parts too (Linux 5.18), so that neighbours on virtual links need not cut theirs up.
#[xdp(frags)]
pub fn uplink_express(ctx: XdpContext) -> u32 {
    let Some(frame) = frame::read(&ctx) else { return UP };
    let uplink = ctx.ingress_ifindex() as u32;
    let entry = match flows::present(&frame.packet) {
        Some(entry) => entry,
        // Of a pod's own address tc knows more.
        None if nat::kind_of(frame.packet.flow.destination) == LOCAL_POD => return UP,
        None => match flows::begin(ctx.as_ptr(), &frame.packet, uplink) {
            Begun::To(entry) => entry,
            Begun::Nothing => return UP,
            Begun::Denied => return xdp_action::XDP_DROP,
        },
    };
    if entry.link != uplink || frame.packet.ttl <= 1 || frame.is_partial() {
        return UP;
    }
    let Some(neighbours) = neighbours(&ctx, &frame, &entry.to, uplink) else { return UP };
    frame.write(&entry.to, neighbours);
    maps::count(Reason::Express);
    xdp_action::XDP_TX
}

/// Nothing, for the other end of a veth: it takes what XDP sends only where it has a program of its own
/// (drivers/net/veth.c, veth_xdp_flush).
#[xdp(frags)]
pub fn peer_pass(_: XdpContext) -> u32 {
    UP
}

/// Between whom the frame goes on; nothing where the neighbour is not known yet, the frame is too long for the way, the way
/// is another link, or the frame was not for this node.
#[inline(always)]
fn neighbours(ctx: &XdpContext, frame: &Frame, to: &Flow, uplink: u32) -> Option<Neighbours> {
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut route: Route = unsafe { core::mem::zeroed() };
    route.family = AF_INET;
    route.l4_protocol = to.protocol;
    route.__bindgen_anon_1.tot_len = frame.length;
    route.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(to.source);
    route.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(to.destination);
    route.ifindex = uplink;
    let size = core::mem::size_of::<Route>() as i32;
    // SAFETY: the context is the kernel's, and the structure is of this size.
    let found = unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut route, size, 0) };
    let is_ours = found == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        && route.ifindex == uplink
        && route.smac == frame.receiver();
    is_ours.then_some((route.dmac, route.smac))
}
