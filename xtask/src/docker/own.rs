//! A Docker daemon for each node, in the node's network namespace: there pods with hostNetwork are on their node's network.
//!
//! All that is such a daemon's is below one folder, which tells its processes from all others. It restores containers that run
//! when it starts (`--live-restore`): they outlive it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Docker, PATIENCE};
use crate::exec::{output, state};
use crate::{daemons, fabric, images};

/// Ends the names of these daemons.
const SUFFIX: &str = "-docker";

/// The daemon of a node.
fn name(number: u8) -> String {
    format!("node{number}{SUFFIX}")
}

/// Whether a daemon is one of these.
pub(crate) fn is_one(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

fn folder(name: &str) -> PathBuf {
    state().join(name)
}

/// Where a daemon listens.
pub(crate) fn of(name: &str) -> Docker {
    Docker { socket: folder(name).join("docker.sock").display().to_string() }
}

/// Starts the daemon of a node, unless it runs, and gives it our images.
pub(crate) fn start(number: u8) -> Result<Docker> {
    let name = name(number);
    let docker = of(&name);
    if !daemons::is_running(&name) {
        clear_away(&name);
        std::fs::create_dir_all(folder(&name))?;
        daemons::spawn(&name, command(number))?;
    }
    let start = Instant::now();
    while !docker.answers() {
        if !daemons::is_running(&name) || start.elapsed() > PATIENCE {
            bail!("{name} does not answer; its log is {}", state().join(format!("{name}.log")).display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    images::copy(&docker)?;
    Ok(docker)
}

fn command(number: u8) -> Command {
    let name = name(number);
    let folder = folder(&name);
    let at = |part: &str| folder.join(part).display().to_string();
    let mut command = fabric::command_in(&fabric::node_namespace(number), "dockerd");
    command.args(["--host", &format!("unix://{}", at("docker.sock")), "--pidfile", &at("docker.pid")]);
    command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--live-restore"]);
    // Where the machine has a containerd, all daemons share it.
    let plugins = format!("oarlock-{name}-plugins");
    command.args(["--containerd-namespace", &format!("oarlock-{name}")]);
    command.args(["--containerd-plugins-namespace", &plugins]);
    command.args(super::WITHOUT_NETWORK);
    command
}

/// What a daemon that was killed leaves behind, and a new one would take for a running one. A containerd that does run is used.
fn clear_away(name: &str) {
    let folder = folder(name);
    for stale in ["docker.pid", "docker.sock"] {
        let _ = std::fs::remove_file(folder.join(stale));
    }
    let containerd = folder.join("exec/containerd/containerd.pid");
    let pid = std::fs::read_to_string(&containerd).unwrap_or_default();
    if !processes(name).iter().any(|found| found == pid.trim()) {
        let _ = std::fs::remove_file(containerd);
    }
}

/// The processes of a daemon: itself, its containerd, what looks after its containers. Their command lines name its folder.
fn processes(name: &str) -> Vec<String> {
    let folder = format!("{}/", folder(name).display());
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let is_docker = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let program = line.split('\0').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        ["dockerd", "containerd", "containerd-shim-runc-v2"].contains(&program) && line.contains(&folder)
    };
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit())).filter(is_docker).collect()
}

/// Ends a daemon and its containers, also where it has died.
pub(crate) fn stop(name: &str) {
    of(name).remove_containers();
    daemons::stop(name);
    let left = containers(name);
    for pid in processes(name).iter().chain(&left) {
        let _ = output("kill", &["-9", pid]);
    }
}

/// What still runs in the cgroups of a node's pods.
fn containers(name: &str) -> Vec<String> {
    let node = name.trim_end_matches(SUFFIX);
    let pods = format!("awk '$3 ~ /^cgroup/ {{print $2 \"/oarlock/{node}\"}}' /proc/self/mounts");
    let files = format!("find $({pods}) -path '*/pod*/cgroup.procs' 2>/dev/null");
    let found = output("sh", &["-c", &format!("cat /dev/null $({files}) | sort -u")]).unwrap_or_default();
    found.lines().map(str::to_owned).collect()
}
