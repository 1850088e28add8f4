//! The Endpoints object: the old form, of the primary family and of at most a thousand addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use oarlock_api::catalogue::ENDPOINTS;
use oarlock_api::service;
use serde_json::{Map, Value, json};

use super::{Endpoint, HEADLESS_LABEL, OBJECT_LABEL, OBJECT_MANAGER, Ports};
use super::{hostname, labels_of, map_patch, target};
use crate::change::{Change, Part};
use crate::world::{Key, World};

/// Addresses of one object.
const MOST: usize = 1000;
const OVER: &str = "endpoints.kubernetes.io/over-capacity";

pub(super) fn plan(world: &World, key: &Key, service: &Value, all: &[Endpoint<'_>]) -> Option<Change> {
    let spec = &service["spec"];
    let mut labels = labels_of(service);
    labels.insert(OBJECT_LABEL.to_owned(), json!(OBJECT_MANAGER));
    if service::is_headless(spec) {
        labels.insert(HEADLESS_LABEL.to_owned(), json!(""));
    }
    // A pod that serves none of the ports is no endpoint; a headless Service needs no ports.
    let bare = spec["ports"].as_array().is_none_or(Vec::is_empty);
    let all = all.iter().filter(|e| (bare || !e.ports.is_empty()) && (!e.pod.is_terminating() || e.ready));
    let (subsets, over) = subsets(&key.1, all);
    let capacity = if over { json!("truncated") } else { Value::Null };
    let Some(held) = world.get(&ENDPOINTS, key) else {
        let mut metadata = json!({"name": key.1, "labels": labels});
        if over {
            metadata["annotations"] = json!({OVER: capacity});
        }
        let object = json!({"metadata": metadata, "subsets": subsets});
        return Some(Change::Create { kind: &ENDPOINTS, namespace: key.0.clone(), object });
    };
    let present = held.value["subsets"].as_array().map_or(&[][..], Vec::as_slice);
    let metadata = &held.value["metadata"];
    let (marked, relabel) = (&metadata["annotations"][OVER], map_patch(&metadata["labels"], &labels));
    if present == subsets && *marked == capacity && relabel.is_none() {
        return None;
    }
    let subsets = if subsets.is_empty() { Value::Null } else { json!(subsets) };
    let mut patch = json!({"metadata": {"resourceVersion": held.revision.to_string()}, "subsets": subsets});
    if *marked != capacity {
        patch["metadata"]["annotations"] = json!({OVER: capacity});
    }
    if let Some(labels) = relabel {
        patch["metadata"]["labels"] = labels;
    }
    Some(Change::Patch {
        kind: &ENDPOINTS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Main,
        patch,
    })
}

/// Addresses with the same ports share a subset. Those that are ready come first when there are too many.
fn subsets<'e>(service: &str, all: impl Iterator<Item = &'e Endpoint<'e>>) -> (Vec<Value>, bool) {
    let mut sorted: Vec<&Endpoint<'_>> = all.collect();
    sorted.sort_by_cached_key(|e| (!e.ready, e.ip.parse::<IpAddr>().ok()));
    let over = sorted.len() > MOST;
    sorted.truncate(MOST);
    let mut groups: BTreeMap<String, (&Ports, Vec<Value>, Vec<Value>)> = BTreeMap::new();
    for endpoint in sorted {
        let text = Value::from(endpoint.ports.clone()).to_string();
        let group = groups.entry(text).or_insert_with(|| (&endpoint.ports, Vec::new(), Vec::new()));
        if endpoint.ready { &mut group.1 } else { &mut group.2 }.push(address(endpoint, service));
    }
    let subset = |(ports, ready, waiting): (&Ports, Vec<Value>, Vec<Value>)| {
        let fields = [("addresses", ready), ("notReadyAddresses", waiting), ("ports", subset_ports(ports))];
        let filled = fields.into_iter().filter(|(_, list)| !list.is_empty());
        Value::Object(filled.map(|(field, list)| (field.to_owned(), json!(list))).collect::<Map<_, _>>())
    };
    (groups.into_values().map(subset).collect(), over)
}

fn address(endpoint: &Endpoint<'_>, service: &str) -> Value {
    let mut value = json!({"ip": endpoint.ip, "targetRef": target(endpoint)});
    if let Some(node) = &endpoint.pod.node {
        value["nodeName"] = json!(node);
    }
    if let Some(hostname) = hostname(endpoint, service) {
        value["hostname"] = json!(hostname);
    }
    value
}

/// Upstream leaves the empty name of a single port out of Endpoints.
fn subset_ports(ports: &[Value]) -> Vec<Value> {
    let mut ports = ports.to_vec();
    for port in &mut ports {
        if port["name"] == ""
            && let Some(map) = port.as_object_mut()
        {
            map.shift_remove("name");
        }
    }
    ports
}
