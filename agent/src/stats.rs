//! What pods and the node use: read from the kernel from time to time and told to the control plane, which serves `metrics.k8s.io`,
//! `/stats/summary` and `/metrics/resource` from it.
//!
//! In: the pods that run, counters of cgroups and links. Out: one report each [`INTERVAL`]; a rate needs two looks, so what has just
//! begun comes with the second.

mod cgroup;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_api::node::{ContainerUsage, FilesystemUsage, PodUsage, StatsReport, Usage};
use oarlock_daemon::Tasks;

use crate::desired::{Desired, Snapshot};
use crate::net::Network;
use crate::outbox::Outbox;
pub(crate) use cgroup::Cgroups;
use cgroup::{Used, field};

/// How often everything is looked at.
const INTERVAL: Duration = Duration::from_secs(10);

/// Received and sent bytes of pods by uid.
type Traffic = BTreeMap<String, (u64, u64)>;

/// Reads counters and remembers the last look.
pub(crate) struct Sampler {
    cgroups: Cgroups,
    /// The node's own cgroup, above those of its pods.
    parent: String,
    data_dir: PathBuf,
    boot: Option<Timestamp>,
    /// Processor time by cgroup at the last look; that of the machine under the empty name.
    before: BTreeMap<String, u64>,
    looked: Option<Instant>,
}

impl Sampler {
    /// For a node whose pods' cgroups are below `parent`.
    pub(crate) fn new(parent: String, data_dir: PathBuf) -> Self {
        Self {
            cgroups: Cgroups::detect(std::path::Path::new("/sys/fs/cgroup")),
            parent: parent.trim_end_matches('/').to_owned(),
            data_dir,
            boot: boot_time(),
            before: BTreeMap::new(),
            looked: None,
        }
    }

    /// Looks at everything.
    pub(crate) fn look(&mut self, snapshot: &Snapshot, traffic: &Traffic, now: Timestamp) -> StatsReport {
        let moment = Instant::now();
        let window = self.looked.replace(moment).map(|before| moment.duration_since(before));
        let mut seen = BTreeSet::new();
        let node = self.node(window, &mut seen);
        let pods =
            snapshot.pods.values().filter_map(|pod| self.pod(pod, traffic, window, &mut seen)).collect();
        self.before.retain(|cgroup, _| seen.contains(cgroup));
        StatsReport {
            at_unix_ms: now.as_millisecond(),
            window_ms: window.map_or(0, |window| u32::try_from(window.as_millis()).unwrap_or(u32::MAX)),
            node: Some(node),
            pods,
            boot_unix_ms: self.boot.map_or(0, Timestamp::as_millisecond),
            filesystem: filesystem(&self.data_dir),
        }
    }

    fn node(&mut self, window: Option<Duration>, seen: &mut BTreeSet<String>) -> Usage {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = |name: &str| field(&meminfo, name).unwrap_or(0).saturating_mul(1024);
        let memory = kib("MemTotal").saturating_sub(kib("MemFree"));
        let used = Used {
            cpu_nanos: self.cgroups.machine_cpu().unwrap_or(0),
            memory,
            working_set: memory.saturating_sub(kib("Inactive(file)")),
            rss: kib("AnonPages"),
        };
        self.rated(String::new(), used, window, seen)
    }

    fn pod(
        &mut self,
        pod: &Pod,
        traffic: &Traffic,
        window: Option<Duration>,
        seen: &mut BTreeSet<String>,
    ) -> Option<PodUsage> {
        let uid = pod.metadata.uid.as_deref()?;
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let mut containers = Vec::with_capacity(statuses.len());
        for status in statuses {
            let Some(running) = status.state.as_ref().and_then(|state| state.running.as_ref()) else {
                continue;
            };
            let Some(id) = status.container_id.as_deref().and_then(|id| id.strip_prefix("docker://")) else {
                continue;
            };
            let cgroup = format!("{}/pod{uid}/{id}", self.parent);
            let Some(used) = self.cgroups.read(&cgroup) else { continue };
            containers.push(ContainerUsage {
                name: status.name.clone(),
                usage: Some(self.rated(cgroup, used, window, seen)),
                started_unix_ms: running.started_at.as_ref().map_or(0, |at| at.0.as_millisecond()),
            });
        }
        if containers.is_empty() {
            return None;
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let whole = format!("{}/pod{uid}", self.parent);
        let whole = self.cgroups.read(&whole).map(|used| self.rated(whole, used, window, seen));
        let (rx_bytes, tx_bytes) = traffic.get(uid).copied().unwrap_or_default();
        Some(PodUsage {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: uid.to_owned(),
            containers,
            usage: whole,
            has_network: traffic.contains_key(uid),
            rx_bytes,
            tx_bytes,
        })
    }

    /// With the rate since the last look, where there was one.
    fn rated(
        &mut self,
        cgroup: String,
        used: Used,
        window: Option<Duration>,
        seen: &mut BTreeSet<String>,
    ) -> Usage {
        let before = self.before.insert(cgroup.clone(), used.cpu_nanos);
        seen.insert(cgroup);
        let spent = before.zip(window).and_then(|(before, window)| {
            let spent = u128::from(used.cpu_nanos.checked_sub(before)?);
            u64::try_from(spent * 1_000_000_000 / window.as_nanos().max(1)).ok()
        });
        Usage {
            cpu_nanos: used.cpu_nanos,
            cpu_nano_cores: spent,
            memory: used.memory,
            working_set: used.working_set,
            rss: used.rss,
        }
    }
}

fn boot_time() -> Option<Timestamp> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    Timestamp::from_second(i64::try_from(field(&stat, "btime")?).ok()?).ok()
}

