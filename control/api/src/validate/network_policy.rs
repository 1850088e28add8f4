//! NetworkPolicies: what the dataplane is to enforce must be unmistakable.
//!
//! Source: k8s.io/kubernetes/pkg/apis/networking/validation/validation.go, ValidateNetworkPolicySpec.

use std::net::IpAddr;

use serde_json::Value;

use super::{Errors, list, text};
use crate::selector::Selector;

pub(super) fn check(errors: &mut Errors, spec: &Value) {
    selector(errors, "spec.podSelector", &spec["podSelector"]);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in list(spec, rules).iter().enumerate() {
            let path = format!("spec.{rules}[{i}]");
            for (j, port) in list(rule, "ports").iter().enumerate() {
                check_port(errors, &format!("{path}.ports[{j}]"), port);
            }
            for (j, peer) in list(rule, peers).iter().enumerate() {
                check_peer(errors, &format!("{path}.{peers}[{j}]"), peer);
            }
        }
    }
    let types = list(spec, "policyTypes");
    if types.len() > 2 {
        let value = types.iter().map(|t| t.as_str().unwrap_or("")).collect::<Vec<_>>();
        errors.invalid("spec.policyTypes", format!("{value:?}"), "may not specify more than two policyTypes");
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        errors.one_of(&format!("spec.policyTypes[{i}]"), kind, &["Egress", "Ingress"]);
    }
}

pub(super) fn selector(errors: &mut Errors, field: &str, selector: &Value) {
    super::meta::labels(errors, &format!("{field}.matchLabels"), selector.get("matchLabels"));
    if let Err(why) = Selector::from_label_selector(Some(selector)) {
        errors.invalid(field, selector, why);
    }
}

fn check_port(errors: &mut Errors, path: &str, port: &Value) {
    errors.one_of(&format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    let (field, end) = (format!("{path}.endPort"), port.get("endPort").filter(|end| !end.is_null()));
    match &port["port"] {
        Value::Null if end.is_some() => {
            errors.required(format!("{path}.port"), "must be specified when `endPort` is specified")
        }
        Value::Null => {}
        Value::String(name) => {
            super::pod::port_name(errors, &format!("{path}.port"), name);
            if end.is_some() {
                errors.invalid(
                    field,
                    end.unwrap_or(&Value::Null),
                    "may not be specified when `port` is a name",
                );
            }
        }
        number => {
            errors.port(format!("{path}.port"), number);
            let Some(end) = end else { return };
            if end.as_i64() < number.as_i64() {
                errors.invalid(field, end, "must be greater than or equal to `port`");
            } else {
                errors.port(field, end);
            }
        }
    }
}

fn check_peer(errors: &mut Errors, path: &str, peer: &Value) {
    let given = |field: &str| peer.get(field).filter(|value| !value.is_null());
    let selectors = ["podSelector", "namespaceSelector"];
    for field in selectors {
        if let Some(value) = given(field) {
            selector(errors, &format!("{path}.{field}"), value);
        }
    }
    let selects = selectors.iter().any(|field| given(field).is_some());
    match given("ipBlock") {
        Some(_) if selects => errors.forbidden(path, "may not specify both ipBlock and another peer"),
        Some(block) => check_block(errors, &format!("{path}.ipBlock"), block),
        None if !selects => errors.required(path, "must specify a peer"),
        None => {}
    }
}

fn check_block(errors: &mut Errors, path: &str, block: &Value) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        return errors.required(format!("{path}.cidr"), "");
    }
    let Some((address, bits)) = parse(cidr) else {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return errors.invalid(format!("{path}.cidr"), format!("{cidr:?}"), why);
    };
    for (i, except) in list(block, "except").iter().enumerate() {
        let field = format!("{path}.except[{i}]");
        let Some((inner, inner_bits)) = except.as_str().and_then(parse) else {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(field, except, why);
            continue;
        };
        let within = match (address, inner) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()).checked_shr(32 - bits),
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                Some((a.to_bits() ^ b.to_bits()).checked_shr(128 - bits).unwrap_or(0))
            }
            _ => None,
        };
        if within != Some(0) || inner_bits <= bits {
            errors.invalid(field, except, "must be a strict subset of `cidr`");
        }
    }
}

/// An address and how many bits of it count.
fn parse(cidr: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = cidr.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let is_number = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    let bits = bits.parse().ok().filter(|bits| is_number && *bits <= all)?;
    Some((address, bits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn causes(spec: Value) -> Vec<String> {
        let mut errors = Errors::default();
        check(&mut errors, &spec);
        errors.causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn from(peer: Value) -> Vec<String> {
        causes(json!({"podSelector": {}, "ingress": [{"from": [peer]}]}))
    }

    fn port(port: Value) -> Vec<String> {
        causes(json!({"podSelector": {}, "egress": [{"ports": [port]}]}))
    }

    #[test]
    fn good_policies_pass() {
        let good: [Vec<String>; 8] = [
            from(json!({"podSelector": {}})),
            from(
                json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}),
            ),
            from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.2.3.4/32"]}})),
            from(json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}})),
            from(json!({"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"]}})),
            port(json!({"protocol": "UDP", "port": 53})),
            port(json!({"protocol": "TCP", "port": "http"})),
            port(json!({"protocol": "SCTP", "port": 1, "endPort": 65535})),
        ];
        assert!(good.iter().all(Vec::is_empty), "{good:?}");
    }

    #[test]
    fn each_mistake_is_named_as_upstream_names_it() {
        for (found, wanted) in [
            (from(json!({})), "spec.ingress[0].from[0]: Required value: must specify a peer"),
            (
                from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (from(json!({"ipBlock": {}})), "spec.ingress[0].from[0].ipBlock.cidr: Required value"),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/33"}})),
                "spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.0/33\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})),
                "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
            (
                port(json!({"protocol": "ICMP"})),
                "spec.egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ),
            (
                port(json!({"protocol": "TCP", "port": 0})),
                "spec.egress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                port(json!({"protocol": "TCP", "endPort": 90})),
                "spec.egress[0].ports[0].port: Required value: must be specified when `endPort` is specified",
            ),
            (
                port(json!({"protocol": "TCP", "port": "http", "endPort": 90})),
                "spec.egress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is a name",
            ),
            (
                port(json!({"protocol": "TCP", "port": 100, "endPort": 90})),
                "spec.egress[0].ports[0].endPort: Invalid value: 90: must be greater than or equal to `port`",
            ),
            (
                causes(json!({"podSelector": {}, "policyTypes": ["Nothing"]})),
                "spec.policyTypes[0]: Unsupported value: \"Nothing\": supported values: \"Egress\", \"Ingress\"",
            ),
        ] {
            assert_eq!(found, [wanted]);
        }
        let types = causes(json!({"podSelector": {}, "policyTypes": ["Egress", "Ingress", "Egress"]}));
        assert!(types[0].contains("may not specify more than two policyTypes"), "{types:?}");
    }
}
