//! What `reset` needs to know.

use std::path::PathBuf;

use clap::Args;

/// The settings of `oarlock-agent reset`.
#[derive(Debug, Clone, Args)]
pub struct ResetConfig {
    /// Where the agent kept certificates, volumes and its own state: it says there what else it has made.
    #[arg(long, env = "OARLOCK_DATA_DIR", default_value = "/var/lib/oarlock/agent", value_parser = super::absolute)]
    pub data_dir: PathBuf,
    /// The node's name. Only where the directory no longer says it.
    #[arg(long, env = "OARLOCK_NODE_NAME")]
    pub node_name: Option<String>,
    /// Where Docker listens [default: where the agent met it].
    #[arg(long, env = "DOCKER_HOST")]
    pub docker_host: Option<String>,
    /// The cgroup of the node's containers [default: the agent's, else /oarlock/<node name>].
    #[arg(long, env = "OARLOCK_CGROUP_PARENT")]
    pub cgroup_parent: Option<String>,
    /// Where the BPF file system is mounted [default: where it was].
    #[arg(long, env = "OARLOCK_BPFFS")]
    pub bpffs: Option<PathBuf>,
    /// Leave the directories that were made for claims, with what pods have written there.
    #[arg(long)]
    pub keep_volumes: bool,
    /// Only say what would be removed.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long, short = 'y')]
    pub yes: bool,
}
