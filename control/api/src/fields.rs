//! Fields that field selectors may ask for, per kind.

use serde_json::Value;

use crate::catalogue::{EVENTS, Kind, NAMESPACES, NODES, PODS, REPLICA_SETS, SECRETS};

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
    } else if *kind == NODES {
        &["spec.unschedulable"]
    } else if *kind == SECRETS {
        &["type"]
    } else if *kind == REPLICA_SETS {
        &["status.replicas"]
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

/// A field's value as field selectors compare it; empty when absent, `false` for absent booleans.
#[must_use]
pub fn value(object: &Value, field: &str) -> String {
    let path = if field == "source" { "source.component" } else { field };
    let mut at = object;
    for part in path.split('.') {
        at = &at[part];
    }
    match at {
        Value::String(text) => text.clone(),
        Value::Null if matches!(field, "spec.unschedulable" | "spec.hostNetwork") => "false".to_owned(),
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
        assert!(is_selectable(&PODS, "status.phase") && !is_selectable(&PODS, "spec.containers"));
        assert!(!is_selectable(&NODES, "metadata.namespace"));
    }
}
