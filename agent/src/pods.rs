//! The pods of this node: one named worker each, woken by what is wanted, by the runtime's events, by probes and by time.
//!
//! In: snapshots of what is wanted. Out: statuses and events into the outbox, logs on request. A pod that was there before this
//! agent started is adopted by its containers' labels; one that nobody wants is ended and removed.

mod cgroup;
mod dial;
mod execute;
mod hooks;
mod images;
mod logs;
mod mounts;
mod probe;
pub(crate) mod report;
mod storage;
mod streams;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_daemon::Tasks;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::desired::Snapshot;
use crate::dual_ip::DualIp;
use crate::eviction::Pressures;
use crate::net::PodNetwork;
use crate::outbox::Outbox;
pub use crate::plan::files::ClusterDns;
use crate::runtime::Runtime;
use crate::static_pods::is_static;
pub use crate::volumes::Host;
use crate::volumes::Volumes;
pub(crate) use storage::folder_use;

/// How often everything is looked at although no event came.
const RELIST: Duration = Duration::from_secs(30);
/// The wait before a runtime that went away is asked again.
const RECONNECT: Duration = Duration::from_secs(1);

/// What every worker needs to know about the node.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// `status.hostIPs`.
    pub ip: DualIp,
    /// The cgroup under which pods get theirs: `/oarlock/<node>`.
    pub cgroup_parent: String,
    /// The image of sandboxes.
    pub pause_image: String,
    /// Where the folders of pods are.
    pub data_dir: PathBuf,
    /// Where directories for claims are.
    pub volumes_dir: PathBuf,
    /// The node's processors, in thousandths.
    pub cpu_millis: i64,
    /// The node's memory in bytes.
    pub memory: i64,
    /// Where the host has what volumes of other machines need.
    pub host: Host,
}

/// All that workers share.
pub(crate) struct Shared {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) volumes: Volumes,
    pub(crate) node: NodeFacts,
    pub(crate) tasks: Tasks,
    pub(crate) may_lower_oom_score: bool,
    pub(crate) has_apparmor: bool,
    snapshot: Mutex<Arc<Snapshot>>,
    dns: Mutex<ClusterDns>,
    pressures: Mutex<Pressures>,
    health: watch::Sender<Result<(), String>>,
}

impl Shared {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.lock())
    }

    pub(crate) fn dns(&self) -> ClusterDns {
        self.dns.lock().clone()
    }

    /// What the node is under: what it does not take then.
    pub(crate) fn pressures(&self) -> Pressures {
        self.pressures.lock().clone()
    }

    fn runtime_is(&self, state: Result<(), String>) {
        self.health.send_if_modified(|old| {
            let changed = *old != state;
            if changed {
                match &state {
                    Ok(()) => tracing::info!("container runtime answers"),
                    Err(error) => {
                        tracing::warn!(error, "container runtime is away; pods go on without the agent")
                    }
                }
                *old = state;
            }
            changed
        });
    }
}

/// What is wanted of one pod, and the bell of its worker.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) wish: Mutex<Wish>,
    pub(crate) bell: Notify,
}

/// That the node needs what a pod has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evicted {
    /// For its status.
    pub(crate) why: String,
    /// What it wrote goes with it.
    pub(crate) frees_disk: bool,
    /// How many seconds it has to end.
    pub(crate) grace: u64,
}

/// What is wanted of one pod.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) pod: Arc<Pod>,
    /// Its object is gone.
    pub(crate) removed: bool,
    /// A ConfigMap, Secret or claim that it may use changed: what failed for want of one is worth another try.
    pub(crate) refreshed: bool,
    /// The node needs what it has: why, and whether that is disk.
    pub(crate) evicted: Option<Evicted>,
}

impl Wish {
    fn new(pod: Arc<Pod>, removed: bool) -> Self {
        Self { pod, removed, refreshed: false, evicted: None }
    }
}

/// The pods of this node. Shared by reference.
pub struct Pods {
    shared: Arc<Shared>,
    workers: Arc<Mutex<Workers>>,
}

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods").field("node", &self.shared.node).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Workers {
    slots: BTreeMap<String, Arc<Slot>>,
    /// Pods of which nothing is left although their object may still be there.
    finished: BTreeSet<String>,
    complete: bool,
    /// Rings when one of a folder has left: another of its name may have waited for that.
    left: watch::Sender<u64>,
}

impl Workers {
    /// Whether a pod of this name is there still, which was of the folder before.
    fn has_another(&self, pod: &Pod) -> bool {
        self.slots.values().any(|slot| {
            let (other, new) = (&slot.wish.lock().pod.metadata, &pod.metadata);
            other.name == new.name && other.namespace == new.namespace && other.uid != new.uid
        })
    }
}

