//! Endpoints and EndpointSlices: who answers for a Service. Services without a selector are somebody else's.
//!
//! Source: k8s.io/kubernetes/pkg/controller/{endpoint,endpointslice}.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oarlock_api::catalogue::{ENDPOINT_SLICES, ENDPOINTS, Kind, PODS, SERVICES};
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use serde_json::{Map, Value, json};

use super::template::owner_reference;
use super::{Settings, own};
use crate::change::{Change, Part, Plan};
use crate::world::{Key, PodView, World};

/// Endpoints of one slice.
const SLICE: usize = 100;
/// Addresses of one Endpoints object.
const MOST: usize = 1000;
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const MANAGER: &str = "endpointslice-controller.k8s.io";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == ENDPOINTS {
        return vec![key.clone()];
    }
    if *kind == ENDPOINT_SLICES {
        let slice = world.get(&ENDPOINT_SLICES, key);
        let service = slice.and_then(|s| s.value["metadata"]["labels"][SERVICE_LABEL].as_str());
        return service.map(|name| (key.0.clone(), name.to_owned())).into_iter().collect();
    }
    if *kind != PODS {
        return own(kind, &SERVICES, key);
    }
    let Some(pod) = world.pod(key) else { return Vec::new() };
    let services = world.list_in(&SERVICES, &key.0);
    services
        .filter(|(_, s)| selector(&s.value).is_some_and(|s| s.matches_with(|k| pod.label(k))))
        .map(|(k, _)| k.clone())
        .collect()
}

fn selector(service: &Value) -> Option<Selector> {
    let map = service["spec"]["selector"].as_object().filter(|m| !m.is_empty())?;
    (service["spec"]["type"] != "ExternalName").then(|| Selector::from_map(map))
}

/// One endpoint.
#[derive(Debug, Clone)]
struct Endpoint<'w> {
    key: &'w Key,
    pod: &'w PodView,
    ip: &'w str,
    ready: bool,
    serving: bool,
    /// The zone of its node.
    zone: Option<&'w str>,
    /// Whether clients of its zone should prefer it.
    prefer_close: bool,
}

/// Ports as endpoints have them; endpoints with the same ports share slices and subsets.
type Ports = Vec<Value>;

pub(super) fn plan(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let service = world.get(&SERVICES, key).map(|held| &*held.value);
    let Some((service, selector)) = service.and_then(|s| Some((s, selector(s)?))) else {
        return Plan::of(leftovers(world, key, service.is_some()));
    };
    let groups = groups(world, key, service, &selector);
    let mut changes = slices(world, key, service, &groups);
    changes.extend(endpoints(world, key, service, &groups));
    Plan::of(changes)
}

/// What is left of a Service that is gone. One that merely has no selector keeps what its owner wrote.
fn leftovers(world: &World, key: &Key, exists: bool) -> Vec<Change> {
    if exists {
        return Vec::new();
    }
    let ours = |value: &Value| value["metadata"]["labels"][MANAGER_LABEL] == MANAGER;
    let slices = world
        .list_in(&ENDPOINT_SLICES, &key.0)
        .filter(|(_, s)| s.value["metadata"]["labels"][SERVICE_LABEL] == key.1.as_str() && ours(&s.value));
    let mut changes: Vec<Change> = slices.map(|(k, s)| delete(&ENDPOINT_SLICES, k, &s.value)).collect();
    changes.extend(world.get(&ENDPOINTS, key).map(|held| delete(&ENDPOINTS, key, &held.value)));
    changes
}

fn delete(kind: &'static Kind, key: &Key, value: &Value) -> Change {
    Change::Delete {
        kind,
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: meta::uid(value).to_owned(),
        grace: None,
    }
}

