//! Loading and pinning. A new agent's programs are attached before the old ones are let go, and both use the same pinned
//! maps: no connection meets a moment without them. An agent of another layout keeps its tables and its programs in place until
//! the new ones are filled ([`Links::take_over`]); the flows that pass are in tables that both use.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use oarlock_ebpf::affinity::{Member, SourceRange};
use oarlock_ebpf::count::{BackendCounts, ServiceCounts};
use oarlock_ebpf::flow::Flow;
use oarlock_ebpf::flow6::{Flow6, Translation6};
use oarlock_ebpf::layout::{Backend, Believed, Believed6, ServiceLine, SocketKey, SocketKey6};
use oarlock_ebpf::policy::Allowed;
use oarlock_ebpf::table::Bucket;
use oarlock_ebpf::{LAYOUT_VERSION, maps};

use super::addresses::Addresses;
use super::answering::Ranges;
use super::attach::{Hooks, LinkMaps, Links};
use super::door::Doors;
use super::opted_out::OptedOut;
use super::{DataplaneConfig, DataplaneError, policies, six};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OARLOCK_BPF_EMBEDDED"));
const MAPS: [&str; 37] = [
    maps::FRONTENDS,
    maps::FRONTENDS6,
    maps::SERVICE_TABLE,
    maps::SLOTS,
    maps::BACKENDS,
    maps::ROUND_ROBIN,
    maps::SOCKETS,
    maps::SOCKETS6,
    maps::COUNTERS,
    maps::SERVICE_COUNTS,
    maps::BACKEND_COUNTS,
    maps::WATCH,
    maps::EVENTS,
    maps::AFFINITY,
    maps::MEMBERS,
    maps::SOURCE_RANGES,
    maps::OPTED_OUT,
    maps::SETTINGS,
    maps::ADDRESSES,
    maps::DIRECT,
    maps::FLOWS,
    maps::FLOW_SEED,
    maps::FRAGMENTS,
    maps::SETTINGS6,
    maps::ADDRESSES6,
    maps::FLOWS6_TCP,
    maps::FLOWS6_OTHER,
    maps::FRAGMENTS6,
    maps::PROGRAMS6,
    maps::EXPRESS6,
    maps::ISOLATED,
    maps::IDENTITIES,
    maps::IDENTITIES6,
    maps::RULES,
    maps::ALLOWED,
    maps::ALLOWED6,
    maps::POLICIES,
];

/// Tables of what passes, which agents of other layouts share as long as these bytes are the same: name, and bytes of a key and of
/// a value. Whoever changes what the bytes mean without changing how many there are gives the map another name.
const SHARED: [(&str, usize, usize); 8] = [
    (maps::FLOWS, size_of::<u32>(), size_of::<Bucket>()),
    (maps::FLOW_SEED, size_of::<u32>(), size_of::<u64>()),
    (maps::FLOWS6_TCP, size_of::<Flow6>(), size_of::<Translation6>()),
    (maps::FLOWS6_OTHER, size_of::<Flow6>(), size_of::<Translation6>()),
    (maps::SOCKETS, size_of::<SocketKey>(), size_of::<Believed>()),
    (maps::SOCKETS6, size_of::<SocketKey6>(), size_of::<Believed6>()),
    (maps::ALLOWED, size_of::<Flow>(), size_of::<Allowed>()),
    (maps::ALLOWED6, size_of::<Flow6>(), size_of::<Allowed>()),
];

/// Handles of the maps that the agent writes or reads.
pub(super) struct Handles {
    pub(super) frontends: Doors,
    pub(super) lines: Array<MapData, ServiceLine>,
    pub(super) slots: Array<MapData, u32>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) members: HashMap<MapData, Member, u32>,
    pub(super) source_ranges: LpmTrie<MapData, SourceRange, u32>,
    pub(super) sockets: HashMap<MapData, SocketKey, Believed>,
    pub(super) sockets6: HashMap<MapData, SocketKey6, Believed6>,
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) service_counts: PerCpuArray<MapData, ServiceCounts>,
    pub(super) backend_counts: PerCpuArray<MapData, BackendCounts>,
}

