//! DaemonSets in the simulated cluster: one pod a node whatever happens, rollouts within their bounds at every step.

use std::collections::BTreeMap;

use oarlock_api::catalogue::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use oarlock_planner::Part;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SEEDS, image, ready, seeds};

fn daemon_set(strategy: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "updateStrategy": strategy, "revisionHistoryLimit": 2,
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]}}}})
}

fn rolling(unavailable: i64, surge: i64) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}})
}

fn node(cluster: &mut Cluster, name: &str, spec: &Value) {
    let key = (String::new(), name.to_owned());
    cluster.store.patch(&NODES, &key, Part::Main, &json!({"spec": spec})).unwrap();
}

/// Pods that are not going, by node.
fn by_node(cluster: &Cluster) -> BTreeMap<String, Vec<&Value>> {
    let mut nodes: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for pod in cluster.store.all(&PODS) {
        nodes.entry(pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned()).or_default().push(pod);
    }
    nodes
}

fn is_as_wanted(cluster: &Cluster, nodes: usize, image: &str) {
    let seed = cluster.seed;
    let pods = by_node(cluster);
    assert_eq!(pods.len(), nodes, "seed {seed}: {:?}", pods.keys());
    for (node, pods) in &pods {
        assert_eq!(pods.len(), 1, "seed {seed}: {node}");
        assert!(ready(pods[0]), "seed {seed}: {node}");
        assert_eq!(pods[0]["spec"]["containers"][0]["image"], image, "seed {seed}: {node}");
    }
    let status = &cluster.store.all(&DAEMON_SETS).next().unwrap()["status"];
    for field in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        assert_eq!(status[field], nodes, "seed {seed}: {field}");
    }
    assert_eq!((&status["numberMisscheduled"], &status["numberUnavailable"]), (&json!(0), &Value::Null));
    assert!(cluster.store.all(&CONTROLLER_REVISIONS).count() <= 3, "seed {seed}: two old ones are kept");
}

#[test]
fn a_rollout_over_the_nodes_stays_within_its_bounds_at_every_step() {
    for seed in seeds(5000, SEEDS) {
        let (unavailable, surge) = [(1, 0), (2, 0), (0, 1), (0, 2)][usize::try_from(seed % 4).unwrap()];
        let mut cluster = Cluster::new(seed, 5, 8);
        cluster.user_creates(&DAEMON_SETS, daemon_set(rolling(unavailable, surge)));
        cluster.run_to_rest(|_| {});
        is_as_wanted(&cluster, 5, "web:1");
        let least = usize::try_from(5 - unavailable).unwrap();
        let check = |cluster: &Cluster| {
            let serving = by_node(cluster).values().filter(|pods| pods.iter().any(|p| ready(p))).count();
            assert!(serving >= least, "seed {seed}: {serving} nodes are served, at least {least} must be");
            let going = |p: &&Value| p["metadata"]["deletionTimestamp"].is_null();
            let alive = cluster.store.all(&PODS).filter(going).count();
            let most = 5 + usize::try_from(surge).unwrap();
            assert!(alive <= most, "seed {seed}: {alive} pods, at most {most} may be");
        };
        for version in 2..5 {
            cluster.user_patches(&DAEMON_SETS, "web", &image(version));
            let steps = cluster.random(300);
            cluster.run(steps, check);
        }
        cluster.run_to_rest(check);
        is_as_wanted(&cluster, 5, "web:4");
        // Back to what was before: the old revision is the newest again.
        cluster.user_patches(&DAEMON_SETS, "web", &image(3));
        cluster.run_to_rest(check);
        is_as_wanted(&cluster, 5, "web:3");
    }
}

#[test]
fn every_node_that_may_has_one_whatever_users_and_nodes_do() {
    let taint = |effect: &str| json!({"taints": [{"key": "mine", "value": "x", "effect": effect}]});
    for seed in seeds(6000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 8);
        let strategy = if seed % 2 == 0 { rolling(1, 0) } else { rolling(0, 1) };
        cluster.user_creates(&DAEMON_SETS, daemon_set(strategy));
        let (mut version, mut nodes) = (1, 3);
        for _ in 0..12 {
            let steps = cluster.random(150);
            cluster.run(steps, |_| {});
            match cluster.random(7) {
                0 => {
                    version += 1;
                    cluster.user_patches(&DAEMON_SETS, "web", &image(version));
                }
                1 => {
                    cluster.add_node(&format!("late{nodes}"), 8);
                    nodes += 1;
                }
                2 => node(&mut cluster, "n0", &taint("NoExecute")),
                3 => node(&mut cluster, "n1", &taint("NoSchedule")),
                4 => node(&mut cluster, "n2", &json!({"unschedulable": true})),
                5 => cluster.user_deletes_a_pod(),
                _ => cluster.a_pod_flaps(),
            }
        }
        for name in ["n0", "n1"] {
            node(&mut cluster, name, &json!({"taints": null}));
        }
        cluster.run_to_rest(|_| {});
        // A node that takes no new pods of others still takes its daemon.
        is_as_wanted(&cluster, nodes, &format!("web:{version}"));
    }
}

#[test]
fn nodes_with_taints_that_are_not_borne_have_none() {
    for seed in seeds(7000, SEEDS / 4) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&DAEMON_SETS, daemon_set(rolling(1, 0)));
        cluster.run_to_rest(|_| {});
        let taint = |effect: &str| json!({"taints": [{"key": "mine", "value": "x", "effect": effect}]});
        node(&mut cluster, "n0", &taint("NoExecute"));
        node(&mut cluster, "n1", &taint("NoSchedule"));
        cluster.run_to_rest(|_| {});
        let status = &cluster.store.all(&DAEMON_SETS).next().unwrap()["status"];
        assert_eq!(
            by_node(&cluster).into_keys().collect::<Vec<_>>(),
            ["n1", "n2"],
            "the one that is there stays"
        );
        assert_eq!(
            (&status["desiredNumberScheduled"], &status["numberMisscheduled"]),
            (&json!(1), &json!(1))
        );
    }
}

#[test]
fn on_delete_changes_a_pod_only_when_the_user_deletes_it() {
    for seed in seeds(8000, SEEDS / 4) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&DAEMON_SETS, daemon_set(json!({"type": "OnDelete"})));
        cluster.run_to_rest(|_| {});
        cluster.user_patches(&DAEMON_SETS, "web", &image(2));
        cluster.run_to_rest(|_| {});
        let updated = |cluster: &Cluster| {
            cluster.store.all(&PODS).filter(|p| p["spec"]["containers"][0]["image"] == "web:2").count()
        };
        assert_eq!(updated(&cluster), 0);
        cluster.user_deletes_a_pod();
        cluster.run_to_rest(|_| {});
        assert_eq!((updated(&cluster), by_node(&cluster).len()), (1, 3));
    }
}
