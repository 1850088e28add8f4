//! The composition root: builds the parts, binds the ports, then spawns the tasks.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use oarlock_api::catalogue::{Catalogue, EVENTS, LEASES, NAMESPACES};
use oarlock_api::node::Welcome;
use oarlock_api::service::Family;
use oarlock_daemon::admin::Health;
use oarlock_daemon::files::{read_if_present, write_atomic};
use oarlock_daemon::pki::{self, Ca, Identity, Signer};
use oarlock_daemon::{Tasks, service_manager};
use oarlock_planner::Settings;
use oarlock_store::{Embedded, Etcd, EtcdOptions, Retention, Revision, Store, Together};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::aggregate::{self, Aggregator};
use crate::auth::tokens::Tokens;
use crate::auth::{Authenticator, Authorizer, Signing, TokenFile, TokenSecrets};
use crate::cache::Cache;
use crate::config::{Backend, ServeConfig};
use crate::http::{Documents, NodeStreams, Server};
use crate::leader;
use crate::metrics::{Queues, Requests};
use crate::nodes::{Event, Events, Nodes};
use crate::reconcile::{self, Measures, Standby};
use crate::registry::{self, Ranges, Registry, Repaired, Suspects};
use crate::usage::{self, Board};

/// How long the parts have to end.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// How long one renewal of a node's Lease may wait for others, which come every ten seconds from each node.
const RENEWALS: Duration = Duration::from_millis(50);
/// How often claims are compared with the objects that hold them, as upstream.
const REPAIR: Duration = Duration::from_secs(180);

/// Runs the control plane until a signal, or until a part of it fails.
///
/// # Errors
/// What keeps it from starting, or the task that ended.
pub async fn serve(config: ServeConfig) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    start(&config, &tasks).await?;
    service_manager::serving(&tasks);
    tokio::select! {
        signal = oarlock_daemon::shutdown_signal() => tracing::info!(signal = signal?, "shutting down"),
        () = tasks.token().cancelled_owned() => {}
    }
    service_manager::ending();
    tasks.shut_down();
    tasks.finish(SHUTDOWN).await?;
    Ok(())
}

