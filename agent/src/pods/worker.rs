//! The worker of one pod: look, plan, do, say, wait. One at a time for one pod, so nothing is done twice.
//!
//! In: the wish of its slot, messages of its own jobs. Out: steps executed, statuses said. What takes long (pulls, hooks,
//! probes) runs in jobs beside it, so that a deletion is always heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::{Pod, PodStatus};
use oarlock_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::mounts::Mounting;
use super::probe::{self, Verdict};
use super::{Shared, Slot, Wish, report, storage};
use crate::dual_ip::DualIp;
use crate::eviction;
use crate::plan::memory::Probed;
use crate::plan::{self, Deletion, Memory, Observed, Pull, Retry, Stop, StopPhase, definition, security};
use crate::runtime::{Container, Image, RuntimeError, State, label};
use crate::volumes::HostPaths;

/// Messages of jobs that wait to be read.
const MAILBOX: usize = 64;
/// The wait after the runtime failed, and between looks at something that should end by itself.
const BREATH: Duration = Duration::from_secs(1);
/// How long a worker sleeps when nothing happens.
const SLEEP: Duration = Duration::from_secs(60);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const SHOWN: SignedDuration = SignedDuration::from_secs(2);

/// What a job says to its worker.
#[derive(Debug)]
pub(super) enum Message {
    Image {
        container: String,
        outcome: Result<Image, (String, String)>,
    },
    PreStopDone {
        id: String,
    },
    PostStartDone {
        id: String,
        failure: Option<String>,
    },
    Probe {
        id: String,
        verdict: Verdict,
    },
    End(plan::PodEnd),
    /// Volumes that other machines have: what went wrong with each that is not there.
    Mounted {
        failures: Vec<String>,
    },
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) uid: String,
    pub(super) pod: Arc<Pod>,
    pub(super) memory: Memory,
    pub(super) observed: Observed,
    pub(super) paths: HostPaths,
    pub(super) sender: mpsc::Sender<Message>,
    /// Ends every job of this worker.
    pub(super) jobs: CancellationToken,
    pub(super) probes: BTreeMap<(String, &'static str), CancellationToken>,
    /// How far volumes are that other machines have.
    pub(super) mounting: Mounting,
    /// Somebody looks at how much of the disk it uses.
    pub(super) measured: bool,
    said: Option<PodStatus>,
    /// The objects with which the volumes were written.
    written: Option<Arc<crate::desired::Snapshot>>,
}

/// Runs until nothing is left of the pod (true) or the process ends (false).
pub(super) async fn run(shared: Arc<Shared>, uid: &str, slot: Arc<Slot>) -> bool {
    let (sender, mut mailbox) = mpsc::channel(MAILBOX);
    let token = shared.tasks.token();
    let jobs = token.child_token();
    let _end_jobs = jobs.clone().drop_guard();
    let pod = Arc::clone(&slot.wish.lock().pod);
    let memory = remember(&pod, Timestamp::now());
    let mut worker = Worker {
        said: pod.status.clone(),
        shared,
        uid: uid.to_owned(),
        pod,
        memory,
        observed: Observed::default(),
        paths: HostPaths::new(),
        sender,
        jobs,
        probes: BTreeMap::new(),
        mounting: Mounting::default(),
        measured: false,
        written: None,
    };
    worker.admit();
    loop {
        let wish = {
            let mut wish = slot.wish.lock();
            let taken = wish.clone();
            wish.refreshed = false;
            taken
        };
        let next = match worker.turn(wish).await {
            Ok(Next::Gone) => return true,
            Ok(Next::Again) => Duration::ZERO,
            Ok(Next::Wait(wait)) => wait.min(SLEEP),
            Err(error) => {
                if error.is_away() {
                    // Said once for all pods.
                    worker.shared.runtime_is(Err(error.to_string()));
                } else {
                    tracing::warn!(pod = %worker.name(), %error, "pod could not be looked after; trying again");
                }
                BREATH
            }
        };
        tokio::select! {
            biased;
            () = token.cancelled() => return false,
            message = mailbox.recv() => if let Some(message) = message {
                worker.hear(message);
                while let Ok(more) = mailbox.try_recv() {
                    worker.hear(more);
                }
            },
            () = slot.bell.notified() => {}
            () = tokio::time::sleep(next) => {}
        }
    }
}

