//! The table of flows: an array of buckets, each with places for seven lines. Layout, and what is done to it.
//!
//! Why not one of the kernel's hash tables: a line is one cache line with all that a packet of an established connection asks for, found
//! by one look most times; and a full bucket forgets what is over, closing or never opened, in this order, but no open connection,
//! whoever sends from however many addresses (docs/decisions/0021-the-table-of-flows.md).
//!
//! Writers of a bucket take its lock, which is held for some ten nanoseconds by programs that nothing interrupts. Readers take none: a
//! line's version tells them whether they have read it whole. User space only reads.

#![expect(unsafe_code, reason = "memory that several CPUs share: each access is one volatile word")]

use bytemuck::{Pod, Zeroable};

use crate::flow::{CLOSING, Flow, OPEN, Translation, are_over, is_over, seconds};

/// Lines of a bucket.
pub const LINES: usize = 7;
/// Lines of a bucket, as a number of the programs.
const WAYS: u32 = 7;
/// How often a lock is tried. Its holder is done long before; one whose virtual CPU was taken away is not waited for.
const TRIES: u32 = 64;

/// A flow and how its packets leave: one cache line. Written and read by the programs.
///
/// | byte | field |
/// |---|---|
/// | 0..4 | version: grows with each change, odd while there is one |
/// | 4..8 | [`Translation::seen`] |
/// | 8..24 | the packet as it comes |
/// | 24..28, 28..32 | source and destination as it leaves, network order |
/// | 32..36 | its ports, network order, the source's first |
/// | 36..40 | [`Translation::link`] |
/// | 40..44 | [`Translation::backend`] |
/// | 44..48 | [`Translation::generation`] |
/// | 48..64 | [`Hop`] |
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Line {
    version: u32,
    seen: u32,
    key: Flow,
    source: u32,
    destination: u32,
    ports: u32,
    link: u32,
    backend: u32,
    generation: u32,
    hop: Hop,
}

/// Between whom frames of a flow go on, for XDP.
///
/// | byte | field |
/// |---|---|
/// | 0..12 | an Ethernet header's beginning: receiver, sender |
/// | 12..14 | the low half of the second, since boot, in which that was true |
/// | 14..16 | the longest IP packet; 0: nothing is known |
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Hop {
    /// An Ethernet header's beginning: receiver, sender.
    pub ends: [u8; 12],
    /// The low half of the second in which this was true.
    pub second: u16,
    /// The longest IP packet; 0: nothing is known.
    pub mtu: u16,
}

/// Flows of the same hash.
///
/// | byte | field |
/// |---|---|
/// | 0..8 | lock: not 0 while a writer is there |
/// | 8..12 | not 0: lines that belong here are in their other bucket |
/// | 12..16 | zero |
/// | 16..30 | a tag for each line, which is a part of its hash; 0: there is no line |
/// | 30..64 | zero; there would be the tag of an eighth line |
/// | 64..512 | lines |
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Bucket {
    lock: u64,
    spilled: u32,
    reserved: u32,
    tags: [u64; 2],
    reserved2: [u64; 4],
    lines: [Line; LINES],
}

const _: () = assert!(core::mem::size_of::<Hop>() == 16);
const _: () = assert!(core::mem::size_of::<Line>() == 64);
const _: () = assert!(core::mem::size_of::<Bucket>() == 512);
const _: () = assert!(core::mem::offset_of!(Bucket, lines) == core::mem::size_of::<Line>());

/// Where a flow is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The bucket where it belongs.
    pub home: u32,
    /// The bucket where it is when that was full.
    pub other: u32,
    way: u32,
    tag: u16,
}

/// A line as it was at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The line's version then.
    pub version: u32,
    /// How the packet leaves.
    pub translation: Translation,
}

/// What becomes of a line that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is replaced.
    Put,
    /// It stays: whoever was first has the flow.
    Claim,
}

/// What became of an insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The line is written.
    Yes,
    /// The same, and something that was not open was forgotten for it.
    Evicted,
    /// The flow is somebody's.
    Taken,
    /// No line could be had: all are of open connections, or the bucket's lock was not to be had.
    Full,
}

// === impl Place ===

