//! Defaults of Services. Families and addresses depend on the cluster: the registry completes them.

use serde_json::{Map, Value, json};

use super::{items, set};
use crate::meta::map_at;
use crate::service;

pub(super) fn service(object: &mut Map<String, Value>) {
    let fill = map_at(object, "spec");
    fields(fill);
    ports(fill);
    let spec = &mut object["spec"];
    if service::is_external(spec) && spec["externalTrafficPolicy"].as_str().is_none_or(str::is_empty) {
        spec["externalTrafficPolicy"] = json!("Cluster");
    }
    if service::kind(spec) == "LoadBalancer" {
        ingress(object);
    }
}

fn fields(spec: &mut Map<String, Value>) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        let client = map_at(map_at(spec, "sessionAffinityConfig"), "clientIP");
        set(client, "timeoutSeconds", json!(service::DEFAULT_AFFINITY));
    } else {
        spec.shift_remove("sessionAffinityConfig");
    }
    if spec["type"] == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    if spec["type"] != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
    }
}

fn ports(spec: &mut Map<String, Value>) {
    for port in items(spec, "ports") {
        set(port, "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or(Value::Null);
        if !number.is_null() {
            let target = port.get("targetPort");
            if target.is_none_or(|t| t.is_null() || *t == json!(0) || *t == json!("")) {
                port.insert("targetPort".to_owned(), number);
            }
        }
    }
}

/// A load balancer's address is its own unless it says that it forwards as a proxy (KEP-1860).
fn ingress(object: &mut Map<String, Value>) {
    let balancer = object.get_mut("status").and_then(|status| status.get_mut("loadBalancer"));
    let Some(balancer) = balancer.and_then(Value::as_object_mut) else { return };
    for point in items(balancer, "ingress") {
        if point.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty()) {
            set(point, "ipMode", json!("VIP"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_defaults(spec: &Value) -> Value {
        let mut object = json!({"spec": spec});
        service(object.as_object_mut().unwrap());
        object["spec"].take()
    }

    #[test]
    fn a_port_targets_itself_unless_told_otherwise() {
        let spec = with_defaults(&json!({"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]}));
        assert_eq!(spec["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(spec["ports"][1]["targetPort"], "http");
    }

    #[test]
    fn policies_and_affinity_have_kubernetes_defaults_where_they_apply() {
        let spec = with_defaults(&json!({}));
        assert_eq!((&spec["type"], &spec["internalTrafficPolicy"]), (&json!("ClusterIP"), &json!("Cluster")));
        assert_eq!((&spec["sessionAffinity"], spec.get("externalTrafficPolicy")), (&json!("None"), None));
        let external = with_defaults(&json!({"externalIPs": ["192.0.2.1"]}));
        assert_eq!(external["externalTrafficPolicy"], "Cluster");
        let balanced = with_defaults(&json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP"}));
        assert_eq!(balanced["allocateLoadBalancerNodePorts"], true);
        assert_eq!(balanced["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10_800}}));
        let name = with_defaults(&json!({"type": "ExternalName", "externalName": "a.b"}));
        assert_eq!((name.get("internalTrafficPolicy"), name.get("externalTrafficPolicy")), (None, None));
    }

    #[test]
    fn an_ingress_address_is_the_balancers_own_by_default() {
        let mut object = json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [
            {"ip": "192.0.2.1"}, {"ip": "192.0.2.2", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}}});
        service(object.as_object_mut().unwrap());
        let ingress = &object["status"]["loadBalancer"]["ingress"];
        assert_eq!((&ingress[0]["ipMode"], &ingress[1]["ipMode"]), (&json!("VIP"), &json!("Proxy")));
        assert_eq!(ingress[2].get("ipMode"), None);
    }
}
