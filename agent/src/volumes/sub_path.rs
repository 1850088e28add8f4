//! Parts of volumes: `subPath` of a mount.
//!
//! A container may write links into a volume that lead out of it, and change them while its mounts are made. So the part is opened
//! beneath the volume by the kernel (openat2(2), RESOLVE_BENEATH), and what was opened is bound to a place of the pod's own, from
//! where the runtime mounts it (kubelet's `doBindSubPath`, CVE-2017-1002101).

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::mounted;

/// Whose mount it is: the volume, the container, and which of its mounts.
pub(crate) struct Whose {
    pub(crate) volume: String,
    pub(crate) container: String,
    pub(crate) index: usize,
}

/// Binds the part, which is made where it is not there; returns where.
pub(super) fn bind(pod_dir: &Path, whose: &Whose, root: &str, part: &str) -> io::Result<PathBuf> {
    let opened = open_part(Path::new(root), Path::new(part))?;
    let place = pod_dir.join("volume-subpaths").join(&whose.volume).join(&whose.container);
    fs::create_dir_all(&place)?;
    let target = place.join(whose.index.to_string());
    // What the container before had: an object's volume shows newer files now.
    for point in mounted::mounts_below(&target)?.iter().rev() {
        umount2(point.as_str(), MntFlags::MNT_DETACH)?;
    }
    let source = path_of(&opened);
    let is_folder = fs::metadata(&source)?.is_dir();
    if target.symlink_metadata().is_ok_and(|there| there.is_dir() != is_folder) {
        if is_folder { fs::remove_file(&target)? } else { fs::remove_dir(&target)? }
    }
    if is_folder {
        fs::create_dir_all(&target)?;
    } else {
        drop(fs::File::options().create(true).append(true).open(&target)?);
    }
    mount(Some(source.as_str()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(target)
}

/// Removes the places, but nothing that is bound to one: a volume that answers late may be bound just now.
pub(super) fn remove(pod_dir: &Path) -> io::Result<()> {
    let all = pod_dir.join("volume-subpaths");
    for volume in entries(&all)? {
        for container in entries(&volume)? {
            for place in entries(&container)? {
                let is_folder = place.symlink_metadata()?.is_dir();
                if is_folder { fs::remove_dir(&place)? } else { fs::remove_file(&place)? }
            }
            fs::remove_dir(&container)?;
        }
        fs::remove_dir(&volume)?;
    }
    match fs::remove_dir(&all) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// What is opened, as a path (proc_pid_fd(5)).
fn path_of(opened: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", opened.as_raw_fd())
}

fn open_part(root: &Path, part: &Path) -> io::Result<OwnedFd> {
    let folder = open(root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    match beneath(&folder, part, OFlag::empty()) {
        Err(Errno::ENOENT) => make(folder, part, fs::metadata(root)?.permissions().mode() & 0o7777),
        Err(Errno::EXDEV) => Err(io::Error::other("it leads out of the volume")),
        other => Ok(other?),
    }
}

fn beneath(folder: impl AsFd, part: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(folder, part, how)
}

/// Folder by folder, as open as the volume itself.
fn make(mut folder: OwnedFd, part: &Path, mode: u32) -> io::Result<OwnedFd> {
    for name in part.components() {
        let Component::Normal(name) = name else { continue };
        let is_new = match mkdirat(&folder, name, Mode::from_bits_truncate(mode)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        folder = match beneath(&folder, Path::new(name), OFlag::O_DIRECTORY) {
            Err(Errno::EXDEV) => return Err(io::Error::other("it leads out of the volume")),
            other => other?,
        };
        if is_new {
            // The umask has taken from it what the container's user needs.
            fs::set_permissions(path_of(&folder), fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn whose(index: usize) -> Whose {
        Whose { volume: "v".to_owned(), container: "c".to_owned(), index }
    }

    /// Needs root.
    #[test]
    fn a_part_is_bound_made_where_it_is_missing_and_never_outside() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, volume) = (dir.path().join("pod"), dir.path().join("volume"));
        fs::create_dir_all(volume.join("there")).unwrap();
        fs::write(volume.join("there/file"), "1").unwrap();
        fs::write(dir.path().join("secret"), "2").unwrap();
        let root = volume.display().to_string();
        let folder = bind(&pod, &whose(0), &root, "there").unwrap();
        assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "1");
        let file = bind(&pod, &whose(1), &root, "there/file").unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "1");
        let new = bind(&pod, &whose(2), &root, "not/there").unwrap();
        fs::write(new.join("x"), "3").unwrap();
        assert_eq!(fs::read_to_string(volume.join("not/there/x")).unwrap(), "3");
        // The same mount again, for the next container, and of another kind.
        let again = bind(&pod, &whose(1), &root, "there").unwrap();
        assert_eq!(fs::read_to_string(again.join("file")).unwrap(), "1");
        symlink(dir.path(), volume.join("out")).unwrap();
        symlink("..", volume.join("up")).unwrap();
        symlink("there", volume.join("in")).unwrap();
        for part in ["out/secret", "out", "up/secret", "up/new", "out/new"] {
            assert!(bind(&pod, &whose(3), &root, part).is_err(), "{part}");
        }
        assert!(!dir.path().join("new").exists());
        let inside = bind(&pod, &whose(4), &root, "in/file").unwrap();
        assert_eq!(fs::read_to_string(inside).unwrap(), "1");
        remove(&pod).unwrap_err();
        assert_eq!(
            fs::read_to_string(volume.join("there/file")).unwrap(),
            "1",
            "what is bound is left alone"
        );
        mounted::unmount_below(&pod).unwrap();
        remove(&pod).unwrap();
        assert_eq!(fs::read_dir(&pod).unwrap().count(), 0);
    }
}
