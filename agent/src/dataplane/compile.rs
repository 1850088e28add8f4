//! From Services and EndpointSlices, and the `hostPort`s of the node's pods, to frontends and their backends. Pure.

mod endpoints;
mod host_ports;
mod maglev;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use ipnet::{IpNet, Ipv4Net};
use oarlock_api::k8s::api::core::v1::{Node, Pod, Service, ServicePort, ServiceSpec};
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use oarlock_api::service::{ALGORITHM, Family};
use sha2::{Digest as _, Sha256};

use super::{Door, PodLink};
use crate::desired::{Key, Objects, Snapshot};
use crate::dual_ip::DualIp;
use endpoints::Endpoints;

/// A backend: address and port.
pub(super) type Peer = (IpAddr, u16);

/// Each frontend and who answers there.
pub type Frontends = BTreeMap<Door, Frontend>;

/// Who answers at an address and port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontend {
    /// The backends of clients on this node, sorted. None: they are refused.
    pub inside: Vec<(IpAddr, u16)>,
    /// The backends of clients outside, sorted; with [`Algorithm::Maglev`] the one of each slot.
    pub outside: Vec<(IpAddr, u16)>,
    /// A number of the Service's port, the same in every agent.
    pub service: u64,
    /// Its name.
    pub name: Arc<PortName>,
    /// Session affinity by client: its timeout in seconds; 0 without.
    pub affinity: u32,
    /// How a backend is chosen.
    pub algorithm: Algorithm,
    /// Whether clients outside are answered.
    pub external: bool,
    /// Of clients outside only those in these ranges; all where there is none.
    pub ranges: Vec<IpNet>,
}

/// How a backend is chosen for a connection: the Service's annotation `dataplane.oarlock.io/algorithm`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// For clients outside by a hash of their address and port, on every node the same one, so that a router may send a connection to
    /// another node and it goes on; for those inside in turn.
    Maglev,
}

impl Algorithm {
    fn of(service: &Service) -> Self {
        let wanted = service.metadata.annotations.as_ref().and_then(|all| all.get(ALGORITHM));
        match wanted.map(String::as_str) {
            Some("random") => Self::Random,
            Some("maglev") => Self::Maglev,
            _ => Self::RoundRobin,
        }
    }
}

/// The name of a Service's port.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name; `pod/` and a pod's name of a `hostPort`.
    pub service: String,
    /// The port's name, or its number where it has none.
    pub port: String,
}

impl PortName {
    fn of(service: &Service, port: &ServicePort) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let named = port.name.clone().filter(|name| !name.is_empty());
        Self {
            namespace: text(&service.metadata.namespace),
            service: text(&service.metadata.name),
            port: named.unwrap_or_else(|| port.port.to_string()),
        }
    }
}

impl PortName {
    /// Of a pod's `hostPort`.
    fn of_pod(pod: &Pod, number: u16) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let service = format!("pod/{}", text(&pod.metadata.name));
        Self { namespace: text(&pod.metadata.namespace), service, port: number.to_string() }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.service, self.port)
    }
}

/// Which node it is that answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) name: &'a str,
    /// Where NodePorts are answered.
    pub(super) ips: &'a BTreeSet<IpAddr>,
    /// Whether anything is answered at addresses of IPv6: the node has one itself.
    pub(super) has_ipv6: bool,
    /// `topology.kubernetes.io/zone`, where the node says it.
    pub(super) zone: Option<&'a str>,
}

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// Where NodePorts are answered for the node's own processes.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const UNSPECIFIED: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

/// A Service's namespace and name.
type ServiceName = (String, String);

/// The addresses of the pods of this node that are plugged, by uid.
pub(super) type PodAddresses = BTreeMap<String, DualIp>;

/// Whose a frontend is. Where several want one, the first has it: a NodePort is its Service's, as kube-proxy's rules come first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Service(ServiceName),
    /// By namespace and name.
    Pod(Key),
}

/// What the Services of a snapshot are for this node's kernel. Remembers the last one: of ten thousand Services one change costs
/// one, and the others are not even looked at.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    name: String,
    /// The node's own addresses, as it was told them.
    own: Vec<IpAddr>,
    /// All addresses of the node, once it was seen.
    ips: BTreeSet<IpAddr>,
    zone: Option<String>,
    services: Objects<Service>,
    endpoint_slices: Objects<EndpointSlice>,
    /// The slices of each Service, in the order of their names.
    slices: BTreeMap<ServiceName, BTreeMap<Key, Arc<EndpointSlice>>>,
    pods: Objects<Pod>,
    pod_addresses: PodAddresses,
    /// Where each owner answers.
    keys: BTreeMap<Owner, BTreeSet<Door>>,
    /// Each frontend of each owner that wants it; the first has it.
    frontends: BTreeMap<Door, BTreeMap<Owner, Frontend>>,
}

