//! What the kernel counts of a cgroup: processor time and memory, in hierarchies of version 1, 2, or one of each.

use std::fs;
use std::path::{Path, PathBuf};

/// What a cgroup has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Processor time since it was made, in nanoseconds.
    pub(super) cpu_nanos: u64,
    /// Memory with all caches, in bytes.
    pub(super) memory: u64,
    /// Memory without what the kernel can drop at once: the caches of files that nobody has touched lately.
    pub(super) working_set: u64,
    /// Memory that is in no file.
    pub(super) rss: u64,
}

/// Where a resource is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchy {
    V1(PathBuf),
    V2(PathBuf),
}

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroups {
    cpu: Hierarchy,
    memory: Hierarchy,
    pids: Hierarchy,
}

impl Cgroups {
    /// Those of this machine.
    pub(crate) fn of_host() -> Self {
        Self::detect(Path::new("/sys/fs/cgroup"))
    }

    /// The machine's memory, and how much of it is not in use: caches that nobody has touched lately are free.
    pub(crate) fn memory_of_host() -> Option<(u64, u64)> {
        let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
        let kib = |name: &str| field(&meminfo, name).map(|kib| kib.saturating_mul(1024));
        let capacity = kib("MemTotal")?;
        Some((capacity, kib("MemFree")?.saturating_add(kib("Inactive(file)").unwrap_or(0)).min(capacity)))
    }

    /// How many processes and threads the machine has room for, and how many more than there are.
    pub(crate) fn processes_of_host() -> Option<(u64, u64)> {
        let most = number(Path::new("/proc/sys/kernel/pid_max"))?;
        let most = most.min(number(Path::new("/proc/sys/kernel/threads-max")).unwrap_or(most));
        let loads = fs::read_to_string("/proc/loadavg").ok()?;
        let there: u64 = loads.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
        Some((most, most.saturating_sub(there)))
    }

    /// The memory of a cgroup without what the kernel can drop at once.
    pub(crate) fn working_set(&self, cgroup: &str) -> Option<u64> {
        self.memory(cgroup.trim_start_matches('/')).map(|(_, working_set, _)| working_set)
    }

    /// How many processes and threads a cgroup has.
    pub(crate) fn processes(&self, cgroup: &str) -> Option<u64> {
        let (Hierarchy::V1(path) | Hierarchy::V2(path)) = &self.pids;
        number(&path.join(cgroup.trim_start_matches('/')).join("pids.current"))
    }

    /// Looks below the root, usually `/sys/fs/cgroup`.
    pub(super) fn detect(root: &Path) -> Self {
        let unified = [root.to_path_buf(), root.join("unified")];
        let unified = unified.into_iter().find(|path| path.join("cgroup.controllers").exists());
        let find = |names: &[&str]| {
            let old = names.iter().map(|name| root.join(name)).find(|path| path.is_dir());
            match (old, &unified) {
                (Some(path), _) => Hierarchy::V1(path),
                (None, Some(path)) => Hierarchy::V2(path.clone()),
                (None, None) => Hierarchy::V2(root.to_path_buf()),
            }
        };
        Self { cpu: find(&["cpuacct", "cpu,cpuacct"]), memory: find(&["memory"]), pids: find(&["pids"]) }
    }

    /// What a cgroup (its path from the root of the hierarchies) has used; `None` when it is gone.
    pub(super) fn read(&self, cgroup: &str) -> Option<Used> {
        let relative = cgroup.trim_start_matches('/');
        let (memory, working_set, rss) = self.memory(relative)?;
        Some(Used { cpu_nanos: self.cpu(relative)?, memory, working_set, rss })
    }

    /// The processor time of the whole machine.
    pub(super) fn machine_cpu(&self) -> Option<u64> {
        self.cpu("")
    }

    fn cpu(&self, relative: &str) -> Option<u64> {
        match &self.cpu {
            Hierarchy::V1(path) => number(&path.join(relative).join("cpuacct.usage")),
            Hierarchy::V2(path) => {
                let text = fs::read_to_string(path.join(relative).join("cpu.stat")).ok()?;
                Some(field(&text, "usage_usec")?.saturating_mul(1000))
            }
        }
    }

    fn memory(&self, relative: &str) -> Option<(u64, u64, u64)> {
        let (path, usage, inactive, rss) = match &self.memory {
            Hierarchy::V1(path) => (path, "memory.usage_in_bytes", "total_inactive_file", "total_rss"),
            Hierarchy::V2(path) => (path, "memory.current", "inactive_file", "anon"),
        };
        let path = path.join(relative);
        let usage = number(&path.join(usage))?;
        let text = fs::read_to_string(path.join("memory.stat")).ok()?;
        let inactive = field(&text, inactive).unwrap_or(0);
        Some((usage, usage.saturating_sub(inactive), field(&text, rss).unwrap_or(0)))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The number after a word at the beginning of a line.
pub(super) fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once([' ', ':']));
    let (_, value) = lines.find(|(word, _)| *word == name)?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(path).unwrap();
        for (name, text) in files {
            fs::write(path.join(name), text).unwrap();
        }
    }

    const USED: Used = Used { cpu_nanos: 2_500_000_000, memory: 4096, working_set: 3072, rss: 2048 };

    #[test]
    fn every_layout_of_hierarchies_is_read() {
        let v1_cpu = [("cpuacct.usage", "2500000000\n")];
        let v1_memory = [
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 1024\ntotal_rss 2048\n"),
        ];
        let v2 = [
            ("cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("memory.current", "4096\n"),
            ("memory.stat", "anon 2048\nfile 9\ninactive_file 1024\n"),
        ];
        let old = tempfile::tempdir().unwrap();
        write(&old.path().join("cpu,cpuacct/a/b"), &v1_cpu);
        write(&old.path().join("memory/a/b"), &v1_memory);
        let new = tempfile::tempdir().unwrap();
        write(new.path(), &[("cgroup.controllers", "cpu memory\n")]);
        write(&new.path().join("a/b"), &v2);
        let both = tempfile::tempdir().unwrap();
        write(&both.path().join("unified"), &[("cgroup.controllers", "cpu\n")]);
        write(&both.path().join("unified/a/b"), &v2);
        write(&both.path().join("memory/a/b"), &v1_memory);
        for root in [&old, &new, &both] {
            let cgroups = Cgroups::detect(root.path());
            assert_eq!(cgroups.read("/a/b"), Some(USED), "{cgroups:?}");
            assert_eq!(cgroups.read("/a/gone"), None);
        }
    }

    #[test]
    fn fields_are_whole_words() {
        let text = "MemTotal:       24041000 kB\nMemFree: 7 kB\nInactive: 1 kB\nInactive(file):  3 kB\n";
        assert_eq!(field(text, "MemTotal"), Some(24_041_000));
        assert_eq!(field(text, "Inactive(file)"), Some(3));
        assert_eq!(field(text, "Mem"), None);
    }

    /// Any file: a number is found where it says one, and nothing else.
    #[test]
    fn fuzz_cgroup_files() {
        oarlock_fuzz::Target::new("cgroup_files").run(|input| {
            let text = String::from_utf8_lossy(input);
            for name in ["usage_usec", "inactive_file", "total_rss", "MemTotal", "Inactive(file)", ""] {
                if let Some(number) = field(&text, name) {
                    let says =
                        |line: &str| line.starts_with(name) && line.contains(|c: char| c.is_ascii_digit());
                    assert!(text.lines().any(says), "{number} is said of {name:?}");
                }
            }
        });
    }
}
