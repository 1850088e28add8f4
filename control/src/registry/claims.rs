//! What only one object of the cluster may have: a Service's addresses and ports, a node's range of pod addresses. Claimed in
//! the transaction that writes the object, freed in the one that ends it.
//!
//! A claim is a key of its own, so that neither two replicas nor two plans that run at once can give away the same.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use oarlock_api::catalogue::{Kind, NODES, SERVICES};
use oarlock_api::service::{self, Family};
use oarlock_api::status::{Cause, Status};
use serde_json::Value;

use super::services::{family_of, gives, ports};
use super::write::{ClaimOp, Claims};
use super::{Ranges, Registry};

/// Below which all claims are, and other keys, too: the leader's.
pub(super) const CLAIMS: &str = "/registry/claims/";
const ADDRESSES: &str = "/registry/claims/serviceips/";
const PORTS: &str = "/registry/claims/nodeports/";
const RANGES: &str = "/registry/claims/podcidrs/";

/// Whether a key is a claim that objects hold.
pub(super) fn is_claim(key: &str) -> bool {
    [ADDRESSES, PORTS, RANGES].iter().any(|prefix| key.starts_with(prefix))
}

/// Something that only one object may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    what: What,
    /// Just this one was asked for: another will not do.
    pub(super) requested: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The address, and all of the Service's as they are shown.
    ServiceIp(IpAddr, String),
    /// Port, protocol, and where it stands.
    NodePort(u16, String, PortField),
    PodCidr(IpNet),
}

/// Which field of a Service has a port of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PortField {
    /// `spec.ports[i].nodePort`.
    Of(usize),
    /// `spec.healthCheckNodePort`.
    HealthCheck,
}

impl What {
    pub(super) fn key(&self) -> String {
        match self {
            Self::ServiceIp(ip, _) => format!("{ADDRESSES}{ip}"),
            Self::NodePort(port, protocol, _) => format!("{PORTS}{port}/{protocol}"),
            Self::PodCidr(range) => format!("{RANGES}{range}"),
        }
    }
}

impl Claim {
    pub(super) fn what(&self) -> &What {
        &self.what
    }

    pub(super) fn key(&self) -> String {
        self.what.key()
    }

    /// What the user is told when it is taken.
    pub(super) fn refusal(&self, kind: &Kind, name: &str) -> Status {
        let why = match &self.what {
            What::ServiceIp(..) => "provided IP is already allocated",
            What::NodePort(..) => "provided port is already allocated",
            What::PodCidr(_) => "another node has this range: choose one that is free",
        };
        self.invalid(kind, name, why)
    }

    /// Why it cannot be had of these ranges at all, in upstream's words (its ipallocator and portallocator).
    pub(super) fn outside(&self, ranges: &Ranges) -> Option<String> {
        match &self.what {
            What::ServiceIp(ip, _) => {
                let family = Family::of(*ip);
                let range = ranges.services.iter().find(|range| family_of(range) == family)?;
                let text = "is not in the valid range. The range of valid IPs is";
                (!gives(range, ip)).then(|| format!("the provided IP ({ip}) {text} {range}"))
            }
            What::NodePort(port, ..) => {
                let (first, last) = ranges.node_ports;
                (!(first..=last).contains(port)).then(|| no_node_port(ranges))
            }
            What::PodCidr(_) => None,
        }
    }

    fn invalid(&self, kind: &Kind, name: &str, why: &str) -> Status {
        let (field, message) = match &self.what {
            What::ServiceIp(ip, all) => (
                "spec.clusterIPs".to_owned(),
                format!("Invalid value: {all}: failed to allocate IP {ip}: {why}"),
            ),
            What::NodePort(port, _, PortField::Of(index)) => {
                (format!("spec.ports[{index}].nodePort"), format!("Invalid value: {port}: {why}"))
            }
            What::NodePort(port, _, PortField::HealthCheck) => (
                "spec.healthCheckNodePort".to_owned(),
                format!(
                    "Invalid value: {port}: failed to allocate requested HealthCheck NodePort {port}: {why}"
                ),
            ),
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
        attempt: usize,
    ) -> Result<Claims, Status> {
        let picked =
            if *kind == SERVICES { self.complete_service(old, new, attempt)? } else { BTreeSet::new() };
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
        let mut keys = BTreeSet::new();
        for claim in taken {
            // A Service that wants one port for two things.
            if !keys.insert(claim.key()) {
                return Err(claim.refusal(kind, name));
            }
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
        let spec = &object["spec"];
        let shown = || spec["clusterIPs"].to_string();
        let ips =
            service::cluster_ips(spec).filter_map(|ip| Some(What::ServiceIp(ip.parse().ok()?, shown())));
        let number = |value: &Value| u16::try_from(value.as_u64()?).ok().filter(|n| *n != 0);
        let ports = ports(object).iter().enumerate().filter_map(|(index, port)| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            Some(What::NodePort(number(&port["nodePort"])?, protocol, PortField::Of(index)))
        });
        let check = number(&spec["healthCheckNodePort"])
            .map(|number| What::NodePort(number, "TCP".to_owned(), PortField::HealthCheck));
        ips.chain(ports).chain(check).collect()
    } else if *kind == NODES {
        let spec = &object["spec"];
        let listed = spec["podCIDRs"].as_array().into_iter().flatten().chain([&spec["podCIDR"]]);
        listed.filter_map(|range| range.as_str()?.parse().ok()).map(What::PodCidr).collect()
    } else {
        BTreeSet::new()
    };
    all.into_iter().map(|what| Claim { what, requested: true }).collect()
}
