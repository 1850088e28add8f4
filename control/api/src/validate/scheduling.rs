//! Where a pod may go: affinity of nodes and pods, topology spread, gates, and resources that are not every node's.
//!
//! Source: validateAffinity, validateTopologySpreadConstraints and validateSchedulingGates of pkg/apis/core/validation.

use serde_json::{Value, json};

use super::{Errors, list, text};
use crate::meta as rules;
use crate::node_selector::NodeSelector;
use crate::quantity::Quantity;
use crate::selector::Selector;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn check(errors: &mut Errors, path: &str, spec: &Value) {
    let affinity = &spec["affinity"];
    nodes(errors, &format!("{path}.affinity.nodeAffinity"), &affinity["nodeAffinity"]);
    for which in ["podAffinity", "podAntiAffinity"] {
        pods(errors, &format!("{path}.affinity.{which}"), &affinity[which]);
    }
    let spread = list(spec, "topologySpreadConstraints");
    for (i, constraint) in spread.iter().enumerate() {
        self::spread(errors, &format!("{path}.topologySpreadConstraints[{i}]"), constraint);
    }
    let pairs =
        spread.iter().map(|c| format!("{{{}, {}}}", text(c, "topologyKey"), text(c, "whenUnsatisfiable")));
    let pairs: Vec<String> = pairs.collect();
    let field =
        |i: usize| format!("{path}.topologySpreadConstraints[{i}].{{topologyKey, whenUnsatisfiable}}");
    errors.unique(pairs.iter().enumerate().map(|(i, pair)| (field(i), pair.as_str())));
    gates(errors, path, spec);
}

fn nodes(errors: &mut Errors, path: &str, affinity: &Value) {
    let mut read = |field: String, selector: &Value, below: &str| {
        if let Err(error) = NodeSelector::parse(selector) {
            let at = error.path.strip_prefix(below).unwrap_or(&error.path).trim_start_matches('.').to_owned();
            errors.invalid(format!("{field}.{at}"), selector, error.why);
        }
    };
    if let Some(selector) = affinity.get(REQUIRED).filter(|s| !s.is_null()) {
        read(format!("{path}.{REQUIRED}"), selector, "");
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        let one = json!({"nodeSelectorTerms": [term["preference"]]});
        read(format!("{path}.{PREFERRED}[{i}].preference"), &one, "nodeSelectorTerms[0]");
    }
    weights(errors, path, affinity);
}

fn weights(errors: &mut Errors, path: &str, affinity: &Value) {
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        if !term["weight"].as_i64().is_some_and(|weight| (1..=100).contains(&weight)) {
            errors.invalid(
                format!("{path}.{PREFERRED}[{i}].weight"),
                &term["weight"],
                "must be in the range 1-100",
            );
        }
    }
}

fn pods(errors: &mut Errors, path: &str, affinity: &Value) {
    for (i, term) in list(affinity, REQUIRED).iter().enumerate() {
        self::term(errors, &format!("{path}.{REQUIRED}[{i}]"), term);
    }
    for (i, term) in list(affinity, PREFERRED).iter().enumerate() {
        self::term(errors, &format!("{path}.{PREFERRED}[{i}].podAffinityTerm"), &term["podAffinityTerm"]);
    }
    weights(errors, path, affinity);
}

fn term(errors: &mut Errors, path: &str, term: &Value) {
    for field in ["labelSelector", "namespaceSelector"] {
        selector(errors, &format!("{path}.{field}"), term.get(field));
    }
    for (i, name) in list(term, "namespaces").iter().filter_map(Value::as_str).enumerate() {
        if let Err(why) = rules::check_dns1123_label(name) {
            errors.invalid(format!("{path}.namespaces[{i}]"), format!("{name:?}"), why);
        }
    }
    topology(errors, path, term);
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        keys(errors, &format!("{path}.{field}"), list(term, field), term);
    }
    for (i, key) in list(term, "matchLabelKeys").iter().enumerate() {
        if list(term, "mismatchLabelKeys").contains(key) {
            errors.invalid(
                format!("{path}.matchLabelKeys[{i}]"),
                key,
                "exists in both matchLabelKeys and mismatchLabelKeys",
            );
        }
    }
}

fn selector(errors: &mut Errors, field: &str, selector: Option<&Value>) {
    if let Err(why) = Selector::from_label_selector(selector) {
        errors.invalid(field, selector.unwrap_or(&Value::Null), why);
    }
}

fn topology(errors: &mut Errors, path: &str, of: &Value) {
    let key = text(of, "topologyKey");
    let field = format!("{path}.topologyKey");
    if key.is_empty() {
        errors.required(field, "can not be empty");
    } else if let Err(why) = rules::check_qualified_name(key) {
        errors.invalid(field, format!("{key:?}"), why);
    }
}

