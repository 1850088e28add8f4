//! Flows: whose packet it is, and a new one its backend and its port. What to do with the packet is the hooks' business.
//!
//! A client's port may come again, to the same pod by another way (two Services, the pod's own address): entries of
//! connections that have ended give way, and where two are open at once the later one gets another source port.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop};
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::count::{OUTSIDE, Whose};
use oarlock_ebpf::flow::{
    ACK, CLOSING, FIN, Flow, LOCAL_POD, MASQUERADED, PROBES, REPLY, RST, SYN, Settings, TCP, Translation,
    candidate, has_closed, pair,
};
use oarlock_ebpf::fragment::Part;
use oarlock_ebpf::layout::{EXTERNAL, FrontendKey, MAGLEV, SOURCE_RANGES};
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::select;

use crate::choose::{self, Choice};
use crate::packet::Packet;
use crate::{count, maps, nat, watch, way};

/// The entry of the packet's flow, its clock advanced. A new flow on an old entry counts only while the backend is the same.
#[inline(always)]
pub fn present(packet: &Packet) -> Option<Translation> {
    let entry = nat::entry(&packet.flow)?;
    // SAFETY: the element lives in the map; it may be given to another flow while we look, in which case the clock of
    // that flow is advanced: harmless.
    let found = unsafe { *entry };
    let fresh = may_begin(packet);
    if fresh && found.has_backend() && !is_current(&found) {
        return None;
    }
    // Another connection of the client's port may have taken the way back.
    if packet.flow.protocol == TCP && fresh && !answers(&found.to.reversed(), &packet.flow.reversed()) {
        return None;
    }
    let mut seen = now() | (found.seen & CLOSING);
    if packet.flags & (FIN | RST) != 0 {
        seen |= CLOSING;
    } else if packet.flags & SYN != 0 {
        // The port is used again; the answer says so for the way back.
        seen &= !CLOSING;
    }
    if seen != found.seen {
        // SAFETY: as above; one aligned word.
        unsafe { (*entry).seen = seen };
    }
    // A reset ends both directions; the other one may never see a packet again.
    if packet.flags & RST != 0
        && let Some(other) = nat::entry(&found.to.reversed())
    {
        // SAFETY: as above.
        unsafe { (*other).seen |= CLOSING };
    }
    Some(found)
}

/// Whether the flow's backend is still who it was when it was chosen.
#[inline(always)]
fn is_current(entry: &Translation) -> bool {
    Whose::of(entry).is_some_and(|whose| nat::is_current(whose.backend(), entry.generation))
}

/// What becomes of a packet that may be the first of a flow.
pub enum Begun {
    /// It is one of a Service's, and this is its translation.
    To(Translation),
    /// It is none of ours.
    Nothing,
    /// Its client may not ask this Service.
    Denied,
}

/// The backend of a new connection or of a datagram to a frontend, that came by this uplink.
#[inline(always)]
pub fn begin(ctx: *mut c_void, packet: &Packet, uplink: u32) -> Begun {
    let flow = &packet.flow;
    if !may_begin(packet) {
        return Begun::Nothing;
    }
    let key = FrontendKey::new(flow.destination, flow.destination_port(), flow.protocol);
    let (Some(settings), Some(service)) = (nat::settings(), maps::service(&key)) else {
        return Begun::Nothing;
    };
    let Some(line) = maps::line(service) else { return Begun::Nothing };
    if line.flags & EXTERNAL == 0 && settings.external_cluster_ip == 0 {
        return Begun::Nothing;
    }
    if line.flags & SOURCE_RANGES != 0 && !maps::is_in_range(line.service, flow.source) {
        maps::count(Reason::Denied);
        count::dropped(line.counted, Reason::Denied);
        watch::lost(&packet.seen(line.counted), Reason::Denied);
        return Begun::Denied;
    }
    let client = AffinityKey::outside(flow.source, line.service);
    let range = maps::published(&line.outside);
    let choice = if line.flags & MAGLEV == 0 {
        Choice::InTurn
    } else {
        Choice::By(select::of_client(flow.source, flow.source_port()))
    };
    let (index, backend) = match choose::backend(service, line, range, &client, choice) {
        Ok(chosen) => chosen,
        Err(reason) => {
            // Of a Service without endpoints the stack has no socket either, and says so with RST or ICMP.
            maps::count(reason);
            count::dropped(line.counted, reason);
            watch::lost(&packet.seen(line.counted), reason);
            return Begun::Nothing;
        }
    };
    let leaves = flow.to(backend.address(), backend.port());
    maps::count(Reason::Translated);
    let whose = Whose::new(index, line.counted);
    match reach(ctx, flow, leaves, settings, uplink, (whose.word(), backend.generation())) {
        Some(entry) => {
            count::begun(whose, OUTSIDE);
            watch::begun(&packet.seen(line.counted), &entry.to, Reason::Translated);
            Begun::To(entry)
        }
        None => {
            count::dropped(line.counted, Reason::NoPort);
            watch::lost(&packet.seen(line.counted), Reason::NoPort);
            Begun::Nothing
        }
    }
}

/// The way to a backend: one of this node, a pod or the node itself, sees the client, others this node.
#[inline(always)]
fn reach(
    ctx: *mut c_void,
    flow: &Flow,
    leaves: Flow,
    settings: &Settings,
    uplink: u32,
    chosen: (u32, u32),
) -> Option<Translation> {
    let local = leaves.destination == settings.node || nat::kind_of(leaves.destination) == LOCAL_POD;
    if local
        && is_free(&leaves.reversed(), &flow.reversed())
        && let Some(entry) = insert(flow, leaves, (0, uplink), chosen)
    {
        return Some(entry);
    }
    // Also where the same client port already talks to this backend by another frontend: another port tells them apart.
    let (address, link) = if local { (flow.source, 0) } else { way::to(ctx, settings, &leaves, uplink) };
    claim(flow, leaves, address, (link, uplink), chosen)
}

