//! Links of pods: a veth pair from the node's namespace into the pod's, with static neighbours on both sides.
//!
//! The pod sees `eth0` with its /32 address and a default route by the link-local gateway 169.254.1.1, which answers on
//! every pod's link alike, so that no address of the node is spent and no ARP is ever asked. With dual stack it has a /128 and
//! fe80::1 too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use oarlock_daemon::Tasks;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, watch};

use super::links::{self, Link, check};
use super::reach::{self, LEAST6, Mtu, NodeRoute, NorthSouth, Peer};
use super::routes::Tunnel;
use super::state::{Kept, PodNet};
use super::tunnel::End;
use super::underlay::{self, Underlay};
use super::{
    Bandwidth, NetError, PodNetRequest, PodNetResult, PodNetwork, bandwidth, ipam, netns, routes, sysctl,
    tunnel, uplinks,
};
use crate::dataplane::{Answering, Overlay};
use crate::dual_ip::DualIp;

/// The gateway of every pod: link-local, never seen outside the pair.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// The pod's side of its link.
const POD_LINK: &str = "eth0";

/// The network of one node.
pub struct Network {
    tasks: Tasks,
    handle: Handle,
    underlay: Underlay,
    /// What pods were given. Locked after `inner`, where both are.
    kept: Kept,
    inner: Mutex<Inner>,
    plugged: watch::Sender<u64>,
    moved: watch::Sender<u64>,
    reached: watch::Sender<Reached>,
}

struct Inner {
    pod_cidr: Option<Ipv4Net>,
    pod_cidr6: Option<Ipv6Net>,
    /// Services' ranges, which are guarded.
    services: BTreeSet<IpNet>,
    mtu: Mtu,
    /// The processes that hold the namespaces of pods, as they were told last.
    holders: BTreeMap<String, u32>,
}

/// How other nodes' pods are reached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The way to each node's pods.
    pub routes: BTreeSet<NodeRoute>,
    /// The link of those that are not reached directly.
    pub overlay: Option<Overlay>,
    /// For people: `direct,vxlan mtu=1450`.
    pub description: String,
    /// Who answers clients outside whose pods are here, and who have reached another node. Not known before it was first looked.
    pub north_south: Option<NorthSouth>,
}

