//! The kernel's tables against what is wanted, in the one order that never shows a reader a hole: backends, then slots, then
//! the published word, then the frontend; what is not used any more is reused only after every reader has moved on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oarlock_ebpf::layout::{Backend, FrontendKey, ServiceLine, SlotRange};
use oarlock_ebpf::maps::{self, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS};
use oarlock_ebpf::reason::Reason;

use super::blocks::Blocks;
use super::compile::{Frontends, Peer};
use super::load::Handles;
use super::{Changed, DataplaneError};

/// Longer than any run of a program: after this nobody reads what was unpublished.
const GRACE: Duration = Duration::from_secs(2);

/// The tables and what is known of them.
pub(super) struct Tables {
    handles: Handles,
    present: BTreeMap<FrontendKey, Present>,
    backends: BTreeMap<Peer, Held>,
    indexes: Blocks,
    slots: Blocks,
    backend_indexes: Blocks,
    generation: u32,
    retired: Vec<(Instant, Retired)>,
}

/// A frontend as the kernel has it.
#[derive(Debug, Clone)]
struct Present {
    index: u32,
    range: SlotRange,
    peers: Vec<Peer>,
}

/// A backend's index and how many slots point to it.
#[derive(Debug, Clone, Copy)]
struct Held {
    index: u32,
    users: usize,
}

#[derive(Debug, Clone, Copy)]
enum Retired {
    Index(u32),
    Slots(u32, u32),
    Backend(u32),
}

