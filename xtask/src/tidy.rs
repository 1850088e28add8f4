//! What no compiler checks: file heads, inherited lints, module names that say nothing.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::exec::root;

const NAMES: [&str; 5] = ["utils.rs", "common.rs", "helpers.rs", "misc.rs", "mod.rs"];

/// Looks at every source file and manifest.
pub(crate) fn tidy() -> Result<()> {
    let mut findings = Vec::new();
    for folder in ["control", "agent", "ebpf", "xtask", "tests"] {
        visit(&root().join(folder), &mut findings)?;
    }
    if findings.is_empty() { Ok(()) } else { bail!("untidy:\n  {}", findings.join("\n  ")) }
}

fn visit(folder: &Path, findings: &mut Vec<String>) -> Result<()> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        if path.is_dir() && name != "target" && name != "gen" {
            visit(&path, findings)?;
        } else if name == "Cargo.toml"
            && !std::fs::read_to_string(&path)?.contains("[lints]\nworkspace = true")
        {
            findings.push(format!("{shown}: does not inherit the workspace's lints"));
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path)?;
            // A file that others include cannot have a head of its own; it begins with a comment.
            if !(text.starts_with("//!") || name == "fingerprint.rs" && text.starts_with("// ")) {
                findings.push(format!("{shown}: does not begin with what it is for (//!)"));
            }
            if NAMES.contains(&name.as_str()) {
                findings.push(format!("{shown}: a name that says nothing"));
            }
        }
    }
    Ok(())
}
