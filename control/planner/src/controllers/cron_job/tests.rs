//! A schedule, some Jobs, a time: what follows.

use std::sync::Arc;

use oarlock_api::catalogue::{CRON_JOBS, JOBS};
use serde_json::{Value, json};

use super::super::{CONTROLLERS, Settings};
use crate::change::{Change, Plan};
use crate::world::World;

fn plan(spec: Value, status: Value, jobs: &[Value], now: &str) -> Plan {
    let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tick", "namespace": "d", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
        "spec": {"schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 0, "jobTemplate": {"spec": {"template": {}}}}, "status": status});
    for (field, value) in spec.as_object().unwrap() {
        cron["spec"][field] = value.clone();
    }
    let mut world = World::default();
    world.put(&CRON_JOBS, "d", "tick", &Arc::new(cron), 1);
    for job in jobs {
        world.put(&JOBS, "d", job["metadata"]["name"].as_str().unwrap(), &Arc::new(job.clone()), 2);
    }
    let controller = CONTROLLERS.iter().find(|c| c.name == "cronjob").unwrap();
    let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
    (controller.plan)(&world, &settings, &("d".to_owned(), "tick".to_owned()), now.parse().unwrap())
}

fn name(minute: i64) -> String {
    let midnight = "2026-01-01T00:00:00Z".parse::<jiff::Timestamp>().unwrap();
    format!("tick-{}", midnight.as_second() / 60 + minute)
}

fn job(minute: i64, end: Option<&str>) -> Value {
    let time = format!("2026-01-01T00:{minute:02}:00Z");
    let conditions: Vec<Value> = end.iter().map(|end| json!({"type": end, "status": "True"})).collect();
    json!({"metadata": {"name": name(minute), "namespace": "d", "uid": format!("j{minute}"),
        "creationTimestamp": time, "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": time},
        "ownerReferences": [{"uid": "c", "controller": true}]}, "status": {"conditions": conditions, "completionTime": time}})
}

fn made(plan: &Plan) -> Vec<String> {
    let names = plan.changes.iter().filter_map(|c| match c {
        Change::Create { object, .. } => object["metadata"]["name"].as_str().map(str::to_owned),
        _ => None,
    });
    names.collect()
}

fn deleted(plan: &Plan) -> Vec<String> {
    let names = plan.changes.iter().filter_map(|c| match c {
        Change::Delete { name, .. } => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

fn says(plan: &Plan, wanted: &str) -> bool {
    plan.changes.iter().any(|c| matches!(c, Change::Event { reason, .. } if *reason == wanted))
}

#[test]
fn a_job_is_made_when_its_time_has_come_and_not_twice() {
    let before = plan(json!({}), json!({}), &[], "2026-01-01T00:09:50Z");
    assert_eq!((made(&before).len(), before.again.unwrap().as_secs()), (0, 10));
    assert_eq!(made(&plan(json!({}), json!({}), &[], "2026-01-01T00:10:00Z")), [name(10)]);
    let after = plan(json!({}), json!({}), &[job(10, None)], "2026-01-01T00:10:01Z");
    assert_eq!(made(&after).len(), 0);
    let status = after.changes.iter().find_map(|c| match c {
        Change::Patch { patch, .. } => Some(patch["status"].clone()),
        _ => None,
    });
    let status = status.unwrap();
    assert_eq!(status["lastScheduleTime"], "2026-01-01T00:10:00Z");
    assert_eq!(status["active"][0]["uid"], "j10");
    // Its Job is gone, but the status remembers.
    let stored = json!({"lastScheduleTime": "2026-01-01T00:10:00Z"});
    assert_eq!(made(&plan(json!({}), stored, &[], "2026-01-01T00:15:00Z")).len(), 0);
}

#[test]
fn only_the_last_of_missed_times_is_made_up_for_and_only_before_its_deadline() {
    let last = name(2 * 1440 + 7 * 60 + 30);
    assert_eq!(made(&plan(json!({}), json!({}), &[], "2026-01-03T07:36:00Z")), std::slice::from_ref(&last));
    let spec = json!({"startingDeadlineSeconds": 60});
    assert_eq!(made(&plan(spec.clone(), json!({}), &[], "2026-01-03T07:36:00Z")).len(), 0);
    assert_eq!(made(&plan(spec, json!({}), &[], "2026-01-03T07:30:50Z")), [last]);
    assert_eq!(made(&plan(json!({"suspend": true}), json!({}), &[], "2026-01-03T07:36:00Z")).len(), 0);
}

#[test]
fn what_still_runs_is_joined_waited_for_or_replaced() {
    let at = |policy: &str| {
        plan(json!({"concurrencyPolicy": policy}), json!({}), &[job(10, None)], "2026-01-01T00:20:00Z")
    };
    assert_eq!(made(&at("Allow")), [name(20)]);
    assert!(made(&at("Forbid")).is_empty() && says(&at("Forbid"), "JobAlreadyActive"));
    assert_eq!((made(&at("Replace")), deleted(&at("Replace"))), (vec![name(20)], vec![name(10)]));
}

#[test]
fn jobs_that_ended_are_kept_up_to_the_limits() {
    let jobs = [job(10, Some("Complete")), job(20, Some("Failed")), job(30, Some("Complete")), job(40, None)];
    let plan = plan(json!({}), json!({}), &jobs, "2026-01-01T00:41:00Z");
    assert_eq!(deleted(&plan), [name(10), name(20)]);
}