impl Pods {
    /// Starts to listen to the runtime; pods come with [`Self::apply`].
    pub fn start(
        tasks: &Tasks,
        node: NodeFacts,
        runtime: Arc<dyn Runtime>,
        network: Arc<dyn PodNetwork>,
        outbox: Arc<Outbox>,
    ) -> Arc<Self> {
        let shared = Arc::new(Shared {
            runtime,
            network,
            outbox,
            volumes: Volumes::new(&node.data_dir, &node.volumes_dir).on(node.host.clone()),
            node,
            tasks: tasks.clone(),
            may_lower_oom_score: may_lower_oom_score(),
            has_apparmor: has_apparmor(),
            snapshot: Mutex::default(),
            dns: Mutex::default(),
            pressures: Mutex::default(),
            // Not asked yet: well until proven otherwise, so that a restart of the agent shows no node as failing.
            health: watch::Sender::new(Ok(())),
        });
        let pods = Arc::new(Self { shared, workers: Arc::default() });
        tasks.spawn("pods/events", Arc::clone(&pods).listen());
        pods
    }

    /// Whether the container runtime answers, and if not, why: for the node's Ready condition and metrics.
    #[must_use]
    pub fn runtime_health(&self) -> watch::Receiver<Result<(), String>> {
        self.shared.health.subscribe()
    }

    /// The cluster's DNS, as the control plane said in its welcome.
    pub fn set_dns(&self, dns: ClusterDns) {
        *self.shared.dns.lock() = dns;
    }

    /// What the node is under now.
    pub(crate) fn set_pressures(&self, pressures: Pressures) {
        *self.shared.pressures.lock() = pressures;
    }

    /// Ends a pod because the node needs what it has; false if there is none, or it is told already.
    pub(crate) fn evict(&self, uid: &str, evicted: Evicted) -> bool {
        let workers = self.workers.lock();
        let Some(slot) = workers.slots.get(uid) else { return false };
        let mut wish = slot.wish.lock();
        if wish.evicted.is_some() || wish.removed || wish.pod.metadata.deletion_timestamp.is_some() {
            return false;
        }
        wish.evicted = Some(evicted);
        drop(wish);
        slot.bell.notify_one();
        true
    }

    /// Makes the node run what the snapshot says. Until a snapshot was `complete`, nothing is taken away.
    pub fn apply(&self, snapshot: &Arc<Snapshot>, complete: bool) {
        let before = std::mem::replace(&mut *self.shared.snapshot.lock(), Arc::clone(snapshot));
        let mut workers = self.workers.lock();
        let mut wanted = BTreeSet::new();
        for pod in snapshot.pods.values() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            wanted.insert(uid.clone());
            match workers.slots.get(&uid) {
                Some(slot) => update(slot, pod, &before, snapshot),
                None if workers.finished.contains(&uid) => self.say_gone(pod),
                None if is_static(pod) && workers.has_another(pod) => {}
                None => self.hire(&mut workers, uid, Wish::new(Arc::clone(pod), false)),
            }
        }
        for (uid, slot) in workers.slots.iter().filter(|(uid, _)| !wanted.contains(*uid)) {
            // What the node's own folder says holds without a control plane.
            let mut wish = slot.wish.lock();
            if complete || is_static(&wish.pod) {
                wish.removed = true;
                drop(wish);
                tracing::debug!(uid, "pod is not wanted any more");
                slot.bell.notify_one();
            }
        }
        if !complete {
            return;
        }
        workers.finished.retain(|uid| wanted.contains(uid));
        if !std::mem::replace(&mut workers.complete, true) {
            drop(workers);
            self.wake_listener();
        }
    }

    fn wake_listener(&self) {
        // The listener looks for leftovers at its next turn; a change of health is what it waits for besides events.
        self.shared.health.send_modify(|_| {});
    }

    /// The control plane may have missed it the first time.
    fn say_gone(&self, pod: &Pod) {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &pod.metadata;
        self.shared.outbox.pod_gone(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid));
    }

    /// Whether there is still something of a pod.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.workers.lock().slots.contains_key(uid)
    }

    /// Rings when a pod of the node's own folder has left.
    pub(crate) fn left(&self) -> watch::Receiver<u64> {
        self.workers.lock().left.subscribe()
    }

    fn hire(&self, workers: &mut Workers, uid: String, wish: Wish) {
        let is_static = is_static(&wish.pod);
        let slot = Arc::new(Slot { wish: Mutex::new(wish), bell: Notify::new() });
        workers.slots.insert(uid.clone(), Arc::clone(&slot));
        let (shared, everybody) = (Arc::clone(&self.shared), Arc::clone(&self.workers));
        let name = format!("pod/{uid}");
        self.shared.tasks.job(name, async move {
            let finished = worker::run(shared, &uid, slot).await;
            let mut everybody = everybody.lock();
            everybody.slots.remove(&uid);
            if is_static {
                everybody.left.send_modify(|count| *count = count.wrapping_add(1));
            } else if finished {
                everybody.finished.insert(uid);
            }
        });
    }

    /// Turns the runtime's events into bells, and looks at everything now and then: events can be lost.
    async fn listen(self: Arc<Self>) {
        let token = self.shared.tasks.token();
        let mut prints = BTreeMap::new();
        while !token.is_cancelled() {
            let outcome = tokio::select! {
                () = token.cancelled() => return,
                outcome = self.follow(&mut prints) => outcome,
            };
            if let Err(error) = outcome {
                self.shared.runtime_is(Err(error.to_string()));
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    async fn follow(
        &self,
        prints: &mut BTreeMap<String, String>,
    ) -> Result<(), crate::runtime::RuntimeError> {
        self.shared.runtime.version().await?;
        let mut events = self.shared.runtime.events().await?;
        self.shared.runtime_is(Ok(()));
        let mut bell = self.shared.health.subscribe();
        let mut relist = tokio::time::interval(RELIST);
        relist.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.ring(&event?),
                    None => return Ok(()),
                },
                _ = relist.tick() => self.relist(prints).await?,
                _ = bell.changed() => self.relist(prints).await?,
            }
        }
    }

    fn ring(&self, uid: &str) {
        if let Some(slot) = self.workers.lock().slots.get(uid) {
            slot.bell.notify_one();
        }
    }

    async fn relist(
        &self,
        prints: &mut BTreeMap<String, String>,
    ) -> Result<(), crate::runtime::RuntimeError> {
        let found = self.shared.runtime.fingerprints().await?;
        for uid in found.keys().chain(prints.keys()) {
            if found.get(uid) != prints.get(uid) {
                self.ring(uid);
            }
        }
        let mut uids: BTreeSet<String> = found.keys().cloned().collect();
        match self.shared.volumes.pods() {
            Ok(folders) => uids.extend(folders),
            Err(error) => tracing::warn!(%error, "cannot read the folder of pods; leftovers may stay"),
        }
        *prints = found;
        let mut workers = self.workers.lock();
        if workers.complete {
            for uid in uids {
                // Without a worker it is nobody's: its object was removed while the agent was away.
                let known = workers.slots.contains_key(&uid);
                if !known && !uid.is_empty() {
                    let pod = Arc::new(worker::orphan(&uid));
                    self.hire(&mut workers, uid, Wish::new(pod, true));
                }
            }
        }
        Ok(())
    }
}

