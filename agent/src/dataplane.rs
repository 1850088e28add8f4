//! Services in eBPF: what is wanted is compiled purely, compared with what the kernel has, and only the difference is
//! written. The only user of aya.
//!
//! Programs and maps are pinned: traffic flows while the agent is dead, and a new agent goes on where the last one was.

mod addresses;
mod answering;
mod attach;
mod blocks;
mod clsact;
mod compile;
mod door;
mod dump;
mod events;
mod express;
mod fill;
mod load;
mod metrics;
mod opted_out;
pub mod picture;
mod policies;
mod read;
mod six;
mod sweep;
mod sync;
mod trace;
mod traffic;
mod verified;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::util::KernelVersion;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oarlock_api::k8s::api::core::v1::Node;
use oarlock_ebpf::flow::{EXTERNAL_CLUSTER_IP, Settings, TUNNEL};

use crate::desired::{Objects, Snapshot};
use crate::dual_ip::DualIp;
use crate::net;
use attach::Links;
use compile::Compiler;
use sync::Tables;

pub use compile::{Frontend, Frontends, HealthCheck, PortName, health_checks};
pub use door::Door;
pub use dump::text;
pub use events::Watcher;
pub use fill::{Fill, fill};
pub use metrics::{Events, Flows, NorthSouth, Uplinks};
pub use read::{Kernel, dump, kernel};
pub use trace::{Question, Step, Trace, trace};
pub use traffic::{Directory, ServiceTraffic, Traffic};
pub use verified::verified;
pub use verify::{Difference, Surroundings, compare, lasting, wanted};

/// What the dataplane of a node needs to know.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// The node's name, part of the pins' path.
    pub node_name: String,
    /// The node's own address: NodePorts are answered there for local clients.
    pub node_ip: Ipv4Addr,
    /// The same of IPv6; none: nothing is answered at addresses of IPv6.
    pub node_ip6: Option<Ipv6Addr>,
    /// The node's cgroup, relative to the v2 hierarchy's root.
    pub cgroup: String,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// The links that carry traffic of other nodes and clients.
    pub uplinks: Vec<Uplink>,
    /// Where XDP is used on them.
    pub xdp: Acceleration,
    /// How programs are attached to links.
    pub tc: Tc,
    /// Whether ClusterIPs are answered for clients from outside.
    pub accept_external_cluster_ip: bool,
    /// Whether packets are counted by backend too, not by Service alone.
    pub count_backends: bool,
    /// Whether what pods begin leaves the cluster with the node's address. Not where somebody else runs the pods' network.
    pub masquerade: bool,
}

impl DataplaneConfig {
    /// The node's own addresses.
    pub(crate) fn node_ips(&self) -> DualIp {
        DualIp { v4: self.node_ip, v6: self.node_ip6 }
    }
}

/// A link that carries traffic of other nodes and clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Whether it is one end of a virtual pair.
    pub is_veth: bool,
}

/// How a pod of this node is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodLink {
    /// The pod's `metadata.uid`.
    pub uid: String,
    /// The name of the link's end on the node.
    pub name: String,
    /// The hardware addresses of the pod's end and of the node's, of a link that leads into another namespace: packets go there
    /// straight. Without them by the node's routes.
    pub ends: Option<[u8; 12]>,
    /// The pod's address of IPv6, where it has one.
    pub ip6: Option<Ipv6Addr>,
    /// The cookie of the pod's network namespace, where Services are answered in its packets instead of at its sockets.
    pub per_packet: Option<u64>,
}

/// The link by which other nodes' pods are reached, where somebody else runs the pods' network and they are not routed on the
/// uplinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Its name.
    pub name: String,
    /// Its number: another one after it was made anew.
    pub link: u32,
    /// The node's address there; none: the node's own is used.
    pub address: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Nodes on other networks than ours, where nobody knows pods' addresses: what pods send to these nodes themselves leaves with
    /// our node's address.
    pub nodes: Arc<BTreeSet<IpAddr>>,
    /// Of a tunnel between Oarlock's own nodes, in which frames may say which pod was chosen: whose nodes answer clients outside
    /// themselves.
    pub tunnel: Option<Answering>,
}

