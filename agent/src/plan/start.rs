//! Plans a pod that is to run: files, sandbox, network, init containers in order, containers, restarts with back-off.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::{Container as Definition, EphemeralContainer, PodSpec};

use super::memory::{Pull, next_backoff};
use super::{Memory, Observed, Plan, Step, as_container, is_sidecar, kill, restarts, spec_hash};
use crate::runtime::{Container, State};

/// The wait ends in time, or the plan looks again when it does.
fn waits(memory: &Memory, what: &'static str, now: Timestamp, plan: &mut Plan) -> bool {
    let Some(retry) = memory.retries.get(what) else { return false };
    if retry.at <= now {
        return false;
    }
    plan.wake_at(retry.at);
    true
}

pub(super) fn run(spec: &PodSpec, observed: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    remove_old(observed, plan);
    if !memory.volumes_ready {
        if !waits(memory, "volumes", now, plan) {
            plan.push(Step::PrepareVolumes);
        }
        return;
    }
    let Some((sandbox, pid)) = observed.sandbox() else {
        replace_sandbox(spec, observed, memory, now, plan);
        return;
    };
    if memory.network.as_ref().is_none_or(|(id, _)| *id != sandbox.id) {
        if !waits(memory, "network", now, plan) {
            plan.push(Step::AttachNetwork { sandbox: sandbox.id.clone(), pid });
        }
        return;
    }
    let context = Context { spec, observed, memory, now, sandbox: &sandbox.id };
    for added in spec.ephemeral_containers.iter().flatten() {
        // They run once; what they may join has to be there.
        match observed.latest(&added.name) {
            None if context.has_target(added) => {
                context.start(&as_container(added), 0, Duration::ZERO, plan);
            }
            Some(made) if made.state == State::Created => plan.push(Step::Resume { id: made.id.clone() }),
            _ => {}
        }
    }
    for init in spec.init_containers.iter().flatten() {
        if is_sidecar(init) {
            context.advance(init, Kind::Sidecar, plan);
            if !context.has_started(init) && !context.is_passed(init) {
                return;
            }
        } else if !context.init_is_done(init) {
            context.advance(init, Kind::Init, plan);
            return;
        }
    }
    for container in &spec.containers {
        context.advance(container, Kind::Usual, plan);
    }
}

/// What kind of container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Init,
    /// Started with the init containers, in order; runs as long as the usual ones.
    Sidecar,
    Usual,
}

/// The sandbox is not there (any more): end what ran in it, then make another.
fn replace_sandbox(spec: &PodSpec, observed: &Observed, memory: &Memory, now: Timestamp, plan: &mut Plan) {
    let mut running = observed.running().peekable();
    if running.peek().is_some() {
        for container in running {
            let why = "Pod sandbox changed, it will be killed and re-created.";
            kill::stop(spec, container, memory, now, &kill::Reason { why, grace: None }, plan);
        }
        return;
    }
    if waits(memory, "sandbox", now, plan) {
        return;
    }
    let attempt = observed.sandboxes.last().map_or(0, |s| s.attempt() + 1);
    plan.push(Step::CreateSandbox { attempt });
}

/// Sandboxes and containers that nobody asks about any more: all but the newest two of a name, so that of those that were replaced one is left
/// (kubelet's `MaxPerPodContainer`).
pub(super) fn remove_old(observed: &Observed, plan: &mut Plan) {
    let newest = observed.sandboxes.last().map(|s| &s.id);
    for sandbox in &observed.sandboxes {
        if Some(&sandbox.id) != newest {
            plan.push(Step::Remove { id: sandbox.id.clone() });
        }
    }
    for container in &observed.containers {
        let newer = observed
            .containers
            .iter()
            .filter(|c| c.name() == container.name() && c.attempt() > container.attempt())
            .count();
        if newer >= 2 && !container.is_running() {
            plan.push(Step::Remove { id: container.id.clone() });
        }
    }
}

struct Context<'a> {
    spec: &'a PodSpec,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    sandbox: &'a str,
}

