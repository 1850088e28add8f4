//! What a fresh machine lacks, installed (Debian, as root) or listed.

use std::path::Path;

use anyhow::{Result, bail};

use crate::docker;
use crate::exec::{is_root, output, root, run, step, succeeds};

/// What has to be there, by a file that proves it, and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/bin/busybox", "busybox-static"),
    ("/usr/sbin/bpftool", "bpftool"),
    ("/sbin/ip", "iproute2"),
    ("/sbin/ethtool", "ethtool"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/curl", "curl"),
    ("/usr/bin/openssl", "openssl"),
    ("/usr/bin/python3", "python3-minimal"),
    ("/usr/lib/python3.11/ensurepip", "python3-venv"),
    ("/usr/lib/rustlib/bpfel-unknown-none", "libstd-rust-web-dev-bpf"),
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/lib/llvm-22/bin/llvm-config", "llvm-22-dev"),
    ("/usr/lib/llvm-22/lib/libPolly.a", "libpolly-22-dev"),
    // What etcd-client makes its messages with, and from.
    ("/usr/bin/protoc", "protobuf-compiler"),
    ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
    ("/usr/include/zstd.h", "libzstd-dev"),
    // To check the units of packages: systemd-analyze.
    ("/usr/bin/systemd-analyze", "systemd"),
];

/// What only tests need: a server that has volumes.
const FOR_TESTS: &[(&str, &str)] = &[("/usr/sbin/glusterd", "glusterfs-server")];

/// Makes the machine ready. Quick when it is.
pub(crate) fn setup() -> Result<()> {
    packages(NEEDED)?;
    kubectl()?;
    mount_bpffs()?;
    docker::ensure()
}

/// The same, and what only tests need.
pub(crate) fn setup_for_tests() -> Result<()> {
    setup()?;
    packages(FOR_TESTS)?;
    python()
}

/// What libFuzzer is compiled with.
pub(crate) fn for_fuzzing() -> Result<()> {
    packages(&[("/usr/bin/g++", "g++")])
}

fn packages(needed: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> =
        needed.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("missing on this machine: {}\nInstall them, or run this as root on Debian.", missing.join(" "));
    }
    step(&format!("installing {}", missing.join(" ")), || {
        output("apt-get", &["update"])?;
        let mut arguments =
            vec!["install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"];
        arguments.extend(&missing);
        output("env", &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], arguments.as_slice()].concat())
            .map(drop)
    })
}

/// kubectl: the one on the PATH, else Debian's, unpacked beside us (installed it would clash with others).
fn kubectl() -> Result<()> {
    if kubectl_path().is_some() {
        return Ok(());
    }
    step("fetching kubectl (Debian's kubernetes-client)", || {
        let tools = root().join("target/tools");
        std::fs::create_dir_all(&tools)?;
        // Package lists may be missing or old.
        let script = format!(
            "cd {0} && apt-get update >/dev/null && apt-get download kubernetes-client >/dev/null && dpkg -x kubernetes-client_*.deb {0}/kubectl && rm -f \
             kubernetes-client_*.deb",
            tools.display()
        );
        output("sh", &["-c", &script]).map(drop)
    })
}

/// Where kubectl is.
pub(crate) fn kubectl_path() -> Option<String> {
    let own = root().join("target/tools/kubectl/usr/bin/kubectl");
    if succeeds("kubectl", &["version", "--client"]) {
        return Some("kubectl".to_owned());
    }
    own.exists().then(|| own.display().to_string())
}

/// The official Python client of the API, for the tests of clients: in an environment of its own, made anew when what it is made
/// of changes.
fn python() -> Result<()> {
    let tools = root().join("target/tools/python");
    let wanted = root().join("tests/tests/clients/requirements.txt");
    let made_of = tools.join("requirements.txt");
    if std::fs::read(&made_of).is_ok_and(|made| std::fs::read(&wanted).is_ok_and(|wanted| wanted == made)) {
        return Ok(());
    }
    step("fetching the Python client of the API", || {
        output("/usr/bin/python3", &["-m", "venv", "--clear", &tools.display().to_string()])?;
        let pip = tools.join("bin/pip").display().to_string();
        output(&pip, &["install", "--quiet", "--no-deps", "--requirement", &wanted.display().to_string()])?;
        std::fs::copy(&wanted, &made_of).map(drop).map_err(Into::into)
    })
}

fn mount_bpffs() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mounted = mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf"));
    if mounted || !is_root() { Ok(()) } else { run("mount", &["-t", "bpf", "bpf", "/sys/fs/bpf"]) }
}