/// Where all of a node is pinned. A dot is not allowed in names of the BPF file system (kernel/bpf/inode.c, bpf_lookup), but
/// is in those of nodes; an underscore is the other way round.
pub(super) fn folder(bpffs: &Path, node_name: &str) -> PathBuf {
    bpffs.join("oarlock").join(node_name.replace('.', "_"))
}

/// Where a node's programs and maps of this layout are pinned.
pub(super) fn pins(bpffs: &Path, node_name: &str) -> PathBuf {
    folder(bpffs, node_name).join(format!("v{LAYOUT_VERSION}"))
}

/// The programs, as they were built.
pub(super) fn object() -> Result<&'static [u8], DataplaneError> {
    if OBJECT.is_empty() { Err(DataplaneError::NoObject) } else { Ok(OBJECT) }
}

/// Loads everything, adopting pinned maps, and attaches to the node's cgroup.
pub(super) fn load(config: &DataplaneConfig) -> Result<(Handles, policies::Handles, Links), DataplaneError> {
    let pins = pins(&config.bpffs, &config.node_name);
    fs::create_dir_all(&pins).map_err(|e| DataplaneError::Host {
        what: format!("cannot create {}", pins.display()),
        why: format!("{e}; is the BPF file system mounted? mount -t bpf bpf {}", config.bpffs.display()),
    })?;
    let others = others(&pins);
    for other in &others {
        share(other, &pins);
    }
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.join(name));
    }
    count_backends(&mut loader, &pins, config.count_backends);
    let mut ebpf =
        loader.load(object()?).map_err(|e| DataplaneError::kernel("load the BPF object", chain(&e)))?;
    let (cgroup, cgroup_path) = open_cgroup(&config.cgroup)?;
    let handles = handles(&mut ebpf)?;
    let of_policies = policies::Handles {
        isolated: handle(&mut ebpf, maps::ISOLATED)?,
        identities: policies::IdentityTables {
            four: handle(&mut ebpf, maps::IDENTITIES)?,
            six: handle(&mut ebpf, maps::IDENTITIES6)?,
        },
        rules: handle(&mut ebpf, maps::RULES)?,
        allowed: handle(&mut ebpf, maps::ALLOWED)?,
        allowed6: handle(&mut ebpf, maps::ALLOWED6)?,
        revision: handle(&mut ebpf, maps::POLICIES)?,
    };
    let of_links = LinkMaps {
        settings: handle(&mut ebpf, maps::SETTINGS)?,
        addresses: Addresses {
            four: handle(&mut ebpf, maps::ADDRESSES)?,
            six: handle(&mut ebpf, maps::ADDRESSES6)?,
        },
        answering: Ranges(handle(&mut ebpf, maps::DIRECT)?),
        opted_out: OptedOut(handle(&mut ebpf, maps::OPTED_OUT)?),
        six: six::Maps {
            settings: handle(&mut ebpf, maps::SETTINGS6)?,
            tcp: handle(&mut ebpf, maps::FLOWS6_TCP)?,
            other: handle(&mut ebpf, maps::FLOWS6_OTHER)?,
            programs: handle(&mut ebpf, maps::PROGRAMS6)?,
            express: handle(&mut ebpf, maps::EXPRESS6)?,
        },
    };
    sow(&mut ebpf)?;
    let hooks = Hooks {
        cgroup,
        cgroup_path,
        pins,
        others,
        uplinks: config.uplinks.clone(),
        masquerade: config.masquerade,
        tc: config.tc,
        overlay: None,
    };
    Ok((handles, of_policies, Links::open(ebpf, of_links, hooks)?))
}

/// Gives a new table of flows what its places are told by. The map stays where it is: programs that are loaded later need it.
fn sow(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    let failed = |why: String| DataplaneError::kernel(format!("write the map {}", maps::FLOW_SEED), why);
    let map =
        ebpf.map_mut(maps::FLOW_SEED).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
    let mut seed: Array<_, u64> = map.try_into().map_err(|e| failed(chain(&e)))?;
    if seed.get(&0, 0).map_err(|e| failed(chain(&e)))? == 0 {
        let (random, _) = uuid::Uuid::new_v4().as_u64_pair();
        seed.set(0, random | 1, 0).map_err(|e| failed(chain(&e)))?;
    }
    Ok(())
}

