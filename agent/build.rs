//! Embeds the BPF object that `cargo xtask build` has made. Without one, an empty placeholder: checks and lints need no BPF
//! toolchain, and the agent says at start what is missing. An object of other sources is refused.

#![expect(clippy::expect_used, reason = "a build script stops by panicking")]

use std::path::{Path, PathBuf};

include!("../ebpf/fingerprint.rs");

fn main() {
    println!("cargo:rerun-if-env-changed=OARLOCK_BPF_OBJECT");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = workspace.join("ebpf");
    for folder in ["src", "programs"] {
        println!("cargo:rerun-if-changed={}", sources.join(folder).display());
    }
    let object = std::env::var_os("OARLOCK_BPF_OBJECT")
        .map_or_else(|| workspace.join("target/bpf/bpfel-unknown-none/release/dataplane"), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("dataplane");
    match std::fs::read(&object) {
        Ok(bytes) => {
            let made_of = std::fs::read_to_string(object.with_extension("sources")).unwrap_or_default();
            let present = fingerprint(&sources).expect("the sources of ebpf can be read");
            assert!(made_of == present, "{} is of other sources: run `cargo xtask build`", object.display());
            std::fs::write(&out, bytes).expect("OUT_DIR can be written");
        }
        Err(_) => std::fs::write(&out, []).expect("OUT_DIR can be written"),
    }
    println!("cargo:rustc-env=OARLOCK_BPF_EMBEDDED={}", out.display());
}
