//! What was measured, in the form that `cargo xtask bench` reads.

use serde_json::{Value, json};

use crate::process::Control;

/// All figures of one store.
pub(crate) struct Measured {
    store: String,
    list: Vec<Value>,
}

impl Measured {
    /// Nothing yet.
    pub(crate) fn of(store: &str) -> Self {
        Self { store: store.to_owned(), list: Vec::new() }
    }

    /// One figure.
    pub(crate) fn add(&mut self, name: &str, unit: &str, value: f64) {
        println!("{}: {name}: {value:.2} {unit}", self.store);
        self.list.push(json!({"name": format!("{}: {name}", self.store), "unit": unit, "rounds": [value]}));
    }

    /// The resident memory of the control plane.
    pub(crate) fn memory(&mut self, when: &str, control: &Control) {
        self.add(&format!("control plane, RSS {when}"), "MB", control.resident_megabytes());
    }

    /// Everything.
    pub(crate) fn list(self) -> Vec<Value> {
        self.list
    }
}
