//! The status of one container: waiting, running or terminated, and what was before.

use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::{
    Container as Definition, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, Pod, PodSpec,
};

use super::time;
use crate::plan::memory::next_backoff;
use crate::plan::{Course, Memory, Observed, Pull, course, restarts};
use crate::runtime::{Container, State};

pub(super) struct Look<'a> {
    pub(super) pod: &'a Pod,
    pub(super) spec: &'a PodSpec,
    pub(super) observed: &'a Observed,
    pub(super) memory: &'a Memory,
    pub(super) now: Timestamp,
}

/// What kind of container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Init,
    Sidecar,
    Usual,
    /// Added for debugging: runs once.
    Added,
}

impl Look<'_> {
    pub(super) fn status(&self, definition: &Definition, kind: Kind) -> ContainerStatus {
        let latest = self.observed.latest(&definition.name);
        let mut status = ContainerStatus {
            name: definition.name.clone(),
            image: definition.image.clone().unwrap_or_default(),
            restart_count: latest.map_or(0, |c| i32::try_from(c.attempt()).unwrap_or(i32::MAX)),
            started: Some(false),
            ..ContainerStatus::default()
        };
        let Some(latest) = latest else {
            let (reason, message) = self.obstacle(&definition.name).unwrap_or_else(|| self.not_yet(kind));
            status.state = Some(waiting(reason, message));
            return status;
        };
        status.image = latest.image.clone();
        status.image_id = format!("docker://{}", latest.image_id);
        status.container_id = Some(id(latest));
        status.stop_signal =
            definition.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
        let previous = self.observed.previous(&definition.name).and_then(|c| self.terminated(c));
        status.last_state = previous.map(terminated);
        match &latest.state {
            State::Created => status.state = Some(waiting("ContainerCreating".to_owned(), None)),
            State::Running { started, .. } => {
                let since = Some(time(*started));
                status.state = Some(ContainerState {
                    running: Some(ContainerStateRunning { started_at: since }),
                    ..ContainerState::default()
                });
                let probed = self.memory.probes.get(&latest.id).copied().unwrap_or_default();
                let settled = !self.memory.post_starting.contains(&latest.id);
                status.started = Some(probed.started && settled);
                let counts = matches!(kind, Kind::Sidecar | Kind::Usual);
                status.ready = counts && settled && probed.started && probed.ready;
            }
            State::Exited { started, finished, code, .. } => {
                let policy = self.spec.restart_policy.as_deref().unwrap_or("Always");
                let again = match kind {
                    Kind::Init => *code != 0 && policy != "Never",
                    Kind::Sidecar => true,
                    Kind::Usual => restarts(policy, *code),
                    Kind::Added => false,
                };
                status.ready = kind == Kind::Init && *code == 0;
                let end = self.terminated(latest);
                let ran = finished.duration_since(*started);
                match self
                    .reason_to_wait(definition, latest, *finished, ran)
                    .filter(|_| again && self.goes_on(kind))
                {
                    Some((reason, message)) => {
                        status.state = Some(waiting(reason, message));
                        status.last_state = end.map(terminated);
                    }
                    None => status.state = end.map(terminated),
                }
            }
        }
        status
    }

    /// Whether anything is going to be started still.
    fn goes_on(&self, kind: Kind) -> bool {
        let over = || course(self.spec, self.observed, self.memory) != Course::Going;
        self.memory.deletion.is_none() && self.memory.end.is_none() && (kind != Kind::Sidecar || !over())
    }

    fn not_yet(&self, kind: Kind) -> (String, Option<String>) {
        let has_init = self.spec.init_containers.as_ref().is_some_and(|i| !i.is_empty());
        let is_init = matches!(kind, Kind::Init | Kind::Sidecar | Kind::Added);
        let reason = if has_init && !is_init { "PodInitializing" } else { "ContainerCreating" };
        (reason.to_owned(), None)
    }

    /// What keeps the container from being made.
    fn obstacle(&self, name: &str) -> Option<(String, Option<String>)> {
        if let Some(Pull::Failed(retry)) = self.memory.pulls.get(name) {
            return Some((retry.reason.clone(), Some(retry.message.clone())));
        }
        let failure = self.memory.failures.get(name)?;
        Some((failure.reason.clone(), Some(failure.message.clone())))
    }

    fn reason_to_wait(
        &self,
        definition: &Definition,
        latest: &Container,
        finished: Timestamp,
        ran: SignedDuration,
    ) -> Option<(String, Option<String>)> {
        if let Some(obstacle) = self.obstacle(&definition.name) {
            return Some(obstacle);
        }
        let (wait, _) = next_backoff(latest.backoff(), ran);
        let until = finished.checked_add(SignedDuration::try_from(wait).ok()?).ok()?;
        if until <= self.now {
            return None;
        }
        let meta = &self.pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            go_duration(wait.as_secs()),
            definition.name,
            text(&meta.name),
            text(&meta.namespace),
            text(&meta.uid),
        );
        Some(("CrashLoopBackOff".to_owned(), Some(message)))
    }

    fn terminated(&self, container: &Container) -> Option<ContainerStateTerminated> {
        let State::Exited { started, finished, code, oom, error } = &container.state else { return None };
        let never_ran = !error.is_empty() && *started == Timestamp::UNIX_EPOCH;
        let reason = match code {
            _ if *oom => "OOMKilled",
            _ if never_ran => "ContainerCannotRun",
            0 => "Completed",
            _ => "Error",
        };
        let message = self.memory.messages.get(&container.id).cloned().filter(|m| !m.is_empty());
        Some(ContainerStateTerminated {
            container_id: Some(id(container)),
            exit_code: *code,
            reason: Some(reason.to_owned()),
            message: message.or_else(|| (!error.is_empty()).then(|| error.clone())),
            started_at: Some(time(*started)),
            finished_at: Some(time(*finished)),
            signal: None,
        })
    }
}

/// A duration as Go writes it: `10s`, `2m40s`.
pub(super) fn go_duration(seconds: u64) -> String {
    if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) }
}

fn id(container: &Container) -> String {
    format!("docker://{}", container.id)
}

fn waiting(reason: String, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}
