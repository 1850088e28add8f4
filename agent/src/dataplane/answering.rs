//! Ranges of pods whose nodes answer clients outside themselves, as the programs know them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use ipnet::Ipv4Net;
use oarlock_ebpf::maps;

use super::DataplaneError;

/// The kernel's table.
pub(super) struct Ranges(pub(super) LpmTrie<MapData, [u8; 4], [u8; 4]>);

impl Ranges {
    /// All of it, as far as it can be read.
    pub(super) fn all(&self) -> BTreeMap<Ipv4Net, Ipv4Addr> {
        let entries = self.0.iter().filter_map(Result::ok);
        let entries = entries.filter_map(|(key, node)| {
            let bits = u8::try_from(key.prefix_len()).ok()?;
            Some((Ipv4Net::new(key.data().into(), bits).ok()?, node.into()))
        });
        entries.collect()
    }

    /// Makes it hold exactly these: a range that goes to another node at once, those that go nowhere any more last.
    pub(super) fn set(&mut self, ranges: &BTreeMap<Ipv4Net, Ipv4Addr>) -> Result<(), DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::DIRECT), e);
        let present = self.all();
        for (range, node) in ranges.iter().filter(|(range, node)| present.get(*range) != Some(*node)) {
            self.0.insert(&key(*range), node.octets(), 0).map_err(failed)?;
        }
        for range in present.keys().filter(|range| !ranges.contains_key(*range)) {
            self.0.remove(&key(*range)).map_err(failed)?;
        }
        Ok(())
    }
}

fn key(range: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(range.prefix_len().into(), range.network().octets())
}
