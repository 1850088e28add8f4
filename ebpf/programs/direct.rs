//! Direct answers ([`oarlock_ebpf::direct`]): packets that go as they came to the node of the pod that was chosen for them, and those
//! that come so. The pod sees its client, and what it answers leaves by its own node's uplink.
//!
//! Each frame says whom the first node has chosen, not the first of a connection alone: a node that has forgotten its flows, or whose
//! table had no room, goes on where it was.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::count::Whose;
use oarlock_ebpf::direct;
use oarlock_ebpf::flow::{ARRIVED, Flow, LOCAL_POD, Settings, TUNNEL};
use oarlock_ebpf::layout::FrontendKey;
use oarlock_ebpf::reason::Reason;

use crate::forward::{GO_ON, NO_FLOW};
use crate::{count, flows, forward, maps, nat, packet, watch, way};

/// The node's settings, where it has a tunnel of ours.
#[inline(always)]
fn tunnelled() -> Option<&'static Settings> {
    nat::settings().filter(|settings| settings.has(TUNNEL) && settings.overlay != 0)
}

/// What a frame that comes by the tunnel says of the pod that was chosen.
#[inline(always)]
pub fn said(ctx: &TcContext) -> Option<u32> {
    // What is read of each packet that comes by an uplink: without a helper, and the settings only after it.
    let said = direct::said(packet::sender(ctx)?)?;
    (tunnelled()?.overlay == packet::link(ctx)).then_some(said)
}

/// Sends a packet as it is to the node of the pod that it is to become one to.
#[inline(always)]
pub fn hand_over(ctx: &TcContext, node: [u8; 4], to: &Flow, ttl: u8) -> i32 {
    let Some(settings) = tunnelled() else { return forward::bad() };
    let ends = direct::ends(node, to.destination, to.destination_port());
    if !packet::hop(ctx, ttl) || ctx.store(0, &ends, 0).is_err() {
        return forward::bad();
    }
    // SAFETY: the helper has no conditions.
    unsafe { bpf_redirect(settings.overlay, 0) as i32 }
}

// What comes is looked at by functions one after the other, as in [`forward`].

/// Whether a packet that was handed over is of a flow to the pod that was chosen for it: its translation is in this CPU's search then.
#[inline(never)]
pub fn is_known(ctx: &TcContext, said: u32) -> bool {
    let Some(header) = packet::header(ctx) else { return false };
    let Some(packet) = packet::read(ctx, &header) else { return false };
    let (Some(settings), Some(search)) = (nat::settings(), nat::search()) else { return false };
    let Some(entry) = flows::present(&packet, flows::now()) else { return false };
    search.there = entry.translation;
    let to = &search.there.to;
    if (to.destination, to.destination_port()) == direct::pod(settings.overlay_address, said) {
        return true;
    }
    // Another pod was chosen for what the client's port has begun since.
    search.reply = to.reversed();
    if nat::peek(&search.reply).is_some_and(|back| back.to == packet.flow.reversed()) {
        nat::remove(&search.reply);
    }
    false
}

/// The translation of a packet that was handed over, to be in this CPU's search; a verdict for what is for no pod here, or cannot be
/// told its client.
#[inline(never)]
pub fn begin(ctx: &TcContext, said: u32) -> i32 {
    let Some(header) = packet::header(ctx) else { return NO_FLOW };
    let Some(packet) = packet::read(ctx, &header) else { return NO_FLOW };
    let Some(settings) = nat::settings() else { return NO_FLOW };
    let (pod, port) = direct::pod(settings.overlay_address, said);
    let counted = counted(settings, &packet.flow);
    if nat::kind_of(pod) != LOCAL_POD {
        watch::lost(&packet.seen(counted), Reason::DirectUnknown);
        return unknown();
    }
    let flow = &packet.flow;
    let leaves = flow.to(pod, port);
    // Answers go where this node's routes lead to the client.
    let links = (0, way::of(ctx.as_ptr(), &flow.reversed(), packet::link(ctx)));
    let arrived = (ARRIVED, Whose::new(0, counted).word());
    // A pod does not take packets that come with its own address: it sees the node. Who else already talks to it by another frontend
    // from this port gets another port.
    let source = if flow.source == pod { settings.node } else { flow.source };
    let kept = if source == flow.source { flows::keep(flow, leaves, links, arrived) } else { None };
    let entry = match kept {
        Some(entry) => Some(entry),
        None => flows::claim(flow, leaves, source, links, arrived),
    };
    let Some(entry) = entry else {
        count::dropped(counted, Reason::NoPort);
        watch::lost(&packet.seen(counted), Reason::NoPort);
        return TC_ACT_SHOT;
    };
    maps::count(Reason::Direct);
    watch::begun(&packet.seen(counted), &entry.to, Reason::Direct);
    GO_ON
}

/// The number under which the Service is counted here. Another node's NodePort is this node's, too.
#[inline(always)]
fn counted(settings: &Settings, flow: &Flow) -> u32 {
    let of = |address| maps::service(&FrontendKey::new(address, flow.destination_port(), flow.protocol));
    let service = of(flow.destination).or_else(|| of(settings.node));
    service.and_then(maps::line).map_or(0, |line| line.counted)
}

/// What was handed over and is for nobody here.
#[inline(always)]
pub fn unknown() -> i32 {
    maps::count(Reason::DirectUnknown);
    TC_ACT_SHOT
}
