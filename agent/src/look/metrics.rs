//! What each Service's port and each backend had, as metrics. Read when somebody asks; what has never been used is not told, so
//! that there are as many series as there is traffic here, not as there are Services in the cluster.

use std::sync::Arc;

use oarlock_ebpf::count::{CLIENTS, DIRECTIONS, DROPS};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::dataplane::Traffic;
use crate::services::Board;

/// `oarlock_service_*_total` and `oarlock_backend_*_total`.
pub(crate) struct Counters(Board);

impl std::fmt::Debug for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counters")
    }
}

impl Counters {
    /// Of the dataplane that is on the board when somebody asks.
    pub(crate) fn of(board: &Board) -> Self {
        Self(Arc::clone(board))
    }

    fn read(&self) -> Option<Traffic> {
        let (config, directory) = {
            let board = self.0.lock();
            let told = board.as_ref()?;
            (told.config.clone(), Arc::clone(&told.directory))
        };
        match Traffic::of(&config, &directory) {
            Ok(traffic) => Some(traffic),
            Err(error) => {
                tracing::warn!(%error, "what Services had cannot be told");
                None
            }
        }
    }
}

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(traffic) = self.read() else { return Ok(()) };
        encode(&traffic, &mut encoder)
    }
}

/// A family: its name, its help, the last label and the values of that.
struct Family {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: Vec<&'static str>,
}

fn families() -> [Family; 4] {
    [
        Family {
            name: "packets",
            help: "Translated packets, to backends (in) and back (out)",
            label: "direction",
            values: DIRECTIONS.to_vec(),
        },
        Family {
            name: "bytes",
            help: "Bytes of translated IP packets, to backends (in) and back (out)",
            label: "direction",
            values: DIRECTIONS.to_vec(),
        },
        Family {
            name: "connections",
            help: "Connections, and datagrams without one, that were given a backend, of clients on this node and outside",
            label: "client",
            values: CLIENTS.to_vec(),
        },
        Family {
            name: "drops",
            help: "Connections, datagrams and packets that went nowhere",
            label: "reason",
            values: DROPS.map(oarlock_ebpf::reason::Reason::name).to_vec(),
        },
    ]
}

fn encode(traffic: &Traffic, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
    for (at, family) in families().iter().enumerate() {
        let name = format!("oarlock_service_{}", family.name);
        let mut out = encoder.encode_descriptor(&name, family.help, None, MetricType::Counter)?;
        for (port, counts) in &traffic.services {
            let all = [&counts.packets[..], &counts.bytes, &counts.begun, &counts.dropped];
            for (value, count) in family.values.iter().zip(all[at]).filter(|(_, count)| **count != 0) {
                let labels = [
                    ("namespace", port.namespace.as_str()),
                    ("service", port.service.as_str()),
                    ("port", port.port.as_str()),
                    (family.label, value),
                ];
                ConstCounter::new(*count).encode(out.encode_family(&labels)?)?;
            }
        }
    }
    // Backends drop nothing.
    for (at, family) in families().iter().enumerate().take(3).filter(|_| !traffic.backends.is_empty()) {
        let name = format!("oarlock_backend_{}", family.name);
        let mut out = encoder.encode_descriptor(&name, family.help, None, MetricType::Counter)?;
        for (peer, counts) in &traffic.backends {
            let peer = peer.to_string();
            let all = [&counts.packets[..], &counts.bytes, &counts.begun];
            for (value, count) in family.values.iter().zip(all[at]).filter(|(_, count)| **count != 0) {
                let labels = [("backend", peer.as_str()), (family.label, value)];
                ConstCounter::new(*count).encode(out.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::PortName;
    use oarlock_ebpf::count::{BackendCounts, ServiceCounts};

    #[derive(Debug)]
    struct Given(Traffic);

    impl Collector for Given {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
            encode(&self.0, &mut encoder)
        }
    }

    #[test]
    fn what_was_used_has_series_and_nothing_else() {
        let name = |service: &str| {
            let text = str::to_owned;
            Arc::new(PortName { namespace: text("d"), service: text(service), port: text("http") })
        };
        let counts = ServiceCounts { packets: [3, 0], bytes: [120, 0], begun: [0, 1], dropped: [0, 0, 0, 7] };
        let mut traffic = Traffic::default();
        traffic.services.insert(name("web"), counts);
        traffic.services.insert(name("idle"), ServiceCounts::default());
        let said = |traffic: &Traffic| {
            let mut registry = prometheus_client::registry::Registry::default();
            registry.register_collector(Box::new(Given(traffic.clone())));
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let of_web = r#"namespace="d",service="web",port="http""#;
        let services = [
            format!(r#"oarlock_service_packets_total{{{of_web},direction="in"}} 3"#),
            format!(r#"oarlock_service_bytes_total{{{of_web},direction="in"}} 120"#),
            format!(r#"oarlock_service_connections_total{{{of_web},client="outside"}} 1"#),
            format!(r#"oarlock_service_drops_total{{{of_web},reason="bad_packet"}} 7"#),
        ];
        assert_eq!(said(&traffic), services);
        let of_backend = BackendCounts { packets: [0, 2], bytes: [0, 80], begun: [5, 0] };
        traffic.backends.insert("10.244.1.5:80".parse().unwrap(), of_backend);
        assert_eq!(
            said(&traffic)[4..],
            [
                r#"oarlock_backend_packets_total{backend="10.244.1.5:80",direction="out"} 2"#,
                r#"oarlock_backend_bytes_total{backend="10.244.1.5:80",direction="out"} 80"#,
                r#"oarlock_backend_connections_total{backend="10.244.1.5:80",client="inside"} 5"#,
            ]
        );
    }
}
