//! What an earlier agent has written, read back. What does not fit together is the trace of a crash: dropped, written anew.

use std::net::Ipv6Addr;
use std::sync::Arc;

use aya::maps::lpm_trie::Key;
use ipnet::{IpNet, Ipv4Net};
use oarlock_ebpf::affinity::{SourceRange, source_range_bits, source_range6_bits};
use oarlock_ebpf::layout::SlotRange;
use oarlock_ebpf::maps::{self, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS};

use super::super::DataplaneError;
use super::super::compile::Peer;
use super::super::door::{self, Door};
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
        let pinned = tables.handles.frontends.all().map_err(read)?;
        for (key, index) in pinned {
            if tables.adopt_one(key, index).is_none() {
                tracing::warn!(frontend = %key, "an entry of an earlier agent does not fit the others; it is written anew");
                tables
                    .handles
                    .frontends
                    .remove(&key)
                    .map_err(|e| failed("remove a damaged entry from", key.map(), e))?;
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
                self.vacate(index, door::peer(&backend));
            }
        }
    }

    fn adopt_one(&mut self, key: Door, index: u32) -> Option<()> {
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
                Some((door::peer(&backend), index, backend.generation()))
            })
            .collect()
    }

    fn read_ranges(&self, service: u64) -> Vec<IpNet> {
        let keys = self.handles.source_ranges.keys().filter_map(Result::ok);
        let mut ranges: Vec<IpNet> = keys
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
pub(in super::super) fn parse_range(key: &Key<SourceRange>) -> Option<(u64, IpNet)> {
    let data = key.data();
    let service = u64::from_be_bytes(data[..8].try_into().ok()?);
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(&data[8..]).ok()?);
    let length = |bits: u32| u8::try_from(key.prefix_len().checked_sub(bits)?).ok();
    // Whoever compares what stands before an IPv4 address is of that family.
    if let (Some(ip), Some(length)) = (address.to_ipv4_mapped(), length(source_range_bits(0))) {
        return Some((service, Ipv4Net::new(ip, length).ok()?.into()));
    }
    Some((service, IpNet::new(address.into(), length(source_range6_bits(0))?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::range_key;
    use super::*;

    #[test]
    fn ranges_of_both_families_are_read_as_they_were_written() {
        for text in
            ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.7/32", "fd00::/8", "::/0", "::/96", "2001:db8::1/128"]
        {
            let range: IpNet = text.parse().unwrap();
            assert_eq!(parse_range(&range_key(7, &range)), Some((7, range)));
        }
    }
}
