//! Named tasks with an owner and an end: the only place that spawns.
//!
//! A service task runs until shutdown; when one returns early or panics, all others are cancelled and the process ends
//! non-zero with the task's name, so that a daemon is never half alive. A job ends by itself; its panic is contained.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why the process has to end.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("task {name:?} {what}")]
pub struct TaskFailure {
    /// The task's name.
    pub name: String,
    /// What it did: `panicked` or `ended before shutdown`.
    pub what: &'static str,
}

/// The tasks of one process. Clones share the same set.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    token: CancellationToken,
    tracker: TaskTracker,
    failure: Mutex<Option<TaskFailure>>,
}

impl Tasks {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled when the process is to end. Every service task selects on it.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.shared.token.clone()
    }

    /// Starts a task that runs until the token is cancelled. Returning before is fatal to the process.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.clone();
        let name = name.into();
        self.track(async move {
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            match outcome {
                Err(_) => tasks.fail(&name, "panicked"),
                Ok(()) if !tasks.shared.token.is_cancelled() => tasks.fail(&name, "ended before shutdown"),
                Ok(()) => tracing::debug!(task = %name, "task ended"),
            }
        });
    }

    /// Starts a task that ends by itself (a connection, a request). A panic is logged and ends only this job.
    pub fn job<F>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        self.track(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                tracing::error!(task = %name, "job panicked; this is a bug, please report it with the log above");
            }
        });
    }

    /// Asks every task to end.
    pub fn shut_down(&self) {
        self.shared.token.cancel();
    }

    /// Waits until the token is cancelled, then at most `deadline` for the tasks to end.
    ///
    /// # Errors
    /// The first failure of a service task.
    pub async fn finish(&self, deadline: Duration) -> Result<(), TaskFailure> {
        self.shared.token.cancelled().await;
        self.shared.tracker.close();
        if tokio::time::timeout(deadline, self.shared.tracker.wait()).await.is_ok() {
            tracing::info!("all tasks ended");
        } else {
            tracing::warn!(left = self.shared.tracker.len(), "tasks still running at the shutdown deadline");
        }
        let failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failure.map_or(Ok(()), Err)
    }

    fn track<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shared.tracker.spawn(future);
    }

    fn fail(&self, name: &str, what: &'static str) {
        tracing::error!(task = name, what, "a task that must run until shutdown is gone; ending the process");
        let mut slot = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(TaskFailure { name: name.to_owned(), what });
        self.shared.token.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_task_that_returns_early_fails_the_process() {
        let tasks = Tasks::new();
        tasks.spawn("watch/pods", async {});
        let failure = tasks.finish(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(failure, TaskFailure { name: "watch/pods".into(), what: "ended before shutdown" });
    }

    #[tokio::test]
    async fn a_panicking_service_task_cancels_the_others() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("waits", async move { token.cancelled().await });
        tasks.spawn("breaks", async { panic!("on purpose") });
        let failure = tasks.finish(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(failure.name, "breaks");
    }

    #[tokio::test]
    async fn a_panicking_job_leaves_the_process_alone() {
        let tasks = Tasks::new();
        tasks.job("connection", async { panic!("on purpose") });
        tokio::task::yield_now().await;
        tasks.shut_down();
        assert_eq!(tasks.finish(Duration::from_secs(1)).await, Ok(()));
    }

    #[tokio::test]
    async fn shutdown_waits_for_the_tasks_that_drain() {
        let tasks = Tasks::new();
        let (token, (done, seen)) = (tasks.token(), tokio::sync::oneshot::channel());
        tasks.spawn("drains", async move {
            token.cancelled().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let _ = done.send(());
        });
        tasks.shut_down();
        assert_eq!(tasks.finish(Duration::from_secs(5)).await, Ok(()));
        assert_eq!(seen.await, Ok(()));
    }
}
