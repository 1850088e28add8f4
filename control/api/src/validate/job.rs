//! Jobs.
//!
//! Source: k8s.io/kubernetes/pkg/apis/batch/validation/validation.go.

use serde_json::{Value, json};

use super::{Errors, list, pod, pod_support, text};
use crate::defaults;
use crate::meta as rules;
use crate::schedule::Schedule;
use crate::selector::Selector;

/// Fields that nothing honours yet.
const UNSUPPORTED: &[&str] = &["successPolicy", "backoffLimitPerIndex", "maxFailedIndexes", "managedBy"];
const MAX_INDEXED_PARALLELISM: i64 = 100_000;

pub(super) fn check(errors: &mut Errors, job: &Value) {
    let spec = &job["spec"];
    check_spec(errors, "spec", spec);
    let labels = spec["template"]["metadata"].get("labels");
    match Selector::from_label_selector(spec.get("selector")) {
        Ok(None) => errors.required("spec.selector", ""),
        Ok(Some(selector)) => {
            if !selector.matches(labels.and_then(Value::as_object)) {
                let why = "`selector` does not match template `labels`";
                errors.invalid("spec.template.metadata.labels", labels.unwrap_or(&json!({})), why);
            }
        }
        Err(why) => errors.invalid("spec.selector", &spec["selector"], why),
    }
    if spec["manualSelector"] != true {
        let labels = &spec["template"]["metadata"]["labels"];
        for (key, wanted) in [
            ("batch.kubernetes.io/controller-uid", rules::uid(job)),
            ("batch.kubernetes.io/job-name", rules::name(job)),
            ("controller-uid", rules::uid(job)),
            ("job-name", rules::name(job)),
        ] {
            if labels[key] != wanted {
                let why = format!("must be '{wanted}'");
                errors.invalid(format!("spec.template.metadata.labels[{key}]"), &labels[key], why);
            }
        }
    }
}

/// What holds for Jobs and for the templates of Jobs alike.
pub(super) fn check_spec(errors: &mut Errors, path: &str, spec: &Value) {
    for field in UNSUPPORTED {
        if spec.get(*field).is_some_and(|value| !value.is_null()) {
            errors.unsupported(format!("{path}.{field}"));
        }
    }
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"]
    {
        errors.not_negative(&format!("{path}.{field}"), &spec[field]);
    }
    errors.one_of(&format!("{path}.completionMode"), &spec["completionMode"], &["Indexed", "NonIndexed"]);
    if spec["completionMode"] == "Indexed" {
        if spec["completions"].is_null() {
            errors.required(format!("{path}.completions"), "when completion mode is Indexed");
        }
        if spec["parallelism"].as_i64() > Some(MAX_INDEXED_PARALLELISM) {
            let why = "must be less than or equal to 100000 when completion mode is Indexed";
            errors.invalid(format!("{path}.parallelism"), &spec["parallelism"], why);
        }
    }
    let policies: &[&str] =
        if spec["podFailurePolicy"].is_null() { &["Failed", "TerminatingOrFailed"] } else { &["Failed"] };
    errors.one_of(&format!("{path}.podReplacementPolicy"), &spec["podReplacementPolicy"], policies);
    let template = &spec["template"];
    super::meta::labels(
        errors,
        &format!("{path}.template.metadata.labels"),
        template["metadata"].get("labels"),
    );
    pod::check_spec(errors, &format!("{path}.template.spec"), &template["spec"]);
    pod_support::check(errors, &format!("{path}.template.spec"), &template["spec"]);
    let restart = text(&template["spec"], "restartPolicy");
    let field = format!("{path}.template.spec.restartPolicy");
    if restart == "Always" {
        errors.required(&field, "valid values: \"OnFailure\", \"Never\"");
    } else if !spec["podFailurePolicy"].is_null() && restart != "Never" {
        errors.invalid(
            &field,
            format!("{restart:?}"),
            "only \"Never\" is supported when podFailurePolicy is specified",
        );
    }
    for (i, rule) in list(&spec["podFailurePolicy"], "rules").iter().enumerate() {
        failure_rule(errors, &format!("{path}.podFailurePolicy.rules[{i}]"), rule);
    }
}

