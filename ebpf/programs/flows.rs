//! Flows: whose packet it is, and a new one its backend and its port. What to do with the packet is the hooks' business.
//!
//! A client's port may come again, to the same pod by another way (two Services, the pod's own address): entries of
//! connections that have ended give way, and where two are open at once the later one gets another source port.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_loop};
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::count::{OUTSIDE, Whose};
use oarlock_ebpf::flow::{
    ACK, CLOSING, EXTERNAL_CLUSTER_IP, Flow, LOCAL_POD, MASQUERADED, OPEN, PROBES, REPLY, RST, SYN, Settings,
    TCP, TUNNEL, Translation, candidate, has_closed, second_of, seen_at,
};
use oarlock_ebpf::fragment::Part;
use oarlock_ebpf::layout::{EXTERNAL, FrontendKey, MAGLEV, SOURCE_RANGES};
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::select;
use oarlock_ebpf::table::Mode;

use crate::choose::{self, Choice};
use crate::nat::Entry;
use crate::packet::Packet;
use crate::{count, maps, nat, watch, way};

/// The entry of the packet's flow, its clock advanced. A new connection on the entry of one that has ended is nobody's yet, and so is
/// whatever begins on one whose backend has left its Services.
#[inline(always)]
pub fn present(packet: &Packet, now: u32) -> Option<Entry> {
    let entry = nat::entry(&packet.flow)?;
    let found = &entry.translation;
    if may_begin(packet) {
        let gone = found.has_backend() && !is_current(found);
        if found.handed_to().is_some() {
            // Answers pass elsewhere: whoever has begun it ends it.
            if gone || found.seen & CLOSING != 0 {
                return None;
            }
        } else if packet.flow.protocol == TCP {
            let reply = found.to.reversed();
            // Another connection of the client's port may have taken the way back.
            let back = nat::peek(&reply).filter(|back| back.to == packet.flow.reversed())?;
            if gone || (found.has_backend() && has_closed(back.seen, Some(found.seen), now)) {
                nat::remove(&reply);
                return None;
            }
        } else if gone {
            return None;
        }
    }
    let seen = seen_at(found.seen, packet.flow.protocol, packet.flags, now);
    if seen != found.seen {
        entry.set_seen(seen);
    }
    // A reset ends both directions; the other one may never see a packet again. Nor may the other one of datagrams that are not answered.
    let said = if packet.flags & RST != 0 { CLOSING } else { 0 };
    let opened = if packet.flow.protocol == TCP { 0 } else { seen & !found.seen & OPEN };
    if said | opened != 0 {
        nat::mark(&found.to.reversed(), said | opened);
    }
    Some(entry)
}

/// Whether the flow's backend is still who it was when it was chosen.
#[inline(always)]
fn is_current(entry: &Translation) -> bool {
    Whose::of(entry).is_some_and(|whose| nat::is_current(whose.backend(), entry.generation))
}

/// What becomes of a packet that may be the first of a flow.
pub enum Begun {
    /// It is one of a Service's, and this is its translation: in the place of this CPU's search, until its next one.
    To(&'static Translation),
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
    if line.flags & EXTERNAL == 0 && !settings.has(EXTERNAL_CLUSTER_IP) {
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
) -> Option<&'static Translation> {
    let local = leaves.destination == settings.node || nat::kind_of(leaves.destination) == LOCAL_POD;
    if !local
        && settings.has(TUNNEL)
        && let Some(node) = nat::answers_itself(leaves.destination)
    {
        return hand_over(flow, leaves, node, chosen);
    }
    if local && let Some(entry) = keep(flow, leaves, (0, uplink), chosen) {
        return Some(entry);
    }
    // Also where the same client port already talks to this backend by another frontend: another port tells them apart.
    let (address, link) = if local { (flow.source, 0) } else { way::to(ctx, settings, &leaves, uplink) };
    claim(flow, leaves, address, (link, uplink), chosen)
}

/// The way to a backend whose node answers itself: one entry, as the answers do not come here.
#[inline(always)]
fn hand_over(flow: &Flow, leaves: Flow, node: [u8; 4], chosen: (u32, u32)) -> Option<&'static Translation> {
    let backend = (Whose::direct(chosen.0), chosen.1);
    let search = prepare(flow, leaves, (u32::from_ne_bytes(node), 0), backend)?;
    if nat::insert(&search.key, &search.there, Mode::Put) { Some(&search.there) } else { None }
}

/// A connection or datagram from outside to a pod's own address is translated only where its replies would be taken for
/// those of a Service.
#[inline(always)]
pub fn begin_direct(packet: &Packet) -> Option<&'static Translation> {
    let flow = &packet.flow;
    if !may_begin(packet) {
        return None;
    }
    let reply = flow.reversed();
    if let Some(entry) = nat::peek(&reply) {
        if entry.backend == REPLY && !is_free(&reply, &reply) {
            return claim(flow, *flow, flow.source, (0, 0), (MASQUERADED, 0));
        }
    } else if flow.protocol != TCP && !nat::is_near(flow.source) && !nat::settings()?.in_cluster(flow.source)
    {
        // The pod's answer must leave with the pod's address: a flow that is "translated" to itself.
        let same = Translation { to: reply, link: 0, backend: MASQUERADED, generation: 0, seen: now() };
        let _ = nat::insert(&reply, &same, Mode::Claim);
    }
    None
}