/// Builds, binds and spawns everything.
///
/// # Errors
/// Files, certificates or ports that cannot be used; the store being away is no error.
pub async fn start(config: &ServeConfig, tasks: &Tasks) -> anyhow::Result<()> {
    check_ranges(config)?;
    let (service, public) =
        (Family::of(config.kubernetes_service_ip()), Family::of(config.advertise_address));
    anyhow::ensure!(
        service == public || config.advertise_address.is_loopback(),
        "the first range of --service-cluster-ip-range is {}, but --advertise-address is {}: they must be of one family",
        service.name(),
        public.name()
    );
    let pki_dir = config.data_dir.join("pki");
    let ca = Arc::new(Ca::load_or_create(&pki_dir)?);
    let own = ca.server_in(&pki_dir, "apiserver", &config.names())?;
    write_kubeconfig(&ca, &pki_dir, config)?;
    let token = join_token(&config.data_dir)?;
    let signer = Signer::load_or_create(&pki_dir, "sa")?;
    let tokens_of_accounts = Arc::new(Tokens::new(signer, &config.issuer(), &config.api_audiences));
    let token_file = token_file(config)?;

    let api = bind(config, config.secure_port).await?;
    let agents = bind(config, config.agent_port).await?;

    let store = open_store(config, tasks).await?;
    let health = Health::default();
    let cache = Cache::new(Arc::new(Catalogue::builtin()));
    tasks.spawn("cache", Arc::clone(&cache).run(Arc::clone(&store), health.clone(), tasks.token()));
    let ranges = Ranges {
        services: config.service_cluster_ip_range.all(),
        node_ports: config.service_node_port_range,
        kubernetes_service: config.kubernetes_service_ip(),
    };
    ready_with_namespaces(tasks, &cache, &health);
    let registry = Registry::new(Arc::clone(&store), cache, ranges);
    let cluster = Welcome {
        revision: 0,
        cluster_cidr: config.cluster_cidr.primary.to_string(),
        cluster_cidrs: config.cluster_cidr.all().iter().map(ToString::to_string).collect(),
        service_cidr: config.service_cluster_ip_range.to_string(),
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns: config.cluster_dns_ips()[0].to_string(),
    };
    let events = Arc::new(Events::new(Arc::clone(&registry)));
    let (mut metrics, queues, requests) =
        (oarlock_daemon::metrics::registry(), Queues::default(), Requests::default());
    queues.register(&mut metrics);
    requests.register(&mut metrics);
    let signers = (Arc::clone(&ca), Arc::clone(&tokens_of_accounts));
    let usage = Arc::<Board>::default();
    let authorizer = Arc::new(Authorizer::new(Arc::clone(registry.cache())));
    let keys = (&ca, &tokens_of_accounts, &authorizer);
    let nodes =
        Nodes::new(Arc::clone(&registry), Arc::clone(&usage), events, signers, token, cluster, tasks.clone());
    let (aggregator, front_ca) = aggregator(&pki_dir, &registry, &nodes, tasks)?;
    spawn_controllers(config, tasks, store, &registry, keys, (&usage, &aggregator, front_ca), queues);
    let serving = Arc::clone(&nodes);
    let own_of_nodes = own.clone();
    tasks.spawn("nodes", async move {
        if let Err(error) = serving.serve(agents, &own_of_nodes).await {
            tracing::error!(%error, "the agents' port failed");
        }
    });

    let authenticator = Arc::new(Authenticator::new(Arc::clone(&registry), tokens_of_accounts, token_file));
    let server = Arc::new(Server {
        authenticator,
        authorizer,
        registry,
        nodes,
        aggregator,
        usage,
        health,
        metrics: Arc::new(metrics),
        requests,
        address: SocketAddr::from((config.advertise_address, config.secure_port)).to_string(),
        elected: config.store == Backend::Etcd,
        documents: Documents::default(),
    });
    let tls = TlsAcceptor::from(pki::server_config(&own, ca.certificate_pem(), &[b"h2", b"http/1.1"])?);
    tasks.spawn("http", server.serve(tasks.clone(), api, tls));
    tracing::info!(api = config.secure_port, agents = config.agent_port, ca = %ca.hash(), "the control plane is up");
    Ok(())
}

/// Who else answers, and the authority by which they know us: not the cluster's, or whoever has a certificate could say that they are
/// somebody else.
fn aggregator(
    pki_dir: &Path,
    registry: &Arc<Registry>,
    nodes: &Arc<Nodes>,
    tasks: &Tasks,
) -> anyhow::Result<(Arc<Aggregator>, String)> {
    let ca = Ca::load_or_create_as(pki_dir, "front-proxy-ca")?;
    let identity = Identity { user: aggregate::FRONT_PROXY.to_owned(), groups: Vec::new() };
    let front = ca.client_in(pki_dir, aggregate::FRONT_PROXY, &identity)?;
    let nodes: Arc<dyn NodeStreams> = Arc::<Nodes>::clone(nodes);
    let aggregator = Aggregator::new(Arc::clone(registry.cache()), nodes, front, tasks.clone());
    let (keeping, stop) = (Arc::clone(&aggregator), tasks.token());
    tasks.spawn("aggregate/documents", async move { keeping.keep_documents(stop).await });
    Ok((aggregator, ca.certificate_pem().to_owned()))
}

/// Addresses that no agent answers would be accepted and not honoured.
fn check_ranges(config: &ServeConfig) -> anyhow::Result<()> {
    let (pods, services) = (config.cluster_cidr, config.service_cluster_ip_range);
    for (flag, ranges) in [("--cluster-cidr", pods), ("--service-cluster-ip-range", services)] {
        anyhow::ensure!(
            Family::of(ranges.primary.network()) == Family::V4,
            "{flag} {ranges}: every node and pod has an IPv4 address in this version; give the IPv4 range first"
        );
    }
    anyhow::ensure!(
        services.secondary.is_none() || pods.secondary.is_some(),
        "--service-cluster-ip-range {services} has IPv6, but --cluster-cidr {pods} has not: no pod could answer there"
    );
    let is_small = pods.secondary.is_some_and(|range| range.prefix_len() > 64);
    anyhow::ensure!(
        !is_small,
        "--cluster-cidr {pods}: each node gets a /64 of IPv6; give a /64 or a larger range"
    );
    Ok(())
}