fn failure_rule(errors: &mut Errors, path: &str, rule: &Value) {
    if rule["action"] == "FailIndex" {
        errors.unsupported(format!("{path}.action"));
    } else {
        errors.one_of(&format!("{path}.action"), &rule["action"], &["Count", "FailJob", "Ignore"]);
    }
    let codes = rule.get("onExitCodes").filter(|c| !c.is_null());
    let conditions = list(rule, "onPodConditions");
    match (codes, conditions.is_empty()) {
        (Some(_), false) => {
            errors.invalid(path, rule, "specifying both OnExitCodes and OnPodConditions is not supported");
        }
        (None, true) => {
            errors.invalid(path, rule, "specifying one of OnExitCodes and OnPodConditions is required")
        }
        _ => {}
    }
    if let Some(codes) = codes {
        errors.one_of(&format!("{path}.onExitCodes.operator"), &codes["operator"], &["In", "NotIn"]);
        let values = list(codes, "values");
        if values.is_empty() {
            errors.invalid(
                format!("{path}.onExitCodes.values"),
                &codes["values"],
                "at least one value is required",
            );
        }
        for (i, value) in values.iter().enumerate() {
            if codes["operator"] == "In" && value == 0 {
                let why = "must not be 0 for the In operator";
                errors.invalid(format!("{path}.onExitCodes.values[{i}]"), value, why);
            }
        }
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let path = format!("{path}.onPodConditions[{i}]");
        if text(pattern, "type").is_empty() {
            errors.required(format!("{path}.type"), "");
        }
        errors.one_of(&format!("{path}.status"), &pattern["status"], &["False", "True", "Unknown"]);
    }
}

pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    let (before, after) = (&old["spec"], &new["spec"]);
    for field in ["selector", "completionMode", "podFailurePolicy", "podReplacementPolicy"] {
        errors.immutable(&format!("spec.{field}"), &before[field], &after[field]);
    }
    // An indexed Job may grow and shrink as a whole.
    let elastic = after["completionMode"] == "Indexed" && after["completions"] == after["parallelism"];
    if !elastic {
        errors.immutable("spec.completions", &before["completions"], &after["completions"]);
    }
    let mut template = after["template"].clone();
    if before["suspend"] == true && old["status"]["startTime"].is_null() {
        // Where its pods go may be decided until the first one is made.
        for field in ["nodeSelector", "tolerations", "affinity"] {
            match before["template"]["spec"].get(field) {
                Some(value) => drop(
                    rules::map_at(rules::map_of(&mut template), "spec")
                        .insert(field.to_owned(), value.clone()),
                ),
                None => drop(rules::map_at(rules::map_of(&mut template), "spec").shift_remove(field)),
            }
        }
        let metadata = before["template"]["metadata"].clone();
        rules::map_of(&mut template).insert("metadata".to_owned(), metadata);
    }
    errors.immutable("spec.template", &before["template"], &template);
}

pub(super) fn cron_job(errors: &mut Errors, cron: &Value) {
    let spec = &cron["spec"];
    if rules::name(cron).len() > 52 {
        errors.invalid("metadata.name", &cron["metadata"]["name"], "must be no more than 52 characters");
    }
    let schedule = text(spec, "schedule");
    let zone = spec.get("timeZone").filter(|z| !z.is_null()).map(|z| z.as_str().unwrap_or(""));
    if schedule.is_empty() {
        errors.required("spec.schedule", "");
    } else if schedule.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid("spec.schedule", &spec["schedule"], why);
    } else if let Err(why) = Schedule::parse(schedule, None) {
        errors.invalid("spec.schedule", &spec["schedule"], why);
    } else if let Err(why) = Schedule::parse(schedule, zone) {
        errors.invalid("spec.timeZone", &spec["timeZone"], why);
    }
    errors.one_of("spec.concurrencyPolicy", &spec["concurrencyPolicy"], &["Allow", "Forbid", "Replace"]);
    for field in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.not_negative(&format!("spec.{field}"), &spec[field]);
    }
    let path = "spec.jobTemplate.spec";
    let mut job = spec["jobTemplate"]["spec"].clone();
    if !job["selector"].is_null() {
        errors.invalid(format!("{path}.selector"), &job["selector"], "`selector` will be auto-generated");
    }
    if job["manualSelector"] == true {
        let message = "Unsupported value: true: supported values: null, false".to_owned();
        errors.push("FieldValueNotSupported", format!("{path}.manualSelector"), message);
    }
    defaults::job_spec(&mut job);
    check_spec(errors, path, &job);
}
