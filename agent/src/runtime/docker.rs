//! The Docker Engine API: the only file that knows bollard.
//!
//! In: a [`Runtime`] call. Out: requests to dockerd, its answers in our words. Only containers with this node's label are
//! listed, so no other container is ever touched. The connection is made when it is first needed and again after a loss.

mod host_network;
mod images;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, EventMessage, HostConfig, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType,
};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
    ImportImageOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    ResizeContainerTTYOptionsBuilder, StartContainerOptions,
};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::{
    Container, ContainerSpec, Credentials, ExecOutcome, Image, LogOptions, LogStream, Processes, Propagation,
    Runtime, RuntimeError, Seccomp, Session, State, Talk, Version, Wanted, Written, label,
};

/// Seconds that a request may take to be answered.
const TIMEOUT: u64 = 120;
/// How much of a command's output is kept (kubelet keeps 10 KiB of a probe's).
const MAX_OUTPUT: usize = 10 * 1024;
/// How much of a command's output is read at once.
const OUTPUT_CAPACITY: usize = 64 * 1024;

/// A dockerd, seen by one node.
#[derive(Debug)]
pub struct Docker {
    host: String,
    node: String,
    client: OnceCell<bollard::Docker>,
}

impl Docker {
    /// The daemon that listens at `host` (`unix:///var/run/docker.sock`), for the containers of `node`. Does not connect.
    #[must_use]
    pub fn new(host: &str, node: &str) -> Self {
        Self { host: host.to_owned(), node: node.to_owned(), client: OnceCell::new() }
    }

    async fn client(&self) -> Result<&bollard::Docker, RuntimeError> {
        self.client
            .get_or_try_init(|| async {
                let version = bollard::API_DEFAULT_VERSION;
                let client = if self.host.starts_with("unix://") {
                    bollard::Docker::connect_with_unix(&self.host, TIMEOUT, version)
                } else {
                    bollard::Docker::connect_with_host(&self.host)
                };
                client?.negotiate_version().await
            })
            .await
            .map_err(|e| failure(&format!("connect to Docker at {}", self.host), e))
    }

    fn filters(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![format!("{}={}", label::NODE, self.node)])])
    }

    async fn inspect(&self, id: &str) -> Result<Option<Container>, RuntimeError> {
        let answer = self.client().await?.inspect_container(id, None::<InspectContainerOptions>).await;
        match answer {
            Ok(found) => Ok(container(found)),
            Err(e) if is_status(&e, 404) => Ok(None),
            Err(e) => Err(failure(&format!("inspect container {id}"), e)),
        }
    }
}

#[async_trait]
impl Runtime for Docker {
    async fn version(&self) -> Result<Version, RuntimeError> {
        let client = self.client().await?;
        let version = client.version().await.map_err(|e| failure("ask for the version", e))?;
        let info = client.info().await.map_err(|e| failure("ask for information", e))?;
        Ok(Version {
            runtime: format!("docker://{}", version.version.unwrap_or_default()),
            cgroup_driver: info.cgroup_driver.map(|d| d.to_string()).unwrap_or_default(),
            index: info.index_server_address.unwrap_or_default(),
        })
    }

    async fn host_network(&self) -> Result<(), RuntimeError> {
        host_network::check(&self.host).await
    }

