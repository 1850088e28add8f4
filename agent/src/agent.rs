//! The composition root: builds the parts, then spawns the tasks that connect them.
//!
//! Pods and network are opened before the control plane is asked for anything: what runs goes on without it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use ipnet::IpNet;
use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::Node;
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use oarlock_api::node::Welcome;
use oarlock_daemon::admin::{self, Health};
use oarlock_daemon::{Tasks, service_manager};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::{Keep, RunConfig};
use crate::dataplane::{self, Dataplane, DataplaneConfig, PodLink, Tc};
use crate::desired::{Desired, Topic};
use crate::disk::Disk;
use crate::dns::{self, Dns};
use crate::dual_ip::DualIp;
use crate::eviction::{Eviction, Pressures};
use crate::health_checks;
use crate::holding::{Holding, Made};
use crate::kept_images::KeptImages;
use crate::look::{self, Look};
use crate::net::{self, Network, Peer, PodNetResult, Reached, Underlay};
use crate::node_object::{self, NodeFacts, NodeState};
use crate::outbox::Outbox;
use crate::plugged::{Known, Plugged};
use crate::pods::{self, ClusterDns, Pods};
use crate::released::Released;
use crate::runtime::{Docker, Runtime};
use crate::services::{Board, LocalPods, Services, Wanted};
use crate::session::{Joining, Session};
use crate::static_pods;
use crate::stats;
use crate::volumes::Volumes;

/// How long the parts have to end. Containers and links stay.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// Why a node that has just registered is not ready.
const STARTING: &str = "the node is starting";
/// How often facts that no event announces (Docker's version) are asked for.
const REFRESH: Duration = Duration::from_secs(30);

/// Runs the agent until a signal, or until a part of it fails.
///
/// # Errors
/// What keeps it from starting, or the task that ended.
pub async fn run(config: RunConfig) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let _holding = Holding::begin(
        &config.data_dir,
        &Made {
            node_name: config.node_name.clone(),
            cgroup: config.cgroup(),
            bpffs: config.bpffs.clone(),
            docker_host: config.docker_host.clone(),
        },
    )?;
    start(&config, &tasks).await?;
    service_manager::serving(&tasks);
    tokio::select! {
        signal = oarlock_daemon::shutdown_signal() => {
            tracing::info!(signal = signal?, "shutting down; pods keep running");
        }
        () = tasks.token().cancelled_owned() => {}
    }
    service_manager::ending();
    tasks.shut_down();
    tasks.finish(SHUTDOWN).await?;
    Ok(())
}

/// The parts that tasks share.
struct Parts {
    name: String,
    facts: NodeFacts,
    desired: Arc<Desired>,
    outbox: Arc<Outbox>,
    network: Arc<Network>,
    pods: Arc<Pods>,
    docker: Arc<Docker>,
    health: Health,
    cluster: watch::Sender<Option<Welcome>>,
    images: Arc<KeptImages>,
    pressures: watch::Receiver<Pressures>,
}

