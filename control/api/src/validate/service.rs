//! Services: their names, addresses and ports.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Errors, list, text};
use crate::meta as rules;

/// Ports that NodePorts may have by default: used only for the message; the registry knows the range that was configured.
const HEADLESS: &str = "None";

pub(super) fn check(errors: &mut Errors, spec: &Value) {
    let kind = text(spec, "type");
    errors.one_of("spec.type", &spec["type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    errors.one_of("spec.sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
    super::service_traffic::check(errors, spec, kind);
    let ip = text(spec, "clusterIP");
    if kind == "ExternalName" {
        let name = text(spec, "externalName");
        if name.is_empty() {
            errors.required("spec.externalName", "");
        } else if let Err(why) = rules::check_dns1123_subdomain(name.trim_end_matches('.')) {
            errors.invalid("spec.externalName", format!("{name:?}"), why);
        }
        return;
    }
    if !ip.is_empty() && ip != HEADLESS && ip.parse::<Ipv4Addr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.invalid("spec.clusterIPs[0]", format!("{ip:?}"), why);
    }
    if ip == HEADLESS && kind != "ClusterIP" {
        errors.invalid(
            "spec.clusterIPs[0]",
            "\"None\"",
            format!("may not be set to 'None' for {kind} services"),
        );
    }
    if list(spec, "ports").is_empty() && ip != HEADLESS {
        errors.required("spec.ports", "");
    }
    check_ports(errors, spec, kind);
    super::meta::labels(errors, "spec.selector", spec.get("selector"));
}

fn check_ports(errors: &mut Errors, spec: &Value, kind: &str) {
    let ports = list(spec, "ports");
    let mut seen = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = text(port, "name");
        if name.is_empty() && ports.len() > 1 {
            errors.required(format!("{path}.name"), "");
        } else if !name.is_empty()
            && let Err(why) = rules::check_dns1123_label(name)
        {
            errors.invalid(format!("{path}.name"), format!("{name:?}"), why);
        }
        errors.port(format!("{path}.port"), &port["port"]);
        errors.one_of(&format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        match &port["targetPort"] {
            Value::String(name) => super::pod::port_name(errors, &format!("{path}.targetPort"), name),
            number => errors.port(format!("{path}.targetPort"), number),
        }
        if port["protocol"] == "SCTP" {
            errors.unsupported(format!("{path}.protocol"));
        }
        let node_port = port["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0 {
            if kind == "ClusterIP" {
                errors.forbidden(format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !(1..=65535).contains(&node_port) {
                errors.invalid(
                    format!("{path}.nodePort"),
                    node_port,
                    "must be between 1 and 65535, inclusive",
                );
            }
            if !node_ports.insert((node_port, text(port, "protocol"))) {
                errors.duplicate(format!("{path}.nodePort"), node_port);
            }
        }
        if !seen.insert((port["port"].as_i64(), text(port, "protocol"))) {
            errors.duplicate(&path, json!({"port": port["port"], "protocol": port["protocol"]}));
        }
    }
    errors.unique(ports.iter().enumerate().map(|(i, p)| (format!("spec.ports[{i}].name"), text(p, "name"))));
}

pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    let (old_ip, new_ip) = (&old["spec"]["clusterIP"], &new["spec"]["clusterIP"]);
    let keeps = text(&old["spec"], "type") != "ExternalName" && text(&new["spec"], "type") != "ExternalName";
    if keeps && !text(&old["spec"], "clusterIP").is_empty() && old_ip != new_ip {
        errors.invalid("spec.clusterIPs[0]", json!([new_ip]), "may not change once set");
    }
    super::service_traffic::check_update(errors, old, new);
}
