//! Names, labels, annotations, owners and finalizers of any object.

use serde_json::Value;

use super::{Errors, text};
use crate::catalogue::{
    API_SERVICES, CERTIFICATE_SIGNING_REQUESTS, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Kind, NAMESPACES,
    ROLE_BINDINGS, ROLES, SERVICES, STATEFUL_SETS,
};
use crate::meta as rules;

/// The most that all annotations together may hold, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Kinds whose names may hold what a path may.
const LENIENT: &[&Kind] = &[
    &ROLES,
    &ROLE_BINDINGS,
    &CLUSTER_ROLES,
    &CLUSTER_ROLE_BINDINGS,
    &CERTIFICATE_SIGNING_REQUESTS,
    &API_SERVICES,
];

pub(super) fn check(errors: &mut Errors, kind: &Kind, object: &Value) {
    let name = rules::name(object);
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        let outcome = if *kind == NAMESPACES || *kind == STATEFUL_SETS {
            rules::check_dns1123_label(name)
        } else if *kind == SERVICES {
            rules::check_dns1035_label(name)
        } else if LENIENT.contains(&kind) {
            rules::check_path_segment(name)
        } else {
            rules::check_dns1123_subdomain(name)
        };
        if let Err(why) = outcome {
            errors.invalid("metadata.name", format!("{name:?}"), why);
        }
    }
    labels(errors, "metadata.labels", object["metadata"].get("labels"));
    annotations(errors, object["metadata"].get("annotations"));
    owners(errors, rules::owner_references(object));
    finalizers(errors, object);
}

/// What may not be added to an object that is being deleted.
pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    if !rules::is_terminating(old) {
        return;
    }
    let known: Vec<&str> = rules::finalizers(old).collect();
    let added: Vec<&str> = rules::finalizers(new).filter(|f| !known.contains(f)).collect();
    if !added.is_empty() {
        let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
        let why =
            "no new finalizers can be added if the object is being deleted, found new finalizers []string";
        errors.forbidden("metadata.finalizers", format!("{why}{{{}}}", list.join(", ")));
    }
}

fn owners(errors: &mut Errors, owners: &[Value]) {
    let mut controller = None;
    for (i, owner) in owners.iter().enumerate() {
        let path = format!("metadata.ownerReferences[{i}]");
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if text(owner, field).is_empty() {
                errors.invalid(format!("{path}.{field}"), "\"\"", why);
            }
        }
        if owner["kind"] == "Event" && owner["apiVersion"] == "v1" {
            errors.invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] != true {
            continue;
        }
        let name = text(owner, "name");
        if let Some(first) = controller.replace(name) {
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
            );
            errors.invalid("metadata.ownerReferences", Value::from(owners), why);
        }
    }
}

/// Finalizers that need no domain before them.
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

fn finalizers(errors: &mut Errors, object: &Value) {
    for (i, finalizer) in rules::finalizers(object).enumerate() {
        let path = format!("metadata.finalizers[{i}]");
        if let Err(why) = rules::check_qualified_name(finalizer) {
            errors.invalid(&path, format!("{finalizer:?}"), why);
        } else if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, format!("{finalizer:?}"), why);
        }
    }
    let has = |name: &str| rules::finalizers(object).any(|f| f == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid("metadata.finalizers", &object["metadata"]["finalizers"], why);
    }
}

/// A map of labels anywhere.
pub(super) fn labels(errors: &mut Errors, field: &str, labels: Option<&Value>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = rules::check_qualified_name(key) {
            errors.invalid(field, format!("{key:?}"), why);
        }
        let value = value.as_str().unwrap_or("");
        if let Err(why) = rules::check_label_value(value) {
            errors.invalid(field, format!("{value:?}"), why);
        }
    }
}

fn annotations(errors: &mut Errors, annotations: Option<&Value>) {
    let mut total = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        if let Err(why) = rules::check_qualified_name(&key.to_lowercase()) {
            errors.invalid("metadata.annotations", format!("{key:?}"), why);
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > MAX_ANNOTATIONS {
        let message = format!("Too long: must have at most {MAX_ANNOTATIONS} bytes");
        errors.push("FieldValueTooLong", "metadata.annotations", message);
    }
}
