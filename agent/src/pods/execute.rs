//! Executes the steps of a plan: each does one thing and notes in the memory how it went.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::{self, Container as Definition};
use oarlock_api::service::SOCKET_LB;

use super::mounts::Mounting;
use super::worker::{Message, Worker};
use super::{hooks, images, report};
use crate::net::{Bandwidth, PodNetRequest};
use crate::plan::memory::Probed;
use crate::plan::security::{self, Profile};
use crate::plan::spec::{self, Setting};
use crate::plan::{EndKind, PodEnd, Pull, Retry, Step, Stop, StopPhase, definition, mounts};
use crate::runtime::{ContainerSpec, Image, RuntimeError, Seccomp};
use crate::volumes::sub_path::Whose;

/// How a step went.
pub(super) enum Done {
    /// Something is different now: plan again.
    Changed,
    /// It will be: something else will tell.
    Underway,
    /// It did not work; the memory says when to try again. The rest of the plan no longer holds.
    Failed,
    /// Nothing is left of the pod.
    Gone,
}

impl Worker {
    pub(super) async fn execute(&mut self, step: Step) -> Result<Done, RuntimeError> {
        let runtime = Arc::clone(&self.shared.runtime);
        match step {
            Step::PrepareVolumes => return Ok(self.volumes().await),
            Step::CreateSandbox { attempt } => return self.create_sandbox(attempt).await,
            Step::AttachNetwork { sandbox, pid } => return Ok(self.attach(sandbox, pid).await),
            Step::EnsureImage { container } => return Ok(self.ensure_image(&container)),
            Step::StartContainer { container, attempt, backoff, sandbox } => {
                return self.start_container(&container, attempt, backoff, &sandbox).await;
            }
            Step::Resume { id } => return self.resume(&id).await,
            Step::BeginStop { id, container, why, grace } => {
                return Ok(self.begin_stop(id, &container, &why, grace));
            }
            Step::Terminate { id } => {
                let asked = self.observed.containers.iter().find(|container| container.id == id);
                let signal =
                    asked.and_then(|container| container.stop_signal.as_deref()).unwrap_or("SIGTERM");
                runtime.kill(&id, signal).await?;
                if let Some(stop) = self.memory.stops.get_mut(&id) {
                    stop.phase = StopPhase::Asked;
                }
                return Ok(Done::Underway);
            }
            Step::Kill { id } => {
                runtime.kill(&id, "SIGKILL").await?;
                return Ok(Done::Underway);
            }
            Step::Remove { id } => runtime.remove(&id).await?,
            Step::DetachNetwork => return Ok(self.detach().await),
            Step::End(end) => self.end(end),
            Step::Settle => self.memory.was_over = true,
            Step::SayBackOff { container } => self.say_back_off(&container),
            Step::RemoveVolumes => return Ok(self.remove_volumes().await),
            Step::Gone => {
                report::gone(&self.shared.outbox, &self.pod);
                return Ok(Done::Gone);
            }
        }
        Ok(Done::Changed)
    }

    /// Notes a failure of one of the pod's own parts; says it once for each try.
    pub(super) fn failed(&mut self, what: &'static str, reason: &str, message: String) -> Done {
        self.event(None, "Warning", reason, &message);
        let before = self.memory.retries.get(what);
        let first = SignedDuration::from_secs(1);
        let retry = Retry::with_first(first, before, reason, message, Timestamp::now());
        self.memory.retries.insert(what, retry);
        Done::Failed
    }

    async fn volumes(&mut self) -> Done {
        if let Some(done) = self.mount_remote() {
            return done;
        }
        if let Err(message) = self.prepare_volumes().await {
            // What is mounted now may not be all.
            self.mounting = Mounting::default();
            return self.failed("volumes", "FailedMount", message);
        }
        self.memory.retries.remove("volumes");
        self.memory.volumes_ready = true;
        Done::Changed
    }

    fn cgroup(&self) -> String {
        format!("{}/pod{}", self.shared.node.cgroup_parent.trim_end_matches('/'), self.uid)
    }

