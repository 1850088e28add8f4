//! What to do next for one pod: wanted pod x observed containers x memory x now -> steps. Pure: no clock, no I/O.
//!
//! In: values. Out: [`Plan`], steps in order and the time to look again. The worker executes it and asks again after anything
//! happened; so a step is only ever a consequence of what is there, never of what was done before.

pub(crate) mod credentials;
pub(crate) mod downward;
pub(crate) mod env;
mod expand;
pub(crate) mod files;
mod kill;
pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod security;
pub(crate) mod spec;
mod start;
pub(crate) mod storage;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::{self, Pod};

use crate::runtime::{Container, State};
pub(crate) use memory::{Deletion, EndKind, Memory, PodEnd, Pull, Retry, Stop, StopPhase};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the files that the pod's containers mount.
    PrepareVolumes,
    /// Make and start the container that holds the namespaces.
    CreateSandbox { attempt: u32 },
    /// Give the sandbox its link and address.
    AttachNetwork { sandbox: String, pid: u32 },
    /// Have the container's image, in the background.
    EnsureImage { container: String },
    /// Make and start a container.
    StartContainer { container: String, attempt: u32, backoff: u64, sandbox: String },
    /// Start a container that was made but not started.
    Resume { id: String },
    /// Begin to end a container: its preStop hook first, in the background, where it has one.
    BeginStop { id: String, container: String, why: String, grace: u64 },
    /// Ask it to end.
    Terminate { id: String },
    /// End it.
    Kill { id: String },
    /// Remove what is left of a container.
    Remove { id: String },
    /// Take link and address away.
    DetachNetwork,
    /// The pod ends for a reason of its own.
    End(PodEnd),
    /// What is said of the pod now is what stays: what it is known by goes.
    Settle,
    /// Say that a container waits before it is started again.
    SayBackOff { container: String },
    /// Remove the pod's files.
    RemoveVolumes,
    /// Nothing is left of the pod.
    Gone,
}

/// Steps in order, and when to plan again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) wake: Option<Timestamp>,
}

impl Plan {
    fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// What there is of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Sandboxes, newest last.
    pub(crate) sandboxes: Vec<Container>,
    /// All others, oldest attempt first.
    pub(crate) containers: Vec<Container>,
}

impl Observed {
    pub(crate) fn new(found: Vec<Container>) -> Self {
        let (mut sandboxes, mut containers): (Vec<_>, Vec<_>) =
            found.into_iter().partition(Container::is_sandbox);
        sandboxes.sort_by_key(Container::attempt);
        containers.sort_by_key(Container::attempt);
        Self { sandboxes, containers }
    }

    /// The newest container of that name.
    pub(crate) fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().rev().find(|c| c.name() == name)
    }

    /// The one before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().rev().filter(|c| c.name() == name).nth(1)
    }

    /// The newest sandbox, if it runs, with its process.
    pub(crate) fn sandbox(&self) -> Option<(&Container, u32)> {
        let last = self.sandboxes.last()?;
        match last.state {
            State::Running { pid, .. } => Some((last, pid)),
            _ => None,
        }
    }

    fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| c.is_running())
    }

    /// Whether nothing runs.
    #[cfg(test)]
    pub(crate) fn is_still(&self) -> bool {
        self.running().next().is_none() && !self.sandboxes.iter().any(Container::is_running)
    }
}

/// How far the pod has come, apart from what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// It has containers that run, or will.
    Going,
    /// Every container ended well, or a failure is final.
    Over { failed: bool },
}

/// Plans the next steps.
pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if let Some(deletion) = &memory.deletion {
        kill::delete(pod, observed, memory, deletion, now, &mut plan);
        return plan;
    }
    let Some(spec) = &pod.spec else { return plan };
    if memory.end.is_none()
        && let Some(deadline) = deadline(pod, memory)
    {
        if deadline <= now {
            plan.push(Step::End(PodEnd::deadline_exceeded()));
        } else {
            plan.wake_at(deadline);
        }
    }
    let ended = memory.end.is_some() || plan.steps.iter().any(|s| matches!(s, Step::End(_)));
    if ended || course(spec, observed, memory) != Course::Going {
        kill::wind_down(spec, observed, memory, now, &mut plan);
    } else {
        start::run(spec, observed, memory, now, &mut plan);
    }
    plan
}

/// When `activeDeadlineSeconds` ends the pod.
fn deadline(pod: &Pod, memory: &Memory) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    memory.start_time?.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}

/// Whether anything is still to be run.
pub(crate) fn course(spec: &v1::PodSpec, observed: &Observed, memory: &Memory) -> Course {
    if memory.was_over {
        return Course::Over { failed: false };
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    if policy == "Never" {
        for init in spec.init_containers.iter().flatten().filter(|c| !is_sidecar(c)) {
            if exit_code(observed, &init.name).is_some_and(|code| code != 0) {
                return Course::Over { failed: true };
            }
        }
    }
    let mut failed = false;
    for container in &spec.containers {
        match exit_code(observed, &container.name) {
            Some(code) if !restarts(policy, code) => failed |= code != 0,
            _ => return Course::Going,
        }
    }
    Course::Over { failed }
}

/// The exit code of the newest container of that name, if it ended.
fn exit_code(observed: &Observed, name: &str) -> Option<i32> {
    match observed.latest(name)?.state {
        State::Exited { code, .. } => Some(code),
        _ => None,
    }
}

/// Whether a container that ended with `code` is started again.
pub(crate) fn restarts(policy: &str, code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// The definition of a container: an init container, a sidecar, one of the usual or one that was added for debugging.
pub(crate) fn definition<'a>(spec: &'a v1::PodSpec, name: &str) -> Option<Cow<'a, v1::Container>> {
    let usual = spec.init_containers.iter().flatten().chain(&spec.containers).find(|c| c.name == name);
    let added = || spec.ephemeral_containers.iter().flatten().find(|c| c.name == name).map(as_container);
    usual.map(Cow::Borrowed).or_else(|| added().map(Cow::Owned))
}

/// What an ephemeral container has in common with others, which is all but `targetContainerName`.
pub(crate) fn as_container(added: &v1::EphemeralContainer) -> v1::Container {
    let added = added.clone();
    v1::Container {
        name: added.name,
        image: added.image,
        image_pull_policy: added.image_pull_policy,
        command: added.command,
        args: added.args,
        working_dir: added.working_dir,
        env: added.env,
        env_from: added.env_from,
        volume_mounts: added.volume_mounts,
        security_context: added.security_context,
        stdin: added.stdin,
        stdin_once: added.stdin_once,
        tty: added.tty,
        termination_message_path: added.termination_message_path,
        termination_message_policy: added.termination_message_policy,
        ..v1::Container::default()
    }
}

/// Whether an init container is one that runs as long as the others (KEP-753).
pub(crate) fn is_sidecar(container: &v1::Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Identifies a definition as far as a change of it needs a new container. Only the image of a running pod can change.
pub(crate) fn spec_hash(container: &v1::Container) -> String {
    use sha2::Digest as _;
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or_default());
    let digest = sha2::Sha256::digest(text);
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
