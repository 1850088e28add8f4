//! Maps of the packet path, and typed look-ups over them. Programs never name a static.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use oarlock_ebpf::flow::{Flow, LOCAL_POD, NODE, Owner, Settings, Translation, seconds};
use oarlock_ebpf::fragment::Datagram;
use oarlock_ebpf::maps::{FLOW_BUCKETS, MAX_ADDRESSES, MAX_DIRECT, MAX_FRAGMENTS};
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::table::{self, Bucket, Hop, Inserted, LINES, Line, Mode, Place, Snapshot};

use crate::maps;

#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
#[map]
static ADDRESSES: HashMap<[u8; 4], Owner> = HashMap::with_max_entries(MAX_ADDRESSES, 0);
#[map]
static DIRECT: LpmTrie<[u8; 4], [u8; 4]> = LpmTrie::with_max_entries(MAX_DIRECT, 0);
/// Mappable (BPF_F_MMAPABLE, include/uapi/linux/bpf.h) for its alignment: such arrays begin with a page, and lines are lines of the cache.
#[map]
static FLOWS: Array<Bucket> = Array::with_max_entries(FLOW_BUCKETS, 1 << 10);
#[map]
static FLOW_SEED: Array<u64> = Array::with_max_entries(1, 0);
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

/// Whether it is that of a pod of this node or of a node that knows pods' addresses.
#[inline(always)]
pub fn is_near(address: [u8; 4]) -> bool {
    matches!(kind_of(address), LOCAL_POD | NODE)
}

/// The node that answers for a pod of its own itself; none where answers have to come back here.
#[inline(always)]
pub fn answers_itself(pod: [u8; 4]) -> Option<[u8; 4]> {
    DIRECT.get(Key::new(32, pod)).copied()
}

/// A flow's line in the table, and what it says.
#[derive(Clone, Copy)]
pub struct Entry {
    line: *mut Line,
    bucket: *mut Bucket,
    pub version: u32,
    pub translation: Translation,
}

impl Entry {
    /// Advances its clock.
    #[inline(always)]
    pub fn set_seen(&self, seen: u32) {
        // SAFETY: the line is in the map.
        unsafe { table::set_seen(self.line, seen) }
    }

    /// Between whom its frames go on, in words, when that was so, and how long they may be.
    #[inline(always)]
    pub fn hop(&self) -> Option<([u32; 3], u16, u16)> {
        // SAFETY: as above.
        unsafe { table::hop(self.line, self.version) }
    }

    /// Remembers between whom its frames go on.
    #[inline(always)]
    pub fn set_hop(&self, hop: &Hop) {
        // SAFETY: as above, and so is the bucket.
        unsafe { table::set_hop(self.bucket, self.line, self.version, hop) }
    }
}

/// Where a flow is looked for.
#[inline(always)]
fn place(flow: &Flow) -> Place {
    Place::of(flow, FLOW_SEED.get(0).copied().unwrap_or(0), FLOW_BUCKETS)
}

/// The entry of a flow.
#[inline(always)]
pub fn entry(flow: &Flow) -> Option<Entry> {
    let place = place(flow);
    let bucket = FLOWS.get_ptr_mut(place.home)?;
    // SAFETY: the bucket is in the map, and is the flow's home.
    let line = unsafe { table::likely(bucket, &place) };
    if let Some(entry) = whole(bucket, line, flow) {
        return Some(entry);
    }
    // SAFETY: as above.
    if let Some(line) = unsafe { table::find(bucket, &place, flow) } {
        return whole(bucket, line, flow);
    }
    // SAFETY: as above.
    if !unsafe { table::has_spilled(bucket) } {
        return None;
    }
    let bucket = FLOWS.get_ptr_mut(place.other)?;
    // SAFETY: as above.
    let line = unsafe { table::find(bucket, &place, flow) }?;
    whole(bucket, line, flow)
}

#[inline(always)]
fn whole(bucket: *mut Bucket, line: *mut Line, flow: &Flow) -> Option<Entry> {
    // SAFETY: the line is in the map.
    let Snapshot { version, translation } = unsafe { table::read(line, flow) }?;
    Some(Entry { line, bucket, version, translation })
}

/// What the entry of a flow says. A function of its own, unlike [`entry`]: for what is seldom asked.
#[inline(always)]
pub fn peek(flow: &Flow) -> Option<Translation> {
    let mut found = NOTHING;
    if flows_peek(flow, &raw mut found) != 0 { Some(found) } else { None }
}

const NOTHING: Translation = Translation { to: Flow::NONE, link: 0, backend: 0, generation: 0, seen: 0 };

