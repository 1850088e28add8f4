//! Refusals word for word, and what an eviction takes.

use super::*;

const NOW: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn budget(status: Value) -> Value {
    json!({"metadata": {"name": "web", "generation": 2}, "spec": {"selector": {"matchLabels": {"app": "web"}}}, "status": status})
}

fn healthy(allowed: i64) -> Value {
    json!({"observedGeneration": 2, "disruptionsAllowed": allowed, "currentHealthy": 3, "desiredHealthy": 3 - allowed,
        "expectedPods": 3})
}

#[test]
fn an_eviction_takes_one_and_the_last_one_is_told() {
    let one_left = take(budget(healthy(2)), "a", now()).unwrap();
    assert_eq!(one_left["status"]["disruptionsAllowed"], 1);
    assert_eq!(one_left["status"]["disruptedPods"], json!({"a": NOW}));
    assert_eq!(one_left["status"].get("conditions"), None);
    let none_left = take(one_left, "b", now()).unwrap();
    assert_eq!(none_left["status"]["disruptedPods"], json!({"a": NOW, "b": NOW}));
    let said = &none_left["status"]["conditions"][0];
    assert_eq!((&said["status"], &said["reason"]), (&json!("False"), &json!("InsufficientPods")));
    assert_eq!(take(none_left, "c", now()).unwrap_err().code, 429);
}

#[test]
fn refusals_are_upstreams() {
    let mut full = Map::new();
    (0..2001).for_each(|i| drop(full.insert(i.to_string(), json!(NOW))));
    let mut crowded = healthy(1);
    crowded["disruptedPods"] = Value::Object(full);
    let mut failed_sync = healthy(0);
    failed_sync["conditions"] = failed(&budget(healthy(0)), "found no controllers for pod \"a\"", now());
    for (status, code, message, cause, retry) in [
        (
            healthy(0),
            429,
            "Cannot evict pod as it would violate the pod's disruption budget.",
            "The disruption budget web needs 3 healthy pods and has 3 currently",
            None,
        ),
        (
            json!({"observedGeneration": 1, "disruptionsAllowed": 1}),
            429,
            "Cannot evict pod as it would violate the pod's disruption budget.",
            "The disruption budget web is still being processed by the server.",
            Some(10),
        ),
        (
            failed_sync,
            429,
            "Cannot evict pod as it would violate the pod's disruption budget. Found: found no controllers for pod \"a\"",
            "The disruption budget web does not allow evicting pods currently because it failed sync: found no controllers \
             for pod \"a\"",
            None,
        ),
        (
            crowded,
            403,
            "poddisruptionbudget.policy \"web\" is forbidden: DisruptedPods map too big - too many evictions not confirmed by \
             PDB controller",
            "",
            None,
        ),
    ] {
        let refusal = take(budget(status), "a", now()).unwrap_err();
        let details = refusal.details.unwrap();
        assert_eq!((refusal.code, refusal.message.as_str()), (code, message));
        assert_eq!(details.causes.first().map_or("", |cause| &cause.message), cause);
        assert_eq!(details.retry_after_seconds, retry);
        assert!(details.causes.iter().all(|cause| cause.reason == "DisruptionBudget"));
    }
}

#[test]
fn unready_pods_go_freely_only_while_the_budget_is_met_or_says_so() {
    let pod = |ready: &str| json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    let mut broken = budget(json!({"currentHealthy": 1, "desiredHealthy": 2}));
    assert_eq!(guard(&budget(healthy(0)), &pod("True")), Guard::Allowance);
    assert_eq!(guard(&budget(healthy(0)), &pod("False")), Guard::Unready);
    assert_eq!(guard(&broken, &pod("False")), Guard::Allowance);
    assert_eq!(guard(&budget(json!({})), &pod("False")), Guard::Allowance, "nothing is known of it yet");
    broken["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
    assert_eq!(guard(&broken, &pod("False")), Guard::Unready);
    assert_eq!(guard(&broken, &pod("True")), Guard::Allowance);
}

#[test]
fn an_empty_selector_covers_all_and_none_covers_nothing() {
    let labels = json!({"app": "web"});
    let labels = labels.as_object();
    let of = |selector: Value| json!({"spec": {"selector": selector}});
    assert!(covers(&budget(json!({})), labels) && !covers(&budget(json!({})), None));
    assert!(covers(&of(json!({})), labels) && !covers(&of(Value::Null), labels));
    for (phase, free) in [("Pending", true), ("Running", false), ("Succeeded", true), ("Failed", true)] {
        assert_eq!(is_free(&json!({"status": {"phase": phase}})), free, "{phase}");
    }
    assert!(is_free(&json!({"metadata": {"deletionTimestamp": NOW}, "status": {"phase": "Running"}})));
}
