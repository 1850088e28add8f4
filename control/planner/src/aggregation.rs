//! Whether the Service of an APIService can be asked at all, before it is. Pure.
//!
//! Source: k8s.io/kube-aggregator/pkg/controllers/status/remote.

use std::sync::Arc;

use oarlock_api::aggregation::{Availability, service};
use serde_json::Value;

/// What stands in the way of asking the Service of an APIService.
#[must_use]
pub fn obstacle(api_service: &Value, found: Option<&Value>, slices: &[Arc<Value>]) -> Option<Availability> {
    let named = service(api_service)?;
    let text = |field: &str| named[field].as_str().unwrap_or("");
    let (name, namespace) = (text("name"), text("namespace"));
    let Some(found) = found else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Availability::failed("ServiceNotFound", message));
    };
    if found["spec"]["type"] == "ExternalName" {
        let message = format!(
            "service/{name} in {namespace:?} is of type ExternalName: names outside of the cluster are not asked by this version \
             of Oarlock; name a Service that selects pods"
        );
        return Some(Availability::failed("ServiceTypeNotSupported", message));
    }
    let port = &named["port"];
    let mut ports = found["spec"]["ports"].as_array().into_iter().flatten();
    let Some(listens) = ports.find(|listens| listens["port"] == *port) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Availability::failed("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Availability::failed("EndpointsNotFound", message));
    }
    let port_name = listens["name"].as_str().unwrap_or("");
    if !slices.iter().any(|slice| answers(slice, port_name)) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(Availability::failed("MissingEndpoints", message));
    }
    None
}

/// Whether a slice has somebody ready at a port.
fn answers(slice: &Value, port: &str) -> bool {
    let list = |field: &str| slice[field].as_array().map_or(&[][..], Vec::as_slice);
    let ready = |endpoint: &Value| endpoint["conditions"]["ready"] != false;
    let listens =
        |listens: &Value| listens["name"].as_str().unwrap_or("") == port && !listens["port"].is_null();
    list("endpoints").iter().any(ready) && list("ports").iter().any(listens)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reason(service: Option<Value>, slices: &[Value]) -> String {
        let api_service = json!({"spec": {"service": {"namespace": "d", "name": "s", "port": 443}}});
        let slices: Vec<Arc<Value>> = slices.iter().cloned().map(Arc::new).collect();
        let found = obstacle(&api_service, service.as_ref(), &slices);
        found.map_or_else(String::new, |found| format!("{}: {}", found.reason, found.message))
    }

    #[test]
    fn what_stands_in_the_way_is_said_in_upstreams_words() {
        let service = |kind: &str, port: u16| {
            Some(
                json!({"spec": {"type": kind, "ports": [{"name": "other", "port": 1}, {"name": "https", "port": port}]}}),
            )
        };
        let slice = |ready: Value, name: &str| {
            json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
                "ports": [{"name": name, "port": 8443}]})
        };
        assert_eq!(reason(None, &[]), "ServiceNotFound: service/s in \"d\" is not present");
        assert_eq!(
            reason(service("ClusterIP", 80), &[]),
            "ServicePortError: service/s in \"d\" is not listening on port 443"
        );
        assert_eq!(
            reason(service("ClusterIP", 443), &[]),
            "EndpointsNotFound: cannot find endpointslices for service/s in \"d\""
        );
        let nobody = "MissingEndpoints: endpointslices for service/s in \"d\" have no addresses with port name \"https\"";
        for slices in [[slice(json!(false), "https")], [slice(json!(true), "other")]] {
            assert_eq!(reason(service("NodePort", 443), &slices), nobody);
        }
        assert_eq!(reason(service("ClusterIP", 443), &[slice(json!(true), "https")]), "");
        assert_eq!(
            reason(service("ClusterIP", 443), &[slice(Value::Null, "https")]),
            "",
            "unknown counts as ready"
        );
        assert!(reason(service("ExternalName", 443), &[]).starts_with("ServiceTypeNotSupported: "));
        assert_eq!(obstacle(&json!({"spec": {}}), None, &[]), None, "nobody else is asked");
    }
}
