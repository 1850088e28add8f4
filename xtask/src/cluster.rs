//! A whole cluster on this machine: up, down, status, and commands on its nodes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::exec::{self, is_root, output, state, step, succeeds};
use crate::{bpf, daemons, docker, fabric, images, setup};

const PATIENCE: Duration = Duration::from_secs(60);
/// The cgroup of all nodes.
const CGROUP: &str = "oarlock";

/// Where our etcd answers clients, and its peers: not where a cluster's own would be.
const ETCD: [&str; 2] = ["http://127.0.0.1:2479", "http://127.0.0.1:2480"];

/// Where the cluster keeps its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Store {
    /// In a file; nothing else runs.
    Embedded,
    /// In an etcd that is started for the cluster.
    Etcd,
}

/// Whether uplinks answer Services by XDP, in the agent's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Xdp {
    /// Where the driver supports it, except on veth.
    BestEffort,
    /// Also on veth, as the links of this cluster are. They are set up for it.
    Native,
    /// Nowhere: tc alone.
    Disabled,
}

impl Xdp {
    fn flag(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| format!("--xdp={}", value.get_name()))
    }
}

/// Who answers clients outside that have reached another node than that of their pod, in the agent's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NorthSouth {
    /// The node that they have reached.
    Snat,
    /// The pod's own node.
    Direct,
}

impl NorthSouth {
    fn flag(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| format!("--north-south={}", value.get_name()))
    }
}

/// Which addresses nodes, pods and Services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IpFamily {
    /// IPv4 alone.
    Ipv4,
    /// IPv4, and IPv6 where this machine has it and all nodes are on one network.
    Dual,
}

/// Which Docker runs the containers of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dockers {
    /// The machine's, for all. It is on the machine's network: pods with hostNetwork are refused.
    Shared,
    /// A daemon for each node, on the node's network.
    Own,
}

/// How the daemons are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// As users run them.
    Release,
    /// Built in a fraction of the time, for tests.
    Dev,
}

/// How a cluster is brought up.
#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// How many nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
    /// Over how many networks, with a router between them, the nodes are dealt out.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(fabric::NETWORKS)))]
    networks: u8,
    /// Where the cluster keeps its objects.
    #[arg(long, value_enum, default_value = "embedded")]
    store: Store,
    /// Go on with the objects and certificates of a cluster that was taken down with --keep, or that has crashed.
    /// Without it a cluster that is not running begins empty.
    #[arg(long)]
    keep: bool,
    /// Whether the nodes' uplinks answer Services by XDP. They are veths, for which it is a way to try it, not to be faster.
    #[arg(long, value_enum, default_value = "best-effort")]
    xdp: Xdp,
    /// Who answers clients outside that have reached another node than that of their pod.
    #[arg(long, value_enum, default_value = "snat")]
    north_south: NorthSouth,
    /// Which addresses nodes, pods and Services have.
    #[arg(long, value_enum, default_value = "ipv4")]
    ip_family: IpFamily,
    /// Which Docker runs the containers of nodes.
    #[arg(long, value_enum, default_value = "shared")]
    docker: Dockers,
    /// Settings of the agents, as `oarlock-agent run --config` has them.
    #[arg(long)]
    agent_config: Option<PathBuf>,
    /// How the daemons are built.
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
}

impl UpOptions {
    fn is_dual(&self) -> bool {
        self.ip_family == IpFamily::Dual && fabric::has_ipv6()
    }
}

