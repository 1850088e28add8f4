//! Endpoints and EndpointSlices: who answers for a Service. What somebody else writes for a Service without a selector is
//! mirrored into slices.
//!
//! Source: k8s.io/kubernetes/pkg/controller/{endpoint,endpointslice,endpointslicemirroring} and k8s.io/endpointslice.

mod mirror;
mod object;
mod slices;

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use oarlock_api::catalogue::{ENDPOINT_SLICES, ENDPOINTS, Kind, NODES, PODS, SERVICES};
use oarlock_api::meta;
use oarlock_api::service::{self, ENDPOINTS_MANAGED_BY as OBJECT_LABEL, Family};
use serde_json::{Map, Value, json};

use super::{Settings, own};
use crate::change::{Change, Plan};
use crate::world::{Held, Key, PodView, World};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const OBJECT_MANAGER: &str = "endpoint-controller";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == ENDPOINTS {
        return vec![key.clone()];
    }
    if *kind == ENDPOINT_SLICES {
        let slice = world.get(&ENDPOINT_SLICES, key);
        let service = slice.and_then(|s| s.value["metadata"]["labels"][SERVICE_LABEL].as_str());
        return service.map(|name| (key.0.clone(), name.to_owned())).into_iter().collect();
    }
    if *kind == NODES {
        // A node that only says that it is alive changes nothing.
        if world.node(&key.1).is_some_and(|node| !node.moved) {
            return Vec::new();
        }
        let all = world.pods_on(&key.1).flat_map(|(pod_key, pod)| services_of(world, pod_key, pod));
        return all.collect::<BTreeSet<Key>>().into_iter().collect();
    }
    if *kind != PODS {
        return own(kind, &SERVICES, key);
    }
    world.pod(key).map(|pod| services_of(world, key, pod)).unwrap_or_default()
}

fn services_of(world: &World, key: &Key, pod: &PodView) -> Vec<Key> {
    let services = world.list_in(&SERVICES, &key.0);
    services.filter(|(_, s)| selects(&s.value["spec"], pod)).map(|(k, _)| k.clone()).collect()
}

fn selects(spec: &Value, pod: &PodView) -> bool {
    let Some(selector) = spec["selector"].as_object().filter(|selector| !selector.is_empty()) else {
        return false;
    };
    service::kind(spec) != "ExternalName"
        && selector.iter().all(|(key, value)| pod.label(key).is_some_and(|label| *value == label))
}

/// One endpoint.
#[derive(Debug, Clone)]
struct Endpoint<'w> {
    key: &'w Key,
    pod: &'w PodView,
    ip: &'w str,
    /// For new connections.
    ready: bool,
    /// Whether the pod says that it can answer, ending or not.
    serving: bool,
    /// Whether its node is known.
    placed: bool,
    /// The zone of its node.
    zone: Option<&'w str>,
    /// The Service's ports as this pod serves them.
    ports: Ports,
}

/// Ports as endpoints have them; endpoints with the same ports share slices and subsets.
type Ports = Vec<Value>;

pub(super) fn plan(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(held) = world.get(&SERVICES, key) else { return Plan::of(leftovers(world, key)) };
    let service = &*held.value;
    let spec = &service["spec"];
    if !service::has_selector(spec) {
        return Plan::of(mirror::plan(world, key));
    }
    if service::kind(spec) == "ExternalName" {
        return Plan::nothing();
    }
    let present: Vec<(&Key, &Held)> = slices_of(world, key, MANAGER).collect();
    let families = families(spec);
    let by_family: Vec<(Family, Vec<Endpoint<'_>>)> =
        families.iter().map(|family| (*family, endpoints(world, key, service, *family))).collect();
    let mut changes = slices::of_pods(key, service, &by_family, &present);
    let primary = by_family.first().map(|(_, endpoints)| &endpoints[..]).unwrap_or_default();
    changes.extend(object::plan(world, key, service, primary));
    Plan::of(changes)
}

/// The slices of a Service that one controller keeps.
fn slices_of<'w>(
    world: &'w World,
    key: &'w Key,
    manager: &'static str,
) -> impl Iterator<Item = (&'w Key, &'w Held)> {
    world.slices_of(key).filter(move |(_, s)| s.value["metadata"]["labels"][MANAGER_LABEL] == manager)
}