impl Context<'_> {
    /// Whether a container after this one was started in this sandbox.
    fn is_passed(&self, init: &Definition) -> bool {
        let inits = self.spec.init_containers.iter().flatten();
        let later = inits.skip_while(|c| c.name != init.name).skip(1).chain(&self.spec.containers);
        later.filter_map(|c| self.observed.latest(&c.name)).any(|c| c.sandbox() == self.sandbox)
    }

    /// Whether a sidecar is so far that what comes after it may start.
    fn has_started(&self, sidecar: &Definition) -> bool {
        self.observed.latest(&sidecar.name).is_some_and(|c| {
            c.sandbox() == self.sandbox
                && c.is_running()
                && !self.memory.post_starting.contains(&c.id)
                && self.memory.probes.get(&c.id).is_some_and(|probed| probed.started)
        })
    }

    /// Whether the container runs whose processes one that is added wants to see.
    fn has_target(&self, added: &EphemeralContainer) -> bool {
        let target = added.target_container_name.as_deref().filter(|name| !name.is_empty());
        target.is_none_or(|name| self.observed.latest(name).is_some_and(Container::is_running))
    }

    /// An init container is done when it succeeded in this sandbox, or when a container after it was started in it.
    fn init_is_done(&self, init: &Definition) -> bool {
        self.is_passed(init)
            || self.observed.latest(&init.name).is_some_and(|c| {
                c.sandbox() == self.sandbox && matches!(c.state, State::Exited { code: 0, .. })
            })
    }

    fn advance(&self, definition: &Definition, kind: Kind, plan: &mut Plan) {
        let Some(latest) = self.observed.latest(&definition.name) else {
            self.start(definition, 0, Duration::ZERO, plan);
            return;
        };
        match &latest.state {
            State::Created => plan.push(Step::Resume { id: latest.id.clone() }),
            State::Running { .. } => self.watch(definition, latest, kind, plan),
            State::Exited { started, finished, code, .. } => {
                let elsewhere = latest.sandbox() != self.sandbox;
                let policy = self.spec.restart_policy.as_deref().unwrap_or("Always");
                let again = restarts(policy, *code)
                    || kind == Kind::Sidecar
                    || (kind == Kind::Init && (*code != 0 || elsewhere));
                if again {
                    let ran = finished.duration_since(*started);
                    self.restart(definition, latest, *finished, ran, plan);
                }
            }
        }
    }

    fn watch(&self, definition: &Definition, latest: &Container, kind: Kind, plan: &mut Plan) {
        let memory = self.memory;
        if let Some((why, grace)) = memory.condemned.get(&latest.id) {
            kill::stop(self.spec, latest, memory, self.now, &kill::Reason { why, grace: *grace }, plan);
        } else if latest.sandbox() != self.sandbox {
            let why = "Pod sandbox changed, it will be killed and re-created.";
            kill::stop(self.spec, latest, memory, self.now, &kill::Reason { why, grace: None }, plan);
        } else if kind != Kind::Init && latest.hash() != spec_hash(definition) {
            let why = format!("Container {} definition changed, will be restarted", definition.name);
            kill::stop(self.spec, latest, memory, self.now, &kill::Reason { why: &why, grace: None }, plan);
        }
    }

    fn restart(
        &self,
        definition: &Definition,
        latest: &Container,
        finished: Timestamp,
        ran: SignedDuration,
        plan: &mut Plan,
    ) {
        let (wait, next) = next_backoff(latest.backoff(), ran);
        let at = finished.checked_add(SignedDuration::try_from(wait).unwrap_or_default()).unwrap_or(finished);
        // A clock that was set back must not make the wait longer than it is.
        let longest = self.now.checked_add(SignedDuration::try_from(wait).unwrap_or_default());
        let at = longest.map_or(at, |longest| at.min(longest));
        if at > self.now {
            plan.wake_at(at);
            if !self.memory.announced.contains(&latest.id) {
                plan.push(Step::SayBackOff { container: definition.name.clone() });
            }
            return;
        }
        self.start(definition, latest.attempt() + 1, next, plan);
    }

    fn start(&self, definition: &Definition, attempt: u32, backoff: Duration, plan: &mut Plan) {
        let name = definition.name.clone();
        // Containers start one after the other: a postStart hook holds the next ones back.
        if !self.memory.post_starting.is_empty() {
            return;
        }
        if let Some(failure) = self.memory.failures.get(&name)
            && failure.at > self.now
        {
            plan.wake_at(failure.at);
            return;
        }
        match self.memory.pulls.get(&name) {
            None => plan.push(Step::EnsureImage { container: name }),
            Some(Pull::Running { .. }) => {}
            Some(Pull::Failed(retry)) if retry.at > self.now => plan.wake_at(retry.at),
            Some(Pull::Failed(_)) => plan.push(Step::EnsureImage { container: name }),
            Some(Pull::Present { .. }) => plan.push(Step::StartContainer {
                container: name,
                attempt,
                backoff: backoff.as_secs(),
                sandbox: self.sandbox.to_owned(),
            }),
        }
    }
}
