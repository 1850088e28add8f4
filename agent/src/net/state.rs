//! What the network has given to whom, kept in a file so that a restart of the agent changes nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use oarlock_daemon::files::{read_if_present, write_atomic};
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

/// The file and its content.
#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    pub(super) given: Given,
}

impl State {
    /// Reads the file; a missing one is an empty state.
    pub(super) fn open(path: &Path) -> Result<Self, NetError> {
        let named =
            |source| NetError::Io { what: format!("use the network state {}", path.display()), source };
        let given = match read_if_present(path).map_err(named)? {
            None => Given::default(),
            Some(text) => serde_json::from_str(&text).map_err(|e| named(std::io::Error::other(e)))?,
        };
        Ok(Self { path: path.to_owned(), given })
    }

    /// Writes the file, whole or not at all.
    pub(super) fn save(&self) -> Result<(), NetError> {
        let named =
            |source| NetError::Io { what: format!("save the network state {}", self.path.display()), source };
        let text = serde_json::to_vec_pretty(&self.given).map_err(|e| named(std::io::Error::other(e)))?;
        write_atomic(&self.path, &text, 0o600).map_err(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_survives_a_restart_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let mut state = State::open(&path).unwrap();
        let pod = PodNet {
            ip: Ipv4Addr::new(10, 244, 1, 7),
            ip6: None,
            interface: "oar0".into(),
            ends: Some([2; 12]),
            bandwidth: Bandwidth { ingress: Some(1000), egress: None },
            per_packet: Some(7),
        };
        state.given.pods.insert("u1".into(), pod.clone());
        state.save().unwrap();
        assert_eq!(State::open(&path).unwrap().given.pods["u1"], pod);
        std::fs::write(&path, "{").unwrap();
        let error = State::open(&path).unwrap_err().to_string();
        assert!(error.contains("network.json"), "{error}");
    }
}
