//! `oarlock-agent proxy`: the dataplane alone, on a node of any Kubernetes cluster, instead of kube-proxy.
//!
//! In: Services, EndpointSlices and Nodes of an API server. Out: the same programs and tables as a node agent's. Pods are run
//! and plugged by others: they and the host are served at the root cgroup, clients outside at the uplinks.
//!
//! Without the API server nothing is touched: before its first answer what an earlier proxy has pinned stands, later what is
//! known.

mod credentials;
mod feed;
mod healthz;
mod node;
mod slices;
mod unsupported;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use kube::Client;
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::{self, Health};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::ProxyConfig;
use crate::dataplane::{self, Dataplane, DataplaneConfig, Mode, Overlay, Tc};
use crate::desired::{Desired, Snapshot, Topic};
use crate::health_checks;
use crate::look::{self, Look};
use crate::net;
use crate::services::{Board, LocalPods, Services, Wanted};
use credentials::{Fingerprint, Source};
use healthz::Healthz;
use unsupported::Notices;

/// How long the parts have to end.
const SHUTDOWN: Duration = Duration::from_secs(5);
/// How often flows that are over are forgotten, and what failed is tried again.
const REFRESH: Duration = Duration::from_secs(30);
/// How often a link that is not there is looked for: who runs the pods' network may need Services to begin.
const AGAIN: Duration = Duration::from_secs(2);
/// How often the files of the credentials are looked at.
const RELOAD: Duration = Duration::from_secs(60);

/// Runs the proxy until a signal, or until a part of it fails.
///
/// # Errors
/// What keeps it from starting, or the part that failed.
pub async fn run(config: ProxyConfig) -> anyhow::Result<()> {
    let name = config.node_name().context("the host's name cannot be read: give --node-name")?;
    if config.cleanup {
        return clean_up(&config, &name);
    }
    let tasks = Tasks::new();
    let proxy = start(&config, name, &tasks).await?;
    let serve = proxy.serve(tasks.token());
    let outcome = tokio::select! {
        signal = oarlock_daemon::shutdown_signal() => {
            tracing::info!(signal = signal?, "shutting down; traffic goes on");
            Ok(())
        }
        outcome = serve => outcome,
    };
    tasks.shut_down();
    tasks.finish(SHUTDOWN).await?;
    outcome
}

fn clean_up(config: &ProxyConfig, name: &str) -> anyhow::Result<()> {
    if dataplane::is_pinned(&config.bpffs, name) {
        dataplane::remove_pins(&config.bpffs, name)?;
        tracing::info!(node = name, "programs and tables removed; Services are no longer answered here");
    } else {
        tracing::info!(node = name, "there is nothing to remove");
    }
    Ok(())
}

/// What serves Services.
struct Proxy {
    desired: Arc<Desired>,
    health: Health,
    /// Its address is the Node's, as soon as that is known.
    dataplane: DataplaneConfig,
    cluster_cidrs: Vec<ipnet::IpNet>,
    /// The name of the link by which other nodes' pods are reached, if not by the uplinks.
    overlay: Option<String>,
    modes: Arc<Mutex<Vec<Mode>>>,
    board: Board,
    healthz: Healthz,
    notices: Notices,
    /// Of how many Services something is not served.
    unsupported: Gauge,
}

async fn start(config: &ProxyConfig, name: String, tasks: &Tasks) -> anyhow::Result<Proxy> {
    anyhow::ensure!(
        dataplane::has_cgroup(&config.cgroup),
        "there is no cgroup {} in a cgroup v2 hierarchy: mount it, or give --cgroup",
        config.cgroup
    );
    let source = Source::of(config.kubeconfig.as_deref());
    let (client, fingerprint) = source.client().await?;
    let uplinks = match &config.uplinks[..] {
        [] => net::of_default_routes().await?,
        given => given.to_vec(),
    };
    anyhow::ensure!(!uplinks.is_empty(), "no link holds a default route: name the uplinks with --uplink");
    let dataplane = DataplaneConfig {
        node_name: name.clone(),
        node_ip: Ipv4Addr::UNSPECIFIED,
        node_ip6: None,
        cgroup: config.cgroup.clone(),
        bpffs: config.bpffs.clone(),
        uplinks: net::uplinks(&uplinks).await?,
        xdp: config.xdp,
        tc: Tc::of_kernel(),
        accept_external_cluster_ip: config.accept_external_cluster_ip,
        count_backends: config.count_backends,
        masquerade: false,
    };
    let healthz = listen(config.healthz_bind_address, "--healthz-bind-address").await?;
    let metrics = listen(config.metrics_bind_address, "--metrics-bind-address").await?;

    let desired = Arc::<Desired>::default();
    let health = Health::default();
    health.set("dataplane", Err("the API server has not told the Services yet".to_owned()));
    let modes = Arc::<Mutex<Vec<Mode>>>::default();
    let mut registry = oarlock_daemon::metrics::registry();
    registry.register_collector(Box::new(dataplane::Events::of(&dataplane)));
    registry.register_collector(Box::new(dataplane::Flows::of(&dataplane)));
    registry.register_collector(Box::new(dataplane::Uplinks::shared(&modes)));
    let of_feeds = feed::Metrics::default();
    let help = "What happened to the lists and watches of the API server";
    registry.register("oarlock_proxy_watch_events", help, of_feeds.clone());
    let unsupported = Gauge::default();
    let help = "Services of which something (SCTP, IPv6 on a node without it) is not answered";
    registry.register("oarlock_proxy_unsupported_services", help, unsupported.clone());
    let starting = Healthz::starting(dataplane::is_pinned(&config.bpffs, &name));
    tasks.spawn("healthz", starting.clone().serve(tasks.clone(), healthz));
    let board = Board::default();
    registry.register_collector(Box::new(look::Counters::of(&board)));
    let look = Look::new(Arc::clone(&desired), Arc::clone(&board), Vec::new());
    let more = move |uri: &http::Uri| look.over_http(uri);
    let admin = admin::serve_with(tasks.clone(), metrics, Arc::new(registry), health.clone(), more);
    tasks.spawn("metrics", admin);

    let (sender, clients) = watch::channel(client);
    let token = tasks.token();
    let shared = feed::Shared { desired: Arc::clone(&desired), clients, metrics: of_feeds, token };
    tasks.spawn("watch/services", feed::services(shared.clone()));
    tasks.spawn("watch/endpointslices", feed::endpoint_slices(shared.clone()));
    tasks.spawn("watch/nodes", feed::nodes(shared));
    tasks.spawn("credentials", renew(source, fingerprint, sender, tasks.token()));
    // As kube-proxy without --nodeport-addresses: on all addresses of the node. Who listens at that of IPv6 hears both families.
    let has_ipv6 = Path::new("/proc/net/if_inet6").exists();
    let everywhere: IpAddr =
        if has_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let checks = health_checks::run(tasks.clone(), Arc::clone(&desired), name, vec![everywhere]);
    tasks.spawn("health-checks", checks);
    Ok(Proxy {
        desired,
        health,
        dataplane,
        cluster_cidrs: config.cluster_cidr.clone(),
        overlay: config.overlay.clone(),
        modes,
        board,
        healthz: starting,
        notices: Notices::default(),
        unsupported,
    })
}

