//! Rows of bindings of roles.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, list, text, wide};
use crate::meta;

pub(super) const BINDING: &[Column] =
    &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];

/// Name, `ClusterRole/view`, age, and who is bound.
pub(super) fn binding(object: &Value, age: Value) -> Vec<Value> {
    let word = |value: &Value, field: &str| value[field].as_str().unwrap_or("").to_owned();
    let role = format!("{}/{}", word(&object["roleRef"], "kind"), word(&object["roleRef"], "name"));
    let subjects = |kind: &str| {
        let named: Vec<String> = list(object, "subjects")
            .iter()
            .filter(|subject| subject["kind"] == kind)
            .map(|subject| match kind {
                "ServiceAccount" => format!("{}/{}", word(subject, "namespace"), word(subject, "name")),
                _ => word(subject, "name"),
            })
            .collect();
        json!(named.join(", "))
    };
    vec![
        json!(meta::name(object)),
        json!(role),
        age,
        subjects("User"),
        subjects("Group"),
        subjects("ServiceAccount"),
    ]
}