    async fn fingerprints(&self) -> Result<BTreeMap<String, String>, RuntimeError> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.filters()).build();
        let mut found = self
            .client()
            .await?
            .list_containers(Some(options))
            .await
            .map_err(|e| failure("list containers", e))?;
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let mut prints = BTreeMap::<String, String>::new();
        for one in found {
            let uid = one.labels.as_ref().and_then(|l| l.get(label::POD_UID)).cloned().unwrap_or_default();
            let state = one.state.map(|s| format!("{s:?}")).unwrap_or_default();
            prints.entry(uid).or_default().push_str(&format!("{}={state};", one.id.unwrap_or_default()));
        }
        Ok(prints)
    }

    async fn pod(&self, uid: &str) -> Result<Vec<Container>, RuntimeError> {
        let mut filters = self.filters();
        filters.entry("label".to_owned()).or_default().push(format!("{}={uid}", label::POD_UID));
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let listed = self
            .client()
            .await?
            .list_containers(Some(options))
            .await
            .map_err(|e| failure("list containers", e))?;
        let mut containers = Vec::new();
        for one in listed {
            if let Some(container) = self.inspect(one.id.as_deref().unwrap_or_default()).await? {
                containers.push(container);
            }
        }
        Ok(containers)
    }

    async fn create(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let options = CreateContainerOptionsBuilder::new().name(&spec.name).build();
        let created = self.client().await?.create_container(Some(options), body(spec, &self.node)).await;
        created.map(|c| c.id).map_err(|e| failure(&format!("create container {}", spec.name), e))
    }

    async fn start(&self, id: &str) -> Result<(), RuntimeError> {
        let started = self.client().await?.start_container(id, None::<StartContainerOptions>).await;
        match started {
            Err(e) if !is_status(&e, 304) => Err(failure(&format!("start container {id}"), e)),
            _ => Ok(()),
        }
    }

    async fn kill(&self, id: &str, signal: &str) -> Result<(), RuntimeError> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.client().await?.kill_container(id, Some(options)).await {
            Err(e) if !is_status(&e, 404) && !is_status(&e, 409) => {
                Err(failure(&format!("send {signal} to container {id}"), e))
            }
            _ => Ok(()),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.client().await?.remove_container(id, Some(options)).await {
            // 409: "removal of container is already in progress".
            Err(e) if !is_status(&e, 404) && !is_status(&e, 409) => {
                Err(failure(&format!("remove container {id}"), e))
            }
            _ => Ok(()),
        }
    }

    async fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutcome, RuntimeError> {
        let run = async {
            let what = format!("run a command in container {id}");
            let client = self.client().await?;
            let options = CreateExecOptions {
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                cmd: Some(command.to_vec()),
                ..CreateExecOptions::default()
            };
            let exec = client.create_exec(id, options).await.map_err(|e| failure(&what, e))?;
            let started =
                client.start_exec(&exec.id, None::<StartExecOptions>).await.map_err(|e| failure(&what, e))?;
            let mut text = Vec::new();
            if let StartExecResults::Attached { mut output, .. } = started {
                while let Some(piece) = output.next().await {
                    let piece = piece.map_err(|e| failure(&what, e))?.into_bytes();
                    let room = MAX_OUTPUT.saturating_sub(text.len()).min(piece.len());
                    text.extend(piece.iter().take(room));
                }
            }
            let outcome = client.inspect_exec(&exec.id).await.map_err(|e| failure(&what, e))?;
            let output = String::from_utf8_lossy(&text).into_owned();
            Ok(ExecOutcome { code: outcome.exit_code.unwrap_or(-1), output })
        };
        tokio::time::timeout(timeout, run).await.unwrap_or(Err(RuntimeError::TimedOut(timeout)))
    }

    async fn talk(&self, id: &str, command: &[String], wanted: Wanted) -> Result<Talk, RuntimeError> {
        let what = format!("run a command in container {id}");
        let client = self.client().await?;
        let options = CreateExecOptions {
            attach_stdin: Some(wanted.stdin),
            attach_stdout: Some(wanted.stdout),
            attach_stderr: Some(wanted.stderr && !wanted.tty),
            tty: Some(wanted.tty),
            cmd: Some(command.to_vec()),
            ..CreateExecOptions::default()
        };
        let exec = client.create_exec(id, options).await.map_err(|e| failure(&what, e))?;
        let options =
            StartExecOptions { detach: false, tty: wanted.tty, output_capacity: Some(OUTPUT_CAPACITY) };
        match client.start_exec(&exec.id, Some(options)).await.map_err(|e| failure(&what, e))? {
            StartExecResults::Attached { output, input } => {
                Ok(Talk { session: Session::Command(exec.id), input, output: written(output, what) })
            }
            StartExecResults::Detached => {
                Err(RuntimeError::Refused { what, message: "the runtime detached it".to_owned() })
            }
        }
    }

    async fn attach(&self, id: &str, wanted: Wanted) -> Result<Talk, RuntimeError> {
        let what = format!("attach to container {id}");
        let options = AttachContainerOptions {
            stream: true,
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            ..AttachContainerOptions::default()
        };
        let attached = self.client().await?.attach_container(id, Some(options)).await;
        let attached = attached.map_err(|e| failure(&what, e))?;
        let session = Session::Container(id.to_owned());
        Ok(Talk { session, input: attached.input, output: written(attached.output, what) })
    }

    async fn resize(&self, session: &Session, columns: u16, rows: u16) -> Result<(), RuntimeError> {
        let client = self.client().await?;
        let resized = match session {
            Session::Command(id) => {
                client.resize_exec(id, ResizeExecOptions { height: rows, width: columns }).await
            }
            Session::Container(id) => {
                let options = ResizeContainerTTYOptionsBuilder::new().h(rows.into()).w(columns.into());
                client.resize_container_tty(id, options.build()).await
            }
        };
        resized.map_err(|e| failure("change the size of a terminal", e))
    }

    async fn exit_code(&self, session: &Session) -> Result<Option<i64>, RuntimeError> {
        let client = self.client().await?;
        let what = "ask how a command ended";
        match session {
            Session::Command(id) => {
                let found = client.inspect_exec(id).await.map_err(|e| failure(what, e))?;
                Ok(found.exit_code.filter(|_| found.running != Some(true)))
            }
            Session::Container(_) => Ok(None),
        }
    }

    async fn disk_usage(&self, id: &str) -> Result<i64, RuntimeError> {
        let options = InspectContainerOptions { size: true };
        let found = self.client().await?.inspect_container(id, Some(options)).await;
        let found = found.map_err(|e| failure(&format!("measure container {id}"), e))?;
        // The present file and those of before (`max-file`).
        let path = found.log_path.unwrap_or_default();
        let files = std::iter::once(path.clone()).chain((1..5).map(|number| format!("{path}.{number}")));
        let sizes = files.filter_map(|file| Some(std::fs::metadata(file).ok()?.len()));
        let log = i64::try_from(sizes.sum::<u64>()).unwrap_or(i64::MAX);
        Ok(found.size_rw.unwrap_or(0).saturating_add(log))
    }

    async fn logs(&self, id: &str, options: &LogOptions) -> Result<LogStream, RuntimeError> {
        let since = options.since.map_or(0, |t| i32::try_from(t.as_second()).unwrap_or(i32::MAX));
        let mut query = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(options.follow)
            .timestamps(options.timestamps)
            .since(since);
        if let Some(lines) = options.tail {
            query = query.tail(&lines.to_string());
        }
        let what = format!("read the log of container {id}");
        let stream = self.client().await?.logs(id, Some(query.build()));
        Ok(stream.map_ok(LogOutput::into_bytes).map_err(move |e| failure(&what, e)).boxed())
    }

    async fn events(&self) -> Result<BoxStream<'static, Result<String, RuntimeError>>, RuntimeError> {
        let mut filters = self.filters();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let kinds = ["start", "die", "oom", "destroy"].map(str::to_owned);
        filters.insert("event".to_owned(), kinds.to_vec());
        let stream = self.client().await?.events(Some(EventsOptionsBuilder::new().filters(&filters).build()));
        Ok(stream.map_ok(pod_of).map_err(|e| failure("listen to events", e)).boxed())
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        match self.client().await?.inspect_image(name).await {
            Ok(image) => Ok(Some(Image {
                id: image.id.unwrap_or_default(),
                user: image.config.and_then(|c| c.user).unwrap_or_default(),
            })),
            Err(e) if is_status(&e, 404) => Ok(None),
            Err(e) => Err(failure(&format!("inspect image {name}"), e)),
        }
    }

    async fn pull(&self, name: &str, credentials: Option<&Credentials>) -> Result<(), RuntimeError> {
        let credentials = credentials.map(|one| DockerCredentials {
            username: Some(one.user.clone()),
            password: Some(one.password.clone()),
            ..DockerCredentials::default()
        });
        let mut options = CreateImageOptionsBuilder::new().from_image(name);
        // Without a tag Docker pulls every tag of the repository.
        let last = name.rsplit('/').next().unwrap_or(name);
        if !last.contains(':') && !last.contains('@') {
            options = options.tag("latest");
        }
        let mut progress = self.client().await?.create_image(Some(options.build()), None, credentials);
        while let Some(step) = progress.next().await {
            step.map_err(|e| failure(&format!("pull image {name}"), e))?;
        }
        Ok(())
    }

    async fn import(
        &self,
        archive: BoxStream<'static, std::io::Result<Bytes>>,
    ) -> Result<String, RuntimeError> {
        let client = self.client().await?;
        let mut progress =
            client.import_image_stream(ImportImageOptionsBuilder::new().build(), archive, None);
        let mut said = String::new();
        while let Some(step) = progress.next().await {
            let step = step.map_err(|e| failure("import images", e))?;
            said.push_str(step.stream.as_deref().unwrap_or_default());
        }
        Ok(said.trim().to_owned())
    }
}

