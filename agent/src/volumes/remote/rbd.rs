//! Images of Ceph as disks, by the command rbd.
//!
//! Source: k8s.io/kubernetes/pkg/volume/rbd/rbd_util.go.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::attached::Folder;
use super::host::Host;
use super::requests::rbd;
use super::source::{Access, Rbd, Remote};

/// How long a disk may take to appear after it was mapped.
const APPEARS: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// What rbd calls somebody who has an image open.
const WATCHER: &str = "watcher=";

/// Maps the image, unless it is; the disk.
pub(super) async fn attach(
    host: &Host,
    disk: &Rbd,
    access: &Access,
    remote: &Remote,
    folder: &Folder,
) -> Result<PathBuf, String> {
    if let Some(device) = device(host, disk) {
        return Ok(device);
    }
    let key = match &access.key {
        Some(key) => {
            Some(KeyFile::write(folder.key_file(), key).map_err(|e| format!("cannot write a key: {e}"))?)
        }
        None => None,
    };
    let file = key.as_ref().map(|key| key.0.as_path());
    if !remote.read_only {
        let used = host.run("rbd", &rbd("status", disk, access, file)).await.map_err(|e| {
            format!("fail to check rbd image status with: ({}), rbd output: ({})", e.why, e.output.trim_end())
        })?;
        if used.contains(WATCHER) {
            return Err(format!("rbd image {}/{} is still being used", disk.pool, disk.image));
        }
    }
    let mapped = host.run("rbd", &rbd("map", disk, access, file)).await;
    mapped.map_err(|e| format!("rbd: map failed {}, rbd output: {}", e.why, e.output.trim_end()))?;
    let appears = async {
        loop {
            match device(host, disk) {
                Some(device) => break device,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    };
    let appeared = tokio::time::timeout(APPEARS, appears).await;
    appeared.map_err(|_| {
        format!("could not map image {}/{}, Timeout after {}s", disk.pool, disk.image, APPEARS.as_secs())
    })
}

/// Unmaps the image, if it is mapped.
pub(super) async fn detach(host: &Host, disk: &Rbd) -> Result<(), String> {
    let Some(device) = device(host, disk) else { return Ok(()) };
    let unmapped = host.run("rbd", &["unmap".to_owned(), device.display().to_string()]).await;
    unmapped.map(drop).map_err(|e| {
        format!(
            "rbd: failed to unmap device {}, error {}, rbd output: {}",
            device.display(),
            e.why,
            e.output.trim_end()
        )
    })
}

/// The disk of an image that is mapped, as the kernel says.
fn device(host: &Host, disk: &Rbd) -> Option<PathBuf> {
    let all = fs::read_dir(host.root.join("sys/bus/rbd/devices")).ok()?.flatten();
    let says = |folder: &Path, name: &str, value: &str| {
        fs::read_to_string(folder.join(name)).is_ok_and(|text| text.trim() == value)
    };
    let mapped = all.into_iter().map(|entry| entry.path()).find(|folder| {
        says(folder, "pool", &disk.pool)
            && says(folder, "name", &disk.image)
            && says(folder, "current_snap", "-")
    })?;
    let id = mapped.file_name()?.to_string_lossy().into_owned();
    Some(host.root.join("dev").join(format!("rbd{id}")))
}

/// A key that only helpers read, for as long as they do: not among their arguments, which everybody sees.
struct KeyFile(PathBuf);

impl KeyFile {
    fn write(path: PathBuf, key: &str) -> io::Result<Self> {
        let _ = fs::remove_file(&path);
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        let written = Self(path);
        file.write_all(key.as_bytes())?;
        Ok(written)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
