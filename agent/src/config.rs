//! The agent's settings: parsed once from flags and environment, then only values travel.

mod keep;
mod proxy;
mod reset;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use oarlock_daemon::logging::Format;
use oarlock_daemon::settings::environment_file;

use crate::dataplane::Acceleration;
use crate::dual_ip::DualIp;
use crate::net::{NorthSouth, Routing};
pub(crate) use keep::Keep;
pub use keep::KeepArgs;
pub use proxy::ProxyConfig;
pub use reset::ResetConfig;

/// The node agent of Oarlock: runs the pods that the control plane binds to this node through Docker, gives them a network,
/// and answers Services in eBPF.
#[derive(Debug, Parser)]
#[command(name = "oarlock-agent", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What is logged, in the syntax of RUST_LOG: info, or info,oarlock_agent=debug.
    #[arg(long, env = "OARLOCK_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How log lines look: text, json, or auto (text on a terminal).
    #[arg(long, env = "OARLOCK_LOG_FORMAT", default_value = "auto", global = true)]
    pub log_format: Format,
}

/// The agent's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Join the cluster and run pods until told to end. Ending leaves pods running and traffic flowing.
    Run(Box<RunConfig>),
    /// Answer Services on a node of any Kubernetes cluster, instead of kube-proxy. Runs no pods. Ending leaves traffic flowing.
    Proxy(Box<ProxyConfig>),
    /// Say what this host lacks to be a node, and how to mend it.
    Check(CheckConfig),
    /// Remove from this host all that the agent has made: containers of pods, links, routes, programs, cgroups, mounts, its data.
    Reset(ResetConfig),
    /// Print the file of settings that the Debian package brings: each variable of `run` with its help and its default.
    Settings,
    /// Bring images to this node's Docker without a registry.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Look at the eBPF programs and tables of this host, or load them by hand.
    #[command(subcommand)]
    Dataplane(DataplaneCommand),
}

impl Cli {
    /// The settings of `run`, as a file for the service manager.
    #[must_use]
    pub fn settings() -> String {
        let whole = <Self as clap::CommandFactory>::command();
        let run = whole.find_subcommand("run").cloned().unwrap_or_default();
        let intro = "Settings of oarlock-agent, the environment of `oarlock-agent run`. What is commented out is the default.\n\
                     Restart it after a change: systemctl restart oarlock-agent. Pods do not notice.";
        environment_file(intro, &run, &whole)
    }
}