async fn start(config: &RunConfig, tasks: &Tasks) -> anyhow::Result<()> {
    anyhow::ensure!(!config.uplinks.is_empty(), "--uplink is needed");
    let keep = config.keep.resolve()?;
    let static_pod_path = keep.static_pod_path.clone();
    let listener = TcpListener::bind(config.metrics_bind_address).await.with_context(|| {
        format!("cannot listen on {}: is another agent running?", config.metrics_bind_address)
    })?;
    // How full the disk of the pods' folders is, is looked at from the start.
    std::fs::create_dir_all(pods_dir(config))
        .with_context(|| format!("cannot create {}", config.data_dir.display()))?;
    let health = Health::default();
    let of_dataplane = dataplane_config(config).await?;
    let mut registry = oarlock_daemon::metrics::registry();
    let dns = Dns::new(config.node_ip, &config.upstream_dns, &mut registry);
    registry.register_collector(Box::new(dataplane::Events::of(&of_dataplane)));
    registry.register_collector(Box::new(dataplane::Flows::of(&of_dataplane)));

    let port = config.metrics_bind_address.port();
    let facts = NodeFacts::read(&config.node_name, config.node_ip, config.max_pods, port, &config.data_dir);
    let underlay = Underlay {
        uplinks: config.uplinks.clone(),
        node_ip: of_dataplane.node_ip,
        routing: config.pod_routing,
        north_south: config.north_south,
    };
    let network = Arc::new(Network::open(tasks, &config.data_dir, underlay).await?);
    let dataplane = Dataplane::open(of_dataplane)?;
    let facts = facts.with_modes(dataplane.modes()).keeping_free(&keep.eviction.hard);
    log_modes(&dataplane);
    registry.register_collector(Box::new(dataplane::Uplinks::of(dataplane.modes())));
    registry.register_collector(Box::new(dataplane::NorthSouth::of(network.reached())));
    let (desired, board) = (Arc::<Desired>::default(), Board::default());
    registry.register_collector(Box::new(look::Counters::of(&board)));
    let dns_at: Vec<SocketAddr> =
        config.node_ip.all().map(|ip| SocketAddr::new(ip, config.dns_port)).collect();
    let endpoints = dns::endpoints(&config.node_name, &dns_at);
    let look = Arc::new(Look::new(Arc::clone(&desired), Arc::clone(&board), endpoints.clone()));
    let answering = Arc::clone(&look);
    let more = move |uri: &http::Uri| answering.over_http(uri);
    tasks
        .spawn("admin", admin::serve_with(tasks.clone(), listener, Arc::new(registry), health.clone(), more));
    let outbox = Arc::new(Outbox::default());
    let docker = Arc::new(Docker::new(&config.docker_host, &config.node_name));
    let of_pods = pods::NodeFacts {
        ip: config.node_ip,
        cgroup_parent: config.cgroup(),
        pause_image: config.pause_image.clone(),
        data_dir: config.data_dir.join("pods"),
        volumes_dir: node_object::volumes_dir(&config.data_dir),
        cpu_millis: i64::try_from(facts.cpus).unwrap_or(1) * 1000,
        memory: i64::try_from(facts.memory_bytes).unwrap_or(i64::MAX),
        host: pods::Host::default(),
    };
    let runtime: Arc<dyn Runtime> = docker.clone();
    let known = Arc::new(Known::default());
    let plugged = Arc::new(Plugged::new(Arc::clone(&network), Arc::clone(&known)));
    let pods = Pods::start(tasks, of_pods, runtime, plugged, Arc::clone(&outbox));

    let state = NodeState { not_ready: vec![STARTING.to_owned()], ..NodeState::default() };
    let (object, node) = watch::channel(encode(&facts.object(&state, Timestamp::now())));
    let (images, eviction) = keep_well(config, keep, &desired, &outbox, &pods, &docker);
    let parts = Arc::new(Parts {
        images: Arc::clone(&images),
        pressures: eviction.pressures.subscribe(),
        name: config.node_name.clone(),
        facts,
        desired,
        outbox,
        network,
        pods,
        docker,
        health,
        cluster: watch::Sender::new(None),
    });
    tasks.spawn("static-pods", Arc::clone(&parts).follow_folder(static_pod_path, tasks.clone()));
    spawn_session(config, tasks, &parts, look, node);
    tasks.spawn("images", images.run(tasks.clone()));
    tasks.spawn("eviction", eviction.run(tasks.clone()));
    let sampler = stats::Sampler::new(config.cgroup(), config.data_dir.clone());
    let (desired, network) = (Arc::clone(&parts.desired), Arc::clone(&parts.network));
    let sampling = stats::run(sampler, desired, network, Arc::clone(&parts.outbox), tasks.clone());
    tasks.spawn("stats", sampling);
    tasks.spawn("pods", Arc::clone(&parts).follow_pods(tasks.clone()));
    let released = Released {
        node: config.node_name.clone(),
        desired: Arc::clone(&parts.desired),
        outbox: Arc::clone(&parts.outbox),
        volumes: Volumes::new(&config.data_dir.join("pods"), &node_object::volumes_dir(&config.data_dir)),
    };
    tasks.spawn("released", released.run(tasks.clone()));
    tasks.spawn("dns", Arc::clone(&dns).serve(dns_at, parts.health.clone(), tasks.clone()));
    let services = Arc::clone(&parts);
    let following = services.follow_services(dataplane, board, known, (dns, endpoints), tasks.clone());
    tasks.spawn("services", following);
    let desired = Arc::clone(&parts.desired);
    let node_ips = config.node_ip.all().collect();
    let checks = health_checks::run(tasks.clone(), desired, config.node_name.clone(), node_ips);
    tasks.spawn("health-checks", checks);
    tasks.spawn("routes", Arc::clone(&parts).follow_nodes(tasks.clone()));
    tasks.spawn("node-status", Arc::clone(&parts).report_node(object, tasks.clone()));
    tracing::info!(node = %config.node_name, ip = %config.node_ip, "the agent is up");
    Ok(())
}

