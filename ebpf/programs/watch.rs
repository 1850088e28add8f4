//! Tells who looks of each new flow and of what goes nowhere. Until somebody does, it is a look at one word.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use oarlock_ebpf::event::Event;
use oarlock_ebpf::flow::Flow;
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
