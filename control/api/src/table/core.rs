//! Rows of Services, nodes, endpoints and events.

use std::collections::BTreeSet;

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
    vec![
        json!(meta::name(service)),
        json!(spec["type"].as_str().unwrap_or("")),
        json!(word(&spec["clusterIP"])),
        json!(external_ip(service)),
        json!(or_none(&ports.join(","))),
        json!(age(service, now)),
        json!(map_text(spec.get("selector"))),
    ]
}

/// Where a Service can be reached from outside.
fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let external: Vec<&str> = list(spec, "externalIPs").iter().filter_map(Value::as_str).collect();
    match spec["type"].as_str() {
        Some("ExternalName") => word(&spec["externalName"]),
        Some("LoadBalancer") => {
            let given = list(&service["status"]["loadBalancer"], "ingress").iter();
            let given: BTreeSet<&str> =
                given.filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str())).collect();
            let all: Vec<&str> = given.into_iter().chain(external).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => or_none(&external.join(",")).to_owned(),
    }
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
    let role = |(key, value): (&'_ String, &'_ Value)| {
        let named = if key == "kubernetes.io/role" { value.as_str() } else { key.strip_prefix(prefix) };
        named.filter(|r| !r.is_empty()).map(str::to_owned)
    };
    let roles: BTreeSet<String> = meta::labels(node).into_iter().flatten().filter_map(role).collect();
    let roles: Vec<String> = roles.into_iter().collect();
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
            all.extend(ips().map(|ip| host_port(ip, &port["port"])));
        }
    }
    abridge(&all)
}

fn host_port(ip: &str, port: &Value) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoint_slice(slice: &Value, now: Timestamp) -> Vec<Value> {
    let addresses: Vec<String> = list(slice, "endpoints")
        .iter()
        .flat_map(|e| list(e, "addresses"))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let port = |port: &Value| match (port["port"].as_i64(), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    };
    let ports: Vec<String> = list(slice, "ports").iter().map(port).collect();
    let shown = |all: &[String]| if all.is_empty() { "<unset>".to_owned() } else { abridge(all) };
    vec![
        json!(meta::name(slice)),
        json!(slice["addressType"].as_str().unwrap_or("")),
        json!(shown(&ports)),
        json!(shown(&addresses)),
        json!(age(slice, now)),
    ]
}

pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let text_at = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let either = |old: &Value, new: &Value| {
        let old = text_at(old);
        if old.is_empty() { text_at(new) } else { old }
    };
    let first = either(&event["firstTimestamp"], &event["eventTime"]);
    let mut last = either(&event["lastTimestamp"], &json!(first));
    let mut count = event["count"].as_i64().filter(|c| *c != 0).unwrap_or(1);
    if event["series"].is_object() {
        last = text_at(&event["series"]["lastObservedTime"]);
        count = event["series"]["count"].as_i64().unwrap_or(0);
    }
    let object = &event["involvedObject"];
    let kind = text_at(&object["kind"]).to_lowercase();
    let target = match object["name"].as_str() {
        Some(name) if !name.is_empty() => format!("{kind}/{name}"),
        _ => kind,
    };
    let component = either(&event["source"]["component"], &event["reportingComponent"]);
    let instance = either(&event["source"]["host"], &event["reportingInstance"]);
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        json!(since(&last, now)),
        json!(text_at(&event["type"])),
        json!(text_at(&event["reason"])),
        json!(target),
        json!(text_at(&object["fieldPath"])),
        json!(source),
        json!(event["message"].as_str().unwrap_or("").trim()),
        json!(since(&first, now)),
        json!(count),
        json!(meta::name(event)),
    ]
}

/// `pods: 1/2, requests.cpu: 500m/1`, and the same for limits: what is used of what there is.
pub(super) fn quota(quota: &Value) -> [String; 2] {
    let status = &quota["status"];
    let mut names: Vec<&String> =
        status["hard"].as_object().into_iter().flat_map(|hard| hard.keys()).collect();
    names.sort_unstable();
    let shown = |limits: bool| {
        let ours = names.iter().filter(|name| name.starts_with("limits.") == limits);
        let amount = |field: &str, name: &str| status[field][name].as_str().unwrap_or("0").to_owned();
        let shown: Vec<String> =
            ours.map(|name| format!("{name}: {}/{}", amount("used", name), amount("hard", name))).collect();
        shown.join(", ")
    };
    [shown(false), shown(true)]
}
