//! `cargo xtask bench NAME`: measurements on a cluster of their own, against what they are to be compared with, in
//! interleaved rounds. The machine itself keeps its packet filter, routes and settings.

mod lab;
mod own;
mod plot;
mod pods;
mod report;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::exec::{is_root, output, root, state, step, succeeds};
use crate::{daemons, fabric, images, setup};
use lab::Lab;
use pods::PodsOptions;
use report::Figure;

/// What is measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Connections per second to pods, ClusterIPs and NodePorts, here and by kube-proxy's rules; memory; time to answers.
    Quick(QuickOptions),
    /// What a node does with pods: many at once beside Docker's own command line, one after the other; what its agent costs with a hundred
    /// pods and after many.
    Pods(PodsOptions),
    /// What the programs cost per packet and per connection, and the agent per change, with up to 50,000 Services.
    Dataplane,
    /// What the API server serves a second, holds in memory and needs to start, on both stores. Needs etcd.
    Api,
    /// How many pods a second the scheduler decides about on 5,000 nodes, by kinds of rules.
    Scheduler,
    /// A control plane under thousands of simulated agents: pods bound, memory, idling, rollouts as the cluster grows, take-over.
    Controllers(ControllersOptions),
    /// Pictures of what was measured last, in `docs/plots`.
    Plots,
}

/// How large the cluster is that `controllers` simulates.
#[derive(Debug, Args)]
pub(crate) struct ControllersOptions {
    /// How many nodes.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    nodes: u32,
    /// How many pods it is filled with.
    #[arg(long, default_value_t = 150_000)]
    pods: u32,
    /// How many replicas are made at once, and rolled.
    #[arg(long, default_value_t = 10_000)]
    replicas: u32,
    /// Where objects are kept; without it, once on etcd and once embedded.
    #[arg(long, value_parser = ["etcd", "embedded"])]
    store: Option<String>,
    /// Minutes after which a store's measurement is given up.
    #[arg(long, default_value_t = 15)]
    minutes: u32,
}

/// How `quick` measures.
#[derive(Debug, Args)]
pub(crate) struct QuickOptions {
    /// How many rounds; what is compared takes turns within each.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Seconds that each is measured for in a round.
    #[arg(long, default_value_t = 0.7)]
    seconds: f64,
    /// Connections at a time.
    #[arg(long, default_value_t = 8)]
    threads: u16,
}

/// How often the time from `kubectl apply` to an answer is taken.
const APPLIES: usize = 5;
/// How often a cluster is started.
const STARTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
const NODE_PORT: &str = "30090";

/// Runs a benchmark.
pub(crate) fn bench(what: &Bench) -> Result<()> {
    match what {
        Bench::Scheduler => return own::scheduler(),
        Bench::Api => return own::api(),
        Bench::Controllers(options) => return own::controllers(options),
        Bench::Plots => return plot::plots(),
        Bench::Quick(_) | Bench::Pods(_) | Bench::Dataplane => {}
    }
    if !is_root() {
        bail!("links and cgroups are made by root: run `cargo xtask bench` as root");
    }
    if matches!(what, Bench::Dataplane) {
        return own::dataplane();
    }
    if daemons::all().iter().any(|daemon| daemons::is_running(daemon)) {
        bail!("a cluster is running and would be measured with what it does: `cargo xtask down` first");
    }
    let (name, figures) = match what {
        Bench::Pods(options) => ("pods", pods::pods(options)),
        Bench::Quick(options) => ("quick", quick(options)),
        _ => return Ok(()),
    };
    // Also after a failure: a benchmark leaves nothing running.
    xtask(&["down"])?;
    report::publish(name, &figures?)
}

fn quick(options: &QuickOptions) -> Result<Vec<Figure>> {
    // Once as users do, so that what is built and fetched is not measured.
    xtask(&["up"])?;
    let mut figures = step("from start to ready", starts)?;
    step("letting the daemons idle for 10 s", || {
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    })?;
    figures.extend(memory("idle")?);
    figures.extend(step("from apply to the first answer", first_answers)?);
    figures.extend(throughput(options)?);
    figures.extend(memory("after the load")?);
    Ok(figures)
}

/// Runs a command of this program.
fn xtask(arguments: &[&str]) -> Result<()> {
    let status = Command::new(std::env::current_exe()?).args(arguments).status()?;
    if status.success() { Ok(()) } else { bail!("cargo xtask {} failed: {status}", arguments.join(" ")) }
}

