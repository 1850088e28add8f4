//! The cgroups of a node in every hierarchy: its own and those of pods below it, of which Docker leaves some behind.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

/// How often a cgroup is tried that its last process is just leaving.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Those that are there, the innermost first.
pub(super) fn of(cgroup: &str) -> Vec<PathBuf> {
    hierarchies().iter().flat_map(|root| below(root, cgroup)).collect()
}

/// In one hierarchy: the node's own and, below it, those of its pods. A parent that is somebody else's may hold others.
fn below(root: &Path, cgroup: &str) -> Vec<PathBuf> {
    let own = Path::new(cgroup.trim_start_matches('/'));
    if own.as_os_str().is_empty() || own.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Vec::new();
    }
    let path = root.join(own);
    let mut found = Vec::new();
    for pod in children(&path) {
        if pod.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod")) {
            collect(&pod, &mut found);
        }
    }
    if path.is_dir() {
        found.push(path);
    }
    found
}

fn collect(path: &Path, found: &mut Vec<PathBuf>) {
    for child in children(path) {
        collect(&child, found);
    }
    found.push(path.to_owned());
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Where hierarchies of cgroups are mounted, of v1 and v2.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_cgroups = fields.filter(|f| matches!(f.get(2), Some(&("cgroup" | "cgroup2"))));
    of_cgroups.filter_map(|f| f.get(1).map(PathBuf::from)).collect()
}

/// Removes them, and the parent that nodes share when it is empty.
pub(super) async fn remove(cgroups: &[PathBuf]) -> anyhow::Result<()> {
    for path in cgroups {
        let mut outcome = gone(path);
        for _ in 1..TRIES {
            if outcome.is_ok() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            outcome = gone(path);
        }
        outcome.with_context(|| {
            format!("cannot remove the cgroup {}: are there processes in it?", path.display())
        })?;
        if let Some(parent) = path.parent().filter(|parent| parent.ends_with("oarlock")) {
            // Other nodes may be in it.
            let _ = fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// A cgroup is removed as an empty folder, its files notwithstanding (cgroups(7)).
fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_come_before_their_node_and_what_is_not_a_pods_is_not_among_them() {
        let root = tempfile::tempdir().unwrap();
        for path in ["oarlock/n1/podu1/c1", "oarlock/n1/other", "oarlock/n2/podu2"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let of = |cgroup: &str| -> Vec<String> {
            let shown = |path: &PathBuf| path.strip_prefix(root.path()).unwrap().display().to_string();
            below(root.path(), cgroup).iter().map(shown).collect()
        };
        assert_eq!(of("/oarlock/n1"), ["oarlock/n1/podu1/c1", "oarlock/n1/podu1", "oarlock/n1"]);
        for wrong in ["", "/", "/..", "/oarlock/../oarlock/n1", "/nothing"] {
            assert!(of(wrong).is_empty(), "{wrong}");
        }
    }
}
