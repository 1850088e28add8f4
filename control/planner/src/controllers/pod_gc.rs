//! Pods that nobody will ever end: bound to a node that is gone, or deleted before they had one.
//!
//! Source: k8s.io/kubernetes/pkg/controller/podgc.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES, PODS};
use oarlock_api::meta;
use serde_json::json;

use super::{Settings, own};
use crate::change::{Change, Part, Plan};
use crate::world::{Key, PodView, World};

/// For how long a node has to be missed before its pods go (`quarantineTime`): it may be registered anew.
const QUARANTINE: i64 = 40;

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == NODES {
        return world.pods_on(&key.1).map(|(key, _)| key.clone()).collect();
    }
    own(kind, &PODS, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(pod) = world.pod(key) else { return Plan::nothing() };
    let Some(node) = &pod.node else {
        let unscheduled = pod.is_terminating() && pod.finalizers.is_empty();
        return if unscheduled { Plan::of(vec![delete(key, pod)]) } else { Plan::nothing() };
    };
    if world.node(node).is_some() {
        return Plan::nothing();
    }
    let Some(since) = world.missed_since(node) else {
        let change = Change::Miss { node: node.to_string(), since: now };
        return Plan::of(vec![change]).again(quarantine(QUARANTINE));
    };
    let left = QUARANTINE - (now.as_second() - since.as_second());
    if left > 0 {
        return Plan::nothing().again(quarantine(left));
    }
    Plan::of(if pod.has_ended() { vec![delete(key, pod)] } else { fail(key, now) })
}

fn quarantine(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, QUARANTINE).unsigned_abs())
}

fn delete(key: &Key, pod: &PodView) -> Change {
    Change::Delete {
        kind: &PODS,
        namespace: key.0.clone(),
        name: key.1.clone(),
        uid: pod.uid.to_string(),
        grace: Some(0),
    }
}

/// Before it goes it is said to have failed: whoever counts it should not take it for one that runs.
fn fail(key: &Key, now: Timestamp) -> Vec<Change> {
    let (namespace, name) = key.clone();
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "PodGC: node no longer exists",
        "lastTransitionTime": meta::time(now),
    });
    vec![
        Change::Condition { namespace: namespace.clone(), name: name.clone(), condition },
        Change::Patch {
            kind: &PODS,
            namespace,
            name,
            part: Part::Status,
            patch: json!({"status": {"phase": "Failed"}}),
        },
    ]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use serde_json::Value;

    use super::*;

    struct Stage {
        world: World,
        now: Timestamp,
    }

    impl Stage {
        fn put(&mut self, kind: &'static Kind, name: &str, object: Value) {
            let namespace = if kind.namespaced { "d" } else { "" };
            self.world.put(kind, namespace, name, &Arc::new(object), 7);
        }

        fn pod(&mut self, node: &str, phase: &str) {
            self.put(
                &PODS,
                "p",
                json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
                "spec": {"nodeName": node}, "status": {"phase": phase}}),
            );
        }

        fn node(&mut self) {
            self.put(&NODES, "n", json!({"metadata": {"name": "n"}}));
        }

        /// What is done so many seconds later, and when it is looked at again.
        fn later(&mut self, seconds: i64) -> (Vec<&'static str>, Option<u64>) {
            self.now += SignedDuration::from_secs(seconds);
            let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
            let plan = plan(&self.world, &settings, &("d".to_owned(), "p".to_owned()), self.now);
            let done = plan.changes.into_iter().map(|change| match change {
                Change::Miss { node, since } => {
                    self.world.miss(&node, since);
                    "miss"
                }
                Change::Condition { condition, .. } if condition["reason"] == "DeletionByPodGC" => {
                    "condition"
                }
                Change::Patch { patch, .. } if patch == json!({"status": {"phase": "Failed"}}) => "fail",
                Change::Delete { grace: Some(0), .. } => "delete",
                _ => "something else",
            });
            (done.collect(), plan.again.map(|again| again.as_secs()))
        }
    }

    fn stage() -> Stage {
        let mut stage = Stage { world: World::default(), now: "2026-01-01T00:00:00Z".parse().unwrap() };
        stage.node();
        stage.pod("n", "Running");
        stage
    }

    #[test]
    fn pods_of_a_node_that_is_gone_go_after_its_quarantine() {
        let mut stage = stage();
        assert_eq!(stage.later(0), (vec![], None));
        stage.world.delete(&NODES, "", "n", 8);
        assert_eq!(stage.later(100), (vec!["miss"], Some(40)));
        assert_eq!(stage.later(30), (vec![], Some(10)));
        assert_eq!(stage.later(10), (vec!["condition", "fail"], None));
        stage.pod("n", "Failed");
        assert_eq!(stage.later(0), (vec!["delete"], None));
        stage.world.delete(&PODS, "d", "p", 9);
        stage.pod("n", "Running");
        assert_eq!(stage.later(0).0, ["miss"], "nobody was left who would miss it");
    }

    #[test]
    fn a_node_that_comes_back_keeps_its_pods() {
        let mut stage = stage();
        stage.world.delete(&NODES, "", "n", 8);
        assert_eq!(stage.later(0).0, ["miss"]);
        stage.node();
        assert_eq!(stage.later(60), (vec![], None));
        stage.world.delete(&NODES, "", "n", 8);
        assert_eq!(stage.later(0), (vec!["miss"], Some(40)), "it is missed from now on");
    }

    #[test]
    fn a_pod_that_is_deleted_before_it_has_a_node_goes_at_once() {
        let mut stage = stage();
        let pod = |finalizers: Value| {
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": finalizers}, "spec": {}})
        };
        stage.put(&PODS, "p", pod(json!(["example.com/held"])));
        assert_eq!(stage.later(0).0, [""; 0]);
        stage.put(&PODS, "p", pod(json!([])));
        assert_eq!(stage.later(0).0, ["delete"]);
    }
}
