//! What the programs of tc hand on that is IPv6: as [`crate::forward`] and [`crate::policy`], whose hooks these are.
//!
//! Programs of their own (tail calls), so that IPv4 carries none of it.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::flow::{LOCAL_POD, Owner, REPLY};
use oarlock_ebpf::opted_out;
use oarlock_ebpf::reason::Reason;

use crate::flows6::{self, Begun};
use crate::maps6::Work;
use crate::packet6::{self, Packet};
use crate::{count, icmp6, inside6, maps, maps6, packet, policy6, watch};

/// On to the next program, then to the stack.
const GO_ON: i32 = TC_ACT_UNSPEC;

#[classifier]
pub fn uplink_ingress6(ctx: TcContext) -> i32 {
    let Some(work) = maps6::work() else { return GO_ON };
    if !packet6::header(&ctx, work) {
        return GO_ON;
    }
    let Some(packet) = packet6::read(&ctx, work) else {
        return if icmp6::read(&ctx, work) { report(&ctx, work) } else { deliver_other(&ctx, work) };
    };
    if flows6::present(work, &packet) {
        return translate(&ctx, work, &packet);
    }
    let begun = match maps6::kind_of(&work.flow.destination) {
        LOCAL_POD if flows6::begin_direct(work, &packet) => Begun::To,
        LOCAL_POD => Begun::Nothing,
        _ => flows6::begin(ctx.as_ptr(), work, &packet, packet::link(&ctx)),
    };
    match begun {
        Begun::To => translate(&ctx, work, &packet),
        Begun::Nothing => deliver_as_is(&ctx, work, &packet),
        Begun::Denied => TC_ACT_SHOT,
    }
}

#[classifier]
pub fn pod_egress6(ctx: TcContext) -> i32 {
    let Some(work) = maps6::work() else { return GO_ON };
    if !packet6::header(&ctx, work) {
        return GO_ON;
    }
    let link = packet::link(&ctx);
    let Some(packet) = packet6::read(&ctx, work) else {
        if policy6::take_other(&ctx, work) && !policy6::may_leave(link, 0) {
            return TC_ACT_SHOT;
        }
        let reported = icmp6::read(&ctx, work) && work.entry.backend == REPLY;
        return if reported { report(&ctx, work) } else { deliver_other(&ctx, work) };
    };
    if maps::is_opted_out(opted_out::of_link(link)) && inside6::find(&ctx, work, &packet) {
        return serve(&ctx, work, &packet);
    }
    work.judged = work.flow;
    if !policy6::may_leave(link, packet.flags) {
        return TC_ACT_SHOT;
    }
    answer(&ctx, work, &packet).unwrap_or_else(|| deliver_as_is(&ctx, work, &packet))
}

#[classifier]
pub fn uplink_egress6(ctx: TcContext) -> i32 {
    let Some(work) = maps6::work() else { return GO_ON };
    let Some(settings) = maps6::settings() else { return GO_ON };
    if !packet6::header(&ctx, work) {
        return GO_ON;
    }
    let Some(packet) = packet6::read(&ctx, work) else {
        // The node's own errors too, about packets that it forwards to its pods: they leave here already.
        return if icmp6::read(&ctx, work) { write_error(&ctx, work) } else { GO_ON };
    };
    if work.flow.source == settings.node {
        // A backend that is a process of the node.
        return answer(&ctx, work, &packet).unwrap_or(GO_ON);
    }
    if maps6::kind_of(&work.flow.source) != LOCAL_POD
        || settings.in_cluster(&work.flow.destination)
        || maps6::kind_of(&work.flow.destination) != 0
    {
        return GO_ON;
    }
    if flows6::present(work, &packet) {
        return translate(&ctx, work, &packet);
    }
    if !flows6::may_begin(work, &packet) {
        // Of a connection that began outside, to the pod's own address: its peer knows no other.
        return GO_ON;
    }
    if flows6::masquerade(work, &settings.node) {
        maps::count(Reason::Masqueraded);
        watch::begun6(&flows6::seen(work, &packet, 0), &work.entry.to, Reason::Masqueraded);
        return translate(&ctx, work, &packet);
    }
    // With a pod's address it could not be answered anyway.
    watch::lost6(&flows6::seen(work, &packet, 0), Reason::NoPort);
    TC_ACT_SHOT
}

/// What a pod that is served packet by packet sends to a Service: see [`crate::forward`].
#[inline(always)]
fn serve(ctx: &TcContext, work: &mut Work, packet: &Packet) -> i32 {
    work.judged = work.flow.to(work.entry.to.destination, work.entry.to.destination_port());
    if work.judged.source == work.judged.destination {
        return match rewrite(ctx, work, packet) {
            GO_ON => maps6::owner(&work.judged.destination).map_or(GO_ON, |owner| enter(ctx, work, &owner)),
            verdict => verdict,
        };
    }
    if !policy6::may_leave(packet::link(ctx), packet.flags) {
        return TC_ACT_SHOT;
    }
    translate(ctx, work, packet)
}

/// What the node itself sends to such a pod.
#[inline(always)]
fn answer_of_node(ctx: &TcContext, work: &mut Work) -> i32 {
    match packet6::read(ctx, work) {
        Some(packet) if flows6::present(work, &packet) && work.entry.backend == REPLY => {
            rewrite(ctx, work, &packet)
        }
        Some(_) => GO_ON,
        None if icmp6::read(ctx, work) => write_error(ctx, work),
        None => GO_ON,
    }
}

