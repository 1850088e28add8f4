//! What an earlier agent has written, read back. What does not fit together is the trace of a crash: dropped, written anew.

use aya::maps::lpm_trie::Key;
use std::sync::Arc;

use ipnet::Ipv4Net;
use oarlock_ebpf::affinity::{SourceRange, source_range_bits};
use oarlock_ebpf::layout::{FrontendKey, SlotRange};
use oarlock_ebpf::maps::{self, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS};

use super::super::DataplaneError;
use super::super::compile::Peer;
use super::super::load::Handles;
use super::super::traffic::Directory;
use super::{Blocks, Counted, Held, Numbers, Present, Tables, failed};

impl Tables {
    /// Reads back what an earlier agent has written.
    pub(in super::super) fn adopt(handles: Handles, count_backends: bool) -> Result<Self, DataplaneError> {
        let mut tables = Self {
            handles,
            present: std::collections::BTreeMap::new(),
            backends: std::collections::BTreeMap::new(),
            indexes: Blocks::new(MAX_SERVICES),
            slots: Blocks::new(MAX_SLOTS),
            backend_indexes: Blocks::new(MAX_BACKENDS),
            members: Counted::default(),
            ranges: Counted::default(),
            numbers: Numbers::default(),
            directory: Arc::new(Directory::new(count_backends)),
            generation: first_generation(),
            gone: std::collections::BTreeSet::new(),
            retired: Vec::new(),
        };
        let read = |e| failed("read", maps::FRONTENDS, e);
        let pinned: Vec<(FrontendKey, u32)> =
            tables.handles.frontends.iter().collect::<Result<_, _>>().map_err(read)?;
        for (key, index) in pinned {
            if tables.adopt_one(key, index).is_none() {
                let address = std::net::SocketAddrV4::new(key.address().into(), key.port());
                tracing::warn!(%address, "an entry of an earlier agent does not fit the others; it is written anew");
                tables
                    .handles
                    .frontends
                    .remove(&key)
                    .map_err(|e| failed("remove a damaged entry from", maps::FRONTENDS, e))?;
            }
        }
        tables.drop_strays()?;
        tables.vacate_strays();
        Ok(tables)
    }

    /// Backends that an earlier agent has given up without saying so to their flows.
    fn vacate_strays(&mut self) {
        let held: std::collections::HashSet<u32> = self.backends.values().map(|held| held.index).collect();
        for index in (0..MAX_BACKENDS).filter(|index| !held.contains(index)) {
            if let Ok(backend) = self.handles.backends.get(&index, 0)
                && backend.generation() != 0
            {
                self.vacate(index, (backend.address().into(), backend.port()));
            }
        }
    }

    fn adopt_one(&mut self, key: FrontendKey, index: u32) -> Option<()> {
        let line = self.handles.lines.get(&index, 0).ok()?;
        let inside = self.read_slots(line.inside)?;
        let shared = line.outside == line.inside;
        let outside = if shared { inside.clone() } else { self.read_slots(line.outside)? };
        let blocks = if shared { &[line.inside][..] } else { &[line.inside, line.outside] };
        if !self.indexes.claim(index, 1) {
            return None;
        }
        for block in blocks {
            if !self.slots.claim(block.base(), u32::from(block.count())) {
                return None;
            }
        }
        let all = inside.iter().chain(if shared { [].iter() } else { outside.iter() });
        for (peer, index, generation) in all {
            // The clock may have been set back: what is ahead of it counts.
            if generation.wrapping_sub(self.generation) < 1 << 31 {
                self.generation = *generation;
            }
            let held = self.backends.entry(*peer).or_insert(Held {
                index: *index,
                generation: *generation,
                users: 0,
            });
            if held.users == 0 {
                self.backend_indexes.claim(*index, 1);
                self.directory.backend(*index, Some(*peer));
            }
            held.users += 1;
        }
        let peers = |list: &[(Peer, u32, u32)]| list.iter().map(|(peer, ..)| *peer).collect();
        let ranges = self.read_ranges(line.service);
        let present = Present { index, line, inside: peers(&inside), outside: peers(&outside), ranges };
        for member in self.members_of(&present) {
            self.members.add(member);
        }
        for range in &present.ranges {
            self.ranges.add((line.service, *range));
        }
        self.numbers.adopt(line.service, line.counted);
        self.present.insert(key, present);
        Some(())
    }

    fn read_slots(&self, range: SlotRange) -> Option<Vec<(Peer, u32, u32)>> {
        let slots = range.base()..range.base().saturating_add(u32::from(range.count()));
        slots
            .map(|slot| {
                let index = self.handles.slots.get(&slot, 0).ok()?;
                let backend = self.handles.backends.get(&index, 0).ok()?;
                Some(((backend.address().into(), backend.port()), index, backend.generation()))
            })
            .collect()
    }

    fn read_ranges(&self, service: u64) -> Vec<Ipv4Net> {
        let keys = self.handles.source_ranges.keys().filter_map(Result::ok);
        let mut ranges: Vec<Ipv4Net> = keys
            .filter_map(|key| parse_range(&key))
            .filter(|(of, _)| *of == service)
            .map(|(_, net)| net)
            .collect();
        ranges.sort_unstable();
        ranges
    }

    /// Members and ranges that no adopted frontend needs.
    fn drop_strays(&mut self) -> Result<(), DataplaneError> {
        let members: Vec<_> = self.handles.members.keys().filter_map(Result::ok).collect();
        for member in members.iter().filter(|member| !self.members.contains(member)) {
            self.handles.members.remove(member).map_err(|e| failed("clean", maps::MEMBERS, e))?;
        }
        let ranges: Vec<_> = self.handles.source_ranges.keys().filter_map(Result::ok).collect();
        for key in &ranges {
            if parse_range(key).is_none_or(|range| !self.ranges.contains(&range)) {
                self.handles
                    .source_ranges
                    .remove(key)
                    .map_err(|e| failed("clean", maps::SOURCE_RANGES, e))?;
            }
        }
        Ok(())
    }
}

/// Where generations begin in tables that are new: flows that began with another layout's never look as if they were of these.
fn first_generation() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    (now.as_millis() & u128::from(u32::MAX)) as u32
}

/// The Service and the range that a key is of.
pub(in super::super) fn parse_range(key: &Key<SourceRange>) -> Option<(u64, Ipv4Net)> {
    let data = key.data();
    let service = u64::from_be_bytes(data[..8].try_into().ok()?);
    let address: [u8; 4] = data[8..].try_into().ok()?;
    let length = key.prefix_len().checked_sub(source_range_bits(0))?;
    Some((service, Ipv4Net::new(address.into(), u8::try_from(length).ok()?).ok()?))
}
