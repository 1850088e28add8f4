//! What the kernel's tables hold, as text for people. Pure.

use std::fmt::Write as _;

use super::compile::Algorithm;
use super::picture::{self, Dump, FrontendPicture, Picture};
use super::policies::PolicyPicture;

/// The tables of a node: what it is, its Services with their backends, its addresses, its flows, and what was counted.
#[must_use]
pub fn text(dump: &Dump) -> String {
    let mut out = String::new();
    let tables = &dump.tables;
    node(tables, &mut out);
    let _ = writeln!(out, "\nfrontends ({}):", tables.frontends.len());
    for one in &tables.frontends {
        frontend(one, &mut out);
    }
    let _ = writeln!(out, "\npods of this node: {}", joined(tables.pods.iter().map(|pod| pod.address)));
    policies(&tables.policies, &mut out);
    let _ = writeln!(out, "\nnodes: {}", joined(&tables.nodes));
    if !tables.tunnel_ends.is_empty() {
        let _ = writeln!(out, "other ends of the tunnel: {}", joined(&tables.tunnel_ends));
    }
    for route in tables.routes.iter().flatten() {
        let _ = writeln!(out, "pods {} via {} ({})", route.pod_cidr, route.via, route.way.name());
    }
    for (range, node) in &tables.direct {
        let _ = writeln!(out, "clients of pods {range} are answered by {node} itself");
    }
    let _ = writeln!(out, "\ntranslated flows ({}):", dump.flows.len());
    for flow in &dump.flows {
        let closing = if flow.closing { ", closing" } else { "" };
        let handed = flow.handed_to.map_or(String::new(), |node| format!(", handed over to {node}"));
        let _ = writeln!(
            out,
            "  {} {} to {} as {} to {}, seen {} s after boot{handed}{closing}",
            flow.protocol,
            flow.source,
            flow.destination,
            flow.translated_source,
            flow.translated_destination,
            flow.seen_seconds_after_boot
        );
    }
    let _ = writeln!(out, "\ncounted:");
    for (reason, count) in &dump.counters {
        let _ = writeln!(out, "  {reason} {count}");
    }
    out
}

fn node(tables: &Picture, out: &mut String) {
    let node = &tables.node;
    let clusters = joined(node.clusters());
    let cluster = if clusters.is_empty() { "not known" } else { &clusters };
    let outsiders = if node.external_cluster_ips { "yes" } else { "no" };
    let own = node.address6.map_or_else(|| node.address.to_string(), |six| format!("{} {six}", node.address));
    let _ = writeln!(out, "node {own}, pods of the cluster {cluster}, ClusterIPs for outsiders: {outsiders}");
    if let Some(overlay) = &node.overlay {
        let _ = writeln!(out, "pods of other nodes by the link {} as {}", overlay.link, overlay.addresses());
    }
}

fn frontend(one: &FrontendPicture, out: &mut String) {
    let peers = |peers: &[std::net::SocketAddr]| {
        if peers.is_empty() { "nobody: refused".to_owned() } else { joined(picture::distinct(peers)) }
    };
    let _ = write!(out, "  {} -> {}", one.place(), peers(&one.inside));
    if one.outside != one.inside {
        let _ = write!(out, "; from outside -> {}", peers(&one.outside));
    }
    match one.algorithm {
        Algorithm::RoundRobin => {}
        Algorithm::Random => out.push_str("; at random"),
        Algorithm::Maglev => {
            let _ = write!(out, "; from outside by a Maglev table of {}", one.outside.len());
        }
    }
    if one.affinity_seconds != 0 {
        let _ = write!(out, "; each client the same for {} s", one.affinity_seconds);
    }
    if !one.source_ranges.is_empty() {
        let _ = write!(out, "; from outside only {}", joined(&one.source_ranges));
    }
    let _ = writeln!(out);
}

fn policies(policies: &PolicyPicture, out: &mut String) {
    for pod in &policies.isolated {
        let _ = writeln!(out, "\npod {} is isolated:", pod.address);
        for (way, number) in [("comes in", &pod.ingress), ("goes out", &pod.egress)] {
            let Some(number) = number else { continue };
            let _ = writeln!(out, "  {way} only {number}");
        }
    }
    if !policies.isolated.is_empty() {
        let _ = writeln!(out, "\nallowed:");
        for allowed in &policies.allowed {
            let _ = writeln!(out, "  {allowed}");
        }
        let _ = writeln!(out, "\nwho is who:");
        for one in &policies.identities {
            let _ = writeln!(out, "  {} is {}", one.range, one.identity.as_deref().unwrap_or("nobody"));
        }
    }
}

