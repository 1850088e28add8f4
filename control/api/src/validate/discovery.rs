//! Endpoints and EndpointSlices: what ends in the maps of the dataplane must be an address and a port.

use std::net::IpAddr;

use serde_json::Value;

use super::{Errors, list, text};
use crate::meta as rules;
use crate::service::Family;

/// The most endpoints of one slice, and the most addresses of one endpoint.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;

pub(super) fn endpoints(errors: &mut Errors, object: &Value) {
    for (i, subset) in list(object, "subsets").iter().enumerate() {
        let path = format!("subsets[{i}]");
        let (ready, waiting) = (list(subset, "addresses"), list(subset, "notReadyAddresses"));
        if ready.is_empty() && waiting.is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", waiting)] {
            for (j, address) in addresses.iter().enumerate() {
                let path = format!("{path}.{field}[{j}]");
                address_of_endpoints(errors, &path, address);
            }
        }
        let ports = list(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            let path = format!("{path}.ports[{j}]");
            port_name(errors, &path, text(port, "name"), ports.len() > 1);
            errors.port(format!("{path}.port"), &port["port"]);
            errors.one_of(&format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        }
    }
}

fn address_of_endpoints(errors: &mut Errors, path: &str, address: &Value) {
    let ip = text(address, "ip");
    match ip.parse::<IpAddr>() {
        Ok(parsed) => usable(errors, &format!("{path}.ip"), parsed),
        Err(_) => {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("{path}.ip"), format!("{ip:?}"), why);
        }
    }
    host_and_node(errors, path, address);
}

pub(super) fn slice(errors: &mut Errors, object: &Value) {
    let kind = text(object, "addressType");
    match kind {
        "" => errors.required("addressType", ""),
        "IPv4" | "IPv6" => {}
        "FQDN" => errors.unsupported("addressType"),
        _ => errors.one_of("addressType", &object["addressType"], &["FQDN", "IPv4", "IPv6"]),
    }
    let endpoints = list(object, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        too_many(errors, "endpoints", endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let path = format!("endpoints[{i}]");
        let addresses = list(endpoint, "addresses");
        if addresses.is_empty() {
            errors.required(format!("{path}.addresses"), "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            too_many(errors, &format!("{path}.addresses"), addresses.len(), MAX_ADDRESSES);
        }
        let family = Family::parse(kind);
        for (j, address) in addresses.iter().enumerate().filter(|_| family.is_some()) {
            let path = format!("{path}.addresses[{j}]");
            match address.as_str().unwrap_or("").parse::<IpAddr>() {
                Ok(parsed) if Some(Family::of(parsed)) == family => usable(errors, &path, parsed),
                _ => errors.invalid(path, address, format!("must be a valid {kind} address")),
            }
        }
        for (j, zone) in list(&endpoint["hints"], "forZones").iter().enumerate() {
            let field = format!("{path}.hints.forZones[{j}].name");
            if text(zone, "name").is_empty() {
                errors.required(field, "");
            } else if let Err(why) = rules::check_label_value(text(zone, "name")) {
                errors.invalid(field, &zone["name"], why);
            }
        }
        host_and_node(errors, &path, endpoint);
    }
    let ports = list(object, "ports");
    for (i, port) in ports.iter().enumerate() {
        let path = format!("ports[{i}]");
        port_name(errors, &path, text(port, "name"), false);
        errors.one_of(&format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        if port.get("port").is_some_and(|p| !p.is_null()) {
            errors.port(format!("{path}.port"), &port["port"]);
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if ports[..i].iter().any(|other| text(other, "name") == text(port, "name")) {
            errors.duplicate(format!("ports[{i}].name"), &port["name"]);
        }
    }
}

pub(super) fn slice_update(errors: &mut Errors, old: &Value, new: &Value) {
    errors.immutable("addressType", &old["addressType"], &new["addressType"]);
}

fn too_many(errors: &mut Errors, field: &str, count: usize, most: usize) {
    let message = format!("Too many: {count}: must have at most {most} items");
    errors.push("FieldValueTooMany", field, message);
}

fn port_name(errors: &mut Errors, path: &str, name: &str, required: bool) {
    let path = format!("{path}.name");
    if name.is_empty() {
        if required {
            errors.required(path, "");
        }
    } else if let Err(why) = rules::check_dns1123_label(name) {
        errors.invalid(path, format!("{name:?}"), why);
    }
}

fn host_and_node(errors: &mut Errors, path: &str, value: &Value) {
    for (field, check) in [
        ("hostname", rules::check_dns1123_label as fn(&str) -> Result<(), String>),
        ("nodeName", rules::check_dns1123_subdomain),
    ] {
        let name = text(value, field);
        if let Some(why) = Some(name).filter(|n| !n.is_empty()).and_then(|n| check(n).err()) {
            errors.invalid(format!("{path}.{field}"), format!("{name:?}"), why);
        }
    }
}

/// Addresses that would lead traffic back into the node or to everybody (CVE-2021-25737).
pub(super) fn usable(errors: &mut Errors, field: &str, ip: IpAddr) {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xff02,
    };
    for (bad, why) in [
        (ip.is_unspecified(), "may not be unspecified (0.0.0.0 or ::)"),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (link_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        if bad {
            errors.invalid(field, format!("{:?}", ip.to_string()), why);
        }
    }
}
