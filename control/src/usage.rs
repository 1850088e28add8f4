//! What nodes say that they and their pods use: the latest report of each, in memory alone.
//!
//! In: reports of agents. Out: usage of pods for the controllers, of pods and nodes for `metrics.k8s.io`, and of a node with everything on
//! it for `/stats/summary`. Who does not report any more is forgotten when the session ends, and not believed a minute after the last
//! report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::node;
use oarlock_planner::{ContainerUsage, Key, PodUsage, Usage};
use parking_lot::RwLock;

/// The latest reports. Shared by reference.
#[derive(Debug, Default)]
pub struct Board {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<String, Arc<NodeUsage>>,
    pods: Usage,
}

/// A node's report.
#[derive(Debug)]
pub struct NodeUsage {
    /// When it was heard.
    pub at: Timestamp,
    /// What it says.
    pub report: node::StatsReport,
}

impl NodeUsage {
    /// Over what time processor time was measured.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.report.window_ms.into())
    }

    fn keys(&self) -> impl Iterator<Item = (Key, &str)> {
        self.report.pods.iter().map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod.uid.as_str()))
    }
}

impl Board {
    /// Takes a report that was heard now.
    pub fn take(&self, node: &str, report: node::StatsReport, now: Timestamp) {
        let usage = Arc::new(NodeUsage { at: now, report });
        let mut inner = self.inner.write();
        let before = inner.nodes.insert(node.to_owned(), Arc::clone(&usage));
        inner.forget_pods(before.as_deref());
        for pod in &usage.report.pods {
            if let Some(measured) = measured(pod, &usage) {
                inner.pods.insert((pod.namespace.clone(), pod.name.clone()), Arc::new(measured));
            }
        }
    }

    /// A node has gone.
    pub fn forget(&self, node: &str) {
        let mut inner = self.inner.write();
        let before = inner.nodes.remove(node);
        inner.forget_pods(before.as_deref());
    }

    /// What all pods use.
    #[must_use]
    pub fn pods(&self) -> Usage {
        self.inner.read().pods.clone()
    }

    /// The last report of a node that still says something of the present.
    #[must_use]
    pub fn node(&self, node: &str, now: Timestamp) -> Option<Arc<NodeUsage>> {
        let usage = self.inner.read().nodes.get(node).cloned()?;
        oarlock_planner::is_fresh(usage.at, now).then_some(usage)
    }
}

impl Inner {
    /// A pod that another node has reported since stays.
    fn forget_pods(&mut self, before: Option<&NodeUsage>) {
        for (key, uid) in before.into_iter().flat_map(NodeUsage::keys) {
            if self.pods.get(&key).is_some_and(|usage| &*usage.uid == uid) {
                self.pods.remove(&key);
            }
        }
    }
}

/// What a pod uses; nothing while a part of it has not been looked at twice.
fn measured(pod: &node::PodUsage, of: &NodeUsage) -> Option<PodUsage> {
    let container = |container: &node::ContainerUsage| {
        let usage = container.usage.as_ref()?;
        Some(ContainerUsage {
            name: container.name.as_str().into(),
            cpu_nano_cores: usage.cpu_nano_cores?,
            memory: usage.working_set,
        })
    };
    let containers = pod.containers.iter().map(container).collect::<Option<_>>()?;
    Some(PodUsage { uid: pod.uid.as_str().into(), at: of.at, window: of.window(), containers })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report about pods `d/<name>` with one container that uses so many millicores.
    pub(crate) fn report(pods: &[(&str, &str, Option<u64>)]) -> node::StatsReport {
        let usage = |milli: Option<u64>| node::Usage {
            cpu_nanos: 5_000_000_000,
            cpu_nano_cores: milli.map(|milli| milli * 1_000_000),
            memory: 3 << 20,
            working_set: 2 << 20,
            rss: 1 << 20,
        };
        let pods = pods.iter().map(|(name, uid, milli)| node::PodUsage {
            namespace: "d".into(),
            name: (*name).into(),
            uid: (*uid).into(),
            containers: vec![node::ContainerUsage {
                name: "c".into(),
                usage: Some(usage(*milli)),
                started_unix_ms: 1_767_225_600_000,
            }],
            usage: Some(usage(*milli)),
            has_network: true,
            rx_bytes: 7,
            tx_bytes: 9,
        });
        node::StatsReport {
            at_unix_ms: 1_767_225_610_500,
            window_ms: 10_250,
            node: Some(usage(Some(1500))),
            pods: pods.collect(),
            boot_unix_ms: 1_767_225_600_000,
            filesystem: Some(node::FilesystemUsage {
                capacity: 10,
                available: 6,
                used: 4,
                inodes: 3,
                inodes_free: 1,
            }),
        }
    }

    #[test]
    fn a_pod_is_known_from_the_second_look_to_the_last_report() {
        let (board, now) = (Board::default(), Timestamp::UNIX_EPOCH);
        let names = || board.pods().keys().map(|(_, name)| name.clone()).collect::<Vec<_>>();
        board.take("n1", report(&[("a", "u1", Some(5)), ("begins", "u2", None)]), now);
        assert_eq!(names(), ["a"]);
        // It moved to another node, under the same name; what the first says of its own does not matter any more.
        board.take("n2", report(&[("a", "u3", Some(6))]), now);
        board.take("n1", report(&[]), now);
        assert_eq!(names(), ["a"]);
        board.forget("n2");
        assert_eq!(names(), Vec::<String>::new());
        let later = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(board.node("n1", later(60)).is_some());
        assert!(board.node("n1", later(61)).is_none(), "what is old is not believed");
        assert!(board.node("n2", now).is_none());
    }
}
