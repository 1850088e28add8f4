//! What the programs have counted of each Service's port and of each backend, summed over CPUs, under their names.
//!
//! Read once each, when somebody asks: as many reads as there are Services with a number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use aya::maps::{Map, MapData, PerCpuArray};
use oarlock_ebpf::count::{BackendCounts, DROPS, ServiceCounts};
use oarlock_ebpf::maps;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::compile::{Peer, PortName};
use super::load::{chain, pins};
use super::{DataplaneConfig, DataplaneError};

/// Whose the counters under each number are. Told by those who write the tables.
#[derive(Debug)]
pub struct Directory {
    services: Mutex<BTreeMap<u32, Arc<PortName>>>,
    /// None: backends are not counted.
    backends: Option<Mutex<BTreeMap<u32, Peer>>>,
}

impl Directory {
    pub(super) fn new(count_backends: bool) -> Self {
        Self { services: Mutex::default(), backends: count_backends.then(Mutex::default) }
    }

    /// Whose a number is.
    pub(super) fn name(&self, number: u32) -> Option<Arc<PortName>> {
        self.services.lock().get(&number).cloned()
    }

    pub(super) fn has_backends(&self) -> bool {
        self.backends.is_some()
    }

    pub(super) fn service(&self, number: u32, name: Option<&Arc<PortName>>) {
        let mut services = self.services.lock();
        match name {
            Some(name) if number != 0 => drop(services.insert(number, Arc::clone(name))),
            _ => drop(services.remove(&number)),
        }
    }

    pub(super) fn backend(&self, index: u32, peer: Option<Peer>) {
        let Some(backends) = &self.backends else { return };
        match peer {
            Some(peer) => drop(backends.lock().insert(index, peer)),
            None => drop(backends.lock().remove(&index)),
        }
    }
}

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Of each Service's port, by name.
    pub services: BTreeMap<Arc<PortName>, ServiceCounts>,
    /// Of each backend, if they are counted.
    pub backends: BTreeMap<SocketAddr, BackendCounts>,
}

/// What a Service's port had, for those who ask over HTTP. Sums of nodes can be made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTraffic {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub service: String,
    /// The port's name, or its number.
    pub port: String,
    /// Translated packets to backends and back.
    pub packets: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
    /// Connections of clients on the node and outside.
    pub connections: [u64; 2],
    /// What went nowhere, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Traffic {
    /// What the Services had.
    #[must_use]
    pub fn of_services(&self) -> Vec<ServiceTraffic> {
        let one = |(name, counts): (&Arc<PortName>, &ServiceCounts)| {
            let drops = DROPS.iter().zip(counts.dropped).filter(|(_, count)| *count != 0);
            ServiceTraffic {
                namespace: name.namespace.clone(),
                service: name.service.clone(),
                port: name.port.clone(),
                packets: counts.packets,
                bytes: counts.bytes,
                connections: counts.begun,
                drops: drops.map(|(reason, count)| (reason.name().to_owned(), count)).collect(),
            }
        };
        self.services.iter().map(one).collect()
    }

    /// Since the Services and backends became known to this node.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn of(config: &DataplaneConfig, directory: &Directory) -> Result<Self, DataplaneError> {
        let pins = pins(&config.bpffs, &config.node_name);
        let table = open::<ServiceCounts>(&pins, maps::SERVICE_COUNTS)?;
        let mut traffic = Self::default();
        // A copy: reading takes longer than those who write the tables should wait.
        let services = directory.services.lock().clone();
        for (number, name) in services {
            if let Ok(each) = table.get(&number, 0) {
                traffic.services.insert(name, each.iter().fold(ServiceCounts::default(), add));
            }
        }
        let Some(backends) = &directory.backends else { return Ok(traffic) };
        let table = open::<BackendCounts>(&pins, maps::BACKEND_COUNTS)?;
        let backends = backends.lock().clone();
        for (index, (ip, port)) in backends {
            if let Ok(each) = table.get(&index, 0) {
                let sum = each.iter().fold(BackendCounts::default(), add_of_backend);
                traffic.backends.insert(SocketAddr::new(ip, port), sum);
            }
        }
        Ok(traffic)
    }
}

fn add(sum: ServiceCounts, one: &ServiceCounts) -> ServiceCounts {
    ServiceCounts {
        packets: added(sum.packets, one.packets),
        bytes: added(sum.bytes, one.bytes),
        begun: added(sum.begun, one.begun),
        dropped: added(sum.dropped, one.dropped),
    }
}

fn add_of_backend(sum: BackendCounts, one: &BackendCounts) -> BackendCounts {
    BackendCounts {
        packets: added(sum.packets, one.packets),
        bytes: added(sum.bytes, one.bytes),
        begun: added(sum.begun, one.begun),
    }
}

fn added<const N: usize>(sum: [u64; N], one: [u64; N]) -> [u64; N] {
    std::array::from_fn(|at| sum[at].wrapping_add(one[at]))
}

fn open<V: aya::Pod>(pins: &Path, name: &str) -> Result<PerCpuArray<MapData, V>, DataplaneError> {
    let path = pins.join(name);
    let what = || format!("open {}", path.display());
    let data = MapData::from_pin(&path).map_err(|e| DataplaneError::kernel(what(), chain(&e)))?;
    PerCpuArray::try_from(Map::PerCpuArray(data)).map_err(|e| DataplaneError::kernel(what(), chain(&e)))
}
