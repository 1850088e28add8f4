//! Writes a set of files so that readers see all of the old or all of the new ones (kubelet's `AtomicWriter`).
//!
//! `name -> ..data/name`, `..data -> ..<time>/`; an update makes a new time folder and replaces the link `..data`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use super::payload::Payload;

const DATA: &str = "..data";

/// Makes `dir` hold the payload.
pub(super) fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && holds(&dir.join(old), payload)
    {
        return links(dir, payload);
    }
    let now = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let fresh = format!("..{now}.{}", uuid::Uuid::new_v4().simple());
    let folder = dir.join(&fresh);
    fs::create_dir(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(if group.is_some() { 0o2755 } else { 0o755 }))?;
    chown(&folder, None, group)?;
    for (path, file) in payload {
        let target = folder.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.data)?;
        // With fsGroup the group may read (kubelet's SetVolumeOwnership, read-only mask 0440).
        let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
        chown(&target, None, group)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
    }
    let temporary = dir.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&fresh, &temporary)?;
    fs::rename(&temporary, dir.join(DATA))?;
    links(dir, payload)?;
    // The folders of before, also those that a crash left.
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_old = name.to_string_lossy().starts_with("..") && name != DATA && name != *fresh;
        if is_old && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The links that users see: one for each first part of a path.
fn links(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if !text.starts_with("..") && !wanted.contains(text.as_ref()) {
            fs::remove_file(dir.join(&name))?;
        }
    }
    Ok(())
}

/// Whether the folder holds exactly this.
fn holds(folder: &Path, payload: &Payload) -> bool {
    let mut found = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let Ok(entries) = fs::read_dir(&next) else { return false };
        for entry in entries.flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found += 1;
            }
        }
    }
    found == payload.len()
        && payload.iter().all(|(path, file)| fs::read(folder.join(path)).is_ok_and(|data| data == file.data))
}
