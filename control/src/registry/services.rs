//! Addresses and ports of Services, picked at random among the free ones. [`super::claims`] makes them theirs alone.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/service/storage.

mod families;
mod strategy;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use oarlock_api::catalogue::SERVICES;
use oarlock_api::meta;
use oarlock_api::service::{self, Family};
use oarlock_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::Registry;
use super::claims::{PortField, What, no_node_port};

/// What is picked for one Service.
struct Picker<'r> {
    registry: &'r Registry,
    /// The keys of the claims that were picked, not asked for.
    picked: BTreeSet<String>,
    /// Look at what others have. The first attempt does not: most numbers are free, and a clash of claims tells.
    look: bool,
}

impl Registry {
    /// Completes a Service with what it needs; returns the keys of the claims that were picked, not asked for.
    pub(super) fn complete_service(
        &self,
        old: Option<&Value>,
        new: &mut Value,
        attempt: usize,
    ) -> Result<BTreeSet<String>, Status> {
        if old.is_some_and(|old| old["spec"] == new["spec"]) {
            return Ok(BTreeSet::new());
        }
        strategy::apply(old, new);
        let configured: Vec<Family> = self.ranges.services.iter().map(family_of).collect();
        let name = meta::name(new).to_owned();
        families::complete(old, new, &configured)
            .map_err(|causes| Status::invalid(&SERVICES, &name, causes))?;
        let mut picker = Picker { registry: self, picked: BTreeSet::new(), look: attempt > 0 };
        picker.addresses(new)?;
        picker.ports(&name, new)?;
        picker.health_check(new)?;
        Ok(picker.picked)
    }

    fn services(&self) -> Vec<std::sync::Arc<Value>> {
        self.cache.list(&SERVICES, None).0.iter().map(|object| object.value()).collect()
    }

    fn free_ip(&self, range: &IpNet, look: bool) -> Result<IpAddr, Status> {
        let services = if look { self.services() } else { Vec::new() };
        let used: BTreeSet<IpAddr> = services
            .iter()
            .flat_map(|s| service::cluster_ips(&s["spec"]).filter_map(|ip| ip.parse().ok()))
            .collect();
        let (first, end) = usable(range);
        // The lowest addresses (a sixteenth, 16 to 256) are for those who ask for one by name, as KEP-3070 has it.
        let size = end.saturating_sub(first);
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        let free = |number: u128| !used.contains(&address(range, number));
        pick(first + reserved, end, free)
            .or_else(|| pick(first, first + reserved, free))
            .map(|number| address(range, number))
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn free_port(&self, used: &BTreeSet<u16>) -> Result<u16, Status> {
        let (first, last) = self.ranges.node_ports;
        // The lowest ports (86 of the default range) are for those who ask for one, as KEP-3668 has it.
        let size = u128::from(last - first) + 1;
        let reserved = (size / 32).clamp(0, 128).min(size / 2);
        let free = |port: u128| u16::try_from(port).is_ok_and(|p| !used.contains(&p));
        let (low, high) = (u128::from(first), u128::from(last) + 1);
        pick(low + reserved, high, free)
            .or_else(|| pick(low, low + reserved, free))
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }
}

impl Picker<'_> {
    fn addresses(&mut self, new: &mut Value) -> Result<(), Status> {
        if service::kind(&new["spec"]) == "ExternalName" || service::is_headless(&new["spec"]) {
            return Ok(());
        }
        let families = new["spec"]["ipFamilies"].as_array().cloned().unwrap_or_default();
        let mut ips = new["spec"]["clusterIPs"].as_array().cloned().unwrap_or_default();
        for family in families.iter().skip(ips.len()) {
            let family = family.as_str().and_then(Family::parse);
            let range = self.registry.ranges.services.iter().find(|range| Some(family_of(range)) == family);
            let Some(range) = range else { continue };
            let ip = self.registry.free_ip(range, self.look)?;
            self.picked.insert(What::ServiceIp(ip, String::new()).key());
            ips.push(json!(ip));
        }
        new["spec"]["clusterIP"] = ips.first().cloned().unwrap_or(Value::Null);
        new["spec"]["clusterIPs"] = json!(ips);
        Ok(())
    }

