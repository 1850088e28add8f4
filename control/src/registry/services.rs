//! Addresses and ports of Services, picked at random among the free ones. [`super::claims`] makes them theirs alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use oarlock_api::catalogue::SERVICES;
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
use oarlock_api::validate::{is_externally_accessible, needs_health_check};
use serde_json::{Value, json};

use super::Registry;
use super::claims::{What, no_node_port};

impl Registry {
    /// Completes a Service with what it needs; returns the keys of the claims that were picked, not asked for.
    pub(super) fn complete_service(
        &self,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<BTreeSet<String>, Status> {
        if let Some(old) = old {
            release(old, new);
        }
        if service_type(new) != "LoadBalancer" && new["status"].get("loadBalancer").is_some() {
            new["status"]["loadBalancer"] = json!({});
        }
        let mut picked = BTreeSet::new();
        self.pick_ip(old, new, &mut picked)?;
        self.pick_ports(old, new, &mut picked)?;
        self.pick_health_check_port(old, new, &mut picked)?;
        Ok(picked)
    }

    fn pick_ip(
        &self,
        old: Option<&Value>,
        new: &mut Value,
        picked: &mut BTreeSet<String>,
    ) -> Result<(), Status> {
        if service_type(new) == "ExternalName" || cluster_ip(new) == Some("None") {
            return Ok(());
        }
        if cluster_ip(new).is_none() {
            let kept = old.and_then(cluster_ip).filter(|ip| *ip != "None").map(str::to_owned);
            let ip = match kept {
                Some(ip) => ip,
                None => {
                    let ip = self.free_ip()?;
                    picked.insert(What::ServiceIp(ip).key());
                    ip.to_string()
                }
            };
            new["spec"]["clusterIP"] = json!(ip);
        }
        let ip = new["spec"]["clusterIP"].clone();
        new["spec"]["clusterIPs"] = json!([ip]);
        Ok(())
    }

    fn pick_ports(
        &self,
        old: Option<&Value>,
        new: &mut Value,
        picked: &mut BTreeSet<String>,
    ) -> Result<(), Status> {
        if !matches!(service_type(new), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let name = meta::name(new).to_owned();
        let allocates =
            service_type(new) == "NodePort" || new["spec"]["allocateLoadBalancerNodePorts"] != false;
        let old_ports: Vec<Value> = old.map(|old| ports(old).to_vec()).unwrap_or_default();
        let mut used = self.used_ports();
        let Some(list) = new["spec"]["ports"].as_array_mut() else { return Ok(()) };
        used.extend(list.iter().filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok()));
        for (index, port) in list.iter_mut().enumerate() {
            if let Some(number) = port["nodePort"].as_i64().filter(|n| *n != 0) {
                if u16::try_from(number).is_err() {
                    let message = format!("Invalid value: {number}: {}", no_node_port(&self.ranges));
                    let field = format!("spec.ports[{index}].nodePort");
                    let cause = Cause { reason: "FieldValueInvalid".to_owned(), message, field };
                    return Err(Status::invalid(&SERVICES, &name, vec![cause]));
                }
                continue;
            }
            // A port that had one keeps it, though the client did not repeat it.
            let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
            if let Some(kept) =
                old_ports.iter().find(same).and_then(|o| o["nodePort"].as_u64()).filter(|n| *n != 0)
            {
                port["nodePort"] = json!(kept);
                continue;
            }
            if !allocates {
                continue;
            }
            let number = self.free_port(&used)?;
            used.insert(number);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            picked.insert(What::NodePort(number, protocol, 0).key());
            port["nodePort"] = json!(number);
        }
        Ok(())
    }

    /// The port where load balancers ask this Service's nodes for endpoints; once picked it stays.
    fn pick_health_check_port(
        &self,
        old: Option<&Value>,
        new: &mut Value,
        picked: &mut BTreeSet<String>,
    ) -> Result<(), Status> {
        if !needs_health_check(&new["spec"]) || health_check_port(new).is_some() {
            return Ok(());
        }
        let kept = old.filter(|old| needs_health_check(&old["spec"])).and_then(health_check_port);
        let port = match kept {
            Some(port) => port,
            None => {
                let mut used = self.used_ports();
                used.extend(ports(new).iter().filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok()));
                let port = self.free_port(&used)?;
                picked.insert(What::HealthCheckPort(port).key());
                port
            }
        };
        new["spec"]["healthCheckNodePort"] = json!(port);
        Ok(())
    }

