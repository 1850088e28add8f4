//! Rows of HorizontalPodAutoscalers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, list, text};
use crate::meta;

pub(super) const AUTOSCALER: &[Column] =
    &[NAME, text("Reference"), text("Targets"), text("MinPods"), text("MaxPods"), text("Replicas"), AGE];

pub(super) fn autoscaler(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let target = &spec["scaleTargetRef"];
    let least = spec["minReplicas"].as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    let count = |value: &Value| value.as_i64().unwrap_or(0).to_string();
    vec![
        json!(meta::name(object)),
        json!(format!("{}/{}", word(&target["kind"]), word(&target["name"]))),
        json!(targets(list(spec, "metrics"), list(status, "currentMetrics"))),
        json!(least),
        json!(count(&spec["maxReplicas"])),
        json!(count(&status["currentReplicas"])),
        json!(age(object, now)),
    ]
}

/// `cpu: 12%/50%, 30/100 (avg) + 1 more...`
fn targets(specs: &[Value], statuses: &[Value]) -> String {
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let all = specs.iter().enumerate().map(|(i, spec)| target(spec, statuses.get(i).unwrap_or(&Value::Null)));
    let shown: Vec<String> = all.take(2).collect();
    let more = specs.len().saturating_sub(2);
    let shown = shown.join(", ");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

fn target(spec: &Value, status: &Value) -> String {
    let field = match spec["type"].as_str().unwrap_or("") {
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (wanted, current) = (&spec[field]["target"], &status[field]["current"]);
    let amount = |of: &Value, field: &str| of[field].as_str().map(str::to_owned);
    let percent = |of: &Value| of["averageUtilization"].as_i64().map(|percent| format!("{percent}%"));
    let unknown = || "<unknown>".to_owned();
    let average = amount(wanted, "averageValue");
    let is_resource = matches!(field, "resource" | "containerResource");
    let text = match average {
        Some(average) => {
            let now = amount(current, "averageValue").unwrap_or_else(unknown);
            let note = if matches!(field, "external" | "object") { " (avg)" } else { "" };
            format!("{now}/{average}{note}")
        }
        None if is_resource => {
            let wanted = percent(wanted).unwrap_or_else(|| "<auto>".to_owned());
            format!("{}/{wanted}", percent(current).unwrap_or_else(unknown))
        }
        None => {
            let now = amount(current, "value").unwrap_or_else(unknown);
            format!("{now}/{}", amount(wanted, "value").unwrap_or_default())
        }
    };
    let name = spec[field]["name"].as_str().unwrap_or("");
    if is_resource { format!("{name}: {text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_written_as_upstream_writes_them() {
        let metric = |kind: &str, field: &str, target: Value| json!({"type": kind, field: {"name": "cpu", "target": target}});
        let cpu = metric("Resource", "resource", json!({"averageUtilization": 50}));
        let pods = metric("Pods", "pods", json!({"averageValue": "10"}));
        let external = metric("External", "external", json!({"averageValue": "1k"}));
        let object = metric("Object", "object", json!({"value": "5"}));
        let now = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "7m"}}}]);
        let of = |specs: &[Value], now: &Value| targets(specs, now.as_array().map_or(&[], Vec::as_slice));
        assert_eq!(of(&[], &json!([])), "<none>");
        assert_eq!(of(std::slice::from_ref(&cpu), &now), "cpu: 7%/50%");
        assert_eq!(of(std::slice::from_ref(&cpu), &json!([{"type": ""}])), "cpu: <unknown>/50%");
        assert_eq!(of(&[pods, external.clone()], &Value::Null), "<unknown>/10, <unknown>/1k (avg)");
        assert_eq!(of(&[object, external, cpu], &Value::Null), "<unknown>/5, <unknown>/1k (avg) + 1 more...");
    }
}
