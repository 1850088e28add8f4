//! What pods use, as their nodes say. Not in the store: who starts anew hears it within seconds.

use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use jiff::Timestamp;

use super::Key;

/// A report older than this is as good as none.
const FRESH_SECONDS: i64 = 60;

/// Usage by namespace and name of the pod. A copy shares what it has in common with the original.
pub type Usage = OrdMap<Key, Arc<PodUsage>>;

/// What a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    /// The pod's uid: one of the same name is another.
    pub uid: Box<str>,
    /// When this was heard.
    pub at: Timestamp,
    /// The time over which processor time was measured.
    pub window: Duration,
    /// Its containers.
    pub containers: Box<[ContainerUsage]>,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name.
    pub name: Box<str>,
    /// Billionths of a core.
    pub cpu_nano_cores: u64,
    /// Working set in bytes.
    pub memory: u64,
}

impl PodUsage {
    /// Whether it still says something of the present.
    #[must_use]
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        is_fresh(self.at, now)
    }
}

/// Whether what was heard then still says something of the present.
#[must_use]
pub fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    now.as_second() - at.as_second() <= FRESH_SECONDS
}
