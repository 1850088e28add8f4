//! What a node does when memory, disk or processes run short: its conditions, images that go, pods that are evicted, one at a time.
//!
//! In: the kernel's counters each [`INTERVAL`], the pods that are here. Out: conditions for the node's status, evictions for workers.
//! What is decided is pure ([`judge`], [`rank`]); this measures and acts.
//!
//! Source: kubelet's pkg/kubelet/eviction.

mod judge;
mod rank;
mod soft;
mod threshold;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_daemon::Tasks;
use tokio::sync::watch;

use crate::desired::Desired;
use crate::disk::Disk;
use crate::kept_images::KeptImages;
use crate::outbox::Outbox;
use crate::pods::{Evicted, Pods, folder_use};
use crate::runtime::{Docker, ImageStore as _, Runtime as _};
use crate::stats::Cgroups;
use judge::{Judge, Judgement, Short};
pub(crate) use judge::{Policy, Pressures};
pub(crate) use rank::refusal;
use rank::{Candidate, is_critical};
pub(crate) use soft::Soft;
pub(crate) use threshold::{Hard, Pressure};
use threshold::{Observations, Room, Signal};

/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(10);
/// After an eviction the next look comes sooner: one pod may not be enough.
const AFTER_EVICTION: Duration = Duration::from_secs(1);
/// How long the next eviction waits for the pod of the last one to end.
const CLEANUP: Duration = Duration::from_secs(30);

/// What it takes. Owned by its task.
pub(crate) struct Eviction {
    pub(crate) policy: Policy,
    pub(crate) node: String,
    /// The cgroup above those of pods.
    pub(crate) parent: String,
    /// Where the folders of pods are.
    pub(crate) pods_dir: PathBuf,
    pub(crate) desired: Arc<Desired>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) pods: Arc<Pods>,
    pub(crate) docker: Arc<Docker>,
    pub(crate) images: Arc<KeptImages>,
    pub(crate) pressures: watch::Sender<Pressures>,
}

/// The last pod that was evicted, and when.
type Leaving = Option<(String, tokio::time::Instant)>;

