//! EndpointSlices of discovery.k8s.io/v1beta1, as v1 has them. Pure.
//!
//! v1beta1 (until Kubernetes 1.24) tells node and zone in `topology`; v1 has fields for them. `nodeName` is in both.

use kube::api::DynamicObject;
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use serde_json::Value;

/// The same slice in v1, if it can be read.
pub(super) fn of_v1beta1(slice: DynamicObject) -> Result<EndpointSlice, serde_json::Error> {
    let metadata = slice.metadata;
    let mut data = slice.data;
    for endpoint in data.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(endpoint) = endpoint.as_object_mut() else { continue };
        let Some(topology) = endpoint.remove("topology") else { continue };
        for (label, field) in
            [("kubernetes.io/hostname", "nodeName"), ("topology.kubernetes.io/zone", "zone")]
        {
            if let Some(value) = topology.get(label).filter(|_| !endpoint.contains_key(field)) {
                endpoint.insert(field.to_owned(), value.clone());
            }
        }
    }
    let mut slice: EndpointSlice = serde_json::from_value(data)?;
    slice.metadata = metadata;
    Ok(slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_and_zones_come_from_the_topology_where_there_is_no_field() {
        let old = json!({"metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true},
                 "topology": {"kubernetes.io/hostname": "n1", "topology.kubernetes.io/zone": "z1"}},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "topology": {"kubernetes.io/hostname": "host2"}}]});
        let slice = of_v1beta1(serde_json::from_value(old).unwrap()).unwrap();
        assert_eq!(slice.metadata.name.as_deref(), Some("web-1"));
        assert_eq!(slice.ports.unwrap()[0].port, Some(80));
        let endpoint = |index: usize| {
            let endpoint = &slice.endpoints[index];
            (endpoint.node_name.as_deref(), endpoint.zone.as_deref())
        };
        assert_eq!((endpoint(0), endpoint(1)), ((Some("n1"), Some("z1")), (Some("n2"), None)));
    }

    #[test]
    fn a_slice_that_is_none_is_refused() {
        let odd = json!({"metadata": {"name": "x"}, "endpoints": "many"});
        assert!(of_v1beta1(serde_json::from_value(odd).unwrap()).is_err());
    }
}
