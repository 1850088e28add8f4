//! What is mounted where, as the kernel tells (proc_pid_mountinfo(5)): nothing that is mounted is asked itself, as its server may be
//! away.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

/// A mount: which file system, and where.
struct Mount {
    device: String,
    point: String,
}

fn table() -> io::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let mounts = text.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        Some(Mount { device, point: unescape(fields.nth(1)?) })
    });
    Ok(mounts.collect())
}

/// Mount points at or below `dir`, in the order in which they were made.
pub(crate) fn mounts_below(dir: &Path) -> io::Result<Vec<String>> {
    let points = table()?.into_iter().map(|mount| mount.point);
    Ok(points.filter(|point| Path::new(point).starts_with(dir)).collect())
}

/// Whether something is mounted at this very place.
pub(super) fn is_mounted(place: &Path) -> io::Result<bool> {
    Ok(table()?.iter().any(|mount| Path::new(&mount.point) == place))
}

/// Where else the file system is mounted that is mounted at `place`.
pub(super) fn other_places(place: &Path) -> io::Result<Vec<String>> {
    let table = table()?;
    let here = |mount: &&Mount| Path::new(&mount.point) == place;
    let Some(device) = table.iter().rev().find(here).map(|mount| mount.device.clone()) else {
        return Ok(Vec::new());
    };
    let others = table.into_iter().filter(|mount| mount.device == device && Path::new(&mount.point) != place);
    Ok(others.map(|mount| mount.point).collect())
}

/// Unmounts everything at or below `dir`.
pub(crate) fn unmount_below(dir: &Path) -> io::Result<()> {
    for mounted in mounts_below(dir)?.iter().rev() {
        umount2(mounted.as_str(), MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Blanks and the like are written as `\040` there.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_mount_points_are_read() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/plain\"), r"/plain\");
    }
}
