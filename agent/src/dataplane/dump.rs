//! What the kernel's tables hold, as text for people. Reads the pins alone: it works beside a running agent, and without one.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use oarlock_ebpf::flow::{self, Flow, Owner, REPLY, Settings, Translation};
use oarlock_ebpf::layout::{Backend, FrontendKey, SOURCE_RANGES, ServiceLine, SlotRange};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;

use super::DataplaneError;
use super::load::{chain, pins};

/// The tables of a node: what it is, its Services with their backends, its addresses, its flows, and what was counted.
///
/// # Errors
/// No tables are pinned for this node, or they cannot be read.
pub fn dump(bpffs: &Path, node_name: &str) -> Result<String, DataplaneError> {
    let pins = pins(bpffs, node_name);
    if !pins.exists() {
        return Err(DataplaneError::Host {
            what: format!("nothing is pinned at {}", pins.display()),
            why:
                "no agent of this name and version has run here; `ls` its parent folder shows those that have"
                    .to_owned(),
        });
    }
    let mut out = String::new();
    settings(&pins, &mut out)?;
    services(&pins, &mut out)?;
    addresses(&pins, &mut out)?;
    flows(&pins, &mut out)?;
    counters(&pins, &mut out)?;
    Ok(out)
}

fn settings(pins: &Path, out: &mut String) -> Result<(), DataplaneError> {
    let table: Array<MapData, Settings> = open(pins, maps::SETTINGS, Map::Array)?;
    let settings = table.get(&0, 0).unwrap_or_default();
    let _ = writeln!(
        out,
        "node {}, pods of the cluster {} mask {}, ClusterIPs for outsiders: {}",
        Ipv4Addr::from(settings.node),
        Ipv4Addr::from(settings.cluster),
        Ipv4Addr::from(settings.mask),
        if settings.external_cluster_ip == 0 { "no" } else { "yes" }
    );
    if settings.overlay != 0 {
        let address = Ipv4Addr::from(settings.overlay_address);
        let _ = writeln!(out, "pods of other nodes by the link {} as {address}", settings.overlay);
    }
    Ok(())
}

fn services(pins: &Path, out: &mut String) -> Result<(), DataplaneError> {
    let frontends: HashMap<MapData, FrontendKey, u32> = open(pins, maps::FRONTENDS, Map::HashMap)?;
    let lines: Array<MapData, ServiceLine> = open(pins, maps::SERVICE_TABLE, Map::Array)?;
    let slots: Array<MapData, u32> = open(pins, maps::SLOTS, Map::Array)?;
    let backends: Array<MapData, Backend> = open(pins, maps::BACKENDS, Map::Array)?;
    let mut all: Vec<(FrontendKey, u32)> = frontends.iter().filter_map(Result::ok).collect();
    all.sort();
    let _ = writeln!(out, "\nfrontends ({}):", all.len());
    for (key, index) in all {
        let line = lines.get(&index, 0).unwrap_or_default();
        let peers = |range: SlotRange| {
            let places = range.base()..range.base() + u32::from(range.count());
            let peers = places.filter_map(|slot| {
                let backend = backends.get(&slots.get(&slot, 0).ok()?, 0).ok()?;
                Some(SocketAddrV4::new(backend.address().into(), backend.port()).to_string())
            });
            let peers: Vec<String> = peers.collect();
            if peers.is_empty() { "nobody: refused".to_owned() } else { peers.join(" ") }
        };
        let frontend = SocketAddrV4::new(key.address().into(), key.port());
        let _ = write!(out, "  {} {frontend} -> {}", protocol(key.protocol()), peers(line.inside));
        if line.outside != line.inside {
            let _ = write!(out, "; from outside -> {}", peers(line.outside));
        }
        if line.affinity != 0 {
            let _ = write!(out, "; each client the same for {} s", line.affinity);
        }
        if line.flags & SOURCE_RANGES != 0 {
            let _ = write!(out, "; from outside only its source ranges");
        }
        let _ = writeln!(out);
    }
    Ok(())
}

fn addresses(pins: &Path, out: &mut String) -> Result<(), DataplaneError> {
    let table: HashMap<MapData, [u8; 4], Owner> = open(pins, maps::ADDRESSES, Map::HashMap)?;
    let mut all: Vec<([u8; 4], Owner)> = table.iter().filter_map(Result::ok).collect();
    all.sort_unstable();
    for (kind, what) in [(flow::LOCAL_POD, "pods of this node"), (flow::NODE, "nodes")] {
        let of_kind =
            all.iter().filter(|(_, owner)| owner.kind == kind).map(|(ip, _)| Ipv4Addr::from(*ip).to_string());
        let _ = writeln!(out, "\n{what}: {}", of_kind.collect::<Vec<_>>().join(" "));
    }
    Ok(())
}

fn flows(pins: &Path, out: &mut String) -> Result<(), DataplaneError> {
    let mut all: Vec<(Flow, Translation)> = Vec::new();
    for name in [maps::FLOWS_TCP, maps::FLOWS_OTHER] {
        let table: HashMap<MapData, Flow, Translation> = open(pins, name, Map::LruHashMap)?;
        all.extend(table.iter().filter_map(Result::ok).filter(|(_, entry)| entry.backend != REPLY));
    }
    all.sort_by_key(|(key, _)| *key);
    let _ = writeln!(out, "\ntranslated flows ({}):", all.len());
    let ends = |flow: &Flow| {
        let source = SocketAddrV4::new(flow.source.into(), flow.source_port());
        format!("{source} to {}", SocketAddrV4::new(flow.destination.into(), flow.destination_port()))
    };
    for (key, entry) in all {
        let closing = if entry.seen & flow::CLOSING == 0 { "" } else { ", closing" };
        let _ = writeln!(
            out,
            "  {} {} as {}, seen {} s after boot{closing}",
            protocol(key.protocol),
            ends(&key),
            ends(&entry.to),
            entry.seen & !flow::CLOSING
        );
    }
    Ok(())
}

fn counters(pins: &Path, out: &mut String) -> Result<(), DataplaneError> {
    let table: PerCpuArray<MapData, u64> = open(pins, maps::COUNTERS, Map::PerCpuArray)?;
    let _ = writeln!(out, "\ncounted:");
    for reason in Reason::ALL {
        let count: u64 = table.get(&(reason as u32), 0).map(|each| each.iter().sum()).unwrap_or_default();
        let _ = writeln!(out, "  {} {count}", reason.name());
    }
    Ok(())
}

fn protocol(number: u8) -> &'static str {
    if number == flow::TCP { "TCP" } else { "UDP" }
}

fn open<M>(pins: &Path, name: &'static str, kind: fn(MapData) -> Map) -> Result<M, DataplaneError>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + 'static,
{
    let path: PathBuf = pins.join(name);
    let what = || format!("open {}", path.display());
    let data = MapData::from_pin(&path).map_err(|e| DataplaneError::kernel(what(), chain(&e)))?;
    M::try_from(kind(data)).map_err(|e| DataplaneError::kernel(what(), chain(&e)))
}
