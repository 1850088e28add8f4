//! Volumes in memory: Secrets, and emptyDir with medium Memory.

use std::fs;
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount as mount2, umount2};

/// Mounts a tmpfs at `path` unless there is one.
pub(super) fn mount(path: &Path, size: Option<i64>) -> io::Result<()> {
    if mounts_below(path)?.iter().any(|m| Path::new(m) == path) {
        return Ok(());
    }
    let options = match size {
        Some(bytes) if bytes > 0 => format!("mode=0755,size={bytes}"),
        _ => "mode=0755".to_owned(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount2(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str())).map_err(io::Error::from)
}

/// Unmounts everything at or below `dir`.
pub(crate) fn unmount_below(dir: &Path) -> io::Result<()> {
    for mounted in mounts_below(dir)?.iter().rev() {
        umount2(mounted.as_str(), MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Mount points at or below `dir`, in the order in which they were made (proc_pid_mountinfo(5)).
pub(crate) fn mounts_below(dir: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| Path::new(point).starts_with(dir)).collect())
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
    #[test]
    fn escaped_mount_points_are_read() {
        assert_eq!(super::unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(super::unescape(r"/plain\"), r"/plain\");
    }
}
