//! What the network has given to whom, kept in a file so that a restart of the agent changes nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock_daemon::files::{read_if_present, write_atomic};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Bandwidth, NetError};

/// The address and link of one pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodNet {
    pub(super) ip: Ipv4Addr,
    /// Of a pod that was given its addresses while the node had a range of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ip6: Option<Ipv6Addr>,
    pub(super) interface: String,
    /// As in `PodNetResult`. A file of an earlier version has none.
    #[serde(default)]
    pub(super) ends: Option<[u8; 12]>,
    /// How much the pod may receive and send.
    #[serde(default)]
    pub(super) bandwidth: Bandwidth,
    /// As in `PodNetResult`; 0 before its namespace was looked at.
    #[serde(default)]
    pub(super) per_packet: Option<u64>,
}

/// All pods of the node by uid.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) pods: BTreeMap<String, PodNet>,
    /// The address given last.
    pub(super) last: Option<Ipv4Addr>,
}

/// What is given, and the file that holds it.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    given: Mutex<Version>,
    /// Which version the file holds; locked while it is written.
    written: Arc<tokio::sync::Mutex<u64>>,
}

#[derive(Debug)]
struct Version {
    given: Given,
    number: u64,
}

impl Kept {
    /// Reads the file; a missing one is an empty state.
    pub(super) fn open(path: &Path) -> Result<Self, NetError> {
        let named =
            |source| NetError::Io { what: format!("use the network state {}", path.display()), source };
        let given = match read_if_present(path).map_err(named)? {
            None => Given::default(),
            Some(text) => serde_json::from_str(&text).map_err(|e| named(std::io::Error::other(e)))?,
        };
        let given = Mutex::new(Version { given, number: 0 });
        Ok(Self { path: path.to_owned(), given, written: Arc::default() })
    }

    /// Looks at what is given.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Given) -> T) -> T {
        look(&self.given.lock().given)
    }

    /// Changes what is given. It is in the file after the next [`Self::save`].
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Given) -> T) -> T {
        let mut present = self.given.lock();
        present.number += 1;
        change(&mut present.given)
    }

    /// Returns once what is given now is in the file, which is written whole or not at all. What changes while it is written is
    /// written together after that, however many wait: each time the disk has to confirm it.
    pub(super) async fn save(&self) -> Result<(), NetError> {
        let named =
            |source| NetError::Io { what: format!("save the network state {}", self.path.display()), source };
        let asked = self.given.lock().number;
        let mut written = Arc::clone(&self.written).lock_owned().await;
        if *written >= asked {
            return Ok(());
        }
        let (number, text) = {
            let present = self.given.lock();
            (present.number, serde_json::to_vec_pretty(&present.given))
        };
        let text = text.map_err(|e| named(std::io::Error::other(e)))?;
        let path = self.path.clone();
        let write = move || {
            write_atomic(&path, &text, 0o600)?;
            *written = number;
            Ok(())
        };
        let outcome = tokio::task::spawn_blocking(write).await;
        outcome.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> PodNet {
        PodNet {
            ip: Ipv4Addr::new(10, 244, 1, 7),
            ip6: None,
            interface: "oar0".into(),
            ends: Some([2; 12]),
            bandwidth: Bandwidth { ingress: Some(1000), egress: None },
            per_packet: Some(7),
        }
    }

    #[tokio::test]
    async fn what_was_given_survives_a_restart_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let kept = Kept::open(&path).unwrap();
        kept.change(|given| given.pods.insert("u1".into(), pod()));
        kept.save().await.unwrap();
        assert_eq!(Kept::open(&path).unwrap().look(|given| given.pods["u1"].clone()), pod());
        std::fs::write(&path, "{").unwrap();
        let error = Kept::open(&path).unwrap_err().to_string();
        assert!(error.contains("network.json"), "{error}");
    }

    #[tokio::test]
    async fn those_who_wait_are_written_together_and_nothing_is_written_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let kept = Kept::open(&path).unwrap();
        let writing = Arc::clone(&kept.written).lock_owned().await;
        kept.change(|given| given.pods.insert("u1".into(), pod()));
        let mut first = std::pin::pin!(kept.save());
        assert!(futures_util::poll!(&mut first).is_pending());
        kept.change(|given| given.pods.insert("u2".into(), pod()));
        drop(writing);
        first.await.unwrap();
        assert_eq!(Kept::open(&path).unwrap().look(|given| given.pods.len()), 2);
        std::fs::remove_file(&path).unwrap();
        kept.save().await.unwrap();
        assert!(!path.exists());
        kept.change(|given| given.last = None);
        std::fs::create_dir(&path).unwrap();
        let error = kept.save().await.unwrap_err().to_string();
        assert!(error.contains("network.json"), "{error}");
        std::fs::remove_dir(&path).unwrap();
        kept.save().await.unwrap();
        assert!(path.exists(), "what could not be written is tried again");
    }
}
