//! What surrounds a pod's containers: rights, tolerations, names and name servers.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Errors, list, text};
use crate::meta as rules;

pub(super) fn check(errors: &mut Errors, path: &str, spec: &Value) {
    ids(errors, &format!("{path}.securityContext"), &spec["securityContext"]);
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        check_toleration(errors, &format!("{path}.tolerations[{i}]"), toleration);
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = format!("{path}.hostAliases[{i}]");
        ip(errors, &format!("{path}.ip"), &alias["ip"]);
        for (j, name) in list(alias, "hostnames").iter().enumerate() {
            if let Err(why) = rules::check_dns1123_subdomain(name.as_str().unwrap_or("")) {
                errors.invalid(format!("{path}.hostnames[{j}]"), name, why);
            }
        }
    }
    dns(errors, path, spec);
}

/// Users and groups of a pod's or a container's security context, and rights that contradict each other.
pub(super) fn ids(errors: &mut Errors, path: &str, context: &Value) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(errors, &format!("{path}.{field}"), &context[field]);
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(errors, &format!("{path}.supplementalGroups[{i}]"), group);
    }
    if context["allowPrivilegeEscalation"] == false {
        let adds_admin = list(&context["capabilities"], "add").iter().any(|c| c == "CAP_SYS_ADMIN");
        for (bad, what) in [
            (context["privileged"] == true, "`privileged` to true"),
            (adds_admin, "`capabilities.Add` to CAP_SYS_ADMIN"),
        ] {
            if bad {
                let why = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
                errors.invalid(path, context, why);
            }
        }
    }
}

fn id(errors: &mut Errors, field: &str, value: &Value) {
    if value.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
        errors.invalid(field, value, "must be between 0 and 2147483647, inclusive");
    }
}

fn ip(errors: &mut Errors, field: &str, value: &Value) {
    if value.as_str().unwrap_or("").parse::<IpAddr>().is_err() {
        let shown = if value.is_null() { json!("") } else { value.clone() };
        errors.invalid(field, shown, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

fn check_toleration(errors: &mut Errors, path: &str, toleration: &Value) {
    let (key, operator, value) =
        (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"));
    if key.is_empty() {
        if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(format!("{path}.operator"), format!("{operator:?}"), why);
        }
    } else if let Err(why) = rules::check_qualified_name(key) {
        errors.invalid(format!("{path}.key"), format!("{key:?}"), why);
    }
    match operator {
        "" | "Equal" => {
            if let Err(why) = rules::check_label_value(value) {
                errors.invalid(format!("{path}.operator"), format!("{value:?}"), why);
            }
        }
        "Exists" if !value.is_empty() => {
            let why = "value must be empty when `operator` is 'Exists'";
            errors.invalid(format!("{path}.operator"), format!("{value:?}"), why);
        }
        "Exists" => {}
        _ => errors.one_of(&format!("{path}.operator"), &toleration["operator"], &["Equal", "Exists"]),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() {
        let known = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
        errors.one_of(&format!("{path}.effect"), &toleration["effect"], &known);
    }
    if toleration.get("tolerationSeconds").is_some_and(|s| !s.is_null()) && effect != "NoExecute" {
        let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(format!("{path}.effect"), format!("{effect:?}"), why);
    }
}

fn dns(errors: &mut Errors, path: &str, spec: &Value) {
    let (path, config) = (format!("{path}.dnsConfig"), &spec["dnsConfig"]);
    let servers = list(config, "nameservers");
    if spec["dnsPolicy"] == "None" && servers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(format!("{path}.nameservers"), why);
    }
    for (field, most) in [("nameservers", 3), ("searches", 32)] {
        if list(config, field).len() > most {
            let why = format!("must not have more than {most} {field}");
            errors.invalid(format!("{path}.{field}"), &config[field], why);
        }
    }
    for (i, server) in servers.iter().enumerate() {
        ip(errors, &format!("{path}.nameservers[{i}]"), server);
    }
    for (i, search) in list(config, "searches").iter().enumerate() {
        let name = search.as_str().unwrap_or("");
        let name = if name == "." { "" } else { name.strip_suffix('.').unwrap_or(name) };
        let underscored = name.replace('_', "-");
        if let Err(why) = rules::check_dns1123_subdomain(&underscored)
            && !name.is_empty()
        {
            errors.invalid(format!("{path}.searches[{i}]"), search, why);
        }
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(format!("{path}.options[{i}]"), "must not be empty");
        }
    }
}
