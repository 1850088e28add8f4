//! A whole cluster on this machine: up, down, status, and commands on its nodes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::exec::{self, is_root, output, state, step};
use crate::{bpf, docker, fabric, images, setup};

const PATIENCE: Duration = Duration::from_secs(60);
/// The cgroup of all nodes.
const CGROUP: &str = "oarlock";

/// How a cluster is brought up.
#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// How many nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    nodes: u8,
}

/// How a cluster is taken down.
#[derive(Debug, Args)]
pub(crate) struct DownOptions {
    /// Keep the cluster's objects, certificates and logs under target/oarlock for the next `up`.
    #[arg(long)]
    keep: bool,
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
pub(crate) fn build() -> Result<()> {
    bpf::build()?;
    step("building oarlock-control and oarlock-agent", || {
        exec::cargo(&["build", "--quiet", "--release", "-p", "oarlock-control", "-p", "oarlock-agent"])
    })
}

fn daemon(name: &str) -> PathBuf {
    exec::target().join("release").join(name)
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
    build()?;
    images::ensure()?;
    step("making the network", || fabric::up(options.nodes))?;
    step("starting the control plane", start_control)?;
    step(&format!("starting {} nodes", options.nodes), || {
        (1..=options.nodes).try_for_each(start_node)?;
        wait("every node is Ready", || ready_nodes().is_ok_and(|n| n.len() == usize::from(options.nodes)))
    })?;
    for (cidr, ip) in ready_nodes()? {
        fabric::route_pods(&cidr, &ip)?;
    }
    println!(
        "\nThe cluster is up. Try:\n\n  export KUBECONFIG={}\n  kubectl get nodes -o wide\n  kubectl apply -f \
         manifests/quickstart/\n  kubectl get pods,svc,endpoints -o wide\n\nLogs are under {}. `cargo xtask down` removes everything.",
        kubeconfig().display(),
        state().display()
    );
    Ok(())
}

fn start_control() -> Result<()> {
    let folder = control_dir();
    if !is_running("control") {
        let mut command = Command::new(daemon("oarlock-control"));
        command.args([
            "serve",
            "--data-dir",
            &folder.display().to_string(),
            "--advertise-address",
            fabric::HOST,
        ]);
        spawn("control", command)?;
    }
    wait("the API server is ready", || {
        output("curl", &["-skf", "-m", "2", "https://127.0.0.1:6443/readyz"]).is_ok_and(|a| a == "ok")
    })?;
    std::fs::copy(folder.join("admin.kubeconfig"), kubeconfig())?;
    Ok(())
}

fn start_node(number: u8) -> Result<()> {
    let name = format!("node{number}");
    if is_running(&name) {
        return Ok(());
    }
    let control = control_dir();
    let program = daemon("oarlock-agent");
    let mut command = fabric::command_in(&fabric::node_namespace(number), &program.display().to_string());
    command.args(["run", "--node-name", &name, "--server", &format!("https://{}:6444", fabric::HOST)]);
    command.args(["--token-file", &control.join("join-token").display().to_string()]);
    command.args(["--ca-file", &control.join("pki/ca.crt").display().to_string()]);
    command.args(["--data-dir", &state().join(&name).display().to_string()]);
    command.args(["--node-ip", &fabric::node_ip(number), "--uplink", "eth0"]);
    spawn(&name, command)
}

/// Starts a daemon in the background, with its log and a pid file that a recycled pid does not fit.
fn spawn(name: &str, command: Command) -> Result<()> {
    let folder = state();
    std::fs::create_dir_all(&folder)?;
    let log = File::options().create(true).append(true).open(folder.join(format!("{name}.log")))?;
    // nsenter and setsid both become the daemon itself: the pid is its own.
    let mut outer = Command::new("setsid");
    outer.arg(command.get_program()).args(command.get_args());
    let child = outer
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let pid = child.id();
    let start = start_time(pid).unwrap_or_default();
    std::fs::write(folder.join(format!("{name}.pid")), format!("{pid} {start}"))?;
    Ok(())
}

/// When a process started, in clock ticks since boot: field 22 of /proc/<pid>/stat.
fn start_time(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18).unwrap_or_default().to_owned())
}

/// The pid of a daemon of ours that is running.
fn running_pid(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(state().join(format!("{name}.pid"))).ok()?;
    let (pid, start) = text.split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid).as_deref() == Some(start)).then_some(pid)
}

fn is_running(name: &str) -> bool {
    running_pid(name).is_some()
}

/// Every daemon that has a pid file.
fn daemons() -> Vec<String> {
    let files = std::fs::read_dir(state()).into_iter().flatten().flatten();
    let names = files.filter_map(|f| f.file_name().to_string_lossy().strip_suffix(".pid").map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn wait(what: &str, ready: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}; the logs are under {}", state().display());
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

/// (podCIDR, InternalIP) of every node that is Ready.
fn ready_nodes() -> Result<Vec<(String, String)>> {
    let list: Value = serde_json::from_str(&kubectl(&["get", "nodes", "-o", "json"])?)?;
    let nodes = list["items"].as_array().into_iter().flatten().filter_map(|node| {
        let status = &node["status"];
        let is = |list: &Value, kind: &str| {
            list.as_array().into_iter().flatten().find(|x| x["type"] == kind).cloned()
        };
        let ready = is(&status["conditions"], "Ready")?["status"] == "True";
        let ip = is(&status["addresses"], "InternalIP")?["address"].as_str()?.to_owned();
        let cidr = node["spec"]["podCIDR"].as_str()?.to_owned();
        ready.then_some((cidr, ip))
    });
    Ok(nodes.collect())
}

/// Takes everything down, also what a crash left behind.
pub(crate) fn down(options: &DownOptions) -> Result<()> {
    if !is_root() {
        bail!("the cluster was made by root: run `cargo xtask down` as root");
    }
    step("stopping the daemons", || {
        for name in daemons() {
            stop(&name);
        }
        Ok(())
    })?;
    step("removing containers", || {
        for id in docker::containers() {
            docker::remove(&id);
        }
        Ok(())
    })?;
    step("removing the network", || {
        fabric::down();
        Ok(())
    })?;
    unmount_volumes();
    remove_cgroups();
    let _ = std::fs::remove_dir_all("/sys/fs/bpf/oarlock");
    if !options.keep {
        for entry in std::fs::read_dir(state()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "control" || name == "kubeconfig" || name.starts_with("node") {
                let path = entry.path();
                let _ =
                    if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            }
        }
    }
    Ok(())
}

fn stop(name: &str) {
    if let Some(pid) = running_pid(name) {
        let pid_text = pid.to_string();
        let _ = output("kill", &[&pid_text]);
        let start = Instant::now();
        while is_running(name) && start.elapsed() < Duration::from_secs(8) {
            std::thread::sleep(Duration::from_millis(50));
        }
        if is_running(name) {
            let _ = output("kill", &["-9", &pid_text]);
        }
    }
    let _ = std::fs::remove_file(state().join(format!("{name}.pid")));
}

/// Memory-backed volumes of pods stay mounted when an agent is killed.
fn unmount_volumes() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let prefix = state().display().to_string();
    for path in mounts.lines().filter_map(|l| l.split(' ').nth(1)).filter(|p| p.starts_with(&prefix)) {
        let _ = output("umount", &[path]);
    }
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
    let daemons = daemons();
    if daemons.is_empty() {
        println!("no cluster: `cargo xtask up` brings one up");
        return Ok(());
    }
    for name in daemons {
        match running_pid(&name) {
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
