//! What each Service's port and each backend had: one place per CPU, so that no two cores share a cache line.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use oarlock_ebpf::count::{BackendCounts, MAX_COUNTED, ServiceCounts, Whose, drop_of};
use oarlock_ebpf::flow::{Flow, REPLY, Translation};
use oarlock_ebpf::flow6::{Flow6, Translation6};
use oarlock_ebpf::maps::MAX_BACKENDS;
use oarlock_ebpf::reason::Reason;

use crate::maps;

#[map]
static SERVICE_COUNTS: PerCpuArray<ServiceCounts> = PerCpuArray::with_max_entries(MAX_COUNTED, 0);
/// The agent makes it as large as there are backends, where they are counted.
#[map]
static BACKEND_COUNTS: PerCpuArray<BackendCounts> = PerCpuArray::with_max_entries(1, 0);

/// Whether backends are counted. Set by the agent before loading: where they are not, the verifier takes the code out.
#[unsafe(no_mangle)]
static COUNT_BACKENDS: u32 = 0;

#[inline(always)]
fn counts_backends() -> bool {
    // SAFETY: a constant of the loaded programs, which the compiler must not take for the one above.
    unsafe { core::ptr::addr_of!(COUNT_BACKENDS).read_volatile() != 0 }
}

/// A packet of this flow that is translated.
#[inline(always)]
pub fn packet(entry: &Translation, flow: &Flow, packets: u64, bytes: u64) {
    let Some(whose) = Whose::of(entry) else { return };
    let back = entry.backend == REPLY;
    if let Some(counts) = of_service(whose.service()) {
        add(&mut counts.packets, back, packets);
        add(&mut counts.bytes, back, bytes);
    }
    if counts_backends()
        && let Some(counts) = of_flow(entry, flow, whose)
    {
        add(&mut counts.packets, back, packets);
        add(&mut counts.bytes, back, bytes);
    }
}

/// The same of IPv6.
#[inline(always)]
pub fn packet6(entry: &Translation6, flow: &Flow6, packets: u64, bytes: u64) {
    let Some(whose) = Whose::of(&entry.whose()) else { return };
    let back = entry.backend == REPLY;
    if let Some(counts) = of_service(whose.service()) {
        add(&mut counts.packets, back, packets);
        add(&mut counts.bytes, back, bytes);
    }
    if !counts_backends() {
        return;
    }
    let Some(backend) = maps::backend_at(whose.backend()) else { return };
    let same = if back {
        backend.address6() == flow.source && backend.port() == flow.source_port()
    } else {
        backend.generation() == entry.generation
    };
    if same && let Some(counts) = of_backend(whose.backend()) {
        add(&mut counts.packets, back, packets);
        add(&mut counts.bytes, back, bytes);
    }
}

/// A connection or datagram that was given a backend.
#[inline(always)]
pub fn begun(whose: Whose, clients: usize) {
    if let Some(counts) = of_service(whose.service()) {
        add(&mut counts.begun, clients != 0, 1);
    }
    if counts_backends()
        && let Some(counts) = of_backend(whose.backend())
    {
        add(&mut counts.begun, clients != 0, 1);
    }
}

/// Something of a Service's port that goes nowhere.
#[inline(always)]
pub fn dropped(service: u32, reason: Reason) {
    if let (Some(counts), Some(place)) = (of_service(service), drop_of(reason)) {
        counts.dropped[place & 3] += 1;
    }
}

/// A packet of a flow that cannot be translated.
#[inline(always)]
pub fn lost(entry: &Translation) {
    if let Some(whose) = Whose::of(entry) {
        dropped(whose.service(), Reason::BadPacket);
    }
}

/// This CPU's, if the Service's port is counted.
#[inline(always)]
fn of_service(service: u32) -> Option<&'static mut ServiceCounts> {
    if service == 0 {
        return None;
    }
    // SAFETY: the element is this CPU's own. Another program that comes in between loses one count at most.
    SERVICE_COUNTS.get_ptr_mut(service).map(|counts| unsafe { &mut *counts })
}

#[inline(always)]
fn of_backend(backend: u32) -> Option<&'static mut BackendCounts> {
    // SAFETY: as above.
    BACKEND_COUNTS.get_ptr_mut(backend & (MAX_BACKENDS - 1)).map(|counts| unsafe { &mut *counts })
}

/// Those of the flow's backend, unless its index is another one's by now.
#[inline(always)]
fn of_flow(entry: &Translation, flow: &Flow, whose: Whose) -> Option<&'static mut BackendCounts> {
    let backend = maps::backend_at(whose.backend())?;
    let same = if entry.backend == REPLY {
        backend.address() == flow.source && backend.port() == flow.source_port()
    } else {
        backend.generation() == entry.generation
    };
    if same { of_backend(whose.backend()) } else { None }
}

/// Two words, of which the second is taken where that is said: no index that the verifier would have to follow.
#[inline(always)]
fn add(words: &mut [u64; 2], second: bool, amount: u64) {
    words[usize::from(second)] += amount;
}
