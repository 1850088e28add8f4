//! The data directory: mounts of pods in it, directories of claims, everything else. What somebody else has mounted in it is kept
//! from being emptied.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::volumes::{disks as shared_disks, mounts_below, unmount_below};

/// What is there.
#[derive(Debug, Default)]
pub(super) struct Found {
    data_dir: PathBuf,
    /// Where volumes in memory or of other machines and parts of volumes are mounted.
    mounts: Vec<PathBuf>,
    /// Directories of claims.
    volumes: Vec<PathBuf>,
    keep_volumes: bool,
    /// Whether there is anything but what is kept.
    is_there: bool,
}

/// Folders that may have a disk of their own, which is emptied and stays mounted.
fn disks(data_dir: &Path) -> [PathBuf; 4] {
    [data_dir.to_owned(), data_dir.join("pods"), data_dir.join("pods/pods"), data_dir.join("volumes")]
}

/// Looks.
pub(super) fn look(data_dir: &Path, keep_volumes: bool) -> anyhow::Result<Found> {
    if !data_dir.exists() {
        return Ok(Found::default());
    }
    let data_dir = data_dir.canonicalize()?;
    let (pods, shared) = (data_dir.join("pods/pods"), shared_disks(&data_dir.join("pods")));
    let mut mounts = Vec::new();
    for mount in mounts_below(&data_dir)?.into_iter().map(PathBuf::from) {
        if disks(&data_dir).contains(&mount) {
            continue;
        }
        anyhow::ensure!(
            mount.starts_with(&pods) || mount.starts_with(&shared),
            "{} is mounted there, and not by the agent: unmount it first",
            mount.display()
        );
        mounts.push(mount);
    }
    let volumes = entries(&data_dir.join("volumes"))?;
    let mut is_there = false;
    for folder in disks(&data_dir) {
        is_there |= !inside(&folder, &data_dir, keep_volumes)?.is_empty();
    }
    Ok(Found { data_dir, mounts, volumes, keep_volumes, is_there })
}

/// What of a folder goes: all but the folders that may have a disk of their own, which are looked at by themselves.
fn inside(folder: &Path, data_dir: &Path, keep_volumes: bool) -> io::Result<Vec<PathBuf>> {
    if keep_volumes && folder.ends_with("volumes") {
        return Ok(Vec::new());
    }
    let disks = disks(data_dir);
    Ok(entries(folder)?.into_iter().filter(|path| !disks.contains(path)).collect())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let mut paths = entries?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
            paths.sort();
            Ok(paths)
        }
    }
}

impl Found {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.mounts.iter().map(|path| format!("mount      {}", path.display())).collect();
        if !self.keep_volumes {
            lines.extend(self.volumes.iter().map(|path| {
                format!("volume     {}  (what pods have written for their claim)", path.display())
            }));
        }
        if self.is_there {
            let but = if self.keep_volumes { " but for volumes" } else { "" };
            lines.push(format!("directory  {}  (certificates, files of pods){but}", self.data_dir.display()));
        }
        lines
    }
}

/// Removes it.
pub(super) fn remove(found: &Found) -> anyhow::Result<()> {
    if !found.is_there {
        return Ok(());
    }
    let data_dir = &found.data_dir;
    for pod in entries(&data_dir.join("pods/pods"))? {
        unmount_below(&pod).with_context(|| format!("cannot unmount what is below {}", pod.display()))?;
    }
    // Nothing may be mounted below what is removed whole; this also finds what was mounted meanwhile.
    let again = look(data_dir, found.keep_volumes)?;
    anyhow::ensure!(again.mounts.is_empty(), "{} is mounted again: is a pod running?", data_dir.display());
    let disks = disks(data_dir);
    for folder in disks.iter().rev() {
        for path in inside(folder, data_dir, found.keep_volumes)? {
            let is_folder = fs::symlink_metadata(&path)?.is_dir();
            let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        match fs::remove_dir(folder) {
            // A disk that is mounted there, or what was left on purpose.
            Err(e) if matches!(e.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other.with_context(|| format!("cannot remove {}", folder.display()))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data directory of an agent that had a pod and a claim.
    fn used() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in ["pods/pods/u1/volumes/kubernetes.io~secret/s", "pods/pods/u2", "volumes/pvc-1", "pki"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        for path in ["made.json", "pki/node.pem", "volumes/pvc-1/data"] {
            fs::write(folder.path().join(path), "x").unwrap();
        }
        folder
    }

    fn left(folder: &Path) -> Vec<String> {
        let names = entries(folder).unwrap();
        names.iter().map(|path| path.strip_prefix(folder).unwrap().display().to_string()).collect()
    }

    #[test]
    fn all_of_it_goes_or_all_but_what_pods_have_written_for_their_claims() {
        let kept = used();
        let found = look(kept.path(), true).unwrap();
        assert!(found.lines().iter().all(|line| !line.contains("pvc-1")));
        remove(&found).unwrap();
        assert_eq!(left(kept.path()), ["volumes"]);
        assert!(kept.path().join("volumes/pvc-1/data").exists());
        assert!(look(kept.path(), true).unwrap().lines().is_empty(), "a second time there is nothing");
        let found = look(kept.path(), false).unwrap();
        assert!(found.lines()[0].contains("volumes/pvc-1 "), "{:?}", found.lines());
        remove(&found).unwrap();
        assert!(!kept.path().exists());
        assert!(look(kept.path(), false).unwrap().lines().is_empty());
    }

    #[test]
    fn mounts_of_pods_go_disks_are_emptied_and_what_somebody_else_mounted_is_not_touched() {
        let folder = used();
        let mount = |path: &Path| {
            nix::mount::mount(Some("tmpfs"), path, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)
        };
        let of_pod = folder.path().join("pods/pods/u1/volumes/kubernetes.io~secret/s");
        mount(&of_pod).expect("these tests need root");
        let disk = folder.path().join("volumes");
        mount(&disk).unwrap();
        fs::create_dir_all(disk.join("pvc-2")).unwrap();
        let others = folder.path().join("pki/theirs");
        fs::create_dir(&others).unwrap();
        mount(&others).unwrap();
        fs::write(others.join("precious"), "x").unwrap();
        let refused = look(folder.path(), false).unwrap_err().to_string();
        nix::mount::umount(&others).unwrap();
        let found = look(folder.path(), false).unwrap();
        let lines = found.lines();
        remove(&found).unwrap();
        let (again, after) = (look(folder.path(), false).unwrap().lines(), left(folder.path()));
        nix::mount::umount(&disk).unwrap();
        assert!(refused.contains("pki/theirs is mounted there, and not by the agent"), "{refused}");
        assert!(lines[0].starts_with("mount ") && lines[1].contains("volumes/pvc-2 "), "{lines:?}");
        assert_eq!((after, again), (vec!["volumes".to_owned()], Vec::new()));
        assert!(mounts_below(folder.path()).unwrap().is_empty());
    }
}
