//! Rows of APIServices.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, text};
use crate::{aggregation, meta};

pub(super) const COLUMNS: &[Column] = &[NAME, text("Service"), text("Available"), AGE];

pub(super) fn cells(object: &Value, age: Value) -> Vec<Value> {
    let word = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let service = aggregation::service(object).map_or_else(
        || "Local".to_owned(),
        |service| format!("{}/{}", word(&service["namespace"]), word(&service["name"])),
    );
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let available = match conditions.find(|condition| condition["type"] == "Available") {
        None => "Unknown".to_owned(),
        Some(condition) if condition["status"] == "True" || word(&condition["reason"]).is_empty() => {
            word(&condition["status"])
        }
        Some(condition) => format!("{} ({})", word(&condition["status"]), word(&condition["reason"])),
    };
    vec![json!(meta::name(object)), json!(service), json!(available), age]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_who_answers_and_why_nobody_does() {
        let row = |object: &Value| {
            let cells = cells(object, json!("1s"));
            format!("{} {}", cells[1].as_str().unwrap(), cells[2].as_str().unwrap())
        };
        assert_eq!(row(&json!({"metadata": {"name": "v1.apps"}})), "Local Unknown");
        let condition = |status: &str, reason: &str| {
            json!({"spec": {"service": {"namespace": "d", "name": "s"}},
                "status": {"conditions": [{"type": "Available", "status": status, "reason": reason}]}})
        };
        assert_eq!(row(&condition("True", "Passed")), "d/s True");
        assert_eq!(row(&condition("False", "MissingEndpoints")), "d/s False (MissingEndpoints)");
        assert_eq!(row(&condition("Unknown", "")), "d/s Unknown");
    }
}
