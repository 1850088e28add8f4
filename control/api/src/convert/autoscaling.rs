//! autoscaling/v1 HorizontalPodAutoscaler: processor time in fields of its own, everything else in annotations.
//!
//! Source: k8s.io/kubernetes/pkg/apis/autoscaling/v1/conversion.go.

use serde_json::{Map, Value, json};

use crate::meta::map_at;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// From version 2.
pub(super) fn to_v1(object: &mut Map<String, Value>) {
    let mut notes = Map::new();
    let mut note = |key: &str, value: &Value| drop(notes.insert(key.to_owned(), json!(value.to_string())));
    let spec = map_at(object, "spec");
    let metrics = take_list(spec, "metrics");
    if let Some(percent) = metrics.iter().find_map(cpu_percent) {
        spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
    }
    let others: Vec<Value> = metrics.iter().filter(|m| cpu_percent(m).is_none()).map(flat).collect();
    if !others.is_empty() {
        note(METRICS, &Value::Array(others));
    }
    if let Some(behavior) = spec.shift_remove("behavior").filter(|behavior| !behavior.is_null()) {
        note(BEHAVIOR, &behavior);
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.entry("currentReplicas").or_insert_with(|| json!(0));
        let current = take_list(status, "currentMetrics");
        let percent = current.iter().filter(|m| is_cpu(m)).find_map(|m| {
            let percent = &m["resource"]["current"]["averageUtilization"];
            percent.is_i64().then(|| percent.clone())
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
        }
        if !current.is_empty() {
            note(CURRENT, &current.iter().map(flat).collect());
        }
        let conditions = take_list(status, "conditions");
        if !conditions.is_empty() {
            note(CONDITIONS, &Value::Array(conditions));
        }
    }
    if !notes.is_empty() {
        map_at(map_at(object, "metadata"), "annotations").extend(notes);
    }
}

/// Into version 2. What an annotation says that is no JSON is as good as nothing.
pub(super) fn from_v1(object: &mut Map<String, Value>) {
    let notes = [METRICS, CURRENT, CONDITIONS, BEHAVIOR].map(|key| take_note(object, key));
    let [metrics, current, conditions, behavior] = notes;
    let spec = map_at(object, "spec");
    let mut all = Vec::new();
    if let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage").filter(|p| !p.is_null()) {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        all.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    all.extend(metrics.iter().flat_map(Value::as_array).flatten().map(nested));
    if !all.is_empty() {
        spec.insert("metrics".to_owned(), Value::Array(all));
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".to_owned(), behavior);
    }
    let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) else { return };
    let percent = status.shift_remove("currentCPUUtilizationPercentage").filter(|p| !p.is_null());
    let known = current.and_then(|current| Some(current.as_array()?.iter().map(nested).collect()));
    let cpu = || {
        let current = json!({"averageUtilization": percent?});
        Some(json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}]))
    };
    if let Some(current) = known.or_else(cpu) {
        status.insert("currentMetrics".to_owned(), current);
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".to_owned(), conditions);
    }
}

fn take_list(map: &mut Map<String, Value>, field: &str) -> Vec<Value> {
    match map.shift_remove(field) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn take_note(object: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let note = annotations.shift_remove(key)?;
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    serde_json::from_str(note.as_str()?).ok()
}

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

/// The percentage of a metric that has a field of its own.
fn cpu_percent(metric: &Value) -> Option<Value> {
    let percent = &metric["resource"]["target"]["averageUtilization"];
    (is_cpu(metric) && percent.is_i64()).then(|| percent.clone())
}

/// The field that holds the source of a type.
fn source_field(metric: &Value) -> &'static str {
    match metric["type"].as_str().unwrap_or("") {
        "Object" => "object",
        "Pods" => "pods",
        "External" => "external",
        "ContainerResource" => "containerResource",
        _ => "resource",
    }
}

/// Amounts by their names in version 2, and what they are called in version 1 after `target` or `current`.
const AMOUNTS: [(&str, &str); 3] =
    [("averageUtilization", "AverageUtilization"), ("averageValue", "AverageValue"), ("value", "Value")];

/// A metric, or its state, as version 1 writes it.
fn flat(metric: &Value) -> Value {
    let field = source_field(metric);
    let Some(source) = metric.get(field).and_then(Value::as_object) else { return metric.clone() };
    let mut old = Map::new();
    for (name, value) in source {
        match name.as_str() {
            "target" | "current" => {
                for (new, word) in AMOUNTS {
                    let Some(amount) = value.get(new).filter(|amount| !amount.is_null()) else { continue };
                    // Only of objects the average is called by its plain name.
                    let plain = field == "object" && new == "averageValue";
                    old.insert(if plain { new.to_owned() } else { format!("{name}{word}") }, amount.clone());
                }
            }
            "metric" => {
                old.insert("metricName".to_owned(), value["name"].clone());
                if let Some(selector) = value.get("selector").filter(|selector| !selector.is_null()) {
                    let name = if field == "external" { "metricSelector" } else { "selector" };
                    old.insert(name.to_owned(), selector.clone());
                }
            }
            "describedObject" => drop(old.insert("target".to_owned(), value.clone())),
            other => drop(old.insert(other.to_owned(), value.clone())),
        }
    }
    json!({"type": metric["type"], field: old})
}

/// The way back.
fn nested(metric: &Value) -> Value {
    let field = source_field(metric);
    let Some(source) = metric.get(field).and_then(Value::as_object) else { return metric.clone() };
    let mut new = Map::new();
    let (mut aim, mut now, mut identifier) = (Map::new(), Map::new(), Map::new());
    for (name, value) in source {
        let amount = AMOUNTS.iter().find_map(|(new, word)| {
            let place = name.strip_suffix(word).filter(|place| ["target", "current"].contains(place))?;
            Some((place, *new))
        });
        match (amount, name.as_str()) {
            (Some(("target", amount)), _) => drop(aim.insert(amount.to_owned(), value.clone())),
            (Some((_, amount)), _) => drop(now.insert(amount.to_owned(), value.clone())),
            // Of an object, where an average is called so; what is used now has another field beside it.
            (None, "averageValue") => {
                let place = if source.contains_key("currentValue") { &mut now } else { &mut aim };
                place.insert("averageValue".to_owned(), value.clone());
            }
            (None, "metricName") => drop(identifier.insert("name".to_owned(), value.clone())),
            (None, "selector" | "metricSelector") => {
                drop(identifier.insert("selector".to_owned(), value.clone()));
            }
            (None, "target") => drop(new.insert("describedObject".to_owned(), value.clone())),
            (None, other) => drop(new.insert(other.to_owned(), value.clone())),
        }
    }
    if !identifier.is_empty() {
        new.insert("metric".to_owned(), Value::Object(identifier));
    }
    if !aim.is_empty() {
        let kind = match () {
            () if aim.contains_key("averageUtilization") => "Utilization",
            () if aim.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        aim.insert("type".to_owned(), json!(kind));
        new.insert("target".to_owned(), Value::Object(aim));
    }
    if !now.is_empty() {
        new.insert("current".to_owned(), Value::Object(now));
    }
    json!({"type": metric["type"], field: new})
}
