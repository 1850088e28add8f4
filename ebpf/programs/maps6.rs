//! Maps of IPv6, and typed look-ups over them: as [`crate::maps`] and [`crate::nat`]. Programs never name a static.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use oarlock_ebpf::affinity::AffinityKey;
use oarlock_ebpf::flow::{Owner, TCP};
use oarlock_ebpf::flow6::{Flow6, Settings6, Translation6};
use oarlock_ebpf::fragment::Datagram6;
use oarlock_ebpf::layout::{Believed6, FrontendKey6, SocketKey6};
use oarlock_ebpf::maps::{MAX_ADDRESSES, MAX_FLOWS6, MAX_FRAGMENTS, MAX_SERVICES, MAX_SOCKETS};

use crate::packet6::Header;
use crate::{frame6, packet};

#[map]
static FRONTENDS6: HashMap<FrontendKey6, u32> = HashMap::with_max_entries(MAX_SERVICES, 0);
#[map]
static SOCKETS6: LruHashMap<SocketKey6, Believed6> = LruHashMap::with_max_entries(MAX_SOCKETS, 0);
#[map]
static SETTINGS6: Array<Settings6> = Array::with_max_entries(1, 0);
#[map]
static ADDRESSES6: HashMap<[u8; 16], Owner> = HashMap::with_max_entries(MAX_ADDRESSES, 0);
#[map]
static FLOWS6_TCP: LruHashMap<Flow6, Translation6> = LruHashMap::with_max_entries(MAX_FLOWS6, 0);
#[map]
static FLOWS6_OTHER: LruHashMap<Flow6, Translation6> = LruHashMap::with_max_entries(MAX_FLOWS6, 0);
#[map]
static FRAGMENTS6: LruHashMap<Datagram6, [u8; 4]> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);
#[map]
static PROGRAMS6: ProgramArray = ProgramArray::with_max_entries(4, 0);
#[map]
static EXPRESS6: ProgramArray = ProgramArray::with_max_entries(1, 0);
#[map]
static WORK6: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// A packet and what becomes of it. Not on the stack, of which these addresses would take too much.
#[repr(C)]
pub struct Work {
    /// The packet's flow.
    pub flow: Flow6,
    /// Its translation.
    pub entry: Translation6,
    /// The packet as it leaves, while that is looked for.
    pub leaves: Flow6,
    /// What its answers look like, and theirs.
    pub reply: Flow6,
    pub back: Translation6,
    /// The packet as policies see it: as the pod sends or gets it.
    pub judged: Flow6,
    /// Another flow that is looked for.
    pub key: Flow6,
    pub header: Header,
    /// The header of a packet that an error quotes.
    pub quoted: Header,
    pub datagram: Datagram6,
    /// Where its client knocks, and who that is.
    pub frontend: FrontendKey6,
    pub client: AffinityKey,
    /// Of a search for a source port.
    pub beginning: u32,
    pub found: u32,
}

/// This CPU's: programs on packets run one after the other there.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the element is this CPU's own.
    WORK6.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// Hands a packet of IPv6 on to the program for it. Comes back with whether it should have, if there is none.
#[inline(always)]
pub fn hand_on(ctx: &TcContext, program: u32) -> bool {
    if !packet::is_ipv6(ctx) {
        return false;
    }
    // SAFETY: the programs there are of tc too.
    unsafe { PROGRAMS6.tail_call(ctx, program) };
    true
}

/// The same of a frame of XDP. Comes back if it is none of IPv6, or if there is no program.
#[inline(always)]
pub fn hand_on_express(ctx: &XdpContext) {
    if frame6::is_ipv6(ctx) {
        // SAFETY: the program there is of XDP too.
        unsafe { EXPRESS6.tail_call(ctx, 0) };
    }
}

/// The service behind a frontend.
#[inline(always)]
pub fn service(key: &FrontendKey6) -> Option<u32> {
    // SAFETY: the index is copied at once; an entry that is being replaced holds one index or the other.
    unsafe { FRONTENDS6.get(key).copied() }
}

/// Remembers whom a socket's user believes to talk to. A full table forgets the oldest: that socket then sees its backend.
#[inline(always)]
pub fn remember(key: &SocketKey6, believed: &Believed6) {
    let _ = SOCKETS6.insert(key, believed, 0);
}

/// Whom a socket's user believes to talk to.
#[inline(always)]
pub fn believed(key: &SocketKey6) -> Option<Believed6> {
    // SAFETY: the value is copied at once.
    unsafe { SOCKETS6.get(key).copied() }
}

/// What the node is; nothing where it has no IPv6, or before the agent has said so.
#[inline(always)]
pub fn settings() -> Option<&'static Settings6> {
    SETTINGS6.get(0).filter(|settings| settings.node != [0; 16])
}

/// Whose address it is.
#[inline(always)]
pub fn owner(address: &[u8; 16]) -> Option<Owner> {
    // SAFETY: the value is copied at once; the agent replaces values whole.
    unsafe { ADDRESSES6.get(address).copied() }
}

/// What kind of address it is: 0 nobody's that we know.
#[inline(always)]
pub fn kind_of(address: &[u8; 16]) -> u32 {
    // SAFETY: one word is read.
    unsafe { ADDRESSES6.get(address).map_or(0, |owner| owner.kind) }
}

/// The entry of a flow. Two tables, so that datagrams cannot push connections out.
#[inline(always)]
pub fn entry(flow: &Flow6) -> Option<*mut Translation6> {
    if flow.protocol == TCP { FLOWS6_TCP.get_ptr_mut(flow) } else { FLOWS6_OTHER.get_ptr_mut(flow) }
}

/// Writes an entry.
#[inline(always)]
pub fn insert(flow: &Flow6, translation: &Translation6, flags: u64) -> bool {
    if flow.protocol == TCP {
        FLOWS6_TCP.insert(flow, translation, flags).is_ok()
    } else {
        FLOWS6_OTHER.insert(flow, translation, flags).is_ok()
    }
}

/// Removes an entry. That it is gone already is as good.
#[inline(always)]
pub fn remove(flow: &Flow6) {
    let _ = if flow.protocol == TCP { FLOWS6_TCP.remove(flow) } else { FLOWS6_OTHER.remove(flow) };
}

/// Remembers the ports of a datagram for its other fragments.
#[inline(always)]
pub fn remember_ports(datagram: &Datagram6, ports: [u8; 4]) {
    let _ = FRAGMENTS6.insert(datagram, ports, 0);
}

/// The ports that the first fragment of a datagram had; nothing before that has come.
#[inline(always)]
pub fn ports(datagram: &Datagram6) -> Option<[u8; 4]> {
    // SAFETY: the value is copied at once.
    unsafe { FRAGMENTS6.get(datagram).copied() }
}