/// Not ready before the namespaces are there that every cluster has: whoever leads makes them, which may be another process.
fn ready_with_namespaces(tasks: &Tasks, cache: &Arc<Cache>, health: &Health) {
    const CHECK: &str = "system-namespaces";
    health.set(CHECK, Err("not made yet by the control plane that leads".to_owned()));
    let (cache, health, stop) = (Arc::clone(cache), health.clone(), tasks.token());
    let made = async move {
        let present = |name: &&str| cache.get(&NAMESPACES, "", name).is_some();
        loop {
            let revision = cache.revision();
            if ["default", "kube-system", "kube-public"].iter().all(present) {
                return health.set(CHECK, Ok(()));
            }
            cache.wait_for(Revision(revision.0 + 1), Duration::from_secs(1)).await;
        }
    };
    tasks.job("ready/namespaces", async move {
        tokio::select! {
            () = made => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Runs the controllers: on etcd, where other control planes may run on the same store, only while elected.
fn spawn_controllers(
    config: &ServeConfig,
    tasks: &Tasks,
    store: Arc<dyn Store>,
    registry: &Arc<Registry>,
    (ca, tokens, authorizer): (&Arc<Ca>, &Arc<Tokens>, &Arc<Authorizer>),
    (usage, aggregator, front_ca): (&Arc<Board>, &Arc<Aggregator>, String),
    queues: Queues,
) {
    let settings = Settings { cluster_cidr: config.cluster_cidr, ca_pem: ca.certificate_pem().to_owned() };
    let controllers = Controllers {
        advertise: config.advertise_address,
        port: config.secure_port,
        service: config.kubernetes_service_ip(),
        dns: config.cluster_dns_ips(),
        settings,
        tokens: Arc::clone(tokens),
        signing: (Arc::clone(ca), Arc::clone(authorizer)),
        measures: Arc::new(Measures { usage: Arc::clone(usage), others: Some(Arc::clone(aggregator)) }),
        aggregator: Arc::clone(aggregator),
        front_ca,
        queues,
        standby: Standby::default(),
        tasks: tasks.clone(),
    };
    let (registry, stop) = (Arc::clone(registry), tasks.token());
    let elected = config.store == Backend::Etcd;
    // Others on the same store ask the leader at the port of agents.
    let asked = SocketAddr::from((config.advertise_address, config.agent_port));
    let identity = format!("{asked}/{}", uuid::Uuid::new_v4());
    if elected {
        let (usage, store, ca) = (Arc::clone(usage), Arc::clone(&store), Arc::clone(ca));
        let sharing = usage::share::follow(usage, store, identity.clone(), ca, tasks.token());
        tasks.spawn("usage/share", sharing);
        let standby = controllers.standby.clone();
        tasks.spawn("standby", standby.keep(Arc::clone(registry.cache()), tasks.token()));
    }
    let jobs = tasks.clone();
    tasks.spawn("controllers", async move {
        if !elected {
            return controllers.run(registry, stop).await;
        }
        leader::run(store, &identity, &jobs, stop, |fenced, over| {
            controllers.run(Arc::new(registry.on(fenced)), over)
        })
        .await;
    });
}

struct Controllers {
    advertise: IpAddr,
    port: u16,
    service: IpAddr,
    dns: Vec<IpAddr>,
    settings: Settings,
    tokens: Arc<Tokens>,
    /// Whose certificates are signed by what, and who may have theirs approved.
    signing: (Arc<Ca>, Arc<Authorizer>),
    measures: Arc<Measures>,
    aggregator: Arc<Aggregator>,
    /// Who vouches for us with those who answer for APIs.
    front_ca: String,
    queues: Queues,
    /// What they go on from when they begin to lead.
    standby: Standby,
    tasks: Tasks,
}

impl Controllers {
    /// Bootstraps the cluster, then runs until `stop`.
    async fn run(&self, registry: Arc<Registry>, stop: CancellationToken) {
        loop {
            let made = async {
                reconcile::bootstrap(&registry, self.advertise, self.port, self.service, &self.dns).await?;
                aggregate::bootstrap(&registry, &self.settings.ca_pem, &self.front_ca).await
            };
            let made = tokio::select! {
                made = made => made,
                () = stop.cancelled() => return,
            };
            match made {
                Ok(()) => break,
                Err(status) => tracing::warn!(%status, "the cluster's own objects cannot be made yet"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let events = Arc::new(Events::new(Arc::clone(&registry)));
        let (settings, measures) = (self.settings.clone(), Arc::clone(&self.measures));
        let (queues, tasks) = (self.queues.clone(), self.tasks.clone());
        let repairs = repair(&registry, &events, &stop);
        let secrets =
            TokenSecrets::new(Arc::clone(&registry), Arc::clone(&self.tokens), &self.settings.ca_pem);
        let (ca, authorizer) = &self.signing;
        let signing = Signing::new(Arc::clone(&registry), Arc::clone(ca), Arc::clone(authorizer));
        let controllers = reconcile::run(
            Arc::clone(&registry),
            Arc::clone(&events),
            settings,
            measures,
            (queues, tasks),
            &self.standby,
            stop.clone(),
        );
        let quotas = crate::quotas::run(&registry, &stop);
        let checks = self.aggregator.check(&registry, &stop);
        tokio::join!(controllers, repairs, secrets.run(&stop), quotas, signing.run(&stop), checks);
    }
}

/// Sees that claims and the objects that hold them agree, at once and from time to time.
async fn repair(registry: &Registry, events: &Events, stop: &CancellationToken) {
    let mut suspects = Suspects::default();
    loop {
        let look = async {
            match registry.repair(&mut suspects, registry::GRACE).await {
                Ok(repaired) => tell(events, &repaired).await,
                Err(status) => {
                    tracing::warn!(%status, "claims cannot be compared with their holders; trying again")
                }
            }
            tokio::time::sleep(REPAIR).await;
        };
        tokio::select! {
            () = look => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn tell(events: &Events, repaired: &Repaired) {
    if repaired.given + repaired.removed > 0 {
        tracing::warn!(given = repaired.given, removed = repaired.removed, "claims were repaired");
    }
    for notice in &repaired.notices {
        let event = Event {
            object: notice.about.clone(),
            kind: "Warning",
            reason: notice.reason,
            message: &notice.message,
            component: notice.component,
            host: "",
        };
        if let Err(status) = events.write(&event).await {
            tracing::debug!(%status, reason = notice.reason, "an event could not be written");
        }
    }
}

async fn bind(config: &ServeConfig, port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((config.bind_address, port));
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: is another one running?"))
}

async fn open_store(config: &ServeConfig, tasks: &Tasks) -> anyhow::Result<Arc<dyn Store>> {
    match config.store {
        Backend::Embedded => {
            let path = config.data_dir.join("store.redb");
            Ok(Arc::new(Embedded::open(&path, Retention::default())?))
        }
        Backend::Etcd => {
            anyhow::ensure!(
                !config.etcd_endpoints.is_empty(),
                "--store etcd needs --etcd-endpoints URL[,URL..]"
            );
            let options = EtcdOptions {
                endpoints: config.etcd_endpoints.clone(),
                ca: config.etcd_ca_file.clone(),
                cert: config.etcd_cert_file.clone(),
                key: config.etcd_key_file.clone(),
                // Most of what is written: that nodes live, and what was said for people.
                together: vec![
                    Together { prefix: EVENTS.prefix(), patience: Duration::ZERO },
                    Together { prefix: LEASES.key("kube-node-lease", ""), patience: RENEWALS },
                ],
            };
            let etcd = Arc::new(Etcd::connect(options).await?);
            let (compacted, token) = (Arc::clone(&etcd), tasks.token());
            tasks.spawn("store/compact", async move {
                tokio::select! {
                    () = compacted.compact_regularly(Retention::default().age) => {}
                    () = token.cancelled() => {}
                }
            });
            let (writes, token) = (Arc::clone(&etcd), tasks.token());
            tasks.spawn("store/writes", async move {
                tokio::select! {
                    () = writes.write_together() => {}
                    () = token.cancelled() => {}
                }
            });
            Ok(etcd)
        }
    }
}

/// The administrator's certificate and the kubeconfig that holds it.
fn write_kubeconfig(ca: &Ca, pki_dir: &Path, config: &ServeConfig) -> anyhow::Result<()> {
    use base64::Engine as _;
    let admin = Identity { user: "kubernetes-admin".to_owned(), groups: vec!["system:masters".to_owned()] };
    let own = ca.client_in(pki_dir, "admin", &admin)?;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: oarlock\n  cluster:\n    server: https://127.0.0.1:{}\n    \
         certificate-authority-data: {}\ncontexts:\n- name: oarlock\n  context:\n    cluster: oarlock\n    user: \
         kubernetes-admin\ncurrent-context: oarlock\nusers:\n- name: kubernetes-admin\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\n",
        config.secure_port,
        encode(ca.certificate_pem()),
        encode(&own.certificate_pem),
        encode(&own.key_pem),
    );
    write_atomic(&config.data_dir.join("admin.kubeconfig"), text.as_bytes(), 0o600)?;
    Ok(())
}

/// The tokens that an administrator wrote down.
fn token_file(config: &ServeConfig) -> anyhow::Result<TokenFile> {
    let Some(path) = &config.token_auth_file else { return Ok(TokenFile::default()) };
    let text = read_if_present(path)?.with_context(|| format!("{} does not exist", path.display()))?;
    TokenFile::parse(&text).map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))
}

/// The token with which nodes join: kept, or made at the first start (`<6>.<16>` of lower-case letters and digits).
fn join_token(data_dir: &Path) -> anyhow::Result<String> {
    let path = data_dir.join("join-token");
    if let Some(token) = read_if_present(&path)? {
        return Ok(token.trim().to_owned());
    }
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let part = |length: usize| -> String {
        (0..length).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
    };
    let token = format!("{}.{}", part(6), part(16));
    write_atomic(&path, token.as_bytes(), 0o600)?;
    Ok(token)
}

/// What `oarlock-control token` prints.
///
/// # Errors
/// The control plane has never been started with this data folder.
pub fn join_command(data_dir: &Path) -> anyhow::Result<String> {
    let missing =
        || format!("{} holds no cluster yet: start `oarlock-control serve` first", data_dir.display());
    let token = read_if_present(&data_dir.join("join-token"))?.with_context(missing)?;
    let ca = Ca::load_or_create(&data_dir.join("pki"))?;
    Ok(format!(
        "On the node, put this token into a file that only root can read:\n\n  {}\n\nand run:\n\n  oarlock-agent run \
         --server https://CONTROL-PLANE:6444 --token-file FILE \\\n    --ca-hash {} --node-name NAME --node-ip IP \
         --uplink LINK\n",
        token.trim(),
        ca.hash()
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Command};

    fn checked(pods: &str, services: &str) -> Result<(), String> {
        let words =
            ["oarlock-control", "serve", "--cluster-cidr", pods, "--service-cluster-ip-range", services];
        let Command::Serve(config) = Cli::parse_from(words).command else { panic!("not serve") };
        check_ranges(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn ranges_that_agents_would_not_answer_are_refused() {
        let (pods, services) = ("10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/16,fd00:10:96::/112");
        assert_eq!((checked(pods, services), checked(pods, "10.96.0.0/16")), (Ok(()), Ok(())));
        for (pods, services, why) in [
            ("fd00:10:244::/56", "fd00:10:96::/112", "give the IPv4 range first"),
            (pods, "fd00:10:96::/112,10.96.0.0/16", "--service-cluster-ip-range"),
            ("10.244.0.0/16", services, "no pod could answer there"),
            ("10.244.0.0/16,fd00:10:244::/112", services, "a /64 or a larger range"),
        ] {
            let refusal = checked(pods, services).unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
    }
}
