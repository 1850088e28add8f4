//! The cgroup of a pod: Docker makes it as a parent of the containers' and leaves it behind; this removes it.

use std::fs;
use std::path::{Path, PathBuf};

/// Removes the cgroup from every hierarchy (v1, v2 or both). One that is in use or not there stays as it is.
pub(super) fn remove(cgroup: &str) {
    let relative = cgroup.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return;
    }
    for hierarchy in hierarchies(Path::new("/sys/fs/cgroup")) {
        // A cgroup is removed as an empty folder, its files notwithstanding (cgroups(7)).
        let _ = fs::remove_dir(hierarchy.join(relative));
    }
}

/// The root itself (v2) and what is mounted below it (v1, and `unified` beside it).
fn hierarchies(root: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all: Vec<PathBuf> = below.filter(|path| path.is_dir()).collect();
    all.push(root.to_path_buf());
    all
}
