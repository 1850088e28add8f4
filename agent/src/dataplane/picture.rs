//! What a node's tables say, in a form that is the same for the kernel's and for those that are wanted: what
//! `oarlock-agent dataplane dump --json` prints and `verify` compares. docs/observability.md describes it; fields are only added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;
use oarlock_ebpf::flow::{EXTERNAL_CLUSTER_IP, Owner, Settings, TCP, TUNNEL, UDP};
use oarlock_ebpf::flow6::Settings6;
use serde::{Deserialize, Serialize};

use super::compile::Algorithm;
use super::policies::PolicyPicture;
use crate::net::NodeRoute;

/// The tables that the agent writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Picture {
    /// The version of the tables' layout.
    pub layout_version: u32,
    /// What the programs know of the node.
    pub node: NodePicture,
    /// Where Services are answered, sorted.
    pub frontends: Vec<FrontendPicture>,
    /// The pods of this node, sorted.
    pub pods: Vec<PodPicture>,
    /// The addresses of nodes that know pods' addresses, sorted.
    pub nodes: Vec<IpAddr>,
    /// Where else nodes take frames of the tunnel: the addresses of nodes on other networks, and those that nodes have in the tunnel.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tunnel_ends: BTreeSet<Ipv4Addr>,
    /// Pods whose packets are translated instead of their sockets: `link 9` and `namespace 4242`, by the numbers of the node's end of
    /// the link and the cookie.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub per_packet: BTreeSet<String>,
    /// Ranges of pods whose nodes answer clients outside themselves, and these nodes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub direct: BTreeMap<Ipv4Net, Ipv4Addr>,
    /// How other nodes' pods are reached; nothing where somebody else sees to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<BTreeSet<NodeRoute>>,
    /// What NetworkPolicies say of those pods.
    #[serde(default, skip_serializing_if = "PolicyPicture::is_empty")]
    pub policies: PolicyPicture,
    /// Pods that may be known for a while although they are gone. Never in the kernel's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<IpAddr>,
}

/// What the programs know of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePicture {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its address of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// The range of all pods; what pods send elsewhere is masqueraded.
    pub cluster_cidr: Option<Ipv4Net>,
    /// The same of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_cidr6: Option<Ipv6Net>,
    /// Whether ClusterIPs are answered for clients outside.
    pub external_cluster_ips: bool,
    /// The cookie of the node's network namespace.
    pub namespace_cookie: u64,
    /// By which link pods of other nodes are reached, if not by the uplinks.
    pub overlay: Option<OverlayPicture>,
}

impl Default for NodePicture {
    fn default() -> Self {
        Self::of(&Settings::default(), &Settings6::default())
    }
}

/// By which link pods of other nodes are reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayPicture {
    /// The link's number.
    pub link: u32,
    /// The node's address there.
    pub address: Ipv4Addr,
    /// The same of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Whether it is our own tunnel, whose frames may say which pod was chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tunnel: bool,
}

impl OverlayPicture {
    /// The node's addresses there, for people.
    pub(super) fn addresses(&self) -> String {
        self.address6.map_or_else(|| self.address.to_string(), |six| format!("{} {six}", self.address))
    }
}

impl Picture {
    /// The node that answers clients outside of this pod itself; none where the pod's answers come back here.
    pub(super) fn answers_itself(&self, pod: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V4(pod) = pod else { return None };
        self.direct.iter().find(|(range, _)| range.contains(&pod)).map(|(_, node)| *node)
    }
}

/// Where a Service is answered, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendPicture {
    /// The address that clients know.
    pub address: IpAddr,
    /// The port that clients know.
    pub port: u16,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The number of the Service's port: 16 hexadecimal digits.
    pub service: String,
    /// `namespace/name:port`. The kernel does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How a backend is chosen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub algorithm: Algorithm,
    /// For how long a client keeps its backend; 0: not at all.
    pub affinity_seconds: u32,
    /// Whether clients outside are answered.
    pub external: bool,
    /// Of clients outside only these; all where there is none.
    pub source_ranges: Vec<IpNet>,
    /// Who answers clients of this node, in the order of the slots.
    pub inside: Vec<SocketAddr>,
    /// Who answers clients outside; with `maglev` the one of each slot.
    pub outside: Vec<SocketAddr>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Each once, in the order in which they come.
pub(super) fn distinct(peers: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut seen = BTreeSet::new();
    peers.iter().filter(|peer| seen.insert(**peer)).copied().collect()
}