/// Says how each uplink is served.
fn log_modes(dataplane: &Dataplane) {
    for mode in dataplane.modes() {
        tracing::info!(uplink = %mode.uplink, mode = mode.name(), why = mode.without_xdp, "uplink attached");
    }
}

/// What keeps the node from running full.
fn keep_well(
    config: &RunConfig,
    keep: Keep,
    desired: &Arc<Desired>,
    outbox: &Arc<Outbox>,
    pods: &Arc<Pods>,
    docker: &Arc<Docker>,
) -> (Arc<KeptImages>, Eviction) {
    let images = Arc::new(KeptImages {
        store: Arc::<Docker>::clone(docker),
        outbox: Arc::clone(outbox),
        node: config.node_name.clone(),
        pause_image: config.pause_image.clone(),
        policy: keep.images,
        measure: Disk::of,
        records: parking_lot::Mutex::default(),
        listed: watch::Sender::default(),
    });
    let eviction = Eviction {
        policy: keep.eviction,
        node: config.node_name.clone(),
        parent: config.cgroup(),
        pods_dir: pods_dir(config),
        desired: Arc::clone(desired),
        outbox: Arc::clone(outbox),
        pods: Arc::clone(pods),
        docker: Arc::clone(docker),
        images: Arc::clone(&images),
        pressures: watch::Sender::default(),
    };
    (images, eviction)
}

/// Where the folders of pods are.
fn pods_dir(config: &RunConfig) -> PathBuf {
    config.data_dir.join("pods/pods")
}

async fn dataplane_config(config: &RunConfig) -> anyhow::Result<DataplaneConfig> {
    Ok(DataplaneConfig {
        node_name: config.node_name.clone(),
        node_ip: config.node_ip.v4,
        node_ip6: config.node_ip.v6,
        cgroup: config.cgroup(),
        bpffs: config.bpffs.clone(),
        uplinks: net::uplinks(&config.uplinks).await?,
        xdp: config.xdp,
        tc: Tc::of_kernel(),
        accept_external_cluster_ip: config.accept_external_cluster_ip,
        count_backends: config.count_backends,
        masquerade: true,
    })
}

fn spawn_session(
    config: &RunConfig,
    tasks: &Tasks,
    parts: &Arc<Parts>,
    look: Arc<Look>,
    node: watch::Receiver<Bytes>,
) {
    let joining = Joining {
        node_name: config.node_name.clone(),
        token_file: config.token_file.clone(),
        ca_file: config.ca_file.clone(),
        ca_hash: config.ca_hash.clone(),
        pki_dir: config.data_dir.join("pki"),
    };
    let session = Session {
        servers: config.servers.clone(),
        joining,
        desired: Arc::clone(&parts.desired),
        outbox: Arc::clone(&parts.outbox),
        health: parts.health.clone(),
        cluster: parts.cluster.clone(),
        node,
        streams: Arc::new(look::Sources { pods: parts.pods.clone(), look }),
        tasks: tasks.clone(),
    };
    tasks.spawn("session", session.run());
}

impl Parts {
    /// Makes the pods of the node's own folder wanted.
    async fn follow_folder(self: Arc<Self>, folder: Option<PathBuf>, tasks: Tasks) {
        let (desired, outbox) = (Arc::clone(&self.desired), Arc::clone(&self.outbox));
        let (pods, left) = (Arc::clone(&self.pods), self.pods.left());
        let runs: static_pods::Runs = Box::new(move |uid| pods.has(uid));
        static_pods::run(folder, self.name.clone(), desired, outbox, (runs, left), tasks).await;
    }

