//! Events and Leases.

use serde_json::Value;

use super::{Errors, text};
use crate::meta as rules;

/// The most characters of an event's reporting instance, action and reason, and of its message.
const WORD: usize = 128;
const MESSAGE: usize = 1024;

/// k8s.io/kubernetes/pkg/apis/core/validation/events.go
pub(super) fn event(errors: &mut Errors, object: &Value) {
    let own = rules::namespace(object);
    let about = text(&object["involvedObject"], "namespace");
    let new = !text(object, "eventTime").is_empty();
    // What is about an object of the cluster lives in the default namespace.
    let agrees = match about.is_empty() {
        true => own == "default" || new && own == "kube-system",
        false => own == about || new,
    };
    if !agrees && !own.is_empty() {
        errors.invalid("involvedObject.namespace", format!("{about:?}"), "does not match event.namespace");
    }
    if new {
        new_event(errors, object, "reportingComponent");
    }
}

/// Who gives an event's time says also who saw what, and where.
pub(super) fn new_event(errors: &mut Errors, object: &Value, controller_field: &str) {
    if text(object, "eventTime").is_empty() {
        errors.required("eventTime", "");
    }
    let controller = text(object, "reportingComponent");
    if controller.is_empty() {
        errors.required(controller_field, "");
    } else if let Err(why) = rules::check_qualified_name(controller) {
        errors.invalid(controller_field, format!("{controller:?}"), why);
    }
    for field in ["reportingInstance", "action", "reason"] {
        let said = text(object, field);
        if said.is_empty() {
            errors.required(field, "");
        } else if said.len() > WORD {
            errors.invalid(field, "\"\"", format_args!("can have at most {WORD} characters"));
        }
    }
    if text(object, "message").len() > MESSAGE {
        errors.invalid("message", "\"\"", format_args!("can have at most {MESSAGE} characters"));
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
