//! What a pod's status is: pure, from what was observed and remembered.
//!
//! In: pod, containers, memory, time. Out: `v1.PodStatus` with Kubernetes' own reasons. Times of conditions are kept from the
//! status before as long as the condition does not change.

mod containers;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::{
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use oarlock_api::k8s::apimachinery::pkg::apis::meta::v1::Time;

use crate::dual_ip::DualIp;
use crate::plan::spec::qos_class;
use crate::plan::{Course, Memory, Observed, course};

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
    let inits: Vec<_> = spec.init_containers.iter().flatten().map(|c| look.status(c, true)).collect();
    let all: Vec<_> = spec.containers.iter().map(|c| look.status(c, false)).collect();
    let phase = phase(spec, observed, memory, &inits, &all);
    let ips = addresses(observed, memory);
    let conditions = conditions(observed, memory, &inits, &all, phase);
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: memory.end.as_ref().map(|e| e.reason.clone()),
        message: memory.end.as_ref().map(|e| e.message.clone()),
        host_ip: Some(host.v4.to_string()),
        host_ips: Some(host.all().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: ips.map(|ips| ips.v4.to_string()),
        pod_ips: ips.map(|ips| ips.all().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        qos_class: Some(qos_class(spec).to_owned()),
        start_time: memory.start_time.map(time),
        conditions: Some(with_times(conditions, before, now)),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(all),
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

fn conditions(
    observed: &Observed,
    memory: &Memory,
    inits: &[ContainerStatus],
    all: &[ContainerStatus],
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
    let names = |list: &[ContainerStatus]| {
        let names: Vec<_> = list.iter().filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
        names.join(" ")
    };
    let networked = match (&memory.network, observed.sandbox()) {
        (Some((id, _)), Some((sandbox, _))) => *id == sandbox.id,
        (None, Some(_)) => memory.former_ip.is_some(),
        (_, None) => false,
    };
    let not_initialized = names(inits);
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
    let unready = names(all);
    let readiness = |kind: &str| match (phase, unready.is_empty()) {
        ("Succeeded", _) => because(kind, "PodCompleted", String::new()),
        ("Failed", _) => because(kind, "PodFailed", String::new()),
        (_, true) if not_initialized.is_empty() => condition(kind, true),
        _ => because(kind, "ContainersNotReady", format!("containers with unready status: [{unready}]")),
    };
    vec![
        condition("PodReadyToStartContainers", networked),
        initialized,
        readiness("Ready"),
        readiness("ContainersReady"),
    ]
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
