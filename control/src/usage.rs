//! What nodes say that they and their pods use: the latest report of each, in memory alone.
//!
//! In: reports of agents, and of other control planes about theirs (`share`). Out: usage of pods for the controllers, of pods and nodes for
//! `metrics.k8s.io`, and of a node with everything on it for `/stats/summary`. Who does not report any more is forgotten when the session
//! ends, and not believed a minute after the last report.

pub(crate) mod share;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::node;
use oarlock_planner::{ContainerUsage, Key, PodUsage, Usage};
use parking_lot::{Mutex, RwLock};
use share::Conversation;

/// Who has been heard by nobody but us.
const OWN: Conversation = 0;

/// The latest reports. Shared by reference.
#[derive(Debug, Default)]
pub struct Board {
    inner: RwLock<Inner>,
    pods: Mutex<OfPods>,
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<String, Arc<NodeUsage>>,
    /// The number of the last report.
    last: u64,
}

/// The reports by pod, as they were when somebody asked last: reports come all the time, and are seldom asked for.
#[derive(Debug, Default)]
struct OfPods {
    pods: Usage,
    nodes: BTreeMap<String, Arc<NodeUsage>>,
}

/// A node's report.
#[derive(Debug)]
pub struct NodeUsage {
    /// When it was heard.
    pub at: Timestamp,
    /// What it says.
    pub report: node::StatsReport,
    /// By whom.
    from: Conversation,
    /// In the order of hearing.
    number: u64,
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
        self.inner.write().put(node, report, now, OWN);
    }

    /// Takes a report that another control plane heard, unless a later one is known.
    fn take_shared(&self, node: &str, report: node::StatsReport, at: Timestamp, from: Conversation) {
        let mut inner = self.inner.write();
        if inner.nodes.get(node).is_none_or(|known| known.at < at) {
            inner.put(node, report, at, from);
        }
    }

    /// The agent of a node has gone: to another control plane, perhaps, which may have told of it by now.
    pub fn forget(&self, node: &str) {
        let mut inner = self.inner.write();
        if inner.nodes.get(node).is_some_and(|usage| usage.from == OWN) {
            inner.remove(node);
        }
    }

    /// Forgets what nobody believes any more.
    fn prune(&self, now: Timestamp) {
        let mut inner = self.inner.write();
        let old = inner.nodes.iter().filter(|(_, usage)| !oarlock_planner::is_fresh(usage.at, now));
        for node in old.map(|(node, _)| node.clone()).collect::<Vec<_>>() {
            inner.remove(&node);
        }
    }

    /// What was heard after a number and not in that conversation, and the number of the last.
    fn news(&self, after: u64, but: Conversation) -> (Vec<(String, Arc<NodeUsage>)>, u64) {
        let inner = self.inner.read();
        let is_new = |usage: &NodeUsage| usage.number > after && usage.from != but;
        let news = inner.nodes.iter().filter(|(_, usage)| is_new(usage));
        (news.map(|(node, usage)| (node.clone(), Arc::clone(usage))).collect(), inner.last)
    }

    /// What all pods use.
    #[must_use]
    pub fn pods(&self) -> Usage {
        let mut pods = self.pods.lock();
        let now = self.inner.read().nodes.clone();
        pods.follow(now);
        pods.pods.clone()
    }

    /// The last report of a node that still says something of the present.
    #[must_use]
    pub fn node(&self, node: &str, now: Timestamp) -> Option<Arc<NodeUsage>> {
        let usage = self.inner.read().nodes.get(node).cloned()?;
        oarlock_planner::is_fresh(usage.at, now).then_some(usage)
    }
}

impl Inner {
    fn put(&mut self, node: &str, report: node::StatsReport, at: Timestamp, from: Conversation) {
        self.last += 1;
        let usage = NodeUsage { at, report, from, number: self.last };
        self.nodes.insert(node.to_owned(), Arc::new(usage));
    }

    fn remove(&mut self, node: &str) {
        self.nodes.remove(node);
    }
}

