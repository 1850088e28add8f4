//! Who may ask a Service from where, and who answers: addresses from outside, load balancers, affinity, traffic policies.
//!
//! Source: k8s.io/kubernetes/pkg/apis/core/validation/validation.go, `ValidateService` and what it calls.

use std::net::IpAddr;

use serde_json::Value;

use super::{Errors, list, text};
use crate::meta as rules;

/// Kubernetes' `MaxClientIPServiceAffinitySeconds`: a day.
const MAX_AFFINITY: i64 = 86_400;
const ONLY_LOAD_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

pub(super) fn check(errors: &mut Errors, spec: &Value, kind: &str) {
    affinity(errors, spec);
    external_ips(errors, spec);
    load_balancer(errors, spec, kind);
    policies(errors, spec, kind);
    families(errors, spec);
}

fn affinity(errors: &mut Errors, spec: &Value) {
    if spec["sessionAffinity"] != "ClientIP" {
        return;
    }
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if !seconds.as_i64().is_some_and(|s| (1..=MAX_AFFINITY).contains(&s)) {
        errors.invalid(field, seconds, format!("must be greater than 0 and less than {MAX_AFFINITY}"));
    }
}

fn external_ips(errors: &mut Errors, spec: &Value) {
    for (i, ip) in list(spec, "externalIPs").iter().enumerate() {
        let field = format!("spec.externalIPs[{i}]");
        let Some(parsed) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
            errors.invalid(field, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
            continue;
        };
        if let Some(why) = special(parsed) {
            errors.invalid(field, ip, why);
        } else if parsed.is_ipv6() {
            errors.unsupported(field);
        }
    }
}

/// Why an address is nobody's in particular (`ValidateNonSpecialIP`).
fn special(ip: IpAddr) -> Option<&'static str> {
    let (link_local, multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        Some("may not be unspecified (0.0.0.0 or ::)")
    } else if ip.is_loopback() {
        Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    } else if link_local {
        Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")
    } else if multicast {
        Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
    } else {
        None
    }
}

fn load_balancer(errors: &mut Errors, spec: &Value, kind: &str) {
    let is = kind == "LoadBalancer";
    let ranges = list(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() && !is {
        // Upstream writes this path with a capital, by accident, and keeps it.
        errors.forbidden("spec.LoadBalancerSourceRanges", ONLY_LOAD_BALANCER);
    }
    for (i, range) in ranges.iter().enumerate() {
        let parsed = range.as_str().and_then(|r| r.trim().parse::<ipnet::IpNet>().ok());
        if parsed.is_none() {
            let field = format!("spec.LoadBalancerSourceRanges[{i}]");
            errors.invalid(field, range, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if spec.get(field).is_some_and(|value| !value.is_null()) && !is {
            errors.forbidden(format!("spec.{field}"), ONLY_LOAD_BALANCER);
        }
    }
    let class = text(spec, "loadBalancerClass");
    if is
        && spec.get("loadBalancerClass").is_some_and(|value| !value.is_null())
        && let Err(why) = rules::check_qualified_name(class)
    {
        errors.invalid("spec.loadBalancerClass", format!("{class:?}"), why);
    }
}

/// Whether clients outside reach it by itself.
#[must_use]
pub fn is_externally_accessible(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
        || text(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty()
}

/// Whether load balancers ask nodes for its endpoints.
#[must_use]
pub fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn policies(errors: &mut Errors, spec: &Value, kind: &str) {
    let words = &["Cluster", "Local"];
    let external = &spec["externalTrafficPolicy"];
    if is_externally_accessible(spec) {
        errors.one_of("spec.externalTrafficPolicy", external, words);
    } else if !text(spec, "externalTrafficPolicy").is_empty() {
        let why = "may only be set for externally-accessible services";
        errors.invalid("spec.externalTrafficPolicy", external, why);
    }
    let port = &spec["healthCheckNodePort"];
    if needs_health_check(spec) {
        errors.port("spec.healthCheckNodePort", port);
    } else if port.as_i64().unwrap_or(0) != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid("spec.healthCheckNodePort", port, why);
    }
    if kind != "ExternalName" {
        errors.one_of("spec.internalTrafficPolicy", &spec["internalTrafficPolicy"], words);
    }
    if spec.get("trafficDistribution").is_some_and(|value| !value.is_null()) {
        errors.one_of("spec.trafficDistribution", &spec["trafficDistribution"], &["PreferClose"]);
    }
}

/// This cluster has one family of addresses.
fn families(errors: &mut Errors, spec: &Value) {
    let policies = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if spec.get("ipFamilyPolicy").is_some_and(|value| !value.is_null()) {
        errors.one_of("spec.ipFamilyPolicy", &spec["ipFamilyPolicy"], policies);
    }
    if spec["ipFamilyPolicy"] == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.invalid("spec.ipFamilyPolicy", "\"RequireDualStack\"", why);
    }
    for (i, family) in list(spec, "ipFamilies").iter().enumerate().filter(|(_, family)| *family != "IPv4") {
        errors.invalid(format!("spec.ipFamilies[{i}]"), family, "not configured on this cluster");
    }
}

pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    let both = |field: &str, is: fn(&Value) -> bool| {
        is(&old["spec"]) && is(&new["spec"]) && old["spec"].get(field) != new["spec"].get(field)
    };
    if both("loadBalancerClass", |spec| text(spec, "type") == "LoadBalancer") {
        errors.invalid(
            "spec.loadBalancerClass",
            &new["spec"]["loadBalancerClass"],
            "may not change once set",
        );
    }
    if both("healthCheckNodePort", needs_health_check) {
        let port = &new["spec"]["healthCheckNodePort"];
        errors.invalid("spec.healthCheckNodePort", port, "field is immutable");
    }
}