fn body(spec: &ContainerSpec, node: &str) -> ContainerCreateBody {
    let mut labels: HashMap<String, String> = spec.labels.clone().into_iter().collect();
    labels.insert(label::NODE.to_owned(), node.to_owned());
    let joined = spec.join.as_ref().map(|id| format!("container:{id}"));
    let mounts = spec.mounts.iter().map(|bind| Mount {
        typ: Some(MountType::BIND),
        source: Some(bind.source.clone()),
        target: Some(bind.target.clone()),
        read_only: Some(bind.read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(match bind.propagation {
                Propagation::None => MountBindOptionsPropagationEnum::RPRIVATE,
                Propagation::HostToContainer => MountBindOptionsPropagationEnum::RSLAVE,
                Propagation::Bidirectional => MountBindOptionsPropagationEnum::RSHARED,
            }),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    });
    let log_options = [("max-size", "10m"), ("max-file", "5")];
    let host = HostConfig {
        network_mode: Some(match &joined {
            Some(joined) => joined.clone(),
            None if spec.host_network => "host".to_owned(),
            None => "none".to_owned(),
        }),
        // With the network comes the host's name, also when that changes.
        uts_mode: spec.host_network.then(|| "host".to_owned()),
        pid_mode: match &spec.pid {
            Processes::Own => None,
            Processes::Container(id) => Some(format!("container:{id}")),
            Processes::Pod => joined.clone(),
            Processes::Host => Some("host".to_owned()),
        },
        ipc_mode: Some(match joined {
            _ if spec.host_ipc => "host".to_owned(),
            Some(joined) => joined,
            None => "shareable".to_owned(),
        }),
        sysctls: Some(spec.sysctls.clone().into_iter().collect()),
        cgroup_parent: Some(spec.cgroup_parent.clone()),
        runtime: spec.runtime.clone(),
        mounts: Some(mounts.collect()),
        cpu_shares: spec.resources.cpu_shares,
        cpu_quota: spec.resources.cpu_quota,
        cpu_period: spec.resources.cpu_quota.map(|_| 100_000),
        memory: spec.resources.memory,
        // The same number: no swap on top, as in Kubernetes.
        memory_swap: spec.resources.memory,
        oom_score_adj: spec.resources.oom_score_adj,
        privileged: Some(spec.privileged),
        cap_add: Some(spec.cap_add.clone()),
        cap_drop: Some(spec.cap_drop.clone()),
        group_add: Some(spec.groups.clone()),
        readonly_rootfs: Some(spec.read_only_root),
        security_opt: Some(security_options(spec)),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log_options.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
        }),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.cmd.clone(),
        env: Some(spec.env.clone()),
        working_dir: spec.working_dir.clone(),
        labels: Some(labels),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin_once),
        stop_signal: spec.stop_signal.clone(),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