impl Network {
    /// Opens the node's network: netlink in the present namespace, the state file under `data_dir`, forwarding switched on.
    ///
    /// # Errors
    /// No such uplink, a damaged state file, or missing privileges.
    pub async fn open(tasks: &Tasks, data_dir: &Path, underlay: Underlay) -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| NetError::Io { what: "open a netlink socket".to_owned(), source })?;
        tasks.job("netlink/node", connection);
        sysctl::prepare_node()?;
        let kept = Kept::open(&data_dir.join("network.json"))?;
        let uplinks = underlay::look(&handle, &underlay.uplinks).await?;
        // Pods that run go on sending what fits through the tunnel that an earlier agent has made.
        let mut overlay = uplinks::overlay(tunnel::LINK).await?;
        if let Some(overlay) = &mut overlay {
            // Frames by it go on to be understood, and to be sent.
            overlay.tunnel = Some(Answering::Unchanged);
        }
        let has_tunnel = links::find(&handle, tunnel::LINK).await?.is_some();
        let mtu = Mtu::of(uplinks.mtu, has_tunnel || underlay.north_south == NorthSouth::Direct);
        let description = reach::describe(&BTreeSet::new(), mtu);
        let (routes, north_south) = (BTreeSet::new(), None);
        let reached = Reached { routes, overlay, description, north_south };
        let moved = watch::Sender::new(0);
        underlay::watch(tasks, &underlay.uplinks, moved.clone())?;
        let inner = Inner {
            pod_cidr: None,
            pod_cidr6: None,
            services: BTreeSet::new(),
            mtu,
            holders: BTreeMap::new(),
        };
        Ok(Self {
            tasks: tasks.clone(),
            handle,
            underlay,
            kept,
            inner: Mutex::new(inner),
            plugged: watch::Sender::new(0),
            moved,
            reached: watch::Sender::new(reached),
        })
    }

    /// The range that new pods get their addresses from. Pods that have an address keep it.
    ///
    /// # Errors
    /// The kernel refuses the route that guards the range.
    pub async fn set_pod_cidr(&self, pod_cidr: Ipv4Net) -> Result<(), NetError> {
        let mut inner = self.inner.lock().await;
        if inner.pod_cidr != Some(pod_cidr) {
            if self.underlay.north_south == NorthSouth::Direct && !reach::can_be_said(pod_cidr) {
                tracing::warn!(%pod_cidr, "the range is too large for --north-south direct: at most a /16; it stays snat");
            }
            routes::refuse_unused(&self.handle, pod_cidr).await?;
            inner.pod_cidr = Some(pod_cidr);
        }
        Ok(())
    }

    /// A range of Services' addresses: packets to those that nobody answers are refused instead of wandering to a default route. Those of
    /// IPv6 as long as the node has pods with it.
    ///
    /// # Errors
    /// The kernel refuses the route.
    pub async fn set_service_cidr(&self, service_cidr: IpNet) -> Result<(), NetError> {
        let mut inner = self.inner.lock().await;
        let is_ours = service_cidr.addr().is_ipv4() || inner.pod_cidr6.is_some();
        if is_ours && !inner.services.contains(&service_cidr) {
            routes::refuse_unused(&self.handle, service_cidr).await?;
            inner.services.insert(service_cidr);
        }
        Ok(())
    }

    /// The range of IPv6 that new pods get an address from beside the one of IPv4. Pods that have none go on without.
    ///
    /// # Errors
    /// The kernel refuses the route that guards the range, or IPv6 altogether.
    pub async fn set_pod_cidr6(&self, pod_cidr: Ipv6Net) -> Result<(), NetError> {
        let mut inner = self.inner.lock().await;
        if inner.pod_cidr6 != Some(pod_cidr) {
            sysctl::prepare_node_for_ipv6(&self.underlay.uplinks)?;
            routes::refuse_unused(&self.handle, pod_cidr).await?;
            inner.pod_cidr6 = Some(pod_cidr);
        }
        Ok(())
    }

    /// Makes the ways to other nodes' pods exactly those that lead to these peers, as the uplinks are now, and has pods send what
    /// fits into them. Those of IPv6 as long as the node has pods with it. Not twice at a time.
    ///
    /// # Errors
    /// The first thing that the kernel refused, after all were tried.
    pub async fn set_peers(&self, peers: &BTreeSet<Peer>) -> Result<(), NetError> {
        let uplinks = underlay::look(&self.handle, &self.underlay.uplinks).await?;
        let (pod_cidr, pod_cidr6) = {
            let inner = self.inner.lock().await;
            (inner.pod_cidr, inner.pod_cidr6)
        };
        let is_spoken = |peer: &&Peer| peer.pod_cidr.network().is_ipv4() || pod_cidr6.is_some();
        let peers = peers.iter().filter(is_spoken).copied().collect();
        let (wanted, far) = reach::routes(self.underlay.routing, &uplinks.networks, &peers);
        let answers =
            self.underlay.north_south == NorthSouth::Direct && pod_cidr.is_some_and(reach::can_be_said);
        let tunnels = answers || wanted.iter().any(|route| route.end().is_some());
        let mtu = Mtu::of(uplinks.mtu, tunnels);
        // Smaller packets before the way that takes no larger ones, larger ones after it has gone.
        let fitted = self.set_mtu(mtu).await;
        let (tunnel, stale) = match pod_cidr {
            _ if !tunnels => (None, None),
            Some(pod_cidr) => {
                let end = End { node: self.underlay.node_ip, pod_cidr, pod_cidr6, mtu: mtu.pods };
                let nodes = peers.iter().filter(|_| answers).map(|peer| peer.address.v4).collect();
                Some(self.tunnel(end, (&wanted, &nodes)).await?).unzip()
            }
            // A node without a range of its own has no pods that would ask for the way.
            None => return Err(NetError::NoPodCidr),
        };
        let routed = routes::sync(&self.handle, &wanted, tunnel).await;
        match stale {
            Some(stale) => tunnel::forget(&self.handle, stale).await?,
            None => tunnel::remove(&self.handle).await?,
        }
        let answering = Arc::new(if answers { reach::answering(&peers) } else { BTreeMap::new() });
        let overlay = tunnel.map(|Tunnel { link, address, address6 }| Overlay {
            name: tunnel::LINK.to_owned(),
            link,
            address: Some(address),
            address6,
            nodes: Arc::new(far),
            tunnel: Some(Answering::These(answering)),
        });
        let description = reach::describe(&wanted, mtu);
        let north_south = Some(if answers { NorthSouth::Direct } else { NorthSouth::Snat });
        let reached = Reached { routes: wanted, overlay, description, north_south };
        self.reached.send_if_modified(|present| {
            let changes = *present != reached;
            if changes {
                let nodes = reached.routes.len();
                tracing::info!(ways = %reached.description, nodes, "pods of other nodes are reached");
                *present = reached;
            }
            changes
        });
        routed.and(fitted)
    }

    /// Our end of the tunnels, which knows what these routes lead to and where these nodes are.
    async fn tunnel(
        &self,
        end: End,
        to: (&BTreeSet<NodeRoute>, &BTreeSet<Ipv4Addr>),
    ) -> Result<(Tunnel, tunnel::Stale), NetError> {
        let link = tunnel::ensure(&self.handle, end).await?;
        let stale = tunnel::tell(&self.handle, link, to).await?;
        Ok((Tunnel { link, address: end.address(), address6: end.address6() }, stale))
    }

    /// Makes the links of all pods take, and pods send, packets of this length.
    async fn set_mtu(&self, mtu: Mtu) -> Result<(), NetError> {
        let pods: Vec<(PodNet, u32)> = {
            let mut inner = self.inner.lock().await;
            if inner.mtu == mtu {
                return Ok(());
            }
            tracing::info!(
                links = mtu.link,
                pods = mtu.pods,
                "packets of pods may be as long as the ways allow"
            );
            inner.mtu = mtu;
            let holders = &inner.holders;
            self.kept.look(|given| {
                let net = |(uid, pid): (&String, &u32)| Some((given.pods.get(uid)?.clone(), *pid));
                holders.iter().filter_map(net).collect()
            })
        };
        for (net, pid) in pods {
            // One that has ended meanwhile needs nothing; what is wrong with one that runs is repaired when it is added again.
            if let Err(error) = self.plug(&net, pid, mtu, true).await {
                tracing::debug!(%error, interface = %net.interface, "the length of a pod's packets is as it was");
            }
        }
        Ok(())
    }

    /// How other nodes' pods are reached, now and whenever that changes.
    #[must_use]
    pub fn reached(&self) -> watch::Receiver<Reached> {
        self.reached.subscribe()
    }

    /// A bell that rings when the uplinks have changed: [`Self::set_peers`] has to be called again.
    #[must_use]
    pub fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Every pod that has a network, as (uid, what it got).
    #[must_use]
    pub fn pods(&self) -> Vec<(String, PodNetResult)> {
        self.kept.look(|given| given.pods.iter().map(|(uid, net)| (uid.clone(), result(net))).collect())
    }

    /// What each pod has received and sent by its link, in bytes, by uid.
    pub async fn traffic(&self) -> BTreeMap<String, (u64, u64)> {
        let mut found = BTreeMap::new();
        for (uid, net) in self.pods() {
            // What the node's end has received the pod has sent.
            if let Some((sent, received)) = links::counters(&self.handle, &net.interface).await {
                found.insert(uid, (received, sent));
            }
        }
        found
    }

    /// A bell that rings after a pod was given a network or has lost it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.plugged.subscribe()
    }

    async fn claim(&self, pod: &PodNetRequest) -> Result<PodNet, NetError> {
        let known = self.kept.look(|given| given.pods.get(&pod.uid).cloned());
        let net = match known {
            Some(present) => present,
            None => self.give(pod).await?,
        };
        // Also of one that is known: it may not have been written then.
        self.kept.save().await?;
        Ok(net)
    }

    /// A new pod's addresses.
    async fn give(&self, pod: &PodNetRequest) -> Result<PodNet, NetError> {
        let inner = self.inner.lock().await;
        let cidr = inner.pod_cidr.ok_or(NetError::NoPodCidr)?;
        let taken = self.kept.look(|given| {
            let used: BTreeSet<Ipv4Addr> = given.pods.values().map(|p| p.ip).collect();
            ipam::pick(cidr, &used, given.last).ok_or(used.len())
        });
        let ip = taken.map_err(|used| NetError::Exhausted { cidr: cidr.into(), used })?;
        let ip6 = inner.pod_cidr6.and_then(|range| ipam::paired(range, ip));
        let (interface, bandwidth) = (interface_name(&pod.uid), pod.bandwidth);
        let per_packet = pod.per_packet.then_some(0);
        let net = PodNet { ip, ip6, interface, ends: None, bandwidth, per_packet };
        self.kept.change(|given| {
            given.last = Some(ip);
            given.pods.insert(pod.uid.clone(), net.clone());
        });
        Ok(net)
    }

    /// Makes the pod's link as it should be. A pair that is there already stays, and what is right already is not touched: an
    /// agent that starts again must not pull the plug of pods that run. Returns the hardware addresses of its ends.
    ///
    /// Of one that is only to be adjusted, a pair that is not there is not made.
    async fn plug(
        &self,
        net: &PodNet,
        pid: u32,
        mtu: Mtu,
        adjust: bool,
    ) -> Result<Option<[u8; 12]>, NetError> {
        let name = net.interface.as_str();
        let pod = netns::handle_in(&self.tasks, pid).await?;
        let (host_side, pod_side) = match self.pair(name, &pod).await? {
            Some(pair) => pair,
            None if adjust => return Ok(None),
            None => self.make_pair(name, &pod, pid, mtu).await?,
        };
        if net.ip6.is_some() {
            netns::prepare_ipv6(pid, POD_LINK).await?;
        }
        configure_pod_side(&pod, &pod_side, net, &host_side.mac, mtu).await?;
        let Bandwidth { ingress, egress } = net.bandwidth;
        bandwidth::limit(&self.handle, (host_side.index, name), ingress, mtu.link).await?;
        bandwidth::limit(&pod, (pod_side.index, POD_LINK), egress, mtu.link).await?;
        sysctl::prepare_link(name, net.ip6.is_some())?;
        if net.per_packet.is_some() {
            sysctl::accept_own(name)?;
        }
        let up = LinkUnspec::new_with_index(host_side.index).mtu(mtu.link).up().build();
        check(format!("bring up {name}"), self.handle.link().set(up).execute().await)?;
        for ip in addresses(net).all() {
            add_neighbour(&self.handle, host_side.index, ip, &pod_side.mac).await?;
            let range = IpNet::from(ip);
            let route = RouteMessageBuilder::<IpAddr>::new()
                .destination_prefix(range.network(), range.prefix_len())
                .map_err(|why| NetError::Io {
                    what: format!("route {ip} to {name}"),
                    source: std::io::Error::other(why.to_string()),
                })?;
            let route = route.output_interface(host_side.index).scope(RouteScope::Link).build();
            let done = self.handle.route().add(route).replace().execute().await;
            check(format!("route {ip} to {name}"), done)?;
        }
        Ok([pod_side.mac, host_side.mac].concat().try_into().ok())
    }

    /// The ends of the pair `name` on the node and `eth0` in the pod, where they are each other's.
    async fn pair(&self, name: &str, pod: &Handle) -> Result<Option<(Link, Link)>, NetError> {
        let ends = links::find(&self.handle, name).await?.zip(links::find(pod, POD_LINK).await?);
        Ok(ends.filter(|(host_side, pod_side)| host_side.is_paired_with(pod_side)))
    }

    /// A new pair, in place of whatever has its name.
    async fn make_pair(
        &self,
        name: &str,
        pod: &Handle,
        pid: u32,
        mtu: Mtu,
    ) -> Result<(Link, Link), NetError> {
        self.unplug(name).await?;
        // Made where it belongs: to move a link to another namespace, and to rename it, waits for all who may look at it.
        let end = LinkUnspec::new_with_name(POD_LINK).mtu(mtu.link).setns_by_pid(pid).build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(name, POD_LINK)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(end)))
            .mtu(mtu.link)
            .build();
        let made = self.handle.link().add(pair).execute().await;
        check(format!("create the link {name} with its end in the pod"), made)?;
        Ok((links::get(&self.handle, name).await?, links::get(pod, POD_LINK).await?))
    }

    /// Removes a link of ours; its peer, routes and neighbours go with it.
    async fn unplug(&self, name: &str) -> Result<(), NetError> {
        let Some(link) = links::find(&self.handle, name).await? else { return Ok(()) };
        check(format!("remove the link {name}"), self.handle.link().del(link.index).execute().await)
    }
}

