//! Running other programs, and where things are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    std::env::var("CARGO_TARGET_DIR").map_or_else(|_| root().join("target"), PathBuf::from)
}

/// The folder of the local cluster: logs, pid files, data.
pub(crate) fn state() -> PathBuf {
    root().join("target/oarlock")
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).is_ok_and(|uid| uid.trim() == "0")
}

/// Runs a program with our own input and output; its failure is ours.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    finish(&mut Command::new(program), program, arguments)
}

fn finish(command: &mut Command, program: &str, arguments: &[&str]) -> Result<()> {
    let status = command.args(arguments).current_dir(root()).status().with_context(|| {
        format!("cannot run {program}: is it installed? `cargo xtask setup` installs what is needed")
    })?;
    if status.success() { Ok(()) } else { bail!("{program} {} failed: {status}", arguments.join(" ")) }
}

/// Runs a program and returns what it printed; its failure carries what it said.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

/// Whether a program answers with success, whatever it prints.
pub(crate) fn succeeds(program: &str, arguments: &[&str]) -> bool {
    output(program, arguments).is_ok()
}

/// Runs cargo in the workspace.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    finish(&mut cargo_command(), "cargo", arguments)
}

/// Cargo, without what the one that runs us says of our own package: build scripts look at that (ring's), and would build half the workspace
/// anew whenever cargo is called by hand and by us in turn.
pub(crate) fn cargo_command() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let is_ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_") || ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"].contains(&name)
        });
        if is_ours {
            command.env_remove(name);
        }
    }
    command
}

/// Does a step that may take long: says what, and how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {what}");
    let start = Instant::now();
    let done = work();
    println!(
        "    {} in {:.1} s",
        if done.is_ok() { "done" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    done
}
