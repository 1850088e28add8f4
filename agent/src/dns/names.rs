//! What the names of the cluster mean, after the specification of Kubernetes (github.com/kubernetes/dns,
//! docs/specification.md, 1.1.0). Pure: it takes snapshots over and answers from what it has found in them.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use oarlock_api::k8s::api::core::v1::{Service, ServicePort, ServiceSpec};
use oarlock_api::k8s::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::desired::{Key, Objects, Snapshot};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The version of the specification, as `dns-version.<zone>` says it.
const VERSION: &str = "1.1.0";

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    A,
    Aaaa,
    Srv,
    Ptr,
    Txt,
    /// Any other: a name may be there and have none.
    Other,
}

/// What a record says. Names are without the last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Srv { port: u16, target: String },
    Ptr(String),
    Txt(String),
    Cname(String),
}

impl Data {
    /// An address.
    fn at(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::A(ip),
            IpAddr::V6(ip) => Self::Aaaa(ip),
        }
    }
}

impl Kind {
    /// Whether an address is what is asked for.
    fn is_of(self, ip: IpAddr) -> bool {
        self == if ip.is_ipv4() { Self::A } else { Self::Aaaa }
    }
}

/// A name and what is said of it.
pub(crate) type Said = (String, Data);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name is there; with these records of the kind, and others that help.
    Found { answers: Vec<Said>, additionals: Vec<Said> },
    /// There is no such name.
    Missing,
    /// Not a name of the cluster: somebody else knows.
    Foreign,
    /// Nothing is known yet.
    Unknown,
}

impl Answer {
    fn of(name: &str, data: Vec<Data>) -> Self {
        let answers = data.into_iter().map(|data| (name.to_owned(), data)).collect();
        Self::Found { answers, additionals: Vec::new() }
    }

    /// A name that has these addresses, of which those of one family may be asked for.
    fn addresses(name: &str, ips: impl IntoIterator<Item = IpAddr>, kind: Kind) -> Self {
        Self::of(name, ips.into_iter().filter(|ip| kind.is_of(*ip)).map(Data::at).collect())
    }

    /// The name is there, but not with this kind of record.
    fn nothing() -> Self {
        Self::Found { answers: Vec::new(), additionals: Vec::new() }
    }
}

/// A Service's namespace and name.
type ServiceName = (String, String);

/// The names of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// The cluster's domain; empty before it is known.
    zone: String,
    /// Whether absence means anything.
    complete: bool,
    services: Objects<Service>,
    endpoint_slices: Objects<EndpointSlice>,
    slices: BTreeMap<ServiceName, BTreeMap<Key, Arc<EndpointSlice>>>,
    /// Whose ClusterIP an address is.
    cluster_ips: BTreeMap<IpAddr, BTreeSet<ServiceName>>,
    /// In which Services an address is an endpoint, and how often.
    endpoints: BTreeMap<IpAddr, BTreeMap<ServiceName, usize>>,
}

impl Names {
    /// Takes a snapshot over. What has not changed is not looked at.
    pub(crate) fn update(&mut self, zone: &str, snapshot: &Snapshot, complete: bool) {
        self.zone = zone.trim_end_matches('.').to_ascii_lowercase();
        self.complete = complete;
        let before = std::mem::replace(&mut self.services, snapshot.services.clone());
        let after = self.services.clone();
        for change in before.diff(&after) {
            let (key, [old, new]) = sides(change);
            for ip in old.into_iter().flat_map(|service| cluster_ips(service)) {
                let here = self.cluster_ips.entry(ip).or_default();
                here.remove(key);
                if here.is_empty() {
                    self.cluster_ips.remove(&ip);
                }
            }
            for ip in new.into_iter().flat_map(|service| cluster_ips(service)) {
                self.cluster_ips.entry(ip).or_default().insert(key.clone());
            }
        }
        let before = std::mem::replace(&mut self.endpoint_slices, snapshot.endpoint_slices.clone());
        let after = self.endpoint_slices.clone();
        for change in before.diff(&after) {
            let (key, [old, new]) = sides(change);
            if let Some((service, slice)) = old.and_then(|slice| Some((service_of(key, slice)?, slice))) {
                self.forget(&service, key, slice);
            }
            if let Some((service, slice)) = new.and_then(|slice| Some((service_of(key, slice)?, slice))) {
                for ip in slice.endpoints.iter().flat_map(addresses) {
                    *self.endpoints.entry(ip).or_default().entry(service.clone()).or_default() += 1;
                }
                self.slices.entry(service).or_default().insert(key.clone(), Arc::clone(slice));
            }
        }
    }

