//! Looks at how much of the node's disk a pod uses that has limits; who uses more is evicted.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::worker::{Message, Worker};
use crate::plan::PodEnd;
use crate::plan::storage::{Limits, Used};

/// How often (kubelet's housekeeping of local storage).
const INTERVAL: Duration = Duration::from_secs(10);

/// Starts to look, once for a pod whose volumes are there.
pub(super) fn arrange(worker: &mut Worker) {
    let leaving = worker.memory.deletion.is_some() || worker.memory.end.is_some();
    if worker.measured || leaving || !worker.memory.volumes_ready {
        return;
    }
    let Some(limits) = worker.pod.spec.as_ref().and_then(Limits::of) else { return };
    worker.measured = true;
    let (shared, uid) = (Arc::clone(&worker.shared), worker.uid.clone());
    let volumes: Vec<(String, String)> = worker
        .pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .filter(|volume| volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() != Some("Memory")))
        .filter_map(|volume| Some((volume.name.clone(), worker.paths.get(&volume.name)?.clone())))
        .collect();
    worker.job("pod/storage", async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let folders = volumes.clone();
            let measured = tokio::task::spawn_blocking(move || {
                folders.into_iter().map(|(name, path)| (name, size(Path::new(&path)))).collect::<Vec<_>>()
            });
            let Ok(volumes) = measured.await else { continue };
            // A runtime that is away is asked again.
            let Ok(found) = shared.runtime.pod(&uid).await else { continue };
            let mut used = Used { volumes, containers: Vec::new() };
            for container in found.iter().filter(|c| c.is_running() && !c.is_sandbox()) {
                if let Ok(bytes) = shared.runtime.disk_usage(&container.id).await {
                    used.containers.push((container.name().to_owned(), bytes));
                }
            }
            if let Some(why) = limits.broken_by(&used) {
                return Message::End(PodEnd::evicted(why));
            }
        }
    });
}

/// What is on disk of a folder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FolderUse {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Everything in a folder; files with several names once, nothing that is mounted below it. What cannot be read counts as nothing.
pub(crate) fn folder_use(root: &Path) -> FolderUse {
    let Ok(device) = std::fs::metadata(root).map(|found| found.dev()) else { return FolderUse::default() };
    let (mut found, mut seen, mut folders) =
        (FolderUse::default(), BTreeSet::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(one) = entry.metadata() else { continue };
            if one.dev() != device {
                continue;
            }
            if one.is_dir() {
                folders.push(entry.path());
            } else if one.nlink() > 1 && !seen.insert(one.ino()) {
                continue;
            }
            found.inodes += 1;
            found.bytes = found.bytes.saturating_add(one.blocks().saturating_mul(512));
        }
    }
    found
}

fn size(root: &Path) -> i64 {
    i64::try_from(folder_use(root).bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_counted_by_their_blocks_and_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/file"), vec![1; 100_000]).unwrap();
        let before = size(dir.path());
        assert!((100_000..300_000).contains(&before), "{before}");
        std::fs::hard_link(dir.path().join("a/file"), dir.path().join("again")).unwrap();
        assert_eq!(size(dir.path()), before);
        let sparse = std::fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        assert!(size(dir.path()) < before + 100_000);
    }
}
