//! policy/v1beta1 PodDisruptionBudget: an empty selector covers no pods, in version 1 all of them.
//!
//! Source: k8s.io/kubernetes/pkg/apis/policy/v1beta1/conversion.go.

use serde_json::{Value, json};

const KEY: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

/// A selector that no pod meets, or all do: the key is on none.
fn by_key(operator: &str) -> Value {
    json!({"matchExpressions": [{"key": KEY, "operator": operator}]})
}

pub(super) fn to_v1beta1(budget: &mut Value) {
    swap(budget, &[(json!({}), by_key("DoesNotExist")), (by_key("Exists"), json!({}))]);
}

pub(super) fn from_v1beta1(budget: &mut Value) {
    swap(budget, &[(json!({}), by_key("Exists")), (by_key("DoesNotExist"), json!({}))]);
}

fn swap(budget: &mut Value, pairs: &[(Value, Value)]) {
    let Some(selector) = budget.get_mut("spec").and_then(|spec| spec.get_mut("selector")) else { return };
    if let Some((_, other)) = pairs.iter().find(|(one, _)| one == selector) {
        *selector = other.clone();
    }
}
