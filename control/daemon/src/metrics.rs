//! The registry of a process and the metrics that every process has.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// All metrics of a process, shared with the endpoint that serves them. Components register before it is shared.
pub type SharedRegistry = Arc<Registry>;

/// A registry that holds `process_*` metrics, named as Prometheus' own client libraries name them.
#[must_use]
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

/// The text that `/metrics` answers (OpenMetrics text format 1.0).
#[must_use]
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, registry);
    text
}

#[derive(Debug)]
struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(bytes);
            let metric = encoder.encode_descriptor(
                "process_resident_memory_bytes",
                "Resident memory size in bytes",
                None,
                gauge.metric_type(),
            )?;
            prometheus_client::encoding::EncodeMetric::encode(&gauge, metric)?;
        }
        if let Some(open) = open_descriptors() {
            let gauge = ConstGauge::new(open);
            let metric = encoder.encode_descriptor(
                "process_open_fds",
                "Number of open file descriptors",
                None,
                gauge.metric_type(),
            )?;
            prometheus_client::encoding::EncodeMetric::encode(&gauge, metric)?;
        }
        Ok(())
    }
}

/// `VmRSS` of this process in bytes (proc(5)).
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok().map(|kib| kib * 1024)
}

fn open_descriptors() -> Option<i64> {
    i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_the_resident_memory_and_ends_as_openmetrics_asks() {
        let text = encode(&registry());
        let line = text.lines().find(|l| l.starts_with("process_resident_memory_bytes ")).unwrap();
        assert!(line.split(' ').nth(1).unwrap().parse::<u64>().unwrap() > 100_000);
        assert!(text.ends_with("# EOF\n"));
    }
}
