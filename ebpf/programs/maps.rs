//! All maps, and typed look-ups over them. Programs never name a static.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use oarlock_ebpf::layout::{Backend, Believed, FrontendKey, ServiceLine, SlotRange, SocketKey};
use oarlock_ebpf::maps::{MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS, MAX_SOCKETS};
use oarlock_ebpf::reason::Reason;

#[map]
static FRONTENDS: HashMap<FrontendKey, u32> = HashMap::with_max_entries(MAX_SERVICES, 0);
#[map]
static SERVICE_TABLE: Array<ServiceLine> = Array::with_max_entries(MAX_SERVICES, 0);
#[map]
static SLOTS: Array<u32> = Array::with_max_entries(MAX_SLOTS, 0);
#[map]
static BACKENDS: Array<Backend> = Array::with_max_entries(MAX_BACKENDS, 0);
#[map]
static ROUND_ROBIN: PerCpuArray<u32> = PerCpuArray::with_max_entries(MAX_SERVICES, 0);
#[map]
static SOCKETS: LruHashMap<SocketKey, Believed> = LruHashMap::with_max_entries(MAX_SOCKETS, 0);
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

/// The service behind a frontend.
#[inline(always)]
pub fn service(key: &FrontendKey) -> Option<u32> {
    // SAFETY: the index is copied at once; an entry that is being replaced holds one index or the other.
    unsafe { FRONTENDS.get(key).copied() }
}

/// The published backends of a service: one aligned word, read once.
#[inline(always)]
pub fn slots(service: u32) -> Option<SlotRange> {
    let line = SERVICE_TABLE.get_ptr(service)?;
    // SAFETY: the pointer is into the array; a volatile read is one load, which a concurrent store cannot tear.
    Some(unsafe { core::ptr::addr_of!((*line).slots).read_volatile() })
}

/// The backend in a slot.
#[inline(always)]
pub fn backend(slot: u32) -> Option<&'static Backend> {
    BACKENDS.get(*SLOTS.get(slot)?)
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
    match ROUND_ROBIN.get_ptr_mut(service) {
        // SAFETY: the element is this CPU's own.
        Some(turn) => unsafe {
            let present = *turn;
            *turn = present.wrapping_add(1);
            present
        },
        None => 0,
    }
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
