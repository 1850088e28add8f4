//! What the programs have counted, as a metric. Read from the pinned map when somebody asks.

use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{Map, MapData, PerCpuArray};
use oarlock_ebpf::maps;
use oarlock_ebpf::reason::Reason;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use tokio::sync::watch;

use super::load::pins;
use super::{DataplaneConfig, Mode, read};
use crate::net::Reached;

/// `oarlock_dataplane_events_total{reason}`.
#[derive(Debug)]
pub struct Events(PathBuf);

impl Events {
    /// The events of a node's dataplane.
    #[must_use]
    pub fn of(config: &DataplaneConfig) -> Self {
        Self(pins(&config.bpffs, &config.node_name).join(maps::COUNTERS))
    }
}

impl Collector for Events {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(data) = MapData::from_pin(&self.0) else { return Ok(()) };
        let Ok(table) = PerCpuArray::<_, u64>::try_from(Map::PerCpuArray(data)) else { return Ok(()) };
        let mut family = encoder.encode_descriptor(
            "oarlock_dataplane_events",
            "Connections, datagrams and packets by what the eBPF programs did with them, since they were first loaded",
            None,
            MetricType::Counter,
        )?;
        for reason in Reason::ALL {
            let count: u64 = table.get(&(reason as u32), 0).map_or(0, |each| each.iter().sum());
            let labels = [("reason", reason.name())];
            let metric = family.encode_family(&labels)?;
            ConstCounter::new(count).encode(metric)?;
        }
        Ok(())
    }
}

/// `oarlock_dataplane_flow_entries` and `oarlock_dataplane_flow_entries_max`: how full the table of flows is.
#[derive(Debug)]
pub struct Flows(PathBuf);

impl Flows {
    /// The flows of a node's dataplane.
    #[must_use]
    pub fn of(config: &DataplaneConfig) -> Self {
        Self(pins(&config.bpffs, &config.node_name))
    }
}

impl Collector for Flows {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Ok(buckets) = read::buckets(&self.0) else { return Ok(()) };
        let used: usize = buckets.map(|bucket| bucket.flows().count()).sum();
        let gauges = [
            (
                "oarlock_dataplane_flow_entries",
                "Entries of the table of flows; a connection has two",
                used as u64,
            ),
            (
                "oarlock_dataplane_flow_entries_max",
                "Entries that the table of flows has room for; from a third of them on new flows may displace others",
                maps::MAX_FLOWS.into(),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(gauge)?;
        }
        Ok(())
    }
}

/// `oarlock_dataplane_uplink_info{interface,mode}`: 1 for how each uplink is served.
#[derive(Debug)]
pub struct Uplinks(Arc<Mutex<Vec<Mode>>>);

impl Uplinks {
    /// How the uplinks are served, once and for all.
    #[must_use]
    pub fn of(modes: &[Mode]) -> Self {
        Self(Arc::new(Mutex::new(modes.to_vec())))
    }

    /// How they are served whenever somebody asks.
    #[must_use]
    pub fn shared(modes: &Arc<Mutex<Vec<Mode>>>) -> Self {
        Self(Arc::clone(modes))
    }
}

impl Collector for Uplinks {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "oarlock_dataplane_uplink_info",
            "How each uplink is served: by xdp, or by tc alone",
            None,
            MetricType::Gauge,
        )?;
        for mode in self.0.lock().iter() {
            let labels = [("interface", mode.uplink.as_str()), ("mode", mode.name())];
            ConstGauge::new(1i64).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// `oarlock_dataplane_north_south_info{mode}`: 1 for who answers clients outside.
#[derive(Debug)]
pub struct NorthSouth(watch::Receiver<Reached>);

impl NorthSouth {
    /// As it is whenever somebody asks.
    #[must_use]
    pub fn of(reached: watch::Receiver<Reached>) -> Self {
        Self(reached)
    }
}

impl Collector for NorthSouth {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "oarlock_dataplane_north_south_info",
            "Who answers clients outside that have reached another node than their pod's: that node (snat), or the pod's (direct)",
            None,
            MetricType::Gauge,
        )?;
        let Some(mode) = self.0.borrow().north_south else { return Ok(()) };
        ConstGauge::new(1i64).encode(family.encode_family(&[("mode", mode.name())])?)
    }
}