fn filesystem(path: &std::path::Path) -> Option<FilesystemUsage> {
    let stat = nix::sys::statvfs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    Some(FilesystemUsage {
        capacity: bytes(stat.blocks()),
        available: bytes(stat.blocks_available()),
        used: bytes(stat.blocks().saturating_sub(stat.blocks_free())),
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

/// Tells the control plane, until shutdown.
pub(crate) async fn run(
    mut sampler: Sampler,
    desired: Arc<Desired>,
    network: Arc<Network>,
    outbox: Arc<Outbox>,
    tasks: Tasks,
) {
    let token = tasks.token();
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = token.cancelled() => return,
        }
        let (snapshot, complete) = desired.snapshot();
        if !complete {
            continue;
        }
        let traffic = network.traffic().await;
        // A few hundred small files: not for a thread that has streams to serve.
        let looked = tokio::task::spawn_blocking(move || {
            let report = sampler.look(&snapshot, &traffic, Timestamp::now());
            (sampler, report)
        });
        let Ok((back, report)) = looked.await else { return };
        sampler = back;
        outbox.stats(report);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    fn sampler(root: &std::path::Path) -> Sampler {
        let mut sampler = Sampler::new("/oarlock/n1/".into(), "/".into());
        sampler.cgroups = Cgroups::detect(root);
        sampler
    }

    fn count(root: &std::path::Path, cgroup: &str, cpu_usec: u64) {
        let path = root.join(cgroup);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("cpu.stat"), format!("usage_usec {cpu_usec}\n")).unwrap();
        fs::write(path.join("memory.current"), "4096").unwrap();
        fs::write(path.join("memory.stat"), "anon 1\ninactive_file 96\n").unwrap();
    }

    #[test]
    fn a_rate_comes_with_the_second_look_and_a_new_container_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        let mut sampler = sampler(root.path());
        let pod = |id: &str| {
            let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u1"}, "status": {"containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0, "containerID": format!("docker://{id}"),
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
                {"name": "waits", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {}}}]}});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let mut snapshot = Snapshot::default();
            snapshot.pods.insert(("d".into(), "p".into()), Arc::new(pod));
            snapshot
        };
        let traffic = Traffic::from([("u1".to_owned(), (7, 9))]);
        let now = Timestamp::UNIX_EPOCH;
        count(root.path(), "oarlock/n1/podu1", 0);
        count(root.path(), "oarlock/n1/podu1/a", 1000);
        let first = sampler.look(&pod("a"), &traffic, now);
        let of = |report: &StatsReport| report.pods[0].containers[0].usage.unwrap();
        assert_eq!((of(&first).cpu_nano_cores, of(&first).working_set), (None, 4000));
        assert_eq!((first.pods[0].rx_bytes, first.pods[0].tx_bytes), (7, 9));
        assert_eq!(first.pods[0].containers.len(), 1, "what does not run uses nothing");
        count(root.path(), "oarlock/n1/podu1/a", 2000);
        sampler.looked = sampler.looked.and_then(|at| at.checked_sub(Duration::from_secs(1)));
        let second = of(&sampler.look(&pod("a"), &traffic, now)).cpu_nano_cores.unwrap();
        assert!((500_000..=1_000_000).contains(&second), "{second} of a millisecond in a second");
        count(root.path(), "oarlock/n1/podu1/b", 10);
        assert_eq!(of(&sampler.look(&pod("b"), &traffic, now)).cpu_nano_cores, None);
        assert!(!sampler.before.contains_key("/oarlock/n1/podu1/a"), "what is gone is forgotten");
        assert!(sampler.look(&pod("gone"), &traffic, now).pods.is_empty());
    }

    #[test]
    fn the_node_is_looked_at_as_a_whole() {
        let mut sampler = Sampler::new("/oarlock/n1".into(), "/".into());
        let report = sampler.look(&Snapshot::default(), &Traffic::new(), Timestamp::now());
        let node = report.node.unwrap();
        assert!(node.memory > 0 && node.working_set <= node.memory, "{node:?}");
        assert!(report.filesystem.unwrap().capacity > 0 && report.boot_unix_ms > 0);
    }
}
