//! What `kubectl get` prints: columns and cells per kind, with upstream's names, types and logic. Pure; now is an argument.
//!
//! Source: k8s.io/kubernetes/pkg/printers/internalversion/printers.go.

mod aggregation;
mod autoscaling;
mod certificates;
mod classes;
mod core;
mod metrics;
mod pod;
mod policy;
mod rbac;
mod storage;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::catalogue::{
    API_SERVICES, CERTIFICATE_SIGNING_REQUESTS, CLUSTER_ROLE_BINDINGS, COMPONENT_STATUSES, CONFIG_MAPS,
    CONTROLLER_REVISIONS, CRON_JOBS, CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, DAEMON_SETS,
    DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, HORIZONTAL_POD_AUTOSCALERS, INGRESS_CLASSES, INGRESSES,
    JOBS, Kind, LEASES, NAMESPACES, NETWORK_POLICIES, NODE_METRICS, NODES, PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES, POD_DISRUPTION_BUDGETS, POD_METRICS, POD_TEMPLATES, PODS, PRIORITY_CLASSES,
    REPLICA_SETS, REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, ROLE_BINDINGS, RUNTIME_CLASSES, SECRETS,
    SERVICE_ACCOUNTS, SERVICES, STATEFUL_SETS, STORAGE_CLASSES, VOLUME_ATTACHMENTS,
};
use crate::meta;

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The title.
    pub name: &'static str,
    /// `string` or `integer`.
    pub kind: &'static str,
    /// `name` for the object's name.
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
const AGE: Column = text("Age");

/// The columns of a kind.
#[must_use]
pub fn columns(kind: &Kind) -> &'static [Column] {
    let table: &[(&Kind, &'static [Column])] = &[
        (&PODS, pod::COLUMNS),
        (&SERVICES, core::SERVICE),
        (&NODES, core::NODE),
        (&NAMESPACES, const { &[NAME, text("Status"), AGE] }),
        (&ENDPOINTS, const { &[NAME, text("Endpoints"), AGE] }),
        (&CONFIG_MAPS, const { &[NAME, text("Data"), AGE] }),
        (&RESOURCE_QUOTAS, const { &[NAME, AGE, text("Request"), text("Limit")] }),
        (&SECRETS, const { &[NAME, text("Type"), text("Data"), AGE] }),
        (&SERVICE_ACCOUNTS, const { &[NAME, text("Secrets"), AGE] }),
        (&EVENTS, core::EVENT),
        (&PERSISTENT_VOLUMES, storage::VOLUME),
        (&PERSISTENT_VOLUME_CLAIMS, storage::CLAIM),
        (&STORAGE_CLASSES, storage::CLASS),
        (&CSI_DRIVERS, storage::DRIVER),
        (&CSI_NODES, const { &[NAME, Column { kind: "integer", ..text("Drivers") }, AGE] }),
        (&CSI_STORAGE_CAPACITIES, const { &[NAME, text("StorageClassName"), text("Capacity")] }),
        (&VOLUME_ATTACHMENTS, storage::ATTACHMENT),
        (&DEPLOYMENTS, workload::DEPLOYMENT),
        (&REPLICA_SETS, workload::REPLICA_SET),
        (&REPLICATION_CONTROLLERS, workload::REPLICA_SET),
        (&DAEMON_SETS, workload::DAEMON_SET),
        (&STATEFUL_SETS, workload::STATEFUL_SET),
        (&CONTROLLER_REVISIONS, workload::CONTROLLER_REVISION),
        (&CRON_JOBS, workload::CRON_JOB),
        (&JOBS, workload::JOB),
        (&POD_TEMPLATES, classes::POD_TEMPLATE),
        (&COMPONENT_STATUSES, const { &[NAME, text("Status"), text("Message"), text("Error")] }),
        (&INGRESSES, classes::INGRESS),
        (&INGRESS_CLASSES, const { &[NAME, text("Controller"), text("Parameters"), AGE] }),
        (&RUNTIME_CLASSES, const { &[NAME, text("Handler"), AGE] }),
        (&PRIORITY_CLASSES, classes::PRIORITY_CLASS),
        (&LEASES, const { &[NAME, text("Holder"), AGE] }),
        (&CLUSTER_ROLE_BINDINGS, rbac::BINDING),
        (&ROLE_BINDINGS, rbac::BINDING),
        (&HORIZONTAL_POD_AUTOSCALERS, autoscaling::AUTOSCALER),
        (&CERTIFICATE_SIGNING_REQUESTS, certificates::COLUMNS),
        (&API_SERVICES, aggregation::COLUMNS),
        (&NODE_METRICS, metrics::COLUMNS),
        (&POD_METRICS, metrics::COLUMNS),
        (&POD_DISRUPTION_BUDGETS, policy::DISRUPTION_BUDGET),
        (&NETWORK_POLICIES, const { &[NAME, text("Pod-Selector"), AGE] }),
        (&ENDPOINT_SLICES, const { &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE] }),
    ];
    table
        .iter()
        .find(|(k, _)| *k == kind)
        .map_or(const { &[NAME, Column { kind: "date", ..text("Created At") }] }, |(_, columns)| columns)
}

