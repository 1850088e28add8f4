//! `cargo xtask bench dataplane`: the agent's own benchmark (agent/benches/dataplane), and its rounds as figures.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::report::{self, Figure};
use crate::exec::{root, state, step};
use crate::{bpf, setup};

/// Builds it, runs it, and publishes what it has measured.
pub(super) fn bench() -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    let folder = state().join("bench");
    std::fs::create_dir_all(&folder)?;
    let rounds = folder.join("dataplane-rounds.json");
    step("measuring (builds the agent with optimisations first)", || run(&rounds))?;
    report::publish("dataplane", &figures(&rounds)?)
}

fn run(rounds: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--package", "oarlock-agent", "--bench", "dataplane", "--"]).arg(rounds);
    let status = command.current_dir(root()).status()?;
    if status.success() { Ok(()) } else { bail!("the benchmark of the dataplane failed: {status}") }
}

fn figures(rounds: &Path) -> Result<Vec<Figure>> {
    let list: Vec<Value> = serde_json::from_slice(&std::fs::read(rounds)?)?;
    let values = |measured: &Value| -> Vec<f64> {
        measured["rounds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let named = |name: &str| list.iter().find(|measured| measured["name"] == name).map(values);
    let figure = |measured: &Value| {
        let text = |field: &str| measured[field].as_str().unwrap_or_default();
        let figure = Figure::of(text("name"), text("unit"), &values(measured));
        Ok(match text("baseline") {
            "" => figure,
            name => {
                let baseline = named(name).with_context(|| format!("no {name} was measured"))?;
                figure.compared(&values(measured), &baseline)
            }
        })
    };
    list.iter().map(figure).collect()
}
