//! How full each map is. Hash tables are walked, when somebody asks; of arrays the agent's own tables say it.

use std::collections::BTreeSet;
use std::path::Path;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData};
use oarlock_ebpf::affinity::{Affinity, AffinityKey, Member, SourceRange};
use oarlock_ebpf::flow::Owner;
use oarlock_ebpf::flow6::{Flow6, Translation6};
use oarlock_ebpf::fragment::{Datagram, Datagram6};
use oarlock_ebpf::layout::{Believed, Believed6, FrontendKey, FrontendKey6, SocketKey, SocketKey6};
use oarlock_ebpf::maps;
use serde::{Deserialize, Serialize};

use super::load::{chain, pins};
use super::picture::Picture;
use super::{DataplaneConfig, DataplaneError, read};

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Its name.
    pub map: String,
    /// How many entries it has.
    pub used: u64,
    /// How many it takes.
    pub capacity: u64,
    /// What a full one does: `refuses` more, `forgets` who was there longest, or `displaces` what is not open.
    pub full: String,
}

/// Of a node; its tables tell of arrays.
///
/// # Errors
/// The maps cannot be read.
pub fn fill(config: &DataplaneConfig, tables: &Picture) -> Result<Vec<Fill>, DataplaneError> {
    let pins = pins(&config.bpffs, &config.node_name);
    let backends: BTreeSet<_> =
        tables.frontends.iter().flat_map(|f| f.inside.iter().chain(&f.outside)).collect();
    let slots = tables.frontends.iter().map(|f| {
        // Clients of both kinds share the slots where they have the same backends.
        f.inside.len() + if f.inside == f.outside { 0 } else { f.outside.len() }
    });
    let services: BTreeSet<&String> = tables.frontends.iter().map(|f| &f.service).collect();
    let array = |name: &'static str, used: usize| {
        let capacity = open(&pins, name)?.info().map_err(|e| failed(&pins, name, &e))?.max_entries();
        Ok(Fill {
            map: name.to_owned(),
            used: used as u64,
            capacity: capacity.into(),
            full: "refuses".to_owned(),
        })
    };
    Ok(vec![
        hash::<FrontendKey, u32>(&pins, maps::FRONTENDS, false)?,
        hash::<FrontendKey6, u32>(&pins, maps::FRONTENDS6, false)?,
        array(maps::SERVICE_TABLE, tables.frontends.len())?,
        array(maps::SLOTS, slots.sum())?,
        array(maps::BACKENDS, backends.len())?,
        array(maps::SERVICE_COUNTS, services.len())?,
        hash::<Member, u32>(&pins, maps::MEMBERS, false)?,
        prefixes::<SourceRange, u32>(&pins, maps::SOURCE_RANGES)?,
        prefixes::<[u8; 4], [u8; 4]>(&pins, maps::DIRECT)?,
        hash::<[u8; 4], Owner>(&pins, maps::ADDRESSES, false)?,
        hash::<[u8; 16], Owner>(&pins, maps::ADDRESSES6, false)?,
        hash::<u64, u32>(&pins, maps::OPTED_OUT, false)?,
        hash::<AffinityKey, Affinity>(&pins, maps::AFFINITY, true)?,
        hash::<SocketKey, Believed>(&pins, maps::SOCKETS, true)?,
        hash::<SocketKey6, Believed6>(&pins, maps::SOCKETS6, true)?,
        flows(&pins)?,
        hash::<Datagram, [u8; 4]>(&pins, maps::FRAGMENTS, true)?,
        hash::<Flow6, Translation6>(&pins, maps::FLOWS6_TCP, true)?,
        hash::<Flow6, Translation6>(&pins, maps::FLOWS6_OTHER, true)?,
        hash::<Datagram6, [u8; 4]>(&pins, maps::FRAGMENTS6, true)?,
    ])
}

fn hash<K: Pod, V: Pod>(pins: &Path, name: &'static str, lru: bool) -> Result<Fill, DataplaneError> {
    let data = open(pins, name)?;
    let capacity = data.info().map_err(|e| failed(pins, name, &e))?.max_entries();
    let map = if lru { Map::LruHashMap(data) } else { Map::HashMap(data) };
    let table: HashMap<MapData, K, V> = map.try_into().map_err(|e| failed(pins, name, &e))?;
    // A walk begins anew where its place is deleted meanwhile: not for ever.
    let limit = usize::try_from(capacity).unwrap_or(usize::MAX);
    let used = table.keys().take(limit).filter(Result::is_ok).count();
    let full = if lru { "forgets" } else { "refuses" };
    Ok(Fill { map: name.to_owned(), used: used as u64, capacity: capacity.into(), full: full.to_owned() })
}

fn flows(pins: &Path) -> Result<Fill, DataplaneError> {
    let used = read::buckets(pins)?.map(|bucket| bucket.flows().count() as u64).sum();
    Ok(Fill {
        map: maps::FLOWS.to_owned(),
        used,
        capacity: maps::MAX_FLOWS.into(),
        full: "displaces".to_owned(),
    })
}

fn prefixes<K: Pod, V: Pod>(pins: &Path, name: &'static str) -> Result<Fill, DataplaneError> {
    let data = open(pins, name)?;
    let capacity = data.info().map_err(|e| failed(pins, name, &e))?.max_entries();
    let table: LpmTrie<MapData, K, V> = Map::LpmTrie(data).try_into().map_err(|e| failed(pins, name, &e))?;
    let used = table.keys().filter(Result::is_ok).count();
    Ok(Fill {
        map: name.to_owned(),
        used: used as u64,
        capacity: capacity.into(),
        full: "refuses".to_owned(),
    })
}

fn open(pins: &Path, name: &str) -> Result<MapData, DataplaneError> {
    MapData::from_pin(pins.join(name)).map_err(|e| failed(pins, name, &e))
}

fn failed(pins: &Path, name: &str, error: &(dyn std::error::Error + 'static)) -> DataplaneError {
    DataplaneError::kernel(format!("read {}", pins.join(name).display()), chain(error))
}