    /// Makes the node run the pods that are wanted.
    async fn follow_pods(self: Arc<Self>, tasks: Tasks) {
        let mut changed = self.desired.subscribe(Topic::Pods);
        let (mut cluster, mut left) = (self.cluster.subscribe(), self.pods.left());
        let token = tasks.token();
        loop {
            let knows_statics = self.desired.knows_static_pods();
            let (snapshot, complete) = self.desired.snapshot();
            let complete = complete && knows_statics;
            if complete {
                self.outbox.retain_pods(|uid| {
                    snapshot.pods.values().any(|pod| pod.metadata.uid.as_deref() == Some(uid))
                });
            }
            self.pods.apply(&snapshot, complete);
            self.outbox.ack(snapshot.version);
            tokio::select! {
                _ = changed.changed() => {}
                _ = left.changed() => {}
                _ = cluster.changed() => {
                    if let Some(welcome) = cluster.borrow_and_update().clone() {
                        let dns = ClusterDns { domain: welcome.cluster_domain, address: welcome.cluster_dns };
                        self.pods.set_dns(dns);
                    }
                }
                () = token.cancelled() => return,
            }
        }
    }

    /// Makes the kernel answer for the Services that there are. Nothing is taken away before a whole snapshot has come.
    async fn follow_services(
        self: Arc<Self>,
        dataplane: Dataplane,
        board: Board,
        known: Arc<Known>,
        (dns, endpoints): (Arc<Dns>, Vec<Arc<EndpointSlice>>),
        tasks: Tasks,
    ) {
        let mut changed = self.desired.subscribe(Topic::Services);
        // Labels and ports of pods are what policies look at.
        let mut pods_changed = self.desired.subscribe(Topic::Pods);
        let (mut plugged, mut reached) = (self.network.subscribe(), self.network.reached());
        let token = tasks.token();
        let mut services = Services::new(dataplane, self.health.clone(), board, known);
        loop {
            let (snapshot, complete) = self.desired.snapshot();
            let links = self.network.pods().into_iter();
            let link = |uid, net: PodNetResult| PodLink {
                uid,
                name: net.interface,
                ends: net.ends,
                ip6: net.ip.v6,
                per_packet: net.per_packet,
            };
            let pods = links.map(|(uid, net)| (net.ip.v4, link(uid, net))).collect();
            let (ranges, domain) = self.cluster.borrow().as_ref().map_or_else(Default::default, |welcome| {
                (ranges_of(welcome), welcome.cluster_domain.clone())
            });
            dns.update(&domain, ranges.clone(), &snapshot, complete);
            let snapshot = dns::with_endpoints(snapshot, &endpoints);
            let Reached { routes, overlay, .. } = reached.borrow_and_update().clone();
            let (pods, routes) = (LocalPods::Linked(pods), Some(routes));
            let wanted = Wanted { snapshot, complete, pods, cluster_cidrs: ranges, overlay, routes };
            if !services.apply(wanted).await {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = pods_changed.changed() => {}
                _ = plugged.changed() => {}
                _ = reached.changed() => {}
                () = tokio::time::sleep(REFRESH) => {}
                () = token.cancelled() => return,
            }
        }
    }

    /// Keeps the own podCIDR and the routes to other nodes' pods as the Nodes say.
    async fn follow_nodes(self: Arc<Self>, tasks: Tasks) {
        let mut changed = self.desired.subscribe(Topic::Nodes);
        let mut moved = self.network.moved();
        let token = tasks.token();
        loop {
            let (snapshot, complete) = self.desired.snapshot();
            if complete {
                let outcome = self.sync_routes(snapshot.nodes.values().map(|node| &**node)).await;
                if let Err(error) = &outcome {
                    tracing::warn!(%error, "a route cannot be set; trying again with the next change");
                }
                self.health.set("network", outcome.map_err(|e| e.to_string()));
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = moved.changed() => {}
                () = tokio::time::sleep(REFRESH) => {}
                () = token.cancelled() => return,
            }
        }
    }

