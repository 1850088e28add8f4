//! tc hooks: NodePorts and ClusterIPs for clients that passed no socket hook, and masquerading of what leaves the cluster.
//!
//! `uplink_ingress` translates to a backend: a local one keeps the client's address, a remote one sees the node's.
//! `pod_egress` gives replies of local backends their Service's address back: at pods' links, or at the uplinks where somebody
//! else plugs the pods. `uplink_egress` masquerades what pods begin, and gives replies of the node itself their Service's
//! address. What is no flow of ours is not changed: nothing is dropped here, so that the stack can refuse properly.
//!
//! What comes in for a pod of this node goes straight into the pod's namespace (`bpf_redirect_peer`, Linux 5.10), if we have
//! plugged it: neither the node's routes and filters nor a second queue cost it anything.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_redirect_neigh, bpf_redirect_peer};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::flow::{Flow, LOCAL_POD, MASQUERADED, Owner, REPLY, Translation};
use oarlock_ebpf::flow6::{POD_OUT, UPLINK_IN, UPLINK_OUT};
use oarlock_ebpf::opted_out;
use oarlock_ebpf::reason::Reason;

use crate::flows::Begun;
use crate::packet::{self, Packet};
use crate::{count, direct, flows, icmp, inside, maps, maps6, nat, policy, tunnel, watch};

/// On to the next program, then to the stack.
pub const GO_ON: i32 = TC_ACT_UNSPEC;

/// Of flows: the packet is of none. No verdict of the kernel.
pub const NO_FLOW: i32 = i32::MAX;
/// Of errors: the packet is none about a translated one.
const NO_ERROR: i32 = i32::MAX;

// Each hook is functions one after the other, so that what they keep on the stack does not add up.

#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    if !packet::is_ours(&ctx) {
        return GO_ON;
    }
    maps6::hand_on(&ctx, UPLINK_IN);
    let handed = direct::said(&ctx);
    let verdict = match handed {
        Some(said) => arrive(&ctx, said),
        None => uplink_ingress_flow(&ctx),
    };
    if verdict != NO_FLOW {
        return verdict;
    }
    match report(&ctx, ANY) {
        // A packet to an address that is not this node's: the stack would send it back.
        NO_ERROR if handed.is_some() => direct::unknown(),
        NO_ERROR => deliver_other(&ctx),
        verdict => verdict,
    }
}

/// A packet that another node has handed over for a pod of this one: what is not for one goes nowhere.
#[inline(always)]
fn arrive(ctx: &TcContext, said: u32) -> i32 {
    if !direct::is_known(ctx, said) {
        match direct::begin(ctx, said) {
            GO_ON => {}
            verdict => return verdict,
        }
    }
    arrived(ctx)
}

#[inline(never)]
fn arrived(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return GO_ON };
    let Some(search) = nat::search() else { return GO_ON };
    translate(ctx, &packet, &search.there)
}

#[inline(never)]
fn uplink_ingress_flow(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return NO_FLOW };
    if let Some(entry) = flows::present(&packet, flows::now()) {
        return onward(ctx, &packet, &entry.translation);
    }
    let begun = match nat::kind_of(packet.flow.destination) {
        LOCAL_POD => flows::begin_direct(&packet).map_or(Begun::Nothing, Begun::To),
        _ => flows::begin(ctx.as_ptr(), &packet, packet::link(ctx)),
    };
    match begun {
        Begun::To(entry) => onward(ctx, &packet, entry),
        Begun::Nothing => deliver(ctx, &packet.flow, &packet),
        Begun::Denied => TC_ACT_SHOT,
    }
}

/// To a backend, or as it is to its node.
#[inline(always)]
fn onward(ctx: &TcContext, packet: &Packet, entry: &Translation) -> i32 {
    if entry.handed_to().is_none() {
        return translate(ctx, packet, entry);
    }
    let Some(search) = nat::search() else { return bad() };
    search.there = *entry;
    as_it_came(ctx)
}

/// A function of its own, by way of this CPU's search: inlined it would cost those that are translated registers.
#[inline(never)]
fn as_it_came(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return GO_ON };
    let Some(entry) = nat::search().map(|search| &search.there) else { return bad() };
    let Some(node) = entry.handed_to() else { return bad() };
    let (packets, bytes) = packet::size(ctx);
    count::packet(entry, &packet.flow, packets, bytes);
    direct::hand_over(ctx, node, &entry.to, packet.ttl)
}

#[classifier]
pub fn pod_egress(ctx: TcContext) -> i32 {
    if maps6::hand_on(&ctx, POD_OUT) {
        // What nobody judges does not pass.
        return TC_ACT_SHOT;
    }
    if maps::is_opted_out(opted_out::of_link(packet::link(&ctx))) && is_served(&ctx) {
        return serve(&ctx);
    }
    let verdict = pod_egress_flow(&ctx);
    if verdict != NO_FLOW {
        return verdict;
    }
    if !other_may_leave(&ctx) {
        return TC_ACT_SHOT;
    }
    match report(&ctx, REPLY) {
        NO_ERROR => deliver_other(&ctx),
        verdict => verdict,
    }
}

