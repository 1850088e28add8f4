//! The container runtime, as the rest of the agent sees it: containers of this node, images, logs, commands.
//!
//! In: what to create and which ids to act on. Out: what is there. Two implementations: Docker, and a fake for tests. It
//! decides nothing; a container without this node's label does not exist here.

mod docker;
#[cfg(test)]
pub(crate) mod fake;
mod store;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use tokio::io::AsyncWrite;

pub use docker::Docker;
pub use store::{ImageStore, StoredImage};

/// The labels of a container. The first four are what kubelet's Docker shim wrote, so that tools keep working.
pub mod label {
    /// `metadata.name` of the pod.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    /// `metadata.namespace` of the pod.
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    /// `metadata.uid` of the pod.
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    /// The container's name in the pod; `POD` for the one that holds the namespaces.
    pub const CONTAINER: &str = "io.kubernetes.container.name";
    /// The node whose agent made the container.
    pub const NODE: &str = "oarlock.io/node";
    /// How many containers of that name the pod had before.
    pub const ATTEMPT: &str = "oarlock.io/attempt";
    /// Which definition the container was made from.
    pub const HASH: &str = "oarlock.io/spec-hash";
    /// The id of the sandbox that the container joined.
    pub const SANDBOX: &str = "oarlock.io/sandbox";
    /// Seconds to wait before the container is replaced after it ended.
    pub const BACKOFF: &str = "oarlock.io/backoff-seconds";
    /// Of a sandbox: which of the runtime's own runtimes runs it, and with it its pod.
    pub const RUNTIME: &str = "oarlock.io/runtime";
    /// `terminationGracePeriodSeconds`, for pods whose object is gone.
    pub const GRACE: &str = "oarlock.io/grace-seconds";
}

/// The value of [`label::CONTAINER`] of a sandbox.
pub const SANDBOX_NAME: &str = "POD";

/// A container of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image as asked for.
    pub image: String,
    /// The image's id, `docker-pullable://` digest where there is one.
    pub image_id: String,
    /// What it does.
    pub state: State,
    /// The signal that asks it to end, where it or its image names one.
    pub stop_signal: Option<String>,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Made, never started.
    Created,
    /// Running.
    Running {
        /// Since when.
        started: Timestamp,
        /// Its first process, in the pid namespace of the runtime.
        pid: u32,
    },
    /// Ended.
    Exited {
        /// Since when it ran.
        started: Timestamp,
        /// When it ended.
        finished: Timestamp,
        /// The exit code; 128 + signal where a signal ended it.
        code: i32,
        /// The kernel ended it for its memory limit.
        oom: bool,
        /// What the runtime says about it; empty most of the time.
        error: String,
    },
}

impl Container {
    fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// Whether its pod has this name.
    #[must_use]
    pub fn is_of(&self, namespace: &str, pod: &str) -> bool {
        self.label(label::POD_NAMESPACE) == namespace && self.label(label::POD_NAME) == pod
    }

    /// The uid of its pod.
    #[must_use]
    pub fn pod_uid(&self) -> &str {
        self.label(label::POD_UID)
    }

    /// Its name in the pod.
    #[must_use]
    pub fn name(&self) -> &str {
        self.label(label::CONTAINER)
    }

    /// Whether it holds the pod's namespaces.
    #[must_use]
    pub fn is_sandbox(&self) -> bool {
        self.name() == SANDBOX_NAME
    }

