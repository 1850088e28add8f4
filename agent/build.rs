//! Embeds the BPF object that `cargo xtask build` has made. Without one, an empty placeholder: checks and lints need no BPF
//! toolchain, and the agent says at start what is missing. An object older than its sources is refused.

#![expect(clippy::expect_used, reason = "a build script stops by panicking")]

use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
            let made = modified(&object);
            let newest = ["src", "programs"].iter().map(|f| newest(&sources.join(f))).max();
            assert!(
                Some(made) >= newest,
                "{} is older than its sources: run `cargo xtask build`",
                object.display()
            );
            std::fs::write(&out, bytes).expect("OUT_DIR can be written");
        }
        Err(_) => std::fs::write(&out, []).expect("OUT_DIR can be written"),
    }
    println!("cargo:rustc-env=OARLOCK_BPF_EMBEDDED={}", out.display());
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn newest(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let times = entries.map(|path| if path.is_dir() { newest(&path) } else { modified(&path) });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}
