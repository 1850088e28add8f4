//! Tells who looks of each new flow and of what goes nowhere. Until somebody does, it is a look at one word.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use oarlock_ebpf::event::{Event, Event6};
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::flow6::Flow6;
use oarlock_ebpf::maps::EVENT_BYTES;
use oarlock_ebpf::reason::Reason;

use crate::flows;

/// Until when somebody looks, in seconds since boot: one that is gone costs nothing for long.
#[map]
static WATCH: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_BYTES, 0);

/// Where it happens, and to what.
pub struct Seen<'f> {
    pub hook: u32,
    pub flow: &'f Flow,
    /// The number under which the Service's port is counted.
    pub service: u32,
    /// Of a socket the number of its process' cgroup.
    pub cgroup: u64,
}

/// Something that goes nowhere, or on untranslated.
#[inline(always)]
pub fn lost(seen: &Seen<'_>, reason: Reason) {
    tell(seen, None, reason);
}

/// A new flow, and how it leaves.
#[inline(always)]
pub fn begun(seen: &Seen<'_>, to: &Flow, reason: Reason) {
    tell(seen, Some(to), reason);
}

/// The same of IPv6.
pub struct Seen6<'f> {
    pub hook: u32,
    pub flow: &'f Flow6,
    pub service: u32,
    pub cgroup: u64,
}

/// Something of IPv6 that goes nowhere, or on untranslated.
#[inline(always)]
pub fn lost6(seen: &Seen6<'_>, reason: Reason) {
    tell6(seen, None, reason);
}

/// A new flow of IPv6, and how it leaves.
#[inline(always)]
pub fn begun6(seen: &Seen6<'_>, to: &Flow6, reason: Reason) {
    tell6(seen, Some(to), reason);
}

/// Whether somebody looks.
#[inline(always)]
pub fn is_on() -> bool {
    let Some(until) = WATCH.get(0) else { return false };
    // SAFETY: the pointer is into the array; one aligned word, which the agent may write meanwhile.
    let until = unsafe { core::ptr::from_ref(until).read_volatile() };
    until != 0 && until >= flows::now()
}

#[inline(always)]
fn tell(seen: &Seen<'_>, to: Option<&Flow>, reason: Reason) {
    if !is_on() {
        return;
    }
    // A full buffer: whoever looks does so too slowly, and does without.
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else { return };
    // SAFETY: the helper has no conditions.
    let at = unsafe { bpf_ktime_get_coarse_ns() };
    entry.write(Event {
        at,
        flow: *seen.flow,
        to: to.map_or(Flow::NONE, |to| *to),
        what: reason as u32,
        hook: seen.hook,
        service: seen.service,
        reserved: 0,
        cgroup: seen.cgroup,
    });
    entry.submit(0);
}

#[inline(always)]
fn tell6(seen: &Seen6<'_>, to: Option<&Flow6>, reason: Reason) {
    if !is_on() {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event6>(0) else { return };
    // SAFETY: the helper has no conditions.
    let at = unsafe { bpf_ktime_get_coarse_ns() };
    // Field by field, straight into the buffer: the whole would take a fifth of the stack.
    let event: *mut Event6 = entry.as_mut_ptr();
    // SAFETY: the record is ours until it is submitted, and as long as an event.
    unsafe {
        (&raw mut (*event).at).write(at);
        (&raw mut (*event).flow).write(*seen.flow);
        match to {
            Some(to) => (&raw mut (*event).to).write(*to),
            None => (&raw mut (*event).to).write(Flow6::NONE),
        }
        (&raw mut (*event).what).write(reason as u32);
        (&raw mut (*event).hook).write(seen.hook);
        (&raw mut (*event).service).write(seen.service);
        (&raw mut (*event).reserved).write(0);
        (&raw mut (*event).cgroup).write(seen.cgroup);
    }
    entry.submit(0);
}
