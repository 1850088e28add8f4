//! A host of a test: helpers that are scripts, and a kernel of which files say what it has. Everything that a helper is told is noted.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Host;

/// The folder that such a host has for its root.
pub(crate) struct Pretended {
    dir: tempfile::TempDir,
}

impl Pretended {
    /// A host whose kernel has everything, and no helper yet.
    pub(crate) fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["usr/sbin", "proc/sys/kernel", "sys/module", "lib/modules/6.1.0", "dev/disk/by-path"] {
            fs::create_dir_all(host.path(folder)).unwrap();
        }
        host.write("proc/filesystems", "nodev\tproc\n\text4\n");
        host.write("proc/sys/kernel/osrelease", "6.1.0\n");
        let modules = "kernel/fs/nfs/nfs.ko.xz: kernel/net/sunrpc/sunrpc.ko.xz\nkernel/fs/fuse/fuse.ko:\n\
            kernel/drivers/scsi/iscsi_tcp.ko.xz:\nkernel/drivers/block/rbd.ko.xz:\n";
        host.write("lib/modules/6.1.0/modules.dep", modules);
        host
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// A helper: what it is told is noted, then it does this (sh, in this host's folder).
    pub(crate) fn helper(&self, name: &str, script: &str) -> &Self {
        let (root, at) = (self.dir.path().display(), self.path(&format!("usr/sbin/{name}")));
        let text = format!("#!/bin/sh\ncd {root}\necho \"{name} $*\" >> {root}/told\n{script}\n");
        // Another thread may be starting a program, and hold this file while it does.
        let temporary = self.path(&format!("usr/sbin/.{name}"));
        fs::write(&temporary, text).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(temporary, at).unwrap();
        self
    }

    /// The machine's own program.
    pub(crate) fn real(&self, program: &str) -> &Self {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|folder| Path::new(folder).join(program));
        let found = found.into_iter().find(|path| path.exists());
        symlink(found.expect(program), self.path(&format!("usr/sbin/{program}"))).unwrap();
        self
    }

    /// What helpers were told, with `ROOT` for this host's folder; begins anew.
    pub(crate) fn told(&self) -> String {
        let text = fs::read_to_string(self.path("told")).unwrap_or_default();
        let _ = fs::remove_file(self.path("told"));
        text.replace(&self.dir.path().display().to_string(), "ROOT")
    }

    pub(crate) fn host(&self) -> Host {
        Host { root: self.dir.path().to_owned(), patience: Duration::from_secs(20) }
    }

    /// The same, which soon gives up.
    pub(crate) fn impatient(&self) -> Host {
        Host { patience: Duration::from_millis(300), ..self.host() }
    }
}
