//! Statuses in the situations that users see.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use jiff::SignedDuration;
use oarlock_api::k8s::api::core::v1::ContainerState;
use serde_json::json;

use super::*;
use crate::plan::memory::{Probed, Pull, Retry};
use crate::plan::{PodEnd, spec_hash};
use crate::runtime::{Container, SANDBOX_NAME, State, label};

const NOW: i64 = 1_700_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn container(name: &str, attempt: u32, state: State) -> Container {
    let labels = BTreeMap::from([
        (label::CONTAINER.to_owned(), name.to_owned()),
        (label::ATTEMPT.to_owned(), attempt.to_string()),
        (label::BACKOFF.to_owned(), (attempt * 10).to_string()),
        (label::SANDBOX.to_owned(), "POD0".to_owned()),
    ]);
    Container {
        id: format!("{name}{attempt}"),
        labels,
        image: "i".into(),
        image_id: "sha256:1".into(),
        state,
        stop_signal: None,
    }
}

fn running() -> State {
    State::Running { started: at(-60), pid: 1 }
}

fn exited(ago: i64, code: i32, oom: bool) -> State {
    State::Exited { started: at(-60), finished: at(-ago), code, oom, error: String::new() }
}

struct Case {
    pod: Pod,
    found: Vec<Container>,
    memory: Memory,
}

impl Case {
    fn new(spec: serde_json::Value, found: Vec<Container>) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let mut memory = Memory { start_time: Some(at(-100)), ..Memory::default() };
        memory.network = Some(("POD0".to_owned(), Ipv4Addr::new(10, 0, 0, 1).into()));
        for one in &found {
            memory.probes.insert(one.id.clone(), Probed { started: true, ready: true });
        }
        let found = found.into_iter().chain([container(SANDBOX_NAME, 0, running())]).collect();
        Self { pod, found, memory }
    }

    fn status(&self, before: Option<&PodStatus>) -> PodStatus {
        let observed = Observed::new(self.found.clone());
        pod_status(&self.pod, &observed, &self.memory, Ipv4Addr::new(1, 1, 1, 1).into(), before, at(0))
    }
}

fn plain(policy: &str) -> serde_json::Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]})
}

fn conditions(status: &PodStatus) -> String {
    let of = |c: &PodCondition| {
        let reason = c.reason.as_deref().map(|r| format!("({r})")).unwrap_or_default();
        format!("{}={}{reason}", c.type_, c.status)
    };
    status.conditions.iter().flatten().map(of).collect::<Vec<_>>().join(" ")
}

fn state(status: &PodStatus) -> ContainerState {
    status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap()
}

#[test]
fn a_running_pod_is_ready_and_keeps_the_times_of_its_conditions() {
    let mut case = Case::new(plain("Always"), vec![container("a", 0, running())]);
    let status = case.status(None);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(
        conditions(&status),
        "PodReadyToStartContainers=True Initialized=True Ready=True ContainersReady=True"
    );
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let mut before = status.clone();
    for condition in before.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(at(-30)));
    }
    case.memory.probes.get_mut("a0").unwrap().ready = false;
    let after = case.status(Some(&before));
    let times: Vec<_> = after
        .conditions
        .unwrap()
        .into_iter()
        .map(|c| (c.type_, c.last_transition_time.unwrap().0 == at(0)))
        .collect();
    let changed: Vec<_> = times.iter().filter(|(_, new)| *new).map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(changed, ["Ready", "ContainersReady"]);
}

#[test]
fn a_new_agent_keeps_the_address_until_it_has_looked_at_the_network() {
    let mut case = Case::new(plain("Always"), vec![container("a", 0, running())]);
    let before = case.status(None);
    case.memory.network = None;
    case.memory.former_ip = Some(Ipv4Addr::new(10, 0, 0, 1).into());
    assert_eq!(case.status(Some(&before)), before, "nothing has changed: no client may lose its pod");
    case.found.retain(|container| container.name() != SANDBOX_NAME);
    let status = case.status(Some(&before));
    assert_eq!(status.pod_ip, None, "the sandbox is gone, and the address with it");
    assert!(conditions(&status).contains("PodReadyToStartContainers=False"));
}

#[test]
fn before_anything_runs_the_reason_says_what_is_awaited() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let case = Case::new(spec, vec![]);
    let status = case.status(None);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(state(&status).waiting.unwrap().reason.as_deref(), Some("PodInitializing"));
    assert!(conditions(&status).contains("Initialized=False(ContainersNotInitialized)"));

    let mut case = Case::new(plain("Always"), vec![]);
    assert_eq!(state(&case.status(None)).waiting.unwrap().reason.as_deref(), Some("ContainerCreating"));
    let retry = Retry::after(None, "ErrImagePull", "no".into(), at(0));
    case.memory.pulls.insert("a".into(), Pull::Failed(retry));
    let status = case.status(None);
    assert_eq!(state(&status).waiting.unwrap().reason.as_deref(), Some("ErrImagePull"));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn a_crash_loop_shows_the_wait_and_what_happened() {
    let found = vec![container("a", 1, exited(50, 1, false)), container("a", 2, exited(3, 137, true))];
    let status = Case::new(plain("Always"), found).status(None);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let waiting = state(&status).waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(waiting.message.as_deref(), Some("back-off 20s restarting failed container=a pod=p_d(u)"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let last = container.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.reason.as_deref(), last.exit_code), (Some("OOMKilled"), 137));
    assert_eq!(container.restart_count, 2);
    assert!(conditions(&status).contains("Ready=False(ContainersNotReady)"));
}

