//! Plans endings: one container, the rest of a pod that is over, everything of a pod that is deleted.

use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::{Pod, PodSpec};

use super::{Deletion, Memory, Observed, Plan, Step, StopPhase, definition, is_sidecar};
use crate::runtime::{Container, label};

/// Why a container ends, and how long it may take if that is not what the pod says.
pub(super) struct Reason<'a> {
    pub(super) why: &'a str,
    pub(super) grace: Option<u64>,
}

/// The next step of ending one container: hook, SIGTERM, grace period, SIGKILL.
pub(super) fn stop(
    spec: &PodSpec,
    container: &Container,
    memory: &Memory,
    now: Timestamp,
    reason: &Reason<'_>,
    plan: &mut Plan,
) {
    let id = container.id.clone();
    let Some(stop) = memory.stops.get(&id) else {
        let grace = reason.grace.unwrap_or_else(|| grace(spec, container));
        let why = reason.why.to_owned();
        plan.push(Step::BeginStop { id, container: container.name().to_owned(), why, grace });
        return;
    };
    let deadline = memory.deletion.as_ref().map_or(stop.deadline, |d| d.deadline.min(stop.deadline));
    match stop.phase {
        _ if deadline <= now => plan.push(Step::Kill { id }),
        StopPhase::PreStop | StopPhase::Asked => plan.wake_at(deadline),
        StopPhase::Ready => {
            plan.push(Step::Terminate { id });
            plan.wake_at(deadline);
        }
    }
}

/// The grace period of the pod; its object may be gone, so the container's label has it too.
fn grace(spec: &PodSpec, container: &Container) -> u64 {
    let labelled = || container.labels.get(label::GRACE).and_then(|g| g.parse().ok());
    let spec = spec.termination_grace_period_seconds.and_then(|g| u64::try_from(g).ok());
    spec.or_else(labelled).unwrap_or(30)
}

/// Whose turn it is to end: everybody but the sidecars first, then those from the last to the first, each when the ones after it
/// have ended (KEP-753).
fn leaving<'o>(spec: &PodSpec, observed: &'o Observed) -> Vec<&'o Container> {
    let sidecars: Vec<&str> =
        spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| &*c.name).collect();
    let first: Vec<&Container> = observed.running().filter(|c| !sidecars.contains(&c.name())).collect();
    if !first.is_empty() {
        return first;
    }
    let mut last = sidecars.iter().rev();
    let of = |name: &&str| observed.running().filter(|c| c.name() == *name).collect::<Vec<_>>();
    last.find_map(|name| Some(of(name)).filter(|found| !found.is_empty())).unwrap_or_default()
}

/// Ends what runs of a pod that is over. Its dead containers stay, for their logs; what it kept in its volumes does not, as kubelet
/// has it (`keepTerminatedPodVolumes`).
pub(super) fn wind_down(
    spec: &PodSpec,
    observed: &Observed,
    memory: &Memory,
    now: Timestamp,
    plan: &mut Plan,
) {
    super::start::remove_old(observed, plan);
    for container in leaving(spec, observed) {
        let why = format!("Stopping container {}", container.name());
        let grace = memory.end.as_ref().and_then(|end| end.grace);
        stop(spec, container, memory, now, &Reason { why: &why, grace }, plan);
    }
    if observed.running().next().is_some() {
        return;
    }
    end_sandboxes(observed, memory, plan);
    if !memory.network_removed || observed.sandboxes.iter().any(Container::is_running) {
        return;
    }
    if !memory.was_over {
        plan.push(Step::Settle);
        return;
    }
    if memory.end.as_ref().is_some_and(|end| end.frees_disk) {
        for container in observed.containers.iter().chain(&observed.sandboxes) {
            plan.push(Step::Remove { id: container.id.clone() });
        }
    }
    if !memory.volumes_removed {
        plan.push(Step::RemoveVolumes);
    }
}

/// Takes the network away, then the sandboxes. In this order: nothing of a pod outlives its address.
fn end_sandboxes(observed: &Observed, memory: &Memory, plan: &mut Plan) {
    if !memory.network_removed {
        plan.push(Step::DetachNetwork);
    }
    for sandbox in observed.sandboxes.iter().filter(|s| s.is_running()) {
        plan.push(Step::Kill { id: sandbox.id.clone() });
    }
}

/// Ends and removes everything.
pub(super) fn delete(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    deletion: &Deletion,
    now: Timestamp,
    plan: &mut Plan,
) {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let left = deletion.deadline.duration_since(now).max(SignedDuration::ZERO);
    let left = u64::try_from(left.as_secs() + i64::from(left.subsec_nanos() > 0)).unwrap_or(0);
    for container in leaving(spec, observed) {
        let why = format!("Stopping container {}", container.name());
        let hooked = definition(spec, container.name()).is_some();
        let reason =
            Reason { why: &why, grace: Some(if hooked { left } else { left.min(grace(spec, container)) }) };
        stop(spec, container, memory, now, &reason, plan);
    }
    if observed.running().next().is_some() {
        return;
    }
    if observed.sandboxes.iter().any(Container::is_running) {
        end_sandboxes(observed, memory, plan);
        return;
    }
    if !memory.network_removed {
        plan.push(Step::DetachNetwork);
    }
    for container in observed.containers.iter().chain(&observed.sandboxes) {
        plan.push(Step::Remove { id: container.id.clone() });
    }
    if !memory.volumes_removed {
        plan.push(Step::RemoveVolumes);
        return;
    }
    if memory.network_removed && observed.containers.is_empty() && observed.sandboxes.is_empty() {
        plan.push(Step::Gone);
    }
}