impl Compiler {
    /// For a node.
    pub(super) fn new(name: &str, ip: DualIp) -> Self {
        Self { name: name.to_owned(), own: ip.all().collect(), ..Self::default() }
    }

    /// Takes a snapshot and the addresses of this node's pods over; the frontends that may have changed.
    pub(super) fn update(&mut self, snapshot: &Snapshot, pods: &PodAddresses) -> BTreeSet<Door> {
        let own = snapshot.nodes.get(&(String::new(), self.name.clone()));
        let zone = own.and_then(|node| zone(node)).map(str::to_owned);
        // A Node that is gone takes none of its addresses with it.
        let ips: BTreeSet<IpAddr> = own
            .map_or_else(|| self.ips.clone(), |node| addresses(node).collect())
            .into_iter()
            .chain(self.own.iter().copied())
            .collect();
        let moved = zone != self.zone || ips != self.ips;
        (self.zone, self.ips) = (zone, ips);
        let mut touched = self.take_over(snapshot);
        if moved {
            touched.extend(snapshot.services.keys().cloned());
        }
        let mut keys: BTreeSet<Door> = touched.into_iter().flat_map(|name| self.compile(name)).collect();
        if moved || !self.pods.ptr_eq(&snapshot.pods) || self.pod_addresses != *pods {
            self.pods = snapshot.pods.clone();
            self.pod_addresses.clone_from(pods);
            keys.extend(self.compile_host_ports());
        }
        keys
    }

    /// The `hostPort`s of all pods anew: a node has hundreds of pods at most, and few of them any. The frontends that change.
    fn compile_host_ports(&mut self) -> BTreeSet<Door> {
        let mut compiled = BTreeMap::new();
        for (key, pod) in &self.pods {
            let ip = pod.metadata.uid.as_ref().and_then(|uid| self.pod_addresses.get(uid));
            let frontends = ip.map(|ip| host_ports::frontends(pod, *ip, &self.ips)).unwrap_or_default();
            if !frontends.is_empty() {
                compiled.insert(Owner::Pod(key.clone()), frontends);
            }
        }
        let had: Vec<Owner> = self.keys.range(Owner::Pod(Key::default())..).map(|(o, _)| o.clone()).collect();
        for owner in had {
            compiled.entry(owner).or_default();
        }
        compiled.into_iter().flat_map(|(owner, frontends)| self.replace(owner, frontends)).collect()
    }

    /// Which Services have changed, or slices of theirs.
    fn take_over(&mut self, snapshot: &Snapshot) -> BTreeSet<ServiceName> {
        let services = std::mem::replace(&mut self.services, snapshot.services.clone());
        let mut touched: BTreeSet<ServiceName> =
            services.diff(&self.services).map(|change| changed(change).0.clone()).collect();
        let before = std::mem::replace(&mut self.endpoint_slices, snapshot.endpoint_slices.clone());
        for change in before.diff(&self.endpoint_slices) {
            let (key, [old, new]) = changed(change);
            if let Some(service) = old.and_then(|slice| service_of(key, slice)) {
                if let Some(slices) = self.slices.get_mut(&service) {
                    slices.remove(key);
                    if slices.is_empty() {
                        self.slices.remove(&service);
                    }
                }
                touched.insert(service);
            }
            if let Some((service, slice)) = new.and_then(|slice| Some((service_of(key, slice)?, slice))) {
                self.slices.entry(service.clone()).or_default().insert(key.clone(), Arc::clone(slice));
                touched.insert(service);
            }
        }
        touched
    }

    /// One Service anew; the frontends that it has had and has.
    fn compile(&mut self, name: ServiceName) -> BTreeSet<Door> {
        let compiled = self.services.get(&name).map(|service| {
            let slices: Vec<&Arc<EndpointSlice>> =
                self.slices.get(&name).into_iter().flat_map(BTreeMap::values).collect();
            let has_ipv6 = self.own.iter().any(IpAddr::is_ipv6);
            let place = Place { name: &self.name, ips: &self.ips, has_ipv6, zone: self.zone.as_deref() };
            compile(service, &slices, place)
        });
        self.replace(Owner::Service(name), compiled.unwrap_or_default())
    }

    /// What an owner wants now instead of what it wanted; the frontends of both.
    fn replace(&mut self, owner: Owner, wanted: Frontends) -> BTreeSet<Door> {
        let mut all = self.keys.remove(&owner).unwrap_or_default();
        for key in &all {
            if let Some(wanting) = self.frontends.get_mut(key) {
                wanting.remove(&owner);
                if wanting.is_empty() {
                    self.frontends.remove(key);
                }
            }
        }
        if wanted.is_empty() {
            return all;
        }
        let keys: BTreeSet<Door> = wanted.keys().copied().collect();
        for (key, frontend) in wanted {
            self.frontends.entry(key).or_default().insert(owner.clone(), frontend);
        }
        all.extend(&keys);
        self.keys.insert(owner, keys);
        all
    }