enum Next {
    Again,
    Wait(Duration),
    Gone,
}

impl Worker {
    pub(super) fn name(&self) -> String {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        format!("{}/{}", text(&self.pod.metadata.namespace), text(&self.pod.metadata.name))
    }

    /// A pod that was never looked at before: whether this node takes it.
    fn admit(&mut self) {
        let begun = self.pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let Some(spec) = self.pod.spec.as_ref().filter(|_| !begun) else { return };
        if let Some(end) = security::refusal(spec, self.shared.has_apparmor) {
            self.end(end);
        } else if let Some(why) = eviction::refusal(&self.shared.pressures(), &self.pod) {
            self.end(plan::PodEnd::rejected("Evicted", why));
        }
    }

    async fn turn(&mut self, wish: Wish) -> Result<Next, RuntimeError> {
        let now = Timestamp::now();
        self.take(&wish, now);
        let found = self.shared.runtime.pod(&self.uid).await?;
        self.adopt(&found);
        self.observed = Observed::new(found);
        self.forget_what_is_gone();
        self.read_last_words().await;
        self.refresh_volumes().await;
        self.age_pull_failures(now);
        probe::arrange(self);
        storage::arrange(self);
        let now = Timestamp::now();
        let plan = plan::plan(&self.pod, &self.observed, &self.memory, now);
        self.say(now);
        tracing::debug!(pod = %self.name(), steps = ?plan.steps, "planned");
        let mut again = false;
        let mut kicked = false;
        for step in plan.steps {
            match self.execute(step).await? {
                super::execute::Done::Changed => again = true,
                super::execute::Done::Underway => kicked = true,
                super::execute::Done::Failed => {
                    again = true;
                    break;
                }
                super::execute::Done::Gone => return Ok(Next::Gone),
            }
        }
        if again {
            return Ok(Next::Again);
        }
        let wake =
            plan.wake.map(|at| at.duration_since(Timestamp::now()).max(SignedDuration::ZERO).unsigned_abs());
        let wake = wake.map_or(SLEEP, |wake| wake + Duration::from_millis(1));
        Ok(Next::Wait(if kicked || self.shows_pull_failure() { wake.min(BREATH) } else { wake }))
    }

    /// Takes over what is wanted now.
    fn take(&mut self, wish: &Wish, now: Timestamp) {
        self.pod = Arc::clone(&wish.pod);
        if let Some(evicted) = &wish.evicted
            && self.memory.end.is_none()
            && self.memory.deletion.is_none()
            && !self.memory.was_over
        {
            let end = plan::PodEnd::evicted(evicted.why.clone()).within(evicted.grace);
            self.end(if evicted.frees_disk { end.freeing_disk() } else { end });
        }
        if wish.refreshed {
            let wanting =
                self.memory.failures.values_mut().filter(|f| f.reason == "CreateContainerConfigError");
            for retry in self.memory.retries.get_mut("volumes").into_iter().chain(wanting) {
                retry.at = now;
            }
        }
        let meta = &self.pod.metadata;
        if !wish.removed && meta.deletion_timestamp.is_none() {
            return;
        }
        let spec = self.pod.spec.as_ref();
        let grace = meta.deletion_grace_period_seconds;
        let grace = grace.or(spec.and_then(|s| s.termination_grace_period_seconds)).unwrap_or(30);
        let latest = now.checked_add(SignedDuration::from_secs(grace.max(0))).unwrap_or(now);
        // The control plane's clock may run ahead of ours: the grace period bounds what it says.
        let asked = meta.deletion_timestamp.as_ref().map_or(latest, |at| at.0.min(latest));
        let before = self.memory.deletion.as_ref().map_or(asked, |d| d.deadline);
        self.memory.deletion = Some(Deletion { deadline: asked.min(before) });
    }

    /// An orphan's name is in the labels of its containers.
    fn adopt(&mut self, found: &[Container]) {
        if self.pod.metadata.name.is_some() {
            return;
        }
        let Some(any) = found.first() else { return };
        let of = |name| any.labels.get(name).cloned();
        let mut pod = Pod::clone(&self.pod);
        pod.metadata.name = of(label::POD_NAME);
        pod.metadata.namespace = of(label::POD_NAMESPACE);
        self.pod = Arc::new(pod);
    }

