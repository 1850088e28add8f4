//! StatefulSets in the simulated cluster: names that stay, order, updates within their bounds at every step.

use std::collections::BTreeMap;

use oarlock_api::catalogue::{CONTROLLER_REVISIONS, PODS, STATEFUL_SETS};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SEEDS, image, ready, seeds};

fn stateful_set(spec: &Value) -> Value {
    let mut set = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 2, "replicas": 4, "serviceName": "web",
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    set
}

/// Pods by ordinal; none has a name that the set would not give.
fn by_ordinal(cluster: &Cluster) -> BTreeMap<u64, &Value> {
    let pods = cluster.store.all(&PODS).map(|pod| {
        let name = pod["metadata"]["name"].as_str().unwrap();
        (name.strip_prefix("web-").unwrap().parse().unwrap(), pod)
    });
    pods.collect()
}

fn image_of(pod: &Value) -> &str {
    pod["spec"]["containers"][0]["image"].as_str().unwrap()
}

fn status(cluster: &Cluster) -> &Value {
    &cluster.store.all(&STATEFUL_SETS).next().unwrap()["status"]
}

fn is_as_wanted(cluster: &Cluster, ordinals: std::ops::Range<u64>, image: &str) {
    let seed = cluster.seed;
    let pods = by_ordinal(cluster);
    assert_eq!(pods.keys().copied().collect::<Vec<_>>(), ordinals.clone().collect::<Vec<_>>(), "seed {seed}");
    for (n, pod) in &pods {
        assert!(ready(pod), "seed {seed}: {n}");
        assert_eq!(image_of(pod), image, "seed {seed}: {n}");
    }
    let status = status(cluster);
    let number = |field: &str| status[field].as_u64().unwrap_or(0);
    let wanted = ordinals.end - ordinals.start;
    for field in ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas", "currentReplicas"] {
        assert_eq!(number(field), wanted, "seed {seed}: {field} of {status}");
    }
    assert_eq!(status["currentRevision"], status["updateRevision"], "seed {seed}");
    assert!(cluster.store.all(&CONTROLLER_REVISIONS).count() <= 3, "seed {seed}: two old ones are kept");
}

#[test]
fn updates_go_from_the_top_and_take_one_at_a_time() {
    for seed in seeds(9000, SEEDS) {
        let policy = if seed % 2 == 0 { "OrderedReady" } else { "Parallel" };
        let strategy = if seed % 3 == 0 { json!({"type": "RollingUpdate"}) } else { Value::Null };
        let spec = json!({"podManagementPolicy": policy, "updateStrategy": strategy});
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&STATEFUL_SETS, stateful_set(&spec));
        cluster.run_to_rest(|_| {});
        is_as_wanted(&cluster, 0..4, "web:1");
        let serves = |cluster: &Cluster| {
            let serving = by_ordinal(cluster).values().filter(|p| ready(p)).count();
            assert!(serving >= 3, "seed {seed}: only {serving} serve");
        };
        for version in 2..5 {
            cluster.user_patches(&STATEFUL_SETS, "web", &image(version));
            let steps = cluster.random(300);
            // In parallel, one that an update has stopped is not waited for when the next comes in the middle of it.
            cluster.run(steps, |cluster| {
                if policy == "OrderedReady" {
                    serves(cluster)
                }
            });
        }
        cluster.run_to_rest(|cluster| {
            if policy == "OrderedReady" {
                serves(cluster)
            }
        });
        is_as_wanted(&cluster, 0..4, "web:4");
        // Nothing is updated before everything above it.
        cluster.user_patches(&STATEFUL_SETS, "web", &image(5));
        cluster.run_to_rest(|cluster| {
            serves(cluster);
            let new = by_ordinal(cluster).values().map(|p| image_of(p) == "web:5").collect::<Vec<_>>();
            assert!(new.is_sorted(), "seed {seed}: {new:?}");
        });
        is_as_wanted(&cluster, 0..4, "web:5");
        // Back to what was before: the old revision is the newest again.
        cluster.user_patches(&STATEFUL_SETS, "web", &image(4));
        cluster.run_to_rest(serves);
        is_as_wanted(&cluster, 0..4, "web:4");
    }
}