/// A connection or datagram from outside to a pod's own address is translated only where its replies would be taken for
/// those of a Service.
#[inline(always)]
pub fn begin_direct(packet: &Packet) -> Option<Translation> {
    let flow = &packet.flow;
    if !may_begin(packet) {
        return None;
    }
    let reply = flow.reversed();
    if let Some(entry) = nat::entry(&reply) {
        // SAFETY: the element lives in the map; whosever it is by now, one word is read.
        let is_reply = unsafe { (*entry).backend == REPLY };
        if is_reply && !is_free(&reply, &reply) {
            return claim(flow, *flow, flow.source, (0, 0), (MASQUERADED, 0));
        }
    } else if flow.protocol != TCP
        && nat::kind_of(flow.source) == 0
        && !nat::settings()?.in_cluster(flow.source)
    {
        // The pod's answer must leave with the pod's address: a flow that is "translated" to itself.
        let same = Translation { to: reply, link: 0, backend: MASQUERADED, generation: 0, seen: now() };
        let _ = nat::insert(&reply, &same, u64::from(BPF_NOEXIST));
    }
    None
}

/// Whether the packet may be the first of its flow.
#[inline(always)]
pub fn may_begin(packet: &Packet) -> bool {
    packet.part != Part::Later && (packet.flow.protocol != TCP || packet.flags & (SYN | ACK) == SYN)
}

/// Whether the entry of a reply leads to this flow.
#[inline(always)]
fn answers(reply: &Flow, to: &Flow) -> bool {
    // SAFETY: the element lives in the map, and is compared at once.
    nat::entry(reply).is_some_and(|entry| unsafe { (*entry).to == *to })
}

/// Whether a reply has no entry, after removing one that has ended or that is of the same connection.
#[inline(always)]
fn is_free(reply: &Flow, to: &Flow) -> bool {
    let Some(entry) = nat::entry(reply) else { return true };
    // SAFETY: the element lives in the map; whosever it is by now, its words are read one by one.
    let (leads, backend, seen) = unsafe { ((*entry).to, (*entry).backend, (*entry).seen) };
    // SAFETY: as above.
    let there = nat::entry(&leads.reversed()).map(|entry| unsafe { (*entry).seen });
    let free = leads == *to || backend == REPLY && has_closed(seen, there, now());
    if free {
        nat::remove(reply);
    }
    free
}

/// Gives the flow a source of this address, under a port that no other flow to the same peer has.
#[inline(always)]
pub fn claim(
    flow: &Flow,
    leaves: Flow,
    address: [u8; 4],
    links: (u32, u32),
    backend: (u32, u32),
) -> Option<Translation> {
    // Port 0 until one is found.
    let search = prepare(flow, leaves.from(address, 0), links, backend)?;
    search.found = 0;
    // SAFETY: the helper has no conditions.
    search.beginning = unsafe { bpf_get_prandom_u32() };
    // The kernel's loop (Linux 5.17): its verifier looks at one turn, not at all of them, which would take tenths of a second.
    // SAFETY: the callback has the signature that the helper calls.
    unsafe { bpf_loop(PROBES * 2, probe as *mut c_void, core::ptr::null_mut(), 0) };
    if search.found == 0 {
        maps::count(Reason::NoPort);
        return None;
    }
    Some(search.there)
}

/// One turn: 1 ends the loop. In the second half also ports of flows that have ended are taken, rather than none: there may be
/// many short connections to one peer.
extern "C" fn probe(turn: u32, _: *mut c_void) -> i64 {
    let Some(search) = nat::search() else { return 1 };
    let port = candidate(search.beginning, turn % PROBES);
    search.there.to.set_source_port(port);
    search.reply.set_destination_port(port);
    if turn >= PROBES && !is_free(&search.reply, &search.back.to) {
        return 0;
    }
    let claimed = write(search);
    search.found = u32::from(claimed);
    i64::from(claimed)
}

/// Inserts both entries, unless the reply's is somebody's already.
#[inline(always)]
fn insert(flow: &Flow, leaves: Flow, links: (u32, u32), backend: (u32, u32)) -> Option<Translation> {
    let search = prepare(flow, leaves, links, backend)?;
    write(search).then_some(search.there)
}

/// Both entries, not on the stack.
#[inline(always)]
fn prepare(
    flow: &Flow,
    leaves: Flow,
    links: (u32, u32),
    backend: (u32, u32),
) -> Option<&'static mut nat::Search> {
    let search = nat::search()?;
    [(search.key, search.there), (search.reply, search.back)] = pair(*flow, leaves, links, backend, now());
    Some(search)
}

/// The reply's entry first: it claims the port.
#[inline(always)]
fn write(search: &nat::Search) -> bool {
    nat::insert(&search.reply, &search.back, u64::from(BPF_NOEXIST)).is_ok()
        && nat::insert(&search.key, &search.there, 0).is_ok()
}

/// Seconds since boot, time asleep left out. The clock of the last tick (Linux 5.11): no other costs so little.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper has no conditions.
    let nanoseconds = unsafe { bpf_ktime_get_coarse_ns() };
    (nanoseconds / 1_000_000_000) as u32 & !CLOSING
}
