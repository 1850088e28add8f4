//! NetworkPolicies: whether a packet may come to a pod of this node, or leave one.
//!
//! A connection is judged at its first packet and remembered; its answers pass. What the node itself sends to its pods, and they
//! to it, always passes, as do a pod's packets to itself and ICMP errors. Who is denied hears nothing.

use aya_ebpf::bindings::{BPF_ANY, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::event::TC;
use oarlock_ebpf::flow::{ACK, CLOSING, FIN, Flow, RST, SYN, TCP};
use oarlock_ebpf::flow6::POD_IN;
use oarlock_ebpf::maps::{MAX_ALLOWED, MAX_IDENTITIES, MAX_ISOLATED, MAX_RULES};
use oarlock_ebpf::opted_out;
use oarlock_ebpf::policy::{
    ANYBODY, Allowed, EGRESS, INGRESS, Isolation, NOBODY, ONE_PORT, Rule, judged, rule,
};
use oarlock_ebpf::reason::Reason;

use crate::packet::{self, IP};
use crate::watch::{self, Seen};
use crate::{flows, forward, maps, maps6, nat};

#[map]
static ISOLATED: HashMap<u32, Isolation> = HashMap::with_max_entries(MAX_ISOLATED, 0);
#[map]
static IDENTITIES: LpmTrie<[u8; 4], u32> = LpmTrie::with_max_entries(MAX_IDENTITIES, 0);
#[map]
static RULES: LpmTrie<Rule, u32> = LpmTrie::with_max_entries(MAX_RULES, 0);
#[map]
static ALLOWED: LruHashMap<Flow, Allowed> = LruHashMap::with_max_entries(MAX_ALLOWED, 0);
#[map]
static POLICIES: Array<u32> = Array::with_max_entries(2, 0);

const ICMP: u8 = 1;
const SCTP: u8 = 132;
/// Types of ICMP that report errors (RFC 792).
const ERRORS: [u8; 3] = [3, 11, 12];

/// What comes to a pod by the node's stack: what `deliver` leaves to the routes. Attached to links of isolated pods, and of those
/// that are served packet by packet: the node's own processes may be their Services' backends.
#[classifier]
pub fn pod_ingress(ctx: TcContext) -> i32 {
    let link = packet::link(&ctx);
    let opted_out = maps::is_opted_out(opted_out::of_link(link));
    let is_nodes = packet::from_link(&ctx) == 0;
    if is_nodes && !opted_out {
        return TC_ACT_UNSPEC;
    }
    if maps6::hand_on(&ctx, POD_IN) {
        return if is_nodes { TC_ACT_UNSPEC } else { TC_ACT_SHOT };
    }
    if is_nodes {
        return forward::answer_of_node(&ctx);
    }
    let Some(header) = packet::header(&ctx) else { return TC_ACT_UNSPEC };
    match packet::read(&ctx, &header) {
        Some(mut packet) => {
            if opted_out {
                forward::as_judged(&mut packet.flow);
            }
            verdict(may_enter(link, &packet.flow, packet.flags))
        }
        None => verdict(other_may_enter(&ctx, link, &header)),
    }
}

#[inline(always)]
fn verdict(allowed: bool) -> i32 {
    if allowed { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

/// Whether a packet of TCP or UDP may come to the pod behind a link.
#[inline(always)]
pub fn may_enter(link: u32, flow: &Flow, flags: u8) -> bool {
    revision() == 0 || judge(link, flow, u32::from(INGRESS) << 8 | u32::from(flags)) != 0
}

/// Whether one may leave the pod behind a link.
#[inline(always)]
pub fn may_leave(link: u32, flow: &Flow, flags: u8) -> bool {
    revision() == 0 || judge(link, flow, u32::from(EGRESS) << 8 | u32::from(flags)) != 0
}

/// Whether a packet of any other protocol, or a fragment of unknown ports, may come to the pod behind a link.
#[inline(always)]
pub fn other_may_enter(ctx: &TcContext, link: u32, header: &[u8; 20]) -> bool {
    revision() == 0 || is_error(ctx, header) || may_enter(link, &other(ctx, header), 0)
}

/// Whether one may leave it.
#[inline(always)]
pub fn other_may_leave(ctx: &TcContext, link: u32, header: &[u8; 20]) -> bool {
    revision() == 0 || is_error(ctx, header) || may_leave(link, &other(ctx, header), 0)
}

#[inline(always)]
fn is_error(ctx: &TcContext, header: &[u8; 20]) -> bool {
    header[9] == ICMP && ctx.load(IP + packet::length(header)).is_ok_and(|kind: u8| ERRORS.contains(&kind))
}

/// Its flow: without ports, but for SCTP (RFC 9260 3: they are where TCP's are).
#[inline(always)]
fn other(ctx: &TcContext, header: &[u8; 20]) -> Flow {
    let ports =
        if header[9] == SCTP { ctx.load(IP + packet::length(header)).unwrap_or_default() } else { [0; 4] };
    packet::flow(header, ports)
}

/// What holds for the pod behind a link; none: no policy selects it.
#[inline(always)]
pub fn isolation(link: u32) -> Option<&'static Isolation> {
    // SAFETY: only words of it are read, one by one; the agent replaces values whole.
    unsafe { ISOLATED.get(link) }
}

/// Whether the rules have one that this key matches.
#[inline(always)]
pub fn has_rule(key: &Key<Rule>) -> bool {
    RULES.get(key).is_some()
}

/// The revision of all policies; 0: there are none.
#[inline(always)]
pub fn revision() -> u32 {
    POLICIES.get(0).copied().unwrap_or(0)
}

/// Judges a packet at a pod's link: not 0 if it may pass. `how` is the direction, then TCP's flags in the low byte.
///
/// A function of its own, so that programs which use it twice hold it once.
#[inline(never)]
fn judge(link: u32, flow: &Flow, how: u32) -> u32 {
    let Some(isolation) = isolation(link) else { return 1 };
    // SAFETY: the element is this CPU's own, and programs are not migrated while they run.
    let Some(case) = CASE.get_ptr_mut(0).map(|case| unsafe { &mut *case }) else { return 1 };
    let (direction, flags) = ((how >> 8) as u8, how as u8);
    let (is_own, other) = if direction == EGRESS {
        // Somebody else's address would be judged as somebody else's.
        if flow.source != isolation.address {
            return deny(flow);
        }
        (is_node(flow.destination), INGRESS)
    } else {
        (flow.source == flow.destination, EGRESS)
    };
    if is_own {
        return 1;
    }
    case.flags = flags;
    case.revision = revision();
    // The answer to what began in the other direction.
    case.key = judged(flow.reversed(), other);
    case.number = isolation.number(other);
    if is_remembered(case, other) {
        return 1;
    }
    case.key = judged(*flow, direction);
    case.number = isolation.number(direction);
    if is_remembered(case, direction) {
        return 1;
    }
    if !is_allowed(case, direction) {
        return deny(flow);
    }
    if flow.protocol != TCP || flags & (SYN | ACK) == SYN {
        remember(case, flows::now());
    }
    1
}

/// A connection, in the direction in which it would have begun, and what holds there. Not on the stack, of which programs that
/// come here have little left.
#[repr(C)]
struct Case {
    key: Flow,
    rule: Key<Rule>,
    peer: Key<[u8; 4]>,
    allowed: Allowed,
    number: u32,
    revision: u32,
    flags: u8,
}
#[map]
static CASE: PerCpuArray<Case> = PerCpuArray::with_max_entries(1, 0);

/// Whether the connection was allowed before, and is still.
#[inline(always)]
fn is_remembered(case: &mut Case, direction: u8) -> bool {
    let Some(entry) = ALLOWED.get_ptr_mut(&case.key) else { return false };
    // SAFETY: the element lives in the map; it may be given to another connection while we look, in which case the clock of
    // that one is advanced: harmless.
    let (was_revision, was_number, was_seen) = unsafe { ((*entry).revision, (*entry).number, (*entry).seen) };
    let mut seen = flows::now() | (was_seen & CLOSING);
    if case.flags & (FIN | RST) != 0 {
        seen |= CLOSING;
    } else if case.flags & (SYN | ACK) == SYN {
        seen &= !CLOSING;
    }
    if was_revision == case.revision && was_number == case.number {
        if seen != was_seen {
            // SAFETY: as above; one aligned word.
            unsafe { (*entry).seen = seen };
        }
        return true;
    }
    if is_allowed(case, direction) {
        remember(case, seen);
        return true;
    }
    let _ = ALLOWED.remove(&case.key);
    false
}

#[inline(always)]
fn remember(case: &mut Case, seen: u32) {
    case.allowed = Allowed::new(case.revision, case.number, seen);
    let _ = ALLOWED.insert(&case.key, &case.allowed, u64::from(BPF_ANY));
}

/// Whether the rules allow it.
#[inline(always)]
fn is_allowed(case: &mut Case, direction: u8) -> bool {
    if case.number == 0 {
        return true;
    }
    let (protocol, port) = (case.key.protocol, case.key.destination_port());
    case.rule = Key::new(ONE_PORT, rule(case.number, ANYBODY, protocol, port));
    if has_rule(&case.rule) {
        return true;
    }
    let peer = if direction == EGRESS { case.key.destination } else { case.key.source };
    case.peer = Key::new(32, peer);
    let identity = IDENTITIES.get(&case.peer).copied().unwrap_or(NOBODY);
    if identity == NOBODY {
        return false;
    }
    case.rule = Key::new(ONE_PORT, rule(case.number, identity, protocol, port));
    has_rule(&case.rule)
}

#[inline(always)]
fn is_node(address: [u8; 4]) -> bool {
    nat::settings().is_some_and(|settings| settings.node == address)
}

#[inline(always)]
fn deny(flow: &Flow) -> u32 {
    maps::count(Reason::PolicyDenied);
    watch::lost(&Seen { hook: TC, flow, service: 0, cgroup: 0 }, Reason::PolicyDenied);
    0
}
