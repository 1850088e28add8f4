//! Frees what is over in the table of flows, by a program that does it under the table's locks: a part at a time, so that no core
//! is kept from its packets for long.

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use oarlock_ebpf::maps::FLOW_BUCKETS;
use oarlock_ebpf::sweep::{Found, Part};

use super::DataplaneError;
use super::load::chain;

/// Buckets of a part: half a millisecond's work.
const BUCKETS: u32 = 4096;
/// The Ethernet header, and as much behind it as the kernel wants of a frame at least.
const HEADER: usize = 14;
const FRAME: usize = HEADER + 28;

/// Returns how many lines there are left and how many were freed.
pub(super) fn sweep(program: &SchedClassifier) -> Result<(usize, usize), DataplaneError> {
    let (mut left, mut gone) = (0, 0);
    for first in (0..FLOW_BUCKETS).step_by(BUCKETS as usize) {
        let found = part(program, Part { first, buckets: BUCKETS })?;
        left += found.left as usize;
        gone += found.gone as usize;
    }
    Ok((left, gone))
}

fn part(program: &SchedClassifier, part: Part) -> Result<Found, DataplaneError> {
    let failed = |why: String| DataplaneError::kernel("sweep the table of flows", why);
    let (mut frame, mut out) = ([0; FRAME], [0; FRAME]);
    let place = HEADER..HEADER + size_of::<Part>();
    frame[place.clone()].copy_from_slice(bytemuck::bytes_of(&part));
    let options =
        TestRunOptions { data_in: Some(&frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = program.test_run(options).map_err(|e| failed(chain(&e)))?;
    if result.return_value != 0 {
        return Err(failed("the program could not read what it was told".to_owned()));
    }
    Ok(bytemuck::pod_read_unaligned(&out[place]))
}