/// What `run` needs to know.
#[derive(Debug, Clone, Args)]
pub struct RunConfig {
    /// The node's name in the cluster: a DNS-1123 subdomain.
    #[arg(long, env = "OARLOCK_NODE_NAME")]
    pub node_name: String,
    /// The control plane's address for agents, for example https://10.0.0.1:6444. Of several control planes on one etcd all, the first choice first:
    /// while one opens no session the next is asked.
    #[arg(long = "server", env = "OARLOCK_SERVER", required = true, value_delimiter = ',')]
    pub servers: Vec<String>,
    /// A file that holds a join token; needed until the node has its certificate.
    #[arg(long, env = "OARLOCK_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// The cluster's CA certificate. One of --ca-file and --ca-hash is needed until the node has joined.
    #[arg(long, env = "OARLOCK_CA_FILE", conflicts_with = "ca_hash")]
    pub ca_file: Option<PathBuf>,
    /// The hash of the cluster's CA certificate, sha256:<hex>, as `oarlock-control token` prints it.
    #[arg(long, env = "OARLOCK_CA_HASH")]
    pub ca_hash: Option<String>,
    /// Where the agent keeps certificates, volumes and its own state.
    #[arg(long, env = "OARLOCK_DATA_DIR", default_value = "/var/lib/oarlock/agent", value_parser = absolute)]
    pub data_dir: PathBuf,
    /// The node's address that other nodes and clients use (InternalIP); with dual stack two: 10.0.0.1,fd00::1.
    #[arg(long, env = "OARLOCK_NODE_IP")]
    pub node_ip: DualIp,
    /// The link that carries the node's traffic to other nodes and clients. May be given several times.
    #[arg(long = "uplink", env = "OARLOCK_UPLINK", required = true, value_delimiter = ',')]
    pub uplinks: Vec<String>,
    /// Whether uplinks answer Services by XDP. What it does not serve, tc does; `kubectl describe node` shows which and why.
    #[arg(long, env = "OARLOCK_XDP", value_enum, default_value_t)]
    pub xdp: Acceleration,
    /// How pods of other nodes are reached: routed to nodes on the uplinks' networks and by VXLAN (UDP 8472) to the others, or one
    /// of both to all.
    #[arg(long, env = "OARLOCK_POD_ROUTING", value_enum, default_value_t)]
    pub pod_routing: Routing,
    /// Who answers clients outside that have reached another node than that of their pod. `direct` is for networks that let a node
    /// send with addresses of other nodes and of Services; each node has to say it. Over IPv6 it is `snat`.
    #[arg(long, env = "OARLOCK_NORTH_SOUTH", value_enum, default_value_t)]
    pub north_south: NorthSouth,
    /// Where Docker listens.
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    pub docker_host: String,
    /// The cgroup under which this node's containers live, and to which its socket programs are attached
    /// [default: /oarlock/<node name>].
    #[arg(long, env = "OARLOCK_CGROUP_PARENT")]
    pub cgroup_parent: Option<String>,
    /// Where the BPF file system is mounted; programs and maps are pinned under <bpffs>/oarlock/<node name>.
    #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Count packets, bytes and connections by backend too, not by Service alone: metrics of thousands of endpoints are many.
    #[arg(long, env = "OARLOCK_COUNT_BACKENDS")]
    pub count_backends: bool,
    /// Answer ClusterIPs for clients from outside the cluster that route them to this node.
    #[arg(long, env = "OARLOCK_ACCEPT_EXTERNAL_CLUSTER_IP")]
    pub accept_external_cluster_ip: bool,
    /// The port at the node's address where the cluster's DNS is answered for the pods of this node.
    #[arg(long, env = "OARLOCK_DNS_PORT", default_value_t = 10053)]
    pub dns_port: u16,
    /// Who is asked for names outside the cluster: IP or IP:port, several with commas [default: those of /etc/resolv.conf].
    #[arg(long, env = "OARLOCK_UPSTREAM_DNS", value_delimiter = ',', value_parser = name_server)]
    pub upstream_dns: Vec<SocketAddr>,
    /// The image of the container that holds each pod's namespaces.
    #[arg(long, env = "OARLOCK_PAUSE_IMAGE", default_value = "oarlock/pause:0.1.0")]
    pub pause_image: String,
    /// Where /healthz, /readyz and /metrics are answered over plain HTTP.
    #[arg(long, env = "OARLOCK_METRICS_BIND_ADDRESS", default_value = "127.0.0.1:10255")]
    pub metrics_bind_address: SocketAddr,
    /// How many pods this node takes.
    #[arg(long, env = "OARLOCK_MAX_PODS", default_value_t = 110)]
    pub max_pods: u32,
    /// What it keeps free.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// A name server, at the port of DNS if none is said.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let ip = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    ip.or_else(|_| text.parse())
        .map_err(|_| "not an IP address, or one with a port: 192.0.2.53:53".to_owned())
}

impl RunConfig {
    /// The cgroup of the node, relative to the root of the hierarchy.
    #[must_use]
    pub fn cgroup(&self) -> String {
        self.cgroup_parent.clone().unwrap_or_else(|| format!("/oarlock/{}", self.node_name))
    }
}

/// Docker mounts what it is told from its own working directory: paths that it hears have to begin at the root.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// What `check` looks at.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// Where Docker listens.
    #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
    pub docker_host: String,
    /// Where the BPF file system is mounted.
    #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Who is to answer clients outside.
    #[arg(long, env = "OARLOCK_NORTH_SOUTH", value_enum, default_value_t)]
    pub north_south: NorthSouth,
}