/// Clusters that begin empty, several times; the last one stays.
fn starts() -> Result<Vec<Figure>> {
    let (mut api, mut nodes) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        xtask(&["down"])?;
        let mut up = Command::new(std::env::current_exe()?);
        let mut up = up.arg("up").stdout(Stdio::null()).spawn()?;
        wait("the control plane is started", || daemons::is_running("control"))?;
        let start = std::fs::metadata(state().join("control.pid"))?.modified()?;
        let since = || SystemTime::now().duration_since(start).map(|d| d.as_secs_f64());
        let url = "https://127.0.0.1:6443/readyz";
        wait("the API is ready", || succeeds("curl", &["-skf", "-m", "1", "-o", "/dev/null", url]))?;
        api.push(since()?);
        wait("both nodes are Ready", || Api::new().is_ok_and(|api| api.ready_nodes() == 2))?;
        nodes.push(since()?);
        let status = up.wait()?;
        if !status.success() {
            bail!("cargo xtask up failed: {status}");
        }
    }
    Ok(vec![
        Figure::of("start of the control plane to a ready API", "s", &api),
        Figure::of("start of the control plane to both nodes Ready", "s", &nodes),
    ])
}

/// The API without kubectl, whose own start would be measured: curl with the certificate of the kubeconfig.
struct Api(PathBuf);

impl Api {
    fn new() -> Result<Self> {
        let folder = state().join("bench");
        std::fs::create_dir_all(&folder)?;
        for (field, file) in [("client-certificate-data", "admin.crt"), ("client-key-data", "admin.key")] {
            let script = format!(
                "umask 077; sed -n 's/^ *{field}: //p' {} | base64 -d > {}",
                state().join("kubeconfig").display(),
                folder.join(file).display()
            );
            output("sh", &["-c", &script])?;
        }
        Ok(Self(folder))
    }

    fn ready_nodes(&self) -> usize {
        let [certificate, key] = ["admin.crt", "admin.key"].map(|f| self.0.join(f).display().to_string());
        let url = "https://127.0.0.1:6443/api/v1/nodes";
        let text = output("curl", &["-skf", "-m", "1", "--cert", &certificate, "--key", &key, url]);
        let list: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        let is_ready = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        list["items"].as_array().into_iter().flatten().filter(is_ready).count()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        for file in ["admin.crt", "admin.key"] {
            let _ = std::fs::remove_file(self.0.join(file));
        }
    }
}

/// Waits without the pauses that would be measured.
fn wait(what: &str, ready: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}; the logs are under {}", state().display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Resident memory of the daemons, whole and with shared pages counted in part.
fn memory(when: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (daemon, name) in [("control", "control plane"), ("node1", "agent")] {
        for (field, what) in [("Rss:", "RSS"), ("Pss:", "PSS")] {
            let megabytes = memory_of(daemon, field)?;
            figures.push(Figure::of(format!("{name}, {what} {when}"), "MB", &[megabytes]));
        }
    }
    Ok(figures)
}

/// A kind of a daemon's memory, in megabytes: `Rss:`, `Pss:`.
fn memory_of(daemon: &str, field: &str) -> Result<f64> {
    let pid = daemons::running_pid(daemon).with_context(|| format!("{daemon} has ended"))?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes / 1000.0)
}