/// How a cluster is taken down.
#[derive(Debug, Args)]
pub(crate) struct DownOptions {
    /// Keep the cluster's objects and certificates under target/oarlock for the next `up --keep`.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// A command on a node.
#[derive(Debug, Args)]
pub(crate) struct NodeOptions {
    /// The node's number, from 1.
    number: u8,
    /// The command and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Builds the BPF programs and the daemons that embed them.
pub(crate) fn build(profile: Profile) -> Result<()> {
    bpf::build()?;
    step("building oarlock-control and oarlock-agent", || {
        exec::cargo(match profile {
            Profile::Release => &["build", "--release", "-p", "oarlock-control", "-p", "oarlock-agent"],
            // All that `cargo test --workspace` builds too: the same dependencies with the same features, built once.
            Profile::Dev => &["build", "--workspace", "--bins"],
        })
    })
}

/// Builds the agent and has it attach its programs to a link until interrupted.
pub(crate) fn load(iface: &str, xdp: Xdp) -> Result<()> {
    setup::setup()?;
    build(Profile::Dev)?;
    let agent = Profile::Dev.daemon("oarlock-agent").display().to_string();
    exec::run(&agent, &["dataplane", "load", "--iface", iface, &xdp.flag()])
}

impl Profile {
    /// Where a program is.
    pub(crate) fn daemon(self, name: &str) -> PathBuf {
        let folder = match self {
            Self::Release => "release",
            Self::Dev => "debug",
        };
        exec::target().join(folder).join(name)
    }
}

fn control_dir() -> PathBuf {
    state().join("control")
}

fn kubeconfig() -> PathBuf {
    state().join("kubeconfig")
}

/// Brings the cluster up, or what is missing of it.
pub(crate) fn up(options: &UpOptions) -> Result<()> {
    if !is_root() {
        bail!("network namespaces, links and cgroups need root: run `cargo xtask up` as root");
    }
    setup::setup()?;
    build(options.profile)?;
    images::ensure()?;
    if !daemons::is_running("control") && !options.keep && (fabric::exists() || control_dir().exists()) {
        println!("Clearing away what is left of an earlier cluster (--keep would go on with it).");
        remove(false)?;
    }
    check_store(options.store)?;
    step("making the network", || {
        let native = options.xdp == Xdp::Native;
        fabric::up(options.nodes, options.networks, native, options.is_dual())?;
        let agent = options.profile.daemon("oarlock-agent").display().to_string();
        let peers = if native { options.nodes } else { 0 };
        (1..=peers).try_for_each(|number| fabric::prepare_peer(number, &agent))
    })?;
    if options.store == Store::Etcd {
        step("starting etcd", start_etcd)?;
    }
    step("starting the control plane", || start_control(options))?;
    step(&format!("starting {} nodes", options.nodes), || {
        (1..=options.nodes).try_for_each(|number| start_node(options, number))?;
        wait("every node is Ready", || ready_nodes().is_ok_and(|n| n.len() >= usize::from(options.nodes)))
    })?;
    for (cidr, ip) in ready_nodes()?.iter().flatten().filter(|(_, ip)| fabric::is_near(ip)) {
        fabric::route_pods(cidr, ip)?;
    }
    fabric::route_services(options.is_dual())?;
    println!(
        "\nThe cluster is up. Try:\n\n  export KUBECONFIG={}\n  kubectl get nodes -o wide\n  kubectl apply -f \
         manifests/quickstart/\n  kubectl get pods,svc,endpoints -o wide\n  \
         curl http://{}:30080/        # a NodePort; ClusterIPs answer too\n  cargo xtask node 1 -- ip route\n\nLogs are under {}. `cargo xtask down` removes everything.",
        kubeconfig().display(),
        fabric::node_ip(1),
        state().display()
    );
    Ok(())
}

/// A cluster that is there goes on where its objects are.
fn check_store(store: Store) -> Result<()> {
    match (store, state().join("etcd").exists(), control_dir().exists()) {
        (Store::Embedded, true, _) => bail!(
            "this cluster's objects are in etcd: add --store etcd, or begin anew with `cargo xtask down`"
        ),
        (Store::Etcd, false, true) => bail!(
            "this cluster's objects are not in etcd: leave --store etcd out, or begin anew with `cargo xtask down`"
        ),
        _ => Ok(()),
    }
}

fn start_etcd() -> Result<()> {
    if !daemons::is_running("etcd") {
        let [clients, peers] = ETCD;
        let mut command = Command::new("etcd");
        command.args(["--name", "oarlock", "--data-dir", &state().join("etcd").display().to_string()]);
        command.args(["--listen-client-urls", clients, "--advertise-client-urls", clients]);
        command.args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]);
        command.args(["--initial-cluster", &format!("oarlock={peers}"), "--log-level", "warn"]);
        daemons::spawn("etcd", command)?;
    }
    let url = format!("{}/health", ETCD[0]);
    wait("etcd is healthy", || succeeds("curl", &["-sf", "-m", "2", "-o", "/dev/null", &url]))
}

