//! How full a file system is.

use std::path::Path;

/// A file system, as whoever is not root may use it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Bytes in all.
    pub(crate) capacity: u64,
    /// Bytes left.
    pub(crate) available: u64,
    /// Files and folders that it has room for; none that counts them has zero.
    pub(crate) inodes: u64,
    /// Those left.
    pub(crate) inodes_free: u64,
    /// Which file system it is.
    pub(crate) id: u64,
}

impl Disk {
    /// The one that holds a path.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
        Some(Self {
            capacity: bytes(stat.blocks()),
            available: bytes(stat.blocks_available()),
            inodes: stat.files(),
            inodes_free: stat.files_free(),
            id: std::fs::metadata(path).ok()?.dev(),
        })
    }
}