#[test]
fn ordered_pods_come_when_all_below_are_ready_and_go_from_the_top() {
    for seed in seeds(10_000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&STATEFUL_SETS, stateful_set(&json!({})));
        let in_order = |cluster: &Cluster| {
            let pods = by_ordinal(cluster);
            let last = pods.keys().next_back().copied();
            for (n, pod) in &pods {
                let number = u64::try_from(pods.range(..n).count()).unwrap();
                assert_eq!(number, *n, "seed {seed}: {n} is there, one below is not");
                assert!(ready(pod) || Some(*n) == last, "seed {seed}: {n} is not ready and not the last");
            }
        };
        for _ in 0..6 {
            let steps = cluster.random(200);
            cluster.run(steps, in_order);
            let replicas = cluster.random(9);
            cluster.user_patches(&STATEFUL_SETS, "web", &json!({"spec": {"replicas": replicas}}));
        }
        cluster.user_patches(&STATEFUL_SETS, "web", &json!({"spec": {"replicas": 5}}));
        cluster.run_to_rest(in_order);
        is_as_wanted(&cluster, 0..5, "web:1");
    }
}

#[test]
fn whatever_users_and_nodes_do_each_name_is_there_once() {
    for seed in seeds(11_000, SEEDS) {
        let policy = if seed % 2 == 0 { "OrderedReady" } else { "Parallel" };
        let strategy = match seed % 3 {
            0 => json!({"type": "RollingUpdate"}),
            1 => json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}),
            _ => Value::Null,
        };
        let spec = json!({"podManagementPolicy": policy, "updateStrategy": strategy});
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&STATEFUL_SETS, stateful_set(&spec));
        let (mut replicas, mut start, mut version) = (4, 0, 1);
        for _ in 0..14 {
            let steps = cluster.random(150);
            cluster.run(steps, Cluster::nodes_hold_what_they_have);
            match cluster.random(6) {
                0 => replicas = cluster.random(9),
                1 => start = cluster.random(4),
                2 => {
                    version += 1;
                    cluster.user_patches(&STATEFUL_SETS, "web", &image(version));
                }
                3 => cluster.a_pod_flaps(),
                _ => cluster.user_deletes_a_pod(),
            }
            let size = json!({"spec": {"replicas": replicas, "ordinals": {"start": start}}});
            cluster.user_patches(&STATEFUL_SETS, "web", &size);
        }
        cluster.run_to_rest(|_| {});
        is_as_wanted(&cluster, start..start + replicas, &format!("web:{version}"));
    }
}

#[test]
fn a_partition_holds_whatever_is_deleted_and_lets_go_when_it_falls() {
    let partition = |n: u64| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": n}}}});
    for seed in seeds(12_000, SEEDS / 2) {
        let mut cluster = Cluster::new(seed, 3, 8);
        let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 2}});
        cluster.user_creates(&STATEFUL_SETS, stateful_set(&json!({"updateStrategy": strategy})));
        cluster.run_to_rest(|_| {});
        cluster.user_patches(&STATEFUL_SETS, "web", &image(2));
        for _ in 0..4 {
            let steps = cluster.random(200);
            cluster.run(steps, |_| {});
            cluster.user_deletes_a_pod();
        }
        cluster.run_to_rest(|_| {});
        let images = by_ordinal(&cluster).values().map(|p| image_of(p)).collect::<Vec<_>>();
        assert_eq!(images, ["web:1", "web:1", "web:2", "web:2"], "seed {seed}");
        assert_ne!(status(&cluster)["currentRevision"], status(&cluster)["updateRevision"], "seed {seed}");
        cluster.user_patches(&STATEFUL_SETS, "web", &partition(0));
        cluster.run_to_rest(|_| {});
        is_as_wanted(&cluster, 0..4, "web:2");
    }
}

#[test]
fn a_set_that_goes_takes_its_pods_and_revisions_along() {
    for seed in seeds(13_000, SEEDS / 4) {
        let mut cluster = Cluster::new(seed, 2, 8);
        cluster.user_creates(&STATEFUL_SETS, stateful_set(&json!({})));
        let steps = cluster.random(400);
        cluster.run(steps, |_| {});
        cluster.user_deletes(&STATEFUL_SETS, "web");
        cluster.run_to_rest(|_| {});
        assert_eq!(cluster.store.all(&PODS).count(), 0, "seed {seed}");
        assert_eq!(cluster.store.all(&CONTROLLER_REVISIONS).count(), 0, "seed {seed}");
    }
}
