//! Probes: startup, then liveness and readiness, one job each; only changes of their verdict reach the worker.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::{Container, Pod, Probe};
use tokio::sync::mpsc;

use super::worker::{Message, Worker};
use super::{Shared, dial, report};
use crate::plan::definition;
use crate::runtime::State;

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The startup probe succeeded.
    Started,
    /// The readiness probe changed its mind.
    Ready(bool),
    /// The container has to be ended.
    Condemned { why: String, grace: Option<u64> },
}

/// Counts successes and failures against their thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counter {
    success: u32,
    failure: u32,
    run: u32,
    last: Option<bool>,
}

impl Counter {
    pub(super) fn new(probe: &Probe) -> Self {
        let at_least_one =
            |n: Option<i32>, default| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(default).max(1);
        let (success, failure) =
            (at_least_one(probe.success_threshold, 1), at_least_one(probe.failure_threshold, 3));
        Self { success, failure, run: 0, last: None }
    }

    /// The verdict after one more result, once there are enough equal ones in a row.
    pub(super) fn count(&mut self, good: bool) -> Option<bool> {
        self.run = if self.last == Some(good) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(good);
        let enough = if good { self.success } else { self.failure };
        (self.run >= enough).then_some(good)
    }
}

/// Starts the probes that should run, ends those that should not.
pub(super) fn arrange(worker: &mut Worker) {
    let mut wanted = Vec::new();
    let memory = &worker.memory;
    let spec = worker.pod.spec.as_ref();
    for container in worker.observed.containers.iter() {
        let State::Running { started, .. } = container.state else { continue };
        let Some(of) = spec.and_then(|s| definition(s, container.name())) else { continue };
        let id = &container.id;
        if memory.post_starting.contains(id) || memory.network.is_none() {
            continue;
        }
        let leaving =
            memory.stops.contains_key(id) || memory.condemned.contains_key(id) || memory.deletion.is_some();
        let is_started = memory.probes.get(id).is_some_and(|p| p.started);
        let kinds = [
            ("Startup", &of.startup_probe, !is_started && !leaving),
            ("Liveness", &of.liveness_probe, is_started && !leaving),
            // Readiness is asked to the end: a pod that goes must stop getting traffic when it says so.
            ("Readiness", &of.readiness_probe, is_started),
        ];
        for (kind, probe, now) in kinds {
            if let (Some(probe), true) = (probe, now) {
                wanted.push((id.clone(), kind, probe.clone(), Container::clone(&of), started));
            }
        }
    }
    worker.probes.retain(|(id, kind), token| {
        let keep = wanted.iter().any(|(i, k, ..)| i == id && k == kind);
        if !keep {
            token.cancel();
        }
        keep
    });
    for (id, kind, probe, definition, started) in wanted {
        let key = (id.clone(), kind);
        if worker.probes.contains_key(&key) {
            continue;
        }
        let token = worker.jobs.child_token();
        worker.probes.insert(key, token.clone());
        let prober = Prober {
            shared: Arc::clone(&worker.shared),
            pod: Arc::clone(&worker.pod),
            sender: worker.sender.clone(),
            ip: worker.place().pod_ip(),
            ready: worker.memory.probes.get(&id).is_some_and(|p| p.ready),
            id,
            kind,
            probe,
            definition,
            started,
        };
        worker.shared.tasks.job("pod/probe", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = prober.run() => {}
            }
        });
    }
}

struct Prober {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    sender: mpsc::Sender<Message>,
    ip: String,
    ready: bool,
    id: String,
    kind: &'static str,
    probe: Probe,
    definition: Container,
    started: Timestamp,
}

impl Prober {
    async fn run(self) {
        let seconds = |n: Option<i32>, default| {
            Duration::from_secs(n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default))
        };
        let delay = seconds(self.probe.initial_delay_seconds, 0);
        let age = Timestamp::now().duration_since(self.started);
        let age = if age.is_negative() { Duration::ZERO } else { age.unsigned_abs() };
        tokio::time::sleep(delay.saturating_sub(age)).await;
        let mut ticks = tokio::time::interval(seconds(self.probe.period_seconds, 10));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let mut counter = Counter::new(&self.probe);
        let mut ready = self.ready;
        loop {
            ticks.tick().await;
            let outcome = self.ask(timeout).await;
            if let Err(message) = &outcome {
                let text = format!("{} probe failed: {message}", self.kind);
                let name = Some(self.definition.name.as_str());
                report::event(&self.shared.outbox, &self.pod, name, "Warning", "Unhealthy", &text);
            }
            let Some(good) = counter.count(outcome.is_ok()) else { continue };
            let verdict = match (self.kind, good) {
                ("Startup", true) => Verdict::Started,
                ("Readiness", good) if good != ready => {
                    ready = good;
                    Verdict::Ready(good)
                }
                ("Readiness", _) | (_, true) => continue,
                (_, false) => self.condemned(),
            };
            let last = !matches!(verdict, Verdict::Ready(_));
            let message = Message::Probe { id: self.id.clone(), verdict };
            if self.sender.send(message).await.is_err() || last {
                return;
            }
        }
    }

    fn condemned(&self) -> Verdict {
        let name = &self.definition.name;
        let why = format!("Container {name} failed {} probe, will be restarted", self.kind.to_lowercase());
        let grace = self.probe.termination_grace_period_seconds.and_then(|g| u64::try_from(g).ok());
        Verdict::Condemned { why, grace }
    }

    async fn ask(&self, timeout: Duration) -> Result<(), String> {
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            let outcome =
                self.shared.runtime.exec(&self.id, &command, timeout).await.map_err(|e| e.to_string())?;
            return if outcome.code == 0 { Ok(()) } else { Err(outcome.output) };
        }
        if let Some(action) = &self.probe.http_get {
            return dial::http(&self.shared.tasks, &self.definition, action, &self.ip, timeout).await;
        }
        if let Some(action) = &self.probe.grpc {
            let service = action.service.as_deref().unwrap_or_default();
            return dial::grpc(&self.ip, action.port, service, timeout).await;
        }
        if let Some(action) = &self.probe.tcp_socket {
            let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&self.ip);
            return dial::tcp(host, dial::port(&self.definition, &action.port)?, timeout).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(success: i32, failure: i32, results: &[bool]) -> Vec<Option<bool>> {
        let probe =
            Probe { success_threshold: Some(success), failure_threshold: Some(failure), ..Probe::default() };
        let mut counter = Counter::new(&probe);
        results.iter().map(|good| counter.count(*good)).collect()
    }

    #[test]
    fn a_verdict_needs_as_many_equal_results_in_a_row_as_its_threshold() {
        let (t, f) = (Some(true), Some(false));
        assert_eq!(verdicts(1, 3, &[true, false, false, false, true]), [t, None, None, f, t]);
        assert_eq!(verdicts(2, 2, &[true, false, true, true, false]), [None, None, None, t, None]);
        assert_eq!(verdicts(0, 0, &[false]), [f], "thresholds are at least one");
    }
}
