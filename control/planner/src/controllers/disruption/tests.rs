//! Golden plans: what a budget says of pods in every state, and of evictions that come true or do not.

use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue::{DAEMON_SETS, DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS};
use serde_json::{Value, json};

use super::super::Settings;
use crate::change::{Change, Plan};
use crate::world::World;

const NOW: &str = "2026-01-01T00:10:00Z";

fn pod(name: &str, owner: &str, ready: bool) -> Value {
    let owners = if owner.is_empty() { json!([]) } else { json!([{"uid": owner, "controller": true}]) };
    let ready = if ready { "True" } else { "False" };
    json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}, "ownerReferences": owners},
        "spec": {}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
}

fn plan(spec: Value, status: Value, pods: &[Value]) -> Plan {
    let mut world = World::default();
    let mut put = |kind, object: &Value| {
        world.put(kind, "d", object["metadata"]["name"].as_str().unwrap(), &Arc::new(object.clone()), 7);
    };
    let owner = |name: &str, replicas: i64, above: &str| {
        let owners = if above.is_empty() { json!([]) } else { json!([{"uid": above, "controller": true}]) };
        json!({"metadata": {"name": name, "uid": name, "namespace": "d", "ownerReferences": owners}, "spec": {"replicas": replicas}})
    };
    put(&DEPLOYMENTS, &owner("deployment", 10, ""));
    put(&REPLICA_SETS, &owner("new", 3, "deployment"));
    put(&REPLICA_SETS, &owner("old", 7, "deployment"));
    put(&REPLICA_SETS, &owner("alone", 4, ""));
    put(&DAEMON_SETS, &owner("daemons", 0, ""));
    let mut budget = json!({"metadata": {"name": "b", "namespace": "d", "uid": "b", "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": status});
    for (field, value) in spec.as_object().unwrap() {
        budget["spec"][field] = value.clone();
    }
    put(&POD_DISRUPTION_BUDGETS, &budget);
    pods.iter().for_each(|pod| put(&PODS, pod));
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    let now: Timestamp = NOW.parse().unwrap();
    super::plan(&world, &settings, &("d".to_owned(), "b".to_owned()), now)
}

fn status(plan: &Plan) -> Value {
    let patches = plan.changes.iter().find_map(|change| match change {
        Change::Patch { patch, .. } => Some(patch["status"].clone()),
        _ => None,
    });
    patches.unwrap_or(Value::Null)
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    let all = plan.changes.iter().filter_map(|change| match change {
        Change::Event { reason, .. } => Some(*reason),
        _ => None,
    });
    all.collect()
}

/// Allowed, healthy, desired, expected.
fn counts(spec: Value, pods: &[Value]) -> [i64; 4] {
    let status = status(&plan(spec, json!({}), pods));
    ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"]
        .map(|field| status[field].as_i64().unwrap())
}

#[test]
fn numbers_and_shares_are_upstreams() {
    let of = |owner: &str, ready: usize, all: usize| -> Vec<Value> {
        (0..all).map(|i| pod(&format!("{owner}-{i}"), owner, i < ready)).collect()
    };
    let mixed: Vec<Value> = of("new", 3, 3).into_iter().chain(of("old", 6, 7)).collect();
    for (spec, pods, wanted) in [
        (json!({"minAvailable": 2}), of("alone", 3, 4), [1, 3, 2, 4]),
        (json!({"minAvailable": 5}), of("alone", 4, 4), [0, 4, 5, 4]),
        (json!({"minAvailable": "50%"}), of("alone", 4, 4), [2, 4, 2, 4]),
        (json!({"minAvailable": "51%"}), of("alone", 4, 4), [1, 4, 3, 4]),
        (json!({"maxUnavailable": 1}), of("alone", 4, 4), [1, 4, 3, 4]),
        (json!({"maxUnavailable": "30%"}), of("alone", 4, 4), [2, 4, 2, 4]),
        (json!({"maxUnavailable": 9}), of("alone", 1, 4), [1, 1, 0, 4]),
        (json!({"maxUnavailable": 2}), mixed, [1, 9, 8, 10]),
        (json!({"minAvailable": 1}), Vec::new(), [0, 0, 1, 0]),
        (json!({"maxUnavailable": 0}), of("alone", 4, 4), [0, 4, 4, 4]),
        (json!({}), of("alone", 4, 4), [0, 4, 0, 0]),
    ] {
        assert_eq!(counts(spec.clone(), &pods), wanted, "{spec} of {} pods", pods.len());
    }
}

#[test]
fn what_is_said_once_is_not_said_again() {
    let pods = [pod("a", "alone", true)];
    let first = status(&plan(json!({"minAvailable": 0}), json!({}), &pods));
    assert_eq!(first["conditions"][0]["reason"], "SufficientPods");
    let mut known = first;
    known.as_object_mut().unwrap().shift_remove("disruptedPods");
    assert_eq!(plan(json!({"minAvailable": 0}), known, &pods), Plan::nothing());
    assert_eq!(reasons(&plan(json!({"minAvailable": 0}), json!({}), &[])), ["NoPods"]);
}

#[test]
fn who_cannot_be_counted_lets_nobody_go() {
    let stray =
        plan(json!({"maxUnavailable": 1}), json!({"disruptionsAllowed": 3}), &[pod("a", "nobody", true)]);
    let said = status(&stray);
    assert_eq!(said["disruptionsAllowed"], 0);
    assert_eq!(said["conditions"][0]["reason"], "SyncFailed");
    assert_eq!(said["conditions"][0]["message"], "found no controllers for pod \"a\"");
    assert_eq!(reasons(&stray), ["CalculateExpectedPodCountFailed"]);
    let daemon = status(&plan(json!({"maxUnavailable": 1}), json!({}), &[pod("a", "daemons", true)]));
    let message = "daemonsets.apps does not implement the scale subresource";
    assert_eq!(daemon["conditions"][0]["message"], message);
    let unmanaged = plan(json!({"maxUnavailable": 1}), json!({}), &[pod("a", "", true)]);
    assert_eq!(
        (reasons(&unmanaged), &status(&unmanaged)["expectedPods"]),
        (vec!["UnmanagedPods"], &json!(0))
    );
}

#[test]
fn evicted_pods_count_as_gone_until_their_time_is_over() {
    let pods = [pod("soon", "alone", true), pod("late", "alone", true), pod("other", "alone", true)];
    let disrupted = json!({"soon": "2026-01-01T00:09:00Z", "late": "2026-01-01T00:07:59Z", "gone": "2026-01-01T00:09:00Z"});
    let plan = plan(json!({"minAvailable": 1}), json!({"disruptedPods": disrupted}), &pods);
    let said = status(&plan);
    assert_eq!(said["currentHealthy"], 2, "late was not deleted and counts again");
    assert_eq!(said["disruptedPods"], json!({"soon": "2026-01-01T00:09:00Z", "late": null, "gone": null}));
    assert_eq!(reasons(&plan), ["NotDeleted"]);
    assert_eq!(plan.again.map(|wait| wait.as_secs()), Some(60));
}