#[async_trait]
impl PodNetwork for Network {
    async fn add(&self, pod: &PodNetRequest) -> Result<PodNetResult, NetError> {
        let mut net = self.claim(pod).await?;
        let mut mtu = {
            let mut inner = self.inner.lock().await;
            inner.holders.insert(pod.uid.clone(), pod.pid);
            inner.mtu
        };
        let ends = loop {
            let ends = self.plug(&net, pod.pid, mtu, false).await?;
            let now = self.inner.lock().await.mtu;
            // It may have changed while there was no link yet to be adjusted.
            if std::mem::replace(&mut mtu, now) == now {
                break ends;
            }
        };
        let per_packet = match net.per_packet {
            Some(_) => Some(netns::cookie_of(pod.pid).await?),
            None => None,
        };
        if (net.ends, net.per_packet) != (ends, per_packet) {
            (net.ends, net.per_packet) = (ends, per_packet);
            self.kept.change(|given| {
                if let Some(present) = given.pods.get_mut(&pod.uid) {
                    (present.ends, present.per_packet) = (ends, per_packet);
                }
            });
            self.kept.save().await?;
        }
        self.plugged.send_modify(|count| *count = count.wrapping_add(1));
        tracing::debug!(pod = %pod.name, namespace = %pod.namespace, ip = %addresses(&net), "pod network added");
        Ok(result(&net))
    }