/// The quickstart, applied and deleted several times.
fn first_answers() -> Result<Vec<Figure>> {
    let node: SocketAddr = format!("{}:30080", fabric::node_ip(1)).parse()?;
    let (mut first, mut all, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..APPLIES {
        let start = Instant::now();
        kubectl("apply -f manifests/quickstart/")?;
        own.push(start.elapsed().as_secs_f64());
        wait("the quickstart answers", || answers(node))?;
        first.push(start.elapsed().as_secs_f64());
        wait("all replicas are ready", || {
            kubectl("get deployment web -o jsonpath={.status.readyReplicas}").is_ok_and(|ready| ready == "3")
        })?;
        all.push(start.elapsed().as_secs_f64());
        kubectl("delete -f manifests/quickstart/ --wait")?;
        wait("the quickstart is gone", || kubectl("get pods -o name").is_ok_and(|pods| pods.is_empty()))?;
    }
    Ok(vec![
        Figure::of("`kubectl apply` itself", "s", &own),
        Figure::of("`kubectl apply` to the first answer", "s", &first),
        Figure::of("`kubectl apply` to all replicas ready", "s", &all),
    ])
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn kubectl(arguments: &str) -> Result<String> {
    static PROGRAM: OnceLock<Option<String>> = OnceLock::new();
    let program = PROGRAM.get_or_init(setup::kubectl_path).clone();
    let program = program.context("no kubectl: run `cargo xtask setup`")?;
    let config = format!("--kubeconfig={}", state().join("kubeconfig").display());
    let arguments = arguments.replace("manifests/", &format!("{}/manifests/", root().display()));
    let arguments: Vec<&str> = std::iter::once(config.as_str()).chain(arguments.split(' ')).collect();
    output(&program, &arguments)
}

/// Where requests come from.
#[derive(Debug, Clone, Copy)]
enum From<'a> {
    /// The machine, which is outside the nodes and has routes to pods and Services.
    Outside,
    /// A container.
    Pod(&'a str),
    /// A namespace of a lab.
    Lab(&'a Lab, &'static str),
}

/// What is asked for: how the load generator calls it, what of its figures counts, and how often it is measured.
struct Kind {
    word: &'static str,
    /// Behind the names of its figures.
    suffix: &'static str,
    unit: &'static str,
    /// What one request is in that unit.
    each: f64,
    /// One of how many rounds it is measured in.
    every: u8,
}

const KINDS: [Kind; 3] = [
    Kind { word: "short", suffix: "", unit: "connections/s", each: 1.0, every: 1 },
    Kind { word: "keep", suffix: ", kept connections", unit: "requests/s", each: 1.0, every: 3 },
    Kind { word: "bulk", suffix: ", bulk", unit: "MB/s", each: 1.048_576, every: 3 },
];

/// One thing to measure: a name, where from, where to, and the place of what it is compared with.
struct Case<'a> {
    name: &'static str,
    from: From<'a>,
    to: Vec<String>,
    baseline: Option<&'static str>,
}

fn throughput(options: &QuickOptions) -> Result<Vec<Figure>> {
    let hammer = images::program("hammer")?;
    let (plain, rules) = step("wiring nodes without Oarlock, to compare with", || {
        Ok((Lab::make("plain", false)?, Lab::make("rules", true)?))
    })?;
    let (cluster_ip, pods) = step("starting web servers", start_servers)?;
    let asking = output("docker", &["ps", "-q", "--filter", "name=k8s_toolbox_bench-client_"])?;
    let asking = From::Pod(asking.trim());
    let cluster_ip = vec![format!("{cluster_ip}:80")];
    let node_port = |node: u8| vec![format!("{}:{NODE_PORT}", fabric::node_ip(node))];
    let backends: Vec<String> = lab::BACKENDS.iter().map(|ip| format!("{ip}:{}", lab::DIRECT_PORT)).collect();
    let _relay = Relay::start(&plain, &hammer, &backends)?;
    let lab_ip = vec![lab::CLUSTER_IP.to_owned()];
    let lab_port = vec![lab::NODE_PORT.to_owned()];
    let case = |name, from, to: &[String], baseline| Case { name, from, to: to.to_vec(), baseline };
    let (direct, outside) = ("Oarlock, pod to pod IPs", "Oarlock, outside to pod IPs");
    let (lab_direct, lab_outside) = ("no rules, pod to pod IPs", "no rules, outside to pod IPs");
    let cases = [
        case(direct, asking, &pods, None),
        case("Oarlock, pod to ClusterIP", asking, &cluster_ip, Some(direct)),
        case("Oarlock, pod to NodePort", asking, &node_port(1), Some(direct)),
        case(lab_direct, From::Lab(&plain, "pod0"), &backends, None),
        case("iptables, pod to ClusterIP", From::Lab(&rules, "pod0"), &lab_ip, Some(lab_direct)),
        case(
            "iptables, pod to NodePort",
            From::Lab(&rules, "pod0"),
            &["10.244.9.1:30090".to_owned()],
            Some(lab_direct),
        ),
        case(
            "a proxy in user space, from a pod",
            From::Lab(&plain, "pod0"),
            &[format!("{}:{RELAY_PORT}", lab::GATEWAY)],
            Some(lab_direct),
        ),
        case(outside, From::Outside, &pods, None),
        case("Oarlock, outside to ClusterIP", From::Outside, &cluster_ip, Some(outside)),
        case("Oarlock, outside to NodePort", From::Outside, &node_port(1), Some(outside)),
        case("Oarlock, outside to NodePort of the other node", From::Outside, &node_port(2), Some(outside)),
        case(lab_outside, From::Lab(&plain, "out"), &backends, None),
        case("iptables, outside to ClusterIP", From::Lab(&rules, "out"), &lab_ip, Some(lab_outside)),
        case("iptables, outside to NodePort", From::Lab(&rules, "out"), &lab_port, Some(lab_outside)),
        case(
            "a proxy in user space, from outside",
            From::Lab(&plain, "out"),
            &[format!("{}:{RELAY_PORT}", lab::OUTER)],
            Some(lab_outside),
        ),
    ];
    let mut figures = Vec::new();
    for kind in &KINDS {
        figures.extend(compare(&cases, kind, &hammer, options)?);
    }
    Ok(figures)
}

/// All cases in turn, round by round.
fn compare(cases: &[Case<'_>], kind: &Kind, hammer: &Path, options: &QuickOptions) -> Result<Vec<Figure>> {
    let rounds = options.rounds.div_ceil(kind.every);
    let mut rates = vec![Vec::new(); cases.len()];
    for round in 1..=rounds {
        step(&format!("{}{}, round {round} of {rounds}", kind.unit, kind.suffix), || {
            // Each round begins elsewhere, so that no case always follows the same one.
            let mut order: Vec<_> = cases.iter().zip(&mut rates).collect();
            order.rotate_left(usize::from(round) * 5 % cases.len());
            for (case, rates) in order {
                rates.push(hammering(case, kind, hammer, options)?);
            }
            Ok(())
        })?;
    }
    let rounds_of = |name: &str| {
        let found = cases.iter().zip(&rates).find(|(case, _)| case.name == name);
        found.map(|(_, rates)| rates.as_slice()).unwrap_or_default()
    };
    let mut figures: Vec<Figure> = Vec::new();
    for (case, rates) in cases.iter().zip(&rates) {
        let figure = Figure::of(format!("{}{}", case.name, kind.suffix), kind.unit, rates);
        figures.push(match case.baseline {
            Some(baseline) => figure.compared(rates, rounds_of(baseline)),
            None => figure,
        });
    }
    for way in ["pod to ClusterIP", "pod to NodePort", "outside to ClusterIP", "outside to NodePort"] {
        let (ours, theirs) = (rounds_of(&format!("Oarlock, {way}")), rounds_of(&format!("iptables, {way}")));
        let name = format!("Oarlock and iptables, {way}{}", kind.suffix);
        figures.push(Figure::of(name, kind.unit, ours).compared(ours, theirs));
    }
    Ok(figures)
}

/// Requests of one case for one round; how many a second were answered. Of ours, none may fail.
fn hammering(case: &Case<'_>, kind: &Kind, hammer: &Path, options: &QuickOptions) -> Result<f64> {
    let mut command = match case.from {
        From::Outside => Command::new(hammer),
        From::Pod(container) => {
            let mut command = Command::new("docker");
            command.args(["exec", container, "/bin/hammer"]);
            command
        }
        From::Lab(lab, pod) if lab::PODS.contains(&pod) => {
            let mut command = lab.exec(pod);
            command.arg("/bin/hammer");
            command
        }
        From::Lab(lab, namespace) => {
            let mut command = lab.command(namespace);
            command.arg(hammer);
            command
        }
    };
    let (seconds, threads) = (options.seconds.to_string(), options.threads.to_string());
    command.args([kind.word, &seconds, &threads]).args(&case.to);
    let said = command.output()?;
    let text = String::from_utf8_lossy(&said.stdout);
    let count: Value = serde_json::from_str(&text)
        .with_context(|| format!("{}: {text}{}", case.name, String::from_utf8_lossy(&said.stderr)))?;
    match (&case.from, &count["failed"]) {
        (_, failed) if *failed == 0 => {}
        // Of what we compare with, we only measure what it does.
        (From::Lab(..), failed) => println!("    {}: {failed} requests failed", case.name),
        _ => bail!("{}: requests failed: {count}", case.name),
    }
    count["per_second"].as_f64().map(|rate| rate * kind.each).context("the load generator said no rate")
}

const RELAY_PORT: u16 = 8090;

/// A proxy in user space on a node, as kube-proxy once was; ended when dropped.
struct Relay(std::process::Child);

impl Relay {
    fn start(lab: &Lab, hammer: &Path, backends: &[String]) -> Result<Self> {
        let mut command = lab.command("node");
        command.arg(hammer).args(["relay", &format!("0.0.0.0:{RELAY_PORT}")]).args(backends);
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three web servers and a client on the first node, a Service for the servers; its address and those of its pods.
fn start_servers() -> Result<(String, Vec<String>)> {
    kubectl("apply -f manifests/bench/quick.yaml")?;
    wait("the web servers are ready", || {
        kubectl("get deployment bench-web -o jsonpath={.status.readyReplicas}")
            .is_ok_and(|ready| ready == "3")
            && kubectl("get pod bench-client -o jsonpath={.status.phase}")
                .is_ok_and(|phase| phase == "Running")
    })?;
    let cluster_ip = kubectl("get service bench-web -o jsonpath={.spec.clusterIP}")?;
    let ips = kubectl("get pods -l app=bench-web -o jsonpath={.items[*].status.podIP}")?;
    let pods: Vec<String> = ips.split_whitespace().map(|ip| format!("{ip}:80")).collect();
    wait("the Service answers", || format!("{}:{NODE_PORT}", fabric::node_ip(2)).parse().is_ok_and(answers))?;
    Ok((cluster_ip, pods))
}