#[inline(never)]
fn pod_egress_flow(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return NO_FLOW };
    if !may_leave(ctx, &packet, &packet.flow) {
        return TC_ACT_SHOT;
    }
    answer(ctx, &packet).unwrap_or_else(|| deliver(ctx, &packet.flow, &packet))
}

/// Whether a pod may send a packet that is of this flow by the time it leaves.
#[inline(always)]
fn may_leave(ctx: &TcContext, packet: &Packet, flow: &Flow) -> bool {
    if tunnel::is_forged(ctx, flow) {
        watch::lost(&packet.seen(0), Reason::TunnelForged);
        return false;
    }
    policy::may_leave(packet::link(ctx), flow, packet.flags)
}

/// Whether a packet of a pod that is served packet by packet is one to a Service: how it leaves is in this CPU's search then.
#[inline(never)]
fn is_served(ctx: &TcContext) -> bool {
    let Some(header) = packet::header(ctx) else { return false };
    let Some(packet) = packet::read(ctx, &header) else { return false };
    let Some(entry) = flows::present(&packet, flows::now()) else {
        return inside::begin(ctx, &packet).is_some();
    };
    let Some(search) = nat::search() else { return false };
    search.there = entry.translation;
    search.there.has_backend()
}

/// Policies judge who sends and who answers, whatever address is between them.
#[inline(never)]
fn serve(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return GO_ON };
    let Some(search) = nat::search() else { return GO_ON };
    let entry = &search.there;
    let judged = packet.flow.to(entry.to.destination, entry.to.destination_port());
    if judged.source == judged.destination {
        // To itself, which is nobody's business.
        return match rewrite(ctx, &packet, entry) {
            GO_ON => nat::owner(judged.destination).map_or(GO_ON, |owner| enter(ctx, &owner, packet.ttl)),
            verdict => verdict,
        };
    }
    if !may_leave(ctx, &packet, &judged) {
        return TC_ACT_SHOT;
    }
    translate(ctx, &packet, entry)
}

/// What the node's own processes and its stack send to a pod that is served packet by packet: answers get their Service's address
/// back, and so do errors.
#[inline(always)]
pub fn answer_of_node(ctx: &TcContext) -> i32 {
    let verdict = answer_of_process(ctx);
    if verdict != NO_FLOW {
        return verdict;
    }
    match report(ctx, STAYS) {
        NO_ERROR => GO_ON,
        verdict => verdict,
    }
}

#[inline(never)]
fn answer_of_process(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return NO_FLOW };
    let entry = flows::present(&packet, flows::now()).filter(|entry| entry.translation.backend == REPLY);
    entry.map_or(GO_ON, |entry| rewrite(ctx, &packet, &entry.translation))
}

/// What comes to such a pod by the stack, as policies see it: from who has answered, or from the pod itself.
#[inline(never)]
pub fn as_judged(flow: &mut Flow) {
    let Some(entry) = nat::peek(&flow.reversed()) else { return };
    if entry.has_backend() {
        *flow = flow.from(entry.to.destination, entry.to.destination_port());
    } else if entry.backend == REPLY && entry.to.destination == flow.destination {
        flow.source = flow.destination;
    }
}

#[inline(never)]
fn other_may_leave(ctx: &TcContext) -> bool {
    packet::header(ctx).is_none_or(|header| policy::other_may_leave(ctx, packet::link(ctx), &header))
}

#[classifier]
pub fn uplink_egress(ctx: TcContext) -> i32 {
    maps6::hand_on(&ctx, UPLINK_OUT);
    let verdict = uplink_egress_flow(&ctx);
    if verdict != NO_FLOW {
        return verdict;
    }
    // The node's own errors too, about packets that it forwards to its pods: they leave here already.
    match report(&ctx, STAYS) {
        NO_ERROR => GO_ON,
        verdict => verdict,
    }
}

#[inline(never)]
fn uplink_egress_flow(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(packet) = packet::read(ctx, &header) else { return NO_FLOW };
    let Some(settings) = nat::settings() else { return GO_ON };
    if packet.flow.source == settings.node {
        // A backend that is a process of the node.
        return answer(ctx, &packet).unwrap_or(GO_ON);
    }
    if nat::kind_of(packet.flow.source) != LOCAL_POD
        || settings.in_cluster(packet.flow.destination)
        || nat::is_near(packet.flow.destination)
    {
        return GO_ON;
    }
    if let Some(entry) = flows::present(&packet, flows::now()) {
        return translate(ctx, &packet, &entry.translation);
    }
    if !flows::may_begin(&packet) {
        // Of a connection that began outside, to the pod's own address: its peer knows no other.
        return GO_ON;
    }
    match flows::claim(&packet.flow, packet.flow, settings.node, (0, 0), (MASQUERADED, 0)) {
        Some(entry) => {
            maps::count(Reason::Masqueraded);
            watch::begun(&packet.seen(0), &entry.to, Reason::Masqueraded);
            translate(ctx, &packet, entry)
        }
        // With a pod's address it could not be answered anyway.
        None => {
            watch::lost(&packet.seen(0), Reason::NoPort);
            TC_ACT_SHOT
        }
    }
}

