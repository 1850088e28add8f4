//! Fields that field selectors may ask for, per kind.

use serde_json::Value;

use crate::catalogue::{
    CERTIFICATE_SIGNING_REQUESTS, EVENTS, JOBS, Kind, NAMESPACES, NODES, PODS, REPLICA_SETS,
    REPLICATION_CONTROLLERS, SECRETS, SERVICES,
};

/// The selectable fields of a kind beside `metadata.name` and `metadata.namespace`.
#[must_use]
pub fn selectable(kind: &Kind) -> &'static [&'static str] {
    if *kind == PODS {
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]
    } else if *kind == EVENTS {
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]
    } else if *kind == SERVICES {
        &["spec.clusterIP", "spec.type"]
    } else if *kind == NODES {
        &["spec.unschedulable"]
    } else if *kind == SECRETS {
        &["type"]
    } else if *kind == REPLICA_SETS || *kind == REPLICATION_CONTROLLERS {
        &["status.replicas"]
    } else if *kind == JOBS {
        &["status.successful"]
    } else if *kind == CERTIFICATE_SIGNING_REQUESTS {
        &["spec.signerName"]
    } else if *kind == NAMESPACES {
        &["status.phase"]
    } else {
        &[]
    }
}

/// Whether a field may be selected by.
#[must_use]
pub fn is_selectable(kind: &Kind, field: &str) -> bool {
    field == "metadata.name"
        || (field == "metadata.namespace" && kind.namespaced)
        || selectable(kind).contains(&field)
}

/// A field's value as field selectors compare it; absent is empty, `false` for booleans and `0` for numbers.
#[must_use]
pub fn value(object: &Value, field: &str) -> String {
    let path = match field {
        "source" => "source.component",
        // The name is older than the field.
        "status.successful" => "status.succeeded",
        field => field,
    };
    let mut at = object;
    for part in path.split('.') {
        at = &at[part];
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
        Value::Null if matches!(field, "status.replicas" | "status.successful") => "0".to_owned(),
        // Who writes an event says so in the old field or in the new one.
        Value::Null if field == "source" => object["reportingComponent"].as_str().unwrap_or("").to_owned(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_fields_compare_as_kubernetes_compares_them() {
        let pod = json!({"spec": {"nodeName": "n1"}, "status": {}});
        assert_eq!(value(&pod, "spec.nodeName"), "n1");
        assert_eq!(value(&pod, "status.phase"), "");
        assert_eq!(value(&json!({}), "spec.unschedulable"), "false");
        assert_eq!(value(&json!({}), "status.replicas"), "0");
        assert_eq!(value(&json!({}), "status.successful"), "0");
        assert_eq!(value(&json!({"status": {"succeeded": 2}}), "status.successful"), "2");
        assert_eq!(value(&json!({"reportingComponent": "kubelet"}), "source"), "kubelet");
        assert_eq!(value(&json!({"source": {"component": "a"}, "reportingComponent": "b"}), "source"), "a");
        assert!(is_selectable(&PODS, "status.phase") && !is_selectable(&PODS, "spec.containers"));
        assert!(!is_selectable(&NODES, "metadata.namespace"));
    }
}