/// Backends are counted or not: their counters are as large as that takes. Another size than an earlier agent's begins anew.
fn count_backends(loader: &mut EbpfLoader<'_>, pins: &Path, wanted: bool) {
    let size = if wanted { maps::MAX_BACKENDS } else { 1 };
    let pin = pins.join(maps::BACKEND_COUNTS);
    let present = MapData::from_pin(&pin).and_then(|map| map.info()).map(|info| info.max_entries());
    if present.is_ok_and(|present| present != size) {
        // Programs of the earlier agent keep theirs for as long as they are.
        let _ = fs::remove_file(&pin);
    }
    loader.map_max_entries(maps::BACKEND_COUNTS, size);
    if wanted {
        loader.override_global("COUNT_BACKENDS", &1_u32, true);
    }
}

/// Where agents of other layouts have pinned theirs for this node.
fn others(pins: &Path) -> Vec<PathBuf> {
    let layouts = pins.parent().and_then(|node| fs::read_dir(node).ok());
    layouts.into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path != pins).collect()
}

/// Uses another layout's tables of what passes as they are.
fn share(other: &Path, pins: &Path) {
    for (name, key, value) in SHARED {
        let Ok(table) = MapData::from_pin(other.join(name)) else { continue };
        let fits = table.info().is_ok_and(|info| {
            (info.key_size(), info.value_size())
                == (key.try_into().unwrap_or(0), value.try_into().unwrap_or(0))
        });
        // One that is pinned already was so by an agent that did not get further; it is the same.
        if let Err(error) = if fits { table.pin(pins.join(name)) } else { continue } {
            tracing::debug!(table = name, %error, "not taken over from another layout");
        }
    }
}

/// The node's cgroup in the v2 hierarchy, wherever that is mounted; made if it is missing.
fn open_cgroup(cgroup: &str) -> Result<(File, PathBuf), DataplaneError> {
    let root = cgroup2_root().ok_or_else(|| DataplaneError::Host {
        what: "no cgroup v2 hierarchy is mounted".to_owned(),
        why: "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified".to_owned(),
    })?;
    let path = root.join(cgroup.trim_start_matches('/'));
    let failed = |e: std::io::Error| DataplaneError::Host {
        what: format!("cannot use the cgroup {}", path.display()),
        why: e.to_string(),
    };
    fs::create_dir_all(&path).map_err(failed)?;
    let opened = File::open(&path).map_err(failed)?;
    Ok((opened, path))
}

/// Removes a node's cgroup and its parents, as far as nothing else is in them.
pub(super) fn remove_cgroup(cgroup: &str) {
    let Some(root) = cgroup2_root() else { return };
    let path = root.join(cgroup.trim_start_matches('/'));
    for path in path.ancestors().take_while(|path| *path != root) {
        if fs::remove_dir(path).is_err() {
            return;
        }
    }
}

pub(super) fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields =
        mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|f| f.get(2) == Some(&"cgroup2"))?;
    fields.get(1).map(PathBuf::from)
}

fn handles(ebpf: &mut Ebpf) -> Result<Handles, DataplaneError> {
    Ok(Handles {
        frontends: Doors { four: handle(ebpf, maps::FRONTENDS)?, six: handle(ebpf, maps::FRONTENDS6)? },
        lines: handle(ebpf, maps::SERVICE_TABLE)?,
        slots: handle(ebpf, maps::SLOTS)?,
        backends: handle(ebpf, maps::BACKENDS)?,
        members: handle(ebpf, maps::MEMBERS)?,
        source_ranges: handle(ebpf, maps::SOURCE_RANGES)?,
        sockets: handle(ebpf, maps::SOCKETS)?,
        sockets6: handle(ebpf, maps::SOCKETS6)?,
        counters: handle(ebpf, maps::COUNTERS)?,
        service_counts: handle(ebpf, maps::SERVICE_COUNTS)?,
        backend_counts: handle(ebpf, maps::BACKEND_COUNTS)?,
    })
}

fn handle<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, DataplaneError>
where
    M: TryFrom<Map>,
    M::Error: std::error::Error + 'static,
{
    let what = || format!("use the map {name}");
    let map =
        ebpf.take_map(name).ok_or_else(|| DataplaneError::kernel(what(), "the object does not hold it"))?;
    M::try_from(map).map_err(|e| DataplaneError::kernel(what(), chain(&e)))
}

/// An error with its causes: aya's own texts leave them to the caller.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
