//! Rows of Services, nodes, endpoints and events.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, list, map_text, or_none, since, text, wide, word};
use crate::meta;

pub(super) const SERVICE: &[Column] =
    &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE, wide("Selector")];
pub(super) const NODE: &[Column] = &[
    NAME,
    text("Status"),
    text("Roles"),
    AGE,
    text("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];
pub(super) const EVENT: &[Column] = &[
    text("Last Seen"),
    text("Type"),
    text("Reason"),
    text("Object"),
    wide("Subobject"),
    wide("Source"),
    text("Message"),
    wide("First Seen"),
    wide("Count"),
    Column { name: "Name", kind: "string", format: "name", priority: 1 },
];

pub(super) fn service(service: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &service["spec"];
    let ports: Vec<String> = list(spec, "ports").iter().map(port).collect();
    let external = match spec["type"].as_str() {
        Some("ExternalName") => word(&spec["externalName"]),
        Some("LoadBalancer") => "<pending>".to_owned(),
        _ => "<none>".to_owned(),
    };
    vec![
        json!(meta::name(service)),
        spec["type"].clone(),
        json!(word(&spec["clusterIP"])),
        json!(external),
        json!(or_none(&ports.join(","))),
        json!(age(service, now)),
        json!(map_text(spec.get("selector"))),
    ]
}

fn port(port: &Value) -> String {
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    match port["nodePort"].as_i64().unwrap_or(0) {
        0 => format!("{}/{protocol}", port["port"]),
        node_port => format!("{}:{node_port}/{protocol}", port["port"]),
    }
}

pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let (status, info) = (&node["status"], &node["status"]["nodeInfo"]);
    let ready = list(status, "conditions").iter().find(|c| c["type"] == "Ready");
    let ready = match ready.map(|c| &c["status"]) {
        None => "Unknown",
        Some(state) if state == "True" => "Ready",
        Some(_) => "NotReady",
    };
    let cordoned = if node["spec"]["unschedulable"] == true { ",SchedulingDisabled" } else { "" };
    let prefix = "node-role.kubernetes.io/";
    let mut roles: Vec<&str> =
        meta::labels(node).into_iter().flatten().filter_map(|(key, _)| key.strip_prefix(prefix)).collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let found = list(status, "addresses").iter().find(|a| a["type"] == kind);
        found.map_or_else(|| "<none>".to_owned(), |a| word(&a["address"]))
    };
    let known = |value: &Value| value.as_str().filter(|v| !v.is_empty()).unwrap_or("<unknown>").to_owned();
    vec![
        json!(meta::name(node)),
        json!(format!("{ready}{cordoned}")),
        json!(or_none(&roles.join(","))),
        json!(age(node, now)),
        json!(info["kubeletVersion"].as_str().unwrap_or("")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(known(&info["osImage"])),
        json!(known(&info["kernelVersion"])),
        json!(known(&info["containerRuntimeVersion"])),
    ]
}

/// At most three addresses, then how many more.
fn abridge(all: &[String]) -> String {
    match all.len() {
        0 => "<none>".to_owned(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

pub(super) fn endpoints(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(endpoints, "subsets") {
        let ips = || list(subset, "addresses").iter().filter_map(|a| a["ip"].as_str());
        let ports = list(subset, "ports");
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for port in ports {
            all.extend(ips().map(|ip| format!("{ip}:{}", port["port"])));
        }
    }
    abridge(&all)
}

pub(super) fn endpoint_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let addresses: Vec<String> = list(slice, "endpoints")
        .iter()
        .flat_map(|e| list(e, "addresses"))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let ports: Vec<String> = list(slice, "ports").iter().map(|p| p["port"].to_string()).collect();
    let shown = |all: &[String]| if all.is_empty() { "<unset>".to_owned() } else { abridge(all) };
    vec![
        json!(meta::name(slice)),
        slice["addressType"].clone(),
        json!(shown(&ports)),
        json!(shown(&addresses)),
        json!(age(slice, now)),
    ]
}

pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |fields: &[&str]| {
        let found = fields.iter().filter_map(|f| event[*f].as_str()).find(|t| !t.is_empty());
        found.unwrap_or("").to_owned()
    };
    let object = &event["involvedObject"];
    let kind = object["kind"].as_str().unwrap_or("").to_lowercase();
    let component =
        event["source"]["component"].as_str().or(event["reportingComponent"].as_str()).unwrap_or("");
    let source = match event["source"]["host"].as_str() {
        Some(host) if !host.is_empty() => format!("{component}, {host}"),
        _ => component.to_owned(),
    };
    vec![
        json!(since(&first_of(&["lastTimestamp", "eventTime", "firstTimestamp"]), now)),
        event["type"].clone(),
        event["reason"].clone(),
        json!(format!("{kind}/{}", object["name"].as_str().unwrap_or(""))),
        json!(object["fieldPath"].as_str().unwrap_or("")),
        json!(source),
        json!(event["message"].as_str().unwrap_or("").trim()),
        json!(since(&first_of(&["firstTimestamp", "eventTime"]), now)),
        json!(event["count"].as_i64().unwrap_or(1)),
        json!(meta::name(event)),
    ]
}
