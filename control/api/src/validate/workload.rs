//! Workloads: selectors, templates, strategies.

use serde_json::{Value, json};

use super::{Errors, pod, pod_support, text};
use crate::selector::Selector;

pub(super) fn replica_set(errors: &mut Errors, spec: &Value) {
    replicas(errors, spec);
    selector_and_template(errors, spec, "deployment");
}

pub(super) fn replication_controller(errors: &mut Errors, spec: &Value) {
    replicas(errors, spec);
    let selector = spec["selector"].as_object().filter(|map| !map.is_empty());
    let Some(selector) = selector else { return errors.required("spec.selector", "") };
    super::meta::labels(errors, "spec.selector", spec.get("selector"));
    let Some(template) = spec.get("template").filter(|template| !template.is_null()) else {
        return errors.required("spec.template", "");
    };
    let labels = template["metadata"].get("labels");
    if !Selector::from_map(selector).matches(labels.and_then(Value::as_object)) {
        let why = "`selector` does not match template `labels`";
        errors.invalid("spec.template.metadata.labels", labels.unwrap_or(&json!({})), why);
    }
    super::meta::labels(errors, "spec.template.metadata.labels", labels);
    always_restarting_template(errors, template, "ReplicationController");
}

pub(super) fn deployment(errors: &mut Errors, spec: &Value) {
    replicas(errors, spec);
    selector_and_template(errors, spec, "deployment");
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

pub(super) fn replicas(errors: &mut Errors, spec: &Value) {
    errors.not_negative("spec.replicas", &spec["replicas"]);
    errors.not_negative("spec.minReadySeconds", &spec["minReadySeconds"]);
}

pub(super) fn selector_and_template(errors: &mut Errors, spec: &Value, kind: &str) {
    let template = &spec["template"];
    let labels = template["metadata"].get("labels");
    match Selector::from_label_selector(spec.get("selector")) {
        Ok(None) => errors.required("spec.selector", ""),
        Ok(Some(selector)) if selector.is_everything() => {
            let why = format!("empty selector is invalid for {kind}");
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
    let title = match kind {
        "daemonset" => "DaemonSet",
        "statefulset" => "StatefulSet",
        _ => "ReplicaSet",
    };
    always_restarting_template(errors, template, title);
}

fn always_restarting_template(errors: &mut Errors, template: &Value, kind: &str) {
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
            format!("activeDeadlineSeconds in {kind} is not Supported"),
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
    let path = "spec.strategy.rollingUpdate";
    let unavailable = amount(errors, path, rolling, "maxUnavailable", true);
    let surge = amount(errors, path, rolling, "maxSurge", false);
    if unavailable == Some(0) && surge == Some(0) {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.invalid(format!("{path}.maxUnavailable"), &rolling["maxUnavailable"], why);
    }
}

/// A number or a percentage, which `whole` bounds by a hundred.
pub(super) fn amount(
    errors: &mut Errors,
    path: &str,
    rolling: &Value,
    field: &str,
    whole: bool,
) -> Option<i64> {
    let value = &rolling[field];
    let amount = match value {
        Value::Number(number) => number.as_i64().filter(|n| *n >= 0),
        Value::String(text) => text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()).filter(|p| *p >= 0),
        _ => None,
    };
    if amount.is_none() {
        let why = "must be an integer or percentage (e.g '5%%')";
        errors.invalid(format!("{path}.{field}"), value, why);
    } else if whole && value.is_string() && amount > Some(100) {
        errors.invalid(format!("{path}.{field}"), value, "must not be greater than 100%");
    }
    amount
}

pub(super) fn daemon_set(errors: &mut Errors, spec: &Value) {
    selector_and_template(errors, spec, "daemonset");
    for field in ["minReadySeconds", "revisionHistoryLimit"] {
        errors.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    let strategy = &spec["updateStrategy"];
    errors.one_of("spec.updateStrategy.type", &strategy["type"], &["OnDelete", "RollingUpdate"]);
    if strategy["type"] != "RollingUpdate" {
        return;
    }
    let path = "spec.updateStrategy.rollingUpdate";
    let Some(rolling) = strategy.get("rollingUpdate").filter(|r| !r.is_null()) else {
        return errors.required(path, "");
    };
    let unavailable = amount(errors, path, rolling, "maxUnavailable", true);
    let surge = amount(errors, path, rolling, "maxSurge", true);
    match (unavailable, surge) {
        (Some(0), Some(0)) => {
            errors.required(format!("{path}.maxUnavailable"), "cannot be 0 when maxSurge is 0");
        }
        (Some(1..), Some(1..)) => {
            let why = "may not be set when maxUnavailable is non-zero";
            errors.invalid(format!("{path}.maxSurge"), &rolling["maxSurge"], why);
        }
        _ => {}
    }
}

pub(super) fn controller_revision(errors: &mut Errors, revision: &Value) {
    errors.not_negative("revision", &revision["revision"]);
    if revision.get("data").is_none_or(Value::is_null) {
        errors.required("data", "data is mandatory");
    }
}
