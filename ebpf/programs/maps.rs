//! All maps, and typed look-ups over them. Programs never name a static.

use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use oarlock_ebpf::affinity::{
    Affinity, AffinityKey, Member, SourceRange, source_range, source_range_bits, source_range6,
    source_range6_bits,
};
use oarlock_ebpf::flow::PER_PACKET;
use oarlock_ebpf::layout::{Backend, Believed, FrontendKey, ServiceLine, SlotRange, SocketKey};
use oarlock_ebpf::maps::{
    MAX_AFFINITY, MAX_BACKENDS, MAX_MEMBERS, MAX_OPTED_OUT, MAX_SERVICES, MAX_SLOTS, MAX_SOCKETS,
    MAX_SOURCE_RANGES, TURNS, Turns,
};
use oarlock_ebpf::reason::Reason;

use crate::nat;

#[map]
static FRONTENDS: HashMap<FrontendKey, u32> = HashMap::with_max_entries(MAX_SERVICES, 0);
#[map]
static SERVICE_TABLE: Array<ServiceLine> = Array::with_max_entries(MAX_SERVICES, 0);
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(MAX_SLOTS, 0);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_BACKENDS, 0);
#[map]
static ROUND_ROBIN: PerCpuArray<Turns> = PerCpuArray::with_max_entries(MAX_SERVICES / TURNS, 0);
#[map]
static SOCKETS: LruHashMap<SocketKey, Believed> = LruHashMap::with_max_entries(MAX_SOCKETS, 0);
#[map]
static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(MAX_AFFINITY, 0);
#[map]
static MEMBERS: HashMap<Member, u32> = HashMap::with_max_entries(MAX_MEMBERS, 0);
#[map]
static SOURCE_RANGES: LpmTrie<SourceRange, u32> = LpmTrie::with_max_entries(MAX_SOURCE_RANGES, 0);
#[map]
static OPTED_OUT: HashMap<u64, u32> = HashMap::with_max_entries(MAX_OPTED_OUT, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Reason::COUNT, 0);

/// Counts an event on this CPU.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the element is this CPU's own, and programs are not migrated while they run.
        unsafe { *counter += 1 };
    }
}

/// Whether a pod is served packet by packet, by a key of [`oarlock_ebpf::opted_out`]. Nodes without such pods do not look.
#[inline(always)]
pub fn is_opted_out(key: u64) -> bool {
    // SAFETY: only whether it is there counts.
    nat::settings().is_some_and(|settings| settings.has(PER_PACKET))
        && unsafe { OPTED_OUT.get(key).is_some() }
}

/// The service behind a frontend.
#[inline(always)]
pub fn service(key: &FrontendKey) -> Option<u32> {
    // SAFETY: the index is copied at once; an entry that is being replaced holds one index or the other.
    unsafe { FRONTENDS.get(key).copied() }
}

/// The line of a service.
#[inline(always)]
pub fn line(service: u32) -> Option<&'static ServiceLine> {
    SERVICE_TABLE.get(service)
}

/// Published backends: one aligned word, read once.
#[inline(always)]
pub fn published(range: &'static SlotRange) -> SlotRange {
    // SAFETY: the pointer is into the array; a volatile read is one load, which a concurrent store cannot tear.
    unsafe { core::ptr::from_ref(range).read_volatile() }
}

/// The backend that a client had last.
#[inline(always)]
pub fn affinity(key: &AffinityKey) -> Option<*mut Affinity> {
    AFFINITY.get_ptr_mut(key)
}

/// Remembers a client's backend. A full table forgets the oldest.
#[inline(always)]
pub fn remember_affinity(key: &AffinityKey, affinity: &Affinity) {
    let _ = AFFINITY.insert(key, affinity, 0);
}

/// Whether a backend is one of a service with affinity.
#[inline(always)]
pub fn is_member(member: &Member) -> bool {
    // SAFETY: only whether it is there counts.
    unsafe { MEMBERS.get(member).is_some() }
}

/// Whether a client is in one of a service's source ranges.
#[inline(always)]
pub fn is_in_range(service: u64, client: [u8; 4]) -> bool {
    SOURCE_RANGES.get(Key::new(source_range_bits(32), source_range(service, client))).is_some()
}

/// The same of IPv6.
#[inline(always)]
pub fn is_in_range6(service: u64, client: [u8; 16]) -> bool {
    SOURCE_RANGES.get(Key::new(source_range6_bits(128), source_range6(service, client))).is_some()
}

/// The index of the backend in a slot.
#[inline(always)]
pub fn backend_index(slot: u32) -> Option<u32> {
    SLOTS.get(slot).copied()
}

/// The backend at an index.
#[inline(always)]
pub fn backend_at(index: u32) -> Option<&'static Backend> {
    BACKENDS.get(index)
}

/// The next turn of a service's round robin on this CPU.
#[inline(always)]
pub fn next_turn(service: u32) -> u32 {
    let Some(turns) = ROUND_ROBIN.get_ptr_mut(service / TURNS) else { return 0 };
    // SAFETY: the element is this CPU's own.
    let turn = unsafe { &mut (*turns)[(service % TURNS) as usize] };
    let present = *turn;
    *turn = present.wrapping_add(1);
    present
}

/// Remembers whom a socket's user believes to talk to. A full table forgets the oldest: that socket then sees its backend.
#[inline(always)]
pub fn remember(key: &SocketKey, believed: &Believed) {
    let _ = SOCKETS.insert(key, believed, 0);
}

/// Whom a socket's user believes to talk to.
#[inline(always)]
pub fn believed(key: &SocketKey) -> Option<Believed> {
    // SAFETY: the value is copied at once.
    unsafe { SOCKETS.get(key).copied() }
}