/// Ranges of pods whose nodes answer clients outside themselves, and these nodes' addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answering {
    /// Not known yet: as an earlier agent has said.
    Unchanged,
    /// Exactly these.
    These(Arc<BTreeMap<Ipv4Net, Ipv4Addr>>),
}

impl Overlay {
    /// Of all nodes those that pods talk to with their own addresses, and where else nodes take frames of the tunnel.
    fn nodes(overlay: Option<&Self>, snapshot: &Snapshot) -> (BTreeSet<IpAddr>, BTreeSet<Ipv4Addr>) {
        let is_near = |node: &IpAddr| overlay.is_none_or(|overlay| !overlay.nodes.contains(node));
        let (near, far): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
            compile::nodes(snapshot).into_iter().partition(is_near);
        let four = |ip: IpAddr| if let IpAddr::V4(ip) = ip { Some(ip) } else { None };
        (near, far.into_iter().filter_map(four).chain(compile::inside(snapshot)).collect())
    }
}

/// Where XDP answers Services on uplinks. tc answers where it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Acceleration {
    /// Where the driver supports it, except on veth.
    #[default]
    BestEffort,
    /// Where the driver supports it, also on veth: its other end must have GRO on, and senders behind it complete checksums.
    Native,
    /// Nowhere.
    Disabled,
}

/// How programs of tc are attached to links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tc {
    /// By links of their own (TCX, Linux 6.6, kernel commit e420bed02507).
    Tcx,
    /// As filters of the `clsact` queueing discipline.
    Clsact,
}

impl Tc {
    /// What this kernel has.
    #[must_use]
    pub fn of_kernel() -> Self {
        let has_links = KernelVersion::current().is_ok_and(|present| present >= KernelVersion::new(6, 6, 0));
        if has_links { Self::Tcx } else { Self::Clsact }
    }
}

/// How an uplink is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// The link's name.
    pub uplink: String,
    /// Why XDP does not run there; without a reason it does.
    pub without_xdp: Option<String>,
    /// What serves it where XDP does not.
    pub tc: Tc,
}

impl Mode {
    /// `xdp`, or where there is none `tc`, on kernels without TCX `clsact`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (&self.without_xdp, self.tc) {
            (None, _) => "xdp",
            (Some(_), Tc::Tcx) => "tc",
            (Some(_), Tc::Clsact) => "clsact",
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.uplink, self.name())?;
        self.without_xdp.as_ref().map_or(Ok(()), |why| write!(f, " ({why})"))
    }
}

/// Why the dataplane cannot do its work. Each names the map, hook or path, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// The agent was built without the BPF object.
    #[error("this agent was built without its BPF programs: run `cargo xtask build`, which builds both")]
    NoObject,
    /// A path that is needed is not there.
    #[error("{what}: {why}")]
    Host {
        /// What is missing.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// The kernel refused a program, a map or a link.
    #[error("cannot {what}: {why}; `oarlock-agent check` says what this host lacks")]
    Kernel {
        /// What was tried.
        what: String,
        /// The kernel's words.
        why: String,
    },
    /// A table is full.
    #[error("the map {map} is full at {capacity} entries: fewer Services or endpoints fit on this node")]
    Full {
        /// The map's name.
        map: &'static str,
        /// How many it holds.
        capacity: u32,
    },
}

impl DataplaneError {
    fn kernel(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Kernel { what: what.into(), why: why.to_string() }
    }
}

/// What a synchronisation changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changed {
    /// Frontends written.
    pub written: usize,
    /// Frontends removed.
    pub removed: usize,
    /// Frontends that there are now.
    pub frontends: usize,
}

