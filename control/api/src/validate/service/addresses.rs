//! `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`: that they fit each other, and how they may change.

use std::net::IpAddr;

use serde_json::Value;

use super::super::{Errors, list, text};
use super::NO_IP;
use crate::service::{self, Family};

const ADDRESSES: &str = "spec.clusterIPs";
const FAMILIES: &str = "spec.ipFamilies";
const POLICY: &str = "spec.ipFamilyPolicy";

pub(in super::super) fn check(errors: &mut Errors, spec: &Value) {
    if service::kind(spec) == "ExternalName" {
        return;
    }
    let (ip, ips) = (text(spec, "clusterIP"), list(spec, "clusterIPs"));
    let shown = Value::from(ips.to_vec());
    if !ip.is_empty() && ips.is_empty() {
        errors.required(ADDRESSES, "");
    } else if !ip.is_empty() && ips[0] != ip {
        errors.invalid(ADDRESSES, &shown, "first value must match `clusterIP`");
    } else if ip.is_empty() && !ips.is_empty() {
        errors.invalid(ADDRESSES, &shown, "must be empty when `clusterIP` is not specified");
    }
    families(errors, spec);
    let known = errors.causes.len();
    let mut parsed = Vec::new();
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                errors.invalid(ADDRESSES, &shown, "'None' must be the first and only value");
            }
        } else if let Ok(ip) = ip.as_str().unwrap_or("").parse::<IpAddr>() {
            parsed.push(Family::of(ip));
        } else {
            errors.invalid(format!("{ADDRESSES}[{i}]"), ip, NO_IP);
        }
    }
    let broken = errors.causes.len() > known;
    if ips.len() > 2 {
        errors.invalid(ADDRESSES, &shown, "may only hold up to 2 values");
    }
    if broken {
        return;
    }
    if parsed.len() > 2 || (parsed.len() == 2 && parsed[0] == parsed[1]) {
        errors.invalid(ADDRESSES, &shown, "may specify no more than one IP for each IP family");
    }
    for (i, (family, named)) in parsed.iter().zip(list(spec, "ipFamilies")).enumerate() {
        let named = named.as_str().and_then(Family::parse);
        if let Some(named) = named.filter(|named| named != family) {
            let why = format!("expected an {} value as indicated by `ipFamilies[{i}]`", named.name());
            errors.invalid(format!("{ADDRESSES}[{i}]"), &ips[i], why);
        }
    }
}

fn families(errors: &mut Errors, spec: &Value) {
    let families = list(spec, "ipFamilies");
    for (i, family) in families.iter().enumerate() {
        errors.one_of(&format!("{FAMILIES}[{i}]"), family, &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            errors.duplicate(format!("{FAMILIES}[{i}]"), family);
        }
    }
    if !spec["ipFamilyPolicy"].is_null() {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.one_of(POLICY, &spec["ipFamilyPolicy"], &known);
    }
}

/// A second address or family may come and go; what is there does not change but on the way from or to ExternalName.
pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    if [old, new].iter().any(|spec| service::kind(spec) == "ExternalName") {
        return;
    }
    let (was_headless, is_headless) = (service::is_headless(old), service::is_headless(new));
    if was_headless && is_headless {
        return;
    }
    changed(errors, old, new, ("clusterIPs", ADDRESSES, "clusterIP"));
    if !was_headless && !is_headless {
        changed(errors, old, new, ("ipFamilies", FAMILIES, "ipFamily"));
    }
}

fn changed(errors: &mut Errors, old: &Value, new: &Value, (list_name, field, singular): (&str, &str, &str)) {
    let (before, after) = (list(old, list_name), list(new, list_name));
    let shown = Value::from(after.to_vec());
    if before.len() == after.len() {
        for i in (0..before.len()).filter(|i| before[*i] != after[*i]) {
            errors.invalid(format!("{field}[{i}]"), &shown, "may not change once set");
        }
        return;
    }
    let first = format!("{field}[0]");
    match (before.first(), after.first()) {
        (Some(_), None) => errors.invalid(first, &shown, format!("primary {singular} can not be unset")),
        (Some(old), Some(new)) if old != new => errors.invalid(first, &shown, "may not change once set"),
        _ => {}
    }
    if after.len() == 1 && before.len() > 1 && new["ipFamilyPolicy"] != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {singular}");
        errors.invalid(POLICY, &new["ipFamilyPolicy"], why);
    }
}
