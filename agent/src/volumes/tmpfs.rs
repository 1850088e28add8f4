//! Volumes in memory: Secrets, and emptyDir with medium Memory.

use std::io;
use std::path::Path;

use nix::mount::{MsFlags, mount as mount2};

use super::mounted::is_mounted;

/// Mounts a tmpfs at `path` unless there is one.
pub(super) fn mount(path: &Path, size: Option<i64>) -> io::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    let options = match size {
        Some(bytes) if bytes > 0 => format!("mode=0755,size={bytes}"),
        _ => "mode=0755".to_owned(),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount2(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str())).map_err(io::Error::from)
}