/// Commands about the dataplane.
#[derive(Debug, Subcommand)]
pub enum DataplaneCommand {
    /// Load the programs and attach them to a link, without a control plane, until interrupted; then take all of it back.
    Load {
        /// The link.
        #[arg(long)]
        iface: String,
        /// Whether the link answers Services by XDP; tc does what it does not.
        #[arg(long, env = "OARLOCK_XDP", value_enum, default_value_t)]
        xdp: Acceleration,
        /// The address of this host at which NodePorts would be answered.
        #[arg(long, default_value = "127.0.0.1")]
        node_ip: std::net::Ipv4Addr,
        /// Under which name it is pinned and has its cgroup.
        #[arg(long, default_value = "by-hand")]
        node_name: String,
        /// Where the BPF file system is mounted.
        #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
        bpffs: PathBuf,
    },
    /// Ready the other end of a veth uplink, wherever it is, for what XDP sends by it (see --xdp native).
    PreparePeer {
        /// That link.
        #[arg(long)]
        iface: String,
        /// Where the BPF file system is mounted.
        #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
        bpffs: PathBuf,
    },
    /// Print what the kernel's tables of a node hold: Services with their backends, addresses, flows, counters.
    Dump {
        /// The node's name.
        #[arg(long, env = "OARLOCK_NODE_NAME")]
        node_name: String,
        /// As JSON, whose shape docs/observability.md describes.
        #[arg(long)]
        json: bool,
        /// Where the BPF file system is mounted.
        #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
        bpffs: PathBuf,
    },
    /// Compare the kernel's tables with what the running agent wants, compiled anew, and name each difference. Exit code 1 if
    /// there is one. Tables may change meanwhile: only what differs each time they are read counts.
    Verify(VerifyConfig),
}

/// What `dataplane verify` needs to know.
#[derive(Debug, Args)]
pub struct VerifyConfig {
    /// The node's name.
    #[arg(long, env = "OARLOCK_NODE_NAME")]
    pub node_name: String,
    /// Where the agent answers over plain HTTP: its --metrics-bind-address. Of `oarlock-agent proxy` 127.0.0.1:10249.
    #[arg(long, default_value = "127.0.0.1:10255")]
    pub agent: SocketAddr,
    /// Where the BPF file system is mounted.
    #[arg(long, env = "OARLOCK_BPFFS", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// Commands about images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import images from archives as `docker save` writes them.
    Import {
        /// Where Docker listens.
        #[arg(long, env = "DOCKER_HOST", default_value = "unix:///var/run/docker.sock")]
        docker_host: String,
        /// The archives.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_cgroup_follows_the_node_name() {
        let words =
            "oarlock-agent run --node-name n1 --server https://x:6444 --node-ip 10.0.0.1 --uplink eth0";
        let Command::Run(run) = Cli::parse_from(words.split(' ')).command else { panic!("not run") };
        assert_eq!(run.cgroup(), "/oarlock/n1");
    }

    #[test]
    fn several_control_planes_may_be_named() {
        let words = "oarlock-agent run --node-name n --server https://a:6444,https://b:6444 --node-ip 10.0.0.1 --uplink eth0";
        let Command::Run(run) = Cli::parse_from(words.split(' ')).command else { panic!("not run") };
        assert_eq!(run.servers, ["https://a:6444", "https://b:6444"]);
        let words = "oarlock-agent run --node-name n --node-ip 10.0.0.1 --uplink eth0";
        assert!(Cli::try_parse_from(words.split(' ')).is_err(), "one is needed");
    }

    #[test]
    fn a_relative_data_dir_begins_where_the_agent_was_started() {
        let words = "oarlock-agent run --node-name n --server https://x:6444 --node-ip 10.0.0.1 --uplink eth0 --data-dir here";
        let Command::Run(run) = Cli::parse_from(words.split(' ')).command else { panic!("not run") };
        assert_eq!(run.data_dir, std::env::current_dir().unwrap().join("here"));
    }
}
