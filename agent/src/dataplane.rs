//! Services in eBPF: what is wanted is compiled purely, compared with what the kernel has, and only the difference is
//! written. The only user of aya.
//!
//! Programs and maps are pinned: traffic flows while the agent is dead, and a new agent goes on where the last one was.

mod blocks;
mod compile;
mod load;
mod sync;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::desired::Snapshot;
use sync::Tables;

pub use compile::Frontends;

/// What the dataplane of a node needs to know.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// The node's name, part of the pins' path.
    pub node_name: String,
    /// The node's own address: NodePorts are answered there for local clients.
    pub node_ip: Ipv4Addr,
    /// The node's cgroup, relative to the v2 hierarchy's root.
    pub cgroup: String,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
}

/// Why the dataplane cannot do its work. Each names the map, hook or path, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The agent was built without the BPF object.
    #[error("this agent was built without its BPF programs: run `cargo xtask build`, which builds both")]
    NoObject,
    /// A path that is needed is not there.
    #[error("{what}: {why}")]
    Host {
        /// What is missing.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// The kernel refused a program, a map or a link.
    #[error("cannot {what}: {why}; `oarlock-agent check` says what this host lacks")]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's words.
        why: String,
    },
    /// A table is full.
    #[error("the map {map} is full at {capacity} entries: fewer Services or endpoints fit on this node")]
    Full {
        /// The map's name.
        map: &'static str,
        /// How many it holds.
        capacity: u32,
    },
}

impl DataplaneError {
    fn kernel(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Kernel { what: what.into(), why: why.to_string() }
    }
}

/// What a synchronisation changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Frontends written.
    pub written: usize,
    /// Frontends removed.
    pub removed: usize,
    /// Frontends that there are now.
    pub frontends: usize,
}

/// The dataplane of one node.
pub struct Dataplane {
    config: DataplaneConfig,
    tables: Tables,
}

impl Dataplane {
    /// Loads the programs, takes over what an earlier agent has pinned, and attaches to the node's cgroup.
    ///
    /// # Errors
    /// What the host lacks, in words for its administrator.
    pub fn open(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        let tables = load::load(&config)?;
        Ok(Self { tables: Tables::adopt(tables)?, config })
    }

    /// Makes the kernel's tables answer for exactly the Services of the snapshot. Idempotent.
    ///
    /// # Errors
    /// A full table or a refusal of the kernel; what was written before stands and is consistent.
    pub fn sync(&mut self, snapshot: &Snapshot) -> Result<Changed, DataplaneError> {
        self.tables.sync(&compile::compile(snapshot, self.config.node_ip))
    }

    /// Events counted by the programs since they were first loaded: (reason, count).
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, DataplaneError> {
        self.tables.counters()
    }
}