    async fn remove(&self, uid: &str) -> Result<(), NetError> {
        let Some(net) = self.kept.look(|given| given.pods.get(uid).cloned()) else { return Ok(()) };
        self.unplug(&net.interface).await?;
        self.inner.lock().await.holders.remove(uid);
        self.kept.change(|given| given.pods.remove(uid));
        self.plugged.send_modify(|count| *count = count.wrapping_add(1));
        self.kept.save().await
    }
}

fn result(net: &PodNet) -> PodNetResult {
    // What goes straight into the pod's namespace would pass the queue by, in which it has to wait.
    let ends = net.ends.filter(|_| net.bandwidth.ingress.is_none());
    PodNetResult {
        ip: addresses(net),
        interface: net.interface.clone(),
        ends,
        per_packet: net.per_packet.filter(|cookie| *cookie != 0),
    }
}

fn addresses(net: &PodNet) -> DualIp {
    DualIp { v4: net.ip, v6: net.ip6 }
}

/// Whether a link of this name is the node's end of a pod's.
pub(super) fn is_interface_name(name: &str) -> bool {
    let is_hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix("oar").is_some_and(|digits| digits.len() == 10 && digits.bytes().all(is_hex))
}

/// `oar` and ten hexadecimal digits of the uid's hash: with the peer's prefix 14 of the 15 bytes that Linux allows.
fn interface_name(uid: &str) -> String {
    use std::fmt::Write as _;
    let mut name = String::from("oar");
    for byte in Sha256::digest(uid).iter().take(5) {
        let _ = write!(name, "{byte:02x}");
    }
    name
}

