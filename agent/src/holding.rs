//! Who holds a data directory: one agent at a time, for as long as its process lives. Beside certificates and volumes it finds there
//! what it makes elsewhere on the host, so that `reset` knows where to look.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use oarlock_daemon::files::{read_if_present, write_atomic};
use serde::{Deserialize, Serialize};

const FILE: &str = "made.json";

/// Where an agent makes things.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    /// The label of its containers, and where it pins.
    pub(crate) node_name: String,
    /// The cgroup of its containers.
    pub(crate) cgroup: String,
    pub(crate) bpffs: PathBuf,
    pub(crate) docker_host: String,
}

/// The directory is ours until this is dropped, or the process is gone.
#[derive(Debug)]
pub(crate) struct Holding(#[expect(dead_code, reason = "open, it is locked")] File);

impl Holding {
    /// Takes a directory that is there.
    ///
    /// # Errors
    /// Another agent has it, or it cannot be opened.
    pub(crate) fn take(data_dir: &Path) -> anyhow::Result<Self> {
        let named = || format!("cannot use --data-dir {}", data_dir.display());
        let folder = File::open(data_dir).with_context(named)?;
        match folder.try_lock() {
            Ok(()) => Ok(Self(folder)),
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!("an agent is running on {}: stop it first", data_dir.display())
            }
            Err(TryLockError::Error(error)) => Err(error).with_context(named),
        }
    }

    /// The same for an agent, which says where it will make things.
    ///
    /// # Errors
    /// As above; the directory cannot be made or written to.
    pub(crate) fn begin(data_dir: &Path, made: &Made) -> anyhow::Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("cannot create {}", data_dir.display()))?;
        let holding = Self::take(data_dir)?;
        write_atomic(&data_dir.join(FILE), serde_json::to_string_pretty(made)?.as_bytes(), 0o600)?;
        Ok(holding)
    }
}

impl Made {
    /// What the last agent of a directory said; nothing where there was none.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let text = read_if_present(&path)?;
        let named = || format!("{} is damaged: remove it, and say --node-name", path.display());
        text.map(|text| serde_json::from_str(&text).with_context(named)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_agents_and_says_what_it_made_when_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("deep/agent");
        assert_eq!(Made::read(&data_dir).unwrap(), None);
        let made = Made {
            node_name: "n1".into(),
            cgroup: "/oarlock/n1".into(),
            bpffs: "/sys/fs/bpf".into(),
            docker_host: "unix:///x".into(),
        };
        let held = Holding::begin(&data_dir, &made).unwrap();
        let second = format!("{:#}", Holding::begin(&data_dir, &made).unwrap_err());
        assert!(second.contains("an agent is running on"), "{second}");
        drop(held);
        assert_eq!(Made::read(&data_dir).unwrap(), Some(made));
        assert!(Holding::take(&data_dir).is_ok());
    }
}
