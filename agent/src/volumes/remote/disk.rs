//! Disks: attached and mounted once for all pods of the node, bound to each, detached when the last has gone.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount as mount2};

use super::super::mounted::{is_mounted, other_places};
use super::attached::{Attached, Folder};
use super::host::Host;
use super::source::{Disk, Remote, Target};
use super::{Remotes, SET_UP, iscsi, rbd, requests, unmount};

const ATTACH: &str = "MountVolume.WaitForAttach";
const DEVICE: &str = "MountVolume.MountDevice";
/// How blkid says that there is nothing that it knows.
const NOTHING_FOUND: i32 = 2;
/// How fsck says that it could not mend what it found.
const NOT_MENDED: i32 = 4;

/// Mounts a disk for a pod. An error comes with the step that failed.
pub(super) async fn mount(
    remotes: &Remotes,
    disk: &Disk,
    remote: &Remote,
    place: &Path,
) -> Result<(), (&'static str, String)> {
    let attached = Attached::of(&disk.target);
    let lock = remotes.lock(&attached.lock());
    let _alone = lock.lock().await;
    let folder = Folder::of(&remotes.disks, &attached);
    let shared = folder.mount_point();
    if !is_mounted(&shared).map_err(|e| (DEVICE, e.to_string()))? {
        folder.make(&attached).map_err(|e| (ATTACH, format!("cannot write down what is attached: {e}")))?;
        let host = &remotes.host;
        let device = match &disk.target {
            Target::Iscsi { disk, chap } => iscsi::attach(host, disk, chap).await,
            Target::Rbd { disk, access } => rbd::attach(host, disk, access, remote, &folder).await,
        };
        let device = device.map_err(|why| (ATTACH, why))?;
        mount_device(host, &device, &disk.fs_type, remote, &shared).await.map_err(|why| (DEVICE, why))?;
    }
    bind(&shared, place, remote.read_only).map_err(|e| (SET_UP, format!("mount failed: {e}")))
}

/// Mounts a device, on which a file system is made if it has none.
async fn mount_device(
    host: &Host,
    device: &Path,
    fs_type: &str,
    remote: &Remote,
    place: &Path,
) -> Result<(), String> {
    // It becomes part of a helper's name.
    if !fs_type.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(format!("{fs_type:?} is not the name of a file system"));
    }
    let found = format_of(host, device).await?;
    let shown = device.display();
    match (found.as_deref(), remote.read_only) {
        (None, true) => {
            return Err(format!(
                "cannot mount unformatted disk {shown} as we are manipulating it in read-only mode"
            ));
        }
        (None, false) => {
            let made = host.run(&format!("mkfs.{fs_type}"), &requests::mkfs(fs_type, device)).await;
            made.map_err(|e| format!("format of disk {shown} failed: {}: {}", e.why, e.output))?;
        }
        (Some(_), false) => check(host, device).await?,
        (Some(_), true) => {}
    }
    host.mount(&requests::disk(fs_type, remote, device, place)).await.map_err(|why| match found {
        Some(found) if found != fs_type => {
            format!(
                "failed to mount the volume as {fs_type:?}, it already contains {found}. Mount error: {why}"
            )
        }
        _ => why,
    })
}

/// What is on a device; none: nothing that anybody knows.
async fn format_of(host: &Host, device: &Path) -> Result<Option<String>, String> {
    let mut arguments = requests::words(&["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export"]);
    arguments.push(device.display().to_string());
    let said = match host.run("blkid", &arguments).await {
        Ok(said) => said,
        Err(failure) if failure.code == Some(NOTHING_FOUND) => return Ok(None),
        Err(failure) => {
            let shown = device.display();
            return Err(format!("cannot tell what is on disk {shown}: {}: {}", failure.why, failure.output));
        }
    };
    let of = |key: &str| said.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
    Ok(of("TYPE=").or_else(|| of("PTTYPE=").map(|_| "unknown data, probably partitions".to_owned())))
}

async fn check(host: &Host, device: &Path) -> Result<(), String> {
    let device = device.display().to_string();
    match host.run("fsck", &["-a".to_owned(), device.clone()]).await {
        Err(failure) if failure.code == Some(NOT_MENDED) => Err(format!(
            "'fsck' found errors on device {device} but could not correct them: {}",
            failure.output
        )),
        // It mended something, or there is none for this file system: mounting tells.
        _ => Ok(()),
    }
}

fn bind(from: &Path, to: &Path, read_only: bool) -> io::Result<()> {
    mount2(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    if read_only {
        // A bind takes no options of its own at first (mount(2)).
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount2(None::<&str>, to, None::<&str>, flags, None::<&str>)?;
    }
    Ok(())
}

/// Detaches the disks that no pod has any more. One that cannot be detached is tried again when the next pod goes.
pub(super) async fn release(remotes: &Remotes) {
    let folders = Folder::all(&remotes.disks).unwrap_or_default();
    for folder in &folders {
        if let Err(why) = release_one(remotes, folder).await {
            let place = folder.mount_point();
            tracing::warn!(place = %place.display(), why, "a disk is not detached; trying again when a pod goes");
        }
    }
}

async fn release_one(remotes: &Remotes, folder: &Folder) -> Result<(), String> {
    let Some(attached) = folder.read().map_err(|e| e.to_string())? else {
        return folder.remove().map_err(|e| e.to_string());
    };
    let lock = remotes.lock(&attached.lock());
    // Who attaches it wants it; whoever goes next looks again.
    let Ok(_alone) = lock.try_lock() else { return Ok(()) };
    let shared = folder.mount_point();
    if !other_places(&shared).map_err(|e| e.to_string())?.is_empty() {
        return Ok(());
    }
    unmount::unmount(&shared).await.map_err(|e| e.to_string())?;
    match &attached {
        Attached::Iscsi(disk) => {
            let others = Folder::all(&remotes.disks).unwrap_or_default();
            let others = others.iter().filter_map(|other| other.read().ok().flatten());
            let is_other =
                |other: Attached| matches!(other, Attached::Iscsi(o) if o.iqn == disk.iqn && o != *disk);
            if !others.into_iter().any(is_other) {
                iscsi::detach(&remotes.host, disk).await?;
            }
        }
        Attached::Rbd(disk) => rbd::detach(&remotes.host, disk).await?,
    }
    folder.remove().map_err(|e| e.to_string())
}
