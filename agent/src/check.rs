//! `oarlock-agent check`: what this host lacks to be a node, and how to mend it.

use std::path::Path;

use crate::net::NorthSouth;
use crate::runtime::{Docker, Runtime as _};
use crate::volumes::Host;

/// One thing that a node needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What is wrong and how to mend it; `Ok` says what was found.
    pub state: Result<String, String>,
    /// Without it this is no node; else there are pods that it cannot run.
    pub needed: bool,
}

/// The oldest kernel that the programs were tried on, Debian 12's. What they need is no older than `bpf_set_retval` and XDP on
/// frames in several parts (Linux 5.18).
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Looks at the host.
pub async fn check(docker_host: &str, bpffs: &Path, north_south: NorthSouth) -> Vec<Finding> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let docker = Docker::new(docker_host, "");
    let (version, host_network) = (docker.version().await, docker.host_network().await);
    let mounts = text("/proc/self/mounts");
    let needed = |what, state| Finding { what, state, needed: true };
    let mut findings = vec![
        needed("kernel", kernel(text("/proc/sys/kernel/osrelease").trim())),
        needed("BTF", btf(Path::new("/sys/kernel/btf/vmlinux").exists())),
        needed("BPF file system", bpf_mount(&mounts, bpffs)),
        needed("cgroup v2", cgroup2(&mounts)),
        needed("privileges", privileges(nix::unistd::geteuid().is_root())),
        needed("Docker", version.map_err(|e| e.to_string()).and_then(docker_state)),
        needed(
            "hostNetwork",
            host_network.map(|()| "Docker is on this network".to_owned()).map_err(|e| e.to_string()),
        ),
        needed("north-south", Ok(mode(north_south))),
    ];
    let volumes = Host::default().findings().into_iter();
    findings.extend(volumes.map(|(what, state)| Finding { what, state, needed: false }));
    findings
}

fn kernel(release: &str) -> Result<String, String> {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = OLDEST_KERNEL;
    if version >= OLDEST_KERNEL {
        Ok(release.to_owned())
    } else {
        Err(format!(
            "{release} is too old: Linux {major}.{minor} or newer is needed; install a newer kernel and reboot"
        ))
    }
}

fn btf(present: bool) -> Result<String, String> {
    let missing = "/sys/kernel/btf/vmlinux is missing: the kernel was built without CONFIG_DEBUG_INFO_BTF; use one with it";
    if present { Ok("/sys/kernel/btf/vmlinux".to_owned()) } else { Err(missing.to_owned()) }
}

fn bpf_mount(mounts: &str, bpffs: &Path) -> Result<String, String> {
    let path = bpffs.display().to_string();
    let mounted = mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .any(|f| f.get(1) == Some(&path.as_str()) && f.get(2) == Some(&"bpf"));
    if mounted { Ok(path) } else { Err(format!("{path} is not mounted: mount -t bpf bpf {path}")) }
}

fn cgroup2(mounts: &str) -> Result<String, String> {
    let found =
        mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|f| f.get(2) == Some(&"cgroup2"));
    let missing = "no cgroup v2 hierarchy is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified";
    found.and_then(|f| f.get(1).map(|p| (*p).to_owned())).ok_or_else(|| missing.to_owned())
}

fn privileges(root: bool) -> Result<String, String> {
    if root {
        Ok("root".to_owned())
    } else {
        Err("not root: links, BPF programs and cgroups need it; run with sudo".to_owned())
    }
}

/// What is wanted: only the network knows whether it goes.
fn mode(wanted: NorthSouth) -> String {
    match wanted {
        NorthSouth::Snat => "snat: pods of other nodes see this node instead of clients that have reached it",
        NorthSouth::Direct => {
            "direct, where the network lets nodes send with addresses of other nodes and of Services; over IPv6 snat"
        }
    }
    .to_owned()
}

fn docker_state(version: crate::runtime::Version) -> Result<String, String> {
    if version.cgroup_driver == "systemd" {
        let why = "uses the cgroup driver systemd, which takes no parent of ours: set \"exec-opts\": \
            [\"native.cgroupdriver=cgroupfs\"] in /etc/docker/daemon.json and restart it";
        return Err(why.to_owned());
    }
    Ok(version.runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        assert!(kernel("6.18.44-fc").is_ok() && kernel("6.1.0-50-amd64").is_ok());
        assert!(kernel("5.10.0-27-amd64").unwrap_err().contains("6.1"));
        assert!(kernel("nonsense").is_err());
        assert!(btf(false).unwrap_err().contains("CONFIG_DEBUG_INFO_BTF"));
        let mounts = "bpf /sys/fs/bpf bpf rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2(mounts), Ok("/sys/fs/cgroup/unified".into()));
        assert!(bpf_mount(mounts, Path::new("/sys/fs/bpf")).is_ok());
        assert!(bpf_mount("", Path::new("/sys/fs/bpf")).unwrap_err().contains("mount -t bpf"));
        let version = crate::runtime::Version {
            runtime: "docker://20".into(),
            cgroup_driver: "systemd".into(),
            index: String::new(),
        };
        assert!(docker_state(version).unwrap_err().contains("cgroupfs"));
    }
}
