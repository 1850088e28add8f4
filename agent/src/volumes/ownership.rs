//! `fsGroup` on volumes that outlive their pods: everything in them becomes the group's.
//!
//! Source: `SetVolumeOwnership` of k8s.io/kubernetes/pkg/volume.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use oarlock_api::k8s::api::core::v1::Pod;

/// Directories: all for the group, which new files inherit. Files: read and write.
const DIRECTORY: u32 = 0o2770;
const FILE: u32 = 0o660;

/// To whom volumes are given.
#[derive(Debug, Clone)]
pub(super) struct Heir {
    /// `fsGroup`.
    pub(super) group: u32,
    /// `fsGroupChangePolicy: Always`: all is looked at, once a pod, though the root is the group's already.
    pub(super) always: bool,
    /// There once that is done.
    pub(super) done: PathBuf,
}

impl Heir {
    /// To whom a pod wants its volume given.
    pub(super) fn of(pod: &Pod, pod_dir: &Path, volume: &str) -> Option<Self> {
        let security = pod.spec.as_ref()?.security_context.as_ref()?;
        let group = u32::try_from(security.fs_group?).ok()?;
        let always = security.fs_group_change_policy.as_deref() != Some("OnRootMismatch");
        Some(Self { group, always, done: pod_dir.join(format!("given-{volume}")) })
    }

    /// Gives a directory and all that is in it to the group.
    pub(super) fn take(&self, root: &Path) -> io::Result<()> {
        if self.done.exists() {
            return Ok(());
        }
        give(root, self.group, self.always)?;
        fs::write(&self.done, "")
    }
}

fn give(root: &Path, group: u32, always: bool) -> io::Result<()> {
    let held = fs::metadata(root)?;
    if !always && held.gid() == group && held.mode() & DIRECTORY == DIRECTORY {
        return Ok(());
    }
    let mut folders = vec![root.to_path_buf()];
    let mut seen = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                lchown(entry.path(), None, Some(group))?;
                if kind.is_file() {
                    widen(&entry.path(), FILE)?;
                }
            }
        }
        seen.push(folder);
    }
    // The root last: if this breaks off it starts again.
    for folder in seen.iter().rev() {
        lchown(folder, None, Some(group))?;
        widen(folder, DIRECTORY)?;
    }
    Ok(())
}

fn widen(path: &Path, mask: u32) -> io::Result<()> {
    let mode = fs::metadata(path)?.mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn all_is_given_once_a_pod_and_what_is_held_is_walked_only_if_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (root, file) = (dir.path().join("v"), dir.path().join("v/file"));
        fs::create_dir(&root).unwrap();
        fs::write(&file, "").unwrap();
        let group = || fs::metadata(&file).unwrap().gid();
        let heir = |always, pod: &str| Heir { group: 7, always, done: dir.path().join(pod) };
        heir(false, "a").take(&root).unwrap();
        assert_eq!(group(), 7);
        lchown(&file, None, Some(8)).unwrap();
        heir(false, "b").take(&root).unwrap();
        assert_eq!(group(), 8, "the root is the group's: OnRootMismatch looks no further");
        heir(true, "c").take(&root).unwrap();
        assert_eq!(group(), 7);
        lchown(&file, None, Some(8)).unwrap();
        heir(true, "c").take(&root).unwrap();
        assert_eq!(group(), 8, "once a pod");
    }
}
