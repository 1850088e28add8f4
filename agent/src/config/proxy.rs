//! The settings of `oarlock-agent proxy`. Options that kube-proxy has too have its names and defaults; what cannot be honoured
//! does not exist.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use ipnet::IpNet;

use crate::dataplane::Acceleration;

/// What `proxy` needs to know.
#[derive(Debug, Clone, Args)]
pub struct ProxyConfig {
    /// A kubeconfig whose current context leads to the API server [default: the service account of the pod that it runs in].
    #[arg(long, env = "OARLOCK_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of this node's Node object [default: the host's name].
    #[arg(long, env = "OARLOCK_NODE_NAME", visible_alias = "hostname-override")]
    pub node_name: Option<String>,
    /// The links by which clients outside reach this node [default: those that hold default routes].
    #[arg(long = "uplink", env = "OARLOCK_UPLINK", value_delimiter = ',')]
    pub uplinks: Vec<String>,
    /// The link by which other nodes' pods are reached, where they are not routed on the uplinks: flannel.1, vxlan.calico, ...
    /// It has to be one of Ethernet, and may come later.
    #[arg(long, env = "OARLOCK_OVERLAY")]
    pub overlay: Option<String>,
    /// Whether uplinks answer Services by XDP. What it does not serve, tc does.
    #[arg(long, env = "OARLOCK_XDP", value_enum, default_value_t)]
    pub xdp: Acceleration,
    /// The cgroup whose processes the socket programs serve, relative to the root of the v2 hierarchy: the host and all pods
    /// are below the root.
    #[arg(long, env = "OARLOCK_CGROUP", default_value = "/")]
    pub cgroup: String,
    /// Where the BPF file system is mounted; programs and maps are pinned under <bpffs>/oarlock/<node name>.
    #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// The range of all pods, one of each family: their datagrams to each other then take no room in the table of flows.
    #[arg(long, env = "OARLOCK_CLUSTER_CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// Count packets, bytes and connections by backend too, not by Service alone: metrics of thousands of endpoints are many.
    #[arg(long, env = "OARLOCK_COUNT_BACKENDS")]
    pub count_backends: bool,
    /// Answer ClusterIPs for clients from outside the cluster that route them to this node.
    #[arg(long, env = "OARLOCK_ACCEPT_EXTERNAL_CLUSTER_IP")]
    pub accept_external_cluster_ip: bool,
    /// Where /healthz and /livez are answered over plain HTTP, as kube-proxy does, for load balancers too.
    #[arg(long, env = "OARLOCK_HEALTHZ_BIND_ADDRESS", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Where /metrics, /readyz and a /healthz that names each part are answered over plain HTTP.
    #[arg(long, env = "OARLOCK_METRICS_BIND_ADDRESS", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: SocketAddr,
    /// Take everything back that was made on this node, and end. Traffic to Services ends with it.
    #[arg(long)]
    pub cleanup: bool,
}

impl ProxyConfig {
    /// The node's name: as given, else the host's; Kubernetes writes both in lower case.
    ///
    /// # Errors
    /// The host has no name that can be read.
    pub fn node_name(&self) -> std::io::Result<String> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        };
        Ok(name.trim().to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::config::{Cli, Command};

    fn parse(words: &str) -> super::ProxyConfig {
        let Command::Proxy(config) = Cli::parse_from(words.split(' ')).command else { panic!("not proxy") };
        *config
    }

    #[test]
    fn kube_proxys_names_are_understood() {
        let config =
            parse("oarlock-agent proxy --kubeconfig k --hostname-override N1 --cluster-cidr 10.42.0.0/16");
        assert_eq!(config.node_name().unwrap(), "n1");
        assert_eq!(config.cluster_cidr[0].prefix_len(), 16);
        let both = parse("oarlock-agent proxy --cluster-cidr 10.42.0.0/16,fd00:42::/56").cluster_cidr;
        assert!(both[0].network().is_ipv4() && both[1].network().is_ipv6());
        assert_eq!(config.healthz_bind_address.port(), 10256);
        assert_eq!(config.metrics_bind_address.to_string(), "127.0.0.1:10249");
    }

    #[test]
    fn a_node_without_a_name_has_the_hosts_in_lower_case() {
        let host = nix::unistd::gethostname().unwrap().to_string_lossy().to_lowercase();
        assert_eq!(parse("oarlock-agent proxy").node_name().unwrap(), host);
    }
}
