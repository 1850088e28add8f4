//! The kernel's tables against what is wanted, in the one order that never shows a reader a hole: backends, then slots, then
//! the published word, then the frontend; what is not used any more is reused only after every reader has moved on.

mod adopt;
mod counted;
mod numbers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::PerCpuValues;
use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use oarlock_ebpf::affinity::{Member, source_range, source_range_bits, source_range6, source_range6_bits};
use oarlock_ebpf::flow::UDP;
use oarlock_ebpf::layout::{
    EXTERNAL, MAGLEV, RANDOM, SOURCE_RANGES, ServiceLine, SlotRange, SocketKey, SocketKey6,
};
use oarlock_ebpf::maps::{self, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS};
use oarlock_ebpf::reason::Reason;

use super::blocks::Blocks;
use super::compile::{Algorithm, Frontend, Peer};
use super::door::{self, Door};
use super::load::Handles;
use super::traffic::Directory;
use super::{Changed, DataplaneError};
pub(super) use adopt::parse_range;
use counted::Counted;
use numbers::Numbers;

/// Longer than any run of a program: after this nobody reads what was unpublished.
const GRACE: Duration = Duration::from_secs(2);

/// The tables and what is known of them.
pub(super) struct Tables {
    handles: Handles,
    present: BTreeMap<Door, Present>,
    backends: BTreeMap<Peer, Held>,
    indexes: Blocks,
    slots: Blocks,
    backend_indexes: Blocks,
    /// Backends of Services with affinity.
    members: Counted<Member>,
    /// Who may ask which Service.
    ranges: Counted<(u64, IpNet)>,
    /// Under which number each Service's port is counted.
    numbers: Numbers,
    directory: Arc<Directory>,
    generation: u32,
    /// Backends of datagrams that no frontend has any more.
    gone: BTreeSet<Peer>,
    retired: Vec<(Instant, Retired)>,
}

/// A frontend as the kernel has it.
#[derive(Debug, Clone)]
struct Present {
    index: u32,
    line: ServiceLine,
    inside: Vec<Peer>,
    outside: Vec<Peer>,
    ranges: Vec<IpNet>,
}

impl Present {
    /// Whether both kinds of clients share their slots.
    fn shares(&self) -> bool {
        self.line.inside == self.line.outside
    }

    /// The peers of all its slots.
    fn held(&self) -> impl Iterator<Item = Peer> {
        let outside = if self.shares() { &[][..] } else { &self.outside };
        self.inside.iter().chain(outside).copied()
    }

    fn is(&self, wanted: &Frontend, counted: Option<u32>) -> bool {
        self.inside == wanted.inside
            && self.outside == wanted.outside
            && self.ranges == wanted.ranges
            && counted == Some(self.line.counted)
            && (self.line.service, self.line.affinity, self.line.flags)
                == (wanted.service, wanted.affinity, flags(wanted))
    }
}

fn flags(wanted: &Frontend) -> u32 {
    let external = if wanted.external { EXTERNAL } else { 0 };
    let algorithm = match wanted.algorithm {
        Algorithm::RoundRobin => 0,
        Algorithm::Random => RANDOM,
        Algorithm::Maglev => MAGLEV,
    };
    external | algorithm | if wanted.ranges.is_empty() { 0 } else { SOURCE_RANGES }
}

/// A backend's index and how many slots point to it.
#[derive(Debug, Clone, Copy)]
struct Held {
    index: u32,
    generation: u32,
    users: usize,
}

#[derive(Debug, Clone, Copy)]
enum Retired {
    Index(u32),
    Slots(SlotRange),
    Backend(u32),
}

impl Tables {
    /// The frontends that the kernel has.
    pub(super) fn frontends(&self) -> impl Iterator<Item = Door> {
        self.present.keys().copied()
    }

