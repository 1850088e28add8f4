//! What the XDP hook of uplinks hands on that is IPv6: as [`crate::express`].

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use oarlock_ebpf::flow::LOCAL_POD;
use oarlock_ebpf::reason::Reason;

use crate::express::UP;
use crate::flows6::Begun;
use crate::{count, flows6, frame6, maps, maps6, neighbours6};

#[xdp(frags)]
pub fn uplink_express6(ctx: XdpContext) -> u32 {
    let Some(work) = maps6::work() else { return UP };
    let Some(frame) = frame6::read(&ctx, work) else { return UP };
    let uplink = ctx.ingress_ifindex() as u32;
    if !flows6::present(work, &frame.packet) {
        // Of a pod's own address tc knows more.
        if maps6::kind_of(&work.flow.destination) == LOCAL_POD {
            return UP;
        }
        match flows6::begin(ctx.as_ptr(), work, &frame.packet, uplink) {
            Begun::To => {}
            Begun::Nothing => return UP,
            Begun::Denied => return xdp_action::XDP_DROP,
        }
    }
    if work.entry.link != uplink || frame.hops <= 1 || frame.is_partial(&work.flow) {
        return UP;
    }
    let Some(ends) = neighbours6::of(&ctx, &frame, &work.entry.to, uplink) else { return UP };
    frame.write(&work.flow, &work.entry.to, &ends);
    count::packet6(&work.entry, &work.flow, 1, u64::from(frame.length));
    maps::count(Reason::Express);
    xdp_action::XDP_TX
}
