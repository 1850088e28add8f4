//! Events and Leases.

use serde_json::Value;

use super::{Errors, text};
use crate::meta as rules;

pub(super) fn event(errors: &mut Errors, object: &Value) {
    let own = rules::namespace(object);
    let about = text(&object["involvedObject"], "namespace");
    // What is about an object of the cluster lives in the default namespace.
    let agrees = if about.is_empty() { own == "default" } else { own == about };
    if !agrees && !own.is_empty() {
        errors.invalid("involvedObject.namespace", format!("{about:?}"), "does not match event.namespace");
    }
}

pub(super) fn lease(errors: &mut Errors, object: &Value) {
    let spec = &object["spec"];
    if spec["leaseDurationSeconds"].as_i64().is_some_and(|s| s <= 0) {
        errors.invalid("spec.leaseDurationSeconds", &spec["leaseDurationSeconds"], "must be greater than 0");
    }
    errors.not_negative("spec.leaseTransitions", &spec["leaseTransitions"]);
    if spec.get("holderIdentity").is_some_and(|h| h == "") {
        errors.invalid("spec.holderIdentity", "\"\"", "must not be empty");
    }
}
