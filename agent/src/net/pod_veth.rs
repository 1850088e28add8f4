//! Links of pods: a veth pair from the node's namespace into the pod's, with static neighbours on both sides.
//!
//! The pod sees `eth0` with its /32 address and a default route by the link-local gateway 169.254.1.1, which answers on
//! every pod's link alike, so that no address of the node is spent and no ARP is ever asked.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use async_trait::async_trait;
use ipnet::Ipv4Net;
use oarlock_daemon::Tasks;
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Mutex, watch};

use super::links::{self, Link};
use super::routes::{self, NodeRoute};
use super::state::{PodNet, State};
use super::{NetError, PodNetRequest, PodNetResult, PodNetwork, ipam, netns, sysctl};

/// The gateway of every pod: link-local, never seen outside the pair.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The pod's side of its link.
const POD_LINK: &str = "eth0";

/// The network of one node.
pub struct Network {
    tasks: Tasks,
    handle: Handle,
    uplink_mtu: u32,
    inner: Mutex<Inner>,
    plugged: watch::Sender<u64>,
}

struct Inner {
    state: State,
    pod_cidr: Option<Ipv4Net>,
}

impl Network {
    /// Opens the node's network: netlink in the present namespace, the state file under `data_dir`, forwarding switched on.
    ///
    /// # Errors
    /// No such uplink, a damaged state file, or missing privileges.
    pub async fn open(tasks: &Tasks, data_dir: &Path, uplink: &str) -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|source| NetError::Io { what: "open a netlink socket".to_owned(), source })?;
        tasks.job("netlink/node", connection);
        sysctl::prepare_node()?;
        let state = State::open(&data_dir.join("network.json"))?;
        let uplink_mtu = links::get(&handle, uplink).await?.mtu;
        Ok(Self {
            tasks: tasks.clone(),
            handle,
            uplink_mtu,
            inner: Mutex::new(Inner { state, pod_cidr: None }),
            plugged: watch::Sender::new(0),
        })
    }

    /// The range that new pods get their addresses from. Pods that have an address keep it.
    ///
    /// # Errors
    /// The kernel refuses the route that guards the range.
    pub async fn set_pod_cidr(&self, pod_cidr: Ipv4Net) -> Result<(), NetError> {
        let mut inner = self.inner.lock().await;
        if inner.pod_cidr != Some(pod_cidr) {
            routes::refuse_unused(&self.handle, pod_cidr).await?;
            inner.pod_cidr = Some(pod_cidr);
        }
        Ok(())
    }

    /// Makes the routes to other nodes' pods exactly these.
    ///
    /// # Errors
    /// The first route that the kernel refused, after all were tried.
    pub async fn set_node_routes(&self, wanted: &BTreeSet<NodeRoute>) -> Result<(), NetError> {
        routes::sync(&self.handle, wanted).await
    }

    /// Every pod that has a network, as (uid, what it got).
    pub async fn pods(&self) -> Vec<(String, PodNetResult)> {
        let inner = self.inner.lock().await;
        inner.state.given.pods.iter().map(|(uid, net)| (uid.clone(), result(net))).collect()
    }

    /// A bell that rings after a pod was given a network or has lost it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.plugged.subscribe()
    }

    async fn claim(&self, uid: &str) -> Result<PodNet, NetError> {
        let mut inner = self.inner.lock().await;
        if let Some(present) = inner.state.given.pods.get(uid) {
            return Ok(present.clone());
        }
        let cidr = inner.pod_cidr.ok_or(NetError::NoPodCidr)?;
        let given = &mut inner.state.given;
        let used: BTreeSet<Ipv4Addr> = given.pods.values().map(|p| p.ip).collect();
        let ip = ipam::pick(cidr, &used, given.last).ok_or(NetError::Exhausted { cidr, used: used.len() })?;
        let net = PodNet { ip, interface: interface_name(uid), ends: None };
        given.last = Some(ip);
        given.pods.insert(uid.to_owned(), net.clone());
        inner.state.save()?;
        Ok(net)
    }

    /// Makes the pod's link as it should be. A pair that is there already stays, and what is right already is not touched: an
    /// agent that starts again must not pull the plug of pods that run. Returns the hardware addresses of its ends.
    async fn plug(&self, net: &PodNet, pid: u32) -> Result<Option<[u8; 12]>, NetError> {
        let name = net.interface.as_str();
        let pod = netns::handle_in(&self.tasks, pid).await?;
        let (host_side, pod_side) = match self.pair(name, &pod).await? {
            Some(pair) => pair,
            None => self.make_pair(name, &pod, pid).await?,
        };
        configure_pod_side(&pod, &pod_side, net.ip, &host_side.mac, self.uplink_mtu).await?;
        sysctl::prepare_link(name)?;
        let up = LinkUnspec::new_with_index(host_side.index).up().build();
        check(format!("bring up {name}"), self.handle.link().set(up).execute().await)?;
        add_neighbour(&self.handle, host_side.index, net.ip, &pod_side.mac).await?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.ip, 32)
            .output_interface(host_side.index)
            .scope(RouteScope::Link)
            .build();
        check(
            format!("route {} to {name}", net.ip),
            self.handle.route().add(route).replace().execute().await,
        )?;
        Ok([pod_side.mac, host_side.mac].concat().try_into().ok())
    }

    /// The ends of the pair `name` on the node and `eth0` in the pod, where they are each other's.
    async fn pair(&self, name: &str, pod: &Handle) -> Result<Option<(Link, Link)>, NetError> {
        let ends = links::find(&self.handle, name).await?.zip(links::find(pod, POD_LINK).await?);
        Ok(ends.filter(|(host_side, pod_side)| host_side.is_paired_with(pod_side)))
    }

    /// A new pair, in place of whatever has its name.
    async fn make_pair(&self, name: &str, pod: &Handle, pid: u32) -> Result<(Link, Link), NetError> {
        self.unplug(name).await?;
        let peer = format!("p{name}");
        let pair = LinkVeth::new(name, &peer).mtu(self.uplink_mtu).build();
        check(format!("create the link {name}"), self.handle.link().add(pair).execute().await)?;
        let moved = LinkUnspec::new_with_name(&peer).setns_by_pid(pid).build();
        check(format!("move the link {peer} into the pod"), self.handle.link().set(moved).execute().await)?;
        let pod_side = links::get(pod, &peer).await?;
        let named = LinkUnspec::new_with_index(pod_side.index).name(POD_LINK).build();
        check(format!("name the pod's {POD_LINK}"), pod.link().set(named).execute().await)?;
        Ok((links::get(&self.handle, name).await?, pod_side))
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
        let mut net = self.claim(&pod.uid).await?;
        let ends = self.plug(&net, pod.pid).await?;
        if net.ends != ends {
            net.ends = ends;
            let mut inner = self.inner.lock().await;
            if let Some(present) = inner.state.given.pods.get_mut(&pod.uid) {
                present.ends = ends;
                inner.state.save()?;
            }
        }
        self.plugged.send_modify(|count| *count = count.wrapping_add(1));
        tracing::debug!(pod = %pod.name, namespace = %pod.namespace, ip = %net.ip, "pod network added");
        Ok(result(&net))
    }

    async fn remove(&self, uid: &str) -> Result<(), NetError> {
        let mut inner = self.inner.lock().await;
        let Some(net) = inner.state.given.pods.get(uid).cloned() else { return Ok(()) };
        self.unplug(&net.interface).await?;
        inner.state.given.pods.remove(uid);
        self.plugged.send_modify(|count| *count = count.wrapping_add(1));
        inner.state.save()
    }
}

