//! The pods that are served packet by packet, as the programs know them: by their links, and by their network namespaces.

use std::collections::BTreeSet;

use aya::maps::{HashMap, MapData};
use oarlock_ebpf::{maps, opted_out};

use super::DataplaneError;

/// The kernel's table.
pub(super) struct OptedOut(pub(super) HashMap<MapData, u64, u32>);

impl OptedOut {
    /// Makes it hold exactly these pods, by link and cookie: first what their links are asked for, then their sockets.
    pub(super) fn set(&mut self, pods: &[(u32, u64)]) -> Result<(), DataplaneError> {
        let failed = |e| DataplaneError::kernel(format!("write the map {}", maps::OPTED_OUT), e);
        let keys: BTreeSet<u64> = pods.iter().flat_map(|(link, cookie)| keys(*link, *cookie)).collect();
        let present: BTreeSet<u64> = self.0.keys().filter_map(Result::ok).collect();
        // Links' keys are the greater ones.
        for key in keys.iter().rev().filter(|key| !present.contains(*key)) {
            self.0.insert(key, 1, 0).map_err(failed)?;
        }
        for key in present.difference(&keys) {
            self.0.remove(key).map_err(failed)?;
        }
        Ok(())
    }

    /// What is in it, for people.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.keys().filter_map(Result::ok).map(name).collect()
    }

    /// Whether there is any.
    pub(super) fn is_anybody(&self) -> bool {
        self.0.keys().next().is_some()
    }
}

/// The keys of a pod.
pub(super) const fn keys(link: u32, cookie: u64) -> [u64; 2] {
    [opted_out::of_link(link), opted_out::of_namespace(cookie)]
}

/// What a key stands for, for people.
pub(super) fn name(key: u64) -> String {
    opted_out::link(key).map_or_else(|| format!("namespace {key}"), |link| format!("link {link}"))
}
