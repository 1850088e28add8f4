//! Rows of NodeMetrics and PodMetrics, as metrics-server has them.

use serde_json::{Value, json};

use super::{Column, NAME, text};
use crate::meta;
use crate::quantity::{Format, Quantity};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    Column { format: "quantity", ..text("cpu") },
    Column { format: "quantity", ..text("memory") },
    Column { format: "duration", ..text("Window") },
];

/// A NodeMetrics, or a PodMetrics with all its containers together.
pub(super) fn cells(object: &Value) -> Vec<Value> {
    let containers = object["containers"].as_array();
    let sum = |resource: &str| {
        let one = |usage: &Value| usage[resource].as_str().and_then(|text| text.parse::<Quantity>().ok());
        let all = containers.into_iter().flatten().filter_map(|c| one(&c["usage"]));
        let whole = one(&object["usage"]).into_iter().chain(all);
        whole.reduce(|sum, next| sum.plus(&next)).unwrap_or(Quantity::units(0, Format::DecimalSI)).to_string()
    };
    vec![json!(meta::name(object)), json!(sum("cpu")), json!(sum("memory")), object["window"].clone()]
}