    fn forget(&mut self, service: &ServiceName, key: &Key, slice: &EndpointSlice) {
        for ip in slice.endpoints.iter().flat_map(addresses) {
            let Some(here) = self.endpoints.get_mut(&ip) else { continue };
            if let Some(times) = here.get_mut(service) {
                *times -= 1;
                if *times == 0 {
                    here.remove(service);
                }
            }
            if here.is_empty() {
                self.endpoints.remove(&ip);
            }
        }
        if let Some(slices) = self.slices.get_mut(service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(service);
            }
        }
    }

    /// The cluster's domain.
    pub(crate) fn zone(&self) -> &str {
        &self.zone
    }

    /// Answers a question. The name is in lower case and without the last dot.
    pub(crate) fn answer(&self, name: &str, kind: Kind) -> Answer {
        if name.ends_with(".in-addr.arpa") || name.ends_with(".ip6.arpa") {
            return reversed(name).map_or(Answer::Foreign, |ip| self.reverse(name, ip, kind));
        }
        let inside = match name.strip_suffix(&self.zone) {
            _ if self.zone.is_empty() => return Answer::Unknown,
            Some("") => return Answer::nothing(),
            Some(inside) => inside.strip_suffix('.'),
            None => None,
        };
        let Some(inside) = inside else { return Answer::Foreign };
        let mut labels: Vec<&str> = inside.split('.').collect();
        labels.reverse();
        match labels.as_slice() {
            ["dns-version"] if kind == Kind::Txt => Answer::of(name, vec![Data::Txt(VERSION.to_owned())]),
            ["dns-version" | "svc" | "pod"] => Answer::nothing(),
            _ if !self.complete => Answer::Unknown,
            ["svc", namespace] if self.has_namespace(namespace) => Answer::nothing(),
            ["pod", namespace] if self.has_namespace(namespace) => Answer::nothing(),
            ["pod", _, pod] => self.pod(name, pod, kind),
            ["svc", namespace, service, rest @ ..] => {
                let key = ((*namespace).to_owned(), (*service).to_owned());
                let Some(service) = self.services.get(&key) else { return Answer::Missing };
                self.service(name, &key, service.spec.as_ref(), rest, kind)
            }
            _ => Answer::Missing,
        }
    }

    /// Whether there is anything in a namespace that has a name.
    fn has_namespace(&self, namespace: &str) -> bool {
        let first = (namespace.to_owned(), String::new());
        self.services.range(first..).next().is_some_and(|((of, _), _)| of == namespace)
    }

    fn service(
        &self,
        name: &str,
        key: &ServiceName,
        spec: Option<&ServiceSpec>,
        rest: &[&str],
        kind: Kind,
    ) -> Answer {
        let Some(spec) = spec else { return Answer::Missing };
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
            let data = Data::Cname(target.to_ascii_lowercase());
            return if rest.is_empty() { Answer::of(name, vec![data]) } else { Answer::Missing };
        }
        let is_headless = spec.cluster_ip.as_deref().is_none_or(|ip| ip == "None" || ip.is_empty());
        match rest {
            [] if kind == Kind::Srv => self.srv(name, key, spec, is_headless, |_| true),
            [] if !is_headless => Answer::addresses(name, cluster_ips_of(spec), kind),
            [] => {
                let ready: BTreeSet<IpAddr> =
                    self.ready(key).flat_map(|(_, endpoint)| addresses(endpoint)).collect();
                if ready.is_empty() { Answer::Missing } else { Answer::addresses(name, ready, kind) }
            }
            [protocol @ ("_tcp" | "_udp" | "_sctp"), port @ ..] if port.len() <= 1 => {
                let of_port = |asked: &ServicePort| {
                    let is = asked.protocol.as_deref().unwrap_or("TCP").eq_ignore_ascii_case(&protocol[1..]);
                    let called = asked.name.as_deref().unwrap_or_default().to_ascii_lowercase();
                    is && !called.is_empty()
                        && port.first().is_none_or(|port| port.strip_prefix('_') == Some(called.as_str()))
                };
                if !spec.ports.iter().flatten().any(of_port) {
                    return Answer::Missing;
                }
                match (port, kind) {
                    ([_], Kind::Srv) => self.srv(name, key, spec, is_headless, of_port),
                    _ => Answer::nothing(),
                }
            }
            [endpoint] => {
                let ips: BTreeSet<IpAddr> = self
                    .ready(key)
                    .flat_map(|(_, one)| addresses(one).map(move |ip| (one, ip)))
                    .filter(|(one, ip)| host(one, *ip) == *endpoint)
                    .map(|(_, ip)| ip)
                    .collect();
                if ips.is_empty() { Answer::Missing } else { Answer::addresses(name, ips, kind) }
            }
            _ => Answer::Missing,
        }
    }

    /// Where ports are, and the addresses there.
    fn srv(
        &self,
        name: &str,
        key: &ServiceName,
        spec: &ServiceSpec,
        is_headless: bool,
        asked: impl Fn(&ServicePort) -> bool,
    ) -> Answer {
        let (mut answers, mut additionals) = (BTreeSet::new(), BTreeSet::new());
        let of_service = format!("{}.{}.svc.{}", key.1, key.0, self.zone);
        for port in spec.ports.iter().flatten().filter(|port| asked(port)) {
            if !is_headless {
                let number = u16::try_from(port.port).unwrap_or(0);
                answers.insert(Data::Srv { port: number, target: of_service.clone() });
                additionals.extend(cluster_ips_of(spec).map(|ip| (of_service.clone(), Data::at(ip))));
                continue;
            }
            for (slice, endpoint) in self.ready(key) {
                let of_slice = slice.ports.iter().flatten().find(|of_slice| {
                    of_slice.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                });
                let number = of_slice.and_then(|of_slice| u16::try_from(of_slice.port?).ok());
                let Some(number) = number else { continue };
                for ip in addresses(endpoint) {
                    let target = format!("{}.{of_service}", host(endpoint, ip));
                    additionals.insert((target.clone(), Data::at(ip)));
                    answers.insert(Data::Srv { port: number, target });
                }
            }
        }
        if answers.is_empty() && is_headless {
            return Answer::Missing;
        }
        let answers = answers.into_iter().map(|data| (name.to_owned(), data)).collect();
        Answer::Found { answers, additionals: additionals.into_iter().collect() }
    }

    /// A pod by its address: `10-244-1-5.<namespace>.pod.<zone>`, or `fd00-10-244-1--5`. Whether there is one, only its node knows.
    fn pod(&self, name: &str, pod: &str, kind: Kind) -> Answer {
        let (v4, v6) = (pod.replace('-', ".").parse::<Ipv4Addr>(), pod.replace('-', ":").parse::<Ipv6Addr>());
        match v4.map(IpAddr::V4).or(v6.map(IpAddr::V6)) {
            Ok(ip) => Answer::addresses(name, [ip], kind),
            Err(_) => Answer::Missing,
        }
    }

    fn reverse(&self, name: &str, ip: IpAddr, kind: Kind) -> Answer {
        if self.zone.is_empty() {
            return Answer::Unknown;
        }
        let services = self.cluster_ips.get(&ip).into_iter().flatten();
        let mut names: BTreeSet<String> =
            services.map(|(namespace, service)| format!("{service}.{namespace}.svc.{}", self.zone)).collect();
        for key in self.endpoints.get(&ip).into_iter().flat_map(BTreeMap::keys) {
            let named = self.ready(key).filter(|(_, endpoint)| addresses(endpoint).any(|other| other == ip));
            names.extend(named.map(|(_, endpoint)| {
                format!("{}.{}.{}.svc.{}", host(endpoint, ip), key.1, key.0, self.zone)
            }));
        }
        match kind {
            _ if names.is_empty() => Answer::Foreign,
            Kind::Ptr => Answer::of(name, names.into_iter().map(Data::Ptr).collect()),
            _ => Answer::nothing(),
        }
    }

    /// The endpoints of a Service that may be asked. Those of pods that are not ready say that they are, where the Service
    /// publishes them.
    fn ready(&self, key: &ServiceName) -> impl Iterator<Item = (&EndpointSlice, &Endpoint)> {
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        let endpoints =
            slices.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (&**slice, endpoint)));
        endpoints.filter(|(_, endpoint)| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        })
    }
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` is of (RFC 1035 3.5, RFC 3596 2.5).
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let labels: Vec<&str> = labels.split('.').rev().collect();
        return labels.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if digits.len() != 32 || digits.iter().any(|digit| digit.len() != 1) {
        return None;
    }
    u128::from_str_radix(&digits.concat(), 16).ok().map(|ip| IpAddr::V6(ip.into()))
}

/// An endpoint's label: its host name, or its address with dashes.
fn host(endpoint: &Endpoint, ip: IpAddr) -> String {
    match endpoint.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        Some(hostname) => hostname.to_ascii_lowercase(),
        None => ip.to_string().replace(['.', ':'], "-"),
    }
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + '_ {
    endpoint.addresses.iter().filter_map(|address| address.parse().ok())
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    service.spec.iter().flat_map(cluster_ips_of).collect()
}

fn cluster_ips_of(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> + '_ {
    let listed: BTreeSet<IpAddr> =
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
    listed.into_iter()
}

fn service_of((namespace, _): &Key, slice: &EndpointSlice) -> Option<ServiceName> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    matches!(slice.address_type.as_str(), "IPv4" | "IPv6").then(|| (namespace.clone(), service.clone()))
}

fn sides<'a, T>(change: DiffItem<'a, 'a, Key, Arc<T>>) -> (&'a Key, [Option<&'a Arc<T>>; 2]) {
    match change {
        DiffItem::Add(key, new) => (key, [None, Some(new)]),
        DiffItem::Update { old: (key, old), new: (_, new) } => (key, [Some(old), Some(new)]),
        DiffItem::Remove(key, old) => (key, [Some(old), None]),
    }
}
