//! Endpoints that somebody wrote for a Service without a selector, as slices: what the dataplane reads is slices alone.

use std::net::IpAddr;

use oarlock_api::catalogue::{ENDPOINT_SLICES, ENDPOINTS};
use oarlock_api::meta;
use oarlock_api::service::Family;
use serde_json::{Map, Value, json};

use super::super::template::owner_reference;
use super::slices::{Frame, Groups, reconcile};
use super::{MANAGER, MANAGER_LABEL, MIRROR, Ports, SERVICE_LABEL, delete, labels_of, slices_of};
use crate::change::Change;
use crate::world::{Held, Key, World};

/// Addresses of one subset that are mirrored.
const MOST: usize = 1000;
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotations that are about the Endpoints object itself.
const OWN_ANNOTATIONS: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub(super) fn plan(world: &World, key: &Key) -> Vec<Change> {
    let present: Vec<(&Key, &Held)> = slices_of(world, key, MIRROR).collect();
    let endpoints = world.get(&ENDPOINTS, key).map(|held| &*held.value).filter(|e| is_mirrored(e));
    let Some(endpoints) = endpoints else {
        return present.iter().map(|(k, s)| delete(&ENDPOINT_SLICES, k, &s.value)).collect();
    };
    let mut labels = labels_of(endpoints);
    labels.insert(SERVICE_LABEL.to_owned(), json!(key.1));
    labels.insert(MANAGER_LABEL.to_owned(), json!(MIRROR));
    let mut annotations = endpoints["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    let frame = Frame {
        namespace: key.0.clone(),
        service: key.1.clone(),
        labels,
        annotations,
        owner: owner_reference(endpoints),
        most: MOST,
        placeholder: false,
    };
    let wanted = [Family::V4, Family::V6].map(|family| (family.name(), groups(endpoints, family)));
    let mut changes = reconcile(&frame, wanted.into(), &present);
    // Of the time when the Service had a selector: the Endpoints object says it all now.
    changes.extend(slices_of(world, key, MANAGER).map(|(k, s)| delete(&ENDPOINT_SLICES, k, &s.value)));
    changes
}

fn is_mirrored(endpoints: &Value) -> bool {
    endpoints["metadata"]["labels"][SKIP_LABEL] != "true"
        && endpoints["metadata"]["annotations"].get(LEADER).is_none()
        && !meta::is_terminating(endpoints)
}

fn groups(endpoints: &Value, family: Family) -> Groups {
    let mut groups = Groups::new();
    for subset in list(&endpoints["subsets"]) {
        let ports = ports(subset);
        let all = [("addresses", true), ("notReadyAddresses", false)].into_iter();
        let all = all.flat_map(|(field, ready)| list(&subset[field]).iter().map(move |a| (a, ready)));
        let ours = all.take(MOST).filter(|(address, _)| {
            let ip = address["ip"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            ip.is_some_and(|ip| Family::of(ip) == family)
        });
        let entries: Vec<Value> = ours.map(|(address, ready)| entry(address, ready)).collect();
        if !entries.is_empty() {
            let text = Value::from(ports.clone()).to_string();
            groups.entry(text).or_insert_with(|| (ports, Vec::new())).1.extend(entries);
        }
    }
    groups
}

fn entry(address: &Value, ready: bool) -> Value {
    let mut value = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
    for field in ["targetRef", "nodeName", "hostname"] {
        if let Some(given) = address.get(field).filter(|given| !given.is_null() && **given != "") {
            value[field] = given.clone();
        }
    }
    value
}

fn ports(subset: &Value) -> Ports {
    let port = |port: &Value| {
        let mut all = Map::new();
        all.insert("name".to_owned(), json!(port["name"].as_str().unwrap_or("")));
        all.insert("port".to_owned(), port["port"].clone());
        all.insert("protocol".to_owned(), json!(port["protocol"].as_str().unwrap_or("TCP")));
        if let Some(app) = port["appProtocol"].as_str() {
            all.insert("appProtocol".to_owned(), json!(app));
        }
        Value::Object(all)
    };
    list(&subset["ports"]).iter().map(port).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
