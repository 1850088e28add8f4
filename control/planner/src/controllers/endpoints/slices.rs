//! Slices as they should be against slices as they are: an endpoint stays in its slice as long as it exists, and a change
//! writes as few slices as it can.

use std::collections::BTreeMap;

use oarlock_api::catalogue::ENDPOINT_SLICES;
use oarlock_api::service::{self, Family};
use serde_json::{Map, Value, json};

use super::super::template::owner_reference;
use super::{Endpoint, HEADLESS_LABEL, MANAGER, MANAGER_LABEL, Ports, SERVICE_LABEL};
use super::{delete, hostname, labels_of, map_patch, target};
use crate::change::{Change, Part};
use crate::world::{Held, Key};

/// Endpoints of one slice.
const SLICE: usize = 100;

/// What all slices of one owner have in common.
pub(super) struct Frame {
    pub(super) namespace: String,
    /// The Service's name.
    pub(super) service: String,
    pub(super) labels: Map<String, Value>,
    pub(super) annotations: Map<String, Value>,
    /// A `metav1.OwnerReference`.
    pub(super) owner: Value,
    /// Endpoints of one slice.
    pub(super) most: usize,
    /// Whether a slice shows that there are no endpoints.
    pub(super) placeholder: bool,
}

/// Endpoints of one kind of slice: the ports as text, to sort by; the ports; the endpoints as slices show them.
pub(super) type Groups = BTreeMap<String, (Ports, Vec<Value>)>;

/// A slice as it should be, and where it stands now.
struct Next<'w> {
    held: Option<(&'w Key, &'w Held)>,
    ports: Ports,
    endpoints: Vec<Value>,
}

