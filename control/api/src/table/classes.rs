//! Rows of classes, Ingresses, templates and components.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{AGE, Column, NAME, list, map_text, number, text, workload};
use crate::meta;

pub(super) const POD_TEMPLATE: &[Column] = &[NAME, text("Containers"), text("Images"), text("Pod Labels")];
pub(super) const INGRESS: &[Column] =
    &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE];
pub(super) const PRIORITY_CLASS: &[Column] =
    &[NAME, number("Value"), Column { kind: "boolean", ..text("Global-Default") }, AGE];

/// Hosts shown of an Ingress; of more it is said how many.
const HOSTS: usize = 3;

pub(super) fn word_at<'v>(object: &'v Value, field: &str) -> &'v str {
    object[field].as_str().unwrap_or("")
}

pub(super) fn pod_template(object: &Value) -> Vec<Value> {
    let template = &object["template"];
    let [containers, images] = workload::containers(&template["spec"]);
    vec![json!(meta::name(object)), containers, images, json!(map_text(template["metadata"].get("labels")))]
}

pub(super) fn component_status(object: &Value) -> Vec<Value> {
    let healthy = list(object, "conditions").iter().find(|condition| condition["type"] == "Healthy");
    let state = match healthy.map(|condition| &condition["status"]) {
        None => "Unknown",
        Some(status) if status == "True" => "Healthy",
        Some(_) => "Unhealthy",
    };
    let said = |field: &str| json!(healthy.map_or("", |condition| word_at(condition, field)));
    vec![json!(meta::name(object)), json!(state), said("message"), said("error")]
}

pub(super) fn ingress(object: &Value, age: Value) -> Vec<Value> {
    let spec = &object["spec"];
    let class = spec["ingressClassName"].as_str().unwrap_or("<none>");
    let hosts: Vec<&str> = list(spec, "rules")
        .iter()
        .map(|rule| word_at(rule, "host"))
        .filter(|host| !host.is_empty())
        .collect();
    let hosts = match hosts.len() {
        0 => "*".to_owned(),
        n if n > HOSTS => format!("{} + {} more...", hosts[..HOSTS].join(","), n - HOSTS),
        _ => hosts.join(","),
    };
    let balanced = list(&object["status"]["loadBalancer"], "ingress").iter();
    let addresses: BTreeSet<&str> =
        balanced.filter_map(|at| at["ip"].as_str().or_else(|| at["hostname"].as_str())).collect();
    let addresses: Vec<&str> = addresses.into_iter().collect();
    let ports = if list(spec, "tls").is_empty() { "80" } else { "80, 443" };
    vec![json!(meta::name(object)), json!(class), json!(hosts), json!(addresses.join(",")), json!(ports), age]
}

/// `Kind.group/name` of an IngressClass' parameters.
pub(super) fn parameters(class: &Value) -> String {
    let parameters = &class["spec"]["parameters"];
    if !parameters.is_object() {
        return "<none>".to_owned();
    }
    let group = parameters["apiGroup"].as_str().map(|group| format!(".{group}")).unwrap_or_default();
    format!("{}{group}/{}", word_at(parameters, "kind"), word_at(parameters, "name"))
}

pub(super) fn priority_class(object: &Value, age: Value) -> Vec<Value> {
    let default = object["globalDefault"].as_bool().unwrap_or(false);
    vec![json!(meta::name(object)), json!(object["value"].as_i64().unwrap_or(0)), json!(default), age]
}