    fn ports(&mut self, name: &str, new: &mut Value) -> Result<(), Status> {
        if !matches!(service::kind(&new["spec"]), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let allocates = service::takes_node_ports(&new["spec"]);
        let mut used = self.used_ports(new);
        let Some(list) = new["spec"].get_mut("ports").and_then(Value::as_array_mut) else { return Ok(()) };
        for index in 0..list.len() {
            if let Some(number) = node_port(&list[index]) {
                if u16::try_from(number).is_err() {
                    let message = format!("Invalid value: {number}: {}", no_node_port(&self.registry.ranges));
                    let field = format!("spec.ports[{index}].nodePort");
                    let cause = Cause { reason: "FieldValueInvalid".to_owned(), message, field };
                    return Err(Status::invalid(&SERVICES, name, vec![cause]));
                }
                continue;
            }
            if !allocates {
                continue;
            }
            let number = match self.shared(list, index) {
                Some(number) => number,
                None => self.registry.free_port(&used)?,
            };
            used.insert(number);
            let protocol = list[index]["protocol"].as_str().unwrap_or("TCP").to_owned();
            self.picked.insert(What::NodePort(number, protocol, PortField::Of(index)).key());
            list[index]["nodePort"] = json!(number);
        }
        Ok(())
    }

    /// The number of another port that is the same but for its protocol: DNS has one NodePort for TCP and UDP.
    fn shared(&self, ports: &[Value], index: usize) -> Option<u16> {
        let port = &ports[index];
        let twin = |other: &&Value| {
            other["port"] == port["port"]
                && other["protocol"] != port["protocol"]
                && node_port(other).is_some()
        };
        // Somebody else may have it for this protocol: after a clash it gets its own.
        let number = ports.iter().filter(|_| !self.look).find(twin).and_then(node_port)?;
        let taken = |p: &Value| p["protocol"] == port["protocol"] && node_port(p) == Some(number);
        if ports.iter().any(taken) { None } else { u16::try_from(number).ok() }
    }

    fn health_check(&mut self, new: &mut Value) -> Result<(), Status> {
        let asked = new["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0);
        if asked != 0 || !service::needs_health_check(&new["spec"]) {
            return Ok(());
        }
        let used = self.used_ports(new);
        let number = self.registry.free_port(&used)?;
        self.picked.insert(What::NodePort(number, "TCP".to_owned(), PortField::HealthCheck).key());
        new["spec"]["healthCheckNodePort"] = json!(number);
        Ok(())
    }

    /// The numbers that are not to be picked: those of this Service, and those of others as far as one looks.
    fn used_ports(&self, new: &Value) -> BTreeSet<u16> {
        let others = if self.look { self.registry.services() } else { Vec::new() };
        others.iter().map(|o| &**o).chain([new]).flat_map(numbers).collect()
    }
}

/// All ports on nodes that a Service has.
fn numbers(service: &Value) -> impl Iterator<Item = u16> {
    let own = service["spec"]["healthCheckNodePort"].as_i64();
    let all = ports(service).iter().filter_map(node_port).chain(own);
    all.filter_map(|number| u16::try_from(number).ok())
}

fn node_port(port: &Value) -> Option<i64> {
    port["nodePort"].as_i64().filter(|number| *number != 0)
}

pub(super) fn family_of(range: &IpNet) -> Family {
    Family::of(range.network())
}

/// The numbers of a range's usable addresses: not the network's own, for IPv4 not the broadcast address either.
fn usable(range: &IpNet) -> (u128, u128) {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let (first, last) = (number(range.network()), number(range.broadcast()));
    (first + 1, if range.network().is_ipv4() { last } else { last.saturating_add(1) })
}

/// Whether a range has this address to give.
pub(super) fn gives(range: &IpNet, ip: &IpAddr) -> bool {
    range.contains(ip) && *ip != range.network() && !(ip.is_ipv4() && *ip == range.broadcast())
}

fn address(range: &IpNet, number: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// A free number of `first..end`: the first free one after a random start.
fn pick(first: u128, end: u128, is_free: impl Fn(u128) -> bool) -> Option<u128> {
    let size = end.checked_sub(first).filter(|s| *s > 0)?;
    let start = first + rand::random_range(0..size);
    (start..end).chain(first..start).find(|n| is_free(*n))
}

pub(super) fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}