/// The dataplane of one node.
pub struct Dataplane {
    config: DataplaneConfig,
    tables: Tables,
    policies: policies::Tables,
    links: Links,
    compiler: Compiler,
    policy_compiler: policies::Compiler,
    /// Frontends that the kernel may not have as they are wanted.
    due: BTreeSet<Door>,
    modes: Vec<Mode>,
    cluster_cidr: Option<Ipv4Net>,
    cluster_cidr6: Option<Ipv6Net>,
    /// Those that the programs know.
    nodes: Option<Objects<Node>>,
    /// The cookie of the network namespace that is the node's.
    namespace: u64,
    overlay: Option<Overlay>,
    /// Whose nodes answer clients outside themselves, as the programs know it; what an earlier agent has said is not looked at.
    answering: Option<Arc<BTreeMap<Ipv4Net, Ipv4Addr>>>,
    /// When flows were collected last.
    collected: Option<Instant>,
}

/// What is over waits for no more than this until it is collected; nothing needs its place before.
const COLLECT_EVERY: Duration = Duration::from_secs(10);

impl Dataplane {
    /// Loads the programs, takes over what an earlier agent has pinned, and attaches to the node's cgroup and uplinks. Where an
    /// agent of another layout was, its programs serve on until the first [`Self::sync`].
    ///
    /// # Errors
    /// What the host lacks, in words for its administrator.
    pub fn open(config: DataplaneConfig) -> Result<Self, DataplaneError> {
        let namespace = net::own_cookie()
            .map_err(|e| DataplaneError::kernel("tell the node's network namespace from those of pods", e))?;
        let (tables, policies, mut links) = load::load(&config)?;
        let modes = config.uplinks.iter().map(|uplink| links.accelerate(uplink, config.xdp)).collect();
        let tables = Tables::adopt(tables, config.count_backends)?;
        let compiler = Compiler::new(&config.node_name, config.node_ips());
        // Of what an earlier agent left, nothing is known to be wanted still.
        let due = tables.frontends().collect();
        Ok(Self {
            tables,
            policies: policies::Tables::adopt(policies),
            links,
            compiler,
            policy_compiler: policies::Compiler::default(),
            due,
            modes,
            config,
            cluster_cidr: None,
            cluster_cidr6: None,
            nodes: None,
            namespace,
            overlay: None,
            answering: None,
            collected: None,
        })
    }

    /// What it was opened with.
    #[must_use]
    pub const fn config(&self) -> &DataplaneConfig {
        &self.config
    }

