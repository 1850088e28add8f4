//! Flows of IPv6: as [`crate::flows`], in tables that forget who was silent longest. The packet's flow is in [`Work::flow`], its
//! translation comes into [`Work::entry`].

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_loop};
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::count::{OUTSIDE, Whose};
use oarlock_ebpf::flow::{
    ACK, CLOSING, EXTERNAL_CLUSTER_IP, LOCAL_POD, MASQUERADED, OPEN, PROBES, REPLY, RST, SYN, TCP, candidate,
    has_closed, seen_at,
};
use oarlock_ebpf::flow6::Translation6;
use oarlock_ebpf::fragment::Part;
use oarlock_ebpf::layout::{EXTERNAL, FrontendKey6, MAGLEV, SOURCE_RANGES};
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::select;

use crate::choose::{self, Choice};
use crate::flows::now;
use crate::maps6::{self, Work};
use crate::packet6::Packet;
use crate::watch::Seen6;
use crate::{count, maps, nat, watch, way6};

/// What becomes of a packet that may be the first of a flow.
pub enum Begun {
    /// It is one of a Service's, and its translation is there.
    To,
    /// It is none of ours.
    Nothing,
    /// Its client may not ask this Service.
    Denied,
}

/// What who looks is told of the packet, as one of a Service's port that is counted under this number.
#[inline(always)]
pub fn seen<'w>(work: &'w Work, packet: &Packet, service: u32) -> Seen6<'w> {
    Seen6 { hook: packet.hook, flow: &work.flow, service, cgroup: 0 }
}

/// Whether the packet's flow has an entry; its clock is advanced. A new connection on the entry of one that has ended is nobody's yet,
/// and so is whatever begins on one whose backend has left its Services.
#[inline(always)]
pub fn present(work: &mut Work, packet: &Packet) -> bool {
    let Some(entry) = maps6::entry(&work.flow) else { return false };
    // SAFETY: the element lives in the map; it may be given to another flow while we look, in which case the clock of
    // that flow is advanced: harmless.
    work.entry = unsafe { *entry };
    work.key = work.entry.to.reversed();
    if may_begin(work, packet) && is_over(work) {
        return false;
    }
    let found = work.entry.seen;
    let seen = seen_at(found, work.flow.protocol, packet.flags, now());
    if seen != found {
        // SAFETY: as above; one aligned word.
        unsafe { (*entry).seen = seen };
    }
    // A reset ends both directions; the other one may never see a packet again. Nor may the other one of datagrams that are not
    // answered.
    let said = if packet.flags & RST != 0 { CLOSING } else { 0 };
    let opened = if work.flow.protocol == TCP { 0 } else { seen & !found & OPEN };
    if said | opened != 0
        && let Some(other) = maps6::entry(&work.key)
    {
        // SAFETY: as above.
        unsafe { (*other).seen |= said | opened };
    }
    true
}

/// Whether what begins on the flow's entry is not of it any more. The reply's entry of such a connection goes.
#[inline(always)]
fn is_over(work: &mut Work) -> bool {
    let gone = work.entry.has_backend() && !is_current(&work.entry);
    if work.flow.protocol != TCP {
        return gone;
    }
    // Another connection of the client's port may have taken the way back.
    let Some(back) = maps6::entry(&work.key) else { return true };
    work.reply = work.flow.reversed();
    // SAFETY: the element lives in the map; whosever it is by now, its words are read one by one.
    let (same, seen) = unsafe { ((*back).to == work.reply, (*back).seen) };
    if !same {
        return true;
    }
    let over = gone || work.entry.has_backend() && has_closed(seen, Some(work.entry.seen), now());
    if over {
        maps6::remove(&work.key);
    }
    over
}

/// Whether the flow's backend is still who it was when it was chosen.
#[inline(always)]
fn is_current(entry: &Translation6) -> bool {
    Whose::of(&entry.whose()).is_some_and(|whose| nat::is_current(whose.backend(), entry.generation))
}