impl Eviction {
    /// Runs until shutdown.
    pub(crate) async fn run(self, tasks: Tasks) {
        let (mut judge, mut leaving, token) = (Judge::default(), None, tasks.token());
        let cgroups = Cgroups::of_host();
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = token.cancelled() => return,
            }
            let looking = self.look(&mut judge, &mut leaving, &cgroups);
            let evicted = tokio::select! {
                evicted = looking => evicted,
                () = token.cancelled() => return,
            };
            wait = if evicted { AFTER_EVICTION } else { INTERVAL };
        }
    }

    /// One look; whether it may take another one soon.
    async fn look(&self, judge: &mut Judge, leaving: &mut Leaving, cgroups: &Cgroups) -> bool {
        let seen = self.observe().await;
        let judgement = judge.judge(&self.policy, &seen, Timestamp::now());
        self.publish(&judgement.pressures);
        let Judgement { short, .. } = judgement;
        let Some(worst) = short.first().copied() else {
            *leaving = None;
            return false;
        };
        if let Some((uid, since)) = leaving.as_ref()
            && since.elapsed() < CLEANUP
            && self.still_ends(cgroups, uid)
        {
            return true;
        }
        *leaving = None;
        if self.regain(worst.signal, judge).await {
            return true;
        }
        let Some(room) = seen.get(&worst.signal).copied() else { return false };
        *leaving = self.evict(worst, room, cgroups).await.map(|uid| (uid, tokio::time::Instant::now()));
        leaving.is_some()
    }

    /// Whether its processes run yet.
    fn still_ends(&self, cgroups: &Cgroups, uid: &str) -> bool {
        cgroups.processes(&self.cgroup(uid)).is_some_and(|count| count > 0)
    }

    fn cgroup(&self, uid: &str) -> String {
        format!("{}/pod{uid}", self.parent.trim_end_matches('/'))
    }

    async fn observe(&self) -> Observations {
        let mut seen = Observations::new();
        if let Some((capacity, available)) = Cgroups::memory_of_host() {
            seen.insert(Signal::Memory, Room { capacity, available });
        }
        if let Some((capacity, available)) = Cgroups::processes_of_host() {
            seen.insert(Signal::Pids, Room { capacity, available });
        }
        let mut add = |disk: Disk, bytes, inodes| {
            seen.insert(bytes, Room { capacity: disk.capacity, available: disk.available });
            if disk.inodes > 0 {
                seen.insert(inodes, Room { capacity: disk.inodes, available: disk.inodes_free });
            }
        };
        let own = Disk::of(&self.pods_dir);
        if let Some(disk) = own {
            add(disk, Signal::NodeDisk, Signal::NodeInodes);
        }
        // Without an answer of Docker's nothing is known of its disk.
        if let Ok(folder) = self.docker.folder().await
            && let Some(disk) = Disk::of(&folder)
        {
            add(disk, Signal::ImageDisk, Signal::ImageInodes);
        }
        seen
    }

    /// Says what the node is under, if that changed.
    fn publish(&self, pressures: &Pressures) {
        self.pods.set_pressures(pressures.clone());
        self.pressures.send_if_modified(|old| {
            for pressure in Pressure::ALL {
                let (before, now) = (old.contains(&pressure), pressures.contains(&pressure));
                if before != now {
                    let reason = pressure.words(now).0.replace("Kubelet", "Node");
                    tracing::warn!(
                        condition = pressure.condition(),
                        holds = now,
                        "pressure on the node changed"
                    );
                    let text = format!("Node {} status is now: {reason}", self.node);
                    self.outbox.node_event(&self.node, "Normal", &reason, &text);
                }
            }
            let changed = old != pressures;
            old.clone_from(pressures);
            changed
        });
    }

    /// Frees what the node can spare itself; whether that was enough.
    async fn regain(&self, signal: Signal, judge: &mut Judge) -> bool {
        let text = format!("Attempting to reclaim {}", signal.resource());
        self.outbox.node_event(&self.node, "Warning", "EvictionThresholdMet", &text);
        let of_images = match signal {
            Signal::ImageDisk | Signal::ImageInodes => true,
            Signal::NodeDisk | Signal::NodeInodes => self.is_one_disk().await,
            Signal::Memory | Signal::Pids => false,
        };
        if !of_images {
            return false;
        }
        match self.images.free(u64::MAX).await {
            Ok(0) => return false,
            Ok(bytes) => tracing::warn!(bytes, "unused images were removed: the disk is short"),
            Err(error) => {
                tracing::warn!(%error, "unused images cannot be removed although the disk is short");
                return false;
            }
        }
        let judgement = judge.judge(&self.policy, &self.observe().await, Timestamp::now());
        !judgement.short.iter().any(|short| short.signal == signal)
    }

    /// Whether Docker keeps its images where the agent keeps volumes.
    async fn is_one_disk(&self) -> bool {
        let folder = self.docker.folder().await.ok();
        let (own, of_images) = (Disk::of(&self.pods_dir), folder.and_then(|folder| Disk::of(&folder)));
        own.map(|disk| disk.id) == of_images.map(|disk| disk.id)
    }

    /// Evicts the pod that goes first; none: nobody can.
    async fn evict(&self, short: Short, room: Room, cgroups: &Cgroups) -> Option<String> {
        let signal = short.signal;
        let (snapshot, _) = self.desired.snapshot();
        let over = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let one_disk = self.is_one_disk().await;
        let mut candidates = Vec::new();
        for pod in snapshot.pods.values().filter(|pod| !over(pod) && !is_critical(pod)) {
            let (used, containers) = self.measure(signal, pod, one_disk, cgroups).await;
            candidates.push(Candidate { pod: Pod::clone(pod), used, containers });
        }
        rank::rank(signal, &mut candidates);
        let least = self.policy.least(short, room.capacity).unwrap_or(0);
        for candidate in &candidates {
            let uid = candidate.pod.metadata.uid.clone().unwrap_or_default();
            let why = rank::message(signal, least, room, candidate);
            let frees_disk = signal.pressure() == Pressure::Disk;
            let own = candidate.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            let grace = if short.soft { self.policy.soft.pod_grace(own) } else { 1 };
            if self.pods.evict(&uid, Evicted { why, frees_disk, grace }) {
                return Some(uid);
            }
        }
        tracing::warn!(resource = signal.resource(), "short, and there is no pod that could be evicted");
        None
    }

    /// What a pod and its containers use of what is short.
    async fn measure(
        &self,
        signal: Signal,
        pod: &Pod,
        one_disk: bool,
        cgroups: &Cgroups,
    ) -> (u64, Vec<(String, u64)>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let cgroup = self.cgroup(uid);
        match signal {
            Signal::Memory => {
                let of = |(name, id): (&str, &str)| {
                    Some((name.to_owned(), cgroups.working_set(&format!("{cgroup}/{id}"))?))
                };
                let containers: Vec<_> = running(pod).filter_map(of).collect();
                let all = containers.iter().map(|(_, used)| used).sum();
                (cgroups.working_set(&cgroup).unwrap_or(all), containers)
            }
            Signal::Pids => (cgroups.processes(&cgroup).unwrap_or(0), Vec::new()),
            _ => self.measure_disk(signal, pod, uid, one_disk).await,
        }
    }

    async fn measure_disk(
        &self,
        signal: Signal,
        pod: &Pod,
        uid: &str,
        one_disk: bool,
    ) -> (u64, Vec<(String, u64)>) {
        let own = matches!(signal, Signal::NodeDisk | Signal::NodeInodes);
        let (mut used, mut containers) = (0, Vec::new());
        if own || one_disk {
            let folder = self.pods_dir.join(uid).join("volumes/kubernetes.io~empty-dir");
            let found = tokio::task::spawn_blocking(move || folder_use(&folder)).await.unwrap_or_default();
            let inodes = matches!(signal, Signal::NodeInodes | Signal::ImageInodes);
            used += if inodes { found.inodes } else { found.bytes };
        }
        if matches!(signal, Signal::ImageDisk) || (signal == Signal::NodeDisk && one_disk) {
            for (name, id) in running(pod) {
                let bytes = self.docker.disk_usage(id).await.ok().and_then(|b| u64::try_from(b).ok());
                containers.push((name.to_owned(), bytes.unwrap_or(0)));
            }
            used += containers.iter().map(|(_, bytes)| bytes).sum::<u64>();
        }
        (used, containers)
    }
}

/// Names and ids of the containers that run.
fn running(pod: &Pod) -> impl Iterator<Item = (&str, &str)> {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let running = statuses.filter(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.filter_map(|one| Some((&*one.name, one.container_id.as_deref()?.strip_prefix("docker://")?)))
}
