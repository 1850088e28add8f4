//! LimitRanges and ResourceQuotas: names of resources, and bounds that fit each other.
//!
//! Source: k8s.io/kubernetes/pkg/apis/core/validation (ValidateLimitRange, ValidateResourceQuota).

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, list, text};
use crate::limits::amounts;
use crate::quantity::Quantity;

/// What a quota may bound without a group in the name.
const QUOTA: &[&str] = &[
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// What is counted in whole objects.
const WHOLE: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
];
const OPERATORS: &[&str] = &["In", "NotIn", "Exists", "DoesNotExist"];

pub(super) fn quota(errors: &mut Errors, object: &Value) {
    let spec = &object["spec"];
    for (name, value) in spec["hard"].as_object().into_iter().flatten() {
        let path = format!("spec.hard[{name}]");
        if !name.contains('/') && !QUOTA.contains(&name.as_str()) {
            errors.invalid(&path, format!("{name:?}"), "must be a standard resource for quota");
        }
        let Some(amount) = quantity(errors, &path, value) else { continue };
        if amount.is_negative() {
            errors.invalid(&path, format!("{:?}", amount.to_string()), "must be greater than or equal to 0");
        }
        let whole = WHOLE.contains(&name.as_str()) || name.starts_with("count/");
        if whole && amount.milli_value() % 1000 != 0 {
            errors.invalid(&path, format!("{:?}", amount.to_string()), "must be an integer");
        }
    }
    let scopes: Vec<&str> = list(spec, "scopes").iter().filter_map(Value::as_str).collect();
    self::scopes(errors, "spec.scopes", &scopes, spec);
    let chosen = list(&spec["scopeSelector"], "matchExpressions");
    let names: Vec<&str> = chosen.iter().map(|one| text(one, "scopeName")).collect();
    self::scopes(errors, "spec.scopeSelector.matchExpressions.scopeName", &names, spec);
    for one in chosen {
        expression(errors, "spec.scopeSelector.matchExpressions", one);
    }
}

fn scopes(errors: &mut Errors, path: &str, scopes: &[&str], spec: &Value) {
    let shown = || serde_json::to_string(scopes).unwrap_or_default();
    for scope in scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(path, shown(), "unsupported scope");
        }
        for name in spec["hard"].as_object().into_iter().flatten().map(|(name, _)| name) {
            let fits = match *scope {
                "BestEffort" => name == "pods",
                _ => {
                    name == "pods"
                        || ["cpu", "memory", "ephemeral-storage"].contains(&name.as_str())
                        || name.starts_with("requests.") && name != "requests.storage"
                        || name.starts_with("limits.")
                }
            };
            if !fits {
                errors.invalid(path, shown(), "unsupported scope applied to resource");
            }
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            errors.invalid(path, shown(), "conflicting scopes");
        }
    }
}

fn expression(errors: &mut Errors, path: &str, one: &Value) {
    let (scope, operator, values) = (text(one, "scopeName"), text(one, "operator"), list(one, "values"));
    if scope != "PriorityClass" && operator != "Exists" {
        let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, \
            ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
        errors.invalid(format!("{path}.operator"), format!("{operator:?}"), why);
        return;
    }
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(format!("{path}.values"), why);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(format!("{path}.values"), Value::from(values), why);
        }
        _ if !OPERATORS.contains(&operator) => {
            errors.invalid(
                format!("{path}.operator"),
                format!("{operator:?}"),
                "not a valid selector operator",
            );
        }
        _ => {}
    }
}

pub(super) fn quota_update(errors: &mut Errors, old: &Value, new: &Value) {
    errors.immutable("spec.scopes", &old["spec"]["scopes"], &new["spec"]["scopes"]);
}

fn quantity(errors: &mut Errors, path: &str, value: &Value) -> Option<Quantity> {
    match Quantity::read(value) {
        Ok(amount) => Some(amount),
        Err(why) => {
            errors.invalid(path, value, why);
            None
        }
    }
}

pub(super) fn limit_range(errors: &mut Errors, object: &Value) {
    let mut seen = BTreeSet::new();
    for (index, limit) in list(&object["spec"], "limits").iter().enumerate() {
        let path = format!("spec.limits[{index}]");
        let kind = text(limit, "type");
        if let Err(why) = crate::meta::check_qualified_name(kind) {
            errors.invalid(format!("{path}.type"), format!("{kind:?}"), why);
        }
        if !seen.insert(kind) {
            errors.duplicate(format!("{path}.type"), format!("{kind:?}"));
        }
        let maps = ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"];
        for map in maps {
            for (name, value) in limit[map].as_object().into_iter().flatten() {
                quantity(errors, &format!("{path}.{map}[{name}]"), value);
            }
        }
        if kind == "Pod" {
            for map in ["default", "defaultRequest"] {
                if limit[map].as_object().is_some_and(|map| !map.is_empty()) {
                    errors.forbidden(format!("{path}.{map}"), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind == "PersistentVolumeClaim"
            && limit["min"]["storage"].is_null()
            && limit["max"]["storage"].is_null()
        {
            let why = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(format!("{path}.limits"), why);
        }
        bounds(errors, &path, limit);
    }
}

fn bounds(errors: &mut Errors, path: &str, limit: &Value) {
    let of = |map: &str| amounts(&limit[map]);
    let (min, max, default, request, ratio) =
        (of("min"), of("max"), of("default"), of("defaultRequest"), of("maxLimitRequestRatio"));
    let names: BTreeSet<&String> =
        [&min, &max, &default, &request, &ratio].into_iter().flat_map(|m| m.keys()).collect();
    for name in names {
        let mut order = |field: &str,
                         low: Option<&Quantity>,
                         low_name: &str,
                         high: Option<&Quantity>,
                         high_name: &str| {
            let Some((low, high)) = low.zip(high).filter(|(low, high)| low > high) else { return };
            let why = format!("{low_name} value {low} is greater than {high_name} value {high}");
            let shown = if field == "min" || low_name == "default request" || field == "default" {
                low
            } else {
                high
            };
            errors.invalid(format!("{path}.{field}[{name}]"), format!("{:?}", shown.to_string()), why);
        };
        let [min, max, default, request] = [&min, &max, &default, &request].map(|map| map.get(name));
        order("min", min, "min", max, "max");
        order("defaultRequest", min, "min", request, "default request");
        order("defaultRequest", request, "default request", max, "max");
        order("defaultRequest", request, "default request", default, "default limit");
        order("default", min, "min", default, "default");
        order("default", default, "default", max, "max");
        if let Some(ratio) = ratio.get(name)
            && *ratio < Quantity::milli(1000)
        {
            let why = format!("ratio {ratio} is less than 1");
            errors.invalid(
                format!("{path}.maxLimitRequestRatio[{name}]"),
                format!("{:?}", ratio.to_string()),
                why,
            );
        }
    }
}