    /// Who answers at a frontend, if anybody has it.
    pub(super) fn frontend(&self, key: &Door) -> Option<&Frontend> {
        self.frontends.get(key)?.values().next()
    }
}

/// The addresses of pods by uid.
pub(super) fn by_uid(pods: &BTreeMap<Ipv4Addr, PodLink>) -> PodAddresses {
    pods.iter().map(|(ip, link)| (link.uid.clone(), DualIp { v4: *ip, v6: link.ip6 })).collect()
}

/// The addresses of all nodes.
pub(super) fn nodes(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let addresses =
        snapshot.nodes.values().filter_map(|node| node.status.as_ref()?.addresses.as_ref()).flatten();
    addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
}

/// The addresses that nodes have in tunnels, whoever has one: the first of their pods' ranges (docs/decisions/0016).
pub(super) fn inside(snapshot: &Snapshot) -> impl Iterator<Item = Ipv4Addr> {
    let ranges = snapshot.nodes.values().filter_map(|node| node.spec.as_ref()?.pod_cidr.as_ref());
    ranges.filter_map(|range| Some(range.parse::<Ipv4Net>().ok()?.network()))
}

/// What changed, and what it was before and is now.
fn changed<'a, T>(change: DiffItem<'a, 'a, Key, Arc<T>>) -> (&'a Key, [Option<&'a Arc<T>>; 2]) {
    match change {
        DiffItem::Add(key, new) => (key, [None, Some(new)]),
        DiffItem::Update { old: (key, old), new: (_, new) } => (key, [Some(old), Some(new)]),
        DiffItem::Remove(key, old) => (key, [Some(old), None]),
    }
}

/// The Service that a slice of addresses is of.
fn service_of((namespace, _): &Key, slice: &EndpointSlice) -> Option<ServiceName> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Family::parse(&slice.address_type).map(|_| (namespace.clone(), service.clone()))
}

type Slices<'s> = BTreeMap<ServiceName, Vec<&'s Arc<EndpointSlice>>>;

/// The slices of each Service.
fn slices(snapshot: &Snapshot) -> Slices<'_> {
    let mut slices = Slices::new();
    for (key, slice) in &snapshot.endpoint_slices {
        if let Some(service) = service_of(key, slice) {
            slices.entry(service).or_default().push(slice);
        }
    }
    slices
}

/// The addresses at which a node is reached, inside and outside.
fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    let listed = node.status.iter().filter_map(|status| status.addresses.as_ref()).flatten();
    let reached = listed.filter(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP"));
    reached.filter_map(|a| a.address.parse().ok())
}

fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).map(String::as_str)
}

/// One Service.
fn compile(service: &Service, slices: &[&Arc<EndpointSlice>], place: Place<'_>) -> Frontends {
    let mut frontends = Frontends::new();
    // Who has no address in the cluster has none at all, whatever else is written there (as in kube-proxy).
    let Some(spec) = service.spec.as_ref().filter(|spec| has_address(spec)) else { return frontends };
    let ips = cluster_ips(spec);
    let families = if place.has_ipv6 { &[Family::V4, Family::V6][..] } else { &[Family::V4] };
    for family in families.iter().copied() {
        // Nor has it any of a family of which it has none in the cluster.
        if ips.iter().any(|ip| Family::of(*ip) == family) {
            let slices = slices.iter().copied().filter(|slice| slice.address_type == family.name()).collect();
            let one = OneFamily { service, spec, slices, place, family };
            one.compile(&ips, &mut frontends);
        }
    }
    frontends
}

/// A Service with its addresses of one family.
struct OneFamily<'a> {
    service: &'a Service,
    spec: &'a ServiceSpec,
    slices: Vec<&'a Arc<EndpointSlice>>,
    place: Place<'a>,
    family: Family,
}