async fn configure_pod_side(
    pod: &Handle,
    link: &Link,
    net: &PodNet,
    gateway_mac: &[u8],
    mtu: Mtu,
) -> Result<(), NetError> {
    let loopback = LinkUnspec::new_with_name("lo").up().build();
    check("bring up lo in the pod".to_owned(), pod.link().set(loopback).execute().await)?;
    let ip = net.ip;
    let address = pod.address().add(link.index, IpAddr::V4(ip), 32).replace().execute().await;
    check(format!("give the pod its address {ip}"), address)?;
    let up = LinkUnspec::new_with_index(link.index).mtu(mtu.link).up().build();
    check(format!("bring up the pod's {POD_LINK}"), pod.link().set(up).execute().await)?;
    add_neighbour(pod, link.index, IpAddr::V4(GATEWAY), gateway_mac).await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(link.index)
        .scope(RouteScope::Link)
        .build();
    check("route to the pod's gateway".to_owned(), pod.route().add(gateway).replace().execute().await)?;
    let mut default =
        RouteMessageBuilder::<Ipv4Addr>::new().gateway(GATEWAY).output_interface(link.index).pref_source(ip);
    default.get_mut().attributes.extend(narrower(mtu.pods, mtu.link));
    let default = default.build();
    check("set the pod's default route".to_owned(), pod.route().add(default).replace().execute().await)?;
    let Some(ip6) = net.ip6 else { return Ok(()) };
    let address = pod.address().add(link.index, IpAddr::V6(ip6), 128).replace().execute().await;
    check(format!("give the pod its address {ip6}"), address)?;
    add_neighbour(pod, link.index, IpAddr::V6(GATEWAY6), gateway_mac).await?;
    // A link-local gateway needs no route of its own.
    let mut default = RouteMessageBuilder::<Ipv6Addr>::new().gateway(GATEWAY6).output_interface(link.index);
    default.get_mut().attributes.extend(narrower(mtu.pods.max(LEAST6), mtu.link));
    let done = pod.route().add(default.build()).replace().execute().await;
    check("set the pod's default route of IPv6".to_owned(), done)
}

/// What a route says of how long packets may be, where that is less than on its link.
fn narrower(mtu: u32, link: u32) -> Option<RouteAttribute> {
    (mtu < link).then(|| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]))
}

async fn add_neighbour(handle: &Handle, index: u32, ip: IpAddr, mac: &[u8]) -> Result<(), NetError> {
    let request = handle.neighbours().add(index, ip).link_layer_address(mac);
    let permanent = request.state(NeighbourState::Permanent).replace();
    check(format!("set the neighbour {ip}"), permanent.execute().await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_and_differ() {
        let names: BTreeSet<String> = (0..1000).map(|i| interface_name(&format!("uid-{i}"))).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|n| n.len() <= 13));
    }
}
