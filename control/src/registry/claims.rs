//! What only one object of the cluster may have: a Service's addresses and ports, a node's range of pod addresses. Claimed in
//! the transaction that writes the object, freed in the one that ends it.
//!
//! A claim is a key of its own, so that neither two replicas nor two plans that run at once can give away the same.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use oarlock_api::catalogue::{Kind, NODES, SERVICES};
use oarlock_api::status::{Cause, Status};
use serde_json::Value;

use super::services::{cluster_ip, health_check_port, ports};
use super::write::{ClaimOp, Claims};
use super::{Ranges, Registry};

/// Something that only one object may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    what: What,
    /// Just this one was asked for: another will not do.
    pub(super) requested: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    ServiceIp(Ipv4Addr),
    /// Port, protocol, index in `spec.ports`.
    NodePort(u16, String, usize),
    /// A port of every node, as a NodePort of TCP is.
    HealthCheckPort(u16),
    PodCidr(Ipv4Net),
}

impl What {
    pub(super) fn key(&self) -> String {
        match self {
            Self::ServiceIp(ip) => format!("/registry/claims/serviceips/{ip}"),
            Self::NodePort(port, protocol, _) => format!("/registry/claims/nodeports/{port}/{protocol}"),
            Self::HealthCheckPort(port) => format!("/registry/claims/nodeports/{port}/TCP"),
            Self::PodCidr(range) => format!("/registry/claims/podcidrs/{range}"),
        }
    }
}

impl Claim {
    pub(super) fn key(&self) -> String {
        self.what.key()
    }

    /// What the user is told when it is taken.
    pub(super) fn refusal(&self, kind: &Kind, name: &str) -> Status {
        let why = match &self.what {
            What::ServiceIp(_) => "provided IP is already allocated",
            What::NodePort(..) | What::HealthCheckPort(_) => "provided port is already allocated",
            What::PodCidr(_) => "another node has this range: choose one that is free",
        };
        self.invalid(kind, name, why)
    }

    /// Why it cannot be had of these ranges at all, in upstream's words (its ipallocator and portallocator).
    fn outside(&self, ranges: &Ranges) -> Option<String> {
        match &self.what {
            What::ServiceIp(ip) => {
                let range = ranges.services;
                let usable = range.contains(ip) && *ip != range.network() && *ip != range.broadcast();
                let text = "is not in the valid range. The range of valid IPs is";
                (!usable).then(|| format!("the provided IP ({ip}) {text} {range}"))
            }
            What::NodePort(port, ..) | What::HealthCheckPort(port) => {
                let (first, last) = ranges.node_ports;
                (!(first..=last).contains(port)).then(|| no_node_port(ranges))
            }
            What::PodCidr(_) => None,
        }
    }

    fn invalid(&self, kind: &Kind, name: &str, why: &str) -> Status {
        let (field, message) = match &self.what {
            What::ServiceIp(ip) => (
                "spec.clusterIPs".to_owned(),
                format!("Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: {why}"),
            ),
            What::NodePort(port, _, index) => {
                (format!("spec.ports[{index}].nodePort"), format!("Invalid value: {port}: {why}"))
            }
            What::HealthCheckPort(port) => {
                ("spec.healthCheckNodePort".to_owned(), format!("Invalid value: {port}: {why}"))
            }
            What::PodCidr(range) => ("spec.podCIDR".to_owned(), format!("Invalid value: \"{range}\": {why}")),
        };
        Status::invalid(kind, name, vec![Cause { reason: "FieldValueInvalid".to_owned(), message, field }])
    }
}

impl Registry {
    /// Completes an object with what it needs, and says what has to be claimed and freed. Most kinds need nothing.
    pub(super) fn allocate(
        &self,
        kind: &Kind,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<Claims, Status> {
        let picked = if *kind == SERVICES { self.complete_service(old, new)? } else { BTreeSet::new() };
        let before = old.map(|old| claims_of(kind, old)).unwrap_or_default();
        let held: BTreeSet<String> = before.iter().map(Claim::key).collect();
        let after = claims_of(kind, new);
        let kept: BTreeSet<String> = after.iter().map(Claim::key).collect();
        let taken = after.into_iter().filter(|claim| !held.contains(&claim.key())).map(|claim| {
            let requested = !picked.contains(&claim.key());
            ClaimOp::Take(Claim { requested, ..claim })
        });
        let freed = before.into_iter().filter(|claim| !kept.contains(&claim.key())).map(ClaimOp::Free);
        Ok(taken.chain(freed).collect())
    }

    /// Refuses what no range has. What an object has had since before the ranges changed, it keeps.
    pub(super) fn within_ranges(&self, kind: &Kind, name: &str, claims: &Claims) -> Result<(), Status> {
        let taken = claims.iter().filter_map(|op| match op {
            ClaimOp::Take(claim) => Some(claim),
            ClaimOp::Free(_) => None,
        });
        for claim in taken {
            if let Some(why) = claim.outside(&self.ranges) {
                return Err(claim.invalid(kind, name, &why));
            }
        }
        Ok(())
    }
}

/// Why a number is no NodePort of ours.
pub(super) fn no_node_port(ranges: &Ranges) -> String {
    let (first, last) = ranges.node_ports;
    format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
}

/// What an object holds.
pub(super) fn claims_of(kind: &Kind, object: &Value) -> Vec<Claim> {
    let all: BTreeSet<What> = if *kind == SERVICES {
        let ip = cluster_ip(object).and_then(|ip| ip.parse().ok()).map(What::ServiceIp);
        let ports = ports(object).iter().enumerate().filter_map(|(index, port)| {
            let number = u16::try_from(port["nodePort"].as_u64()?).ok().filter(|n| *n != 0)?;
            Some(What::NodePort(number, port["protocol"].as_str().unwrap_or("TCP").to_owned(), index))
        });
        let health_check = health_check_port(object).map(What::HealthCheckPort);
        ip.into_iter().chain(ports).chain(health_check).collect()
    } else if *kind == NODES {
        let range = object["spec"]["podCIDR"].as_str().and_then(|range| range.parse().ok());
        range.map(What::PodCidr).into_iter().collect()
    } else {
        BTreeSet::new()
    };
    all.into_iter().map(|what| Claim { what, requested: true }).collect()
}