    async fn create_sandbox(&mut self, attempt: u32) -> Result<Done, RuntimeError> {
        if attempt > 0 {
            let why = "Pod sandbox changed, it will be killed and re-created.";
            self.event(None, "Normal", "SandboxChanged", why);
        }
        if spec::on_host(&self.pod) {
            match self.shared.runtime.host_network().await {
                Ok(()) => {}
                Err(error) if error.is_away() => return Err(error),
                Err(error) => {
                    self.end(PodEnd::rejected("HostNetworkNotSupported", error.to_string()));
                    return Ok(Done::Changed);
                }
            }
        }
        let handler = match self.handler() {
            Ok(handler) => handler,
            Err(message) => return Ok(self.failed("sandbox", "FailedCreatePodSandBox", message)),
        };
        let image = &self.shared.node.pause_image;
        let lower = self.shared.may_lower_oom_score;
        let spec =
            spec::sandbox(&self.pod, image, attempt, self.cgroup(), lower, &self.shared.dns(), handler);
        let spec = match spec {
            Ok(spec) => spec,
            Err(message) => return Ok(self.failed("sandbox", "FailedCreatePodSandBox", message)),
        };
        match self.create_and_start(&spec).await {
            Ok(_) => {
                self.memory.retries.remove("sandbox");
                self.memory.network = None;
                self.memory.former_ip = None;
                self.memory.network_removed = false;
                Ok(Done::Changed)
            }
            Err(error) if error.is_away() => Err(error),
            Err(error) => {
                let text = format!("Failed to create pod sandbox: {error}");
                Ok(self.failed("sandbox", "FailedCreatePodSandBox", text))
            }
        }
    }

