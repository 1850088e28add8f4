//! HorizontalPodAutoscalers.
//!
//! Source: k8s.io/kubernetes/pkg/apis/autoscaling/validation/validation.go.

use std::str::FromStr as _;

use serde_json::{Value, json};

use super::{Errors, list, network_policy, text};
use crate::meta::check_path_segment;
use crate::quantity::Quantity;

const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
const LONGEST_PERIOD: i64 = 1800;
const LONGEST_WINDOW: i64 = 3600;

pub(super) fn autoscaler(errors: &mut Errors, spec: &Value) {
    let (least, most) = (spec["minReplicas"].as_i64(), spec["maxReplicas"].as_i64().unwrap_or(0));
    if let Some(least) = least.filter(|least| *least < 1) {
        errors.invalid("spec.minReplicas", least, "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid("spec.maxReplicas", most, "must be greater than 0");
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`");
    }
    reference(errors, "spec.scaleTargetRef", &spec["scaleTargetRef"]);
    for (i, metric) in list(spec, "metrics").iter().enumerate() {
        check_metric(errors, &format!("spec.metrics[{i}]"), metric);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec["behavior"].get(direction).filter(|rules| !rules.is_null()) {
            check_rules(errors, &format!("spec.behavior.{direction}"), rules);
        }
    }
}

pub(super) fn autoscaler_status(errors: &mut Errors, status: &Value) {
    errors.not_negative("status.currentReplicas", &status["currentReplicas"]);
    errors.not_negative("status.desiredReplicas", &status["desiredReplicas"]);
}

fn reference(errors: &mut Errors, path: &str, reference: &Value) {
    for field in ["kind", "name"] {
        let (path, value) = (format!("{path}.{field}"), text(reference, field));
        if value.is_empty() {
            errors.required(path, "");
        } else if let Err(why) = check_path_segment(value) {
            errors.invalid(path, json!(value), why);
        }
    }
}

fn check_metric(errors: &mut Errors, path: &str, metric: &Value) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.required(format!("{path}.type"), "must specify a metric source type");
    }
    errors.one_of(&format!("{path}.type"), &metric["type"], &SOURCES.map(|(kind, _)| kind));
    let present = |field: &str| metric.get(field).is_some_and(|source| !source.is_null());
    let expected = SOURCES.iter().find(|(known, _)| *known == kind).map_or("", |(_, field)| field);
    if !expected.is_empty() && !present(expected) {
        let why = "must populate information for the given metric source";
        errors.required(format!("{path}.{expected}"), why);
    }
    for (_, field) in SOURCES.iter().filter(|(_, field)| present(field)) {
        if *field == expected {
            check_source(errors, &format!("{path}.{field}"), field, &metric[*field]);
        } else {
            errors.forbidden(format!("{path}.{field}"), "must populate the given metric source only");
        }
    }
}

fn check_source(errors: &mut Errors, path: &str, field: &str, source: &Value) {
    let target = &source["target"];
    let given = |field: &str| target.get(field).is_some_and(|value| !value.is_null());
    let aim = format!("{path}.target");
    if matches!(field, "resource" | "containerResource") {
        if text(source, "name").is_empty() {
            errors.required(format!("{path}.name"), "must specify a resource name");
        }
        if field == "containerResource" && text(source, "container").is_empty() {
            errors.required(format!("{path}.container"), "must specify a container name");
        }
        check_target(errors, &aim, target);
        match (given("averageUtilization"), given("averageValue")) {
            (false, false) => {
                let why = "must set either a target raw value or a target utilization";
                errors.required(format!("{aim}.averageUtilization"), why);
            }
            (true, true) => {
                let why = "may not set both a target raw value and a target utilization";
                errors.forbidden(format!("{aim}.averageValue"), why);
            }
            _ => {}
        }
        return;
    }
    if field == "object" {
        reference(errors, &format!("{path}.describedObject"), &source["describedObject"]);
    }
    check_identifier(errors, &format!("{path}.metric"), &source["metric"]);
    check_target(errors, &aim, target);
    match (field, given("value"), given("averageValue")) {
        ("pods", _, false) => {
            errors.required(format!("{aim}.averageValue"), "must specify a positive target value");
        }
        ("object" | "external", false, false) => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.required(format!("{aim}.averageValue"), why);
        }
        ("external", true, true) => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(format!("{aim}.value"), why);
        }
        _ => {}
    }
}

fn check_identifier(errors: &mut Errors, path: &str, metric: &Value) {
    let name = text(metric, "name");
    if name.is_empty() {
        errors.required(format!("{path}.name"), "must specify a metric name");
    } else if let Err(why) = check_path_segment(name) {
        errors.invalid(format!("{path}.name"), json!(name), why);
    }
    if let Some(selector) = metric.get("selector").filter(|selector| !selector.is_null()) {
        network_policy::selector(errors, &format!("{path}.selector"), selector);
    }
}

fn check_target(errors: &mut Errors, path: &str, target: &Value) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(format!("{path}.type"), "must specify a metric target type");
    } else if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let why = "must be either Utilization, Value, or AverageValue";
        errors.invalid(format!("{path}.type"), json!(kind), why);
    }
    for field in ["value", "averageValue"] {
        let Some(amount) = target.get(field).filter(|amount| !amount.is_null()) else { continue };
        let positive = quantity(amount).is_some_and(|q| !q.is_negative() && !q.is_zero());
        if !positive {
            errors.invalid(format!("{path}.{field}"), amount, "must be positive");
        }
    }
    if target["averageUtilization"].as_i64().is_some_and(|percent| percent < 1) {
        let percent = &target["averageUtilization"];
        errors.invalid(format!("{path}.averageUtilization"), percent, "must be greater than 0");
    }
}

fn quantity(amount: &Value) -> Option<Quantity> {
    Quantity::from_str(&amount.as_str().map_or_else(|| amount.to_string(), str::to_owned)).ok()
}

fn check_rules(errors: &mut Errors, path: &str, rules: &Value) {
    let field = format!("{path}.stabilizationWindowSeconds");
    match rules["stabilizationWindowSeconds"].as_i64() {
        Some(window @ ..0) => errors.invalid(field, window, "must be greater than or equal to zero"),
        Some(window) if window > LONGEST_WINDOW => {
            errors.invalid(field, window, format!("must be less than or equal to {LONGEST_WINDOW}"));
        }
        _ => {}
    }
    if rules.get("selectPolicy").is_some_and(|policy| !policy.is_null()) {
        let known = ["Disabled", "Max", "Min"];
        errors.one_of(&format!("{path}.selectPolicy"), &rules["selectPolicy"], &known);
    }
    if let Some(tolerance) = rules.get("tolerance").filter(|tolerance| !tolerance.is_null())
        && quantity(tolerance).is_none_or(|q| q.is_negative())
    {
        errors.invalid(format!("{path}.tolerance"), tolerance, "must be greater than or equal to 0");
    }
    let policies = list(rules, "policies");
    if policies.is_empty() {
        errors.required(format!("{path}.policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let path = format!("{path}.policies[{i}]");
        errors.one_of(&format!("{path}.type"), &policy["type"], &["Percent", "Pods"]);
        let number = |field: &str| policy[field].as_i64().unwrap_or(0);
        for field in ["value", "periodSeconds"] {
            if number(field) <= 0 {
                errors.invalid(format!("{path}.{field}"), number(field), "must be greater than zero");
            }
        }
        if number("periodSeconds") > LONGEST_PERIOD {
            let why = format!("must be less than or equal to {LONGEST_PERIOD}");
            errors.invalid(format!("{path}.periodSeconds"), number("periodSeconds"), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        let policy = json!({"type": "Pods", "value": 1, "periodSeconds": 60});
        let mut spec = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [policy]}}});
        change(&mut spec);
        let mut errors = Errors::default();
        autoscaler(&mut errors, &spec);
        errors.causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn each_mistake_is_named_as_upstream_names_it() {
        assert_eq!(wrong(|_| {}), Vec::<String>::new());
        let of = |field: &'static str, value: Value| wrong(move |spec| spec[field] = value);
        assert_eq!(
            of("minReplicas", json!(0)),
            ["spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"]
        );
        assert_eq!(
            of("maxReplicas", json!(0)),
            [
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"
            ]
        );
        assert_eq!(
            of("scaleTargetRef", json!({"kind": "a/b"})),
            [
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value"
            ]
        );
        assert_eq!(
            of("metrics", json!([{"type": "Pods", "resource": {}}])),
            [
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
                "spec.metrics[0].resource: Forbidden: must populate the given metric source only"
            ]
        );
        let target = |target: Value| wrong(move |spec| spec["metrics"][0]["resource"]["target"] = target);
        assert_eq!(
            target(json!({"type": "Much", "averageUtilization": 0})),
            [
                "spec.metrics[0].resource.target.type: Invalid value: \"Much\": must be either Utilization, Value, or AverageValue",
                "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"
            ]
        );
        assert_eq!(
            target(json!({"type": "Utilization", "averageUtilization": 5, "averageValue": "0"})),
            [
                "spec.metrics[0].resource.target.averageValue: Invalid value: \"0\": must be positive",
                "spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization"
            ]
        );
        assert_eq!(
            wrong(
                |spec| spec["behavior"]["scaleUp"] = json!({"stabilizationWindowSeconds": 3601, "selectPolicy": "Best",
                "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]})
            ),
            [
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Best\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"
            ]
        );
    }
}