    fn forget_what_is_gone(&mut self) {
        let ids: BTreeSet<&str> = self.observed.containers.iter().map(|c| c.id.as_str()).collect();
        let memory = &mut self.memory;
        memory.stops.retain(|id, _| ids.contains(id.as_str()));
        memory.condemned.retain(|id, _| ids.contains(id.as_str()));
        memory.announced.retain(|id| ids.contains(id.as_str()));
        memory.probes.retain(|id, _| ids.contains(id.as_str()));
        memory.messages.retain(|id, _| ids.contains(id.as_str()));
        let running: BTreeSet<&str> =
            self.observed.containers.iter().filter(|c| c.is_running()).map(|c| c.id.as_str()).collect();
        memory.post_starting.retain(|id| running.contains(id.as_str()));
        let spec = self.pod.spec.as_ref();
        for container in self.observed.containers.iter().filter(|c| c.is_running()) {
            if memory.probes.contains_key(&container.id) {
                continue;
            }
            let of = spec.and_then(|s| definition(s, container.name()));
            let probed = Probed {
                started: of.as_ref().is_none_or(|d| d.startup_probe.is_none()),
                ready: of.as_ref().is_none_or(|d| d.readiness_probe.is_none()),
            };
            memory.probes.insert(container.id.clone(), probed);
        }
    }

    /// Termination messages of containers that ended since the last turn.
    async fn read_last_words(&mut self) {
        for container in &self.observed.containers {
            let State::Exited { code, .. } = container.state else { continue };
            if self.memory.messages.contains_key(&container.id) {
                continue;
            }
            let (volumes, name) = (&self.shared.volumes, container.name());
            let mut text = volumes.termination_message(&self.uid, name, container.attempt());
            let of = self.pod.spec.as_ref().and_then(|s| definition(s, name));
            let policy = of.as_ref().and_then(|d| d.termination_message_policy.as_deref());
            if text.is_empty() && code != 0 && policy == Some("FallbackToLogsOnError") {
                text = super::logs::tail(self.shared.runtime.as_ref(), &container.id).await;
            }
            self.memory.messages.insert(container.id.clone(), text);
        }
    }

    /// Running pods see changes of the objects that their volumes show.
    async fn refresh_volumes(&mut self) {
        if !self.memory.volumes_ready || self.memory.deletion.is_some() {
            return;
        }
        let snapshot = self.shared.snapshot();
        if self.written.as_ref().is_some_and(|written| Arc::ptr_eq(written, &snapshot)) {
            return;
        }
        // An object that went away leaves its files: running containers keep what they had, as in Kubernetes.
        if let Err(error) = self.prepare_volumes().await {
            tracing::debug!(pod = %self.name(), error, "volumes keep their old content");
        }
        self.written = Some(snapshot);
    }

    pub(super) async fn prepare_volumes(&mut self) -> Result<(), String> {
        let (volumes, pod) = (self.shared.volumes.clone(), Arc::clone(&self.pod));
        let (snapshot, place) = (self.shared.snapshot(), self.place());
        self.written = Some(Arc::clone(&snapshot));
        let work = tokio::task::spawn_blocking(move || volumes.prepare(&pod, &snapshot, &place));
        self.paths = work.await.map_err(|e| e.to_string())?.map_err(|e| report::chain(&e))?;
        Ok(())
    }

    pub(super) fn place(&self) -> plan::downward::Place {
        let node = &self.shared.node;
        plan::downward::Place {
            host_ips: node.ip.all().collect(),
            pod_ips: self.memory.network.iter().flat_map(|(_, ips)| ips.all()).collect(),
            cpu_millis: node.cpu_millis,
            memory: node.memory,
        }
    }

    fn shows_pull_failure(&self) -> bool {
        self.memory.pulls.values().any(|p| matches!(p, Pull::Failed(r) if r.reason == "ErrImagePull"))
    }

