//! The host's own helpers: what is there, and how one is run. Each has a bound; who is no longer waited for is ended, with all that it
//! has started.

#[cfg(test)]
pub(crate) mod pretended;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::Command;

/// Where helpers are, of which the first is taken.
const FOLDERS: [&str; 6] = ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];
/// How much of what one says is kept.
const OUTPUT: u64 = 1 << 20;
/// mount.nfs itself gives up after two minutes, and says why.
const PATIENCE: Duration = Duration::from_secs(150);

/// What a kind of volume needs of its node.
struct Need {
    plugin: &'static str,
    helper: &'static str,
    /// Debian's, which has the helper.
    package: &'static str,
    what: &'static str,
    /// In `/proc/filesystems`, or a module that can be loaded.
    kernel: &'static [&'static str],
}

const NEEDS: [Need; 4] = [
    Need {
        plugin: "nfs",
        helper: "mount.nfs",
        package: "nfs-common",
        what: "NFS client",
        kernel: &["nfs", "nfs4"],
    },
    Need {
        plugin: "glusterfs",
        helper: "mount.glusterfs",
        package: "glusterfs-client",
        what: "FUSE",
        kernel: &["fuse"],
    },
    Need {
        plugin: "iscsi",
        helper: "iscsiadm",
        package: "open-iscsi",
        what: "iSCSI initiator",
        kernel: &["iscsi_tcp"],
    },
    Need {
        plugin: "rbd",
        helper: "rbd",
        package: "ceph-common",
        what: "client of Ceph's disks",
        kernel: &["rbd"],
    },
];

/// Where a host has what volumes of other machines need.
#[derive(Debug, Clone)]
pub struct Host {
    /// What comes before every path: tests have helpers of their own.
    pub(super) root: PathBuf,
    /// How long a helper may take.
    pub(super) patience: Duration,
}

impl Default for Host {
    fn default() -> Self {
        Self { root: PathBuf::from("/"), patience: PATIENCE }
    }
}

/// Why a helper did not do it.
#[derive(Debug)]
pub(super) struct Failure {
    /// As Go says it: `exit status 32`.
    pub(super) why: String,
    pub(super) code: Option<i32>,
    pub(super) output: String,
}

impl Host {
    /// Whether this host can mount volumes of a plugin; else what it lacks, and how that is mended.
    pub(super) fn lacks(&self, plugin: &str) -> Result<(), String> {
        match NEEDS.iter().find(|need| need.plugin == plugin) {
            Some(need) => self.lacks_one(need),
            None => Ok(()),
        }
    }

    /// Each kind of volume, and what it lacks.
    pub(crate) fn findings(&self) -> Vec<(&'static str, Result<String, String>)> {
        let found = |need: &Need| self.lacks_one(need).map(|()| need.helper.to_owned());
        NEEDS.iter().map(|need| (need.plugin, found(need))).collect()
    }

    fn lacks_one(&self, need: &Need) -> Result<(), String> {
        let Need { helper, package, what, .. } = need;
        if self.find(helper).is_none() {
            return Err(format!("this node has no {helper}: install {package} on it"));
        }
        if need.kernel.iter().any(|name| self.kernel_has(name)) {
            return Ok(());
        }
        let module = need.kernel.first().copied().unwrap_or_default();
        Err(format!(
            "the kernel of this node has no {what}: it has none built in and no module {module}; use a kernel with it"
        ))
    }

    /// A file system or driver that is built in, loaded, or there to be loaded.
    fn kernel_has(&self, name: &str) -> bool {
        let text = |path: &str| std::fs::read_to_string(self.root.join(path)).unwrap_or_default();
        let is_known = text("proc/filesystems").lines().any(|line| line.split('\t').nth(1) == Some(name));
        let release = text("proc/sys/kernel/osrelease");
        let modules = format!("lib/modules/{}", release.trim());
        let listed = ["modules.dep", "modules.builtin"].into_iter().any(|list| {
            text(&format!("{modules}/{list}")).lines().any(|line| {
                let path = line.split(':').next().unwrap_or_default();
                let file = path.rsplit('/').next().unwrap_or_default();
                file.split('.').next().is_some_and(|module| module.replace('-', "_") == name)
            })
        });
        is_known || listed || self.root.join("sys/module").join(name).exists()
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        let found = FOLDERS.iter().map(|folder| self.root.join(folder).join(program));
        found.into_iter().find(|path| path.exists())
    }

    /// Mounts; the text is that of kubelet's mounter.
    pub(super) async fn mount(&self, arguments: &[String]) -> Result<(), String> {
        self.run("mount", arguments).await.map(drop).map_err(|failure| {
            format!(
                "mount failed: {}\nMounting command: mount\nMounting arguments: {}\nOutput: {}\n",
                failure.why,
                arguments.join(" "),
                failure.output.trim_end()
            )
        })
    }

    /// Runs a helper to its end; what it says.
    pub(super) async fn run(&self, program: &str, arguments: &[String]) -> Result<String, Failure> {
        let Some(path) = self.find(program) else {
            let why = format!("exec: {program:?}: executable file not found");
            return Err(Failure { why, code: None, output: String::new() });
        };
        let mut output = Vec::new();
        let ended = self.ended(&path, arguments, &mut output).await;
        let output = String::from_utf8_lossy(&output).into_owned();
        match ended {
            Ok(status) if status.success() => Ok(output),
            Ok(status) => Err(Failure { why: said(status), code: status.code(), output }),
            Err(error) => Err(Failure { why: error.to_string(), code: None, output }),
        }
    }

    async fn ended(&self, path: &Path, arguments: &[String], output: &mut Vec<u8>) -> io::Result<ExitStatus> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(path);
        command.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.process_group(0).spawn()?;
        // It holds the other end of the pipe.
        drop(command);
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()));
        let mut reader = pipe::Receiver::from_owned_fd(reader.into())?.take(OUTPUT);
        let mut is_open = true;
        let waiting = async {
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    read = reader.read_buf(output), if is_open => is_open = read.is_ok_and(|read| read > 0),
                }
            }
        };
        let status = match tokio::time::timeout(self.patience, waiting).await {
            Ok(status) => status?,
            Err(_) => {
                let why = format!("no answer within {}s: is the server there?", self.patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        };
        // What it started in the background stays: a file system may be served by it.
        group.0 = None;
        let rest = reader.read_to_end(output);
        // Those may hold the pipe, too.
        let _ = tokio::time::timeout(Duration::from_millis(50), rest).await;
        Ok(status)
    }
}

fn said(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit status {code}"))
}

/// A helper and what it has started: ended when nobody waits any more.
struct Group(Option<i32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // It may have ended by itself.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}
