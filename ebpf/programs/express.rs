//! The XDP hook of uplinks: translated packets that leave the way they came (a NodePort's remote backends, and their
//! replies) turn round in the driver. Everything else, and every doubt, goes up to tc, which knows the same flows.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::flow::{LOCAL_POD, Translation};
use oarlock_ebpf::reason::Reason;

use crate::flows::Begun;
use crate::frame::{Frame, Neighbours};
use crate::{count, flows, frame, maps, maps6, nat, neighbours};

/// Up to tc and the stack.
pub const UP: u32 = xdp_action::XDP_PASS;

/// Takes frames in several parts too (Linux 5.18), so that neighbours on virtual links need not cut theirs up.
#[xdp(frags)]
pub fn uplink_express(ctx: XdpContext) -> u32 {
    let Some(frame) = frame::read(&ctx) else {
        maps6::hand_on_express(&ctx);
        return UP;
    };
    let uplink = ctx.ingress_ifindex() as u32;
    let now = flows::now();
    if let Some(entry) = flows::present(&frame.packet, now) {
        let translation = &entry.translation;
        if !may_turn(&frame, translation, uplink) {
            return UP;
        }
        let Some(neighbours) = neighbours::of_flow(&ctx, &frame, &entry, uplink, now) else { return UP };
        return turn(&frame, translation, &neighbours);
    }
    // Of a pod's own address tc knows more.
    if nat::kind_of(frame.packet.flow.destination) == LOCAL_POD {
        return UP;
    }
    let entry = match flows::begin(ctx.as_ptr(), &frame.packet, uplink) {
        Begun::To(entry) => entry,
        Begun::Nothing => return UP,
        Begun::Denied => return xdp_action::XDP_DROP,
    };
    if !may_turn(&frame, entry, uplink) {
        return UP;
    }
    let Some(hop) = neighbours::of(&ctx, &frame, &entry.to, uplink, now) else { return UP };
    turn(&frame, entry, &hop.ends)
}

#[inline(always)]
fn may_turn(frame: &Frame, entry: &Translation, uplink: u32) -> bool {
    entry.link == uplink && entry.handed_to().is_none() && frame.packet.ttl > 1 && !frame.is_partial()
}

#[inline(always)]
fn turn(frame: &Frame, entry: &Translation, neighbours: &Neighbours) -> u32 {
    frame.write(&entry.to, neighbours);
    count::packet(entry, &frame.packet.flow, 1, u64::from(frame.length));
    maps::count(Reason::Express);
    xdp_action::XDP_TX
}

/// Nothing, for the other end of a veth: it takes what XDP sends only where it has a program of its own
/// (drivers/net/veth.c, veth_xdp_flush).
#[xdp(frags)]
pub fn peer_pass(_: XdpContext) -> u32 {
    UP
}
