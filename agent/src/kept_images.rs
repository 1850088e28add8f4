//! The images on this node: told with the node's status as they come and go, removed when they fill the disk and nobody uses them.
//!
//! In: Docker's events, its list of images, how full its disk is. Out: names and sizes, longest unused images removed. An image that any
//! container has stays, whoever made that container.
//!
//! Source: kubelet's pkg/kubelet/images/image_gc_manager.go.

mod collect;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use oarlock_daemon::Tasks;
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use collect::Policy;
use collect::Records;

use crate::disk::Disk;
use crate::outbox::Outbox;
use crate::runtime::{ImageStore, RuntimeError, StoredImage};

/// How often the disk is looked at.
const COLLECT: Duration = Duration::from_mins(5);
/// Changes of images come in bursts: after the first one this passes before they are listed.
const SETTLE: Duration = Duration::from_millis(100);
/// The wait before a runtime that went away is asked again.
const RECONNECT: Duration = Duration::from_secs(1);
/// How many images a node's status lists, the largest ones.
const LISTED: usize = 50;

/// Names and sizes, as a node's status has them.
pub(crate) type Listed = Vec<(Vec<String>, i64)>;

/// How full the disk is that holds a folder.
pub(crate) type Measure = fn(&Path) -> Option<Disk>;

/// The images of a node. Shared by reference.
pub(crate) struct KeptImages {
    pub(crate) store: Arc<dyn ImageStore>,
    pub(crate) outbox: Arc<Outbox>,
    /// The node's name.
    pub(crate) node: String,
    /// The image of sandboxes, which is never removed.
    pub(crate) pause_image: String,
    pub(crate) policy: Policy,
    pub(crate) measure: Measure,
    pub(crate) records: Mutex<Records>,
    pub(crate) listed: watch::Sender<Listed>,
}

/// Why images were not collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot ask how full the disk at {0} is")]
    Disk(String),
    #[error("invalid capacity 0 on image filesystem")]
    Capacity,
    #[error(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} \
         bytes eligible to free."
    )]
    TooFew { wanted: u64, freed: u64 },
}

impl KeptImages {
    /// What the node's status says of them, and a bell for its changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Listed> {
        self.listed.subscribe()
    }

    /// Follows the runtime until shutdown.
    pub(crate) async fn run(self: Arc<Self>, tasks: Tasks) {
        let token = tasks.token();
        let (mut tick, mut failed) = (tokio::time::interval(COLLECT), false);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Pods say it when the runtime is away.
                _ = self.follow(&mut tick, &mut failed) => {}
                () = token.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT) => {}
                () = token.cancelled() => return,
            }
        }
    }

    async fn follow(&self, tick: &mut tokio::time::Interval, failed: &mut bool) -> Result<(), RuntimeError> {
        let mut events = self.store.image_events().await?;
        self.look().await?;
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => {
                        event?;
                        tokio::time::sleep(SETTLE).await;
                        while let Some(Some(more)) = futures_util::FutureExt::now_or_never(events.next()) {
                            more?;
                        }
                        self.look().await?;
                    }
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    let outcome = self.collect().await;
                    self.say(&outcome, failed);
                }
            }
        }
    }

    /// Says a failure, and as an event of the node one that follows another: the first look after the start may be too early.
    fn say(&self, outcome: &Result<(), CollectError>, failed: &mut bool) {
        let Err(error) = outcome else {
            *failed = false;
            return;
        };
        tracing::warn!(%error, "images were not collected");
        let event = |reason| self.outbox.node_event(&self.node, "Warning", reason, &error.to_string());
        match error {
            CollectError::TooFew { .. } => event("FreeDiskSpaceFailed"),
            CollectError::Capacity => event("InvalidDiskCapacity"),
            CollectError::Runtime(_) | CollectError::Disk(_) => {}
        }
        if std::mem::replace(failed, true) {
            event("ImageGCFailed");
        }
    }

    /// Lists the images, and notes which are in use.
    async fn look(&self) -> Result<(), RuntimeError> {
        let stored = self.store.stored().await?;
        let used = self.store.used_images().await?;
        self.records.lock().note(&stored, &used, Timestamp::now());
        let mut listed: Listed = stored.into_iter().map(|image| (image.names, image.size)).collect();
        listed.retain(|(names, _)| !names.is_empty());
        listed.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        listed.truncate(LISTED);
        self.listed.send_if_modified(|old| {
            let changed = *old != listed;
            *old = listed;
            changed
        });
        Ok(())
    }

    /// Frees what the policy wants to be free, if the disk is too full.
    async fn collect(&self) -> Result<(), CollectError> {
        let folder = self.store.folder().await?;
        let disk = (self.measure)(&folder).ok_or_else(|| CollectError::Disk(folder.display().to_string()))?;
        if disk.capacity == 0 {
            return Err(CollectError::Capacity);
        }
        // Whoever is in use now was used now, however full the disk is.
        self.look().await?;
        let Some(wanted) = self.policy.excess(&disk) else { return Ok(()) };
        tracing::info!(
            wanted,
            high = self.policy.high,
            "disk usage on image filesystem is over the high threshold, trying to free bytes down to the low threshold"
        );
        let freed = self.free(wanted).await?;
        if freed < wanted {
            return Err(CollectError::TooFew { wanted, freed });
        }
        Ok(())
    }

    /// Removes images that nobody uses, the longest unused first, until so many bytes are free; says how many were.
    pub(crate) async fn free(&self, wanted: u64) -> Result<u64, RuntimeError> {
        let stored = self.store.stored().await?;
        let used = self.store.used_images().await?;
        let now = Timestamp::now();
        let going: Vec<StoredImage> = {
            let mut records = self.records.lock();
            records.note(&stored, &used, now);
            let kept = |image: &StoredImage| image.names.contains(&self.pause_image);
            let free = stored.into_iter().filter(|image| !kept(image));
            records.going(free.collect(), &used, self.policy.min_age, now)
        };
        let mut freed = 0;
        for image in going {
            if freed >= wanted {
                break;
            }
            match self.store.remove_image(&image).await {
                Ok(()) => {
                    tracing::info!(id = %image.id, names = ?image.names, bytes = image.size, "image removed");
                    freed += u64::try_from(image.size).unwrap_or(0);
                }
                Err(error) if error.is_away() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "an image cannot be removed; going on with the next one")
                }
            }
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests;
