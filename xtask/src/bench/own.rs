//! Benchmarks that a package has of its own (`PACKAGE/benches/NAME`): run, and their rounds as figures.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::report::{self, Figure};
use crate::exec::{root, state, step};
use crate::{bpf, setup};

/// What the agent's dataplane costs.
pub(super) fn dataplane() -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    bench("oarlock-agent", "dataplane")
}

/// What the scheduler decides.
pub(super) fn scheduler() -> Result<()> {
    bench("oarlock-planner", "scheduler")
}

/// Builds it, runs it, and publishes what it has measured.
fn bench(package: &str, name: &str) -> Result<()> {
    let folder = state().join("bench");
    std::fs::create_dir_all(&folder)?;
    let rounds = folder.join(format!("{name}-rounds.json"));
    step(&format!("measuring (builds {package} with optimisations first)"), || run(package, name, &rounds))?;
    report::publish(name, &figures(&rounds)?)
}

fn run(package: &str, name: &str, rounds: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--package", package, "--bench", name, "--"]).arg(rounds);
    let status = command.current_dir(root()).status()?;
    if status.success() { Ok(()) } else { bail!("the benchmark {name} failed: {status}") }
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