    fn services(&self) -> Vec<std::sync::Arc<Value>> {
        self.cache.list(&SERVICES, None).0.iter().map(|object| object.value()).collect()
    }

    fn free_ip(&self) -> Result<Ipv4Addr, Status> {
        let used: BTreeSet<Ipv4Addr> =
            self.services().iter().filter_map(|s| cluster_ip(s)?.parse().ok()).collect();
        let range = self.ranges.services;
        let (first, last) = (u32::from(range.network()) + 1, u32::from(range.broadcast()));
        // The lowest addresses (a sixteenth, 16 to 256) are for those who ask for one by name, as KEP-3070 has it.
        let size = last.saturating_sub(first);
        let reserved = (size / 16).clamp(16, 256).min(size / 2);
        pick(first + reserved, last, |ip| !used.contains(&Ipv4Addr::from(ip)))
            .or_else(|| pick(first, first + reserved, |ip| !used.contains(&Ipv4Addr::from(ip))))
            .map(Ipv4Addr::from)
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))
    }

    fn used_ports(&self) -> BTreeSet<u16> {
        let services = self.services();
        let all = services.iter().flat_map(|s| {
            let of_nodes = ports(s).iter().filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok());
            of_nodes.chain(health_check_port(s))
        });
        all.collect()
    }

    fn free_port(&self, used: &BTreeSet<u16>) -> Result<u16, Status> {
        let (first, last) = self.ranges.node_ports;
        // The lowest ports (86 of the default range) are for those who ask for one, as KEP-3668 has it.
        let size = u32::from(last - first) + 1;
        let reserved = (size / 32).clamp(0, 128).min(size / 2);
        let free = |port: u32| u16::try_from(port).is_ok_and(|p| !used.contains(&p));
        let (low, high) = (u32::from(first), u32::from(last) + 1);
        pick(low + reserved, high, free)
            .or_else(|| pick(low, low + reserved, free))
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }
}

/// A free number of `first..end`: the first free one after a random start.
fn pick(first: u32, end: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let size = end.checked_sub(first).filter(|s| *s > 0)?;
    let start = first + rand::random_range(0..size);
    (start..end).chain(first..start).find(|n| is_free(*n))
}

/// A Service of another type loses what the client merely repeated and the new type has not (upstream's
/// `dropTypeDependentFields`).
fn release(old: &Value, new: &mut Value) {
    let lost = |has: fn(&Value) -> bool, new: &Value| has(&old["spec"]) && !has(&new["spec"]);
    if lost(|spec| matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")), new)
        && let Some(list) = new["spec"]["ports"].as_array_mut()
    {
        for port in list {
            meta::map_of(port).shift_remove("nodePort");
        }
    }
    let is_balanced: fn(&Value) -> bool = |spec| spec["type"] == "LoadBalancer";
    for (field, has) in [
        ("healthCheckNodePort", needs_health_check as fn(&Value) -> bool),
        ("externalTrafficPolicy", is_externally_accessible),
        ("allocateLoadBalancerNodePorts", is_balanced),
        ("loadBalancerClass", is_balanced),
    ] {
        if lost(has, new) && old["spec"].get(field) == new["spec"].get(field) {
            meta::map_at(meta::map_of(new), "spec").shift_remove(field);
        }
    }
}

fn service_type(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

pub(super) fn cluster_ip(service: &Value) -> Option<&str> {
    service["spec"]["clusterIP"].as_str().filter(|ip| !ip.is_empty())
}

/// `spec.healthCheckNodePort`, if there is one.
pub(super) fn health_check_port(service: &Value) -> Option<u16> {
    u16::try_from(service["spec"]["healthCheckNodePort"].as_u64()?).ok().filter(|port| *port != 0)
}

pub(super) fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}