    /// Whose counters are whose.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        self.tables.directory()
    }

    /// How each uplink is served.
    #[must_use]
    pub fn modes(&self) -> &[Mode] {
        &self.modes
    }

    /// Makes the kernel's tables answer for exactly the Services of the snapshot. Idempotent.
    ///
    /// # Errors
    /// A full table or a refusal of the kernel; what was written before stands and is consistent.
    pub fn sync(&mut self, snapshot: &Snapshot) -> Result<Changed, DataplaneError> {
        self.due.extend(self.compiler.update(snapshot, &compile::by_uid(self.links.pods())));
        let synced = self.tables.sync(&mut self.due, |key| self.compiler.frontend(key));
        if !self.nodes.as_ref().is_some_and(|nodes| nodes.ptr_eq(&snapshot.nodes)) {
            let (near, ends) = Overlay::nodes(self.overlay.as_ref(), snapshot);
            self.links.set_nodes(&near, &ends)?;
            self.nodes = Some(snapshot.nodes.clone());
        }
        let cluster = self.cluster_cidr;
        self.links.set(settings(&self.config, cluster, self.overlay.as_ref(), self.namespace))?;
        self.set_answering()?;
        self.links.set6(six::settings(&self.config, self.cluster_cidr6, self.overlay.as_ref()))?;
        // Of what does not fit, as little would with the tables of before.
        let taken_over = self.links.take_over().and_then(|()| self.links.isolate(self.policies.isolated()));
        self.abort_stale();
        synced.and_then(|changed| taken_over.map(|()| changed))
    }

    /// Makes the programs know whose nodes answer clients outside themselves, if that has changed.
    fn set_answering(&mut self) -> Result<(), DataplaneError> {
        let of_tunnel = self.overlay.as_ref().and_then(|overlay| overlay.tunnel.clone());
        let ranges = match of_tunnel {
            Some(Answering::Unchanged) => return Ok(()),
            Some(Answering::These(ranges)) => ranges,
            None => Arc::default(),
        };
        if self.answering.as_ref() != Some(&ranges) {
            self.links.set_answering(&ranges)?;
            self.answering = Some(ranges);
        }
        Ok(())
    }

    /// Ends the sockets that would go on sending datagrams to backends that are gone; their users ask the Service anew.
    fn abort_stale(&mut self) {
        let gone = self.tables.gone();
        if gone.is_empty() {
            return;
        }
        let is_stale = |cookie, peer| gone.contains(&peer) && self.tables.has_given(cookie, peer);
        match net::abort_udp(self.links.cgroup(), is_stale) {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "sockets connected to backends that are gone were aborted"),
            Err(error) => {
                tracing::warn!(%error, "sockets may go on sending datagrams to backends that are gone");
            }
        }
    }

    /// A range of all pods, one of each family: what goes elsewhere is masqueraded. Takes effect with the next [`Self::sync`].
    pub fn set_cluster_cidr(&mut self, cluster_cidr: impl Into<IpNet>) {
        match cluster_cidr.into() {
            IpNet::V4(range) => self.cluster_cidr = Some(range),
            IpNet::V6(range) => self.cluster_cidr6 = Some(range),
        }
    }

    /// The pods of this node and their links, by address. Idempotent; those left out are forgotten.
    ///
    /// # Errors
    /// A link that is gone, or a refusal of the kernel; the others are tried again with the next call.
    pub fn set_pods(&mut self, pods: &BTreeMap<Ipv4Addr, PodLink>) -> Result<(), DataplaneError> {
        self.links.set_pods(pods)
    }

    /// Whether the programs are at the link of a pod of this node.
    #[must_use]
    pub fn is_linked(&self, pod: Ipv4Addr) -> bool {
        self.links.is_linked(pod)
    }

    /// By which link other nodes' pods are reached. Takes effect with the next [`Self::sync`].
    ///
    /// # Errors
    /// A refusal of the kernel; tried again with the next call.
    pub fn set_overlay(&mut self, overlay: Option<&Overlay>) -> Result<(), DataplaneError> {
        if self.overlay.as_ref() == overlay {
            return Ok(());
        }
        let place =
            |overlay: &Overlay| (overlay.name.clone(), overlay.link, overlay.address, overlay.address6);
        if self.overlay.as_ref().map(place) != overlay.map(place) {
            // Until it is attached, replies from there would not be understood.
            self.overlay = None;
            self.links.set_overlay(overlay.map(|overlay| overlay.name.clone()))?;
            if let Some(Overlay { name, link, address, address6, .. }) = overlay {
                tracing::info!(
                    name,
                    link,
                    ?address,
                    ?address6,
                    "pods of other nodes are reached by an overlay"
                );
            }
        }
        self.overlay = overlay.cloned();
        self.nodes = None;
        Ok(())
    }

    /// Pods that somebody else has plugged: their replies are met at the uplinks, not at links of their own. To be told before
    /// the [`Self::sync`] that leads to them.
    ///
    /// # Errors
    /// A refusal of the kernel.
    pub fn add_foreign_pods(&mut self, pods: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        self.links.add_foreign_pods(pods)
    }

    /// Forgets all pods but these. To be told after the [`Self::sync`] by which nothing leads to the others any more: a packet
    /// to a pod that is not known to be here is sent to another node.
    ///
    /// # Errors
    /// A refusal of the kernel.
    pub fn keep_foreign_pods(&mut self, pods: &BTreeSet<IpAddr>) -> Result<(), DataplaneError> {
        self.links.forget_pods(|ip| pods.contains(&ip))
    }

    /// Makes the kernel enforce exactly the NetworkPolicies of the snapshot for the pods that were set last. Idempotent. To be told
    /// before [`Self::sync`], and before a new pod has its first container.
    ///
    /// # Errors
    /// A full table or a refusal of the kernel; what could not be written is forbidden.
    pub fn enforce(&mut self, snapshot: &Snapshot) -> Result<(), DataplaneError> {
        let links = policies::numbered(self.links.pods());
        let wanted = self.policy_compiler.update(snapshot, links);
        let closing = self.policies.closing(wanted);
        if !closing.is_empty() {
            match net::connections(self.links.cgroup(), &closing) {
                Ok(connections) => self.policies.know(&connections),
                Err(error) => {
                    tracing::warn!(%error, "connections of pods that policies select now may be cut")
                }
            }
        }
        let synced = self.policies.sync(wanted);
        let attached = self.links.isolate(self.policies.isolated());
        synced.and(attached)
    }

    /// Forgets flows that are over, if that was not done just before. Returns how many entries are (left, forgotten).
    ///
    /// # Errors
    /// A refusal of the kernel.
    pub fn collect(&mut self) -> Result<(usize, usize), DataplaneError> {
        if self.collected.is_some_and(|at| at.elapsed() < COLLECT_EVERY) {
            return Ok((0, 0));
        }
        self.collected = Some(Instant::now());
        self.policies.collect(now());
        self.links.collect()
    }

    /// Events counted by the programs since they were first loaded: (reason, count).
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, DataplaneError> {
        self.tables.counters()
    }
}

