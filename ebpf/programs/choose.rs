//! Which backend a new connection or datagram gets.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use oarlock_ebpf::affinity::{Affinity, AffinityKey, Member};
use oarlock_ebpf::layout::{Backend, RANDOM, ServiceLine, SlotRange};
use oarlock_ebpf::reason::Reason;
use oarlock_ebpf::select;

use crate::{flows, maps, nat};

/// How a slot is chosen where no affinity binds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Each connection the next backend.
    InTurn,
    /// Each number (a socket's) its backend.
    By(u64),
}

/// A backend and its index.
pub type Chosen = (u32, &'static Backend);

/// Chooses for a client. Without: nobody answers, or the tables are damaged.
#[inline(always)]
pub fn backend(
    service: u32,
    line: &ServiceLine,
    range: SlotRange,
    client: &AffinityKey,
    choice: Choice,
) -> Result<Chosen, Reason> {
    let bound = line.affinity != 0;
    if bound && let Some(chosen) = last(line, client) {
        return Ok(chosen);
    }
    let slot = match choice {
        Choice::InTurn if line.flags & RANDOM != 0 => {
            // SAFETY: the helper has no conditions. The low bits of the number are those that the hash spreads.
            select::by_hash(range, u64::from(unsafe { bpf_get_prandom_u32() }))
        }
        Choice::InTurn => select::round_robin(range, maps::next_turn(service)),
        Choice::By(number) => select::by_hash(range, number),
    };
    let index = maps::backend_index(slot.ok_or(Reason::NoEndpoints)?).ok_or(Reason::BadTable)?;
    let backend = maps::backend_at(index).ok_or(Reason::BadTable)?;
    if bound {
        let seen = flows::now();
        let entry = Affinity { backend: index, generation: backend.generation(), seen, reserved: 0 };
        maps::remember_affinity(client, &entry);
    }
    Ok((index, backend))
}

/// The backend that the client had last, if that still binds.
#[inline(always)]
fn last(line: &ServiceLine, client: &AffinityKey) -> Option<Chosen> {
    let entry = maps::affinity(client)?;
    // SAFETY: the element lives in the map, and is copied at once.
    let held = unsafe { *entry };
    let now = flows::now();
    let is_valid = held.holds(now, line.affinity)
        && nat::is_current(held.backend, held.generation)
        && maps::is_member(&Member::new(line.service, held.backend, held.generation));
    if !is_valid {
        return None;
    }
    if held.seen != now {
        // SAFETY: as above; one aligned word, and whosever the element is by now, a second more does no harm.
        unsafe { (*entry).seen = now };
    }
    Some((held.backend, maps::backend_at(held.backend)?))
}
