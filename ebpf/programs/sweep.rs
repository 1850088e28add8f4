//! Frees lines of the table of flows whose connections are over: run by the agent, a part of the table at a time. Without it the lines
//! are taken when they are needed.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use oarlock_ebpf::sweep::{Found, Part};
use oarlock_ebpf::table::{self, LINES, Swept};

use crate::packet::IP;
use crate::{flows, nat};

struct Sweep {
    first: u32,
    now: u32,
    found: Found,
}

/// Run by `BPF_PROG_TEST_RUN`, attached nowhere: a [`Part`] is behind the Ethernet header of the frame, a [`Found`] is written in its place.
#[classifier]
pub fn flows_sweep(ctx: TcContext) -> i32 {
    let Ok(part) = ctx.load::<Part>(IP) else { return 1 };
    let mut sweep = Sweep { first: part.first, now: flows::now(), found: Found::default() };
    let lines = part.buckets.saturating_mul(LINES as u32);
    // SAFETY: the callback has the signature that the helper calls, and the context lives until it returns.
    unsafe { bpf_loop(lines, line as *mut c_void, (&raw mut sweep).cast(), 0) };
    i32::from(ctx.store(IP, &sweep.found, 0).is_err())
}

extern "C" fn line(number: u32, sweep: *mut c_void) -> i64 {
    // SAFETY: the context of the loop.
    let sweep = unsafe { &mut *sweep.cast::<Sweep>() };
    let (bucket, at) = (number / LINES as u32, number % LINES as u32);
    let Some(bucket) = nat::bucket(sweep.first.wrapping_add(bucket)) else { return 1 };
    let partner = |flow: &_| nat::peek(flow).map(|entry| entry.seen);
    // SAFETY: the bucket is in the map, and the line below seven.
    match unsafe { table::sweep(bucket, at, sweep.now, partner) } {
        Swept::Free => {}
        Swept::Left => sweep.found.left += 1,
        Swept::Gone => sweep.found.gone += 1,
    }
    0
}