/// Gives the reply of a local backend its Service's address back; none where it is no such reply.
#[inline(always)]
fn answer(ctx: &TcContext, packet: &Packet) -> Option<i32> {
    let entry = flows::present(packet, flows::now()).filter(|entry| entry.translation.backend == REPLY)?;
    Some(translate(ctx, packet, &entry.translation))
}

#[inline(always)]
fn translate(ctx: &TcContext, packet: &Packet, entry: &Translation) -> i32 {
    match rewrite(ctx, packet, entry) {
        GO_ON => {}
        verdict => return verdict,
    }
    if entry.link != 0 {
        return leave(ctx, entry.link, packet.ttl);
    }
    let mut judged = entry.to;
    if entry.backend == REPLY {
        // From who has answered: in the packet now stands whom the pod had asked.
        judged = judged.from(packet.flow.source, packet.flow.source_port());
    }
    deliver(ctx, &judged, packet)
}

/// Counts the packet and makes it one of the flow that it leaves as.
#[inline(always)]
fn rewrite(ctx: &TcContext, packet: &Packet, entry: &Translation) -> i32 {
    let (packets, bytes) = packet::size(ctx);
    count::packet(entry, &packet.flow, packets, bytes);
    if packet::write(ctx, packet, &entry.to).is_err() {
        count::lost(entry);
        watch::lost(&packet.seen(0), Reason::BadPacket);
        return bad();
    }
    GO_ON
}

/// For [`report`]: errors about all flows.
const ANY: u32 = 0;
/// For [`report`]: errors about all flows, which are leaving already.
const STAYS: u32 = 1;

/// An error to who has sent the packet that it is about; of answers alone where [`REPLY`] is said.
#[inline(never)]
fn report(ctx: &TcContext, which: u32) -> i32 {
    let Some(header) = packet::header(ctx) else { return NO_ERROR };
    let Some(error) = icmp::read(ctx, &header) else { return NO_ERROR };
    if which == REPLY && error.entry.backend != REPLY {
        return NO_ERROR;
    }
    if let Some(node) = error.entry.handed_to() {
        // About an answer that another node has sent, whose pod is to hear of it.
        return if which == ANY {
            direct::hand_over(ctx, node, &error.entry.to, error.ttl())
        } else {
            NO_ERROR
        };
    }
    match write_error(ctx, &error) {
        GO_ON if which == STAYS => GO_ON,
        GO_ON if error.entry.link == 0 => {
            nat::owner(error.entry.to.destination).map_or(GO_ON, |owner| enter(ctx, &owner, error.ttl()))
        }
        GO_ON => leave(ctx, error.entry.link, error.ttl()),
        verdict => verdict,
    }
}

#[inline(always)]
fn write_error(ctx: &TcContext, error: &icmp::Error) -> i32 {
    if icmp::write(ctx, error).is_err() {
        return bad();
    }
    maps::count(Reason::Reported);
    GO_ON
}

#[inline(always)]
fn leave(ctx: &TcContext, link: u32, ttl: u8) -> i32 {
    if !packet::hop(ctx, ttl) {
        return bad();
    }
    // SAFETY: no parameters: the helper routes by the packet's destination and asks for the neighbour.
    unsafe { bpf_redirect_neigh(link, core::ptr::null_mut(), 0, 0) as i32 }
}

/// A packet that is of this flow now into the namespace of a pod of this node, if it may come in.
#[inline(always)]
fn deliver(ctx: &TcContext, flow: &Flow, packet: &Packet) -> i32 {
    let Some(owner) = nat::owner(flow.destination) else { return GO_ON };
    if owner.link != 0 && !policy::may_enter(owner.link, flow, packet.flags) {
        return TC_ACT_SHOT;
    }
    enter(ctx, &owner, packet.ttl)
}

/// The same of a packet that has no flow.
#[inline(never)]
fn deliver_other(ctx: &TcContext) -> i32 {
    let Some(header) = packet::header(ctx) else { return GO_ON };
    let Some(owner) = nat::owner(packet::destination(&header)) else { return GO_ON };
    if owner.link != 0 && !policy::other_may_enter(ctx, owner.link, &header) {
        return TC_ACT_SHOT;
    }
    enter(ctx, &owner, header[8])
}

/// Into the namespace of a pod of this node. Everything else, and what has no hop left, is the stack's.
#[inline(always)]
fn enter(ctx: &TcContext, owner: &Owner, ttl: u8) -> i32 {
    if owner.link == 0 || ttl <= 1 {
        return GO_ON;
    }
    if !packet::hop(ctx, ttl) || ctx.store(0, &owner.ends, 0).is_err() {
        return bad();
    }
    // SAFETY: the helper has no conditions; a link that has gone meanwhile is the end of the packet, as of its pod.
    unsafe { bpf_redirect_peer(owner.link, 0) as i32 }
}

#[inline(always)]
pub fn bad() -> i32 {
    maps::count(Reason::BadPacket);
    TC_ACT_SHOT
}
