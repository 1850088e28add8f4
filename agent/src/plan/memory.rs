//! What a pod's worker remembers between two plans: nothing that could not be lost, but for the order of a deletion.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::dual_ip::DualIp;

/// The first wait after a failure.
const FIRST: SignedDuration = SignedDuration::from_secs(10);
/// The longest wait after a failure.
const LONGEST: SignedDuration = SignedDuration::from_mins(5);

/// The memory of one worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// When the agent first saw the pod.
    pub(crate) start_time: Option<Timestamp>,
    /// The pod is to go.
    pub(crate) deletion: Option<Deletion>,
    /// The pod ended for a reason of its own.
    pub(crate) end: Option<PodEnd>,
    /// The pod was over before this agent started: nothing of it may run again.
    pub(crate) was_over: bool,
    /// The sandbox that has a network, and its addresses.
    pub(crate) network: Option<(String, DualIp)>,
    /// The addresses that the pod was known by when this agent started. They stand until its network is looked at: taking
    /// them back for that moment would take the pod out of its Services.
    pub(crate) former_ip: Option<DualIp>,
    /// Whether the network of the pod may still exist.
    pub(crate) network_removed: bool,
    /// The pod's files are there.
    pub(crate) volumes_ready: bool,
    /// The pod's files have been removed.
    pub(crate) volumes_removed: bool,
    /// Waits: `volumes`, `sandbox`, `network`.
    pub(crate) retries: BTreeMap<&'static str, Retry>,
    /// The images of containers to be started, by container.
    pub(crate) pulls: BTreeMap<String, Pull>,
    /// Containers that could not be created or started, by name.
    pub(crate) failures: BTreeMap<String, Retry>,
    /// Containers that are being ended, by id.
    pub(crate) stops: BTreeMap<String, Stop>,
    /// Containers whose postStart hook runs, by id.
    pub(crate) post_starting: BTreeSet<String>,
    /// Containers that have to be ended, and why, by id: liveness, hooks.
    pub(crate) condemned: BTreeMap<String, (String, Option<u64>)>,
    /// Container restarts that were announced, by id of the container that ended.
    pub(crate) announced: BTreeSet<String>,
    /// What probes say, by id.
    pub(crate) probes: BTreeMap<String, Probed>,
    /// Termination messages, by id.
    pub(crate) messages: BTreeMap<String, String>,
}

/// What probes say about a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Probed {
    /// Its startup probe succeeded, or it has none.
    pub(crate) started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub(crate) ready: bool,
}

/// A wait after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retry {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
    pub(crate) delay: SignedDuration,
}

impl Retry {
    /// A failure after the one before, if there was one: waits twice as long.
    pub(crate) fn after(before: Option<&Self>, reason: &str, message: String, now: Timestamp) -> Self {
        Self::with_first(FIRST, before, reason, message, now)
    }

    /// The same, beginning with a shorter wait.
    pub(crate) fn with_first(
        first: SignedDuration,
        before: Option<&Self>,
        reason: &str,
        message: String,
        now: Timestamp,
    ) -> Self {
        let delay = before.map_or(first, |b| (b.delay * 2).min(LONGEST));
        Self { reason: reason.to_owned(), message, at: now.checked_add(delay).unwrap_or(now), delay }
    }
}

/// The image of a container to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pull {
    /// Somebody is at it.
    Running { before: Option<Retry> },
    /// It is here.
    Present { image: crate::runtime::Image },
    /// It is not.
    Failed(Retry),
}

/// A container on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stop {
    pub(crate) phase: StopPhase,
    /// When it is ended by force.
    pub(crate) deadline: Timestamp,
}

/// How far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopPhase {
    /// Its preStop hook runs.
    PreStop,
    /// It may be asked to end.
    Ready,
    /// It was asked.
    Asked,
}

/// A deletion that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// By then everything is ended by force.
    pub(crate) deadline: Timestamp,
}

/// A pod that ended for a reason of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodEnd {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) kind: EndKind,
    /// The disk is short: what it wrote goes with it, not with its object.
    pub(crate) frees_disk: bool,
    /// How many seconds containers may take to end, where the pod has no say in it.
    pub(crate) grace: Option<u64>,
}

/// In which way a pod ends for a reason of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndKind {
    /// Its time is over.
    Deadline,
    /// It never began: this node does not take it.
    Rejected,
    /// It used more than it may, or the node needs what it has; its containers have a second to end.
    Evicted,
}

impl PodEnd {
    pub(crate) fn deadline_exceeded() -> Self {
        Self {
            reason: "DeadlineExceeded".to_owned(),
            message: "Pod was active on the node longer than the specified deadline".to_owned(),
            kind: EndKind::Deadline,
            frees_disk: false,
            grace: None,
        }
    }

    pub(crate) fn rejected(reason: &str, message: String) -> Self {
        Self { reason: reason.to_owned(), message, kind: EndKind::Rejected, frees_disk: false, grace: None }
    }

    pub(crate) fn evicted(message: String) -> Self {
        Self {
            reason: "Evicted".to_owned(),
            message,
            kind: EndKind::Evicted,
            frees_disk: false,
            grace: Some(1),
        }
    }

    /// The node needs the disk that it has.
    pub(crate) fn freeing_disk(self) -> Self {
        Self { frees_disk: true, ..self }
    }

    /// It has so many seconds to end.
    pub(crate) fn within(self, grace: u64) -> Self {
        Self { grace: Some(grace), ..self }
    }
}

/// The wait before the container after next, given the wait before this one and how long this one ran (kubelet's
/// `MaxContainerBackOff`: 10 s doubling to 5 min, forgotten after 10 min of running).
pub(crate) fn next_backoff(
    last: std::time::Duration,
    ran: SignedDuration,
) -> (std::time::Duration, std::time::Duration) {
    let zero = std::time::Duration::ZERO;
    if ran >= LONGEST * 2 {
        return (zero, FIRST.unsigned_abs());
    }
    let next = if last.is_zero() { FIRST.unsigned_abs() } else { (last * 2).min(LONGEST.unsigned_abs()) };
    (last, next)
}
