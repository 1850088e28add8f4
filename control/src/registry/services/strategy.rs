//! What a client meant that did not repeat, or merely repeated, what the server had chosen. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/registry/core/service/strategy.go and storage/storage.go (`patchAllocatedValues`,
//! `normalizeClusterIPs`, `dropTypeDependentFields`).

use std::collections::{BTreeMap, BTreeSet};

use oarlock_api::meta;
use oarlock_api::service;
use serde_json::{Value, json};

use super::node_port;

pub(super) fn apply(old: Option<&Value>, new: &mut Value) {
    if let Some(old) = old {
        keep_allocated(&old["spec"], new);
        normalize(&old["spec"], &mut new["spec"]);
        drop_dependent(old, new);
    } else if is_set(&new["spec"]["clusterIP"]) && list(&new["spec"]["clusterIPs"]).is_empty() {
        new["spec"]["clusterIPs"] = json!([new["spec"]["clusterIP"]]);
    }
}

fn is_set(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn has_address(spec: &Value) -> bool {
    service::kind(spec) != "ExternalName"
}

/// What was allocated stays, though the client did not repeat it.
fn keep_allocated(old: &Value, new: &mut Value) {
    let spec = &mut new["spec"];
    if has_address(old) && has_address(spec) {
        if !is_set(&spec["clusterIP"]) && is_set(&old["clusterIP"]) {
            spec["clusterIP"] = old["clusterIP"].clone();
        }
        if list(&spec["clusterIPs"]).is_empty() && spec["clusterIP"] == old["clusterIP"] {
            let ips = list(&old["clusterIPs"]);
            if !ips.is_empty() {
                spec["clusterIPs"] = json!(ips);
            } else if is_set(&old["clusterIP"]) {
                spec["clusterIPs"] = json!([old["clusterIP"]]);
            }
        }
    }
    if service::needs_health_check(old)
        && service::needs_health_check(spec)
        && spec["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
    {
        spec["healthCheckNodePort"] = old["healthCheckNodePort"].clone();
    }
    if service::takes_node_ports(old) && service::takes_node_ports(spec) {
        keep_ports(list(&old["ports"]), spec);
    }
}

/// Ports are known by their names; a number that another port asks for is not given twice.
fn keep_ports(old: &[Value], spec: &mut Value) {
    let key = |port: &Value| (node_port(port), port["protocol"].as_str().unwrap_or("TCP").to_owned());
    let Some(new) = spec.get_mut("ports").and_then(Value::as_array_mut) else { return };
    let mut used: BTreeSet<_> = new.iter().filter(|p| node_port(p).is_some()).map(&key).collect();
    let name = |port: &Value| port["name"].as_str().unwrap_or("").to_owned();
    let known: BTreeMap<String, &Value> = old.iter().map(|port| (name(port), port)).collect();
    for port in new.iter_mut().filter(|port| node_port(port).is_none()) {
        let Some(number) = known.get(&name(port)).and_then(|old| node_port(old)) else { continue };
        let mut kept = port.clone();
        kept["nodePort"] = json!(number);
        if used.insert(key(&kept)) {
            *port = kept;
        }
    }
}

/// clusterIP and the first of clusterIPs are the same thing: a client that changed one of them meant both.
fn normalize(old: &Value, new: &mut Value) {
    let (ip, ips) = (new["clusterIP"].clone(), list(&new["clusterIPs"]).to_vec());
    let same_ips = list(&old["clusterIPs"]) == ips;
    let same_ip = old["clusterIP"] == ip || (!is_set(&old["clusterIP"]) && !is_set(&ip));
    if same_ip || !same_ips {
        if ips.is_empty() && is_set(&ip) && list(&old["clusterIPs"]).is_empty() {
            new["clusterIPs"] = json!([ip]);
        }
    } else if is_set(&ip) {
        new["clusterIPs"] = json!([ip]);
    } else {
        meta::map_of(new).shift_remove("clusterIPs");
    }
}

/// What only the old type has goes, unless the client changed it: then it is wrong and validation says so.
fn drop_dependent(old: &Value, new: &mut Value) {
    let before = &old["spec"];
    let (was, is) = (service::kind(before).to_owned(), service::kind(&new["spec"]).to_owned());
    let mut gone: Vec<&str> = Vec::new();
    if has_address(before) && !has_address(&new["spec"]) {
        gone.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        gone.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
        // No controller of a cloud does it here: what nobody balances has no address of a balancer.
        new["status"]["loadBalancer"] = json!({});
    }
    if service::needs_health_check(before) && !service::needs_health_check(&new["spec"]) {
        gone.push("healthCheckNodePort");
    }
    if service::is_external(before) && !service::is_external(&new["spec"]) {
        gone.push("externalTrafficPolicy");
    }
    let spec = meta::map_of(&mut new["spec"]);
    for field in gone {
        if spec.get(field).unwrap_or(&Value::Null) == &before[field] {
            spec.shift_remove(field);
        }
    }
    let numbers =
        |spec: &Value| -> BTreeSet<i64> { list(&spec["ports"]).iter().filter_map(node_port).collect() };
    if service::takes_node_ports(before)
        && !matches!(is.as_str(), "NodePort" | "LoadBalancer")
        && numbers(&new["spec"]).is_subset(&numbers(before))
        && let Some(ports) = new["spec"].get_mut("ports").and_then(Value::as_array_mut)
    {
        for port in ports {
            meta::map_of(port).shift_remove("nodePort");
        }
    }
}