impl Tables {
    /// Reads back what an earlier agent has written.
    pub(super) fn adopt(handles: Handles) -> Result<Self, DataplaneError> {
        let mut tables = Self {
            handles,
            present: BTreeMap::new(),
            backends: BTreeMap::new(),
            indexes: Blocks::new(MAX_SERVICES),
            slots: Blocks::new(MAX_SLOTS),
            backend_indexes: Blocks::new(MAX_BACKENDS),
            generation: 0,
            retired: Vec::new(),
        };
        let pinned: Vec<(FrontendKey, u32)> = tables
            .handles
            .frontends
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|e| DataplaneError::kernel(format!("read the map {}", maps::FRONTENDS), e))?;
        for (key, index) in pinned {
            // An entry that does not fit the other tables is the trace of a crash: it is dropped and written anew.
            if tables.adopt_one(key, index)?.is_none() {
                tables
                    .handles
                    .frontends
                    .remove(&key)
                    .map_err(|e| failed("remove a damaged entry from", maps::FRONTENDS, e))?;
            }
        }
        Ok(tables)
    }

    fn adopt_one(&mut self, key: FrontendKey, index: u32) -> Result<Option<()>, DataplaneError> {
        let Ok(line) = self.handles.lines.get(&index, 0) else { return Ok(None) };
        let range = line.slots;
        let mut peers = Vec::with_capacity(usize::from(range.count()));
        let mut indexes = Vec::with_capacity(usize::from(range.count()));
        for slot in range.base()..range.base().saturating_add(u32::from(range.count())) {
            let backend = self.handles.slots.get(&slot, 0).ok();
            let backend = backend.and_then(|i| Some((i, self.handles.backends.get(&i, 0).ok()?)));
            let Some((backend_index, backend)) = backend else { return Ok(None) };
            self.generation = self.generation.max(backend.generation());
            peers.push((backend.address().into(), backend.port()));
            indexes.push(backend_index);
        }
        if !self.indexes.claim(index, 1) || !self.slots.claim(range.base(), u32::from(range.count())) {
            return Ok(None);
        }
        for (peer, index) in peers.iter().zip(indexes) {
            let held = self.backends.entry(*peer).or_insert(Held { index, users: 0 });
            if held.users == 0 {
                self.backend_indexes.claim(index, 1);
            }
            held.users += 1;
        }
        self.present.insert(key, Present { index, range, peers });
        Ok(Some(()))
    }

    /// Makes the tables hold exactly what is wanted.
    pub(super) fn sync(&mut self, wanted: &Frontends) -> Result<Changed, DataplaneError> {
        self.reclaim();
        let mut changed = Changed::default();
        for (key, peers) in wanted {
            if self.present.get(key).is_none_or(|present| present.peers != *peers) {
                self.publish(*key, peers)?;
                changed.written += 1;
            }
        }
        let gone: Vec<FrontendKey> =
            self.present.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        for key in gone {
            self.withdraw(key)?;
            changed.removed += 1;
        }
        changed.frontends = self.present.len();
        Ok(changed)
    }

    fn publish(&mut self, key: FrontendKey, peers: &[Peer]) -> Result<(), DataplaneError> {
        let count = u16::try_from(peers.len()).map_err(|_| full(maps::SLOTS, u32::from(u16::MAX)))?;
        let indexes = peers.iter().map(|peer| self.hold(*peer)).collect::<Result<Vec<u32>, _>>()?;
        let base = self.slots.take(u32::from(count)).ok_or(full(maps::SLOTS, MAX_SLOTS))?;
        for (slot, index) in (base..).zip(&indexes) {
            self.handles.slots.set(slot, index, 0).map_err(|e| failed("write", maps::SLOTS, e))?;
        }
        let old = self.present.remove(&key);
        let index = match &old {
            Some(old) => old.index,
            None => self.indexes.take(1).ok_or(full(maps::SERVICE_TABLE, MAX_SERVICES))?,
        };
        let generation = old.as_ref().map_or(0, |old| old.range.generation()).wrapping_add(1);
        let range = SlotRange::new(base, count, generation);
        self.handles
            .lines
            .set(index, ServiceLine::new(range), 0)
            .map_err(|e| failed("write", maps::SERVICE_TABLE, e))?;
        match old {
            None => self
                .handles
                .frontends
                .insert(key, index, 0)
                .map_err(|e| failed("write", maps::FRONTENDS, e))?,
            Some(old) => {
                self.retire(Retired::Slots(old.range.base(), u32::from(old.range.count())));
                self.release(&old.peers);
            }
        }
        self.present.insert(key, Present { index, range, peers: peers.to_vec() });
        Ok(())
    }

    fn withdraw(&mut self, key: FrontendKey) -> Result<(), DataplaneError> {
        self.handles
            .frontends
            .remove(&key)
            .map_err(|e| failed("remove an entry from", maps::FRONTENDS, e))?;
        if let Some(old) = self.present.remove(&key) {
            self.retire(Retired::Index(old.index));
            self.retire(Retired::Slots(old.range.base(), u32::from(old.range.count())));
            self.release(&old.peers);
        }
        Ok(())
    }

    /// The index of a backend, written to the table if it is new.
    fn hold(&mut self, peer: Peer) -> Result<u32, DataplaneError> {
        if let Some(held) = self.backends.get_mut(&peer) {
            held.users += 1;
            return Ok(held.index);
        }
        let index = self.backend_indexes.take(1).ok_or(full(maps::BACKENDS, MAX_BACKENDS))?;
        self.generation = self.generation.wrapping_add(1);
        let backend = Backend::new(peer.0.octets(), peer.1, self.generation);
        self.handles.backends.set(index, backend, 0).map_err(|e| failed("write", maps::BACKENDS, e))?;
        self.backends.insert(peer, Held { index, users: 1 });
        Ok(index)
    }

    fn release(&mut self, peers: &[Peer]) {
        for peer in peers {
            let Some(held) = self.backends.get_mut(peer) else { continue };
            held.users -= 1;
            if held.users == 0 {
                let index = held.index;
                self.backends.remove(peer);
                self.retire(Retired::Backend(index));
            }
        }
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
                Retired::Slots(base, length) => self.slots.give(base, length),
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

fn full(map: &'static str, capacity: u32) -> DataplaneError {
    DataplaneError::Full { map, capacity }
}

fn failed(what: &str, map: &'static str, why: impl std::fmt::Display) -> DataplaneError {
    DataplaneError::kernel(format!("{what} the map {map}"), why)
}