    /// What runs the pod, by its RuntimeClass.
    fn handler(&self) -> Result<Option<String>, String> {
        let name = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone());
        let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(None) };
        let snapshot = self.shared.snapshot();
        let class = snapshot.runtime_classes.get(&(String::new(), name.clone()));
        let found = class.map(|class| Some(class.handler.clone()));
        found.ok_or_else(|| {
            format!("Failed to create pod sandbox: RuntimeClass.node.k8s.io {name:?} not found")
        })
    }

    /// What could not be started is removed, so that the next try may use its name.
    async fn create_and_start(&self, spec: &ContainerSpec) -> Result<String, RuntimeError> {
        let runtime = &self.shared.runtime;
        let id = runtime.create(spec).await?;
        if let Err(error) = runtime.start(&id).await {
            if !error.is_away() {
                runtime.remove(&id).await?;
            }
            return Err(error);
        }
        Ok(id)
    }

    async fn attach(&mut self, sandbox: String, pid: u32) -> Done {
        if spec::on_host(&self.pod) {
            // There is nothing to be made: its addresses are the node's.
            self.memory.network = Some((sandbox, self.shared.node.ip));
            return Done::Changed;
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &self.pod.metadata;
        let (uid, namespace) = (self.uid.clone(), text(&meta.namespace));
        let name = text(&meta.name);
        let socket_lb = meta.annotations.as_ref().and_then(|all| all.get(SOCKET_LB));
        let per_packet = socket_lb.is_some_and(|value| value == "disabled");
        let request = Bandwidth::of(meta.annotations.as_ref()).map(|bandwidth| PodNetRequest {
            uid,
            namespace,
            name,
            pid,
            bandwidth,
            per_packet,
        });
        self.memory.network_removed = false;
        self.memory.former_ip = None;
        let added = match request {
            Ok(request) => self.shared.network.add(&request).await,
            Err(error) => Err(error),
        };
        match added {
            Ok(result) => {
                self.memory.retries.remove("network");
                self.memory.network = Some((sandbox, result.ip));
                Done::Changed
            }
            Err(error) => {
                let text = format!("Failed to create pod sandbox: {}", report::chain(&error));
                self.failed("network", "FailedCreatePodSandBox", text)
            }
        }
    }

    async fn detach(&mut self) -> Done {
        match self.shared.network.remove(&self.uid).await {
            Ok(()) => {
                self.memory.network_removed = true;
                Done::Changed
            }
            Err(error) => {
                let text = format!("Failed to remove the pod's network: {}", report::chain(&error));
                tracing::warn!(pod = %self.name(), text, "network not removed; trying again");
                Done::Underway
            }
        }
    }

    async fn remove_volumes(&mut self) -> Done {
        if let Err(error) = self.unmount_remote().await {
            tracing::warn!(pod = %self.name(), error, "volumes of the pod not unmounted; trying again");
            return Done::Underway;
        }
        let (volumes, uid) = (self.shared.volumes.clone(), self.uid.clone());
        let cgroup = self.cgroup();
        let work = move || {
            super::cgroup::remove(&cgroup);
            volumes.remove(&uid)
        };
        let outcome = tokio::task::spawn_blocking(work).await;
        match outcome.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| report::chain(&e))) {
            Ok(()) => {
                self.memory.volumes_removed = true;
                self.memory.volumes_ready = false;
                Done::Changed
            }
            Err(error) => {
                tracing::warn!(pod = %self.name(), error, "files of the pod not removed; trying again");
                Done::Underway
            }
        }
    }

    fn ensure_image(&mut self, container: &str) -> Done {
        let before = match self.memory.pulls.remove(container) {
            Some(Pull::Failed(retry)) => Some(retry),
            _ => None,
        };
        self.memory.pulls.insert(container.to_owned(), Pull::Running { before });
        let Some(definition) = self.definition(container) else { return Done::Failed };
        images::ensure(self, &definition);
        Done::Underway
    }

    pub(super) fn definition(&self, container: &str) -> Option<Definition> {
        self.pod.spec.as_ref().and_then(|s| definition(s, container)).map(Cow::into_owned)
    }

    async fn start_container(
        &mut self,
        name: &str,
        attempt: u32,
        backoff: u64,
        sandbox: &str,
    ) -> Result<Done, RuntimeError> {
        let Some(definition) = self.definition(name) else { return Ok(Done::Failed) };
        let image = match self.memory.pulls.get(name) {
            Some(Pull::Present { image }) => image.clone(),
            _ => Image::default(),
        };
        let spec = match self.prepare(&definition, attempt, backoff, sandbox, &image).await {
            Ok(spec) => spec,
            Err(message) => return Ok(self.not_started(name, "CreateContainerConfigError", message)),
        };
        let runtime = Arc::clone(&self.shared.runtime);
        let id = match runtime.create(&spec).await {
            Ok(id) => id,
            Err(error) if error.is_away() => return Err(error),
            Err(error) => {
                // The image may have been removed since it was looked for.
                self.memory.pulls.remove(name);
                return Ok(self.not_started(name, "CreateContainerError", error.to_string()));
            }
        };
        self.event(Some(name), "Normal", "Created", &format!("Created container: {name}"));
        if let Err(error) = runtime.start(&id).await {
            return self.refused(&id, name, error).await;
        }
        self.started(&id, &definition);
        Ok(Done::Changed)
    }

    async fn resume(&mut self, id: &str) -> Result<Done, RuntimeError> {
        let Some(container) = self.observed.containers.iter().find(|c| c.id == id).cloned() else {
            return Ok(Done::Changed);
        };
        let name = container.name().to_owned();
        if let Err(error) = self.shared.runtime.start(id).await {
            return self.refused(id, &name, error).await;
        }
        if let Some(definition) = self.definition(&name) {
            self.started(id, &definition);
        }
        Ok(Done::Changed)
    }

    /// A container was made and could not be started. If that is for its sandbox, that ends, and another one is made.
    async fn refused(&mut self, id: &str, name: &str, error: RuntimeError) -> Result<Done, RuntimeError> {
        if error.is_away() {
            return Err(error);
        }
        let runtime = Arc::clone(&self.shared.runtime);
        runtime.remove(id).await?;
        if let Some((sandbox, _)) = self.observed.sandbox().filter(|_| error.is_of_sandbox()) {
            runtime.kill(&sandbox.id, "SIGKILL").await?;
        }
        Ok(self.not_started(name, "RunContainerError", error.to_string()))
    }

    fn started(&mut self, id: &str, definition: &Definition) {
        let name = &definition.name;
        self.memory.failures.remove(name);
        self.memory.pulls.remove(name);
        self.event(Some(name), "Normal", "Started", &format!("Started container {name}"));
        let probed = Probed {
            started: definition.startup_probe.is_none(),
            ready: definition.readiness_probe.is_none(),
        };
        self.memory.probes.insert(id.to_owned(), probed);
        if let Some(hook) = definition.lifecycle.as_ref().and_then(|l| l.post_start.clone()) {
            self.memory.post_starting.insert(id.to_owned());
            hooks::post_start(self, id, definition, hook);
        }
    }

    fn not_started(&mut self, name: &str, reason: &str, message: String) -> Done {
        self.event(Some(name), "Warning", "Failed", &format!("Error: {message}"));
        let retry = Retry::after(self.memory.failures.get(name), reason, message, Timestamp::now());
        self.memory.failures.insert(name.to_owned(), retry);
        Done::Changed
    }

    async fn prepare(
        &self,
        definition: &Definition,
        attempt: u32,
        backoff: u64,
        sandbox: &str,
        image: &Image,
    ) -> Result<ContainerSpec, String> {
        let place = self.place();
        let snapshot = self.shared.snapshot();
        let env = crate::plan::env::environment(&self.pod, definition, &snapshot, &place)?;
        let dns = self.shared.dns();
        let of_host = |name: &str| std::fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
        let hosts = crate::plan::files::hosts(&self.pod, &place.pod_ips, &dns, &of_host("hosts"));
        let resolv = crate::plan::files::resolv_conf(&self.pod, &dns, &of_host("resolv.conf"));
        let volumes = &self.shared.volumes;
        let file = |name: &str, text: &str| {
            volumes.managed_file(&self.uid, name, text).map_err(|e| report::chain(&e))
        };
        let seccomp = self.seccomp(definition)?;
        let sub_paths = self.sub_paths(definition, &env).await?;
        let setting = Setting {
            attempt,
            backoff,
            sandbox,
            runtime: self.observed.sandbox().and_then(|(sandbox, _)| sandbox.runtime().map(str::to_owned)),
            env,
            image,
            volumes: &self.paths,
            sub_paths,
            seccomp,
            processes_of: self.target_of(&definition.name),
            hosts_file: file("etc-hosts", &hosts)?,
            resolv_file: file("resolv.conf", &resolv)?,
            termination_file: volumes
                .termination_file(&self.uid, &definition.name, attempt)
                .map_err(|e| report::chain(&e))?,
            cgroup_parent: self.cgroup(),
            may_lower_oom_score: self.shared.may_lower_oom_score,
            memory: self.shared.node.memory,
        };
        spec::container(&self.pod, definition, setting)
    }

    /// The container whose processes one that was added for debugging sees.
    fn target_of(&self, name: &str) -> Option<String> {
        let added = self.pod.spec.as_ref()?.ephemeral_containers.iter().flatten();
        let target = added.filter(|c| c.name == name).find_map(|c| c.target_container_name.as_deref())?;
        self.observed.latest(target).filter(|c| c.is_running()).map(|c| c.id.clone())
    }

    fn seccomp(&self, definition: &Definition) -> Result<Seccomp, String> {
        let empty = v1::PodSpec::default();
        let file = match security::seccomp(self.pod.spec.as_ref().unwrap_or(&empty), definition)? {
            Profile::Known(seccomp) => return Ok(seccomp),
            Profile::File(file) => self.shared.node.data_dir.join("seccomp").join(file),
        };
        let text = std::fs::read_to_string(&file);
        text.map(Seccomp::Profile).map_err(|e| format!("cannot read seccomp profile {}: {e}", file.display()))
    }

    /// Parts of volumes that the container's mounts show.
    async fn sub_paths(
        &self,
        definition: &Definition,
        env: &[(String, String)],
    ) -> Result<BTreeMap<usize, String>, String> {
        let mut bound = BTreeMap::new();
        for (index, mount) in definition.volume_mounts.iter().flatten().enumerate() {
            let Some(part) = mounts::part(mount, env)? else { continue };
            let Some(root) = self.paths.get(&mount.name) else { continue };
            let (volume, container) = (mount.name.clone(), definition.name.clone());
            let whose = Whose { volume, container, index };
            let place =
                self.shared.volumes.sub_path(&self.uid, whose, root, part).await.map_err(|error| {
                    format!(
                        "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
                        mount.name, definition.name
                    )
                })?;
            bound.insert(index, place);
        }
        Ok(bound)
    }

    fn begin_stop(&mut self, id: String, container: &str, why: &str, grace: u64) -> Done {
        let now = Timestamp::now();
        let wait = SignedDuration::from_secs(i64::try_from(grace).unwrap_or(i64::MAX));
        let deadline = now.checked_add(wait).unwrap_or(Timestamp::MAX);
        let definition = self.definition(container);
        let hook = definition.as_ref().and_then(|d| d.lifecycle.as_ref()).and_then(|l| l.pre_stop.clone());
        self.event(Some(container), "Normal", "Killing", why);
        let phase = match (hook, &definition) {
            (Some(hook), Some(definition)) if grace > 0 => {
                hooks::pre_stop(self, &id, definition, hook, std::time::Duration::from_secs(grace));
                StopPhase::PreStop
            }
            _ => StopPhase::Ready,
        };
        self.memory.stops.insert(id, Stop { phase, deadline });
        Done::Changed
    }

    pub(super) fn end(&mut self, end: PodEnd) {
        let kind = if end.kind == EndKind::Deadline { "Normal" } else { "Warning" };
        self.event(None, kind, &end.reason, &end.message);
        self.memory.end = Some(end);
    }

    fn say_back_off(&mut self, container: &str) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &self.pod.metadata;
        let message = format!(
            "Back-off restarting failed container {container} in pod {}_{}({})",
            text(&meta.name),
            text(&meta.namespace),
            self.uid
        );
        self.event(Some(container), "Warning", "BackOff", &message);
        if let Some(latest) = self.observed.latest(container) {
            self.memory.announced.insert(latest.id.clone());
        }
    }

    /// Runs a job that ends with this worker and tells it how it went.
    pub(super) fn job<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = Message> + Send + 'static,
    {
        let (token, sender) = (self.jobs.clone(), self.sender.clone());
        self.shared.tasks.job(name, async move {
            let message = tokio::select! {
                () = token.cancelled() => return,
                message = work => message,
            };
            // The worker is gone: nobody has to know.
            let _ = sender.send(message).await;
        });
    }
}
