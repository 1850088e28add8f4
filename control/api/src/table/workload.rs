//! Rows of workloads.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, human_duration, map_text, number, since, text, wide, word};
use crate::meta;
use crate::selector::Selector;

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    text("Ready"),
    text("Up-to-date"),
    text("Available"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    text("Node Selector"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const STATEFUL_SET: &[Column] = &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")];
pub(super) const CONTROLLER_REVISION: &[Column] = &[NAME, text("Controller"), number("Revision"), AGE];
pub(super) const JOB: &[Column] = &[
    NAME,
    text("Status"),
    text("Completions"),
    text("Duration"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    text("Schedule"),
    text("Timezone"),
    Column { kind: "boolean", ..text("Suspend") },
    number("Active"),
    text("Last Schedule"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

fn counted(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Names of containers, their images, and the selector.
fn wide_cells(object: &Value) -> [Value; 3] {
    let [names, images] = containers(&object["spec"]["template"]["spec"]);
    let selector = Selector::of_workload(object).ok().flatten();
    [names, images, json!(written(selector))]
}

/// Names of a pod's containers, and their images.
pub(super) fn containers(pod: &Value) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let all = pod["containers"].as_array().into_iter().flatten();
        let all: Vec<&str> = all.filter_map(|container| container[field].as_str()).collect();
        json!(all.join(","))
    })
}

/// A label selector in one line.
pub(super) fn selector(selector: &Value) -> String {
    written(Selector::from_label_selector(Some(selector)).ok().flatten())
}

fn written(selector: Option<Selector>) -> String {
    selector.filter(|s| !s.is_everything()).map_or_else(|| "<none>".to_owned(), |s| s.to_string())
}

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let ready = format!("{}/{}", counted(&status["readyReplicas"]), counted(&object["spec"]["replicas"]));
    let mut cells = vec![
        json!(meta::name(object)),
        json!(ready),
        json!(counted(&status["updatedReplicas"])),
        json!(counted(&status["availableReplicas"])),
        json!(age(object, now)),
    ];
    cells.extend(wide_cells(object));
    cells
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut cells = vec![
        json!(meta::name(object)),
        json!(counted(&object["spec"]["replicas"])),
        json!(counted(&status["replicas"])),
        json!(counted(&status["readyReplicas"])),
        json!(age(object, now)),
    ];
    cells.extend(wide_cells(object));
    cells
}

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut cells = vec![json!(meta::name(object))];
    cells.extend(
        [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ]
        .map(|field| json!(counted(&status[field]))),
    );
    cells.push(json!(map_text(object["spec"]["template"]["spec"].get("nodeSelector"))));
    cells.push(json!(age(object, now)));
    cells.extend(wide_cells(object));
    cells
}

pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (ready, wanted) = (&object["status"]["readyReplicas"], &object["spec"]["replicas"]);
    let [containers, images, _] = wide_cells(object);
    vec![
        json!(meta::name(object)),
        json!(format!("{}/{}", counted(ready), counted(wanted))),
        json!(age(object, now)),
        containers,
        images,
    ]
}

pub(super) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    // `daemonset.apps/web`.
    let controller = meta::controller_of(object).map_or_else(
        || "<none>".to_owned(),
        |owner| {
            let group = owner["apiVersion"].as_str().and_then(|v| v.split_once('/')).map_or("", |(g, _)| g);
            let kind = owner["kind"].as_str().unwrap_or("").to_lowercase();
            let name = owner["name"].as_str().unwrap_or("");
            if group.is_empty() { format!("{kind}/{name}") } else { format!("{kind}.{group}/{name}") }
        },
    );
    vec![
        json!(meta::name(object)),
        json!(controller),
        json!(counted(&object["revision"])),
        json!(age(object, now)),
    ]
}

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let succeeded = counted(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), counted(&spec["parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let time = |field: &str| meta::parse_time(status[field].as_str()?);
    let duration = time("startTime").map(|start| {
        let end = time("completionTime").unwrap_or(now);
        human_duration(end.as_second() - start.as_second())
    });
    let mut cells = vec![
        json!(meta::name(object)),
        json!(job_status(object)),
        json!(completions),
        json!(duration.unwrap_or_default()),
        json!(age(object, now)),
    ];
    cells.extend(wide_cells(object));
    cells
}

fn job_status(object: &Value) -> &'static str {
    let conditions = object["status"]["conditions"].as_array();
    let has =
        |kind: &str| conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True");
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if meta::is_terminating(object) => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(super) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let suspend = if spec["suspend"] == true { "True" } else { "False" };
    let last = status["lastScheduleTime"].as_str().map_or_else(|| "<none>".to_owned(), |t| since(t, now));
    let mut cells = vec![
        json!(meta::name(object)),
        json!(spec["schedule"].as_str().unwrap_or("")),
        json!(word(&spec["timeZone"])),
        json!(suspend),
        json!(status["active"].as_array().map_or(0, Vec::len)),
        json!(last),
        json!(age(object, now)),
    ];
    cells.extend(wide_cells(&spec["jobTemplate"]));
    cells
}
