//! The BPF object: by a nightly with rust-src where rustup has one, else by Debian's toolchain with a prebuilt BPF `core`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::exec::{cargo_command, output, root, step};

include!("../../ebpf/fingerprint.rs");

/// In step with `[workspace.metadata.bpf]` of the root manifest.
const LINKER_VERSION: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";
const TARGET: &str = "bpfel-unknown-none";

/// The object that the agent embeds.
fn object() -> PathBuf {
    root().join("target/bpf").join(TARGET).join("release/dataplane")
}

/// Builds the object, if its sources have changed.
pub(crate) fn build() -> Result<()> {
    let made_of = std::fs::read_to_string(object().with_extension("sources")).unwrap_or_default();
    let present = fingerprint(&root().join("ebpf")).context("the sources of ebpf cannot be read")?;
    if made_of == present && object().exists() {
        return Ok(());
    }
    let linker = linker()?;
    step("building the BPF programs", || {
        compile(&linker)?;
        strip()
    })?;
    std::fs::write(object().with_extension("sources"), present)?;
    Ok(())
}

/// bpf-linker, built once into target/tools.
fn linker() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let linker = tools.join("bin/bpf-linker");
    if !linker.exists() {
        step(&format!("building bpf-linker {LINKER_VERSION} (once)"), || {
            let path = format!("{LLVM}/bin:{}", std::env::var("PATH").unwrap_or_default());
            let status = cargo_command()
                .args([
                    "install",
                    "--quiet",
                    "--locked",
                    &format!("bpf-linker@{LINKER_VERSION}"),
                    "--no-default-features",
                ])
                .args(["--features", "llvm-22", "--root"])
                .arg(&tools)
                .env("PATH", path)
                .env("LLVM_PREFIX", LLVM)
                .env_remove("CARGO_TARGET_DIR")
                .status()?;
            if status.success() { Ok(()) } else { bail!("cargo install bpf-linker failed: {status}") }
        })?;
    }
    Ok(linker)
}

fn compile(linker: &Path) -> Result<()> {
    let architecture = std::env::consts::ARCH;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Debian's older compiler sees `pub` in a program as unreachable.
        "-Aunreachable_pub".to_owned(),
    ];
    let mut command = cargo_command();
    command.current_dir(root());
    let nightly = has_nightly_sources();
    if nightly {
        command.args(["+nightly", "build", "-Z", "build-std=core"]);
    } else {
        command.arg("build").env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    }
    command
        .args([
            "--quiet",
            "--release",
            "--target",
            TARGET,
            "-p",
            "oarlock-ebpf",
            "--bin",
            "dataplane",
            "--features",
            "bpf",
        ])
        .args(["--target-dir", "target/bpf"])
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTC_WRAPPER");
    let status = command.status()?;
    if status.success() { Ok(()) } else { bail!("the BPF programs do not build: {status}") }
}

/// Takes what only debuggers read away, which is most of the object: BTF, which the linker made of it, tells the kernel the same.
fn strip() -> Result<()> {
    let object = object().display().to_string();
    output(&format!("{LLVM}/bin/llvm-strip"), &["--strip-debug", &object]).map(drop)
}

fn has_nightly_sources() -> bool {
    let sysroot = output("rustc", &["+nightly", "--print", "sysroot"]).unwrap_or_default();
    !sysroot.trim().is_empty() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").exists()
}
