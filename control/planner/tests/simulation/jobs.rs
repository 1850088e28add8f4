//! Jobs in the simulated cluster: every end of a pod is counted once, never more at work than asked for, and an end.

use std::collections::BTreeSet;

use oarlock_api::catalogue::{JOBS, PODS};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SEEDS, seeds};

fn job(spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": "sum", "namespace": "d"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "sum:1"}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

fn at_work(cluster: &Cluster) -> Vec<&Value> {
    let ended = |p: &Value| matches!(p["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    cluster.store.all(&PODS).filter(|p| !ended(p) && p["metadata"]["deletionTimestamp"].is_null()).collect()
}

fn never_more_than(cluster: &Cluster, most: usize) {
    let count = at_work(cluster).len();
    assert!(count <= most, "seed {}: {count} pods are at work, at most {most} may be", cluster.seed);
}

fn status(cluster: &Cluster) -> Value {
    cluster.store.all(&JOBS).next().unwrap()["status"].clone()
}

fn conditions(status: &Value) -> BTreeSet<String> {
    let all = status["conditions"].as_array().into_iter().flatten();
    all.filter(|c| c["status"] == "True").map(|c| c["type"].as_str().unwrap().to_owned()).collect()
}

fn ended(cluster: &Cluster, phase: &str) -> usize {
    cluster.store.all(&PODS).filter(|p| p["status"]["phase"] == phase).count()
}

/// Nobody waits to be counted any more.
fn is_settled(cluster: &Cluster, status: &Value) {
    let held = cluster.store.all(&PODS).filter(|p| p["metadata"]["finalizers"].is_array()).count();
    assert_eq!((held, at_work(cluster).len()), (0, 0), "seed {}", cluster.seed);
    assert_eq!(status["uncountedTerminatedPods"], json!({}), "seed {}", cluster.seed);
    assert_eq!(
        (&status["active"], &status["terminating"]),
        (&Value::Null, &json!(0)),
        "seed {}",
        cluster.seed
    );
}

#[test]
fn a_job_reaches_its_completions_and_every_end_is_counted_once() {
    for seed in seeds(10_000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.failing = seed % 3 * 20;
        let mode = if seed % 2 == 0 { "NonIndexed" } else { "Indexed" };
        let spec = json!({"completions": 7, "parallelism": 3, "backoffLimit": 1000, "completionMode": mode});
        cluster.user_creates(&JOBS, job(spec));
        cluster.run_to_rest(|cluster| never_more_than(cluster, 3));
        let status = status(&cluster);
        is_settled(&cluster, &status);
        assert_eq!(
            conditions(&status),
            ["Complete", "SuccessCriteriaMet"].map(str::to_owned).into(),
            "seed {seed}"
        );
        assert_eq!((ended(&cluster, "Succeeded"), &status["succeeded"]), (7, &json!(7)), "seed {seed}");
        let failed = status["failed"].as_u64().unwrap_or(0);
        assert_eq!(u64::try_from(ended(&cluster, "Failed")).unwrap(), failed, "seed {seed}");
        if mode == "Indexed" {
            assert_eq!(status["completedIndexes"], "0-6", "seed {seed}");
        }
    }
}

#[test]
fn whatever_users_do_meanwhile_the_job_ends_and_the_sums_agree() {
    for seed in seeds(11_000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.failing = 10;
        let mode = if seed % 2 == 0 { "NonIndexed" } else { "Indexed" };
        let spec = json!({"completions": 12, "parallelism": 2, "backoffLimit": 1000, "completionMode": mode});
        cluster.user_creates(&JOBS, job(spec));
        for _ in 0..8 {
            let steps = cluster.random(60);
            cluster.run(steps, |_| {});
            let spec = match cluster.random(4) {
                0 => json!({"suspend": true}),
                1 => json!({"suspend": false}),
                2 => json!({"parallelism": cluster.random(5) + 1}),
                _ => {
                    cluster.user_deletes_a_pod();
                    continue;
                }
            };
            cluster.user_patches(&JOBS, "sum", &json!({"spec": spec}));
        }
        cluster.user_patches(&JOBS, "sum", &json!({"spec": {"suspend": false}}));
        cluster.run_to_rest(|_| {});
        let status = status(&cluster);
        is_settled(&cluster, &status);
        assert!(conditions(&status).contains("Complete"), "seed {seed}: {status}");
        // A pod that succeeded may be deleted before or after it is counted, but never counts twice.
        assert_eq!(status["succeeded"], 12, "seed {seed}");
    }
}

#[test]
fn too_many_failures_end_a_job_and_take_its_pods_away() {
    for seed in seeds(12_000, SEEDS / 2) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.failing = 100;
        let policy = if seed % 2 == 0 { "TerminatingOrFailed" } else { "Failed" };
        let spec =
            json!({"completions": 9, "parallelism": 3, "backoffLimit": 2, "podReplacementPolicy": policy});
        cluster.user_creates(&JOBS, job(spec));
        cluster.run_to_rest(|cluster| never_more_than(cluster, 3));
        let status = status(&cluster);
        is_settled(&cluster, &status);
        assert_eq!(conditions(&status), ["Failed", "FailureTarget"].map(str::to_owned).into(), "seed {seed}");
        let failed = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Failed").unwrap();
        assert_eq!(failed["reason"], "BackoffLimitExceeded", "seed {seed}");
        assert!(
            status["failed"].as_i64() > Some(2) && status["completionTime"].is_null(),
            "seed {seed}: {status}"
        );
    }
}

#[test]
fn a_job_that_goes_leaves_no_pod_behind() {
    for seed in seeds(13_000, SEEDS / 2) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&JOBS, job(json!({"completions": 6, "parallelism": 3})));
        let steps = cluster.random(120);
        cluster.run(steps, |_| {});
        cluster.user_deletes(&JOBS, "sum");
        cluster.run_to_rest(|_| {});
        assert_eq!(cluster.store.all(&PODS).count(), 0, "seed {seed}");
    }
}
