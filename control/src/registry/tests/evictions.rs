//! Evictions against budgets on a real store.

use std::sync::Arc;

use futures_util::future::join_all;
use oarlock_api::catalogue::POD_DISRUPTION_BUDGETS;

use super::*;

/// Pods that run and are ready, or not: `p0` and so on.
async fn pods(f: &Fixture, ready: &[bool]) {
    for (i, ready) in ready.iter().enumerate() {
        running(f, &format!("p{i}"), *ready).await;
    }
}

async fn running(f: &Fixture, name: &str, ready: bool) {
    let mut object = pod(name);
    object["metadata"]["labels"] = json!({"app": "web"});
    object["spec"]["nodeName"] = json!("n1");
    f.create(&PODS, "d", object).await.unwrap();
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]});
    patch_status(f, &PODS, name, status).await;
}

async fn patch_status(f: &Fixture, kind: &'static Kind, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    f.registry.patch(kind, "d", name, Sub::Status, &patch, &WriteOptions::default()).await.unwrap();
}

async fn budget(f: &Fixture, name: &str, allowed: i64, healthy: i64, desired: i64) {
    let spec = json!({"minAvailable": desired, "selector": {"matchLabels": {"app": "web"}}});
    f.create(&POD_DISRUPTION_BUDGETS, "d", json!({"metadata": {"name": name}, "spec": spec})).await.unwrap();
    let status = json!({"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": desired, "expectedPods": healthy});
    patch_status(f, &POD_DISRUPTION_BUDGETS, name, status).await;
}

async fn evict(f: &Fixture, name: &str) -> Result<(), Status> {
    f.registry.evict("d", name, &DeleteOptions::default()).await
}

#[tokio::test]
async fn of_many_evictions_at_once_as_many_succeed_as_are_allowed() {
    let f = Arc::new(fixture().await);
    pods(&f, &[true; 8]).await;
    budget(&f, "web", 3, 8, 5).await;
    let names: Vec<String> = (0..8).map(|i| format!("p{i}")).collect();
    let outcomes = join_all(names.iter().map(|name| evict(&f, name))).await;
    let (done, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (3, 5));
    for refusal in refused {
        let refusal = refusal.unwrap_err();
        assert_eq!((refusal.code, refusal.reason), (429, "TooManyRequests"));
        assert_eq!(refusal.details.unwrap().causes[0].reason, "DisruptionBudget");
    }
    let kept = f.registry.get(&POD_DISRUPTION_BUDGETS, "d", "web").await.unwrap();
    assert_eq!(kept["status"]["disruptionsAllowed"], 0);
    assert_eq!(kept["status"]["disruptedPods"].as_object().unwrap().len(), 3);
    for (name, pod) in join_all(names.iter().map(|name| f.registry.get(&PODS, "d", name)))
        .await
        .into_iter()
        .map(|pod| pod.unwrap())
        .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| (pod["metadata"]["name"].clone(), pod))
    {
        assert!(kept["status"]["disruptedPods"].get(name.as_str().unwrap()).is_some());
        let said = pod["status"]["conditions"].as_array().unwrap().last().unwrap();
        assert_eq!(
            (&said["type"], &said["reason"]),
            (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI"))
        );
    }
}

#[tokio::test]
async fn a_dry_run_takes_nothing_and_says_what_would_be() {
    let f = fixture().await;
    pods(&f, &[true, true]).await;
    budget(&f, "web", 1, 2, 1).await;
    let dry = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    f.registry.evict("d", "p0", &dry).await.unwrap();
    let kept = f.registry.get(&POD_DISRUPTION_BUDGETS, "d", "web").await.unwrap();
    assert_eq!(kept["status"]["disruptionsAllowed"], 1);
    assert!(f.registry.get(&PODS, "d", "p0").await.unwrap()["metadata"]["deletionTimestamp"].is_null());
    evict(&f, "p1").await.unwrap();
    assert_eq!(f.registry.evict("d", "p0", &dry).await.unwrap_err().code, 429);
}

#[tokio::test]
async fn several_budgets_are_refused_and_none_is_no_hindrance() {
    let f = fixture().await;
    pods(&f, &[true, false]).await;
    evict(&f, "p0").await.unwrap();
    budget(&f, "one", 1, 1, 0).await;
    budget(&f, "two", 1, 1, 0).await;
    let refusal = evict(&f, "p1").await.unwrap_err();
    assert_eq!(refusal.code, 500);
    assert_eq!(
        refusal.message,
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
    evict(&f, "p0").await.unwrap();
    assert_eq!(evict(&f, "nobody").await.unwrap_err().message, "pods \"nobody\" not found");
}

#[tokio::test]
async fn pods_that_are_not_ready_go_without_an_allowance_while_the_budget_is_met() {
    let f = fixture().await;
    pods(&f, &[true, true, false]).await;
    budget(&f, "web", 0, 2, 2).await;
    assert_eq!(evict(&f, "p0").await.unwrap_err().code, 429);
    evict(&f, "p2").await.unwrap();
    // Not met: what is broken already must not be broken more.
    running(&f, "q", false).await;
    patch_status(&f, &POD_DISRUPTION_BUDGETS, "web", json!({"currentHealthy": 1})).await;
    assert_eq!(evict(&f, "q").await.unwrap_err().code, 429);
}
