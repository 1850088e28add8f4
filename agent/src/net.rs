//! The pod network of a node: a veth pair a pod, a /32 route to it (and with dual stack a /128), routes to the pods of other nodes,
//! through tunnels to those on other networks.
//!
//! In: which pod (by the process that holds its network namespace), which podCIDR, which other nodes. Out: netlink requests;
//! the only user of rtnetlink. No bridge, no iptables; every decision about packets is the dataplane's.

mod bandwidth;
mod ipam;
mod leftovers;
mod links;
mod netns;
mod pod_veth;
mod reach;
mod routes;
mod sockets;
mod state;
mod sysctl;
mod tunnel;
mod underlay;
mod uplinks;

use async_trait::async_trait;

use crate::dual_ip::DualIp;
pub use bandwidth::Bandwidth;
pub use leftovers::{Leftovers, leftovers, remove_leftovers};
pub use netns::{dial_loopback, own_cookie};
pub use pod_veth::{Network, Reached};
pub use reach::{NodeRoute, NorthSouth, Peer, Routing, Way};
pub use sockets::{Connection, abort_udp, connections};
pub use underlay::Underlay;
pub use uplinks::{node_routes, of_default_routes, overlay, uplinks};

/// The pod whose network is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetRequest {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`, for messages.
    pub namespace: String,
    /// `metadata.name`, for messages.
    pub name: String,
    /// The process (the pause container's) whose network namespace is the pod's, in this process' pid namespace.
    pub pid: u32,
    /// How much it may receive and send.
    pub bandwidth: Bandwidth,
    /// Whether Services are answered in its packets, not at its sockets.
    pub per_packet: bool,
}

/// What the pod got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetResult {
    /// The pod's addresses.
    pub ip: DualIp,
    /// The name of the pod's link on the node's side.
    pub interface: String,
    /// The hardware addresses of the link's ends, the pod's first; nothing before it has been looked at, and where packets have to
    /// wait for their turn at the node's end.
    pub ends: Option<[u8; 12]>,
    /// The cookie of the pod's network namespace, where Services are answered in its packets.
    pub per_packet: Option<u64>,
}

/// Why a pod has no network. The text is for `kubectl describe pod` (FailedCreatePodSandBox).
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The control plane has not given this node a range of pod addresses yet.
    #[error("node has no podCIDR yet: the control plane assigns it when the node is registered")]
    NoPodCidr,
    /// Every address of the podCIDR is in use.
    #[error("no free address in podCIDR {cidr}: {used} are in use")]
    Exhausted {
        /// The range.
        cidr: ipnet::IpNet,
        /// How many are taken.
        used: usize,
    },
    /// An annotation that limits a pod says nothing that can be.
    #[error(
        "the pod's annotation {annotation} is {value:?}: {why}; it has to be bits per second from 1k to 1P, as 10M"
    )]
    Bandwidth {
        /// Its name.
        annotation: &'static str,
        /// What it says.
        value: String,
        /// What is wrong with that.
        why: String,
    },
    /// The dataplane has not taken the pod up.
    #[error(
        "the dataplane does not enforce NetworkPolicies for the pod yet; the agent's log and its /healthz say what keeps it"
    )]
    NotEnforced,
    /// The kernel refused a request.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was tried, with the link's name.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A file, namespace or sysctl could not be used.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// The network of pods, as those who run pods see it.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Gives the pod an address and a link. A second call for the same uid repairs what the first left undone and answers
    /// the same address.
    async fn add(&self, pod: &PodNetRequest) -> Result<PodNetResult, NetError>;

    /// Takes link, route and address away; a pod that has none is no error.
    async fn remove(&self, uid: &str) -> Result<(), NetError>;
}