/// Whether the packet may be the first of its flow.
#[inline(always)]
pub fn may_begin(work: &Work, packet: &Packet) -> bool {
    packet.part != Part::Later && (work.flow.protocol != TCP || packet.flags & (SYN | ACK) == SYN)
}

/// The backend of a new connection or of a datagram to a frontend, that came by this uplink.
#[inline(always)]
pub fn begin(ctx: *mut c_void, work: &mut Work, packet: &Packet, uplink: u32) -> Begun {
    if !may_begin(work, packet) {
        return Begun::Nothing;
    }
    let (client, port) = (work.flow.source, work.flow.source_port());
    work.frontend =
        FrontendKey6::new(work.flow.destination, work.flow.destination_port(), work.flow.protocol);
    let Some(service) = maps6::service(&work.frontend) else { return Begun::Nothing };
    let Some(line) = maps::line(service) else { return Begun::Nothing };
    let answers_outsiders = nat::settings().is_some_and(|settings| settings.has(EXTERNAL_CLUSTER_IP));
    if line.flags & EXTERNAL == 0 && !answers_outsiders {
        return Begun::Nothing;
    }
    if line.flags & SOURCE_RANGES != 0 && !maps::is_in_range6(line.service, client) {
        maps::count(Reason::Denied);
        count::dropped(line.counted, Reason::Denied);
        watch::lost6(&seen(work, packet, line.counted), Reason::Denied);
        return Begun::Denied;
    }
    work.client = AffinityKey::outside6(client, line.service);
    let range = maps::published(&line.outside);
    let choice =
        if line.flags & MAGLEV == 0 { Choice::InTurn } else { Choice::By(select::of_client6(client, port)) };
    let (index, backend) = match choose::backend(service, line, range, &work.client, choice) {
        Ok(chosen) => chosen,
        Err(reason) => {
            // Of a Service without endpoints the stack has no socket either, and says so with RST or ICMP.
            maps::count(reason);
            count::dropped(line.counted, reason);
            watch::lost6(&seen(work, packet, line.counted), reason);
            return Begun::Nothing;
        }
    };
    work.leaves = work.flow.to(backend.address6(), backend.port());
    maps::count(Reason::Translated);
    let whose = Whose::new(index, line.counted);
    if reach(ctx, work, uplink, (whose.word(), backend.generation())) {
        count::begun(whose, OUTSIDE);
        watch::begun6(&seen(work, packet, line.counted), &work.entry.to, Reason::Translated);
        return Begun::To;
    }
    count::dropped(line.counted, Reason::NoPort);
    watch::lost6(&seen(work, packet, line.counted), Reason::NoPort);
    Begun::Nothing
}

/// The way to a backend: one of this node, a pod or the node itself, sees the client, others this node.
#[inline(always)]
fn reach(ctx: *mut c_void, work: &mut Work, uplink: u32, chosen: (u32, u32)) -> bool {
    let Some(settings) = maps6::settings() else { return false };
    let backend = &work.leaves.destination;
    let local = *backend == settings.node || maps6::kind_of(backend) == LOCAL_POD;
    if local {
        // Where the same client port already talks to this backend by another frontend, another port tells them apart.
        return keep(work, (0, uplink), chosen) || claim(work, (0, uplink), chosen);
    }
    let (address, link) = way6::to(ctx, work, settings, uplink);
    work.leaves = work.leaves.from(*address, 0);
    claim(work, (link, uplink), chosen)
}

/// A connection or datagram from outside to a pod's own address is translated only where its replies would be taken for
/// those of a Service.
#[inline(always)]
pub fn begin_direct(work: &mut Work, packet: &Packet) -> bool {
    if !may_begin(work, packet) {
        return false;
    }
    // As if it were to be translated to itself.
    work.leaves = work.flow;
    prepare(work, (0, 0), (MASQUERADED, 0));
    if let Some(entry) = maps6::entry(&work.reply) {
        // SAFETY: the element lives in the map; whosever it is by now, one word is read.
        let is_reply = unsafe { (*entry).backend == REPLY };
        return is_reply && !is_free(work) && claim(work, (0, 0), (MASQUERADED, 0));
    }
    if work.flow.protocol != TCP
        && maps6::kind_of(&work.flow.source) == 0
        && maps6::settings().is_some_and(|settings| !settings.in_cluster(&work.flow.source))
    {
        // The pod's answer must leave with the pod's address.
        work.back.backend = MASQUERADED;
        let _ = maps6::insert(&work.reply, &work.back, u64::from(BPF_NOEXIST));
    }
    false
}