/// What comes to an isolated pod, or to one that is served packet by packet, by the node's stack.
#[classifier]
pub fn pod_ingress6(ctx: TcContext) -> i32 {
    let Some(work) = maps6::work() else { return GO_ON };
    if !packet6::header(&ctx, work) {
        return GO_ON;
    }
    if packet::from_link(&ctx) == 0 {
        return answer_of_node(&ctx, work);
    }
    let link = packet::link(&ctx);
    let may = match packet6::read(&ctx, work) {
        Some(packet) => {
            work.judged = work.flow;
            if maps::is_opted_out(opted_out::of_link(link)) {
                judge_as_asked(work);
            }
            policy6::may_enter(link, packet.flags)
        }
        None => !policy6::take_other(&ctx, work) || policy6::may_enter(link, 0),
    };
    if may { GO_ON } else { TC_ACT_SHOT }
}

/// See [`crate::forward::as_judged`].
#[inline(always)]
fn judge_as_asked(work: &mut Work) {
    work.key = work.flow.reversed();
    let Some(entry) = maps6::entry(&work.key) else { return };
    // SAFETY: the element lives in the map; it may be given to another flow while we look, and then that one's is judged.
    work.entry = unsafe { *entry };
    let to = &work.entry.to;
    if work.entry.has_backend() {
        work.judged = work.flow.from(to.destination, to.destination_port());
    } else if work.entry.backend == REPLY && to.destination == work.flow.destination {
        work.judged.source = work.flow.destination;
    }
}

/// Gives the reply of a local backend its Service's address back; none where it is no such reply.
#[inline(always)]
fn answer(ctx: &TcContext, work: &mut Work, packet: &Packet) -> Option<i32> {
    let is_reply = flows6::present(work, packet) && work.entry.backend == REPLY;
    is_reply.then(|| translate(ctx, work, packet))
}

#[inline(always)]
fn translate(ctx: &TcContext, work: &mut Work, packet: &Packet) -> i32 {
    match rewrite(ctx, work, packet) {
        GO_ON => {}
        verdict => return verdict,
    }
    if work.entry.link != 0 {
        return leave(ctx, work);
    }
    work.judged = work.entry.to;
    if work.entry.backend == REPLY {
        // From who has answered: in the packet now stands whom the pod had asked.
        work.judged = work.judged.from(work.flow.source, work.flow.source_port());
    }
    deliver(ctx, work, packet.flags)
}

/// Counts the packet and makes it one of the flow that it leaves as.
#[inline(always)]
fn rewrite(ctx: &TcContext, work: &mut Work, packet: &Packet) -> i32 {
    let (packets, bytes) = packet::size(ctx);
    count::packet6(&work.entry, &work.flow, packets, bytes);
    if packet6::write(ctx, packet, &work.flow, &work.entry.to).is_err() {
        count::lost(&work.entry.whose());
        watch::lost6(&flows6::seen(work, packet, 0), Reason::BadPacket);
        return bad();
    }
    GO_ON
}

/// An error to who has sent the packet that it is about.
#[inline(always)]
fn report(ctx: &TcContext, work: &mut Work) -> i32 {
    match write_error(ctx, work) {
        // Errors always may come in.
        GO_ON if work.entry.link == 0 => match maps6::owner(&work.entry.to.destination) {
            Some(owner) => enter(ctx, work, &owner),
            None => GO_ON,
        },
        GO_ON => leave(ctx, work),
        verdict => verdict,
    }
}

#[inline(always)]
fn write_error(ctx: &TcContext, work: &mut Work) -> i32 {
    if icmp6::write(ctx, work).is_err() {
        return bad();
    }
    maps::count(Reason::Reported);
    GO_ON
}

#[inline(always)]
fn leave(ctx: &TcContext, work: &Work) -> i32 {
    if !packet6::hop(ctx, work.header.hops) {
        return bad();
    }
    // SAFETY: no parameters: the helper routes by the packet's destination and asks for the neighbour.
    unsafe { bpf_redirect_neigh(work.entry.link, core::ptr::null_mut(), 0, 0) as i32 }
}

/// A packet that is not translated.
#[inline(always)]
fn deliver_as_is(ctx: &TcContext, work: &mut Work, packet: &Packet) -> i32 {
    work.judged = work.flow;
    deliver(ctx, work, packet.flags)
}

/// A packet that is of the flow of [`Work::judged`] now into the namespace of a pod of this node, if it may come in.
#[inline(always)]
fn deliver(ctx: &TcContext, work: &Work, flags: u8) -> i32 {
    let Some(owner) = maps6::owner(&work.judged.destination) else { return GO_ON };
    if owner.link != 0 && !policy6::may_enter(owner.link, flags) {
        return TC_ACT_SHOT;
    }
    enter(ctx, work, &owner)
}

/// The same of a packet that has no flow.
#[inline(always)]
fn deliver_other(ctx: &TcContext, work: &mut Work) -> i32 {
    let Some(owner) = maps6::owner(&work.header.destination) else { return GO_ON };
    if owner.link != 0 && policy6::take_other(ctx, work) && !policy6::may_enter(owner.link, 0) {
        return TC_ACT_SHOT;
    }
    enter(ctx, work, &owner)
}

/// Into the namespace of a pod of this node. Everything else, and what has no hop left, is the stack's.
#[inline(always)]
fn enter(ctx: &TcContext, work: &Work, owner: &Owner) -> i32 {
    let hops = work.header.hops;
    if owner.link == 0 || hops <= 1 {
        return GO_ON;
    }
    if !packet6::hop(ctx, hops) || ctx.store(0, &owner.ends, 0).is_err() {
        return bad();
    }
    // SAFETY: the helper has no conditions; a link that has gone meanwhile is the end of the packet, as of its pod.
    unsafe { bpf_redirect_peer(owner.link, 0) as i32 }
}

#[inline(always)]
fn bad() -> i32 {
    maps::count(Reason::BadPacket);
    TC_ACT_SHOT
}
