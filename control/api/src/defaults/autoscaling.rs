//! HorizontalPodAutoscalers.
//!
//! Source: k8s.io/kubernetes/pkg/apis/autoscaling/v2/defaults.go.

use serde_json::{Map, Value, json};

use super::set;
use crate::meta::map_at;

pub(super) fn autoscaler(spec: &mut Map<String, Value>) {
    set(spec, "minReplicas", json!(1));
    if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]);
        spec.insert("metrics".to_owned(), cpu);
    }
    // How fast it goes is said in whole, where anything is said of it.
    let Some(behavior) = spec.get_mut("behavior").and_then(Value::as_object_mut) else { return };
    let percent = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
    let pods = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
    let up = map_at(behavior, "scaleUp");
    set(up, "stabilizationWindowSeconds", json!(0));
    rules(up, json!([pods, percent]));
    rules(map_at(behavior, "scaleDown"), json!([percent]));
}

fn rules(rules: &mut Map<String, Value>, policies: Value) {
    set(rules, "selectPolicy", json!("Max"));
    set(rules, "policies", policies);
}