/// What the programs are to know of the node.
fn settings(
    config: &DataplaneConfig,
    cluster: Option<Ipv4Net>,
    overlay: Option<&Overlay>,
    namespace: u64,
) -> Settings {
    let (external, tunnel) =
        (config.accept_external_cluster_ip, overlay.is_some_and(|overlay| overlay.tunnel.is_some()));
    Settings {
        node: config.node_ip.octets(),
        cluster: cluster.map(|c| c.network().octets()).unwrap_or_default(),
        mask: cluster.map(|c| c.netmask().octets()).unwrap_or_default(),
        flags: if external { EXTERNAL_CLUSTER_IP } else { 0 } | if tunnel { TUNNEL } else { 0 },
        namespace,
        overlay: overlay.map_or(0, |overlay| overlay.link),
        overlay_address: overlay.and_then(|overlay| overlay.address).unwrap_or(config.node_ip).octets(),
    }
}

/// Seconds since boot, as the programs count them: CLOCK_MONOTONIC.
fn now() -> u32 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(|time| time.tv_sec());
    // No such clock: zero, at which nothing is ever old.
    now.ok().and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(0)
}

/// Readies the other end of a veth uplink for what XDP sends by it, until the pin `<bpffs>/oarlock/peers/<interface>` or the
/// link is gone.
///
/// # Errors
/// No such link, or the kernel refuses.
pub fn prepare_peer(bpffs: &Path, interface: &str) -> Result<(), DataplaneError> {
    express::prepare_peer(load::object()?, &bpffs.join("oarlock/peers"), interface)
}

/// Takes everything of a node back: links, tables, pins. Traffic to its Services ends.
///
/// # Errors
/// The pins cannot be removed.
pub fn remove(config: &DataplaneConfig) -> Result<(), DataplaneError> {
    load::remove_cgroup(&config.cgroup);
    remove_pins(&config.bpffs, &config.node_name)
}

/// The same, for a node whose cgroup is not ours.
///
/// # Errors
/// The pins cannot be removed.
pub fn remove_pins(bpffs: &Path, node_name: &str) -> Result<(), DataplaneError> {
    attach::remove_filters();
    let pins = load::folder(bpffs, node_name);
    std::fs::remove_dir_all(&pins).map_err(|e| DataplaneError::Host {
        what: format!("cannot remove {}", pins.display()),
        why: e.to_string(),
    })?;
    // Other nodes' pins may be beside ours.
    let _ = std::fs::remove_dir(bpffs.join("oarlock"));
    Ok(())
}

/// Where all of a node is pinned.
#[must_use]
pub fn pins_of(bpffs: &Path, node_name: &str) -> PathBuf {
    load::folder(bpffs, node_name)
}

/// Whether anything of a node is pinned.
#[must_use]
pub fn is_pinned(bpffs: &Path, node_name: &str) -> bool {
    load::folder(bpffs, node_name).exists()
}

/// Whether a cgroup is there, relative to the root of the v2 hierarchy.
#[must_use]
pub fn has_cgroup(cgroup: &str) -> bool {
    load::cgroup2_root().is_some_and(|root| root.join(cgroup.trim_start_matches('/')).is_dir())
}
