//! Ingresses and their classes.
//!
//! Source: k8s.io/kubernetes/pkg/apis/networking/validation/validation.go.

use std::net::IpAddr;

use serde_json::Value;

use super::pod::port_name;
use super::{Errors, list, text};
use crate::meta as rules;

/// The longest name of a class' controller.
const CONTROLLER: usize = 250;

pub(super) fn check(errors: &mut Errors, spec: &Value) {
    let rules_of = list(spec, "rules");
    let default = spec.get("defaultBackend").filter(|backend| !backend.is_null());
    if rules_of.is_empty() && default.is_none() {
        let why = "either `defaultBackend` or `rules` must be specified";
        errors.invalid("spec", Value::from(rules_of), why);
    }
    if let Some(default) = default {
        backend(errors, "spec.defaultBackend", default);
    }
    for (i, rule) in rules_of.iter().enumerate() {
        let path = format!("spec.rules[{i}]");
        let name = text(rule, "host");
        if name.parse::<IpAddr>().is_ok() {
            errors.invalid(
                format!("{path}.host"),
                format!("{name:?}"),
                "must be a DNS name, not an IP address",
            );
        } else if !name.is_empty() {
            host(errors, &format!("{path}.host"), name);
        }
        if let Some(http) = rule.get("http").filter(|http| !http.is_null()) {
            paths(errors, &format!("{path}.http.paths"), list(http, "paths"));
        }
    }
    for (i, tls) in list(spec, "tls").iter().enumerate() {
        for (j, name) in list(tls, "hosts").iter().enumerate() {
            host(errors, &format!("spec.tls[{i}].hosts[{j}]"), name.as_str().unwrap_or(""));
        }
        let secret = text(tls, "secretName");
        subdomain(errors, &format!("spec.tls[{i}].secretName"), secret);
    }
    subdomain(errors, "spec.ingressClassName", text(spec, "ingressClassName"));
}

fn subdomain(errors: &mut Errors, field: &str, name: &str) {
    if let Err(why) = rules::check_dns1123_subdomain(name)
        && !name.is_empty()
    {
        errors.invalid(field, format!("{name:?}"), why);
    }
}

fn host(errors: &mut Errors, field: &str, name: &str) {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if let Err(why) = rules::check_dns1123_subdomain(rest) {
        let wildcard = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
                        of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
                        '*.example.com', regex used for validation is \
                        '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        errors.invalid(field, format!("{name:?}"), if name.contains('*') { wildcard } else { &why });
    }
}

fn paths(errors: &mut Errors, field: &str, paths: &[Value]) {
    if paths.is_empty() {
        errors.required(field, "");
    }
    for (i, path) in paths.iter().enumerate() {
        let (at, value) = (format!("{field}[{i}]"), text(path, "path"));
        let exact = match text(path, "pathType") {
            "" => {
                errors.required(format!("{at}.pathType"), "pathType must be specified");
                false
            }
            kind => {
                let kinds = &["Exact", "ImplementationSpecific", "Prefix"];
                errors.one_of(&format!("{at}.pathType"), &path["pathType"], kinds);
                matches!(kind, "Exact" | "Prefix")
            }
        };
        let mut wrong = |why: String| errors.invalid(format!("{at}.path"), format!("{value:?}"), why);
        if !value.starts_with('/') && (exact || !value.is_empty()) {
            wrong("must be an absolute path".to_owned());
        }
        if exact {
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|part| value.contains(**part)) {
                wrong(format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].iter().filter(|end| value.ends_with(**end)) {
                wrong(format!("cannot end with '{end}'"));
            }
        }
        backend(errors, &format!("{at}.backend"), &path["backend"]);
    }
}

fn backend(errors: &mut Errors, field: &str, backend: &Value) {
    let part = |name: &str| backend.get(name).filter(|part| !part.is_null());
    match (part("service"), part("resource")) {
        (Some(_), Some(_)) => errors.invalid(field, "\"\"", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(field, "\"\"", "resource or service backend is required"),
        (Some(service), None) => service_backend(errors, field, service),
        (None, Some(resource)) => {
            for part in ["kind", "name"].into_iter().filter(|part| text(resource, part).is_empty()) {
                errors.required(format!("{field}.resource.{part}"), "");
            }
        }
    }
}

fn service_backend(errors: &mut Errors, field: &str, service: &Value) {
    let (name, port) = (text(service, "name"), &service["port"]);
    if name.is_empty() {
        errors.required(format!("{field}.service.name"), "");
    } else if let Err(why) = rules::check_dns1035_label(name) {
        errors.invalid(format!("{field}.service.name"), format!("{name:?}"), why);
    }
    let number = port["number"].as_i64().unwrap_or(0);
    match (text(port, "name"), number) {
        ("", 0) => errors.required(field, "port name or number is required"),
        ("", _) => errors.port(format!("{field}.service.port.number"), &port["number"]),
        (named, 0) => port_name(errors, &format!("{field}.service.port.name"), named),
        _ => errors.invalid(field, "\"\"", "cannot set both port name & port number"),
    }
}

pub(super) fn status(errors: &mut Errors, status: &Value) {
    for (i, ingress) in list(&status["loadBalancer"], "ingress").iter().enumerate() {
        let path = format!("status.loadBalancer.ingress[{i}]");
        let (ip, name) = (text(ingress, "ip"), text(ingress, "hostname"));
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("{path}.ip"), format!("{ip:?}"), why);
        }
        subdomain(errors, &format!("{path}.hostname"), name);
        if name.parse::<IpAddr>().is_ok() {
            let why = "must be a DNS name, not an IP address";
            errors.invalid(format!("{path}.hostname"), format!("{name:?}"), why);
        }
    }
}

pub(super) fn class(errors: &mut Errors, spec: &Value) {
    let controller = text(spec, "controller");
    let shown = format!("{controller:?}");
    match controller.split_once('/') {
        _ if controller.is_empty() => errors.required("spec.controller", ""),
        _ if controller.len() > CONTROLLER => {
            let message = format!("Too long: may not be more than {CONTROLLER} bytes");
            errors.push("FieldValueTooLong", "spec.controller", message);
        }
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            if let Err(why) = rules::check_dns1123_subdomain(domain) {
                errors.invalid("spec.controller", format!("{domain:?}"), why);
            }
        }
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.invalid("spec.controller", shown, why);
        }
    }
    let Some(parameters) = spec.get("parameters").filter(|parameters| !parameters.is_null()) else { return };
    for field in ["kind", "name"].into_iter().filter(|field| text(parameters, field).is_empty()) {
        errors.required(format!("spec.parameters.{field}"), &format!("{field} is required"));
    }
    subdomain(errors, "spec.parameters.apiGroup", text(parameters, "apiGroup"));
    errors.one_of("spec.parameters.scope", &parameters["scope"], &["Cluster", "Namespace"]);
    let namespace = text(parameters, "namespace");
    match text(parameters, "scope") {
        "Namespace" if namespace.is_empty() => {
            errors.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'");
        }
        "Cluster" if !namespace.is_empty() => {
            errors.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'");
        }
        _ => {}
    }
}
