//! What Services ask for that this dataplane does not do, in words for who wrote them. Pure.
//!
//! In: Services. Out: sentences, each told once as long as it stays true. What is supported of the same Service is served.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use oarlock_api::k8s::api::core::v1::Service;

use crate::desired::{Key, Snapshot};

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Notices(BTreeMap<Key, Vec<String>>);

impl Notices {
    /// What is to be told now on a node with or without an address of IPv6: whose words are other than before.
    pub(super) fn of(&mut self, snapshot: &Snapshot, has_ipv6: bool) -> Vec<(Key, String)> {
        let now: BTreeMap<Key, Vec<String>> = snapshot
            .services
            .iter()
            .map(|(key, service)| (key.clone(), unsupported(service, has_ipv6)))
            .filter(|(_, sentences)| !sentences.is_empty())
            .collect();
        let fresh = now.iter().filter(|(key, sentences)| self.0.get(*key) != Some(*sentences));
        let told = fresh.map(|(key, sentences)| (key.clone(), sentences.join("; "))).collect();
        self.0 = now;
        told
    }

    /// Of how many Services something is not served.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

/// What of a Service is not served.
fn unsupported(service: &Service, has_ipv6: bool) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") || matches!(cluster_ip, "" | "None") {
        return Vec::new();
    }
    let mut sentences = Vec::new();
    for port in spec.ports.iter().flatten() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        if !matches!(protocol, "TCP" | "UDP") {
            sentences.push(format!("port {} is of {protocol}: only TCP and UDP are answered", port.port));
        }
    }
    if has_ipv6 {
        return sentences;
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let balanced = status.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref());
    let mut listed: Vec<&String> = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).collect();
    listed.dedup();
    for ip in listed.into_iter().chain(spec.external_ips.iter().flatten()).chain(balanced) {
        let sentence = format!("{ip} is of IPv6: this node has no address of it");
        if ip.parse::<Ipv6Addr>().is_ok() && !sentences.contains(&sentence) {
            sentences.push(sentence);
        }
    }
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn snapshot(spec: Value) -> Snapshot {
        let service = json!({"metadata": {}, "spec": spec,
            "status": {"loadBalancer": {"ingress": [{"ip": "2001:db8::7"}, {"hostname": "a.b"}]}}});
        let mut snapshot = Snapshot::default();
        let key = ("d".to_owned(), "web".to_owned());
        snapshot.services.insert(key, Arc::new(serde_json::from_value(service).unwrap()));
        snapshot
    }

    #[test]
    fn other_protocols_and_addresses_of_a_family_that_the_node_lacks_are_named_once() {
        let dual = snapshot(json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"],
            "ports": [{"port": 80}, {"port": 132, "protocol": "SCTP"}, {"port": 53, "protocol": "UDP"}]}));
        let mut notices = Notices::default();
        let told = notices.of(&dual, false);
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].1,
            "port 132 is of SCTP: only TCP and UDP are answered; fd00::9 is of IPv6: this node has no address of it; \
             2001:db8::7 is of IPv6: this node has no address of it"
        );
        assert_eq!((notices.of(&dual, false), notices.count()), (Vec::new(), 1), "once");
        let single = snapshot(json!({"clusterIP": "fd00::9", "clusterIPs": ["fd00::9"]}));
        assert_eq!(notices.of(&single, false).len(), 1, "other words");
        assert_eq!((notices.of(&Snapshot::default(), false), notices.count()), (Vec::new(), 0));
        assert_eq!(notices.of(&single, false).len(), 1, "again, as it was well meanwhile");
        assert_eq!((notices.of(&single, true), notices.count()), (Vec::new(), 0), "the node has one");
        assert_eq!(notices.of(&dual, true)[0].1, "port 132 is of SCTP: only TCP and UDP are answered");
    }

    #[test]
    fn who_has_no_address_misses_none() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 132, "protocol": "SCTP"}]}),
            json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 132, "protocol": "SCTP"}]}),
        ] {
            assert_eq!(Notices::default().of(&snapshot(spec), false), []);
        }
    }

    proptest! {
        /// Whatever is in the fields of text: no panic, and IPv4 with TCP and UDP is never complained about.
        #[test]
        fn nothing_that_a_server_sends_is_too_odd(
            ips in proptest::collection::vec("[0-9a-f:.]{0,12}|None|.{0,4}", 0..4),
            protocol in "TCP|UDP|SCTP|.{0,4}",
        ) {
            let service = json!({"spec": {"clusterIP": ips.first(), "clusterIPs": ips,
                "ports": [{"port": 1, "protocol": protocol}]}, "metadata": {}});
            let service: Service = serde_json::from_value(service).unwrap();
            let sentences = unsupported(&service, false);
            let is_plain = matches!(protocol.as_str(), "TCP" | "UDP")
                && !ips.iter().any(|ip| ip.parse::<Ipv6Addr>().is_ok());
            prop_assert!(!is_plain || sentences.is_empty(), "{:?}", sentences);
        }
    }
}
