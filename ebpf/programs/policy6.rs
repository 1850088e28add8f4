//! NetworkPolicies for packets of IPv6: as [`crate::policy`], whose pods and rules they are. The flow to judge is in [`Work::judged`].

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::event::TC;
use oarlock_ebpf::flow::{ACK, CLOSING, FIN, RST, SYN, TCP};
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::maps::{MAX_ALLOWED, MAX_IDENTITIES};
use oarlock_ebpf::policy::{
    ANYBODY, Allowed, EGRESS, INGRESS, NOBODY, ONE_PORT, Rule, judged6, rule, stays_on_link,
};
use oarlock_ebpf::reason::Reason;

use crate::maps6::{self, Work};
use crate::packet6::{self, LENGTH};
use crate::policy::{has_rule, isolation, revision};
use crate::watch::{self, Seen6};
use crate::{flows, icmp6, maps, packet};

#[map]
static IDENTITIES6: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_IDENTITIES, 0);
#[map]
static ALLOWED6: LruHashMap<Flow6, Allowed> = LruHashMap::with_max_entries(MAX_ALLOWED, 0);

const SCTP: u8 = 132;

/// Whether the packet of [`Work::judged`], with these flags of TCP, may come to the pod behind a link.
#[inline(always)]
pub fn may_enter(link: u32, flags: u8) -> bool {
    revision() == 0 || judge(link, u32::from(INGRESS) << 8 | u32::from(flags)) != 0
}

/// Whether it may leave that pod.
#[inline(always)]
pub fn may_leave(link: u32, flags: u8) -> bool {
    revision() == 0 || judge(link, u32::from(EGRESS) << 8 | u32::from(flags)) != 0
}

/// Takes a packet of any other protocol, with headers that nobody looks behind, or of unknown ports for what is to be judged: without ports,
/// but for SCTP (RFC 9260 3: they are where TCP's are). False: it is an error, which always passes.
#[inline(always)]
pub fn take_other(ctx: &TcContext, work: &mut Work) -> bool {
    if icmp6::is_error(ctx, work) {
        return false;
    }
    let next = work.header.next;
    let ports = if next == SCTP { ctx.load(packet::IP + LENGTH).unwrap_or_default() } else { [0; 4] };
    work.judged = packet6::flow(&work.header, next, ports);
    true
}

/// A connection, in the direction in which it would have begun, and what holds there.
#[repr(C)]
struct Case {
    key: Flow6,
    rule: Key<Rule>,
    peer: Key<[u8; 16]>,
    allowed: Allowed,
    number: u32,
    revision: u32,
    flags: u8,
}
#[map]
static CASE6: PerCpuArray<Case> = PerCpuArray::with_max_entries(1, 0);

/// Judges a packet at a pod's link: not 0 if it may pass. `how` is the direction, then TCP's flags in the low byte.
#[inline(never)]
fn judge(link: u32, how: u32) -> u32 {
    let Some(isolation) = isolation(link) else { return 1 };
    let Some(work) = maps6::work() else { return 1 };
    // SAFETY: the element is this CPU's own, and programs are not migrated while they run.
    let Some(case) = CASE6.get_ptr_mut(0).map(|case| unsafe { &mut *case }) else { return 1 };
    let (direction, flags) = ((how >> 8) as u8, how as u8);
    let flow = &work.judged;
    let (is_own, other) = if direction == EGRESS {
        // Neighbours are asked for by other addresses than the pod's, too.
        if stays_on_link(&flow.destination) {
            return 1;
        }
        // Somebody else's address would be judged as somebody else's.
        if flow.source != isolation.address6 {
            return deny(flow);
        }
        (maps6::settings().is_some_and(|settings| settings.node == flow.destination), INGRESS)
    } else {
        (flow.source == flow.destination, EGRESS)
    };
    if is_own {
        return 1;
    }
    case.flags = flags;
    case.revision = revision();
    // The answer to what began in the other direction.
    case.key = judged6(flow.reversed(), other);
    case.number = isolation.number(other);
    if is_remembered(case, other) {
        return 1;
    }
    case.key = judged6(*flow, direction);
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

/// Whether the connection was allowed before, and is still.
#[inline(always)]
fn is_remembered(case: &mut Case, direction: u8) -> bool {
    let Some(entry) = ALLOWED6.get_ptr_mut(&case.key) else { return false };
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
    let _ = ALLOWED6.remove(&case.key);
    false
}

#[inline(always)]
fn remember(case: &mut Case, seen: u32) {
    case.allowed = Allowed::new(case.revision, case.number, seen);
    let _ = ALLOWED6.insert(&case.key, &case.allowed, u64::from(BPF_ANY));
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
    case.peer = Key::new(128, peer);
    let identity = IDENTITIES6.get(&case.peer).copied().unwrap_or(NOBODY);
    if identity == NOBODY {
        return false;
    }
    case.rule = Key::new(ONE_PORT, rule(case.number, identity, protocol, port));
    has_rule(&case.rule)
}

#[inline(always)]
fn deny(flow: &Flow6) -> u32 {
    maps::count(Reason::PolicyDenied);
    watch::lost6(&Seen6 { hook: TC, flow, service: 0, cgroup: 0 }, Reason::PolicyDenied);
    0
}