/// The cells of one object, one a column.
#[must_use]
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = json!(meta::name(object));
    let age = json!(age(object, now));
    if *kind == PODS {
        pod::cells(object, now)
    } else if *kind == SERVICES {
        core::service(object, now)
    } else if *kind == NODES {
        core::node(object, now)
    } else if *kind == NAMESPACES {
        vec![name, json!(object["status"]["phase"].as_str().unwrap_or("")), age]
    } else if *kind == ENDPOINTS {
        vec![name, json!(core::endpoints(object)), age]
    } else if *kind == CONFIG_MAPS {
        vec![name, json!(count(object, "data") + count(object, "binaryData")), age]
    } else if *kind == RESOURCE_QUOTAS {
        let [requests, limits] = core::quota(object);
        vec![name, age, json!(requests), json!(limits)]
    } else if *kind == SECRETS {
        vec![name, json!(object["type"].as_str().unwrap_or("")), json!(count(object, "data")), age]
    } else if *kind == SERVICE_ACCOUNTS {
        vec![name, json!(object["secrets"].as_array().map_or(0, Vec::len)), age]
    } else if *kind == EVENTS {
        core::event(object, now)
    } else if *kind == PERSISTENT_VOLUMES {
        storage::volume(object, now)
    } else if *kind == PERSISTENT_VOLUME_CLAIMS {
        storage::claim(object, now)
    } else if *kind == STORAGE_CLASSES {
        storage::class(object, now)
    } else if *kind == CSI_DRIVERS {
        storage::driver(object, age)
    } else if *kind == CSI_NODES {
        vec![name, json!(object["spec"]["drivers"].as_array().map_or(0, Vec::len)), age]
    } else if *kind == CSI_STORAGE_CAPACITIES {
        storage::capacity(object)
    } else if *kind == VOLUME_ATTACHMENTS {
        storage::attachment(object, age)
    } else if *kind == DEPLOYMENTS {
        workload::deployment(object, now)
    } else if *kind == REPLICA_SETS || *kind == REPLICATION_CONTROLLERS {
        workload::replica_set(object, now)
    } else if *kind == DAEMON_SETS {
        workload::daemon_set(object, now)
    } else if *kind == STATEFUL_SETS {
        workload::stateful_set(object, now)
    } else if *kind == CONTROLLER_REVISIONS {
        workload::controller_revision(object, now)
    } else if *kind == CRON_JOBS {
        workload::cron_job(object, now)
    } else if *kind == JOBS {
        workload::job(object, now)
    } else if *kind == POD_TEMPLATES {
        classes::pod_template(object)
    } else if *kind == COMPONENT_STATUSES {
        classes::component_status(object)
    } else if *kind == INGRESSES {
        classes::ingress(object, age)
    } else if *kind == INGRESS_CLASSES {
        vec![
            name,
            json!(classes::word_at(&object["spec"], "controller")),
            json!(classes::parameters(object)),
            age,
        ]
    } else if *kind == RUNTIME_CLASSES {
        vec![name, json!(classes::word_at(object, "handler")), age]
    } else if *kind == PRIORITY_CLASSES {
        classes::priority_class(object, age)
    } else if *kind == LEASES {
        vec![name, json!(object["spec"]["holderIdentity"].as_str().unwrap_or("")), age]
    } else if *kind == CLUSTER_ROLE_BINDINGS || *kind == ROLE_BINDINGS {
        rbac::binding(object, age)
    } else if *kind == HORIZONTAL_POD_AUTOSCALERS {
        autoscaling::autoscaler(object, now)
    } else if *kind == CERTIFICATE_SIGNING_REQUESTS {
        certificates::cells(object, age)
    } else if *kind == API_SERVICES {
        aggregation::cells(object, age)
    } else if *kind == NODE_METRICS || *kind == POD_METRICS {
        metrics::cells(object)
    } else if *kind == POD_DISRUPTION_BUDGETS {
        policy::disruption_budget(object, age)
    } else if *kind == NETWORK_POLICIES {
        vec![name, json!(workload::selector(&object["spec"]["podSelector"])), age]
    } else if *kind == ENDPOINT_SLICES {
        core::endpoint_slice(object, now)
    } else {
        vec![name, json!(meta::text(object, "creationTimestamp"))]
    }
}

/// What a row says beside its cells (`rows[].conditions`): pods that are done, which old kubectl leaves out.
#[must_use]
pub fn conditions(kind: &Kind, object: &Value) -> Option<Value> {
    if *kind != PODS {
        return None;
    }
    let (reason, message) = match object["status"]["phase"].as_str() {
        Some("Succeeded") => ("Succeeded", "The pod has completed successfully."),
        Some("Failed") => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

fn count(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

fn age(object: &Value, now: Timestamp) -> String {
    since(meta::text(object, "creationTimestamp"), now)
}

/// How long ago a time was; `<unknown>` when there is none.
fn since(time: &str, now: Timestamp) -> String {
    match meta::parse_time(time) {
        Some(then) => human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// `5s`, `3m20s`, `25m`, `3h12m`, `2d4h`, `12d`, `2y30d`: upstream's `HumanDuration`.
#[must_use]
pub fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let pair = |first: i64, unit: &str, second: i64, rest: &str| {
        if second == 0 { format!("{first}{unit}") } else { format!("{first}{unit}{second}{rest}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2920 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn word(value: &Value) -> String {
    or_none(value.as_str().unwrap_or("")).to_owned()
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `a=b,c=d` in the order of keys, or `<none>`.
fn map_text(map: Option<&Value>) -> String {
    let mut pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    pairs.sort_unstable();
    or_none(&pairs.join(",")).to_owned()
}

#[cfg(test)]
mod tests;