/// In the words of `docker run --security-opt`.
fn security_options(spec: &ContainerSpec) -> Vec<String> {
    let seccomp = match &spec.seccomp {
        Seccomp::RuntimeDefault => None,
        Seccomp::Unconfined => Some("seccomp=unconfined".to_owned()),
        Seccomp::Profile(json) => Some(format!("seccomp={json}")),
    };
    let privileges = spec.no_new_privileges.then(|| "no-new-privileges".to_owned());
    let apparmor = spec.apparmor.as_ref().map(|profile| format!("apparmor={profile}"));
    let selinux = spec.selinux.iter().map(|part| format!("label={part}"));
    privileges.into_iter().chain(seccomp).chain(apparmor).chain(selinux).collect()
}

fn written(
    output: impl Stream<Item = Result<LogOutput, Error>> + Send + 'static,
    what: String,
) -> BoxStream<'static, Result<Written, RuntimeError>> {
    let piece = |piece| match piece {
        LogOutput::StdErr { message } => Written::Err(message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            Written::Out(message)
        }
    };
    output.map_ok(piece).map_err(move |e| failure(&what, e)).boxed()
}

fn container(found: ContainerInspectResponse) -> Option<Container> {
    let config = found.config?;
    let state = found.state?;
    let time = |text: &Option<String>| {
        text.as_deref().and_then(|t| t.parse::<Timestamp>().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
    };
    let never = Timestamp::UNIX_EPOCH;
    let started = time(&state.started_at).max(never);
    let error = state.error.clone().unwrap_or_default();
    let state = if state.running.unwrap_or(false) {
        State::Running { started, pid: u32::try_from(state.pid.unwrap_or(0)).unwrap_or(0) }
    } else if started == never && error.is_empty() {
        State::Created
    } else {
        let finished = time(&state.finished_at).max(started);
        let code = i32::try_from(state.exit_code.unwrap_or(0)).unwrap_or(-1);
        State::Exited { started, finished, code, oom: state.oom_killed.unwrap_or(false), error }
    };
    Some(Container {
        id: found.id?,
        stop_signal: config.stop_signal.filter(|signal| !signal.is_empty()),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        image: config.image.unwrap_or_default(),
        image_id: found.image.unwrap_or_default(),
        state,
    })
}

fn pod_of(event: EventMessage) -> String {
    let mut attributes = event.actor.and_then(|a| a.attributes).unwrap_or_default();
    attributes.remove(label::POD_UID).unwrap_or_default()
}

fn is_status(error: &Error, code: u16) -> bool {
    matches!(error, Error::DockerResponseServerError { status_code, .. } if *status_code == code)
}

fn failure(what: &str, error: Error) -> RuntimeError {
    let what = what.to_owned();
    match error {
        Error::DockerResponseServerError { status_code: 404, message } => {
            RuntimeError::NotFound { what, message }
        }
        Error::DockerResponseServerError { message, .. } | Error::DockerStreamError { error: message } => {
            RuntimeError::Refused { what, message }
        }
        other => RuntimeError::Away { what, cause: other.to_string() },
    }
}
