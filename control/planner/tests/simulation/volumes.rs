//! Claims and volumes in the simulated cluster: whatever the order, no volume is ever given twice, and what can be bound is.

use std::collections::BTreeMap;

use oarlock_api::catalogue::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES};
use oarlock_api::meta;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SEEDS, seeds};

fn volume(name: &str, size: u64) -> Value {
    json!({"metadata": {"name": name, "finalizers": ["kubernetes.io/pv-protection"]}, "spec": {
        "capacity": {"storage": format!("{size}Gi")}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"}}})
}

fn claim(name: &str, size: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "finalizers": ["kubernetes.io/pvc-protection"]}, "spec": {
        "storageClassName": "", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": format!("{size}Gi")}}}})
}

/// Each volume's claim, by uid; no claim has two, and none names a volume that names another.
fn nothing_is_given_twice(cluster: &Cluster) {
    let volumes: BTreeMap<&str, &Value> =
        cluster.store.all(&PERSISTENT_VOLUMES).map(|v| (meta::name(v), &v["spec"]["claimRef"])).collect();
    for claim in cluster.store.all(&PERSISTENT_VOLUME_CLAIMS) {
        let Some(name) = claim["spec"]["volumeName"].as_str() else { continue };
        if let Some(reference) = volumes.get(name) {
            assert_eq!(reference["uid"], meta::uid(claim), "seed {}: {claim:#}", cluster.seed);
        }
    }
}

fn phases(cluster: &Cluster, kind: &'static oarlock_api::catalogue::Kind) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for object in cluster.store.all(kind) {
        *counts.entry(object["status"]["phase"].as_str().unwrap_or("").to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn no_volume_is_given_twice_and_all_that_fit_are_given() {
    for seed in seeds(30_000, SEEDS) {
        let mut cluster = Cluster::new(seed, 1, 1);
        // As many volumes as claims, all of which fit; in any order, some claims go and come again in the middle.
        for number in 0..8 {
            if cluster.random(2) == 0 {
                cluster.user_creates(&PERSISTENT_VOLUMES, volume(&format!("v{number}"), 5));
                cluster.user_creates(&PERSISTENT_VOLUME_CLAIMS, claim(&format!("c{number}"), 3));
            } else {
                cluster.user_creates(&PERSISTENT_VOLUME_CLAIMS, claim(&format!("c{number}"), 3));
                cluster.user_creates(&PERSISTENT_VOLUMES, volume(&format!("v{number}"), 5));
            }
            let steps = cluster.random(12);
            cluster.run(steps, nothing_is_given_twice);
        }
        cluster.run_to_rest(nothing_is_given_twice);
        let all = |phase: &str| BTreeMap::from([(phase.to_owned(), 8)]);
        assert_eq!(phases(&cluster, &PERSISTENT_VOLUME_CLAIMS), all("Bound"), "seed {seed}");
        assert_eq!(phases(&cluster, &PERSISTENT_VOLUMES), all("Bound"), "seed {seed}");
        for number in 0..3 {
            cluster.user_deletes(&PERSISTENT_VOLUME_CLAIMS, &format!("c{number}"));
            let steps = cluster.random(6);
            cluster.run(steps, nothing_is_given_twice);
        }
        cluster.run_to_rest(nothing_is_given_twice);
        let counts = BTreeMap::from([("Bound".to_owned(), 5), ("Released".to_owned(), 3)]);
        assert_eq!(phases(&cluster, &PERSISTENT_VOLUMES), counts, "seed {seed}");
        assert_eq!(cluster.store.all(&PERSISTENT_VOLUME_CLAIMS).count(), 5, "seed {seed}");
    }
}