impl Place {
    /// Of a flow, among so many buckets (a power of two). The seed keeps those who choose addresses and ports from choosing buckets.
    #[inline(always)]
    #[must_use]
    pub fn of(flow: &Flow, seed: u64, buckets: u32) -> Self {
        let [a, b] = flow.words();
        // Multiply, shift, xor, twice: each bit of the result depends on all of both words (the finaliser of splitmix64).
        let mut hash = a ^ seed;
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash ^= b ^ (hash >> 27);
        hash = hash.wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        let high = (hash >> 32) as u32;
        let mask = buckets - 1;
        let home = hash as u32 & mask;
        // Never the same: the step is odd.
        let other = (home ^ ((high >> 8) | 1)) & mask;
        Self { home, other, way: ((high & 0xffff) * WAYS) >> 16, tag: (high >> 16) as u16 | 1 }
    }
}

// === impl Line ===

impl Line {
    const NONE: Self = Self {
        version: 0,
        seen: 0,
        key: Flow::NONE,
        source: 0,
        destination: 0,
        ports: 0,
        link: 0,
        backend: 0,
        generation: 0,
        hop: Hop { ends: [0; 12], second: 0, mtu: 0 },
    };

    /// The flow, if the line is in use: for user space, which has a copy.
    #[must_use]
    pub fn get(&self) -> Option<(Flow, Translation)> {
        let is_whole = self.version & 1 == 0 && self.key != Flow::NONE;
        is_whole.then(|| (self.key, self.translation()))
    }

    fn translation(&self) -> Translation {
        Translation {
            to: Flow::of_packet(self.source, self.destination, self.ports, self.key.protocol),
            link: self.link,
            backend: self.backend,
            generation: self.generation,
            seen: self.seen,
        }
    }
}

/// The line as it is, if it is this flow's.
///
/// # Safety
/// The pointer is to a line that lives.
#[inline(always)]
pub unsafe fn read(line: *const Line, flow: &Flow) -> Option<Snapshot> {
    // SAFETY: the line lives, and each field is read as one aligned word, whatever others write meanwhile.
    unsafe {
        let version = (&raw const (*line).version).read_volatile();
        fence();
        let key = (&raw const (*line).key).cast::<u64>();
        let [a, b] = flow.words();
        if key.read_volatile() != a || key.add(1).read_volatile() != b {
            return None;
        }
        let to = Flow::of_packet(
            (&raw const (*line).source).read_volatile(),
            (&raw const (*line).destination).read_volatile(),
            (&raw const (*line).ports).read_volatile(),
            flow.protocol,
        );
        let translation = Translation {
            to,
            link: (&raw const (*line).link).read_volatile(),
            backend: (&raw const (*line).backend).read_volatile(),
            generation: (&raw const (*line).generation).read_volatile(),
            seen: (&raw const (*line).seen).read_volatile(),
        };
        fence();
        let is_whole = version & 1 == 0 && (&raw const (*line).version).read_volatile() == version;
        if is_whole { Some(Snapshot { version, translation }) } else { None }
    }
}

/// The line's hop, if it is still the line of this version.
///
/// # Safety
/// The pointer is to a line that lives.
#[inline(always)]
pub unsafe fn hop(line: *const Line, version: u32) -> Option<([u32; 3], u16, u16)> {
    // SAFETY: as above.
    unsafe {
        let words = (&raw const (*line).hop).cast::<u32>();
        let ends = [words.read_volatile(), words.add(1).read_volatile(), words.add(2).read_volatile()];
        let [a, b, c, d] = words.add(3).read_volatile().to_ne_bytes();
        fence();
        let is_whole = (&raw const (*line).version).read_volatile() == version;
        if is_whole { Some((ends, u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]))) } else { None }
    }
}

/// Advances a line's clock. One aligned word: whosever the line is by now, it does no harm.
///
/// # Safety
/// The pointer is to a line that lives.
#[inline(always)]
pub unsafe fn set_seen(line: *mut Line, seen: u32) {
    // SAFETY: the line lives.
    unsafe { (&raw mut (*line).seen).write_volatile(seen) }
}