// Functions under a name of their own are global: the verifier looks at each once, whoever calls it from wherever
// (Documentation/bpf/verifier.rst), and does not know that their pointers are there.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_peek(flow: *const Flow, found: *mut Translation) -> u32 {
    // SAFETY: what is not null is there.
    let (Some(flow), Some(found)) = (unsafe { flow.as_ref() }, unsafe { found.as_mut() }) else { return 0 };
    let Some(entry) = entry(flow) else { return 0 };
    *found = entry.translation;
    1
}

/// Says something of a flow's connection: bits of [`Translation::seen`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_mark(flow: *const Flow, what: u32) -> u32 {
    // SAFETY: as above.
    let Some(entry) = unsafe { flow.as_ref() }.and_then(entry) else { return 0 };
    entry.set_seen(entry.translation.seen | what);
    1
}

/// See [`flows_mark`].
#[inline(always)]
pub fn mark(flow: &Flow, what: u32) {
    let _ = flows_mark(flow, what);
}

/// Whether an index still holds the backend that it held when it was chosen.
#[inline(always)]
pub fn is_current(index: u32, generation: u32) -> bool {
    generation != 0 && maps::backend_at(index).is_some_and(|backend| backend.generation() == generation)
}

/// Writes an entry. False: it could not be written.
#[inline(always)]
pub fn insert(flow: &Flow, translation: &Translation, mode: Mode) -> bool {
    flows_insert(flow, translation, u32::from(mode == Mode::Claim)) != 0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_insert(flow: *const Flow, translation: *const Translation, claim: u32) -> u32 {
    // SAFETY: as above.
    let (Some(flow), Some(translation)) = (unsafe { flow.as_ref() }, unsafe { translation.as_ref() }) else {
        return 0;
    };
    let place = place(flow);
    let (Some(home), Some(other)) = (FLOWS.get_ptr_mut(place.home), FLOWS.get_ptr_mut(place.other)) else {
        return 0;
    };
    let mode = if claim != 0 { Mode::Claim } else { Mode::Put };
    let now = seconds(translation.seen);
    // SAFETY: both buckets are in the map, and are those of the place.
    let inserted = unsafe {
        let dispensable = |bucket, least| flows_dispensable(bucket, least, now);
        table::insert((home, other), &place, (flow, translation), mode, dispensable)
    };
    match inserted {
        Inserted::Yes => return 1,
        Inserted::Taken => return 0,
        Inserted::Evicted => maps::count(Reason::FlowEvicted),
        Inserted::Full => maps::count(Reason::FlowTableFull),
    }
    u32::from(inserted == Inserted::Evicted)
}

/// A search for the line of a bucket that is missed least.
struct Missed {
    bucket: u32,
    now: u32,
    score: u32,
    at: u32,
}

/// See [`table::insert`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_dispensable(bucket: u32, least: u32, now: u32) -> u32 {
    let mut missed = Missed { bucket, now, score: least - 1, at: LINES as u32 };
    // The kernel's loop, whose verifier looks at one turn.
    // SAFETY: the callback has the signature that the helper calls, and the context lives until it returns.
    unsafe { bpf_loop(LINES as u32, compare as *mut c_void, (&raw mut missed).cast(), 0) };
    missed.at
}

extern "C" fn compare(at: u32, missed: *mut c_void) -> i64 {
    // SAFETY: the context of the loop.
    let missed = unsafe { &mut *missed.cast::<Missed>() };
    let Some(bucket) = FLOWS.get_ptr_mut(missed.bucket) else { return 1 };
    if at >= LINES as u32 {
        return 1;
    }
    // SAFETY: the bucket is in the map.
    let score = unsafe { table::dispensability_of(bucket, at, missed.now) };
    if score > missed.score {
        (missed.score, missed.at) = (score, at);
    }
    0
}

/// Removes an entry. That it is gone already is as good.
#[inline(always)]
pub fn remove(flow: &Flow) {
    let _ = flows_remove(flow);
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flows_remove(flow: *const Flow) -> u32 {
    // SAFETY: as above.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return 0 };
    let place = place(flow);
    let (Some(home), Some(other)) = (FLOWS.get_ptr_mut(place.home), FLOWS.get_ptr_mut(place.other)) else {
        return 0;
    };
    // SAFETY: both buckets are in the map, and are those of the place.
    u32::from(unsafe { table::remove((home, other), &place, flow) })
}

/// A bucket of the table.
#[inline(always)]
pub fn bucket(number: u32) -> Option<*mut Bucket> {
    FLOWS.get_ptr_mut(number)
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
