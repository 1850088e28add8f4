//! What a cluster makes on a machine, listed: the same before `up` and after `down`.

use std::collections::BTreeMap;

use crate::cluster::shell;

/// Everything of these kinds that is on the machine now, by kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Inventory(BTreeMap<&'static str, Vec<String>>);

const KINDS: [(&str, &str); 9] = [
    ("network namespaces", "ip netns list"),
    ("links", "ip -o link | cut -d: -f2"),
    ("routes", "ip route show table all | grep -v ^local; ip -6 route show table all | grep -v ^local"),
    ("containers", "docker ps -a --format '{{.Names}}'"),
    ("BPF links", "bpftool link | grep -o '^[0-9]*'"),
    ("BPF maps", "bpftool map | grep -o '^[0-9]*'"),
    ("pins", "find /sys/fs/bpf -mindepth 1"),
    (
        "cgroups",
        "find $(awk '$3 ~ /^cgroup/ {print $2}' /proc/self/mounts) -mindepth 1 -maxdepth 2 -name '*oarlock*'",
    ),
    ("mounts", "awk '{print $2}' /proc/self/mounts | grep -v /run/docker | grep -v /var/lib/docker"),
];

impl Inventory {
    /// Looks.
    #[must_use]
    pub fn take() -> Self {
        let list = |command: &str| {
            let mut lines: Vec<String> = shell(command).text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        Self(KINDS.iter().map(|(kind, command)| (*kind, list(command))).collect())
    }

    /// What is here and was not there, with its kind.
    #[must_use]
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        let more = self.0.iter().flat_map(|(kind, now)| {
            let then = before.0.get(kind).cloned().unwrap_or_default();
            now.iter().filter(move |line| !then.contains(line)).map(move |line| format!("{kind}: {line}"))
        });
        more.collect()
    }
}