fn joined<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The shape that docs/observability.md promises: what this parses, scripts of users parse.
    #[test]
    fn a_dump_is_json_of_a_known_shape_and_text_for_people() {
        let shape = json!({
            "layoutVersion": 9,
            "node": {"address": "172.30.77.11", "clusterCidr": "10.244.0.0/16", "externalClusterIps": false,
                     "namespaceCookie": 1, "overlay": null},
            "frontends": [
                {"address": "10.96.0.10", "port": 80, "protocol": "TCP", "service": "00000000000000ff",
                 "affinitySeconds": 10800, "external": false, "sourceRanges": [],
                 "inside": ["10.244.1.5:8080", "10.244.2.5:8080"], "outside": ["10.244.1.5:8080", "10.244.2.5:8080"]},
                {"address": "192.0.2.7", "port": 53, "protocol": "UDP", "service": "00000000000000fe",
                 "affinitySeconds": 0, "external": true, "sourceRanges": ["198.51.100.0/24"],
                 "inside": ["10.244.1.6:53"], "outside": []}],
            "pods": [{"address": "10.244.1.5", "link": 7, "ends": ["02:00:00:00:00:01", "02:00:00:00:00:02"]}],
            "nodes": ["172.30.77.11", "172.30.77.12"],
            "policies": {"enforced": true, "isolated": [{"link": 7, "address": "10.244.1.5", "ingress": "0000000a", "egress": null}],
                         "identities": [{"range": "10.244.2.9/32", "identity": "0000000b"}, {"range": "192.0.2.0/25", "identity": null}],
                         "allowed": [{"number": "0000000a", "identity": "0000000b", "protocol": "TCP", "ports": [80, 80]},
                                     {"number": "0000000a", "identity": null, "protocol": null, "ports": null}]},
            "flows": [{"protocol": "TCP", "source": "172.30.77.200:40000", "destination": "172.30.77.11:30080",
                       "translatedSource": "172.30.77.200:40000", "translatedDestination": "10.244.1.5:8080",
                       "masqueraded": false, "closing": true, "seenSecondsAfterBoot": 99}],
            "counters": {"translated": 3},
        });
        let dump: Dump = serde_json::from_value(shape.clone()).unwrap();
        assert_eq!(serde_json::to_value(&dump).unwrap(), shape);
        let expected = "\
node 172.30.77.11, pods of the cluster 10.244.0.0/16, ClusterIPs for outsiders: no

frontends (2):
  TCP 10.96.0.10:80 -> 10.244.1.5:8080 10.244.2.5:8080; each client the same for 10800 s
  UDP 192.0.2.7:53 -> 10.244.1.6:53; from outside -> nobody: refused; from outside only 198.51.100.0/24

pods of this node: 10.244.1.5

pod 10.244.1.5 is isolated:
  comes in only 0000000a

allowed:
  0000000a to 0000000b by TCP port 80
  0000000a to everybody by all protocols

who is who:
  10.244.2.9/32 is 0000000b
  192.0.2.0/25 is nobody

nodes: 172.30.77.11 172.30.77.12

translated flows (1):
  TCP 172.30.77.200:40000 to 172.30.77.11:30080 as 172.30.77.200:40000 to 10.244.1.5:8080, seen 99 s after boot, closing

counted:
  translated 3
";
        assert_eq!(text(&dump), expected);
    }

    #[test]
    fn who_answers_clients_outside_is_in_a_dump() {
        let shape = json!({
            "layoutVersion": 22,
            "node": {"address": "172.30.77.11", "clusterCidr": "10.244.0.0/16", "externalClusterIps": false, "namespaceCookie": 1,
                     "overlay": {"link": 9, "address": "10.244.0.0", "tunnel": true}},
            "frontends": [], "pods": [], "nodes": [], "tunnelEnds": ["10.244.1.0"],
            "direct": {"10.244.1.0/24": "172.30.77.12"},
            "flows": [{"protocol": "TCP", "source": "172.30.77.200:40000", "destination": "172.30.77.11:30080",
                       "translatedSource": "172.30.77.200:40000", "translatedDestination": "10.244.1.5:8080",
                       "masqueraded": false, "handedTo": "172.30.77.12", "closing": false, "seenSecondsAfterBoot": 99}],
            "counters": {},
        });
        let dump: Dump = serde_json::from_value(shape.clone()).unwrap();
        assert_eq!(serde_json::to_value(&dump).unwrap(), shape);
        let text = text(&dump);
        for line in [
            "other ends of the tunnel: 10.244.1.0",
            "clients of pods 10.244.1.0/24 are answered by 172.30.77.12 itself",
            "  TCP 172.30.77.200:40000 to 172.30.77.11:30080 as 172.30.77.200:40000 to 10.244.1.5:8080, seen 99 s after boot, \
             handed over to 172.30.77.12",
        ] {
            assert!(text.lines().any(|is| is == line), "{line}: {text}");
        }
    }
}