/// Writes a line under its bucket's lock.
#[inline(always)]
unsafe fn write(line: *mut Line, flow: &Flow, translation: &Translation) {
    // SAFETY: the caller holds the lock; readers tell by the version.
    unsafe {
        let version = (&raw const (*line).version).read_volatile() | 1;
        (&raw mut (*line).version).write_volatile(version);
        fence();
        let key = (&raw mut (*line).key).cast::<u64>();
        let [a, b] = flow.words();
        key.write_volatile(a);
        key.add(1).write_volatile(b);
        (&raw mut (*line).source).write_volatile(u32::from_ne_bytes(translation.to.source));
        (&raw mut (*line).destination).write_volatile(u32::from_ne_bytes(translation.to.destination));
        (&raw mut (*line).ports).write_volatile(translation.to.ports());
        (&raw mut (*line).link).write_volatile(translation.link);
        (&raw mut (*line).backend).write_volatile(translation.backend);
        (&raw mut (*line).generation).write_volatile(translation.generation);
        (&raw mut (*line).seen).write_volatile(translation.seen);
        (&raw mut (*line).hop).cast::<u32>().add(3).write_volatile(0);
        fence();
        (&raw mut (*line).version).write_volatile(version.wrapping_add(1));
    }
}

/// Remembers a line's hop, if it is still the line of this version. Without waiting: the next packet tries again.
///
/// # Safety
/// The pointers are to a bucket that lives and to one of its lines.
#[inline(always)]
pub unsafe fn set_hop(bucket: *mut Bucket, line: *mut Line, version: u32, hop: &Hop) {
    // SAFETY: bucket and line live; under the lock nobody else writes.
    unsafe {
        if swap(&raw mut (*bucket).lock, 1) != 0 {
            return;
        }
        if (&raw const (*line).version).read_volatile() == version {
            (&raw mut (*line).version).write_volatile(version | 1);
            fence();
            let [a, b, c, d]: [u32; 4] = bytemuck::cast(*hop);
            let words = (&raw mut (*line).hop).cast::<u32>();
            words.write_volatile(a);
            words.add(1).write_volatile(b);
            words.add(2).write_volatile(c);
            words.add(3).write_volatile(d);
            fence();
            (&raw mut (*line).version).write_volatile(version.wrapping_add(2));
        }
        unlock(bucket);
    }
}

// === impl Bucket ===

impl Bucket {
    /// Without a line.
    pub const EMPTY: Self = Self {
        lock: 0,
        spilled: 0,
        reserved: 0,
        tags: [0; 2],
        reserved2: [0; 4],
        lines: [Line::NONE; LINES],
    };

    /// The flows that it holds: for user space, which has a copy.
    pub fn flows(&self) -> impl Iterator<Item = (Flow, Translation)> {
        self.lines.iter().filter_map(Line::get)
    }
}

/// The line where a flow is most times.
///
/// # Safety
/// The pointer is to the flow's home, which lives.
#[inline(always)]
pub unsafe fn likely(home: *mut Bucket, place: &Place) -> *mut Line {
    // SAFETY: the bucket lives, and the way is below seven.
    unsafe { way(home, place.way) }
}

/// The line of a flow in one bucket.
///
/// # Safety
/// The pointer is to a bucket that lives.
#[inline(always)]
pub unsafe fn find(bucket: *mut Bucket, place: &Place, flow: &Flow) -> Option<*mut Line> {
    // SAFETY: the bucket lives, and the way is below seven.
    unsafe {
        let at = find_by_tag(bucket, place.tag, flow);
        if at < WAYS { Some(way(bucket, at)) } else { None }
    }
}

/// Which of a bucket's lines it is; [`WAYS`]: none.
///
/// Of more than three lines with one tag in one bucket the fourth is not found: such four would have 31 bits of their hashes in common.
#[inline(always)]
unsafe fn find_by_tag(bucket: *mut Bucket, its: u16, flow: &Flow) -> u32 {
    // SAFETY: the bucket lives, and the ways are below seven: there is no tag 0 to match that of the eighth.
    unsafe {
        let mut found = with_tag(tags(bucket), its);
        let mut tries = 0;
        while found != 0 && tries < 3 {
            let at = lowest(found);
            if is_of(way(bucket, at), flow) {
                return at;
            }
            found &= found - 1;
            tries += 1;
        }
    }
    WAYS
}

/// Which of eight tags are this one: a bit for each.
#[inline(always)]
#[must_use]
pub const fn with_tag([a, b]: [u64; 2], its: u16) -> u32 {
    // Four times the tag.
    let all = (its as u64) * 0x0001_0001_0001_0001;
    zeros(a ^ all) | (zeros(b ^ all) << 4)
}

/// Which of four words of 16 bits are zero: a bit for each.
#[inline(always)]
const fn zeros(words: u64) -> u32 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    // The top bit of each word that has any bit set.
    let any = ((words & LOW) + LOW) | words;
    let none = (!any >> 15) & 0x0001_0001_0001_0001;
    ((none | (none >> 15) | (none >> 30) | (none >> 45)) & 0xf) as u32
}

