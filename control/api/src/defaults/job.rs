//! Defaults of Jobs, and the labels by which a Job knows its pods.
//!
//! Source: k8s.io/kubernetes/pkg/apis/batch/v1/defaults.go and pkg/registry/batch/job/strategy.go.

use serde_json::{Map, Value, json};

use super::{items, set, template};
use crate::meta::{self, map_at, map_of};

/// A Job's spec.
pub(super) fn job(spec: &mut Map<String, Value>) {
    let absent = |spec: &Map<String, Value>, field: &str| spec.get(field).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        set(spec, "completions", json!(1));
    }
    set(spec, "parallelism", json!(1));
    set(spec, "backoffLimit", json!(6));
    set(spec, "completionMode", json!("NonIndexed"));
    set(spec, "suspend", json!(false));
    set(spec, "manualSelector", json!(false));
    let policy = if absent(spec, "podFailurePolicy") { "TerminatingOrFailed" } else { "Failed" };
    set(spec, "podReplacementPolicy", json!(policy));
    if let Some(policy) = spec.get_mut("podFailurePolicy").and_then(Value::as_object_mut) {
        for rule in items(policy, "rules") {
            for pattern in items(rule, "onPodConditions") {
                set(pattern, "status", json!("True"));
            }
        }
    }
    template(spec);
}

/// A CronJob's spec. What its Jobs get by default, they get when they are made.
pub(super) fn cron_job(spec: &mut Map<String, Value>) {
    set(spec, "concurrencyPolicy", json!("Allow"));
    set(spec, "suspend", json!(false));
    set(spec, "successfulJobsHistoryLimit", json!(3));
    set(spec, "failedJobsHistoryLimit", json!(1));
    if let Some(job) = spec.get_mut("jobTemplate").and_then(Value::as_object_mut) {
        template(map_at(job, "spec"));
    }
}

/// The selector and the labels that make a Job's pods its own, unless the user takes care of that.
pub(super) fn identify(job: &mut Value) {
    let (name, uid) = (meta::name(job).to_owned(), meta::uid(job).to_owned());
    if job["spec"]["manualSelector"] != true {
        let spec = map_at(map_of(job), "spec");
        let labels = map_at(map_at(map_at(spec, "template"), "metadata"), "labels");
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            set(labels, key, json!(value));
        }
        let selector = map_at(map_at(spec, "selector"), "matchLabels");
        set(selector, "batch.kubernetes.io/controller-uid", json!(uid));
    }
    if meta::labels(job).is_none_or(Map::is_empty) {
        let labels = job["spec"]["template"]["metadata"]["labels"].clone();
        map_at(map_of(job), "metadata").insert("labels".to_owned(), labels);
    }
}
