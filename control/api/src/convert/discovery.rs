//! discovery.k8s.io/v1beta1 EndpointSlice: an endpoint's zone and node are in its map `topology`.

use serde_json::{Map, Value, json};

use crate::meta::map_at;

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

pub(super) fn to_v1beta1(slice: &mut Map<String, Value>) {
    for endpoint in endpoints(slice) {
        let zone = endpoint.shift_remove("zone");
        let node = endpoint.get("nodeName").cloned();
        let topology = endpoint.shift_remove("deprecatedTopology");
        if zone.is_none() && node.is_none() && topology.is_none() {
            continue;
        }
        endpoint.insert("topology".to_owned(), topology.unwrap_or_else(|| json!({})));
        let topology = map_at(endpoint, "topology");
        for (key, value) in [(ZONE, zone), (HOST, node)] {
            if let Some(value) = value {
                topology.insert(key.to_owned(), value);
            }
        }
    }
}

pub(super) fn from_v1beta1(slice: &mut Map<String, Value>) {
    for endpoint in endpoints(slice) {
        let Some(Value::Object(mut topology)) = endpoint.shift_remove("topology") else { continue };
        if let Some(zone) = topology.shift_remove(ZONE) {
            endpoint.insert("zone".to_owned(), zone);
        }
        if let Some(node) = topology.shift_remove(HOST) {
            endpoint.entry("nodeName").or_insert(node);
        }
        if !topology.is_empty() {
            endpoint.insert("deprecatedTopology".to_owned(), Value::Object(topology));
        }
    }
}

fn endpoints(slice: &mut Map<String, Value>) -> impl Iterator<Item = &mut Map<String, Value>> {
    let endpoints = slice.get_mut("endpoints").and_then(Value::as_array_mut);
    endpoints.into_iter().flatten().filter_map(Value::as_object_mut)
}
