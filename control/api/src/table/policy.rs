//! Rows of PodDisruptionBudgets.

use serde_json::{Value, json};

use super::{AGE, Column, NAME, number, text};
use crate::meta;

pub(super) const DISRUPTION_BUDGET: &[Column] =
    &[NAME, text("Min Available"), text("Max Unavailable"), number("Allowed Disruptions"), AGE];

pub(super) fn disruption_budget(object: &Value, age: Value) -> Vec<Value> {
    let amount = |field: &str| match &object["spec"][field] {
        Value::String(percent) => json!(percent),
        Value::Number(number) => json!(number.to_string()),
        _ => json!("N/A"),
    };
    vec![
        json!(meta::name(object)),
        amount("minAvailable"),
        amount("maxUnavailable"),
        json!(object["status"]["disruptionsAllowed"].as_i64().unwrap_or(0)),
        age,
    ]
}
