//! Defaults of Services.

use serde_json::{Map, Value, json};

use super::{items, set};
use crate::meta::map_at;

pub(super) fn service(spec: &mut Map<String, Value>) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        let client = map_at(map_at(spec, "sessionAffinityConfig"), "clientIP");
        set(client, "timeoutSeconds", json!(10_800));
    } else {
        spec.shift_remove("sessionAffinityConfig");
    }
    let kind = spec["type"].as_str().unwrap_or("").to_owned();
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
    if kind == "ExternalName" {
        return;
    }
    let has_external_ips =
        spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if kind != "ClusterIP" || has_external_ips {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    set(spec, "internalTrafficPolicy", json!("Cluster"));
    set(spec, "ipFamilies", json!(["IPv4"]));
    set(spec, "ipFamilyPolicy", json!("SingleStack"));
    // clusterIP and clusterIPs[0] are the same thing, whichever the client gave.
    let first = spec.get("clusterIPs").and_then(|ips| ips.get(0)).cloned();
    if let Some(first) = first {
        set(spec, "clusterIP", first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_targets_itself_unless_told_otherwise() {
        let mut spec = json!({"ports": [{"port": 80}, {"port": 81, "targetPort": "http"}]});
        service(spec.as_object_mut().unwrap());
        assert_eq!(spec["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(spec["ports"][1]["targetPort"], "http");
        assert_eq!((&spec["type"], spec.get("externalTrafficPolicy")), (&json!("ClusterIP"), None));
    }
}
