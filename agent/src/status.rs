//! What a pod's status is: pure, from what was observed and remembered.
//!
//! In: pod, containers, memory, time. Out: `v1.PodStatus` with Kubernetes' own reasons. Times of conditions are kept from the
//! status before as long as the condition does not change.

mod containers;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::{
    self, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use oarlock_api::k8s::apimachinery::pkg::apis::meta::v1::Time;

use crate::dual_ip::DualIp;
use crate::plan::spec::qos_class;
use crate::plan::{Course, EndKind, Memory, Observed, as_container, course, is_sidecar};
use crate::runtime::Container;
use containers::Kind;

/// The status to report. `before` is the one reported last, or the one that the control plane holds.
pub(crate) fn pod_status(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    host: DualIp,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> PodStatus {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    if memory.was_over
        && let Some(before) = before
    {
        return before.clone();
    }
    let look = containers::Look { pod, spec, observed, memory, now };
    let kind = |c: &v1::Container| if is_sidecar(c) { Kind::Sidecar } else { Kind::Init };
    let inits: Vec<_> = spec.init_containers.iter().flatten().map(|c| look.status(c, kind(c))).collect();
    let all: Vec<_> = spec.containers.iter().map(|c| look.status(c, Kind::Usual)).collect();
    let added = spec.ephemeral_containers.iter().flatten();
    let added: Vec<_> = added.map(|c| look.status(&as_container(c), Kind::Added)).collect();
    let phase = phase(spec, observed, memory, &inits, &all);
    let ips = addresses(observed, memory);
    let sidecars: Vec<&str> =
        spec.init_containers.iter().flatten().filter(|c| is_sidecar(c)).map(|c| &*c.name).collect();
    let statuses = Statuses { inits: &inits, all: &all, sidecars: &sidecars };
    let conditions = conditions(pod, observed, memory, &statuses, phase);
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: memory.end.as_ref().map(|e| e.reason.clone()),
        message: memory.end.as_ref().map(|end| {
            let said = if end.kind == EndKind::Rejected { "Pod was rejected: " } else { "" };
            format!("{said}{}", end.message)
        }),
        host_ip: Some(host.v4.to_string()),
        host_ips: Some(host.all().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.map(|ips| ips.v4.to_string()),
        pod_ips: ips.map(|ips| ips.all().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(qos_class(spec).to_owned()),
        start_time: memory.start_time.map(time),
        conditions: Some(with_times(conditions, before, now)),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(all),
        ephemeral_container_statuses: (!added.is_empty()).then_some(added),
        observed_generation: None,
        ..PodStatus::default()
    }
}

/// The pod's addresses; those known from before this agent hold as long as its sandbox does.
fn addresses(observed: &Observed, memory: &Memory) -> Option<DualIp> {
    let former = memory.former_ip.filter(|_| observed.sandbox().is_some());
    memory.network.as_ref().map(|(_, ip)| *ip).or(former)
}

/// Kubernetes writes whole seconds.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn phase(
    spec: &PodSpec,
    observed: &Observed,
    memory: &Memory,
    inits: &[ContainerStatus],
    all: &[ContainerStatus],
) -> &'static str {
    if memory.end.is_some() {
        return "Failed";
    }
    if let Course::Over { failed } = course(spec, observed, memory) {
        if observed.containers.iter().any(Container::is_running) {
            // Sidecars have to end yet.
            return "Running";
        }
        return if failed { "Failed" } else { "Succeeded" };
    }
    let never_ran = |s: &ContainerStatus| {
        let state = s.state.as_ref();
        state.is_some_and(|state| state.waiting.is_some())
            && s.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
    };
    if inits.iter().any(|s| !s.ready) && all.iter().all(never_ran) || all.iter().any(never_ran) {
        return "Pending";
    }
    "Running"
}

/// The containers that a pod's conditions are about.
struct Statuses<'a> {
    inits: &'a [ContainerStatus],
    all: &'a [ContainerStatus],
    /// The names of those among `inits` that run on.
    sidecars: &'a [&'a str],
}

