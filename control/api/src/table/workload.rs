//! Rows of Deployments and ReplicaSets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, number, text, wide};
use crate::meta;
use crate::selector::Selector;

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready"),
    text("Up-to-date"),
    text("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn counted(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Names of containers, their images, and the selector.
fn wide_cells(object: &Value) -> [Value; 3] {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    let join = |field: &str| {
        let all: Vec<&str> = containers.into_iter().flatten().filter_map(|c| c[field].as_str()).collect();
        all.join(",")
    };
    let selector = Selector::from_label_selector(object["spec"].get("selector")).ok().flatten();
    let selector =
        selector.filter(|s| !s.is_everything()).map_or_else(|| "<none>".to_owned(), |s| s.to_string());
    [json!(join("name")), json!(join("image")), json!(selector)]
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let ready = format!("{}/{}", counted(&status["readyReplicas"]), counted(&object["spec"]["replicas"]));
    let mut cells = vec![
        json!(meta::name(object)),
        json!(ready),
        json!(counted(&status["updatedReplicas"])),
        json!(counted(&status["availableReplicas"])),
        json!(age(object, now)),
    ];
    cells.extend(wide_cells(object));
    cells
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut cells = vec![
        json!(meta::name(object)),
        json!(counted(&object["spec"]["replicas"])),
        json!(counted(&status["replicas"])),
        json!(counted(&status["readyReplicas"])),
        json!(age(object, now)),
    ];
    cells.extend(wide_cells(object));
    cells
}
