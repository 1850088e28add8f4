//! Benchmarks that a package has of its own (`PACKAGE/benches/NAME`): run, and their rounds as figures.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::ControllersOptions;
use super::report::{self, Figure};
use crate::exec::{cargo_command, root, state, step};
use crate::{bpf, setup};

/// What the agent's dataplane costs.
pub(super) fn dataplane() -> Result<()> {
    setup::setup()?;
    bpf::build()?;
    bench("oarlock-agent", "dataplane")
}

/// What the API server serves.
pub(super) fn api() -> Result<()> {
    bench("oarlock-control", "api")
}

/// What the scheduler decides.
pub(super) fn scheduler() -> Result<()> {
    bench("oarlock-planner", "scheduler")
}

/// What a control plane does for a whole cluster.
pub(super) fn controllers(options: &ControllersOptions) -> Result<()> {
    setup::setup()?;
    let stores = options.store.as_deref().map_or(vec!["etcd", "embedded"], |store| vec![store]);
    let sizes = [
        ("--nodes", options.nodes),
        ("--pods", options.pods),
        ("--replicas", options.replicas),
        ("--minutes", options.minutes),
    ];
    let mut all = Vec::new();
    for store in stores {
        let sizes = sizes.iter().flat_map(|(name, size)| [(*name).to_owned(), size.to_string()]);
        let arguments: Vec<String> = sizes.chain(["--store".to_owned(), store.to_owned()]).collect();
        all.extend(measure("oarlock-control", "controllers", &arguments)?);
    }
    report::publish("controllers", &all)
}

/// Builds it, runs it, and publishes what it has measured.
fn bench(package: &str, name: &str) -> Result<()> {
    report::publish(name, &measure(package, name, &[])?)
}

/// Builds it, runs it, and reads what it has measured.
fn measure(package: &str, name: &str, arguments: &[String]) -> Result<Vec<Figure>> {
    let folder = state().join("bench");
    std::fs::create_dir_all(&folder)?;
    let rounds = folder.join(format!("{name}-rounds.json"));
    let what = format!("measuring (builds {package} with optimisations first)");
    step(&what, || run(package, name, arguments, &rounds))?;
    figures(&rounds)
}

fn run(package: &str, name: &str, arguments: &[String], rounds: &Path) -> Result<()> {
    let mut command = cargo_command();
    command.args(["bench", "--package", package, "--bench", name, "--"]).args(arguments).arg(rounds);
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