fn start_control(options: &UpOptions) -> Result<()> {
    let folder = control_dir();
    if !daemons::is_running("control") {
        let mut command = Command::new(options.profile.daemon("oarlock-control"));
        command.args(["serve", "--data-dir", &folder.display().to_string()]);
        command.args(["--advertise-address", fabric::HOST]);
        if options.is_dual() {
            let [pods, services] = fabric::dual_ranges();
            command.args(["--cluster-cidr", &pods, "--service-cluster-ip-range", &services]);
        }
        if options.store == Store::Etcd {
            command.args(["--store", "etcd", "--etcd-endpoints", ETCD[0]]);
        }
        daemons::spawn("control", command)?;
    }
    wait("the API server is ready", || {
        output("curl", &["-skf", "-m", "2", "https://127.0.0.1:6443/readyz"]).is_ok_and(|a| a == "ok")
    })?;
    std::fs::copy(folder.join("admin.kubeconfig"), kubeconfig())?;
    Ok(())
}

fn start_node(options: &UpOptions, number: u8) -> Result<()> {
    let name = format!("node{number}");
    let docker = match options.docker {
        Dockers::Own => docker::own::start(number)?,
        Dockers::Shared => docker::machine(),
    };
    if daemons::is_running(&name) {
        return Ok(());
    }
    let control = control_dir();
    let program = options.profile.daemon("oarlock-agent").display().to_string();
    let mut command = fabric::command_in(&fabric::node_namespace(number), &program);
    command.args(["run", "--node-name", &name, "--server", &format!("https://{}:6444", fabric::HOST)]);
    command.args(["--token-file", &control.join("join-token").display().to_string()]);
    command.args(["--ca-file", &control.join("pki/ca.crt").display().to_string()]);
    command.args(["--data-dir", &state().join(&name).display().to_string()]);
    let mut node_ip = fabric::node_ip_of(number, options.networks);
    if options.is_dual() {
        node_ip = format!("{node_ip},{}", fabric::beside(&node_ip));
    }
    command.args(["--node-ip", &node_ip, "--uplink", "eth0", &options.xdp.flag()]);
    command.arg(options.north_south.flag());
    command.args(["--docker-host", &format!("unix://{}", docker.socket)]);
    // The machine, which is no node, reaches ClusterIPs by a route to a node.
    command.arg("--accept-external-cluster-ip");
    // Docker and the disk are this machine's: none of its images goes, and no pod because it is full.
    if options.docker == Dockers::Shared || options.agent_config.is_none() {
        command.arg("--image-gc-high-threshold=100");
    }
    match &options.agent_config {
        Some(file) => command.arg("--config").arg(file),
        None => command.arg("--eviction-hard=memory.available<100Mi"),
    };
    daemons::spawn(&name, command)
}