/// A pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPicture {
    /// Its address. A pod with an address of each family is there twice.
    pub address: IpAddr,
    /// The number of the node's end of its link; 0: it is reached by the node's routes.
    pub link: u32,
    /// The hardware addresses of the pod's end and of the node's.
    pub ends: Option<[String; 2]>,
}

impl NodePicture {
    /// What these settings say.
    pub(super) fn of(settings: &Settings, settings6: &Settings6) -> Self {
        let overlay = OverlayPicture {
            link: settings.overlay,
            address: settings.overlay_address.into(),
            address6: Some(Ipv6Addr::from(settings6.overlay_address)).filter(|ip| !ip.is_unspecified()),
            tunnel: settings.has(TUNNEL),
        };
        let known = settings.mask != [0; 4];
        let cidr = Ipv4Net::with_netmask(settings.cluster.into(), settings.mask.into()).ok();
        let cidr6 = Ipv6Net::with_netmask(settings6.cluster.into(), settings6.mask.into()).ok();
        Self {
            address: settings.node.into(),
            address6: Some(Ipv6Addr::from(settings6.node)).filter(|ip| !ip.is_unspecified()),
            cluster_cidr6: cidr6.filter(|range| range.prefix_len() != 0),
            cluster_cidr: cidr.filter(|_| known),
            external_cluster_ips: settings.has(EXTERNAL_CLUSTER_IP),
            namespace_cookie: settings.namespace,
            overlay: Some(overlay).filter(|overlay| overlay.link != 0),
        }
    }
}

impl NodePicture {
    /// Whether an address is the node's.
    pub(super) fn is_at(&self, ip: IpAddr) -> bool {
        ip == self.address || self.address6.is_some_and(|own| ip == own)
    }

    /// The ranges of all pods.
    pub(super) fn clusters(&self) -> impl Iterator<Item = IpNet> {
        self.cluster_cidr.map(IpNet::V4).into_iter().chain(self.cluster_cidr6.map(IpNet::V6))
    }
}

impl FrontendPicture {
    /// `TCP 10.96.0.10:80`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} {}", self.protocol, SocketAddr::new(self.address, self.port))
    }
}

impl PodPicture {
    /// What the programs know of a pod.
    pub(super) fn of(address: IpAddr, owner: &Owner) -> Self {
        let (pod, node) = owner.ends.split_at(6);
        let ends = (owner.link != 0).then(|| [mac(pod), mac(node)]);
        Self { address, link: owner.link, ends }
    }
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// A protocol's name.
pub(super) fn protocol(number: u8) -> String {
    match number {
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        other => other.to_string(),
    }
}

/// The number of a Service's port as text.
pub(super) fn service(number: u64) -> String {
    format!("{number:016x}")
}

/// The tables as they are, with what passes: what `dump` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump {
    /// What the agent has written.
    #[serde(flatten)]
    pub tables: Picture,
    /// Translated flows, by the packet as it comes; those of replies left out.
    pub flows: Vec<FlowPicture>,
    /// Events since the programs were first loaded, by reason.
    pub counters: BTreeMap<String, u64>,
}

/// A translated flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowPicture {
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Who sends.
    pub source: SocketAddr,
    /// To whom it believes to send.
    pub destination: SocketAddr,
    /// Whom its receiver sees.
    pub translated_source: SocketAddr,
    /// To whom it goes.
    pub translated_destination: SocketAddr,
    /// Whether it leaves the cluster with the node's address, instead of going to a backend.
    pub masqueraded: bool,
    /// The node that it is handed over to as it came: that of its pod, which answers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_to: Option<Ipv4Addr>,
    /// Whether either side has ended it.
    pub closing: bool,
    /// When a packet was seen last, in seconds since boot.
    pub seen_seconds_after_boot: u32,
}

/// Something that happened to a connection or a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventPicture {
    /// When.
    pub at: Timestamp,
    /// A reason of the metrics: `translated`, `masqueraded`, `direct`, or why it went nowhere.
    pub what: String,
    /// `socket`, `xdp` or `tc`.
    pub hook: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// Who sends. Of a socket that is not known yet.
    pub source: Option<SocketAddr>,
    /// To whom.
    pub destination: SocketAddr,
    /// Whom its receiver sees, where it goes on.
    pub translated_source: Option<SocketAddr>,
    /// To whom it goes, where it does.
    pub translated_destination: Option<SocketAddr>,
    /// The Service's `namespace/name:port`.
    pub service: Option<String>,
    /// Whose socket it is: `pod NAMESPACE/NAME`, `node`, or the process' cgroup.
    pub client: Option<String>,
}

impl EventPicture {
    /// Whether it went nowhere.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        self.translated_destination.is_none()
    }
}