impl Statuses<'_> {
    fn is_sidecar(&self, status: &ContainerStatus) -> bool {
        self.sidecars.contains(&&*status.name)
    }

    /// What has to be done or started before the usual containers are; once one of those was, that is history.
    fn not_initialized(&self) -> String {
        let ran = |s: &ContainerStatus| {
            let state = s.state.as_ref();
            state.is_some_and(|s| s.running.is_some() || s.terminated.is_some()) || s.last_state.is_some()
        };
        if self.all.iter().any(ran) {
            return String::new();
        }
        names(self.inits.iter().filter(|s| match self.is_sidecar(s) {
            true => s.started != Some(true),
            false => !s.ready,
        }))
    }

    fn unready(&self) -> String {
        let sidecars = self.inits.iter().filter(|s| self.is_sidecar(s));
        names(sidecars.chain(self.all).filter(|s| !s.ready))
    }
}

fn names<'s>(statuses: impl Iterator<Item = &'s ContainerStatus>) -> String {
    statuses.map(|s| s.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// What keeps a pod from being ready whose containers are (KEP-580).
fn closed_gates(pod: &Pod) -> String {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let closed = gates.filter_map(|gate| {
        let kind = &gate.condition_type;
        match conditions.iter().find(|condition| condition.type_ == *kind) {
            None => Some(format!("corresponding condition of pod readiness gate {kind:?} does not exist.")),
            Some(condition) if condition.status == "True" => None,
            Some(condition) => Some(format!(
                "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                condition.status
            )),
        }
    });
    closed.collect::<Vec<_>>().join(", ")
}

fn conditions(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    statuses: &Statuses<'_>,
    phase: &str,
) -> Vec<PodCondition> {
    let condition = |kind: &str, status: bool| PodCondition {
        type_: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        ..PodCondition::default()
    };
    let because = |kind: &str, reason: &str, message: String| PodCondition {
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then_some(message),
        ..condition(kind, false)
    };
    let networked = match (&memory.network, observed.sandbox()) {
        (Some((id, _)), Some((sandbox, _))) => *id == sandbox.id,
        (None, Some(_)) => memory.former_ip.is_some(),
        (_, None) => false,
    };
    let not_initialized = statuses.not_initialized();
    let initialized = match (phase, not_initialized.is_empty()) {
        ("Succeeded", _) => PodCondition {
            status: "True".to_owned(),
            ..because("Initialized", "PodCompleted", String::new())
        },
        (_, true) => condition("Initialized", true),
        (_, false) => because(
            "Initialized",
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{not_initialized}]"),
        ),
    };
    let unready = statuses.unready();
    let gates = closed_gates(pod);
    let readiness = |kind: &str| match (phase, unready.is_empty()) {
        ("Succeeded", _) => because(kind, "PodCompleted", String::new()),
        ("Failed", _) => because(kind, "PodFailed", String::new()),
        (_, true) if not_initialized.is_empty() => match kind {
            "Ready" if !gates.is_empty() => because(kind, "ReadinessGatesNotReady", gates.clone()),
            _ => condition(kind, true),
        },
        _ => because(kind, "ContainersNotReady", format!("containers with unready status: [{unready}]")),
    };
    let evicted = memory.end.iter().filter(|end| end.kind == EndKind::Evicted).map(|end| PodCondition {
        status: "True".to_owned(),
        ..because("DisruptionTarget", "TerminationByKubelet", end.message.clone())
    });
    let usual = [
        condition("PodReadyToStartContainers", networked),
        initialized,
        readiness("Ready"),
        readiness("ContainersReady"),
    ];
    usual.into_iter().chain(evicted).collect()
}

fn with_times(
    mut conditions: Vec<PodCondition>,
    before: Option<&PodStatus>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let old = before.and_then(|b| b.conditions.as_deref()).unwrap_or_default();
    for condition in &mut conditions {
        let same = old.iter().find(|o| o.type_ == condition.type_ && o.status == condition.status);
        let kept = same.and_then(|o| o.last_transition_time.clone());
        condition.last_transition_time = Some(kept.unwrap_or_else(|| time(now)));
    }
    conditions
}
