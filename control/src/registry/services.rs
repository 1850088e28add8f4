//! Addresses and ports of Services: picked at random among the free ones, claimed in the transaction that writes the
//! Service, freed in the one that ends it. A claim is a key of its own, so that no two replicas can give away the same.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use oarlock_api::catalogue::{Kind, SERVICES};
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::Registry;
use super::write::{ClaimOp, Claims};

/// Something that only one Service may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    what: What,
    /// The user asked for just this one: another will not do.
    pub(super) requested: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Ip(Ipv4Addr),
    /// Port, protocol, index in `spec.ports`.
    NodePort(u16, String, usize),
}

impl Claim {
    pub(super) fn key(&self) -> String {
        match &self.what {
            What::Ip(ip) => format!("/registry/claims/serviceips/{ip}"),
            What::NodePort(port, protocol, _) => format!("/registry/claims/nodeports/{port}/{protocol}"),
        }
    }

    /// What the user is told when it is taken.
    pub(super) fn refusal(&self, kind: &Kind, name: &str) -> Status {
        let (field, message) = match &self.what {
            What::Ip(ip) => (
                "spec.clusterIPs".to_owned(),
                format!(
                    "Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: provided IP is already allocated"
                ),
            ),
            What::NodePort(port, _, index) => (
                format!("spec.ports[{index}].nodePort"),
                format!("Invalid value: {port}: provided port is already allocated"),
            ),
        };
        Status::invalid(kind, name, vec![Cause { reason: "FieldValueInvalid".to_owned(), message, field }])
    }
}

impl Registry {
    /// Completes a Service with what it needs, and says what has to be claimed and freed. Other kinds need nothing.
    pub(super) fn allocate(
        &self,
        kind: &Kind,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<Claims, Status> {
        if *kind != SERVICES {
            return Ok(Vec::new());
        }
        let before: BTreeSet<String> =
            old.map(|old| self.claims_of(kind, old)).into_iter().flatten().map(|claim| claim.key()).collect();
        release_ports(old, new);
        let mut picked = BTreeSet::new();
        self.pick_ip(old, new, &mut picked)?;
        self.pick_ports(old, new, &mut picked)?;
        let after = self.claims_of(kind, new);
        let mut ops: Claims = after
            .iter()
            .filter(|claim| !before.contains(&claim.key()))
            .map(|claim| {
                let requested = !picked.contains(&claim.key());
                ClaimOp::Take(Claim { requested, ..claim.clone() })
            })
            .collect();
        let kept: BTreeSet<String> = after.iter().map(Claim::key).collect();
        let old_claims = old.map(|old| self.claims_of(kind, old)).unwrap_or_default();
        ops.extend(old_claims.into_iter().filter(|claim| !kept.contains(&claim.key())).map(ClaimOp::Free));
        Ok(ops)
    }

    /// What an object holds.
    pub(super) fn claims_of(&self, kind: &Kind, object: &Value) -> Vec<Claim> {
        if *kind != SERVICES {
            return Vec::new();
        }
        let ip = cluster_ip(object).and_then(|ip| ip.parse().ok()).map(What::Ip);
        let ports = ports(object).iter().enumerate().filter_map(|(index, port)| {
            let number = u16::try_from(port["nodePort"].as_u64()?).ok().filter(|n| *n != 0)?;
            Some(What::NodePort(number, port["protocol"].as_str().unwrap_or("TCP").to_owned(), index))
        });
        let claims: BTreeSet<Claim> =
            ip.into_iter().chain(ports).map(|what| Claim { what, requested: true }).collect();
        claims.into_iter().collect()
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
                    picked.insert(Claim { what: What::Ip(ip), requested: false }.key());
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
        let old_ports: Vec<Value> = old.map(|old| ports(old).to_vec()).unwrap_or_default();
        let mut used = self.used_ports();
        let Some(list) = new["spec"]["ports"].as_array_mut() else { return Ok(()) };
        used.extend(list.iter().filter_map(|p| u16::try_from(p["nodePort"].as_u64()?).ok()));
        for port in list {
            if port["nodePort"].as_u64().is_some_and(|n| n != 0) {
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
            picked.insert(Claim { what: What::NodePort(number, protocol, 0), requested: false }.key());
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

fn cluster_ip(service: &Value) -> Option<&str> {
    service["spec"]["clusterIP"].as_str().filter(|ip| !ip.is_empty())
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}