/// The slices of a Service's pods.
pub(super) fn of_pods(
    key: &Key,
    service: &Value,
    by_family: &[(Family, Vec<Endpoint<'_>>)],
    present: &[(&Key, &Held)],
) -> Vec<Change> {
    let mut labels = labels_of(service);
    labels.insert(SERVICE_LABEL.to_owned(), json!(key.1));
    labels.insert(MANAGER_LABEL.to_owned(), json!(MANAGER));
    if service::is_headless(&service["spec"]) {
        labels.insert(HEADLESS_LABEL.to_owned(), json!(""));
    }
    let frame = Frame {
        namespace: key.0.clone(),
        service: key.1.clone(),
        labels,
        annotations: Map::new(),
        owner: owner_reference(service),
        most: SLICE,
        placeholder: true,
    };
    let prefer_close = service["spec"]["trafficDistribution"] == "PreferClose";
    let wanted = by_family.iter().map(|(family, endpoints)| {
        let mut groups = Groups::new();
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.placed) {
            let text = Value::from(endpoint.ports.clone()).to_string();
            let group = groups.entry(text).or_insert_with(|| (endpoint.ports.clone(), Vec::new()));
            group.1.push(entry(endpoint, &key.1, prefer_close));
        }
        (family.name(), groups)
    });
    reconcile(&frame, wanted.collect(), present)
}

fn entry(endpoint: &Endpoint<'_>, service: &str, prefer_close: bool) -> Value {
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
    if let Some(hostname) = hostname(endpoint, service) {
        value["hostname"] = json!(hostname);
    }
    if let Some(zone) = endpoint.zone {
        value["zone"] = json!(zone);
        if prefer_close && endpoint.ready {
            value["hints"] = json!({"forZones": [{"name": zone}]});
        }
    }
    value
}

/// What leads from the slices that are to those that should be; `wanted` by type of address.
pub(super) fn reconcile(
    frame: &Frame,
    wanted: Vec<(&'static str, Groups)>,
    present: &[(&Key, &Held)],
) -> Vec<Change> {
    let mut left: Vec<(&Key, &Held)> = present.to_vec();
    let mut changes = Vec::new();
    for (kind, groups) in wanted {
        let (mut spare, others) = left.into_iter().partition(|(_, s)| s.value["addressType"] == kind);
        left = others;
        let mut nexts = Vec::new();
        for (ports, endpoints) in groups.into_values() {
            nexts.extend(group(frame, ports, endpoints, &mut spare));
        }
        if nexts.is_empty() && frame.placeholder {
            nexts.push(Next { held: None, ports: Ports::new(), endpoints: Vec::new() });
        }
        for mut next in nexts {
            // A slice that would go becomes one that is to come.
            next.held = next.held.or_else(|| spare.pop());
            changes.extend(next.change(frame, kind));
        }
        changes.extend(spare.iter().map(|(k, s)| delete(&ENDPOINT_SLICES, k, &s.value)));
    }
    changes.extend(left.iter().map(|(k, s)| delete(&ENDPOINT_SLICES, k, &s.value)));
    changes
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What makes an endpoint the same one: its address and whose it is.
fn identity(endpoint: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    (text(&endpoint["addresses"][0]), text(&endpoint["targetRef"]["uid"]))
}

/// The slices of endpoints with the same ports. Takes those that stay out of `present`.
fn group<'w>(
    frame: &Frame,
    ports: Ports,
    endpoints: Vec<Value>,
    present: &mut Vec<(&'w Key, &'w Held)>,
) -> Vec<Next<'w>> {
    let mut wanted: BTreeMap<_, _> = endpoints.into_iter().map(|e| (identity(&e), e)).collect();
    let mut nexts = Vec::new();
    present.retain(|(key, held)| {
        if list(&held.value["ports"]) != ports {
            return true;
        }
        let known = list(&held.value["endpoints"]).iter();
        let endpoints: Vec<Value> = known.filter_map(|e| wanted.remove(&identity(e))).collect();
        let stays = !endpoints.is_empty();
        if stays {
            nexts.push(Next { held: Some((*key, *held)), ports: ports.clone(), endpoints });
        }
        !stays
    });
    let mut fresh = wanted.into_values().collect::<Vec<_>>().into_iter();
    // First into slices that are written anyway.
    for next in nexts.iter_mut().filter(|next| next.differs()) {
        let room = frame.most.saturating_sub(next.endpoints.len());
        next.endpoints.extend(fresh.by_ref().take(room));
    }
    // Then whole new slices, and the rest into the fullest slice that has room for all of it.
    while fresh.len() > 0 {
        let rest = fresh.len();
        let fits = |next: &&mut Next<'_>| next.endpoints.len() + rest <= frame.most;
        let place = nexts.iter_mut().filter(fits).max_by_key(|next| next.endpoints.len());
        match place.filter(|_| rest < frame.most) {
            Some(next) => next.endpoints.extend(fresh.by_ref()),
            None => {
                let endpoints = fresh.by_ref().take(frame.most).collect();
                nexts.push(Next { held: None, ports: ports.clone(), endpoints });
            }
        }
    }
    nexts
}

impl Next<'_> {
    fn differs(&self) -> bool {
        self.held.is_none_or(|(_, held)| list(&held.value["endpoints"]) != self.endpoints)
    }

    fn change(self, frame: &Frame, kind: &str) -> Option<Change> {
        let Some((key, held)) = self.held else {
            let mut metadata = json!({
                "generateName": format!("{}-", frame.service), "labels": frame.labels, "ownerReferences": [frame.owner],
            });
            if !frame.annotations.is_empty() {
                metadata["annotations"] = json!(frame.annotations);
            }
            let object = json!({
                "metadata": metadata, "addressType": kind, "endpoints": self.endpoints, "ports": self.ports,
            });
            return Some(Change::Create {
                kind: &ENDPOINT_SLICES,
                namespace: frame.namespace.clone(),
                object,
            });
        };
        let metadata = &held.value["metadata"];
        let labels = map_patch(&metadata["labels"], &frame.labels);
        let annotations = map_patch(&metadata["annotations"], &frame.annotations);
        let ports = list(&held.value["ports"]) != self.ports;
        let endpoints = self.differs();
        if labels.is_none() && annotations.is_none() && !ports && !endpoints {
            return None;
        }
        let mut patch = json!({"metadata": {"resourceVersion": held.revision.to_string()}});
        for (field, map) in [("labels", labels), ("annotations", annotations)] {
            if let Some(map) = map {
                patch["metadata"][field] = map;
            }
        }
        if ports {
            patch["ports"] = json!(self.ports);
        }
        if endpoints {
            patch["endpoints"] = json!(self.endpoints);
        }
        Some(Change::Patch {
            kind: &ENDPOINT_SLICES,
            namespace: key.0.clone(),
            name: key.1.clone(),
            part: Part::Main,
            patch,
        })
    }
}
