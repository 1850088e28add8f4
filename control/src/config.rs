//! The control plane's settings: parsed once from flags and environment, then only values travel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use oarlock_api::ranges::AddressRanges;
use oarlock_daemon::logging::Format;
use oarlock_daemon::settings::environment_file;

/// The control plane of Oarlock: the Kubernetes API, its controllers and scheduler, and the agents' sessions.
#[derive(Debug, Parser)]
#[command(name = "oarlock-control", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What is logged, in the syntax of RUST_LOG: info, or info,oarlock_control=debug.
    #[arg(long, env = "OARLOCK_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How log lines look: text, json, or auto (text on a terminal).
    #[arg(long, env = "OARLOCK_LOG_FORMAT", default_value = "auto", global = true)]
    pub log_format: Format,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the control plane until told to end.
    Serve(Box<ServeConfig>),
    /// Print the file of settings that the Debian package brings: each variable of `serve` with its help and its default.
    Settings,
    /// Print the command with which a node joins this cluster.
    Token(TokenConfig),
    /// What is kept, as a whole.
    #[command(subcommand)]
    Store(StoreCommand),
}

impl Cli {
    /// The settings of `serve`, as a file for the service manager.
    #[must_use]
    pub fn settings() -> String {
        let whole = <Self as clap::CommandFactory>::command();
        let serve = whole.find_subcommand("serve").cloned().unwrap_or_default();
        let intro = "Settings of oarlock-control, the environment of `oarlock-control serve`. What is commented out is the default.\n\
                     Restart it after a change: systemctl restart oarlock-control. Nodes and pods go on meanwhile.";
        environment_file(intro, &serve, &whole)
    }
}

/// The commands about stores.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Make one store hold what another holds.
    Copy(CopyConfig),
}

/// What `store copy` needs to know.
#[derive(Debug, Args)]
pub struct CopyConfig {
    /// The source: file:///FOLDER/store.redb, or the endpoints of etcd as http(s)://HOST:PORT,...
    #[arg(long)]
    pub from: String,
    /// The target, in the same words.
    #[arg(long)]
    pub to: String,
    /// Take over what changes in etcd until told to end (SIGINT, SIGTERM); then finish.
    #[arg(long)]
    pub follow: bool,
    /// The target may hold objects; those that the source has not are removed.
    #[arg(long)]
    pub replace: bool,
    /// The file with the authority of etcd's certificates, for https endpoints.
    #[arg(long, env = "OARLOCK_ETCD_CA_FILE")]
    pub etcd_ca_file: Option<PathBuf>,
    /// The file with our certificate for etcd.
    #[arg(long, env = "OARLOCK_ETCD_CERT_FILE", requires = "etcd_key_file")]
    pub etcd_cert_file: Option<PathBuf>,
    /// The file with the key of our certificate for etcd.
    #[arg(long, env = "OARLOCK_ETCD_KEY_FILE", requires = "etcd_cert_file")]
    pub etcd_key_file: Option<PathBuf>,
}

/// Where objects are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// In a file below the data folder; nothing to install.
    Embedded,
    /// In etcd (3.4 or newer).
    Etcd,
}