    async fn sync_routes<'n>(
        &self,
        nodes: impl Iterator<Item = &'n Node>,
    ) -> Result<(), crate::net::NetError> {
        let mut peers = BTreeSet::new();
        for node in nodes {
            let is_own = node.metadata.name.as_deref() == Some(self.name.as_str());
            for pod_cidr in pod_cidrs(node) {
                match (pod_cidr, internal_ips(node)) {
                    (IpNet::V4(range), _) if is_own => self.network.set_pod_cidr(range).await?,
                    (IpNet::V6(range), _) if is_own => self.network.set_pod_cidr6(range).await?,
                    (pod_cidr, Some(address)) => {
                        let direct = node_object::answers_itself(node);
                        peers.insert(Peer { pod_cidr, address, direct });
                    }
                    (_, None) => {}
                }
            }
        }
        let services = self.cluster.borrow().as_ref().map(|welcome| welcome.service_cidr.clone());
        for range in
            services.iter().flat_map(|ranges| ranges.split(',')).filter_map(|range| range.parse().ok())
        {
            self.network.set_service_cidr(range).await?;
        }
        self.network.set_peers(&peers).await
    }

    /// Reports what the node is and whether it can run pods.
    async fn report_node(self: Arc<Self>, object: watch::Sender<Bytes>, tasks: Tasks) {
        let mut runtime = self.pods.runtime_health();
        let mut nodes = self.desired.subscribe(Topic::Nodes);
        let mut reached = self.network.reached();
        let (mut images, mut pressures) = (self.images.subscribe(), self.pressures.clone());
        let token = tasks.token();
        loop {
            let Reached { description: routing, north_south, .. } = reached.borrow_and_update().clone();
            let mut state = NodeState {
                routing,
                north_south,
                images: images.borrow_and_update().clone(),
                pressures: pressures.borrow_and_update().clone(),
                ..NodeState::default()
            };
            match self.docker.version().await {
                Ok(version) => {
                    state.docker_version = version.runtime.trim_start_matches("docker://").to_owned();
                }
                Err(error) => state.not_ready.push(error.to_string()),
            }
            if let Err(why) = &*runtime.borrow_and_update()
                && state.not_ready.is_empty()
            {
                state.not_ready.push(why.clone());
            }
            let (snapshot, complete) = self.desired.snapshot();
            let own = snapshot.nodes.get(&(String::new(), self.name.clone()));
            if complete && own.and_then(|n| n.spec.as_ref()?.pod_cidr.as_ref()).is_none() {
                state.not_ready.push("the node has no podCIDR yet".to_owned());
            }
            let well = if state.not_ready.is_empty() { Ok(()) } else { Err(state.not_ready.join("; ")) };
            self.health.set("node", well);
            let now = Timestamp::now();
            // Before the first snapshot only trouble is certain: what the control plane last heard stays.
            if complete || !state.not_ready.is_empty() {
                let annotations = encode(&self.facts.annotations(&state));
                self.outbox.node_status(encode(&self.facts.status(&state, now)), annotations);
            }
            if !complete {
                state.not_ready.push(STARTING.to_owned());
            }
            object.send_replace(encode(&self.facts.object(&state, now)));
            tokio::select! {
                _ = runtime.changed() => {}
                _ = nodes.changed() => {}
                _ = reached.changed() => {}
                _ = images.changed() => {}
                // Without eviction's task, which ends at shutdown alone, there is no more to hear.
                Ok(()) = pressures.changed() => {}
                () = tokio::time::sleep(REFRESH) => {}
                () = token.cancelled() => return,
            }
        }
    }
}

/// The ranges of all pods.
fn ranges_of(welcome: &Welcome) -> Vec<IpNet> {
    // A control plane of an earlier version says but one.
    let listed = welcome.cluster_cidrs.iter().chain([&welcome.cluster_cidr]);
    let ranges: BTreeSet<IpNet> = listed.filter_map(|range| range.parse().ok()).collect();
    ranges.into_iter().collect()
}

/// A node's own ranges of pod addresses.
fn pod_cidrs(node: &Node) -> BTreeSet<IpNet> {
    let spec = node.spec.iter();
    let listed = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    listed.filter_map(|range| range.parse().ok()).collect()
}

/// The addresses by which a node's pods are reached.
fn internal_ips(node: &Node) -> Option<DualIp> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|a| a.type_ == "InternalIP");
    DualIp::of(internal.filter_map(|a| a.address.parse().ok()))
}

fn encode<T: serde::Serialize>(value: &T) -> Bytes {
    // Types of the Kubernetes API always serialize.
    serde_json::to_vec(value).unwrap_or_default().into()
}