/// The number of the lowest bit that is set, of eight. By a sequence in which each three bits are others (de Bruijn), as the machine of the
/// programs does not count zeros.
#[inline(always)]
#[must_use]
pub const fn lowest(bits: u32) -> u32 {
    let bit = bits & bits.wrapping_neg();
    let window = ((bit * 0b0001_1101) >> 5) & 7;
    // The window of each bit: 0, 0b001, 0b011, ...
    (0x3457_2610_u32 >> (window * 4)) & 7
}

/// Whether lines that belong into a bucket are in their other one.
///
/// # Safety
/// The pointer is to a bucket that lives.
#[inline(always)]
pub unsafe fn has_spilled(bucket: *const Bucket) -> bool {
    // SAFETY: the bucket lives.
    unsafe { (&raw const (*bucket).spilled).read_volatile() != 0 }
}

/// Writes the line of a flow. Whatever begins with a flow holds the lock of the flow's home, so that no two have it.
///
/// `dispensable` says which line of a bucket (by its number) is missed least, of those that are dispensable at least like this; none:
/// [`LINES`]. The verifier of the programs wants it to be a loop of the kernel's.
///
/// # Safety
/// The pointers are to the two buckets of the place, which live.
#[inline(always)]
pub unsafe fn insert(
    (home, other): (*mut Bucket, *mut Bucket),
    place: &Place,
    (flow, translation): (&Flow, &Translation),
    mode: Mode,
    dispensable: impl Fn(u32, u32) -> u32,
) -> Inserted {
    // SAFETY: both buckets live; what is written is under the lock of its bucket.
    unsafe {
        if !lock(home) {
            return Inserted::Full;
        }
        let mut present = find(home, place, flow);
        if present.is_none() && has_spilled(home) {
            present = find(other, place, flow);
        }
        let outcome = if let Some(line) = present {
            if mode == Mode::Put {
                write(line, flow, translation);
                Inserted::Yes
            } else {
                Inserted::Taken
            }
        } else {
            let (mut bucket, mut at, mut outcome) = (home, place.way, Inserted::Yes);
            if (tag(home, at)).read_volatile() != 0 {
                (at, outcome) = room(home, || dispensable(place.home, STALE));
            }
            let has_other = at >= WAYS && home != other && lock(other);
            if has_other {
                (at, outcome) = room(other, || dispensable(place.other, STALE));
                bucket = other;
            }
            if at >= WAYS {
                (at, outcome) = (dispensable(place.home, 1), Inserted::Evicted);
                bucket = home;
            }
            if at >= WAYS && has_other {
                at = dispensable(place.other, 1);
                bucket = other;
            }
            if at < WAYS {
                write(way(bucket, at), flow, translation);
                tag(bucket, at).write_volatile(place.tag);
            } else {
                outcome = Inserted::Full;
            }
            if has_other {
                // Said too often, it only costs a look.
                (&raw mut (*home).spilled).write_volatile(1);
                unlock(other);
            }
            outcome
        };
        unlock(home);
        outcome
    }
}

/// A line that is free, or else one that is dispensable; [`WAYS`]: there is none.
#[inline(always)]
unsafe fn room(bucket: *mut Bucket, dispensable: impl FnOnce() -> u32) -> (u32, Inserted) {
    // The eighth is none of ours.
    // SAFETY: as of the caller.
    let free = with_tag(unsafe { tags(bucket) }, 0) & 0x7f;
    if free != 0 { (lowest(free), Inserted::Yes) } else { (dispensable(), Inserted::Evicted) }
}

/// How dispensable a line of a bucket is; the way is below [`LINES`].
///
/// # Safety
/// The pointer is to a bucket that lives.
#[inline(always)]
pub unsafe fn dispensability_of(bucket: *mut Bucket, at: u32, now: u32) -> u32 {
    // SAFETY: the bucket lives, and the way is below seven.
    unsafe {
        let line = way(bucket, at);
        dispensability(protocol(line), (&raw const (*line).seen).read_volatile(), now)
    }
}

/// Dispensable like this or more: over, or neither opened nor ended for [`PATIENCE`].
pub const STALE: u32 = 4 << 21;
/// How long, in seconds, something half open or closing is left in peace as long as there is room elsewhere.
const PATIENCE: u32 = 5;

