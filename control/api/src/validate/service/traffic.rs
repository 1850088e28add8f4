//! How a Service's traffic flows: affinity, policies, load balancers.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::super::{Errors, list, text};
use super::NO_IP;
use crate::meta as rules;
use crate::service;

const NOT_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
/// The old form of `spec.loadBalancerSourceRanges`.
const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

pub(super) fn affinity(errors: &mut Errors, spec: &Value) {
    errors.one_of("spec.sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
    let field = "spec.sessionAffinityConfig";
    let config = &spec["sessionAffinityConfig"];
    if spec["sessionAffinity"] == "None" && !config.is_null() {
        errors.forbidden(field, "must not be set when session affinity is None");
    }
    if spec["sessionAffinity"] == "ClientIP" {
        let timeout = &config["clientIP"]["timeoutSeconds"];
        let field = format!("{field}.clientIP.timeoutSeconds");
        match timeout.as_i64() {
            None => errors.required(field, "when session affinity type is ClientIP"),
            Some(seconds) if (1..=service::LONGEST_AFFINITY).contains(&seconds) => {}
            Some(_) => {
                let why = format!("must be greater than 0 and less than {}", service::LONGEST_AFFINITY);
                errors.invalid(field, timeout, why);
            }
        }
    }
}

/// What only a load balancer has.
pub(super) fn balancer(errors: &mut Errors, object: &Value, kind: &str) {
    let spec = &object["spec"];
    let balanced = kind == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    if ranges.is_empty() {
        annotated_ranges(errors, object, balanced);
    } else {
        // Upstream's path has this capital.
        let field = "spec.LoadBalancerSourceRanges";
        if !balanced {
            errors.forbidden(field, NOT_BALANCED);
        }
        for (i, range) in ranges.iter().enumerate() {
            check_range(errors, &format!("{field}[{i}]"), range.as_str().unwrap_or(""));
        }
    }
    let allocate = spec.get("allocateLoadBalancerNodePorts").filter(|a| !a.is_null());
    if !balanced && allocate.is_some() {
        errors.forbidden("spec.allocateLoadBalancerNodePorts", NOT_BALANCED);
    }
    if let Some(class) = spec["loadBalancerClass"].as_str() {
        let field = "spec.loadBalancerClass";
        if !balanced {
            errors.forbidden(field, NOT_BALANCED);
        } else if let Err(why) = rules::check_qualified_name(class) {
            errors.invalid(field, format!("{class:?}"), why);
        }
    }
}

fn annotated_ranges(errors: &mut Errors, object: &Value, balanced: bool) {
    let Some(text) = object["metadata"]["annotations"][RANGES_ANNOTATION].as_str() else { return };
    let field = format!("metadata.annotations[{RANGES_ANNOTATION}]");
    if !balanced {
        errors.forbidden(&field, NOT_BALANCED);
    }
    for range in text.split(',').filter(|_| !text.trim().is_empty()) {
        check_range(errors, &field, range);
    }
}

fn check_range(errors: &mut Errors, field: &str, range: &str) {
    let range = range.trim();
    if range.parse::<IpNet>().is_err() {
        errors.invalid(field, format!("{range:?}"), NO_CIDR);
    }
}

pub(super) fn policies(errors: &mut Errors, spec: &Value, kind: &str) {
    let external = text(spec, "externalTrafficPolicy");
    let field = "spec.externalTrafficPolicy";
    if !service::is_external(spec) {
        if !external.is_empty() {
            let why = "may only be set for externally-accessible services";
            errors.invalid(field, format!("{external:?}"), why);
        }
    } else if external.is_empty() {
        errors.required(field, "");
    } else {
        errors.one_of(field, &spec["externalTrafficPolicy"], &["Cluster", "Local"]);
    }
    health_check(errors, spec);
    let internal = &spec["internalTrafficPolicy"];
    let field = "spec.internalTrafficPolicy";
    if !internal.is_null() {
        errors.one_of(field, internal, &["Cluster", "Local"]);
    } else if matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        errors.required(field, "");
    }
    if !spec["trafficDistribution"].is_null() {
        errors.one_of("spec.trafficDistribution", &spec["trafficDistribution"], &["PreferClose"]);
    }
}

fn health_check(errors: &mut Errors, spec: &Value) {
    let field = "spec.healthCheckNodePort";
    let port = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    match (service::needs_health_check(spec), port) {
        (false, 0) => {}
        (false, port) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(field, port, why);
        }
        (true, 0) => errors.required(field, ""),
        (true, _) => errors.port(field, &spec["healthCheckNodePort"]),
    }
}

pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    if [old, new].iter().all(|spec| service::needs_health_check(spec))
        && old["healthCheckNodePort"] != new["healthCheckNodePort"]
    {
        errors.forbidden("spec.healthCheckNodePort", "field is immutable");
    }
    let class = "loadBalancerClass";
    let balanced = [old, new].iter().all(|spec| service::kind(spec) == "LoadBalancer");
    if balanced && old[class] != new[class] {
        errors.invalid("spec.loadBalancerClass", &new[class], "may not change once set");
    }
}

/// `status.loadBalancer`: what a load balancer says about itself.
pub(in super::super) fn check_status(errors: &mut Errors, object: &Value) {
    let ingress = list(&object["status"]["loadBalancer"], "ingress");
    let path = "status.loadBalancer.ingress";
    if !ingress.is_empty() && service::kind(&object["spec"]) != "LoadBalancer" {
        errors.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (i, point) in ingress.iter().enumerate() {
        let (ip, mode, name) = (text(point, "ip"), &point["ipMode"], text(point, "hostname"));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            errors.invalid(format!("{path}[{i}].ip"), format!("{ip:?}"), NO_IP);
        }
        let field = format!("{path}[{i}].ipMode");
        if mode.is_null() {
            if !ip.is_empty() {
                errors.required(field, "must be specified when `ip` is set");
            }
        } else if ip.is_empty() {
            errors.forbidden(field, "may not be specified when `ip` is not set");
        } else {
            errors.one_of(&field, mode, &["Proxy", "VIP"]);
        }
        if !name.is_empty() {
            let field = format!("{path}[{i}].hostname");
            if let Err(why) = rules::check_dns1123_subdomain(name) {
                errors.invalid(&field, format!("{name:?}"), why);
            }
            if name.parse::<IpAddr>().is_ok() {
                errors.invalid(field, format!("{name:?}"), "must be a DNS name, not an IP address");
            }
        }
    }
}
