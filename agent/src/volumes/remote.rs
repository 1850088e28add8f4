//! Volumes that other machines have (nfs, glusterfs, iscsi, rbd), mounted by the host's own helpers as kubelet's plugins did.
//!
//! In: what a pod's volumes say, read by `source`. Out: mounts below the pod's folder; disks are mounted once for all pods of the node
//! and bound to each. A server may never answer: whatever asks one has a bound or ends with its future, and what is mounted is known
//! from the kernel's table alone, also to an agent that was killed in between.

mod attached;
mod clients;
mod disk;
mod host;
mod iscsi;
mod rbd;
mod requests;
mod source;
#[cfg(test)]
mod tests;
mod unmount;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::mounted::{is_mounted, mounts_below};
use super::{VolumeError, create_dir};
pub use host::Host;
#[cfg(test)]
pub(crate) use host::pretended::Pretended;
use source::{Glusterfs, Kind};
pub(crate) use source::{Remote, of, own_place, place};
pub(super) use unmount::bounded;

/// What a step of mounting is called in events.
const SET_UP: &str = "MountVolume.SetUp";

/// What all pods of the node share of it.
#[derive(Debug)]
pub(super) struct Remotes {
    host: Host,
    /// Where disks are mounted, a folder each.
    disks: PathBuf,
    /// Who attaches or detaches, by target.
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Remotes {
    pub(super) fn new(host: Host, data_dir: &Path) -> Self {
        Self { host, disks: disks(data_dir), locks: Mutex::default() }
    }

    /// Mounts what a pod wants, each beside the others. What is mounted already is left as it is.
    pub(super) async fn mount(&self, pod_dir: &Path, wanted: &[Remote]) -> Vec<VolumeError> {
        let outcomes = join_all(wanted.iter().map(|one| self.mount_one(pod_dir, one))).await;
        outcomes.into_iter().filter_map(Result::err).collect()
    }

    async fn mount_one(&self, pod_dir: &Path, remote: &Remote) -> Result<(), VolumeError> {
        let place = remote.place(pod_dir);
        let failed =
            |step: &'static str, message| VolumeError::Step { step, volume: remote.name.clone(), message };
        let read = |e: io::Error| failed(SET_UP, format!("cannot read what is mounted: {e}"));
        if !is_mounted(&place).map_err(read)? {
            self.host.lacks(remote.plugin()).map_err(|why| failed(SET_UP, format!("mount failed: {why}")))?;
            create_dir(&place, 0o750)?;
            let outcome = match &remote.kind {
                Kind::Nfs { server, path } => {
                    let arguments = requests::nfs(server, path, remote, &place);
                    self.host.mount(&arguments).await.map_err(|why| (SET_UP, why))
                }
                Kind::Glusterfs(volume) => {
                    self.glusterfs(volume, remote, pod_dir, &place).await.map_err(|why| (SET_UP, why))
                }
                Kind::Disk(wanted) => disk::mount(self, wanted, remote, &place).await,
            };
            if let Err((step, why)) = outcome {
                // Where nothing is mounted nothing stays; it may be made again at once.
                let _ = fs::remove_dir(&place);
                return Err(failed(step, why));
            }
            if !is_mounted(&place).map_err(read)? {
                return Err(failed(
                    SET_UP,
                    "mount failed: the helper ended well and mounted nothing".to_owned(),
                ));
            }
        }
        let Some(heir) = remote.heir.clone().filter(|_| !remote.read_only) else { return Ok(()) };
        let group = heir.group;
        let given = unmount::apart("fsGroup", move || heir.take(&place)).await;
        given.map_err(|e| failed(SET_UP, format!("cannot give it to group {group}: {e}")))
    }

    /// One of its servers tells the client of the others, and those that are named in case it is away itself.
    async fn glusterfs(
        &self,
        volume: &Glusterfs,
        remote: &Remote,
        pod_dir: &Path,
        place: &Path,
    ) -> Result<(), String> {
        let log = pod_dir.join(format!("glusterfs-{}.log", remote.volume));
        let arguments = requests::glusterfs(volume, remote, &log, place)?;
        let mounted = self.host.mount(&arguments).await;
        if mounted.is_err() {
            clients::end(place, Duration::ZERO).await;
        }
        mounted.map_err(|why| {
            // The client tells its log alone why.
            let text = fs::read_to_string(&log).unwrap_or_default();
            let errors: Vec<&str> = text.lines().filter(|line| line.contains("] E [")).collect();
            let from = errors.len().saturating_sub(2);
            match errors.get(from..).unwrap_or_default() {
                [] => why,
                last => format!(
                    "{why}, the following error information was pulled from the glusterfs log to help diagnose this issue: \n{}",
                    last.join("\n")
                ),
            }
        })
    }

    /// Unmounts what a pod has of other machines, waits for what is still to be written, and removes where it was mounted. Disks
    /// that nobody has any more are detached.
    pub(super) async fn unmount(&self, pod_dir: &Path) -> io::Result<()> {
        let folders: Vec<PathBuf> = folders(pod_dir);
        let mut points = Vec::new();
        for folder in &folders {
            points.extend(mounts_below(folder)?.into_iter().map(PathBuf::from));
        }
        for outcome in join_all(points.iter().rev().map(|point| unmount::unmount(point))).await {
            outcome?;
        }
        let gluster = folder(pod_dir, "glusterfs");
        if gluster.exists() {
            // One that has nothing mounted has nothing to write.
            let patience = if points.is_empty() { Duration::ZERO } else { unmount::BOUND };
            clients::end(&gluster, patience).await;
        }
        for folder in folders.iter().filter(|folder| folder.exists()) {
            for entry in fs::read_dir(folder)? {
                // Never what is in it: should it be mounted again, that is another machine's.
                fs::remove_dir(entry?.path())?;
            }
            fs::remove_dir(folder)?;
        }
        self.release().await;
        Ok(())
    }

    /// Detaches the disks that no pod of the node has any more.
    pub(super) async fn release(&self) {
        disk::release(self).await;
    }

    /// The one of those who attach or detach that may.
    fn lock(&self, target: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(target.to_owned()).or_default())
    }
}

/// Where disks are mounted for all pods of the node.
pub(crate) fn disks(data_dir: &Path) -> PathBuf {
    data_dir.join("plugins")
}

/// The folders of a pod below which such volumes are.
fn folders(pod_dir: &Path) -> Vec<PathBuf> {
    source::PLUGINS.iter().map(|plugin| folder(pod_dir, plugin)).collect()
}

fn folder(pod_dir: &Path, plugin: &str) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}"))
}