impl OneFamily<'_> {
    fn compile(&self, cluster_ips: &[IpAddr], frontends: &mut Frontends) {
        let Self { service, spec, place, family, .. } = *self;
        for port in spec.ports.iter().flatten() {
            let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
            let endpoints = Endpoints::of(port, &self.slices);
            let common = Frontend {
                service: number(service, port),
                name: Arc::new(PortName::of(service, port)),
                affinity: affinity(spec),
                algorithm: Algorithm::of(service),
                ..Frontend::default()
            };
            let mut add = |ip: IpAddr, number: i32, frontend: &Frontend| {
                let number = u16::try_from(number).ok().filter(|n| *n != 0);
                if let Some(number) = number.filter(|_| Family::of(ip) == family) {
                    frontends.entry(Door::new(ip, number, protocol)).or_insert_with(|| frontend.clone());
                }
            };
            let cluster = endpoints.of_cluster(place);
            let local = endpoints.of_node(place);
            let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
            let inside = if is_local(&spec.internal_traffic_policy) { &local } else { &cluster };
            let internal = Frontend { inside: inside.clone(), outside: inside.clone(), ..common.clone() };
            for ip in cluster_ips {
                add(*ip, port.port, &internal);
            }
            let outside = if is_local(&spec.external_traffic_policy) { &local } else { &cluster };
            let outside = match common.algorithm {
                Algorithm::Maglev => &maglev::table(outside),
                Algorithm::RoundRobin | Algorithm::Random => outside,
            };
            // Clients of the node itself are answered by all, whatever the policy (KEP-1669's "short cut" of kube-proxy).
            let external =
                Frontend { inside: cluster.clone(), outside: outside.clone(), external: true, ..common };
            if let Some(node_port) = port.node_port {
                for ip in place.ips {
                    add(*ip, node_port, &external);
                }
                let outside = external.inside.clone();
                let own = Frontend { external: false, outside, ..external.clone() };
                for ip in LOOPBACK {
                    add(ip, node_port, &own);
                }
            }
            for ip in spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()) {
                add(ip, port.port, &external);
            }
            let balanced = Frontend { ranges: source_ranges(spec, family), ..external };
            for ip in ingress_ips(service) {
                add(ip, port.port, &balanced);
            }
        }
    }
}

fn protocol(name: Option<&str>) -> Option<u8> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(6),
        "UDP" => Some(17),
        _ => None,
    }
}

fn has_address(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() != Some("ExternalName")
        && !matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// The addresses of the Service in the cluster.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten();
    let mut ips: Vec<IpAddr> = listed.chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    ips
}

/// The addresses of the load balancer that leaves packets as they are (KEP-1860: with `Proxy` it has to be asked itself).
fn ingress_ips(service: &Service) -> Vec<IpAddr> {
    let is_balanced = service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer"));
    let status = service.status.as_ref().filter(|_| is_balanced);
    let ingress = status.and_then(|s| s.load_balancer.as_ref()?.ingress.as_ref());
    ingress
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| i.ip.as_ref()?.parse().ok())
        .collect()
}

/// Who of a family may ask the load balancer's addresses, sorted; nothing said lets everybody. Where only ranges of the other family
/// are listed nobody of this one may: the unspecified address is nobody's.
fn source_ranges(spec: &ServiceSpec, family: Family) -> Vec<IpNet> {
    let listed = spec.load_balancer_source_ranges.iter().flatten();
    let all: BTreeSet<IpNet> =
        listed.filter_map(|range| range.trim().parse::<IpNet>().ok()).map(|net| net.trunc()).collect();
    let none = if family == Family::V4 { UNSPECIFIED[0] } else { UNSPECIFIED[1] };
    let ranges: Vec<IpNet> =
        all.iter().filter(|range| Family::of(range.network()) == family).copied().collect();
    if ranges.is_empty() && !all.is_empty() { vec![none.into()] } else { ranges }
}

fn affinity(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
    u32::try_from(seconds).unwrap_or(0)
}

/// The number of a Service's port: stable over restarts, and not met by chance.
fn number(service: &Service, port: &ServicePort) -> u64 {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &service.metadata;
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let name = format!(
        "{}/{}:{}/{}/{protocol}",
        text(&meta.namespace),
        text(&meta.name),
        text(&port.name),
        port.port
    );
    hash(&name)
}

/// Eight bytes of a digest.
fn hash(text: &str) -> u64 {
    let hash = Sha256::digest(text);
    u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]])
}

/// What answers for load balancers that ask which nodes have endpoints (`healthCheckNodePort`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// How many ready endpoints are on this node.
    pub local_endpoints: usize,
}

/// The health checks of this node, by port.
#[must_use]
pub fn health_checks(snapshot: &Snapshot, node: &str) -> BTreeMap<u16, HealthCheck> {
    let slices = slices(snapshot);
    let mut checks = BTreeMap::new();
    for (key, service) in &snapshot.services {
        let spec = service.spec.as_ref();
        let port = spec.and_then(|s| u16::try_from(s.health_check_node_port?).ok()).filter(|port| *port != 0);
        let Some(port) = port else { continue };
        let slices = slices.get(key).map_or(&[][..], Vec::as_slice);
        let local_endpoints = endpoints::ready_on(slices, node);
        let (namespace, name) = key.clone();
        checks.insert(port, HealthCheck { namespace, name, local_endpoints });
    }
    checks
}