/// Whether the packet may be the first of its flow.
#[inline(always)]
pub fn may_begin(packet: &Packet) -> bool {
    packet.part != Part::Later && (packet.flow.protocol != TCP || packet.flags & (SYN | ACK) == SYN)
}

/// Whether a reply has no entry, after removing one that has ended or that is of the same connection.
#[inline(always)]
fn is_free(reply: &Flow, to: &Flow) -> bool {
    flows_free(reply, to) != 0
}

/// Global, see [`nat`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_free(reply: *const Flow, to: *const Flow) -> u32 {
    // SAFETY: what is not null is there.
    let (Some(reply), Some(to)) = (unsafe { reply.as_ref() }, unsafe { to.as_ref() }) else { return 0 };
    let Some(entry) = nat::peek(reply) else { return 1 };
    let free = entry.to == *to || {
        let there = nat::peek(&entry.to.reversed()).map(|there| there.seen);
        entry.backend == REPLY && has_closed(entry.seen, there, now())
    };
    if free {
        nat::remove(reply);
    }
    u32::from(free)
}

/// Gives the flow a source of this address, under a port that no other flow to the same peer has.
#[inline(always)]
pub fn claim(
    flow: &Flow,
    leaves: Flow,
    address: [u8; 4],
    links: (u32, u32),
    backend: (u32, u32),
) -> Option<&'static Translation> {
    // Port 0 until one is found.
    let search = prepare(flow, leaves.from(address, 0), links, backend)?;
    if flows_claim(0) == 0 {
        return None;
    }
    Some(&search.there)
}

/// The port of a search that is prepared. Global, see [`nat`]; such functions have a parameter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_claim(_: u32) -> u32 {
    let Some(search) = nat::search() else { return 0 };
    // SAFETY: the helper has no conditions.
    search.beginning = unsafe { bpf_get_prandom_u32() };
    // Mostly the first port is free.
    if attempt(search, 0) {
        return 1;
    }
    search.found = 0;
    // The kernel's loop (Linux 5.17): its verifier looks at one turn, not at all of them, which would take tenths of a second.
    // SAFETY: the callback has the signature that the helper calls.
    unsafe { bpf_loop(PROBES * 2, probe as *mut c_void, core::ptr::null_mut(), 0) };
    if search.found == 0 {
        maps::count(Reason::NoPort);
    }
    search.found
}

/// One turn: 1 ends the loop. In the second half also ports of flows that have ended are taken, rather than none: there may be
/// many short connections to one peer.
extern "C" fn probe(turn: u32, _: *mut c_void) -> i64 {
    let Some(search) = nat::search() else { return 1 };
    if turn >= PROBES {
        let port = candidate(search.beginning, turn % PROBES);
        search.reply.set_destination_port(port);
        if !is_free(&search.reply, &search.back.to) {
            return 0;
        }
    }
    let claimed = attempt(search, turn % PROBES);
    search.found = u32::from(claimed);
    i64::from(claimed)
}

/// Translates a flow and leaves it its source, unless another one's replies would be taken for its.
#[inline(always)]
pub fn keep(
    flow: &Flow,
    leaves: Flow,
    links: (u32, u32),
    backend: (u32, u32),
) -> Option<&'static Translation> {
    if is_free(&leaves.reversed(), &flow.reversed()) { insert(flow, leaves, links, backend) } else { None }
}

/// Tries the port of a turn.
#[inline(always)]
fn attempt(search: &mut nat::Search, turn: u32) -> bool {
    let port = candidate(search.beginning, turn);
    search.there.to.set_source_port(port);
    search.reply.set_destination_port(port);
    write(search)
}

/// Inserts both entries, unless the reply's is somebody's already.
#[inline(always)]
fn insert(flow: &Flow, leaves: Flow, links: (u32, u32), backend: (u32, u32)) -> Option<&'static Translation> {
    let search = prepare(flow, leaves, links, backend)?;
    if write(search) { Some(&search.there) } else { None }
}

/// Both entries ([`oarlock_ebpf::flow::pair`]), not on the stack: field by field, or the compiler makes them there first.
#[inline(always)]
fn prepare(
    flow: &Flow,
    leaves: Flow,
    links: (u32, u32),
    backend: (u32, u32),
) -> Option<&'static mut nat::Search> {
    let search = nat::search()?;
    search.key = *flow;
    search.there.to = leaves;
    search.there.link = links.0;
    search.there.backend = backend.0;
    search.there.generation = backend.1;
    search.there.seen = now();
    search.reply = leaves.reversed();
    search.back = search.there.answer(flow, links.1);
    Some(search)
}

/// The reply's entry first: it claims the port. Of two that cannot both be written none is kept.
#[inline(always)]
fn write(search: &nat::Search) -> bool {
    if !nat::insert(&search.reply, &search.back, Mode::Claim) {
        return false;
    }
    let written = nat::insert(&search.key, &search.there, Mode::Put);
    if !written {
        nat::remove(&search.reply);
    }
    written
}

/// Seconds since boot, time asleep left out. The clock of the last tick (Linux 5.11): no other costs so little.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper has no conditions.
    second_of(unsafe { bpf_ktime_get_coarse_ns() })
}