/// How little a line is missed: 0 not at all dispensable, as it is of an open connection; then more with its age, in this order: closing,
/// not opened yet, not opened for [`PATIENCE`], closing for as long, over.
#[inline(always)]
#[must_use]
pub const fn dispensability(protocol: u8, seen: u32, now: u32) -> u32 {
    let idle = now.saturating_sub(seconds(seen));
    let age = if idle < 1 << 20 { idle } else { 1 << 20 };
    let rank = if is_over(protocol, seen, now) {
        6
    } else if seen & CLOSING != 0 {
        if idle < PATIENCE { 2 } else { 5 }
    } else if seen & OPEN == 0 {
        if idle < PATIENCE { 3 } else { 4 }
    } else {
        return 0;
    };
    (rank << 21) + age
}

/// Takes the line of a flow away. False: it was not there.
///
/// # Safety
/// The pointers are to the two buckets of the place, which live.
#[inline(always)]
pub unsafe fn remove((home, other): (*mut Bucket, *mut Bucket), place: &Place, flow: &Flow) -> bool {
    // SAFETY: both buckets live; what is written is under the lock of its bucket.
    unsafe {
        if !lock(home) {
            return false;
        }
        let mut removed = remove_from(home, place, flow);
        if !removed && has_spilled(home) && home != other && lock(other) {
            removed = remove_from(other, place, flow);
            unlock(other);
        }
        unlock(home);
        removed
    }
}

#[inline(always)]
unsafe fn remove_from(bucket: *mut Bucket, place: &Place, flow: &Flow) -> bool {
    // SAFETY: the caller holds the lock.
    unsafe {
        let at = find_by_tag(bucket, place.tag, flow);
        if at < WAYS {
            clear(bucket, at);
        }
        at < WAYS
    }
}

/// Frees a line, under the bucket's lock.
#[inline(always)]
unsafe fn clear(bucket: *mut Bucket, at: u32) {
    const NOTHING: Translation = Translation { to: Flow::NONE, link: 0, backend: 0, generation: 0, seen: 0 };
    // SAFETY: the caller holds the lock.
    unsafe {
        write(way(bucket, at), &Flow::NONE, &NOTHING);
        tag(bucket, at).write_volatile(0);
    }
}

/// What a sweep finds at one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// No flow.
    Free,
    /// A flow that goes on.
    Left,
    /// A flow that was over; the line is free now.
    Gone,
}

/// Frees a line whose connection is over; `partner` says when a packet of another flow was seen last.
///
/// # Safety
/// The pointer is to a bucket that lives, and the line is below [`LINES`].
#[inline(always)]
pub unsafe fn sweep(bucket: *mut Bucket, at: u32, now: u32, partner: impl Fn(&Flow) -> Option<u32>) -> Swept {
    // SAFETY: the bucket lives, the way is below seven, and what is written is under the bucket's lock.
    unsafe {
        if tag(bucket, at).read_volatile() == 0 {
            return Swept::Free;
        }
        let line = way(bucket, at);
        let key = (&raw const (*line).key).cast::<u64>();
        let flow: Flow = bytemuck::cast([key.read_volatile(), key.add(1).read_volatile()]);
        let Some(present) = read(line, &flow) else { return Swept::Left };
        let seen = present.translation.seen;
        if !is_over(flow.protocol, seen, now) {
            return Swept::Left;
        }
        let other = partner(&present.translation.to.reversed());
        if !are_over(flow.protocol, seen, other, now) || !lock(bucket) {
            return Swept::Left;
        }
        // A packet may have come meanwhile, or another flow.
        let is_same = read(line, &flow).is_some_and(|again| {
            again.version == present.version && again.translation.seen == present.translation.seen
        });
        if is_same {
            clear(bucket, at);
        }
        unlock(bucket);
        if is_same { Swept::Gone } else { Swept::Left }
    }
}

/// [`insert`] for a table that nobody else has, of as many buckets as a power of two: tests and benchmarks make tables so.
pub fn insert_alone(
    buckets: &mut [Bucket],
    seed: u64,
    (flow, translation): (&Flow, &Translation),
    mode: Mode,
    now: u32,
) -> Inserted {
    let place = Place::of(flow, seed, buckets.len() as u32);
    let start = buckets.as_mut_ptr();
    // SAFETY: both numbers are below the length, and nobody else has the table.
    unsafe {
        let both = (start.add(place.home as usize), start.add(place.other as usize));
        let dispensable = |number: u32, least| {
            let score = |at: &u32| dispensability_of(start.add(number as usize), *at, now);
            let worst = (0..WAYS).max_by_key(score).filter(|at| score(at) >= least);
            worst.unwrap_or(WAYS)
        };
        insert(both, &place, (flow, translation), mode, dispensable)
    }
}