/// Rings if anything that the pod is made of changed. Its status is our own word.
fn update(slot: &Slot, pod: &Arc<Pod>, before: &Snapshot, after: &Snapshot) {
    let mut wish = slot.wish.lock();
    let old = &wish.pod;
    let (a, b) = (&old.metadata, &pod.metadata);
    let same = !wish.removed
        && old.spec == pod.spec
        && a.labels == b.labels
        && a.annotations == b.annotations
        && a.deletion_timestamp == b.deletion_timestamp
        && a.deletion_grace_period_seconds == b.deletion_grace_period_seconds
        && gates(old) == gates(pod);
    wish.pod = Arc::clone(pod);
    let refreshed = objects_changed(pod.metadata.namespace.as_deref().unwrap_or_default(), before, after);
    wish.refreshed |= refreshed;
    drop(wish);
    if !same || refreshed {
        slot.bell.notify_one();
    }
}

/// What others say of the pod's readiness gates: types and states.
fn gates(pod: &Pod) -> Vec<(&str, &str)> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let of_gates = conditions.iter().filter(|c| gates.iter().any(|gate| gate.condition_type == c.type_));
    of_gates.map(|condition| (&*condition.type_, &*condition.status)).collect()
}

/// Whether a ConfigMap, Secret or claim of the namespace changed, or a RuntimeClass. Only those that pods of this node use are here at all.
fn objects_changed(namespace: &str, before: &Snapshot, after: &Snapshot) -> bool {
    fn differs<T>(namespace: &str, a: &crate::desired::Objects<T>, b: &crate::desired::Objects<T>) -> bool {
        let of = |objects: &crate::desired::Objects<T>| {
            let range = objects.iter().filter(|((ns, _), _)| ns == namespace);
            range.map(|(key, object)| (key.clone(), Arc::as_ptr(object))).collect::<Vec<_>>()
        };
        of(a) != of(b)
    }
    // Endpoints of volumes may be of another namespace; they are few.
    before.endpoints != after.endpoints
        || differs("", &before.runtime_classes, &after.runtime_classes)
        || differs(namespace, &before.config_maps, &after.config_maps)
        || differs(namespace, &before.secrets, &after.secrets)
        || differs(namespace, &before.claims, &after.claims)
}

/// Whether this process has CAP_SYS_RESOURCE (bit 24): without it no process can be given a score below its own, and a
/// container that asks for one does not start (proc_pid_oom_score_adj(5)).
fn may_lower_oom_score() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << 24) != 0
}

/// Whether this kernel enforces AppArmor profiles.
fn has_apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}