    /// Makes the tables hold what is wanted of these frontends. Those that are done are taken out of the set; one that fails
    /// keeps no other from its turn.
    pub(super) fn sync<'w>(
        &mut self,
        due: &mut BTreeSet<Door>,
        wanted: impl Fn(&Door) -> Option<&'w Frontend>,
    ) -> Result<Changed, DataplaneError> {
        self.reclaim();
        let (mut changed, mut first) = (Changed::default(), Ok(()));
        // What goes makes room for what comes; what comes is never a hole in what is there.
        let (come, go): (Vec<Door>, Vec<_>) = due.iter().partition(|key| wanted(key).is_some());
        for key in go.into_iter().chain(come) {
            let done = match wanted(&key) {
                Some(frontend) if self.has(&key, frontend) => {
                    self.tell_name(frontend);
                    Ok(())
                }
                Some(frontend) => self.publish(key, frontend).map(|()| changed.written += 1),
                None if self.present.contains_key(&key) => self.withdraw(key).map(|()| changed.removed += 1),
                None => Ok(()),
            };
            match done {
                Ok(()) => drop(due.remove(&key)),
                Err(error) => first = first.and(Err(error)),
            }
        }
        changed.frontends = self.present.len();
        first.map(|()| changed)
    }

    fn has(&self, key: &Door, wanted: &Frontend) -> bool {
        let counted = self.numbers.of(wanted.service);
        self.present.get(key).is_some_and(|present| present.is(wanted, counted))
    }

    /// Says whose the counters under a Service's number are.
    fn tell_name(&self, wanted: &Frontend) {
        if let Some(number) = self.numbers.of(wanted.service) {
            self.directory.service(number, Some(&wanted.name));
        }
    }

    /// Whose counters are whose.
    pub(super) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// Under which number a Service's port is counted: from nothing, if it has not been.
    fn count_as(&mut self, service: u64) -> u32 {
        let (number, is_new) = self.numbers.hold(service);
        if is_new && let Ok(zero) = zero() {
            // What somebody has left there is not this one's; without it the count is too high, and nothing else is wrong.
            let _ = self.handles.service_counts.set(number, zero, 0);
        }
        number
    }

    fn publish(&mut self, key: Door, wanted: &Frontend) -> Result<(), DataplaneError> {
        let old = self.present.get(&key).cloned();
        let index = match &old {
            Some(old) => old.index,
            None => self.indexes.take(1).ok_or(full(maps::SERVICE_TABLE, MAX_SERVICES))?,
        };
        match self.write(key, wanted, index, old.is_none()) {
            Ok(present) => {
                self.present.insert(key, present);
                old.map_or(Ok(()), |old| self.leave(&key, &old))
            }
            Err(error) => {
                if old.is_none() {
                    self.indexes.give(index, 1);
                }
                Err(error)
            }
        }
    }

    /// Writes and publishes; takes back what it wrote if that fails.
    fn write(
        &mut self,
        key: Door,
        wanted: &Frontend,
        index: u32,
        is_new: bool,
    ) -> Result<Present, DataplaneError> {
        let inside = self.write_slots(&wanted.inside)?;
        let outside = if wanted.outside == wanted.inside {
            inside
        } else {
            self.write_slots(&wanted.outside).inspect_err(|_| self.free(inside, &wanted.inside))?
        };
        let number = self.count_as(wanted.service);
        self.tell_name(wanted);
        let line = ServiceLine::new(inside, outside, wanted.service, wanted.affinity, flags(wanted));
        let present = Present {
            index,
            line: line.counted_as(number),
            inside: wanted.inside.clone(),
            outside: wanted.outside.clone(),
            ranges: wanted.ranges.clone(),
        };
        let done = self.admit(&present).and_then(|()| {
            let lines = &mut self.handles.lines;
            lines.set(index, present.line, 0).map_err(|e| failed("write", maps::SERVICE_TABLE, e))?;
            if !is_new {
                return Ok(());
            }
            let frontends = &mut self.handles.frontends;
            frontends.insert(key, index).map_err(|e| failed("write", key.map(), e))
        });
        match done {
            Ok(()) => Ok(present),
            Err(error) => {
                // The first failure is the one to tell of.
                let _ = self.release(&present);
                Err(error)
            }
        }
    }

    fn withdraw(&mut self, key: Door) -> Result<(), DataplaneError> {
        self.handles.frontends.remove(&key).map_err(|e| failed("remove an entry from", key.map(), e))?;
        if let Some(old) = self.present.remove(&key) {
            self.retire(Retired::Index(old.index));
            self.leave(&key, &old)?;
        }
        Ok(())
    }

    /// What a frontend has had; clients may still send datagrams to who is gone with it.
    fn leave(&mut self, key: &Door, old: &Present) -> Result<(), DataplaneError> {
        self.release(old)?;
        if key.protocol == UDP {
            self.gone.extend(old.held().filter(|peer| !self.backends.contains_key(peer)));
        }
        Ok(())
    }

    /// Whether a socket has been given this backend.
    pub(super) fn has_given(&self, cookie: u64, (ip, port): Peer) -> bool {
        match ip {
            IpAddr::V4(ip) => self.handles.sockets.get(&SocketKey::new(cookie, ip.octets(), port), 0).is_ok(),
            IpAddr::V6(ip) => {
                self.handles.sockets6.get(&SocketKey6::new(cookie, ip.octets(), port), 0).is_ok()
            }
        }
    }

    /// The backends of datagrams that no frontend has had since this was asked last, those that have come back left out.
    pub(super) fn gone(&mut self) -> BTreeSet<Peer> {
        let mut gone = std::mem::take(&mut self.gone);
        gone.retain(|peer| !self.backends.contains_key(peer));
        gone
    }

    /// A block of slots for these peers. Nobody reads it before it is published.
    fn write_slots(&mut self, peers: &[Peer]) -> Result<SlotRange, DataplaneError> {
        let count = u16::try_from(peers.len()).map_err(|_| full(maps::SLOTS, u32::from(u16::MAX)))?;
        let base = self.slots.take(u32::from(count)).ok_or(full(maps::SLOTS, MAX_SLOTS))?;
        let range = SlotRange::new(base, count, 0);
        for (done, (slot, peer)) in (base..).zip(peers).enumerate() {
            let written = self.hold(*peer).and_then(|index| {
                self.handles.slots.set(slot, index, 0).map_err(|e| failed("write", maps::SLOTS, e))
            });
            if let Err(error) = written {
                self.free(range, &peers[..done]);
                return Err(error);
            }
        }
        Ok(range)
    }

    /// A block of slots that is published no more, and its peers.
    fn free(&mut self, range: SlotRange, peers: &[Peer]) {
        self.retire(Retired::Slots(range));
        for peer in peers {
            let Some(held) = self.backends.get_mut(peer) else { continue };
            held.users -= 1;
            if held.users == 0 {
                let index = held.index;
                self.backends.remove(peer);
                self.directory.backend(index, None);
                self.vacate(index, *peer);
                self.retire(Retired::Backend(index));
            }
        }
    }

    /// Says that nobody is chosen by this index any more: what begins on a flow that was, is given another backend. Where it went to
    /// stays, for programs that have read the index before.
    fn vacate(&mut self, index: u32, peer: Peer) {
        // An index that there is can be written; if not, whoever gets it next says the same.
        let _ = self.handles.backends.set(index, door::backend(peer, 0), 0);
    }

    /// Writes who is a member and who may ask, before the line that asks for it.
    fn admit(&mut self, present: &Present) -> Result<(), DataplaneError> {
        let service = present.line.service;
        let mut members = self.members_of(present);
        members.retain(|member| self.members.add(*member));
        let mut ranges = present.ranges.clone();
        ranges.retain(|range| self.ranges.add((service, *range)));
        for member in members {
            self.handles.members.insert(member, 1, 0).map_err(|e| failed("write", maps::MEMBERS, e))?;
        }
        for range in ranges {
            let done = self.handles.source_ranges.insert(&range_key(service, &range), 1, 0);
            done.map_err(|e| failed("write", maps::SOURCE_RANGES, e))?;
        }
        Ok(())
    }

    fn members_of(&self, present: &Present) -> Vec<Member> {
        if present.line.affinity == 0 {
            return Vec::new();
        }
        let held = present.held().filter_map(|peer| self.backends.get(&peer));
        held.map(|held| Member::new(present.line.service, held.index, held.generation)).collect()
    }

    /// The index of a backend, written to the table if it is new.
    fn hold(&mut self, peer: Peer) -> Result<u32, DataplaneError> {
        if let Some(held) = self.backends.get_mut(&peer) {
            held.users += 1;
            return Ok(held.index);
        }
        let index = self.backend_indexes.take(1).ok_or(full(maps::BACKENDS, MAX_BACKENDS))?;
        // Never 0, which is nobody's.
        self.generation = self.generation.wrapping_add(1).max(1);
        let generation = self.generation;
        let backend = door::backend(peer, generation);
        self.handles.backends.set(index, backend, 0).map_err(|e| failed("write", maps::BACKENDS, e))?;
        self.backends.insert(peer, Held { index, generation, users: 1 });
        if self.directory.has_backends() {
            if let Ok(zero) = zero() {
                let _ = self.handles.backend_counts.set(index, zero, 0);
            }
            self.directory.backend(index, Some(peer));
        }
        Ok(index)
    }

    /// What a frontend had that is published no more.
    fn release(&mut self, old: &Present) -> Result<(), DataplaneError> {
        for member in self.members_of(old) {
            if self.members.remove(&member) {
                self.handles.members.remove(&member).map_err(|e| failed("clean", maps::MEMBERS, e))?;
            }
        }
        for range in &old.ranges {
            if self.ranges.remove(&(old.line.service, *range)) {
                let key = range_key(old.line.service, range);
                let done = self.handles.source_ranges.remove(&key);
                done.map_err(|e| failed("clean", maps::SOURCE_RANGES, e))?;
            }
        }
        if let Some(number) = self.numbers.release(old.line.service) {
            self.directory.service(number, None);
        }
        self.free(old.line.inside, &old.inside);
        if !old.shares() {
            self.free(old.line.outside, &old.outside);
        }
        Ok(())
    }

    fn retire(&mut self, what: Retired) {
        self.retired.push((Instant::now() + GRACE, what));
    }

    fn reclaim(&mut self) {
        let now = Instant::now();
        let (ripe, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retired).into_iter().partition(|(at, _)| *at <= now);
        self.retired = rest;
        for (_, what) in ripe {
            match what {
                Retired::Index(index) => self.indexes.give(index, 1),
                Retired::Slots(range) => self.slots.give(range.base(), u32::from(range.count())),
                Retired::Backend(index) => self.backend_indexes.give(index, 1),
            }
        }
    }

    pub(super) fn counters(&self) -> Result<Vec<(&'static str, u64)>, DataplaneError> {
        let sum = |reason: &Reason| {
            let values = self
                .handles
                .counters
                .get(&(*reason as u32), 0)
                .map_err(|e| failed("read", maps::COUNTERS, e))?;
            Ok((reason.name(), values.iter().sum()))
        };
        Reason::ALL.iter().map(sum).collect()
    }
}

/// Nothing, of each CPU.
fn zero<V: aya::Pod + Default>() -> Result<PerCpuValues<V>, std::io::Error> {
    let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from(vec![V::default(); cpus])
}

fn range_key(service: u64, range: &IpNet) -> Key<oarlock_ebpf::affinity::SourceRange> {
    let length = range.prefix_len();
    match range.network() {
        IpAddr::V4(ip) => Key::new(source_range_bits(length), source_range(service, ip.octets())),
        IpAddr::V6(ip) => Key::new(source_range6_bits(length), source_range6(service, ip.octets())),
    }
}

fn full(map: &'static str, capacity: u32) -> DataplaneError {
    DataplaneError::Full { map, capacity }
}

fn failed(what: &str, map: &'static str, why: impl std::fmt::Display) -> DataplaneError {
    DataplaneError::kernel(format!("{what} the map {map}"), why)
}