    /// How many containers of its name were there before it.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.label(label::ATTEMPT).parse().unwrap_or(0)
    }

    /// Which of the runtime's own runtimes runs it.
    #[must_use]
    pub fn runtime(&self) -> Option<&str> {
        Some(self.label(label::RUNTIME)).filter(|name| !name.is_empty())
    }

    /// The definition it was made from.
    #[must_use]
    pub fn hash(&self) -> &str {
        self.label(label::HASH)
    }

    /// The sandbox it joined.
    #[must_use]
    pub fn sandbox(&self) -> &str {
        self.label(label::SANDBOX)
    }

    /// The back-off before its replacement starts.
    #[must_use]
    pub fn backoff(&self) -> Duration {
        Duration::from_secs(self.label(label::BACKOFF).parse().unwrap_or(0))
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

/// What to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The runtime's name for it: unique, so that nothing is made twice.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The image.
    pub image: String,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's arguments.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// `uid` or `uid:gid`.
    pub user: Option<String>,
    /// Further groups.
    pub groups: Vec<String>,
    /// Files and folders of the host.
    pub mounts: Vec<Bind>,
    /// It has the node's own network and host name; of a sandbox and of those that join it.
    pub host_network: bool,
    /// The host name; only for a sandbox, others share its.
    pub hostname: Option<String>,
    /// The sandbox to join; none for a sandbox itself.
    pub join: Option<String>,
    /// Which of the runtime's own runtimes is to run it; none: the default one.
    pub runtime: Option<String>,
    /// The signal that asks it to end, if not the image's.
    pub stop_signal: Option<String>,
    /// The cgroup to be in.
    pub cgroup_parent: String,
    /// Limits.
    pub resources: Resources,
    /// May do everything that the host's root may.
    pub privileged: bool,
    /// Capabilities added, without `CAP_`.
    pub cap_add: Vec<String>,
    /// Capabilities taken.
    pub cap_drop: Vec<String>,
    /// No process gains privileges by executing a file.
    pub no_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// The AppArmor profile, where it is not the runtime's own.
    pub apparmor: Option<String>,
    /// Parts of the SELinux label: `user:system_u`.
    pub selinux: Vec<String>,
    /// Kernel parameters of its namespaces; only of a sandbox.
    pub sysctls: BTreeMap<String, String>,
    /// Whose processes it sees.
    pub pid: Processes,
    /// It shares the host's System V IPC and shared memory, not the pod's.
    pub host_ipc: bool,
    /// The image cannot be written to.
    pub read_only_root: bool,
    /// Has a terminal.
    pub tty: bool,
    /// Keeps standard input open.
    pub stdin: bool,
    /// Standard input ends with the first who was attached to it.
    pub stdin_once: bool,
}

/// A path of the host inside a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: String,
    /// In the container.
    pub target: String,
    /// Not to be written to.
    pub read_only: bool,
    /// Who sees mounts that are made below it later.
    pub propagation: Propagation,
}

/// Who sees mounts that are made below a mount later (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Nobody: `rprivate`.
    #[default]
    None,
    /// The container sees the host's: `rslave`.
    HostToContainer,
    /// Both see those of the other: `rshared`.
    Bidirectional,
}

/// Whose processes a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Processes {
    /// Its own.
    #[default]
    Own,
    /// Those of its pod.
    Pod,
    /// Those of another container, by its id.
    Container(String),
    /// Those of the host.
    Host,
}

/// Which system calls a container may make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// What the runtime thinks safe.
    #[default]
    RuntimeDefault,
    /// All.
    Unconfined,
    /// What a profile says, in the runtime's JSON.
    Profile(String),
}

/// Limits of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Weight: 1024 is one core.
    pub cpu_shares: Option<i64>,
    /// Microseconds of processor time in each 100 ms.
    pub cpu_quota: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
    /// Who goes first when memory is short.
    pub oom_score_adj: Option<i64>,
}

/// An image on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// The user that its configuration names.
    pub user: String,
}

/// How a command in a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Its exit code.
    pub code: i64,
    /// The beginning of what it wrote to both outputs.
    pub output: String,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as lines arrive.
    pub follow: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Only this many lines from the end.
    pub tail: Option<u64>,
    /// Only from here on.
    pub since: Option<Timestamp>,
}

/// What the runtime is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// Of the runtime, as `status.nodeInfo.containerRuntimeVersion` has it: `docker://20.10.24`.
    pub runtime: String,
    /// Who makes its cgroups: `cgroupfs`, or `systemd`, which takes no parent that is not a slice.
    pub cgroup_driver: String,
    /// The registry of images that name none.
    pub index: String,
}

/// Who we are to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The user's password, or a token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why the runtime did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RuntimeError {
    /// It does not answer.
    #[error("cannot {what}: the container runtime does not answer ({cause}); check that dockerd runs")]
    Away {
        /// What was tried.
        what: String,
        /// What was seen.
        cause: String,
    },
    /// There is no such container or image.
    #[error("cannot {what}: {message}")]
    NotFound {
        /// What was tried.
        what: String,
        /// The runtime's words.
        message: String,
    },
    /// It said no.
    #[error("cannot {what}: {message}")]
    Refused {
        /// What was tried.
        what: String,
        /// The runtime's words.
        message: String,
    },
    /// The command took too long.
    #[error("command timed out after {0:?}")]
    TimedOut(Duration),
}

