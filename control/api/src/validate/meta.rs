//! Names, labels and annotations of any object.

use serde_json::Value;

use super::Errors;
use crate::catalogue::{Kind, NAMESPACES, SERVICES};
use crate::meta as rules;

/// The most that all annotations together may hold, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) fn check(errors: &mut Errors, kind: &Kind, object: &Value) {
    let name = rules::name(object);
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        let outcome = if *kind == NAMESPACES {
            rules::check_dns1123_label(name)
        } else if *kind == SERVICES {
            rules::check_dns1035_label(name)
        } else {
            rules::check_dns1123_subdomain(name)
        };
        if let Err(why) = outcome {
            errors.invalid("metadata.name", format!("{name:?}"), why);
        }
    }
    labels(errors, "metadata.labels", object["metadata"].get("labels"));
    annotations(errors, object["metadata"].get("annotations"));
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