fn result(net: &PodNet) -> PodNetResult {
    PodNetResult { ip: net.ip, interface: net.interface.clone(), ends: net.ends }
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
    ip: Ipv4Addr,
    gateway_mac: &[u8],
    mtu: u32,
) -> Result<(), NetError> {
    let loopback = LinkUnspec::new_with_name("lo").up().build();
    check("bring up lo in the pod".to_owned(), pod.link().set(loopback).execute().await)?;
    let address = pod.address().add(link.index, IpAddr::V4(ip), 32).replace().execute().await;
    check(format!("give the pod its address {ip}"), address)?;
    let up = LinkUnspec::new_with_index(link.index).mtu(mtu).up().build();
    check(format!("bring up the pod's {POD_LINK}"), pod.link().set(up).execute().await)?;
    add_neighbour(pod, link.index, GATEWAY, gateway_mac).await?;
    let gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(GATEWAY, 32)
        .output_interface(link.index)
        .scope(RouteScope::Link)
        .build();
    check("route to the pod's gateway".to_owned(), pod.route().add(gateway).replace().execute().await)?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(GATEWAY)
        .output_interface(link.index)
        .pref_source(ip)
        .build();
    check("set the pod's default route".to_owned(), pod.route().add(default).replace().execute().await)
}

async fn add_neighbour(handle: &Handle, index: u32, ip: Ipv4Addr, mac: &[u8]) -> Result<(), NetError> {
    let request = handle.neighbours().add(index, IpAddr::V4(ip)).link_layer_address(mac);
    let permanent = request.state(NeighbourState::Permanent).replace();
    check(format!("set the neighbour {ip}"), permanent.execute().await)
}

fn check<T>(what: String, outcome: Result<T, rtnetlink::Error>) -> Result<T, NetError> {
    outcome.map_err(|source| NetError::Netlink { what, source })
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
