//! A runtime that is only a list: executes steps as the worker would, with faults on request, and a clock of its own.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};

use crate::plan::memory::Probed;
use crate::plan::*;
use crate::runtime::{Container, Image, SANDBOX_NAME, State, label};

pub(super) struct World {
    pod: Pod,
    observed: Observed,
    memory: Memory,
    now: Timestamp,
    history: Vec<String>,
    started: BTreeMap<String, u32>,
    fails: bool,
    stubborn: bool,
    slow: Option<String>,
    gone: bool,
    ids: u32,
    deletion: Option<Deletion>,
}

impl World {
    pub(super) fn new(spec: Value) -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec});
        let now = Timestamp::from_second(1_000_000).unwrap();
        Self {
            pod: serde_json::from_value(pod).unwrap(),
            observed: Observed::default(),
            memory: Memory { start_time: Some(now), ..Memory::default() },
            now,
            history: Vec::new(),
            started: BTreeMap::new(),
            fails: false,
            stubborn: false,
            slow: None,
            gone: false,
            ids: 0,
            deletion: None,
        }
    }

    pub(super) fn observed(&self) -> &Observed {
        &self.observed
    }

    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(super) fn spec(&self) -> &PodSpec {
        self.pod.spec.as_ref().unwrap()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) fn history(&self) -> String {
        self.history.join("; ")
    }

    pub(super) fn forget_history(&mut self) {
        self.history.clear();
    }

    pub(super) fn starts_of(&self, name: &str) -> u32 {
        self.started.get(name).copied().unwrap_or(0)
    }

    pub(super) fn runs(&self, name: &str) -> bool {
        self.observed.latest(name).is_some_and(Container::is_running)
    }

    pub(super) fn change(&mut self, spec: Value) {
        self.pod.spec = Some(serde_json::from_value(spec).unwrap());
    }

    pub(super) fn ends(&mut self, end: PodEnd) {
        self.memory.end = Some(end);
    }

    pub(super) fn was_over(&mut self) {
        self.memory.was_over = true;
    }

    /// Containers ignore SIGTERM.
    pub(super) fn stubborn(&mut self) {
        self.stubborn = true;
    }

    /// The startup probe of this container has not succeeded yet.
    pub(super) fn starts_slowly(&mut self, name: &str) {
        self.slow = Some(name.to_owned());
    }

    pub(super) fn has_started(&mut self, name: &str) {
        let id = self.observed.latest(name).unwrap().id.clone();
        self.memory.probes.insert(id, Probed { started: true, ready: true });
    }

    pub(super) fn next_step_fails(&mut self) {
        self.fails = true;
    }

    pub(super) fn agent_restarts(&mut self) {
        self.memory =
            Memory { start_time: Some(self.now), deletion: self.deletion.clone(), ..Memory::default() };
        // As a worker has it of containers that it finds.
        for container in self.observed.containers.iter().filter(|c| c.is_running()) {
            self.memory.probes.insert(container.id.clone(), Probed { started: true, ready: true });
        }
    }

    pub(super) fn condemn(&mut self, name: &str, why: &str, grace: Option<u64>) {
        let id = self.observed.latest(name).filter(|c| c.is_running()).map(|c| c.id.clone());
        if let Some(id) = id {
            self.memory.condemned.insert(id, (why.to_owned(), grace));
        }
    }

    pub(super) fn delete(&mut self, grace: i64) {
        let deadline = self.now + SignedDuration::from_secs(grace);
        self.deletion = Some(Deletion { deadline });
        self.memory.deletion = self.deletion.clone();
    }

    pub(super) fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub(super) fn exits(&mut self, name: &str, code: i32) {
        let id = self.observed.latest(name).filter(|c| c.is_running()).map(|c| c.id.clone());
        if let Some(id) = id {
            self.end(&id, code);
        }
    }

    pub(super) fn sandbox_dies(&mut self) {
        if let Some(id) = self.observed.sandbox().map(|(s, _)| s.id.clone()) {
            self.end(&id, 137);
        }
    }

    fn end(&mut self, id: &str, code: i32) {
        let finished = self.now;
        for container in self.observed.containers.iter_mut().chain(&mut self.observed.sandboxes) {
            if let (true, State::Running { started, .. }) = (container.id == id, &container.state) {
                let started = *started;
                container.state = State::Exited { started, finished, code, oom: false, error: String::new() };
            }
        }
    }

    /// One turn of a worker; true if it did something.
    pub(super) fn turn(&mut self) -> bool {
        if self.gone {
            return false;
        }
        let plan = plan(&self.pod, &self.observed, &self.memory, self.now);
        let mut did = false;
        for step in plan.steps {
            did = true;
            if std::mem::take(&mut self.fails) {
                break;
            }
            self.execute(step);
        }
        did
    }

    /// Turns until nothing is to be done now.
    pub(super) fn settle(&mut self) {
        for _ in 0..50 {
            if !self.turn() {
                return;
            }
        }
        panic!("does not settle: {}", self.history());
    }

    /// Turns, with time, for so many seconds.
    pub(super) fn run(&mut self, seconds: i64) {
        for _ in 0..seconds {
            self.settle();
            self.pass(1);
        }
        self.settle();
    }

    pub(super) fn run_until_started(&mut self, name: &str) {
        for _ in 0..1000 {
            self.settle();
            if self.runs(name) {
                return;
            }
            self.pass(1);
        }
        panic!("{name} is never started");
    }

    fn note(&mut self, text: String) {
        self.history.push(text);
    }

    fn name_of(&self, id: &str) -> String {
        let mut all = self.observed.containers.iter().chain(&self.observed.sandboxes);
        all.find(|c| c.id == id).map(|c| c.name().to_owned()).unwrap_or_default()
    }

    fn make(&mut self, name: &str, attempt: u32, more: &[(&str, String)]) {
        self.ids += 1;
        let mut labels = BTreeMap::from([
            (label::CONTAINER.to_owned(), name.to_owned()),
            (label::ATTEMPT.to_owned(), attempt.to_string()),
        ]);
        labels.extend(more.iter().map(|(k, v)| ((*k).to_owned(), v.clone())));
        let container = Container {
            id: format!("id{}", self.ids),
            labels,
            image: "i".to_owned(),
            image_id: "sha256:1".to_owned(),
            state: State::Running { started: self.now, pid: 1 },
            stop_signal: None,
        };
        let list =
            if name == SANDBOX_NAME { &mut self.observed.sandboxes } else { &mut self.observed.containers };
        assert!(!list.iter().any(|c| c.name() == name && c.is_running()), "{name} runs twice");
        assert!(
            !list.iter().any(|c| c.name() == name && c.attempt() == attempt),
            "{name} {attempt} made twice"
        );
        list.push(container);
        *self.started.entry(name.to_owned()).or_default() += 1;
    }

    fn execute(&mut self, step: Step) {
        match step {
            Step::PrepareVolumes => {
                self.note("volumes".into());
                self.memory.volumes_ready = true;
            }
            Step::CreateSandbox { attempt } => {
                self.note(format!("sandbox {attempt}"));
                self.make(SANDBOX_NAME, attempt, &[]);
                self.memory.network_removed = false;
            }
            Step::AttachNetwork { sandbox, .. } => {
                self.note("attach".into());
                self.memory.network = Some((sandbox, std::net::Ipv4Addr::LOCALHOST.into()));
                self.memory.network_removed = false;
            }
            Step::EnsureImage { container } => {
                self.note(format!("image {container}"));
                self.memory.pulls.insert(container, Pull::Present { image: Image::default() });
            }
            Step::StartContainer { container, attempt, backoff, sandbox } => {
                self.note(format!("start {container} {attempt}"));
                let current = self.observed.sandbox().map(|(s, _)| s.id.clone());
                assert_eq!(current.as_deref(), Some(sandbox.as_str()), "joins a sandbox that runs");
                let hash = spec_hash(&definition(self.spec(), &container).unwrap());
                let more =
                    [(label::SANDBOX, sandbox), (label::BACKOFF, backoff.to_string()), (label::HASH, hash)];
                self.make(&container, attempt, &more);
                self.memory.pulls.remove(&container);
                let id = self.observed.latest(&container).unwrap().id.clone();
                let started = self.slow.as_ref() != Some(&container);
                self.memory.probes.insert(id, Probed { started, ready: started });
            }
            Step::BeginStop { id, container, grace, .. } => {
                self.note(format!("stop {container}"));
                let deadline = self.now + SignedDuration::from_secs(i64::try_from(grace).unwrap());
                self.memory.stops.insert(id, Stop { phase: StopPhase::Ready, deadline });
            }
            Step::Terminate { id } => {
                self.note(format!("term {}", self.name_of(&id)));
                self.memory.stops.get_mut(&id).unwrap().phase = StopPhase::Asked;
                if !self.stubborn {
                    self.end(&id, 143);
                }
            }
            Step::Kill { id } => {
                self.note(format!("kill {}", self.name_of(&id)));
                self.end(&id, 137);
            }
            Step::Remove { id } => {
                self.note(format!("remove {}", self.name_of(&id)));
                let kept = |c: &Container| c.id != id;
                self.observed.containers.retain(kept);
                self.observed.sandboxes.retain(kept);
            }
            Step::DetachNetwork => {
                self.note("detach".into());
                assert!(
                    !self.observed.containers.iter().any(Container::is_running),
                    "nothing outlives its address"
                );
                self.memory.network_removed = true;
            }
            Step::RemoveVolumes => {
                self.note("files".into());
                self.memory.volumes_removed = true;
            }
            Step::End(end) => self.memory.end = Some(end),
            Step::Settle => {
                self.note("settle".into());
                self.memory.was_over = true;
            }
            Step::SayBackOff { container } => {
                let id = self.observed.latest(&container).unwrap().id.clone();
                assert!(self.memory.announced.insert(id), "said once");
            }
            Step::Resume { .. } => unreachable!("this world starts what it makes"),
            Step::Gone => {
                self.note("gone".into());
                self.gone = true;
            }
        }
    }
}