#[test]
fn pods_that_are_over_say_how() {
    for (policy, code, phase, reason) in [
        ("Never", 0, "Succeeded", "PodCompleted"),
        ("Never", 3, "Failed", "PodFailed"),
        ("OnFailure", 0, "Succeeded", "PodCompleted"),
        ("OnFailure", 3, "Running", "ContainersNotReady"),
    ] {
        let status = Case::new(plain(policy), vec![container("a", 0, exited(3, code, false))]).status(None);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {code}");
        assert!(conditions(&status).contains(&format!(" Ready=False({reason})")), "{}", conditions(&status));
    }
    let mut case = Case::new(plain("Always"), vec![container("a", 0, running())]);
    case.memory.end = Some(PodEnd::deadline_exceeded());
    let status = case.status(None);
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    case.memory.was_over = true;
    let before = PodStatus { phase: Some("Failed".into()), ..PodStatus::default() };
    assert_eq!(case.status(Some(&before)), before);
}

#[test]
fn a_post_start_hook_and_a_startup_probe_hold_readiness_back() {
    let mut case = Case::new(plain("Always"), vec![container("a", 0, running())]);
    case.memory.post_starting.insert("a0".into());
    let is = |status: &PodStatus| {
        let one = &status.container_statuses.as_ref().unwrap()[0];
        (one.started, one.ready)
    };
    assert_eq!(is(&case.status(None)), (Some(false), false));
    case.memory.post_starting.clear();
    case.memory.probes.insert("a0".into(), Probed { started: false, ready: true });
    assert_eq!(is(&case.status(None)), (Some(false), false));
}

#[test]
fn long_waits_are_written_as_go_writes_them() {
    assert_eq!(containers::go_duration(40), "40s");
    assert_eq!(containers::go_duration(160), "2m40s");
    let waited = SignedDuration::from_mins(5);
    assert_eq!(containers::go_duration(waited.as_secs().unsigned_abs()), "5m0s");
    let definition = oarlock_api::k8s::api::core::v1::Container::default();
    assert_eq!(spec_hash(&definition).len(), 16);
}

#[test]
fn sidecars_count_for_readiness_and_hold_the_end_back() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}],
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}]});
    let mut case = Case::new(spec.clone(), vec![container("s", 0, running())]);
    let initialized = |case: &Case| conditions(&case.status(None)).contains("Initialized=True");
    assert!(initialized(&case));
    case.memory.probes.insert("s0".into(), Probed { started: false, ready: false });
    assert!(!initialized(&case));
    let mut case = Case::new(spec.clone(), vec![container("s", 0, running()), container("a", 0, running())]);
    case.memory.probes.insert("s0".into(), Probed { started: true, ready: false });
    let status = case.status(None);
    let unready = status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(unready.message.as_deref(), Some("containers with unready status: [s]"));
    let over = |sidecar| {
        let found = vec![container("s", 0, sidecar), container("a", 0, exited(3, 0, false))];
        Case::new(spec.clone(), found).status(None).phase
    };
    assert_eq!(over(running()).as_deref(), Some("Running"));
    assert_eq!(over(exited(1, 137, false)).as_deref(), Some("Succeeded"), "however it ended");
}

#[test]
fn a_pod_is_ready_when_its_gates_are_open() {
    let mut spec = plain("Always");
    spec["readinessGates"] = json!([{"conditionType": "example.com/lb"}]);
    let mut case = Case::new(spec, vec![container("a", 0, running())]);
    let ready = |case: &Case| {
        let status = case.status(None);
        let of = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
        (of.status, of.reason.unwrap_or_default(), of.message.unwrap_or_default())
    };
    let closed =
        |message: &str| ("False".to_owned(), "ReadinessGatesNotReady".to_owned(), message.to_owned());
    let message = "corresponding condition of pod readiness gate \"example.com/lb\" does not exist.";
    assert_eq!(ready(&case), closed(message));
    let mut say = |state: &str| {
        case.pod.status =
            serde_json::from_value(json!({"conditions": [{"type": "example.com/lb", "status": state}]})).ok();
        ready(&case)
    };
    let message = "the status of pod readiness gate \"example.com/lb\" is not \"True\", but False";
    assert_eq!(say("False"), closed(message));
    assert_eq!(say("True").0, "True");
}

#[test]
fn what_was_added_for_debugging_is_shown_apart_and_holds_nothing_back() {
    let mut spec = plain("Always");
    spec["ephemeralContainers"] = json!([{"name": "d", "image": "i"}]);
    let status = Case::new(spec, vec![container("a", 0, running()), container("d", 0, exited(3, 1, false))]);
    let status = status.status(None);
    let added = &status.ephemeral_container_statuses.as_ref().unwrap()[0];
    assert_eq!(added.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert!(conditions(&status).contains(" Ready=True"));
}
