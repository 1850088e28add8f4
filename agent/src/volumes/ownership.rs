//! `fsGroup` on volumes that outlive their pods: everything in them becomes the group's.
//!
//! Source: `SetVolumeOwnership` of k8s.io/kubernetes/pkg/volume, with OnRootMismatch: what was given is not walked again.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::Path;

/// Directories: all for the group, which new files inherit. Files: read and write.
const DIRECTORY: u32 = 0o2770;
const FILE: u32 = 0o660;

/// Gives a directory and all that is in it to a group.
pub(super) fn give(root: &Path, group: u32) -> io::Result<()> {
    let held = fs::metadata(root)?;
    if held.gid() == group && held.mode() & DIRECTORY == DIRECTORY {
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
