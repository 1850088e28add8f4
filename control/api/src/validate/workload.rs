//! Workloads: selectors, templates, strategies.

use serde_json::{Value, json};

use super::{Errors, pod, pod_support, text};
use crate::selector::Selector;

pub(super) fn replica_set(errors: &mut Errors, spec: &Value) {
    replicas(errors, spec);
    selector_and_template(errors, spec);
}

pub(super) fn deployment(errors: &mut Errors, spec: &Value) {
    replicas(errors, spec);
    selector_and_template(errors, spec);
    strategy(errors, &spec["strategy"]);
    for field in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        errors.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    let deadline = spec["progressDeadlineSeconds"].as_i64();
    let min_ready = spec["minReadySeconds"].as_i64().unwrap_or(0);
    if deadline.is_some_and(|d| d <= min_ready) {
        errors.invalid(
            "spec.progressDeadlineSeconds",
            &spec["progressDeadlineSeconds"],
            "must be greater than minReadySeconds",
        );
    }
}

fn replicas(errors: &mut Errors, spec: &Value) {
    errors.not_negative("spec.replicas", &spec["replicas"]);
    errors.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
}

fn selector_and_template(errors: &mut Errors, spec: &Value) {
    let template = &spec["template"];
    let labels = template["metadata"].get("labels");
    match Selector::from_label_selector(spec.get("selector")) {
        Ok(None) => errors.required("spec.selector", ""),
        Ok(Some(selector)) if selector.is_everything() => {
            let why = "empty selector is invalid for deployment";
            errors.invalid("spec.selector", &spec["selector"], why);
        }
        Ok(Some(selector)) => {
            if !selector.matches(labels.and_then(Value::as_object)) {
                let why = "`selector` does not match template `labels`";
                errors.invalid("spec.template.metadata.labels", labels.unwrap_or(&json!({})), why);
            }
        }
        Err(why) => errors.invalid("spec.selector", &spec["selector"], why),
    }
    super::meta::labels(errors, "spec.template.metadata.labels", labels);
    pod::check_spec(errors, "spec.template.spec", &template["spec"]);
    pod_support::check(errors, "spec.template.spec", &template["spec"]);
    if text(&template["spec"], "restartPolicy") != "Always" {
        let policy = &template["spec"]["restartPolicy"];
        let message = format!("Unsupported value: {policy}: supported values: \"Always\"");
        errors.push("FieldValueNotSupported", "spec.template.spec.restartPolicy", message);
    }
    if template["spec"].get("activeDeadlineSeconds").is_some_and(|d| !d.is_null()) {
        errors.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn strategy(errors: &mut Errors, strategy: &Value) {
    errors.one_of("spec.strategy.type", &strategy["type"], &["Recreate", "RollingUpdate"]);
    let rolling = strategy.get("rollingUpdate").filter(|r| !r.is_null());
    if strategy["type"] == "Recreate" {
        if rolling.is_some() {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.forbidden("spec.strategy.rollingUpdate", why);
        }
        return;
    }
    let Some(rolling) = rolling else { return };
    let mut zero = true;
    for field in ["maxUnavailable", "maxSurge"] {
        let value = &rolling[field];
        let amount = match value {
            Value::Number(number) => number.as_i64().filter(|n| *n >= 0),
            Value::String(text) => {
                text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).filter(|p| *p >= 0)
            }
            _ => None,
        };
        match amount {
            None => {
                let why = "must be an integer or percentage (e.g '5%%')";
                errors.invalid(format!("spec.strategy.rollingUpdate.{field}"), value, why);
                zero = false;
            }
            Some(amount) => {
                if field == "maxUnavailable" && value.is_string() && amount > 100 {
                    let field = format!("spec.strategy.rollingUpdate.{field}");
                    errors.invalid(field, value, "must not be greater than 100%");
                }
                zero &= amount == 0;
            }
        }
    }
    if zero {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.invalid("spec.strategy.rollingUpdate.maxUnavailable", &rolling["maxUnavailable"], why);
    }
}
