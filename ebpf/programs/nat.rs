//! Maps of the packet path, and typed look-ups over them. Programs never name a static.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use oarlock_ebpf::flow::{Flow, Owner, Settings, TCP, Translation};
use oarlock_ebpf::fragment::Datagram;
use oarlock_ebpf::maps::{MAX_ADDRESSES, MAX_FLOWS, MAX_FRAGMENTS};

use crate::maps;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static ADDRESSES: HashMap<[u8; 4], Owner> = HashMap::with_max_entries(MAX_ADDRESSES, 0);
#[map]
static FLOWS_TCP: LruHashMap<Flow, Translation> = LruHashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static FLOWS_OTHER: LruHashMap<Flow, Translation> = LruHashMap::with_max_entries(MAX_FLOWS, 0);
#[map]
static FRAGMENTS: LruHashMap<Datagram, [u8; 4]> = LruHashMap::with_max_entries(MAX_FRAGMENTS, 0);

/// A search for a source port, as far as it is. Not on the stack, of which two functions have too little.
#[repr(C)]
pub struct Search {
    pub key: Flow,
    pub there: Translation,
    pub reply: Flow,
    pub back: Translation,
    pub beginning: u32,
    pub found: u32,
}
#[map]
static SEARCH: PerCpuArray<Search> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's search: programs on packets run one after the other there.
#[inline(always)]
pub fn search() -> Option<&'static mut Search> {
    // SAFETY: the element is this CPU's own.
    SEARCH.get_ptr_mut(0).map(|search| unsafe { &mut *search })
}

/// What the node is; nothing before the agent has said so.
#[inline(always)]
pub fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0).filter(|settings| settings.node != [0; 4])
}

/// Whose address it is.
#[inline(always)]
pub fn owner(address: [u8; 4]) -> Option<Owner> {
    // SAFETY: the value is copied at once; the agent replaces values whole.
    unsafe { ADDRESSES.get(address).copied() }
}

/// What kind of address it is: 0 nobody's that we know.
#[inline(always)]
pub fn kind_of(address: [u8; 4]) -> u32 {
    // SAFETY: one word is read.
    unsafe { ADDRESSES.get(address).map_or(0, |owner| owner.kind) }
}

/// The entry of a flow. Two tables, so that datagrams cannot push connections out.
#[inline(always)]
pub fn entry(flow: &Flow) -> Option<*mut Translation> {
    if flow.protocol == TCP { FLOWS_TCP.get_ptr_mut(flow) } else { FLOWS_OTHER.get_ptr_mut(flow) }
}

/// Writes an entry.
#[inline(always)]
pub fn insert(flow: &Flow, translation: &Translation, flags: u64) -> Result<(), i32> {
    if flow.protocol == TCP {
        FLOWS_TCP.insert(flow, translation, flags)
    } else {
        FLOWS_OTHER.insert(flow, translation, flags)
    }
}

/// Whether an index still holds the backend that it held when it was chosen.
#[inline(always)]
pub fn is_current(index: u32, generation: u32) -> bool {
    maps::backend_at(index).is_some_and(|backend| backend.generation() == generation)
}

/// Removes an entry. That it is gone already is as good.
#[inline(always)]
pub fn remove(flow: &Flow) {
    let _ = if flow.protocol == TCP { FLOWS_TCP.remove(flow) } else { FLOWS_OTHER.remove(flow) };
}

/// Remembers the ports of a datagram for its other fragments.
#[inline(always)]
pub fn remember_ports(datagram: &Datagram, ports: [u8; 4]) {
    let _ = FRAGMENTS.insert(datagram, ports, 0);
}

/// The ports that the first fragment of a datagram had; nothing before that has come.
#[inline(always)]
pub fn ports(datagram: &Datagram) -> Option<[u8; 4]> {
    // SAFETY: the value is copied at once.
    unsafe { FRAGMENTS.get(datagram).copied() }
}