    /// `ErrImagePull`, and a little later `ImagePullBackOff`.
    fn age_pull_failures(&mut self, now: Timestamp) {
        let mut aged = Vec::new();
        for (container, pull) in &mut self.memory.pulls {
            let Pull::Failed(retry) = pull else { continue };
            let since = retry.at.checked_sub(retry.delay).unwrap_or(retry.at);
            if retry.reason == "ErrImagePull" && now.duration_since(since) >= SHOWN {
                let of = self.pod.spec.as_ref().and_then(|s| definition(s, container));
                let image = of.and_then(|d| d.image.clone()).unwrap_or_default();
                retry.reason = "ImagePullBackOff".to_owned();
                let cause = std::mem::take(&mut retry.message);
                retry.message = format!("Back-off pulling image \"{image}\": ErrImagePull: {cause}");
                aged.push((container.clone(), image));
            }
        }
        for (container, image) in aged {
            self.event(Some(&container), "Normal", "BackOff", &format!("Back-off pulling image \"{image}\""));
            self.event(Some(&container), "Warning", "Failed", "Error: ImagePullBackOff");
        }
    }

    fn say(&mut self, now: Timestamp) {
        if self.pod.metadata.name.is_none() || self.pod.spec.is_none() {
            return;
        }
        let (host, before) = (self.shared.node.ip, self.said.as_ref());
        let status = crate::status::pod_status(&self.pod, &self.observed, &self.memory, host, before, now);
        report::status(&self.shared.outbox, &self.pod, &status);
        self.said = Some(status);
    }

    fn hear(&mut self, message: Message) {
        let now = Timestamp::now();
        match message {
            Message::Image { container, outcome } => self.hear_image(container, outcome, now),
            Message::PreStopDone { id } => {
                if let Some(Stop { phase, .. }) = self.memory.stops.get_mut(&id)
                    && *phase == StopPhase::PreStop
                {
                    *phase = StopPhase::Ready;
                }
            }
            Message::PostStartDone { id, failure } => {
                self.memory.post_starting.remove(&id);
                if failure.is_some() {
                    self.memory.condemned.insert(id, ("FailedPostStartHook".to_owned(), None));
                }
            }
            Message::Probe { id, verdict } => self.hear_probe(&id, verdict),
            Message::End(end) if self.memory.end.is_none() && self.memory.deletion.is_none() => self.end(end),
            Message::End(_) => {}
            Message::Mounted { failures } => self.hear_mounted(failures),
        }
    }

    fn hear_image(&mut self, container: String, outcome: Result<Image, (String, String)>, now: Timestamp) {
        let before = match self.memory.pulls.remove(&container) {
            Some(Pull::Running { before }) => before,
            _ => None,
        };
        let pull = match outcome {
            Ok(image) => Pull::Present { image },
            Err((reason, message)) => Pull::Failed(Retry::after(before.as_ref(), &reason, message, now)),
        };
        self.memory.pulls.insert(container, pull);
    }

    fn hear_probe(&mut self, id: &str, verdict: Verdict) {
        let Some(probed) = self.memory.probes.get_mut(id) else { return };
        match verdict {
            Verdict::Started => probed.started = true,
            Verdict::Ready(ready) => probed.ready = ready,
            Verdict::Condemned { why, grace } => {
                self.memory.condemned.insert(id.to_owned(), (why, grace));
            }
        }
    }

    pub(super) fn event(&self, container: Option<&str>, kind: &str, reason: &str, message: &str) {
        report::event(&self.shared.outbox, &self.pod, container, kind, reason, message);
    }
}

/// What the control plane's record of the pod tells an agent that just started.
fn remember(pod: &Pod, now: Timestamp) -> Memory {
    let mut memory = Memory::default();
    let Some(status) = &pod.status else {
        memory.start_time = Some(now);
        return memory;
    };
    memory.start_time = Some(status.start_time.as_ref().map_or(now, |t| t.0));
    memory.was_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let listed = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    memory.former_ip = DualIp::of(listed.filter_map(|ip| ip.parse().ok()));
    let inits = status.init_container_statuses.iter().flatten();
    for container in inits.chain(status.container_statuses.iter().flatten()) {
        let id = container.container_id.as_deref().and_then(|id| id.strip_prefix("docker://"));
        if let (Some(id), true) = (id, container.state.as_ref().is_some_and(|s| s.running.is_some())) {
            let probed = Probed { started: container.started.unwrap_or(false), ready: container.ready };
            memory.probes.insert(id.to_owned(), probed);
        }
    }
    memory
}

/// A pod of which only the uid is known, from a label or a folder.
pub(super) fn orphan(uid: &str) -> Pod {
    Pod { metadata: ObjectMeta { uid: Some(uid.to_owned()), ..ObjectMeta::default() }, ..Pod::default() }
}