impl RuntimeError {
    /// Whether the runtime as a whole is away, so that waiting is all that helps.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Away { .. })
    }

    /// Whether what was named is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether a container was refused because its pod's sandbox cannot be joined, though it runs and was made to be. A sandbox that dockerd was
    /// killed at when it started it was seen like that; the words are those of moby's `daemon/container_operations_unix.go`.
    #[must_use]
    pub fn is_of_sandbox(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.contains("non-shareable IPC"))
    }
}

/// Which streams of a command or a container are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What is sent.
    pub stdin: bool,
    /// What it writes to standard output.
    pub stdout: bool,
    /// What it writes to standard error; with a terminal there is only one output.
    pub stderr: bool,
    /// It has a terminal.
    pub tty: bool,
}

/// What has a terminal and an exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// A command in a container.
    Command(String),
    /// A container's first process.
    Container(String),
}

/// The streams of a command or a container.
pub struct Talk {
    /// Whose they are.
    pub session: Session,
    /// Standard input; shut down, it ends.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// What it writes.
    pub output: BoxStream<'static, Result<Written, RuntimeError>>,
}

/// What a process wrote, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// To standard output, or to its terminal.
    Out(Bytes),
    /// To standard error.
    Err(Bytes),
}

/// Pieces of a log.
pub type LogStream = BoxStream<'static, Result<Bytes, RuntimeError>>;

/// A runtime of containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Asks whether it answers, and what it is.
    async fn version(&self) -> Result<Version, RuntimeError>;
    /// Whether containers can have the node's own network, which is the one that this process is in. Refused with the reason.
    async fn host_network(&self) -> Result<(), RuntimeError>;
    /// Ids and coarse states of this node's containers, by pod uid: cheap, for noticing that something changed.
    async fn fingerprints(&self) -> Result<BTreeMap<String, String>, RuntimeError>;
    /// The containers of one pod with their states.
    async fn pod(&self, uid: &str) -> Result<Vec<Container>, RuntimeError>;
    /// Makes a container and returns its id. A second container of the same name is refused.
    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError>;
    /// Starts a container; one that runs is left alone.
    async fn start(&self, id: &str) -> Result<(), RuntimeError>;
    /// Sends a signal; one that does not run is no error.
    async fn kill(&self, id: &str, signal: &str) -> Result<(), RuntimeError>;
    /// Removes a container, running or not; none is no error.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;
    /// Runs a command in a container.
    async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutcome, RuntimeError>;
    /// Starts a command in a container whose streams are used as it runs.
    async fn talk(&self, id: &str, command: &[String], wanted: Wanted) -> Result<Talk, RuntimeError>;
    /// Joins the streams of a container's first process.
    async fn attach(&self, id: &str, wanted: Wanted) -> Result<Talk, RuntimeError>;
    /// Says how large a terminal is: columns and rows.
    async fn resize(&self, session: &Session, columns: u16, rows: u16) -> Result<(), RuntimeError>;
    /// The exit code of a command; none while it runs.
    async fn exit_code(&self, session: &Session) -> Result<Option<i64>, RuntimeError>;
    /// Bytes on disk of what a container has written beside volumes, and of its log.
    async fn disk_usage(&self, id: &str) -> Result<i64, RuntimeError>;
    /// A log.
    async fn logs(&self, id: &str, options: &LogOptions) -> Result<LogStream, RuntimeError>;
    /// The uids of pods to which something happened, as it happens. Ends with an error when the runtime goes away.
    async fn events(&self) -> Result<BoxStream<'static, Result<String, RuntimeError>>, RuntimeError>;
    /// The image, if it is here.
    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError>;
    /// Fetches an image from its registry, as somebody or as nobody.
    async fn pull(&self, name: &str, credentials: Option<&Credentials>) -> Result<(), RuntimeError>;
    /// Imports images from an archive as `docker save` writes it; says what it loaded.
    async fn import(
        &self,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<String, RuntimeError>;
}