fn groups<'w>(
    world: &'w World,
    key: &Key,
    service: &Value,
    selector: &Selector,
) -> Vec<(Ports, Vec<Endpoint<'w>>)> {
    let publish_all = service["spec"]["publishNotReadyAddresses"] == true;
    let prefer_close = service["spec"]["trafficDistribution"] == "PreferClose";
    let mut groups: BTreeMap<String, (Ports, Vec<Endpoint<'w>>)> = BTreeMap::new();
    for (pod_key, pod) in world.pods_in(&key.0) {
        let Some(ip) = pod.ip.as_deref() else { continue };
        if pod.has_ended() || !selector.matches_with(|k| pod.label(k)) {
            continue;
        }
        let serving = pod.ready || publish_all;
        let ready = publish_all || (pod.ready && !pod.is_terminating());
        let ports = ports(service, pod);
        let text = Value::from(ports.clone()).to_string();
        let node = pod.node.as_deref().and_then(|name| world.node(name));
        let zone = node.and_then(|node| node.labels.get(ZONE_LABEL)).map(AsRef::as_ref);
        let endpoint = Endpoint { key: pod_key, pod, ip, ready, serving, zone, prefer_close };
        groups.entry(text).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    groups.into_values().collect()
}

/// The Service's ports as this pod serves them; a name that the pod does not know leaves its port out.
fn ports(service: &Value, pod: &PodView) -> Ports {
    let list = service["spec"]["ports"].as_array().map_or(&[][..], Vec::as_slice);
    let resolved = list.iter().filter_map(|port| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let number = match &port["targetPort"] {
            Value::String(name) => {
                let known = pod.ports.iter().find(|(n, p, _)| **n == **name && **p == *protocol);
                i64::from(known?.2)
            }
            Value::Number(number) => number.as_i64()?,
            _ => port["port"].as_i64()?,
        };
        let name = port["name"].as_str().unwrap_or("");
        Some(json!({"name": name, "port": number, "protocol": protocol}))
    });
    resolved.collect()
}

fn target(endpoint: &Endpoint<'_>) -> Value {
    json!({"kind": "Pod", "namespace": endpoint.key.0, "name": endpoint.key.1, "uid": endpoint.pod.uid})
}

fn slice_endpoint(endpoint: &Endpoint<'_>) -> Value {
    let mut value = json!({
        "addresses": [endpoint.ip],
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.pod.is_terminating(),
        },
        "targetRef": target(endpoint),
    });
    if let Some(node) = &endpoint.pod.node {
        value["nodeName"] = json!(node);
    }
    if let Some(hostname) = &endpoint.pod.hostname {
        value["hostname"] = json!(hostname);
    }
    if let Some(zone) = endpoint.zone {
        value["zone"] = json!(zone);
        if endpoint.prefer_close && endpoint.ready {
            value["hints"] = json!({"forZones": [{"name": zone}]});
        }
    }
    value
}

