//! Lifecycle hooks: postStart and preStop, as commands, requests or a sleep.

use std::sync::Arc;
use std::time::Duration;

use oarlock_api::k8s::api::core::v1::{Container, LifecycleHandler};

use super::worker::{Message, Worker};
use super::{Shared, dial, report};

/// The longest a postStart hook may take: kubelet sets no end, but a hook that hangs must not hang us.
const LONGEST: Duration = Duration::from_secs(3600);

/// Starts the hook; the worker hears when it is done.
pub(super) fn post_start(worker: &Worker, id: &str, definition: &Container, hook: LifecycleHandler) {
    let run = Run::new(worker, id, definition, hook);
    let pod = Arc::clone(&worker.pod);
    worker.job("pod/post-start", async move {
        let failure = run.run(LONGEST).await.err();
        if let Some(failure) = &failure {
            let (outbox, name) = (&run.shared.outbox, run.definition.name.as_str());
            let text = format!("PostStartHook failed: {failure}");
            report::event(outbox, &pod, Some(name), "Warning", "FailedPostStartHook", &text);
        }
        Message::PostStartDone { id: run.id, failure }
    });
}

/// Starts the hook; the worker hears when it is done, well or not, at the latest when the grace period is over.
pub(super) fn pre_stop(
    worker: &Worker,
    id: &str,
    definition: &Container,
    hook: LifecycleHandler,
    grace: Duration,
) {
    let run = Run::new(worker, id, definition, hook);
    let pod = Arc::clone(&worker.pod);
    worker.job("pod/pre-stop", async move {
        if let Err(failure) = run.run(grace).await {
            let (outbox, name) = (&run.shared.outbox, run.definition.name.as_str());
            let text = format!("PreStopHook failed: {failure}");
            report::event(outbox, &pod, Some(name), "Warning", "FailedPreStopHook", &text);
        }
        Message::PreStopDone { id: run.id }
    });
}

struct Run {
    shared: Arc<Shared>,
    id: String,
    definition: Container,
    hook: LifecycleHandler,
    ip: String,
}

impl Run {
    fn new(worker: &Worker, id: &str, definition: &Container, hook: LifecycleHandler) -> Self {
        let ip = worker.place().pod_ip();
        Self {
            shared: Arc::clone(&worker.shared),
            id: id.to_owned(),
            definition: definition.clone(),
            hook,
            ip,
        }
    }

    async fn run(&self, limit: Duration) -> Result<(), String> {
        if let Some(exec) = &self.hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let outcome =
                self.shared.runtime.exec(&self.id, &command, limit).await.map_err(|e| e.to_string())?;
            return match outcome.code {
                0 => Ok(()),
                code => Err(format!("command exited with {code}: {}", outcome.output.trim_end())),
            };
        }
        if let Some(action) = &self.hook.http_get {
            return dial::http(&self.shared.tasks, &self.definition, action, &self.ip, limit).await;
        }
        if let Some(sleep) = &self.hook.sleep {
            let wish = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
            tokio::time::sleep(wish.min(limit)).await;
        }
        Ok(())
    }
}