impl OfPods {
    fn follow(&mut self, now: BTreeMap<String, Arc<NodeUsage>>) {
        let before = std::mem::take(&mut self.nodes);
        let is_same = |node: &str, usage| now.get(node).is_some_and(|now| Arc::ptr_eq(now, usage));
        let past: Vec<_> = before.iter().filter(|(node, usage)| !is_same(node, usage)).collect();
        for (key, uid) in past.into_iter().flat_map(|(_, usage)| usage.keys()) {
            // One that another node has reported since is another pod.
            if self.pods.get(&key).is_some_and(|usage| &*usage.uid == uid) {
                self.pods.remove(&key);
            }
        }
        let is_new = |node: &str, usage| before.get(node).is_none_or(|before| !Arc::ptr_eq(before, usage));
        let mut new: Vec<_> =
            now.iter().filter(|(node, usage)| is_new(node, usage)).map(|(_, usage)| usage).collect();
        // Of two that speak of one name the later one knows.
        new.sort_by_key(|usage| usage.number);
        for usage in new {
            for pod in &usage.report.pods {
                if let Some(measured) = measured(pod, usage) {
                    self.pods.insert((pod.namespace.clone(), pod.name.clone()), Arc::new(measured));
                }
            }
        }
        self.nodes = now;
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

    #[test]
    fn what_others_heard_is_taken_when_it_is_later_and_told_to_all_but_who_told_it() {
        let board = Board::default();
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let names = |news: (Vec<(String, Arc<NodeUsage>)>, u64)| {
            (news.0.into_iter().map(|(node, _)| node).collect::<Vec<_>>(), news.1)
        };
        board.take("own", report(&[("a", "u1", Some(5))]), at(10));
        board.take_shared("other", report(&[("b", "u2", Some(5))]), at(10), 1);
        assert_eq!(names(board.news(0, 1)), (vec!["own".to_owned()], 2));
        assert_eq!(names(board.news(0, 2)), (vec!["other".to_owned(), "own".to_owned()], 2));
        assert_eq!(names(board.news(1, 2)), (vec!["other".to_owned()], 2));
        // What is late changes nothing.
        board.take_shared("own", report(&[]), at(9), 1);
        assert_eq!(names(board.news(2, 9)), (vec![], 2));
        assert_eq!(board.pods().len(), 2);
        // The agent of one went over to the other control plane, which says so before its session here ends.
        board.take_shared("own", report(&[("a", "u1", Some(6))]), at(20), 1);
        board.forget("own");
        assert_eq!(board.pods().len(), 2);
        board.prune(at(71));
        assert_eq!(names(board.news(0, 9)), (vec!["own".to_owned()], 3), "a minute after the report");
        board.prune(at(81));
        assert_eq!(board.pods().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_conversation_tells_both_sides_all_and_nothing_twice() {
        let boards = [(); 2].map(|()| Board::default());
        let now = Timestamp::now();
        boards[0].take("n1", report(&[("a", "u1", Some(5))]), now);
        boards[1].take("n2", report(&[("b", "u2", Some(5))]), now);
        let (to_second, from_first) = tokio::sync::mpsc::channel(8);
        let (to_first, from_second) = tokio::sync::mpsc::channel(8);
        let counted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let heard = |receiver| {
            use tokio_stream::StreamExt as _;
            let counted = Arc::clone(&counted);
            tokio_stream::wrappers::ReceiverStream::new(receiver).map(move |shared| {
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(shared)
            })
        };
        let both = async {
            tokio::join!(
                share::converse(&boards[0], heard(from_second), &to_second),
                share::converse(&boards[1], heard(from_first), &to_first),
            )
        };
        assert!(tokio::time::timeout(Duration::from_secs(20), both).await.is_err(), "it goes on");
        for board in &boards {
            assert_eq!(board.pods().len(), 2);
            assert!(board.node("n1", now).is_some() && board.node("n2", now).is_some());
        }
        assert_eq!(counted.load(std::sync::atomic::Ordering::Relaxed), 2);
    }
}