async fn listen(address: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({option}): is kube-proxy or another proxy running on this node?")
    })
}

/// Makes another client when the files of the credentials have changed: certificates are renewed under a running proxy.
async fn renew(
    source: Source,
    mut known: Fingerprint,
    clients: watch::Sender<Client>,
    token: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RELOAD) => {}
            () = token.cancelled() => return,
        }
        if source.fingerprint().is_none_or(|now| now == known) {
            continue;
        }
        match source.client().await {
            Ok((client, fingerprint)) => {
                known = fingerprint;
                tracing::info!("the credentials have changed: lists and watches begin anew");
                // All feeds end at shutdown only.
                let _ = clients.send(client);
            }
            Err(error) => tracing::warn!(%error, "the credentials have changed; going on with the old ones"),
        }
    }
}

impl Proxy {
    /// Makes the kernel answer for the Services that there are, at the address that the Node has.
    async fn serve(mut self, token: CancellationToken) -> anyhow::Result<()> {
        let mut changed = self.desired.subscribe(Topic::Services);
        let mut services: Option<Services> = None;
        loop {
            let (snapshot, complete) = self.desired.snapshot();
            let overlay = self.look_at_overlay().await;
            let again = if self.overlay.is_some() == overlay.is_some() { REFRESH } else { AGAIN };
            if complete {
                self.follow_node(&snapshot, &mut services)?;
                self.tell_unsupported(&snapshot);
            }
            if let Some(services) = &mut services {
                let pods = LocalPods::Foreign(node::pods(&snapshot, &self.dataplane.node_name));
                let cluster_cidrs = self.cluster_cidrs.clone();
                let wanted = Wanted { snapshot, complete, pods, cluster_cidrs, overlay, routes: None };
                anyhow::ensure!(services.apply(wanted).await, "the dataplane is lost");
                self.healthz.written(services.is_well(), Timestamp::now());
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(again) => {}
                () = token.cancelled() => return Ok(()),
            }
        }
    }

    /// Opens the dataplane as soon as the node's address is known, and again when that is another one. A Node that is gone
    /// leaves everything as it is.
    fn follow_node(&mut self, snapshot: &Snapshot, services: &mut Option<Services>) -> anyhow::Result<()> {
        let name = &self.dataplane.node_name;
        let eligible = node::eligible(snapshot, name);
        self.healthz.eligible(eligible.is_ok());
        self.health.set("node", eligible);
        match node::address(snapshot, name) {
            Ok(address) if services.is_some() && address == self.dataplane.node_ips() => {}
            Ok(address) => {
                (self.dataplane.node_ip, self.dataplane.node_ip6) = (address.v4, address.v6);
                *services = None;
                let dataplane = Dataplane::open(self.dataplane.clone())?;
                for mode in dataplane.modes() {
                    tracing::info!(uplink = %mode.uplink, mode = mode.name(), why = mode.without_xdp, "uplink attached");
                }
                *self.modes.lock() = dataplane.modes().to_vec();
                tracing::info!(node = name, ip = %address, "Services are answered on this node");
                let (health, board) = (self.health.clone(), Arc::clone(&self.board));
                *services = Some(Services::new(dataplane, health, board, Arc::default()));
            }
            Err(why) => tracing::warn!(why, "the address of this node is not known"),
        }
        Ok(())
    }

    async fn look_at_overlay(&self) -> Option<Overlay> {
        let name = self.overlay.as_deref()?;
        let found = net::overlay(name).await.map_err(|e| e.to_string());
        let found =
            found.and_then(|link| link.ok_or_else(|| format!("the link {name} is not there or not up yet")));
        self.health.set("overlay", found.as_ref().map(drop).map_err(String::clone));
        found.ok()
    }

    fn tell_unsupported(&mut self, snapshot: &Snapshot) {
        for ((namespace, name), what) in self.notices.of(snapshot, self.dataplane.node_ip6.is_some()) {
            tracing::warn!(service = %format_args!("{namespace}/{name}"), what, "not all of a Service is answered");
        }
        self.unsupported.set(i64::try_from(self.notices.count()).unwrap_or(i64::MAX));
    }
}
