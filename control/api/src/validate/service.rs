//! Services: what Kubernetes refuses, in its words.
//!
//! Source: k8s.io/kubernetes/pkg/apis/core/validation (ValidateService, ValidateServiceUpdate, ValidateLoadBalancerStatus).

mod addresses;
mod traffic;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Errors, list, text};
use crate::meta as rules;
use crate::service;

pub(super) use addresses::check as cluster_ips;
pub(super) use traffic::check_status;

/// The port of the node agent in Kubernetes: no load balancer may lead to it.
const KUBELET_PORT: i64 = 10250;
const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn check(errors: &mut Errors, object: &Value) {
    let spec = &object["spec"];
    let kind = text(spec, "type");
    let headless = service::is_headless(spec);
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        errors.required("spec.ports", "");
    }
    check_type(errors, spec, kind, headless);
    check_ports(errors, spec, kind);
    super::meta::labels(errors, "spec.selector", spec.get("selector"));
    traffic::affinity(errors, spec);
    addresses::check(errors, spec);
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        let field = format!("spec.externalIPs[{i}]");
        match ip.as_str().unwrap_or("").parse::<IpAddr>() {
            Ok(parsed) => super::discovery::usable(errors, &field, parsed),
            Err(_) => errors.invalid(field, ip, NO_IP),
        }
    }
    errors.one_of("spec.type", &spec["type"], &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    traffic::balancer(errors, object, kind);
    traffic::policies(errors, spec, kind);
    let algorithm = &object["metadata"]["annotations"][service::ALGORITHM];
    if !algorithm.is_null() {
        let field = format!("metadata.annotations[{}]", service::ALGORITHM);
        errors.one_of(&field, algorithm, &["maglev", "random", "round-robin"]);
    }
}

fn check_type(errors: &mut Errors, spec: &Value, kind: &str, headless: bool) {
    match kind {
        "LoadBalancer" | "NodePort" => {
            for (i, port) in list(spec, "ports").iter().enumerate() {
                if kind == "LoadBalancer" && port["port"] == KUBELET_PORT {
                    let why =
                        format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                    errors.invalid(format!("spec.ports[{i}]"), KUBELET_PORT, why);
                }
            }
            if headless {
                let why = format!("may not be set to 'None' for {kind} services");
                errors.invalid("spec.clusterIPs[0]", "\"None\"", why);
            }
        }
        "ExternalName" => {
            let why = "may not be set for ExternalName services";
            for field in ["clusterIPs", "ipFamilies"] {
                if !list(spec, field).is_empty() {
                    errors.forbidden(format!("spec.{field}"), why);
                }
            }
            if spec["ipFamilyPolicy"].is_string() {
                errors.forbidden("spec.ipFamilyPolicy", why);
            }
            let name = text(spec, "externalName");
            if name.is_empty() || name == "." {
                errors.required("spec.externalName", "");
            } else {
                let name = name.strip_suffix('.').unwrap_or(name);
                if let Err(why) = rules::check_dns1123_subdomain(name) {
                    errors.invalid("spec.externalName", format!("{name:?}"), why);
                }
            }
        }
        _ => {}
    }
}

fn check_ports(errors: &mut Errors, spec: &Value, kind: &str) {
    let ports = list(spec, "ports");
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        check_port(errors, &format!("spec.ports[{i}]"), port, ports.len() > 1);
        let name = text(port, "name");
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(format!("spec.ports[{i}].name"), format!("{name:?}"));
        }
    }
    let (mut seen, mut node_ports) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in ports.iter().enumerate() {
        let protocol = text(port, "protocol");
        let number = port["nodePort"].as_i64().unwrap_or(0);
        if number != 0 {
            let field = format!("spec.ports[{i}].nodePort");
            if kind == "ClusterIP" {
                errors.forbidden(&field, "may not be used when `type` is 'ClusterIP'");
            }
            if !(1..=65535).contains(&number) {
                errors.invalid(&field, number, "must be between 1 and 65535, inclusive");
            }
            if !node_ports.insert((number, protocol)) {
                errors.duplicate(field, number);
            }
        }
        if !seen.insert((port["port"].as_i64(), protocol)) {
            let key = json!({"port": port["port"], "protocol": protocol});
            errors.duplicate(format!("spec.ports[{i}]"), key);
        }
    }
}

fn check_port(errors: &mut Errors, path: &str, port: &Value, needs_name: bool) {
    let name = text(port, "name");
    if name.is_empty() && needs_name {
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
    if let Some(protocol) = port["appProtocol"].as_str()
        && let Err(why) = rules::check_qualified_name(protocol)
    {
        errors.invalid(format!("{path}.appProtocol"), format!("{protocol:?}"), why);
    }
}

pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    addresses::check_update(errors, &old["spec"], &new["spec"]);
    traffic::check_update(errors, &old["spec"], &new["spec"]);
}
