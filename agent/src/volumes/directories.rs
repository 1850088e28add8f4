//! The directories that were provisioned for claims on this node: where each must be, and how it goes. Nothing outside the one
//! folder is ever made or removed, whatever a volume says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oarlock_api::k8s::api::core::v1::PersistentVolume;
use oarlock_api::meta::check_dns1123_subdomain;

use super::mounted;

/// The directory of a volume, which is in `root` under the volume's name and nowhere else.
pub(super) fn place(root: &Path, volume: &PersistentVolume) -> Result<PathBuf, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    // No slash, no "..": a name that is valid cannot leave the folder.
    check_dns1123_subdomain(name)?;
    let stated = volume.spec.as_ref().and_then(|s| s.local.as_ref()).map_or("", |l| l.path.as_str());
    let path = root.join(name);
    if Path::new(stated) == path {
        Ok(path)
    } else {
        Err(format!("{stated:?} is not where this node keeps volumes ({})", root.display()))
    }
}

/// Removes the directory of a volume with all that is in it. One that was never made is no error.
pub(super) fn remove(root: &Path, volume: &PersistentVolume) -> Result<(), String> {
    let path = place(root, volume)?;
    let failed = |e: io::Error| format!("cannot remove {}: {e}", path.display());
    match fs::symlink_metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(found) if !found.is_dir() => return Err(format!("{} is no directory", path.display())),
        Ok(_) => {}
    }
    if let Some(mounted) = mounted::mounts_below(&path).map_err(failed)?.first() {
        return Err(format!("{mounted} is mounted there: unmount it first"));
    }
    // Symbolic links in it are removed, not followed.
    fs::remove_dir_all(&path).map_err(failed)
}