/// Slices as they should be against slices as they are: an endpoint stays in its slice as long as it exists.
fn slices(world: &World, key: &Key, service: &Value, groups: &[(Ports, Vec<Endpoint<'_>>)]) -> Vec<Change> {
    let mut present: Vec<(&Key, &Value, u64)> = world
        .list_in(&ENDPOINT_SLICES, &key.0)
        .filter(|(_, s)| {
            let labels = &s.value["metadata"]["labels"];
            labels[SERVICE_LABEL] == key.1.as_str() && labels[MANAGER_LABEL] == MANAGER
        })
        .map(|(k, s)| (k, &*s.value, s.revision))
        .collect();
    let empty = [(Ports::new(), Vec::new())];
    let groups = if groups.is_empty() && present.is_empty() { &empty[..] } else { groups };
    let mut changes = Vec::new();
    for (ports, endpoints) in groups {
        let mut wanted: BTreeMap<&str, &Endpoint<'_>> = endpoints.iter().map(|e| (e.ip, e)).collect();
        let (same, others) = present.into_iter().partition(|(_, s, _)| s["ports"] == json!(ports));
        present = others;
        let same: Vec<(&Key, &Value, u64)> = same;
        let mut contents: Vec<Vec<Value>> = Vec::new();
        for (_, slice, _) in &same {
            let kept = slice["endpoints"].as_array().into_iter().flatten();
            contents.push(
                kept.filter_map(|e| Some(slice_endpoint(wanted.remove(e["addresses"][0].as_str()?)?)))
                    .collect(),
            );
        }
        let mut fresh = wanted.into_values().map(slice_endpoint);
        for content in &mut contents {
            let room = SLICE.saturating_sub(content.len());
            content.extend(fresh.by_ref().take(room));
        }
        for ((slice_key, slice, revision), content) in same.iter().zip(contents) {
            changes.extend(update_slice(slice_key, slice, *revision, content, groups.len() + present.len()));
        }
        let rest: Vec<Value> = fresh.collect();
        let chunks: Vec<&[Value]> =
            if rest.is_empty() && same.is_empty() { vec![&[]] } else { rest.chunks(SLICE).collect() };
        changes.extend(chunks.into_iter().map(|chunk| create_slice(key, service, ports, chunk)));
    }
    // Slices of ports that nobody serves any more; the last one stays, empty.
    if !groups.is_empty() {
        changes.extend(present.iter().map(|(k, s, _)| delete(&ENDPOINT_SLICES, k, s)));
    } else {
        for (k, slice, revision) in present.iter().take(1) {
            changes.extend(update_slice(k, slice, *revision, Vec::new(), 1));
        }
        changes.extend(present.iter().skip(1).map(|(k, s, _)| delete(&ENDPOINT_SLICES, k, s)));
    }
    changes
}

fn update_slice(
    key: &Key,
    slice: &Value,
    revision: u64,
    endpoints: Vec<Value>,
    slices: usize,
) -> Option<Change> {
    if endpoints.is_empty() && slices > 1 {
        return Some(delete(&ENDPOINT_SLICES, key, slice));
    }
    let present = slice["endpoints"].as_array().map_or(&[][..], Vec::as_slice);
    if present == endpoints {
        return None;
    }
    Some(Change::Patch {
        kind: &ENDPOINT_SLICES,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Main,
        patch: json!({"metadata": {"resourceVersion": revision.to_string()}, "endpoints": endpoints}),
    })
}

fn create_slice(key: &Key, service: &Value, ports: &[Value], endpoints: &[Value]) -> Change {
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), json!(key.1));
    labels.insert(MANAGER_LABEL.to_owned(), json!(MANAGER));
    if service["spec"]["clusterIP"] == "None" {
        labels.insert("service.kubernetes.io/headless".to_owned(), json!(""));
    }
    let object = json!({
        "metadata": {
            "generateName": format!("{}-", key.1), "labels": labels, "ownerReferences": [owner_reference(service)],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    });
    Change::Create { kind: &ENDPOINT_SLICES, namespace: key.0.clone(), object }
}

fn address(endpoint: &Endpoint<'_>) -> Value {
    let mut value = json!({"ip": endpoint.ip, "targetRef": target(endpoint)});
    if let Some(node) = &endpoint.pod.node {
        value["nodeName"] = json!(node);
    }
    if let Some(hostname) = &endpoint.pod.hostname {
        value["hostname"] = json!(hostname);
    }
    value
}

fn endpoints(
    world: &World,
    key: &Key,
    service: &Value,
    groups: &[(Ports, Vec<Endpoint<'_>>)],
) -> Option<Change> {
    let mut left = MOST;
    let mut over = false;
    let mut subsets = Vec::new();
    for (ports, group) in groups {
        let mut sorted: Vec<&Endpoint<'_>> =
            group.iter().filter(|e| !e.pod.is_terminating() || e.ready).collect();
        sorted.sort_by_key(|e| e.ip);
        over |= sorted.len() > left;
        sorted.truncate(left);
        left -= sorted.len();
        let ready: Vec<Value> = sorted.iter().filter(|e| e.ready).map(|e| address(e)).collect();
        let waiting: Vec<Value> = sorted.iter().filter(|e| !e.ready).map(|e| address(e)).collect();
        let mut subset = Map::new();
        for (field, list) in
            [("addresses", ready), ("notReadyAddresses", waiting), ("ports", subset_ports(ports))]
        {
            if !list.is_empty() {
                subset.insert(field.to_owned(), json!(list));
            }
        }
        if subset.contains_key("addresses") || subset.contains_key("notReadyAddresses") {
            subsets.push(Value::Object(subset));
        }
    }
    let capacity = if over { json!("truncated") } else { Value::Null };
    let Some(held) = world.get(&ENDPOINTS, key) else {
        let mut metadata = json!({"name": key.1});
        if let Some(labels) = service["metadata"].get("labels") {
            metadata["labels"] = labels.clone();
        }
        let object = json!({"metadata": metadata, "subsets": subsets});
        return Some(Change::Create { kind: &ENDPOINTS, namespace: key.0.clone(), object });
    };
    let present = held.value["subsets"].as_array().map_or(&[][..], Vec::as_slice);
    let marked = &held.value["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"];
    if present == subsets && *marked == capacity {
        return None;
    }
    let subsets = if subsets.is_empty() { Value::Null } else { json!(subsets) };
    let mut patch = json!({"metadata": {"resourceVersion": held.revision.to_string()}, "subsets": subsets});
    if *marked != capacity {
        patch["metadata"]["annotations"] = json!({"endpoints.kubernetes.io/over-capacity": capacity});
    }
    Some(Change::Patch {
        kind: &ENDPOINTS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        part: Part::Main,
        patch,
    })
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