/// Gives the flow's packets the node's address, as they leave the cluster.
#[inline(always)]
pub fn masquerade(work: &mut Work, node: &[u8; 16]) -> bool {
    work.leaves = work.flow.from(*node, 0);
    claim(work, (0, 0), (MASQUERADED, 0))
}

/// Both entries of a flow that leaves as is said in [`Work::leaves`].
#[inline(always)]
fn prepare(work: &mut Work, links: (u32, u32), backend: (u32, u32)) {
    let seen = now();
    work.entry =
        Translation6 { to: work.leaves, link: links.0, backend: backend.0, generation: backend.1, seen };
    let generation = if work.entry.has_backend() { backend.0 } else { 0 };
    work.back = Translation6 { to: work.flow.reversed(), link: links.1, backend: REPLY, generation, seen };
    work.reply = work.leaves.reversed();
}

/// Whether the reply has no entry, after removing one that has ended or that is of the same connection.
#[inline(always)]
fn is_free(work: &mut Work) -> bool {
    let Some(entry) = maps6::entry(&work.reply) else { return true };
    // SAFETY: the element lives in the map; whosever it is by now, its words are read one by one.
    let (same, backend, seen) = unsafe { ((*entry).to == work.back.to, (*entry).backend, (*entry).seen) };
    // SAFETY: as above.
    work.key = unsafe { (*entry).to.reversed() };
    // SAFETY: as above.
    let there = maps6::entry(&work.key).map(|entry| unsafe { (*entry).seen });
    let free = same || backend == REPLY && has_closed(seen, there, now());
    if free {
        maps6::remove(&work.reply);
    }
    free
}

/// Translates a flow and leaves it its source port, unless another one's replies would be taken for its.
#[inline(always)]
pub fn keep(work: &mut Work, links: (u32, u32), backend: (u32, u32)) -> bool {
    prepare(work, links, backend);
    is_free(work) && write(work)
}

/// Gives the flow a source port that no other flow to the same peer has.
#[inline(always)]
pub fn claim(work: &mut Work, links: (u32, u32), backend: (u32, u32)) -> bool {
    prepare(work, links, backend);
    work.found = 0;
    // SAFETY: the helper has no conditions.
    work.beginning = unsafe { bpf_get_prandom_u32() };
    // The kernel's loop (Linux 5.17): its verifier looks at one turn, not at all of them.
    // SAFETY: the callback has the signature that the helper calls.
    unsafe { bpf_loop(PROBES * 2, probe as *mut c_void, core::ptr::null_mut(), 0) };
    if work.found == 0 {
        maps::count(Reason::NoPort);
    }
    work.found != 0
}

/// One turn: 1 ends the loop. In the second half also ports of flows that have ended are taken, rather than none.
extern "C" fn probe(turn: u32, _: *mut c_void) -> i64 {
    let Some(work) = maps6::work() else { return 1 };
    let port = candidate(work.beginning, turn % PROBES);
    work.entry.to.set_source_port(port);
    work.reply.set_destination_port(port);
    if turn >= PROBES && !is_free(work) {
        return 0;
    }
    let claimed = write(work);
    work.found = u32::from(claimed);
    i64::from(claimed)
}

/// The reply's entry first: it claims the port. Of two that cannot both be written none is kept.
#[inline(always)]
fn write(work: &Work) -> bool {
    if !maps6::insert(&work.reply, &work.back, u64::from(BPF_NOEXIST)) {
        return false;
    }
    let written = maps6::insert(&work.flow, &work.entry, 0);
    if !written {
        maps6::remove(&work.reply);
    }
    written
}
