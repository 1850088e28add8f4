//! The content of the files that every container of a pod gets: `/etc/hosts` and `/etc/resolv.conf`.

use std::net::IpAddr;

use oarlock_api::k8s::api::core::v1::Pod;

use super::spec::{hostname, on_host};

/// What the cluster's DNS is, as the control plane says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// The cluster's domain: `cluster.local`.
    pub domain: String,
    /// The address of the cluster's DNS; empty when it has none.
    pub address: String,
}

/// `/etc/hosts`, in kubelet's form; `of_host` is the node's own.
pub(crate) fn hosts(pod: &Pod, ips: &[IpAddr], dns: &ClusterDns, of_host: &str) -> String {
    if on_host(pod) {
        return format!("# Kubernetes-managed hosts file (host network).\n{of_host}{}", aliases(pod));
    }
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let spec = pod.spec.as_ref();
    let host = hostname(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let names = subdomain.map_or_else(
        || host.clone(),
        |subdomain| format!("{host}.{subdomain}.{namespace}.svc.{}\t{host}", dns.domain),
    );
    for ip in ips {
        text.push_str(&format!("{ip}\t{names}\n"));
    }
    text + &aliases(pod)
}

fn aliases(pod: &Pod) -> String {
    let mut text = String::new();
    let spec = pod.spec.as_ref();
    let aliases = spec.and_then(|s| s.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

/// `/etc/resolv.conf` after `dnsPolicy` and `dnsConfig`; `of_host` is the node's own.
pub(crate) fn resolv_conf(pod: &Pod, dns: &ClusterDns, of_host: &str) -> String {
    let spec = pod.spec.as_ref();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let mut conf = match policy {
        "None" => Conf::default(),
        // Who is on the node's network asks whom the node asks, unless it says that it wants the cluster's names.
        "Default" => Conf::parse(of_host),
        "ClusterFirst" if on_host(pod) => Conf::parse(of_host),
        _ if dns.address.is_empty() => Conf::parse(of_host),
        _ => {
            let domain = &dns.domain;
            let mut search =
                vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
            search.extend(Conf::parse(of_host).search);
            Conf { nameservers: vec![dns.address.clone()], search, options: vec!["ndots:5".to_owned()] }
        }
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        add(&mut conf.nameservers, own.nameservers.iter().flatten().cloned());
        add(&mut conf.search, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            conf.options.retain(|o| o.split(':').next() != Some(name.as_str()));
            conf.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name,
            });
        }
    }
    conf.text()
}

#[derive(Debug, Default)]
struct Conf {
    nameservers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Conf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => conf.nameservers.extend(words.next()),
                Some("search") => conf.search = words.filter(|w| w != ".").collect(),
                Some("options") => conf.options = words.collect(),
                _ => {}
            }
        }
        conf
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // Three name servers and 32 search domains are what resolvers read (resolv.conf(5)).
        for server in self.nameservers.iter().take(3) {
            text.push_str(&format!("nameserver {server}\n"));
        }
        for (word, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                let values: Vec<&str> = values.iter().take(32).map(String::as_str).collect();
                text.push_str(&format!("{word} {}\n", values.join(" ")));
            }
        }
        text
    }
}

fn add(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec})).unwrap()
    }

    fn dns() -> ClusterDns {
        ClusterDns { domain: "cluster.local".into(), address: "10.96.0.10".into() }
    }

    const HOST: &str = "# host\nnameserver 9.9.9.9\nsearch corp.example\noptions timeout:1\n";

    #[test]
    fn cluster_first_asks_the_cluster_and_keeps_the_hosts_search_list() {
        let text = resolv_conf(&pod(json!({"containers": []})), &dns(), HOST);
        assert_eq!(
            text,
            "nameserver 10.96.0.10\nsearch d.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             options ndots:5\n"
        );
    }

    #[test]
    fn other_policies_and_the_pods_own_settings_are_honoured() {
        let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"],
            "searches": ["x.y"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        let text = resolv_conf(&pod(own), &dns(), HOST);
        assert_eq!(text, "nameserver 1.2.3.4\nsearch x.y\noptions ndots:2 edns0\n");
        let default = pod(json!({"containers": [], "dnsPolicy": "Default"}));
        assert_eq!(resolv_conf(&default, &dns(), HOST), HOST.trim_start_matches("# host\n"));
        let on_host = |policy: &str| pod(json!({"containers": [], "dnsPolicy": policy, "hostNetwork": true}));
        assert_eq!(resolv_conf(&on_host("ClusterFirst"), &dns(), HOST), HOST.trim_start_matches("# host\n"));
        let cluster = resolv_conf(&on_host("ClusterFirstWithHostNet"), &dns(), HOST);
        assert!(cluster.starts_with("nameserver 10.96.0.10\nsearch d.svc"), "{cluster}");
        let first = pod(json!({"containers": []}));
        assert!(resolv_conf(&first, &ClusterDns::default(), HOST).starts_with("nameserver 9.9.9.9"));
    }

    #[test]
    fn hosts_names_the_pod_and_its_aliases() {
        let spec = json!({"containers": [], "subdomain": "sub", "hostname": "h",
            "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a", "b"]}]});
        let ips = ["10.244.0.5", "fd00:10:244::5"];
        let text = hosts(&pod(spec), &ips.map(|ip| ip.parse().unwrap()), &dns(), "");
        for ip in ips {
            assert!(text.contains(&format!("{ip}\th.sub.d.svc.cluster.local\th\n")), "{text}");
        }
        assert!(text.ends_with("# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"), "{text}");
    }

    #[test]
    fn on_the_nodes_network_its_own_hosts_are_known() {
        let spec = json!({"containers": [], "hostNetwork": true, "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a"]}]});
        let text = hosts(&pod(spec), &["172.30.77.11".parse().unwrap()], &dns(), "10.0.0.9\tpeer\n");
        let expected = "# Kubernetes-managed hosts file (host network).\n10.0.0.9\tpeer\n\n# Entries added by HostAliases.\n1.1.1.1\ta\n";
        assert_eq!(text, expected);
    }
}
