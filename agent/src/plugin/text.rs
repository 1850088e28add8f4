//! What is shown: tables and lines. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::dataplane::picture::EventPicture;
use crate::dataplane::{Fill, ServiceTraffic, Trace};

/// From here on a table that refuses more is said to be nearly full, in hundredths.
const NEARLY_FULL: u64 = 80;

/// What Services had, of all nodes together.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals(BTreeMap<(String, String, String), ServiceTraffic>);

impl Totals {
    /// What one had on one node.
    pub(super) fn add(&mut self, one: ServiceTraffic) {
        let key = (one.namespace.clone(), one.service.clone(), one.port.clone());
        let sum = self.0.entry(key).or_default();
        let pairs = [
            (&mut sum.packets, one.packets),
            (&mut sum.bytes, one.bytes),
            (&mut sum.connections, one.connections),
        ];
        for (sum, one) in pairs {
            for (sum, one) in sum.iter_mut().zip(one) {
                *sum += one;
            }
        }
        for (reason, count) in one.drops {
            *sum.drops.entry(reason).or_default() += count;
        }
    }
}

/// What each did per second between two times.
pub(super) fn rates(before: &Totals, after: &Totals, time: Duration) -> String {
    let head = [
        "NAMESPACE",
        "SERVICE",
        "PORT",
        "CONNECTIONS/S",
        "PACKETS/S IN",
        "OUT",
        "BYTES/S IN",
        "OUT",
        "DROPS/S",
        "WHY",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let none = ServiceTraffic::default();
    for ((namespace, service, port), now) in &after.0 {
        let was = before.0.get(&(namespace.clone(), service.clone(), port.clone())).unwrap_or(&none);
        // Counters of a node that began anew are smaller than before.
        let rate = |now: u64, was: u64| per_second(now.saturating_sub(was), time);
        let sum = |pair: [u64; 2]| pair[0] + pair[1];
        let dropped: BTreeMap<&str, u64> = now
            .drops
            .iter()
            .map(|(reason, count)| {
                (reason.as_str(), count.saturating_sub(was.drops.get(reason).copied().unwrap_or_default()))
            })
            .filter(|(_, count)| *count != 0)
            .collect();
        rows.push(vec![
            namespace.clone(),
            service.clone(),
            port.clone(),
            rate(sum(now.connections), sum(was.connections)),
            rate(now.packets[0], was.packets[0]),
            rate(now.packets[1], was.packets[1]),
            rate(now.bytes[0], was.bytes[0]),
            rate(now.bytes[1], was.bytes[1]),
            per_second(dropped.values().sum(), time),
            dropped.keys().copied().collect::<Vec<_>>().join(","),
        ]);
    }
    if rows.len() == 1 {
        return "No Service was used yet.\n".to_owned();
    }
    table(&rows)
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn per_second(count: u64, time: Duration) -> String {
    let rate = count as f64 / time.as_secs_f64().max(0.001);
    match rate {
        0.0 => "0".to_owned(),
        rate if rate < 10.0 => format!("{rate:.1}"),
        rate if rate < 10_000.0 => format!("{rate:.0}"),
        rate if rate < 10_000_000.0 => format!("{:.0}k", rate / 1e3),
        rate => format!("{:.0}M", rate / 1e6),
    }
}

/// One line of what happened.
pub(super) fn event(node: &str, event: &EventPicture) -> String {
    let at = event.at.strftime("%H:%M:%S%.3f");
    let source = match (event.source, &event.client) {
        (Some(source), _) => source.to_string(),
        (None, Some(client)) => client.clone(),
        (None, None) => "a process that is gone".to_owned(),
    };
    let mut line = format!(
        "{at} {node} {} {} {} {source} to {}",
        event.hook, event.what, event.protocol, event.destination
    );
    if let Some(to) = event.translated_destination {
        let as_whom = event.translated_source.filter(|from| Some(*from) != event.source);
        let _ = match as_whom {
            Some(from) => write!(line, " becomes {from} to {to}"),
            None => write!(line, " becomes {to}"),
        };
    }
    if let Some(service) = &event.service {
        let _ = write!(line, " ({service})");
    }
    line
}

/// A path, step by step.
pub(super) fn trace(asked: &str, trace: &Trace) -> String {
    let mut out = format!("{asked}\n");
    let width = trace.steps.iter().map(|step| step.hook.len()).max().unwrap_or(0);
    for step in &trace.steps {
        let _ = writeln!(out, "  {:width$}  {}", step.hook, step.what);
    }
    let _ = writeln!(out, "{}", trace.verdict);
    out
}

/// How full the tables of each node are.
pub(super) fn fills(nodes: &BTreeMap<String, Vec<Fill>>) -> String {
    let head = ["NODE", "MAP", "USED", "CAPACITY", "FULL", "WHEN FULL"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (node, fills) in nodes {
        for fill in fills {
            let hundredths = fill.used * 100 / fill.capacity.max(1);
            let when_full = match fill.full.as_str() {
                "forgets" => "forgets the oldest".to_owned(),
                "displaces" => "displaces what is not open".to_owned(),
                "refuses" if hundredths >= NEARLY_FULL => "REFUSES MORE: NEARLY FULL".to_owned(),
                "refuses" => "refuses more".to_owned(),
                other => other.to_owned(),
            };
            let numbers = [fill.used.to_string(), fill.capacity.to_string(), format!("{hundredths} %")];
            rows.push([vec![node.clone(), fill.map.clone()], numbers.to_vec(), vec![when_full]].concat());
        }
    }
    table(&rows)
}

/// Columns side by side, as kubectl does it.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
        let _ = writeln!(out, "{}", cells.join("   ").trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Step;
    use serde_json::{Value, json};

    fn traffic(service: &str, packets: [u64; 2], connections: [u64; 2], drops: Value) -> ServiceTraffic {
        serde_json::from_value(
            json!({"namespace": "d", "service": service, "port": "http", "packets": packets,
            "bytes": packets.map(|count| count * 100), "connections": connections, "drops": drops}),
        )
        .unwrap()
    }

    #[test]
    fn rates_are_what_all_nodes_had_more_per_second() {
        let (mut before, mut after) = (Totals::default(), Totals::default());
        assert_eq!(rates(&before, &after, Duration::from_secs(1)), "No Service was used yet.\n");
        before.add(traffic("web", [100, 50], [5, 0], json!({"denied": 1})));
        after.add(traffic("web", [60_100, 50], [5, 20], json!({"denied": 1, "no_port": 5})));
        after.add(traffic("web", [0, 0], [0, 0], json!({"no_endpoints": 1})));
        after.add(traffic("api", [3, 1], [1, 0], json!({})));
        let expected = "\
NAMESPACE   SERVICE   PORT   CONNECTIONS/S   PACKETS/S IN   OUT   BYTES/S IN   OUT   DROPS/S   WHY
d           api       http   0.5             1.5            0.5   150          50    0
d           web       http   10              30k            0     3000k        0     3.0       no_endpoints,no_port
";
        assert_eq!(rates(&before, &after, Duration::from_secs(2)), expected);
    }

    #[test]
    fn events_are_lines() {
        let mut happened: EventPicture = serde_json::from_value(json!({"at": "2026-11-23T10:20:30.4Z", "what": "translated",
            "hook": "xdp", "protocol": "TCP", "source": "172.30.77.200:40000", "destination": "172.30.77.11:30080",
            "translatedSource": "172.30.77.11:2000", "translatedDestination": "10.244.1.5:80",
            "service": "d/web:http", "client": null}))
        .unwrap();
        assert_eq!(
            event("node1", &happened),
            "10:20:30.400 node1 xdp translated TCP 172.30.77.200:40000 to 172.30.77.11:30080 becomes 172.30.77.11:2000 to 10.244.1.5:80 (d/web:http)"
        );
        happened.translated_source = happened.source;
        assert!(event("node1", &happened).ends_with("30080 becomes 10.244.1.5:80 (d/web:http)"));
        happened = EventPicture {
            what: "no_endpoints".to_owned(),
            hook: "socket".to_owned(),
            source: None,
            translated_source: None,
            translated_destination: None,
            service: None,
            client: Some("pod d/toolbox".to_owned()),
            ..happened
        };
        assert_eq!(
            event("node1", &happened),
            "10:20:30.400 node1 socket no_endpoints TCP pod d/toolbox to 172.30.77.11:30080"
        );
    }

    #[test]
    fn paths_and_tables_are_told_one_by_one() {
        let step = |hook: &str, what: &str| Step { hook: hook.to_owned(), what: what.to_owned() };
        let steps = vec![step("socket", "10.96.0.10:80 is d/web:http"), step("node's routes", "elsewhere")];
        let path = Trace { steps, verdict: "forwarded".to_owned() };
        let expected =
            "asked\n  socket         10.96.0.10:80 is d/web:http\n  node's routes  elsewhere\nforwarded\n";
        assert_eq!(trace("asked", &path), expected);
        let fill = |map: &str, used, full: &str| Fill {
            map: map.to_owned(),
            used,
            capacity: 1000,
            full: full.to_owned(),
        };
        let nodes = BTreeMap::from([(
            "node1".to_owned(),
            vec![
                fill("FRONTENDS", 12, "refuses"),
                fill("SLOTS", 800, "refuses"),
                fill("FLOWS", 999, "displaces"),
            ],
        )]);
        let expected = "\
NODE    MAP         USED   CAPACITY   FULL   WHEN FULL
node1   FRONTENDS   12     1000       1 %    refuses more
node1   SLOTS       800    1000       80 %   REFUSES MORE: NEARLY FULL
node1   FLOWS       999    1000       99 %   displaces what is not open
";
        assert_eq!(fills(&nodes), expected);
    }
}
