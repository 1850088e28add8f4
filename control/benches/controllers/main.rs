//! `cargo xtask bench controllers`: a whole control plane, as a process, under a cluster of simulated agents that speak the real
//! protocol: how many pods a second it makes and binds, what it holds and does when nothing happens, what a rollout costs as the
//! cluster grows, and how soon another takes over.
//!
//! In: sizes, a store and a file. Out: a list of `{name, unit, rounds}` in that file. Agents, control plane
//! and etcd share this machine. Everything is on the loopback and in a folder of its own.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot be made ends, and says what it is at"
)]

mod agents;
mod api;
mod measured;
mod process;
mod workloads;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use agents::Fleet;
use api::Api;
use clap::Parser;
use measured::Measured;
use process::{Control, Etcd};
use serde_json::json;
use workloads::Workloads;

/// How long a control plane has followed when the one that leads is killed.
const FOLLOWED: Duration = Duration::from_secs(15);

/// How large the cluster is.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// How many nodes.
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// How many pods it is filled with.
    #[arg(long, default_value_t = 150_000)]
    pods: usize,
    /// How many replicas are made at once, and rolled.
    #[arg(long, default_value_t = 10_000)]
    replicas: usize,
    /// Where objects are kept: etcd or embedded.
    #[arg(long, default_value = "etcd")]
    store: String,
    /// Seconds over which the idle control plane is looked at.
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Minutes after which it is given up.
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// The file to write.
    #[arg(required = true)]
    file: PathBuf,
    /// What cargo gives to every benchmark.
    #[arg(long)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let bound = Duration::from_secs(options.minutes * 60);
    let measured =
        runtime.expect("a runtime").block_on(async { tokio::time::timeout(bound, run(&options)).await });
    let measured = measured.unwrap_or_else(|_| panic!("not done within {} minutes", options.minutes));
    std::fs::write(&options.file, serde_json::to_string_pretty(&measured.list()).unwrap()).unwrap();
}

async fn run(options: &Options) -> Measured {
    let folder = tempfile::tempdir().expect("a folder for the data");
    let etcd = (options.store == "etcd").then(|| Etcd::start(folder.path()));
    let control = Control::start(folder.path(), "first", etcd.as_ref()).await;
    let mut measured = Measured::of(&options.store);
    let fleet = Fleet::new(control.agent_address(), control.ca(), control.token(), options.nodes);

    let start = Instant::now();
    fleet.join().await;
    measured.add("all nodes joined and have been told of each other", "s", start.elapsed().as_secs_f64());
    measured.memory("with nodes alone", &control);

    let api = Api::connect(&control).await;
    let workloads = Workloads { api: &api, fleet: &fleet };
    workloads.name_space("rolled").await;
    let start = Instant::now();
    workloads.deploy("rolled", "web", options.replicas).await;
    workloads.running(options.replicas).await;
    let seconds = start.elapsed().as_secs_f64();
    measured.add("pods made, bound and told to run", "pods/s", options.replicas as f64 / seconds);
    bound(options, etcd.as_ref(), &workloads, &mut measured).await;

    let mut filled = 0;
    for part in [0, options.pods / 2, options.pods - options.replicas.min(options.pods)] {
        filled = fill(&workloads, options, filled, part).await;
        roll(options, &workloads, &control, filled, &mut measured).await;
    }
    idle(options, &workloads, &control, &mut measured).await;
    if let Some(etcd) = &etcd {
        taken_over(folder.path(), etcd, control, &mut measured).await;
    }
    measured
}

