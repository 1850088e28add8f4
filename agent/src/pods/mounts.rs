//! Volumes that other machines have, for a worker: mounted in a job beside it, so that a server that does not answer keeps nobody from
//! anything, not even this pod from going.

use tokio_util::sync::CancellationToken;

use super::execute::Done;
use super::report;
use super::worker::{Message, Worker};

/// How far the worker is.
#[derive(Debug, Default)]
pub(super) enum Mounting {
    #[default]
    Not,
    /// A job is at it until it is cancelled.
    Underway(CancellationToken),
    Done,
}

impl Worker {
    /// Begins to mount what is not. None: all is there, or there is none.
    pub(super) fn mount_remote(&mut self) -> Option<Done> {
        match self.mounting {
            Mounting::Done => return None,
            Mounting::Underway(_) => return Some(Done::Underway),
            Mounting::Not => {}
        }
        let volumes = self.shared.volumes.clone();
        let wanted = match volumes.remote(&self.pod, &self.shared.snapshot()) {
            Ok(wanted) if wanted.is_empty() => return None,
            Ok(wanted) => wanted,
            Err(error) => return Some(self.failed("volumes", "FailedMount", report::chain(&error))),
        };
        let token = CancellationToken::new();
        self.mounting = Mounting::Underway(token.clone());
        let uid = self.uid.clone();
        self.job("pod/mount", async move {
            let failures = tokio::select! {
                () = token.cancelled() => Vec::new(),
                failures = volumes.mount_remote(&uid, &wanted) => failures,
            };
            Message::Mounted { failures: failures.iter().map(|error| report::chain(error)).collect() }
        });
        Some(Done::Underway)
    }

    /// How it went: what failed is said, all of it, and tried again.
    pub(super) fn hear_mounted(&mut self, failures: Vec<String>) {
        self.mounting = Mounting::Done;
        let Some((last, others)) = failures.split_last() else { return };
        self.mounting = Mounting::Not;
        if self.memory.deletion.is_some() {
            return;
        }
        for failure in others {
            self.event(None, "Warning", "FailedMount", failure);
        }
        self.failed("volumes", "FailedMount", last.clone());
    }

    /// Takes away what is mounted, and who is at it.
    pub(super) async fn unmount_remote(&mut self) -> Result<(), String> {
        if let Mounting::Underway(token) = std::mem::take(&mut self.mounting) {
            token.cancel();
        }
        self.shared.volumes.unmount_remote(&self.uid).await.map_err(|error| report::chain(&error))
    }
}
