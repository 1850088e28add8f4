//! Loading, pinning and attaching. A new agent's programs are attached before the old ones are let go, and both use the
//! same pinned maps: no connection meets a moment without them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use oarlock_ebpf::affinity::{Member, SourceRange};
use oarlock_ebpf::layout::{Backend, FrontendKey, ServiceLine};
use oarlock_ebpf::{LAYOUT_VERSION, maps};

use super::attach::{LinkMaps, Links};
use super::{DataplaneConfig, DataplaneError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("OARLOCK_BPF_EMBEDDED"));
const PROGRAMS: [&str; 4] = ["sock_connect4", "sock_sendmsg4", "sock_recvmsg4", "sock_getpeername4"];
const MAPS: [&str; 15] = [
    maps::FRONTENDS,
    maps::SERVICE_TABLE,
    maps::SLOTS,
    maps::BACKENDS,
    maps::ROUND_ROBIN,
    maps::SOCKETS,
    maps::COUNTERS,
    maps::AFFINITY,
    maps::MEMBERS,
    maps::SOURCE_RANGES,
    maps::SETTINGS,
    maps::ADDRESSES,
    maps::FLOWS_TCP,
    maps::FLOWS_OTHER,
    maps::FRAGMENTS,
];

/// Handles of the maps that the agent writes or reads.
pub(super) struct Handles {
    pub(super) frontends: HashMap<MapData, FrontendKey, u32>,
    pub(super) lines: Array<MapData, ServiceLine>,
    pub(super) slots: Array<MapData, u32>,
    pub(super) backends: Array<MapData, Backend>,
    pub(super) members: HashMap<MapData, Member, u32>,
    pub(super) source_ranges: LpmTrie<MapData, SourceRange, u32>,
    pub(super) counters: PerCpuArray<MapData, u64>,
}

/// Where a node's programs and maps of this layout are pinned.
pub(super) fn pins(bpffs: &Path, node_name: &str) -> PathBuf {
    bpffs.join("oarlock").join(node_name).join(format!("v{LAYOUT_VERSION}"))
}

/// The programs, as they were built.
pub(super) fn object() -> Result<&'static [u8], DataplaneError> {
    if OBJECT.is_empty() { Err(DataplaneError::NoObject) } else { Ok(OBJECT) }
}

/// Loads everything, adopting pinned maps, and attaches to the node's cgroup.
pub(super) fn load(config: &DataplaneConfig) -> Result<(Handles, Links), DataplaneError> {
    let pins = pins(&config.bpffs, &config.node_name);
    fs::create_dir_all(&pins).map_err(|e| DataplaneError::Host {
        what: format!("cannot create {}", pins.display()),
        why: format!("{e}; is the BPF file system mounted? mount -t bpf bpf {}", config.bpffs.display()),
    })?;
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.join(name));
    }
    let mut ebpf =
        loader.load(object()?).map_err(|e| DataplaneError::kernel("load the BPF object", chain(&e)))?;
    let cgroup = open_cgroup(&config.cgroup)?;
    for name in PROGRAMS {
        attach(&mut ebpf, name, &cgroup, &pins)?;
    }
    let handles = handles(&mut ebpf)?;
    let of_links = LinkMaps {
        settings: handle(&mut ebpf, maps::SETTINGS)?,
        addresses: handle(&mut ebpf, maps::ADDRESSES)?,
        tcp: handle(&mut ebpf, maps::FLOWS_TCP)?,
        other: handle(&mut ebpf, maps::FLOWS_OTHER)?,
    };
    Ok((handles, Links::open(ebpf, of_links, pins, &config.uplinks)?))
}

fn attach(ebpf: &mut Ebpf, name: &str, cgroup: &File, pins: &Path) -> Result<(), DataplaneError> {
    let failed = |why: String| DataplaneError::kernel(format!("attach {name} to the node's cgroup"), why);
    let program = ebpf.program_mut(name).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
    let program: &mut CgroupSockAddr = program.try_into().map_err(|e| failed(chain(&e)))?;
    program.load().map_err(|e| failed(chain(&e)))?;
    // A link takes no flags and always stands beside others (kernel/bpf/cgroup.c, cgroup_bpf_link_attach).
    let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(|e| failed(chain(&e)))?;
    let link = program.take_link(id).map_err(|e| failed(chain(&e)))?;
    let link: FdLink = link.try_into().map_err(|e| failed(chain(&e)))?;
    let (pin, fresh) = (pins.join(format!("link_{name}")), pins.join(format!("link_{name}_new")));
    // A crash between these steps leaves a pin of this name, whose program is the one of the crashed agent.
    let _ = fs::remove_file(&fresh);
    link.pin(&fresh).map_err(|e| failed(chain(&e)))?;
    let _ = fs::remove_file(&pin);
    fs::rename(&fresh, &pin).map_err(|e| failed(e.to_string()))
}

/// The node's cgroup in the v2 hierarchy, wherever that is mounted; made if it is missing.
fn open_cgroup(cgroup: &str) -> Result<File, DataplaneError> {
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
    File::open(&path).map_err(failed)
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

fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let fields =
        mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|f| f.get(2) == Some(&"cgroup2"))?;
    fields.get(1).map(PathBuf::from)
}

fn handles(ebpf: &mut Ebpf) -> Result<Handles, DataplaneError> {
    Ok(Handles {
        frontends: handle(ebpf, maps::FRONTENDS)?,
        lines: handle(ebpf, maps::SERVICE_TABLE)?,
        slots: handle(ebpf, maps::SLOTS)?,
        backends: handle(ebpf, maps::BACKENDS)?,
        members: handle(ebpf, maps::MEMBERS)?,
        source_ranges: handle(ebpf, maps::SOURCE_RANGES)?,
        counters: handle(ebpf, maps::COUNTERS)?,
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