fn wait(what: &str, ready: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    let mut said = 0;
    while !ready() {
        let seconds = start.elapsed().as_secs();
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}; the logs are under {}", state().display());
        }
        if seconds >= said + 2 {
            said = seconds;
            println!("    waiting until {what}: {seconds} s of at most {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn kubectl(arguments: &[&str]) -> Result<String> {
    let program = setup::kubectl_path().context("no kubectl: run `cargo xtask setup`")?;
    let config = format!("--kubeconfig={}", kubeconfig().display());
    output(&program, &[&[config.as_str()], arguments].concat())
}

/// (podCIDR, InternalIP) of every node that is Ready, of each family.
fn ready_nodes() -> Result<Vec<Vec<(String, String)>>> {
    let list: Value = serde_json::from_str(&kubectl(&["get", "nodes", "-o", "json"])?)?;
    let nodes = list["items"].as_array().into_iter().flatten().filter_map(|node| {
        let status = &node["status"];
        let is = |list: &Value, kind: &str| {
            list.as_array().into_iter().flatten().find(|x| x["type"] == kind).cloned()
        };
        let ready = is(&status["conditions"], "Ready")?["status"] == "True";
        let texts = |list: Vec<&Value>| -> Vec<String> {
            list.into_iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let addresses = status["addresses"].as_array()?.iter().filter(|a| a["type"] == "InternalIP");
        let ips = texts(addresses.map(|a| &a["address"]).collect());
        let cidrs = texts(node["spec"]["podCIDRs"].as_array()?.iter().collect());
        let of_family = |cidr: String| {
            let ip = ips.iter().find(|ip| ip.contains(':') == cidr.contains(':'))?.clone();
            Some((cidr, ip))
        };
        (ready && !cidrs.is_empty()).then(|| cidrs.into_iter().filter_map(of_family).collect())
    });
    Ok(nodes.collect())
}

/// Takes everything down, also what a crash left behind.
pub(crate) fn down(options: &DownOptions) -> Result<()> {
    if !is_root() {
        bail!("the cluster was made by root: run `cargo xtask down` as root");
    }
    remove(options.keep)
}

fn remove(keep: bool) -> Result<()> {
    let (dockers, daemons): (Vec<String>, Vec<String>) =
        daemons::all().into_iter().partition(|name| docker::own::is_one(name));
    step("stopping the daemons", || {
        daemons.iter().for_each(|name| daemons::stop(name));
        Ok(())
    })?;
    step("removing containers", || {
        docker::machine().remove_containers();
        dockers.iter().for_each(|name| docker::own::stop(name));
        Ok(())
    })?;
    step("removing the network", || {
        fabric::down();
        Ok(())
    })?;
    unmount_volumes()?;
    remove_cgroups();
    let _ = std::fs::remove_dir_all("/sys/fs/bpf/oarlock");
    if !keep {
        for entry in std::fs::read_dir(state()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            let is_ours =
                ["control", "etcd", "kubeconfig"].contains(&name.as_str()) || name.starts_with("node");
            if is_ours && !name.ends_with(".log") {
                let _ =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
        }
    }
    Ok(())
}

/// Volumes of pods stay mounted when an agent is killed, and Docker's mounts when it is. What is below one may be a server's: nothing is
/// removed before all are gone.
fn unmount_volumes() -> Result<()> {
    // The innermost first.
    for path in mounted()?.iter().rev() {
        if output("umount", &[path]).is_err() {
            // Its server may be gone.
            let _ = output("umount", &["--force", "--lazy", path]);
        }
    }
    match mounted()?.first() {
        Some(path) => bail!("{path} is still mounted: unmount it first"),
        None => Ok(()),
    }
}

/// What is mounted below our folder.
fn mounted() -> Result<Vec<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let prefix = format!("{}/", state().display());
    let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    Ok(ours.filter(|path| path.starts_with(&prefix)).map(str::to_owned).collect())
}

/// Removes our cgroups in every hierarchy, the innermost first.
fn remove_cgroups() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let roots = mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .filter(|f| matches!(f.get(2), Some(&("cgroup" | "cgroup2"))));
    for root in roots.filter_map(|f| f.get(1).copied()) {
        remove_cgroup(&Path::new(root).join(CGROUP));
    }
}

fn remove_cgroup(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(path);
}

/// Says what is running.
pub(crate) fn status() -> Result<()> {
    let daemons = daemons::all();
    if daemons.is_empty() {
        println!("no cluster: `cargo xtask up` brings one up");
        return Ok(());
    }
    for name in daemons {
        match daemons::running_pid(&name) {
            Some(pid) => println!("{name:10} running, pid {pid}"),
            None => println!(
                "{name:10} NOT running; its log is {}",
                state().join(format!("{name}.log")).display()
            ),
        }
    }
    match kubectl(&["get", "nodes", "-o", "wide"]) {
        Ok(nodes) => print!("\n{nodes}"),
        Err(error) => println!("\nthe API server does not answer: {error}"),
    }
    Ok(())
}

/// Runs a command on a node.
pub(crate) fn node(options: &NodeOptions) -> Result<()> {
    let Some((program, arguments)) = options.command.split_first() else { bail!("give a command after --") };
    let namespace = fabric::node_namespace(options.number);
    // In the node's cgroup its socket programs answer for Services, as they do for its pods.
    let cgroup = output("sh", &["-c", "awk '$3==\"cgroup2\"{print $2; exit}' /proc/self/mounts"])?;
    let procs =
        Path::new(cgroup.trim()).join(CGROUP).join(format!("node{}", options.number)).join("cgroup.procs");
    std::fs::write(&procs, std::process::id().to_string())
        .with_context(|| format!("cannot enter {}: is the cluster up?", procs.display()))?;
    let status = fabric::command_in(&namespace, program)
        .args(arguments)
        .status()
        .with_context(|| format!("cannot enter {namespace}: is the cluster up?"))?;
    std::process::exit(status.code().unwrap_or(1));
}