/// What is left of a Service that is gone. Endpoints that were written before their Service are not ours to remove: that
/// there was one, slices tell.
fn leftovers(world: &World, key: &Key) -> Vec<Change> {
    let slices: Vec<(&Key, &Held)> =
        slices_of(world, key, MANAGER).chain(slices_of(world, key, MIRROR)).collect();
    let mut changes: Vec<Change> =
        slices.iter().map(|(k, s)| delete(&ENDPOINT_SLICES, k, &s.value)).collect();
    if let Some(held) = world.get(&ENDPOINTS, key)
        && (!slices.is_empty() || held.value["metadata"]["labels"][OBJECT_LABEL] == OBJECT_MANAGER)
    {
        changes.push(delete(&ENDPOINTS, key, &held.value));
    }
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

/// The families that a Service is served in, the primary one first.
fn families(spec: &Value) -> Vec<Family> {
    let said = spec["ipFamilies"].as_array().into_iter().flatten();
    let said: Vec<Family> = said.filter_map(|family| Family::parse(family.as_str()?)).collect();
    if !said.is_empty() {
        return said;
    }
    let of_address = service::cluster_ips(spec).find_map(|ip| ip.parse::<IpAddr>().ok()).map(Family::of);
    vec![of_address.unwrap_or(Family::V4)]
}

fn endpoints<'w>(world: &'w World, key: &Key, service: &Value, family: Family) -> Vec<Endpoint<'w>> {
    let spec = &service["spec"];
    let publish_all = spec["publishNotReadyAddresses"] == true;
    let pods = world.pods_in(&key.0).filter(|(_, pod)| !pod.has_ended() && selects(spec, pod));
    let found = pods.filter_map(|(pod_key, pod)| {
        let is_ours = |ip: &&str| ip.parse::<IpAddr>().is_ok_and(|ip| Family::of(ip) == family);
        let ip = pod.ips.iter().map(AsRef::as_ref).find(is_ours)?;
        let node = pod.node.as_deref().and_then(|name| world.node(name));
        Some(Endpoint {
            key: pod_key,
            pod,
            ip,
            ready: publish_all || (pod.ready && !pod.is_terminating()),
            serving: pod.ready,
            placed: publish_all || node.is_some() || pod.node.is_none(),
            zone: node.and_then(|node| node.zone()),
            ports: ports(spec, pod),
        })
    });
    found.collect()
}

/// The Service's ports as this pod serves them; a name that the pod does not know leaves its port out.
fn ports(spec: &Value, pod: &PodView) -> Ports {
    let list = spec["ports"].as_array().map_or(&[][..], Vec::as_slice);
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
        let mut resolved = json!({"name": name, "port": number, "protocol": protocol});
        if let Some(app) = port["appProtocol"].as_str() {
            resolved["appProtocol"] = json!(app);
        }
        Some(resolved)
    });
    resolved.collect()
}

fn target(endpoint: &Endpoint<'_>) -> Value {
    json!({"kind": "Pod", "namespace": endpoint.key.0, "name": endpoint.key.1, "uid": endpoint.pod.uid})
}

/// The name that DNS gives the endpoint below its Service: when the pod asks for it.
fn hostname<'e>(endpoint: &Endpoint<'e>, service: &str) -> Option<&'e str> {
    endpoint.pod.hostname.as_deref().filter(|_| endpoint.pod.subdomain.as_deref() == Some(service))
}

/// An object's labels but for those that controllers own.
fn labels_of(object: &Value) -> Map<String, Value> {
    let mut labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    for reserved in [SERVICE_LABEL, MANAGER_LABEL, HEADLESS_LABEL, OBJECT_LABEL] {
        labels.shift_remove(reserved);
    }
    labels
}

/// A merge patch that makes a map of strings the wanted one; nothing when it is.
fn map_patch(present: &Value, wanted: &Map<String, Value>) -> Option<Value> {
    let none = Map::new();
    let present = present.as_object().unwrap_or(&none);
    if present == wanted {
        return None;
    }
    let gone = present.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = wanted.iter().filter(|(key, value)| present.get(*key) != Some(value));
    Some(Value::Object(gone.chain(changed.map(|(k, v)| (k.clone(), v.clone()))).collect()))
}

#[cfg(test)]
mod tests;
