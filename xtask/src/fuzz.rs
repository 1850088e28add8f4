//! Decoders under libFuzzer: which there are, and one of them, or each, for a while.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::exec::{cargo_command, root, step, target};
use crate::setup;

/// What is compiled, tests of libraries alone, and the crate that has libFuzzer.
const PACKAGES: [&str; 5] =
    ["oarlock-api", "oarlock-daemon", "oarlock-control", "oarlock-agent", "oarlock-fuzz"];

/// Try decoders with inputs that libFuzzer makes, led by which branches of ours they reach: none may panic, or make the API server
/// answer with a failure of its own.
///
/// Every target is a test `fuzz_NAME` beside its decoder. Its inputs are the files of tests/fuzz/inputs/NAME: `cargo test` tries them and
/// mutations of them, which is what CI does. What libFuzzer adds lies in target/fuzz/corpus; an input that a decoder does not survive
/// is kept in target/fuzz/found/NAME and named at the end: mend the decoder, copy the file to tests/fuzz/inputs/NAME, so that it stays tried.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask fuzz --list                    which there are
  cargo xtask fuzz selectors --seconds 300   one of them
  cargo xtask fuzz --seconds 20              all of them
  cargo xtask fuzz requests -- -runs=0       only what is there: coverage as `cov:`
  cargo test fuzz_selectors                  what is kept, without libFuzzer

The first time it compiles for some minutes, into target/fuzz; it needs g++.")]
pub(crate) struct FuzzOptions {
    /// Which one; all of them if none is named.
    target: Option<String>,
    /// For how long each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Name them.
    #[arg(long)]
    list: bool,
    /// Further flags of libFuzzer.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Does as the options say.
pub(crate) fn fuzz(options: &FuzzOptions) -> Result<()> {
    let all = targets()?;
    if options.list {
        println!("{}", all.join("\n"));
        return Ok(());
    }
    let chosen = match &options.target {
        None => all,
        Some(one) if all.contains(one) => vec![one.clone()],
        Some(other) => bail!("there is no target {other}: it is one of {}", all.join(", ")),
    };
    each(&chosen, options.seconds, &options.flags)
}

/// Each target for as long.
pub(crate) fn all(seconds: u64) -> Result<()> {
    each(&targets()?, seconds, &[])
}

/// Every target has a folder of inputs.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("tests/fuzz/inputs");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}

fn each(targets: &[String], seconds: u64, flags: &[String]) -> Result<()> {
    setup::for_fuzzing()?;
    step("compiling decoders with coverage", || done(cargo().arg("--no-run"), "it does not compile"))?;
    let mut broken = Vec::new();
    for name in targets {
        let found = folder().join("found").join(name);
        let before = files(&found);
        let outcome = step(&format!("{name} for {seconds} s"), || one(name, seconds, flags));
        let after: Vec<PathBuf> = files(&found).into_iter().filter(|file| !before.contains(file)).collect();
        if outcome.is_err() || !after.is_empty() {
            let files: Vec<String> = after.iter().map(|file| file.display().to_string()).collect();
            broken.push(format!("{name}: {}", files.join(" ")));
        }
    }
    if broken.is_empty() {
        return Ok(());
    }
    bail!(
        "not every decoder survived; what was too much for them:\n  {}\nMend the decoder, and keep the input in tests/fuzz/inputs.",
        broken.join("\n  ")
    )
}

/// What libFuzzer makes and what is compiled for it.
fn folder() -> PathBuf {
    target().join("fuzz")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn one(name: &str, seconds: u64, flags: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["--", &format!("fuzz_{name}"), "--nocapture", "--test-threads=1"]);
    let flags = [
        format!(
            "-max_total_time={seconds} -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1"
        ),
        flags.join(" "),
    ];
    command
        .env("OARLOCK_FUZZ", name)
        .env("OARLOCK_FUZZ_FOLDER", folder())
        .env("OARLOCK_FUZZ_FLAGS", flags.join(" "));
    done(&mut command, "its input is kept")
}

/// The tests of the libraries, with coverage of what is ours, optimized a little: unlike the others, so apart from them.
fn cargo() -> Command {
    let mut command = cargo_command();
    command.args(["test", "--quiet", "--lib", "--features", "oarlock-fuzz/libfuzzer"]);
    command.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    command.arg("--target-dir").arg(folder());
    command.env("RUSTC_WORKSPACE_WRAPPER", root().join("tests/fuzz/rustc"));
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_INCREMENTAL", "0");
    command
}

fn done(command: &mut Command, why: &str) -> Result<()> {
    let status = command.current_dir(root()).status()?;
    if status.success() { Ok(()) } else { bail!("it ended with {status}: {why}") }
}
