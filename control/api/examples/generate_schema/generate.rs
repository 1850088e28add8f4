//! From two crates' sources and a page of facts to the text of the field table.
//!
//! In: the folder of this package. Out: the table's text. Never: writing files.

mod facts;
mod json;
mod merge;
mod protobuf;
mod render;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How many values a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One value.
    One,
    /// A JSON array.
    List,
    /// A JSON object with free keys.
    Map,
}

/// The field table, as text.
pub(crate) fn table(crate_root: &Path) -> Result<String, String> {
    let sources = sources(crate_root)?;
    let messages = protobuf::read(&source(&sources, "k8s-pb")?)?;
    let structs = json::read(&source(&sources, "k8s-openapi")?.join("v1_33"))?;
    let facts = facts::read(&crate_root.join("examples/generate_schema/facts.txt"))?;
    let mut tables = merge::merge(&messages, &structs)?;
    facts::apply(&facts, &mut tables)?;
    Ok(render::render(&tables))
}

/// Where cargo keeps the source of each package of the lock file.
fn sources(crate_root: &Path) -> Result<BTreeMap<String, PathBuf>, String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(crate_root)
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("cargo metadata is not JSON: {e}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    Ok(packages
        .iter()
        .filter_map(|package| {
            let manifest = Path::new(package["manifest_path"].as_str()?);
            Some((package["name"].as_str()?.to_owned(), manifest.parent()?.join("src")))
        })
        .collect())
}

fn source(sources: &BTreeMap<String, PathBuf>, package: &str) -> Result<PathBuf, String> {
    sources.get(package).cloned().ok_or_else(|| format!("package {package} is not in Cargo.lock"))
}

/// Every `.rs` file below a folder, in a stable order, with its path relative to that folder.
fn rust_files(root: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
        for entry in entries {
            let path = entry.map_err(|e| format!("cannot read {}: {e}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
                let relative =
                    path.strip_prefix(root).map_err(|e| format!("{}: {e}", path.display()))?.to_owned();
                found.push((relative, text));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What two spellings of one name have in common: `cluster_ip` and `clusterIP`, `AwsDisk` and `AWSDisk`.
fn normalised(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}
