//! Addresses and ports of Services, picked at random among the free ones. [`super::claims`] makes them theirs alone.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use oarlock_api::catalogue::SERVICES;
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
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
        release_ports(old, new);
        let mut picked = BTreeSet::new();
        self.pick_ip(old, new, &mut picked)?;
        self.pick_ports(old, new, &mut picked)?;
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
            let number = self.free_port(&used)?;
            used.insert(number);
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            picked.insert(What::NodePort(number, protocol, 0).key());
            port["nodePort"] = json!(number);
        }
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
        let all = services
            .iter()
            .flat_map(|s| ports(s).iter().filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok()));
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

/// A Service that no longer has ports on nodes loses the numbers that the client merely repeated.
fn release_ports(old: Option<&Value>, new: &mut Value) {
    let has_ports = |t: &str| matches!(t, "NodePort" | "LoadBalancer");
    let Some(old) = old else { return };
    if !has_ports(service_type(old)) || has_ports(service_type(new)) {
        return;
    }
    if let Some(list) = new["spec"]["ports"].as_array_mut() {
        for port in list {
            meta::map_of(port).shift_remove("nodePort");
        }
    }
}

fn service_type(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

pub(super) fn cluster_ip(service: &Value) -> Option<&str> {
    service["spec"]["clusterIP"].as_str().filter(|ip| !ip.is_empty())
}

pub(super) fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}
