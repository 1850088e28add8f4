//! Brings Services into the kernel: the step that the node agent and `oarlock-agent proxy` share.
//!
//! In: a snapshot, whether it is whole, the pods of this node. Out: the dataplane's tables, the health of `dataplane`. Nothing
//! is taken away before a whole snapshot has come.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use oarlock_daemon::admin::Health;
use parking_lot::Mutex;

use crate::dataplane::{Changed, Dataplane, DataplaneConfig, DataplaneError, Directory, Overlay, PodLink};
use crate::desired::Snapshot;
use crate::net::NodeRoute;
use crate::plugged::Known;

/// What the kernel is to answer for.
pub(crate) struct Wanted {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Whether absence from the snapshot means anything.
    pub(crate) complete: bool,
    pub(crate) pods: LocalPods,
    /// The ranges of all pods.
    pub(crate) cluster_cidrs: Vec<IpNet>,
    /// By which link other nodes' pods are reached, if not by the uplinks.
    pub(crate) overlay: Option<Overlay>,
    /// The ways to other nodes' pods, where they are ours to keep. For those who look.
    pub(crate) routes: Option<BTreeSet<NodeRoute>>,
}

/// The pods of this node.
pub(crate) enum LocalPods {
    /// Ours: each has a link that we made.
    Linked(BTreeMap<Ipv4Addr, PodLink>),
    /// Somebody else's: only their addresses are known.
    Foreign(BTreeSet<IpAddr>),
}

/// What the kernel was last to answer for, for those who look.
pub(crate) struct Told {
    pub(crate) config: DataplaneConfig,
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) directory: Arc<Directory>,
    /// Pods that are known until the next time although they may be gone.
    pub(crate) leaving: BTreeSet<IpAddr>,
}

/// Where that is written.
pub(crate) type Board = Arc<Mutex<Option<Told>>>;

/// The dataplane and where its health is told.
pub(crate) struct Services {
    /// Away only while a thread works on it.
    dataplane: Option<Dataplane>,
    config: DataplaneConfig,
    directory: Arc<Directory>,
    board: Board,
    health: Health,
    is_well: bool,
    known: Arc<Known>,
    /// The pods that the tables lead to, if they are somebody else's and the tables were written.
    led_to: Option<BTreeSet<IpAddr>>,
}

impl Services {
    /// The uids of the pods for which policies are enforced are told to `known`.
    pub(crate) fn new(dataplane: Dataplane, health: Health, board: Board, known: Arc<Known>) -> Self {
        let (config, directory) = (dataplane.config().clone(), dataplane.directory());
        let (dataplane, led_to) = (Some(dataplane), None);
        Self { dataplane, config, directory, board, health, is_well: false, known, led_to }
    }

    /// Makes the kernel answer for what is wanted. False: the dataplane is lost, by a panic or the end of the process.
    pub(crate) async fn apply(&mut self, wanted: Wanted) -> bool {
        let Some(mut taken) = self.dataplane.take() else { return false };
        let mut led_to = self.led_to.take();
        let wanted = Arc::new(wanted);
        *self.board.lock() = Some(Told {
            config: self.config.clone(),
            wanted: Arc::clone(&wanted),
            directory: Arc::clone(&self.directory),
            leaving: led_to.clone().unwrap_or_default(),
        });
        let known = Arc::clone(&self.known);
        let work = tokio::task::spawn_blocking(move || {
            let outcome = write(&mut taken, &wanted, &mut led_to, &known);
            (taken, led_to, outcome)
        });
        let Ok((taken, led_to, outcome)) = work.await else { return false };
        self.led_to = led_to;
        self.dataplane = Some(taken);
        match &outcome {
            Ok(done) if done.written + done.removed > 0 => {
                tracing::debug!(
                    written = done.written,
                    removed = done.removed,
                    "services written to the kernel"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, "services cannot be written to the kernel; trying again");
            }
        }
        self.is_well = outcome.is_ok();
        self.health.set("dataplane", outcome.map(drop).map_err(|e| e.to_string()));
        true
    }

    /// Whether what was wanted last is in the kernel.
    pub(crate) fn is_well(&self) -> bool {
        self.is_well
    }
}

fn write(
    dataplane: &mut Dataplane,
    wanted: &Wanted,
    led_to: &mut Option<BTreeSet<IpAddr>>,
    known: &Known,
) -> Result<Changed, DataplaneError> {
    for cidr in &wanted.cluster_cidrs {
        dataplane.set_cluster_cidr(*cidr);
    }
    let plugged = match &wanted.pods {
        LocalPods::Linked(pods) => dataplane.set_pods(pods),
        // Not known before a whole snapshot has come: those that are pinned stand.
        LocalPods::Foreign(pods) if wanted.complete => tell_foreign(dataplane, pods, led_to.as_ref()),
        LocalPods::Foreign(_) => Ok(()),
    };
    let reached = dataplane.set_overlay(wanted.overlay.as_ref());
    if let Err(error) = dataplane.collect() {
        // Their places are taken when they are needed.
        tracing::warn!(%error, "flows that are over cannot be collected");
    }
    let enforced = if wanted.complete { dataplane.enforce(&wanted.snapshot) } else { Ok(()) };
    if let (LocalPods::Linked(pods), true, true) = (&wanted.pods, wanted.complete, enforced.is_ok()) {
        let linked = pods.iter().filter(|(ip, _)| dataplane.is_linked(**ip));
        known.send_replace(linked.map(|(_, link)| link.uid.clone()).collect());
    }
    let outcome = if wanted.complete { dataplane.sync(&wanted.snapshot) } else { Ok(Changed::default()) };
    let outcome = outcome.and_then(|changed| plugged.and(reached).and(enforced).map(|()| changed));
    if let (LocalPods::Foreign(pods), true, true) = (&wanted.pods, wanted.complete, outcome.is_ok()) {
        *led_to = Some(pods.clone());
    }
    outcome
}

/// What the tables still lead to stays known until the time after they were written: by then no packet is under way by the old ones.
fn tell_foreign(
    dataplane: &mut Dataplane,
    pods: &BTreeSet<IpAddr>,
    led_to: Option<&BTreeSet<IpAddr>>,
) -> Result<(), DataplaneError> {
    dataplane.add_foreign_pods(pods)?;
    led_to.map_or(Ok(()), |led_to| dataplane.keep_foreign_pods(&(pods | led_to)))
}
