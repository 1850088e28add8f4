//! PodDisruptionBudgets.
//!
//! Source: k8s.io/kubernetes/pkg/apis/policy/validation/validation.go.

use serde_json::Value;

use super::{Errors, network_policy, workload};

pub(super) fn disruption_budget(errors: &mut Errors, spec: &Value) {
    let given = |field: &str| spec.get(field).is_some_and(|value| !value.is_null());
    let amounts = ["minAvailable", "maxUnavailable"];
    if amounts.into_iter().all(given) {
        errors.invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in amounts.into_iter().filter(|field| given(field)) {
        workload::amount(errors, "spec", spec, field, true);
    }
    if given("selector") {
        network_policy::selector(errors, "spec.selector", &spec["selector"]);
    }
    if given("unhealthyPodEvictionPolicy") {
        let (field, known) = ("spec.unhealthyPodEvictionPolicy", ["AlwaysAllow", "IfHealthyBudget"]);
        errors.one_of(field, &spec["unhealthyPodEvictionPolicy"], &known);
    }
}

pub(super) fn disruption_status(errors: &mut Errors, status: &Value) {
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        errors.not_negative(&format!("status.{field}"), &status[field]);
    }
}