/// Keys whose values are those of the pod itself.
fn keys(errors: &mut Errors, path: &str, keys: &[Value], of: &Value) {
    if !keys.is_empty() && of.get("labelSelector").is_none_or(Value::is_null) {
        errors.forbidden(path, "must not be specified when labelSelector is not set");
    }
    for (i, key) in keys.iter().filter_map(Value::as_str).enumerate() {
        if let Err(why) = rules::check_qualified_name(key) {
            errors.invalid(format!("{path}[{i}]"), format!("{key:?}"), why);
        }
    }
}

fn spread(errors: &mut Errors, path: &str, constraint: &Value) {
    let positive = "must be greater than zero";
    if constraint["maxSkew"].as_i64().is_none_or(|skew| skew <= 0) {
        errors.invalid(format!("{path}.maxSkew"), &constraint["maxSkew"], positive);
    }
    topology(errors, path, constraint);
    let when = &constraint["whenUnsatisfiable"];
    errors.one_of(&format!("{path}.whenUnsatisfiable"), when, &["DoNotSchedule", "ScheduleAnyway"]);
    if let Some(domains) = constraint["minDomains"].as_i64() {
        if domains <= 0 {
            errors.invalid(format!("{path}.minDomains"), domains, positive);
        }
        if when != "DoNotSchedule" {
            let why = format!(
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                text(constraint, "whenUnsatisfiable")
            );
            errors.invalid(format!("{path}.minDomains"), domains, why);
        }
    }
    for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        if constraint.get(field).is_some_and(|policy| !policy.is_null()) {
            errors.one_of(&format!("{path}.{field}"), &constraint[field], &["Honor", "Ignore"]);
        }
    }
    selector(errors, &format!("{path}.labelSelector"), constraint.get("labelSelector"));
    keys(errors, &format!("{path}.matchLabelKeys"), list(constraint, "matchLabelKeys"), constraint);
}

fn gates(errors: &mut Errors, path: &str, spec: &Value) {
    let gates = list(spec, "schedulingGates");
    let name = |i: usize| format!("{path}.schedulingGates[{i}].name");
    for (i, gate) in gates.iter().enumerate() {
        if let Err(why) = rules::check_qualified_name(text(gate, "name")) {
            errors.invalid(name(i), format!("{:?}", text(gate, "name")), why);
        }
    }
    errors.unique(gates.iter().enumerate().map(|(i, gate)| (name(i), text(gate, "name"))));
    if !gates.is_empty() && !text(spec, "nodeName").is_empty() {
        errors.forbidden(
            format!("{path}.nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
}

/// Gates are taken away, and none is added; `spec` then has them as before.
pub(super) fn gates_only_open(errors: &mut Errors, old: &Value, spec: &mut Value) {
    const FIELD: &str = "schedulingGates";
    for gate in list(spec, FIELD).iter().filter(|gate| !list(old, FIELD).contains(gate)) {
        let why = format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name"));
        errors.forbidden("spec.schedulingGates", why);
    }
    match old.get(FIELD) {
        Some(gates) if list(old, FIELD) != list(spec, FIELD) => {
            rules::map_of(spec).insert(FIELD.to_owned(), gates.clone());
        }
        _ => {}
    }
}

/// Whether a resource is one that somebody adds to nodes.
pub(super) fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| {
        !domain.ends_with("kubernetes.io")
            && !name.starts_with("requests.")
            && rules::check_qualified_name(name).is_ok()
    })
}

/// Such resources are whole, and cannot be promised twice: the limit is the request.
pub(super) fn extended(errors: &mut Errors, at: &str, quantity: Quantity, resources: &Value, name: &str) {
    if quantity.milli_value() % 1000 != 0 {
        errors.invalid(at, format!("{:?}", quantity.to_string()), "must be an integer");
    }
    let amount = |field: &str| resources[field][name].as_str().and_then(|text| text.parse::<Quantity>().ok());
    let (request, limit) = (amount("requests"), amount("limits"));
    let asks = at.contains(".requests[");
    match (asks, request, limit) {
        (true, Some(_), None) => {
            errors.required(
                at.replace(".requests[", ".limits["),
                "Limit must be set for non overcommitable resources",
            );
        }
        (true, Some(request), Some(limit)) if request != limit => {
            errors.invalid(
                at,
                format!("{:?}", request.to_string()),
                format!("must be equal to {name} limit of {limit}"),
            );
        }
        _ => {}
    }
}