/// What `serve` needs to know.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// Where certificates, the join token, and the embedded store are kept.
    #[arg(long, env = "OARLOCK_DATA_DIR", default_value = "/var/lib/oarlock/control")]
    pub data_dir: PathBuf,
    /// Where objects are kept.
    #[arg(long, env = "OARLOCK_STORE", value_enum, default_value = "embedded")]
    pub store: Backend,
    /// The etcd servers, for --store etcd: http://127.0.0.1:2379,...
    #[arg(long, env = "OARLOCK_ETCD_ENDPOINTS", value_delimiter = ',')]
    pub etcd_endpoints: Vec<String>,
    /// The file with the authority of etcd's certificates, for https endpoints.
    #[arg(long, env = "OARLOCK_ETCD_CA_FILE")]
    pub etcd_ca_file: Option<PathBuf>,
    /// The file with our certificate for etcd.
    #[arg(long, env = "OARLOCK_ETCD_CERT_FILE", requires = "etcd_key_file")]
    pub etcd_cert_file: Option<PathBuf>,
    /// The file with the key of our certificate for etcd.
    #[arg(long, env = "OARLOCK_ETCD_KEY_FILE", requires = "etcd_cert_file")]
    pub etcd_key_file: Option<PathBuf>,
    /// The address to listen on.
    #[arg(long, env = "OARLOCK_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port of the Kubernetes API (HTTPS).
    #[arg(long, env = "OARLOCK_SECURE_PORT", default_value_t = 6443)]
    pub secure_port: u16,
    /// The port that agents dial (gRPC over mutual TLS).
    #[arg(long, env = "OARLOCK_AGENT_PORT", default_value_t = 6444)]
    pub agent_port: u16,
    /// The address under which nodes and pods reach this control plane [default: 127.0.0.1].
    #[arg(long, env = "OARLOCK_ADVERTISE_ADDRESS", default_value = "127.0.0.1")]
    pub advertise_address: IpAddr,
    /// More names and addresses for the server's certificate.
    #[arg(long = "tls-san", env = "OARLOCK_TLS_SAN", value_delimiter = ',')]
    pub tls_sans: Vec<String>,
    /// The range of ClusterIPs; with dual stack two, of IPv4 and then of IPv6: 10.96.0.0/16,fd00:10:96::/112.
    #[arg(long, env = "OARLOCK_SERVICE_CLUSTER_IP_RANGE", default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: AddressRanges,
    /// The range of pods; each node gets a /24 of it. With dual stack two, of IPv4 and then of IPv6, of which each node gets a
    /// /64: 10.244.0.0/16,fd00:10:244::/56.
    #[arg(long, env = "OARLOCK_CLUSTER_CIDR", default_value = "10.244.0.0/16")]
    pub cluster_cidr: AddressRanges,
    /// The range of NodePorts, both ends included.
    #[arg(long, env = "OARLOCK_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Who issues ServiceAccount tokens [default: https://kubernetes.default.svc.<cluster domain>].
    #[arg(long, env = "OARLOCK_SERVICE_ACCOUNT_ISSUER")]
    pub service_account_issuer: Option<String>,
    /// The names under which the API server accepts tokens [default: the issuer].
    #[arg(long, env = "OARLOCK_API_AUDIENCES", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// A file of tokens of users, one a line: token,user,uid,"group,group".
    #[arg(long, env = "OARLOCK_TOKEN_AUTH_FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// The DNS domain of the cluster.
    #[arg(long, env = "OARLOCK_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

impl ServeConfig {
    /// The first address of the service range: the API server as pods see it.
    #[must_use]
    pub fn kubernetes_service_ip(&self) -> IpAddr {
        numbered(self.service_cluster_ip_range.primary, 1)
    }

    /// The tenth address of each service range: the cluster's DNS, which agents answer.
    #[must_use]
    pub fn cluster_dns_ips(&self) -> Vec<IpAddr> {
        self.service_cluster_ip_range.all().into_iter().map(|range| numbered(range, 10)).collect()
    }

    /// Who issues ServiceAccount tokens.
    #[must_use]
    pub fn issuer(&self) -> String {
        let own = || format!("https://kubernetes.default.svc.{}", self.cluster_domain);
        self.service_account_issuer.clone().unwrap_or_else(own)
    }

    /// Every name and address that the server's certificate has to hold.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let domain = &self.cluster_domain;
        let fixed = ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut names: Vec<String> = fixed.iter().map(|name| (*name).to_owned()).collect();
        names.push(format!("kubernetes.default.svc.{domain}"));
        names.push(self.kubernetes_service_ip().to_string());
        names.push(self.advertise_address.to_string());
        if !self.bind_address.is_unspecified() {
            names.push(self.bind_address.to_string());
        }
        names.extend(self.tls_sans.iter().cloned());
        names.sort();
        names.dedup();
        names
    }
}

/// What `token` needs to know.
#[derive(Debug, Args)]
pub struct TokenConfig {
    /// The data folder of the control plane.
    #[arg(long, env = "OARLOCK_DATA_DIR", default_value = "/var/lib/oarlock/control")]
    pub data_dir: PathBuf,
}

/// An address of a range.
fn numbered(range: IpNet, number: u8) -> IpAddr {
    match range {
        IpNet::V4(range) => Ipv4Addr::from(u32::from(range.network()).saturating_add(number.into())).into(),
        IpNet::V6(range) => Ipv6Addr::from(u128::from(range.network()).saturating_add(number.into())).into(),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let range = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match range {
        Some((first, last)) if 0 < first && first <= last => Ok((first, last)),
        _ => Err(format!("{text:?} is no range of ports: give it as 30000-32767")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound_and_its_defaults_are_kubernetes_own() {
        Cli::command().debug_assert();
        let Command::Serve(serve) = Cli::parse_from(["oarlock-control", "serve"]).command else {
            panic!("not serve")
        };
        assert_eq!(serve.kubernetes_service_ip(), IpAddr::from([10, 96, 0, 1]));
        assert_eq!(serve.cluster_dns_ips(), [IpAddr::from([10, 96, 0, 10])]);
        assert_eq!(serve.service_node_port_range, (30000, 32767));
        assert!(serve.names().contains(&"kubernetes.default.svc.cluster.local".to_owned()));
    }

    #[test]
    fn bad_port_ranges_are_explained() {
        for bad in ["", "1", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(port_range(bad).unwrap_err().contains("30000-32767"), "{bad}");
        }
    }
}