#[inline(always)]
unsafe fn way(bucket: *mut Bucket, at: u32) -> *mut Line {
    // Lines are where the header would be the first of eight.
    // SAFETY: of the caller: the way is below seven.
    unsafe { bucket.cast::<Line>().add((eighth(at + 1)) as usize) }
}

#[inline(always)]
unsafe fn tags(bucket: *const Bucket) -> [u64; 2] {
    // SAFETY: of the caller: the bucket lives.
    unsafe {
        let tags = (&raw const (*bucket).tags).cast::<u64>();
        [tags.read_volatile(), tags.add(1).read_volatile()]
    }
}

#[inline(always)]
unsafe fn tag(bucket: *mut Bucket, at: u32) -> *mut u16 {
    // SAFETY: of the caller: the way is below seven, and there are as many tags.
    unsafe { (&raw mut (*bucket).tags).cast::<u16>().add(eighth(at) as usize) }
}

/// The number, which is below eight already: the verifier has to see that, and the compiler would take out what it knows.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn eighth(number: u32) -> u64 {
    let mut number = u64::from(number);
    // SAFETY: an instruction on a register.
    unsafe {
        core::arch::asm!("{0} &= 7", inout(reg) number, options(pure, nomem, nostack));
    }
    number
}

/// The same on the host.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
const fn eighth(number: u32) -> u64 {
    (number & 7) as u64
}

#[inline(always)]
unsafe fn protocol(line: *const Line) -> u8 {
    // SAFETY: of the caller: the line lives. The protocol is the fifth byte of the key's second word.
    let word = unsafe { (&raw const (*line).key).cast::<u64>().add(1).read_volatile() };
    word.to_ne_bytes()[4]
}

#[inline(always)]
unsafe fn is_of(line: *const Line, flow: &Flow) -> bool {
    let [a, b] = flow.words();
    // SAFETY: of the caller: the line lives.
    unsafe {
        let key = (&raw const (*line).key).cast::<u64>();
        key.read_volatile() == a && key.add(1).read_volatile() == b
    }
}

/// False: it could not be had.
#[inline(always)]
unsafe fn lock(bucket: *mut Bucket) -> bool {
    let mut tries = 0;
    while tries < TRIES {
        // SAFETY: of the caller: the bucket lives.
        if unsafe { swap(&raw mut (*bucket).lock, 1) } == 0 {
            return true;
        }
        tries += 1;
    }
    false
}

#[inline(always)]
unsafe fn unlock(bucket: *mut Bucket) {
    // SAFETY: of the caller: the bucket lives. An exchange orders what was written before it on every machine.
    let _ = unsafe { swap(&raw mut (*bucket).lock, 0) };
}

/// Exchanges a word, with a full barrier (BPF_XCHG, Linux 5.12, kernel commit 5ffa25502b5a).
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: of the caller: the word is there and aligned. The compiler has no atomics for this machine, the kernel has.
    unsafe {
        core::arch::asm!("{value} = xchg_64({word} + 0, {value})", word = in(reg) word, value = inout(reg) value);
    }
    value
}

/// The same on the host.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
    // SAFETY: of the caller: the word is there and aligned, and is accessed like this alone.
    unsafe { AtomicU64::from_ptr(word) }.swap(value, SeqCst)
}

/// Keeps reads before it from those after it, and writes likewise. x86 keeps both by itself (Intel SDM 3A 9.2.2); other machines are
/// made to by an exchange of a word of our own.
#[inline(always)]
fn fence() {
    #[cfg(target_arch = "bpf")]
    {
        #[cfg(bpf_target_arch = "x86_64")]
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
        #[cfg(not(bpf_target_arch = "x86_64"))]
        {
            let mut word = 0;
            // SAFETY: the word is on the stack and aligned.
            let _ = unsafe { swap(&raw mut word, 0) };
        }
    }
    #[cfg(not(target_arch = "bpf"))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

#[cfg(feature = "user")]
mod crosses {
    // SAFETY: repr(C), no padding, every bit pattern is valid: bytemuck proves it.
    unsafe impl aya::Pod for super::Bucket {}
}

#[cfg(test)]
mod tests;