/// Pods that wait when somebody begins to lead: nothing but binding is left to do.
async fn bound(options: &Options, etcd: Option<&Etcd>, workloads: &Workloads<'_>, measured: &mut Measured) {
    let Some(etcd) = etcd else { return };
    let usurper = etcd.usurp().await;
    workloads.pods("rolled", "alone", options.replicas).await;
    let before = workloads.fleet.told();
    usurper.resign().await;
    workloads.told(before + 1).await;
    let start = Instant::now();
    workloads.told(before + options.replicas).await;
    let seconds = start.elapsed().as_secs_f64();
    measured.add(
        "pods that wait, bound and told to their nodes",
        "pods/s",
        options.replicas as f64 / seconds,
    );
    workloads.remove_pods("rolled", "alone").await;
    workloads.running(options.replicas).await;
}

/// Fills the cluster up to so many pods beside those that are rolled.
async fn fill(workloads: &Workloads<'_>, options: &Options, from: usize, to: usize) -> usize {
    const EACH: usize = 500;
    let start = Instant::now();
    let mut there = from;
    while there < to {
        let count = EACH.min(to - there);
        let namespace = format!("fill{}", there / 10_000);
        workloads.name_space(&namespace).await;
        workloads.deploy(&namespace, &format!("app{there}"), count).await;
        there += count;
        // So many on their way are enough to keep everybody busy.
        workloads.at_least((options.replicas + there).saturating_sub(10_000)).await;
    }
    workloads.running(options.replicas + there).await;
    println!("filled up to {} pods in {:.1} s", options.replicas + there, start.elapsed().as_secs_f64());
    there
}

/// A Deployment is rolled: what that takes the control plane, by the size of the cluster around it.
async fn roll(
    options: &Options,
    workloads: &Workloads<'_>,
    control: &Control,
    filled: usize,
    measured: &mut Measured,
) {
    let (start, before) = (Instant::now(), control.cpu_seconds());
    workloads.roll("rolled", "web", options.replicas).await;
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), control.cpu_seconds() - before);
    let all = filled + options.replicas;
    let what = format!("{} replicas rolled among {all} pods", options.replicas);
    measured.add(&format!("{what}, until all are of the new template"), "s", seconds);
    measured.add(&format!("{what}, the control plane's time on processors"), "s", cpu);
}

/// Nothing happens but that nodes say that they live and what they use.
async fn idle(options: &Options, workloads: &Workloads<'_>, control: &Control, measured: &mut Measured) {
    measured.memory("with all pods, at once", control);
    // What the rollout left to do is done by then.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (start, before) = (Instant::now(), control.cpu_seconds());
    tokio::time::sleep(Duration::from_secs(options.idle)).await;
    let share = (control.cpu_seconds() - before) / start.elapsed().as_secs_f64();
    measured.add("idle with all pods", "% of a core", share * 100.0);
    measured.memory("idle with all pods", control);
    let kinds = ["pods", "events", "leases", "nodes", "replicasets"];
    println!("objects: {:?}", workloads.api.counts(&kinds).await);
}

/// The leader is killed while another control plane follows: how long until a new Deployment's pods are bound again.
async fn taken_over(folder: &std::path::Path, etcd: &Etcd, leader: Control, measured: &mut Measured) {
    let follower = Control::start(folder, "second", Some(etcd)).await;
    let api = Api::connect(&follower).await;
    let template = workloads::template("after", 1);
    let deployment = json!({"metadata": {"name": "after"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"app": "after"}}, "template": template}});
    // It is asked as users ask, and has been there for a while.
    api.get("/api/v1/namespaces/rolled").await;
    tokio::time::sleep(FOLLOWED).await;
    leader.kill();
    let start = Instant::now();
    api.create("/apis/apps/v1/namespaces/rolled/deployments", &deployment).await;
    let pods = "/api/v1/namespaces/rolled/pods?labelSelector=app%3Dafter&fieldSelector=spec.nodeName%21%3D";
    while api.get(pods).await["items"].as_array().is_none_or(Vec::is_empty) {
        assert!(start.elapsed() < Duration::from_secs(120), "nobody has taken over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let what = "from kill -9 of the leader until another has bound a new Deployment's pod";
    measured.add(what, "s", start.elapsed().as_secs_f64());
}
