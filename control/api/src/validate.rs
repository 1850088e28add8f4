//! What is wrong with an object: upstream's field paths, reasons and messages. Pure; an empty list means that it is good.
//!
//! Source: k8s.io/kubernetes/pkg/apis/{core,apps}/validation. What this version cannot honour is refused here, too, so that
//! no field is accepted and ignored.

mod aggregation;
mod autoscaling;
mod bounds;
mod certificates;
mod classes;
mod config;
mod csi;
mod discovery;
mod ephemeral;
mod handlers;
mod ingress;
mod job;
mod meta;
mod network_policy;
mod pod;
mod pod_context;
mod pod_rights;
mod pod_support;
mod policy;
mod rbac;
mod records;
mod remote;
mod scheduling;
mod service;
mod stateful_set;
mod storage;
mod volumes;
mod workload;

use std::collections::BTreeSet;
use std::fmt::Display;

use serde_json::Value;

use crate::catalogue::{
    API_SERVICES, CERTIFICATE_SIGNING_REQUESTS, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CONFIG_MAPS,
    CONTROLLER_REVISIONS, CRON_JOBS, CSI_DRIVERS, CSI_NODES, CSI_STORAGE_CAPACITIES, DAEMON_SETS,
    DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, EVENTS_V1, HORIZONTAL_POD_AUTOSCALERS, INGRESS_CLASSES,
    INGRESSES, JOBS, Kind, LEASES, LIMIT_RANGES, NAMESPACES, NETWORK_POLICIES, PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES, POD_DISRUPTION_BUDGETS, POD_TEMPLATES, PODS, PRIORITY_CLASSES, REPLICA_SETS,
    REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, ROLE_BINDINGS, ROLES, RUNTIME_CLASSES, SECRETS, SERVICES,
    STATEFUL_SETS, STORAGE_CLASSES, VOLUME_ATTACHMENTS,
};
use crate::pod_security;
use crate::service::SOCKET_LB;
use crate::status::Cause;

/// Checks an object that is to be created.
#[must_use]
pub fn create(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    meta::check(&mut errors, kind, object);
    socket_lb(&mut errors, kind, object);
    checks(&mut errors, kind, object);
    if *kind == NAMESPACES {
        pod_security_labels(&mut errors, &Value::Null, object);
    }
    if *kind == PODS {
        pod::check_new(&mut errors, object);
        if !list(&object["spec"], "ephemeralContainers").is_empty() {
            errors.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
    }
    errors.causes
}

/// What a version asks for beside what every version of the kind does; on the stored form.
#[must_use]
pub fn version(kind: &Kind, object: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    if *kind == EVENTS_V1 {
        records::new_event(&mut errors, object, "reportingController");
    }
    errors.causes
}

/// Checks an object that is to replace another.
#[must_use]
pub fn update(kind: &Kind, old: &Value, new: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    meta::check(&mut errors, kind, new);
    meta::check_update(&mut errors, old, new);
    socket_lb(&mut errors, kind, new);
    if old.get("spec") != new.get("spec") || !kind.has_subresource("status") {
        checks(&mut errors, kind, new);
    }
    if *kind == PODS {
        pod::check_update(&mut errors, old, new);
    } else if *kind == DEPLOYMENTS || *kind == REPLICA_SETS || *kind == DAEMON_SETS {
        errors.immutable("spec.selector", &old["spec"]["selector"], &new["spec"]["selector"]);
    } else if *kind == STATEFUL_SETS {
        stateful_set::check_update(&mut errors, &old["spec"], &new["spec"]);
    } else if *kind == JOBS {
        job::check_update(&mut errors, old, new);
    } else if *kind == PERSISTENT_VOLUME_CLAIMS {
        storage::claim_update(&mut errors, old, new);
    } else if *kind == PERSISTENT_VOLUMES {
        storage::volume_update(&mut errors, old, new);
    } else if *kind == STORAGE_CLASSES {
        storage::class_update(&mut errors, old, new);
    } else if *kind == CSI_DRIVERS {
        csi::driver_update(&mut errors, &old["spec"], &new["spec"]);
    } else if *kind == CSI_NODES {
        csi::node_update(&mut errors, &old["spec"], &new["spec"]);
    } else if *kind == CSI_STORAGE_CAPACITIES {
        csi::capacity_update(&mut errors, old, new);
    } else if *kind == VOLUME_ATTACHMENTS {
        csi::attachment_update(&mut errors, old, new);
    } else if *kind == INGRESSES {
        ingress::status(&mut errors, &new["status"]);
    } else if *kind == INGRESS_CLASSES {
        let controller = |class: &'_ Value| class["spec"]["controller"].clone();
        errors.immutable("spec.controller", &controller(old), &controller(new));
    } else if *kind == PRIORITY_CLASSES {
        classes::priority_update(&mut errors, old, new);
    } else if *kind == RUNTIME_CLASSES {
        errors.immutable("handler", &old["handler"], &new["handler"]);
    } else if *kind == CONTROLLER_REVISIONS {
        errors.immutable("data", &old["data"], &new["data"]);
    } else if *kind == SERVICES {
        service_update(&mut errors, old, new);
    } else if *kind == CONFIG_MAPS || *kind == SECRETS {
        config::check_update(&mut errors, kind, old, new);
    } else if *kind == CLUSTER_ROLE_BINDINGS || *kind == ROLE_BINDINGS {
        rbac::binding_update(&mut errors, old, new);
    } else if *kind == HORIZONTAL_POD_AUTOSCALERS {
        autoscaling::autoscaler_status(&mut errors, &new["status"]);
    } else if *kind == API_SERVICES {
        aggregation::api_service_status(&mut errors, &new["status"]);
    } else if *kind == POD_DISRUPTION_BUDGETS {
        policy::disruption_status(&mut errors, &new["status"]);
    } else if *kind == RESOURCE_QUOTAS {
        bounds::quota_update(&mut errors, old, new);
    } else if *kind == ENDPOINT_SLICES {
        discovery::slice_update(&mut errors, old, new);
    } else if *kind == NAMESPACES {
        pod_security_labels(&mut errors, old, new);
    }
    errors.causes
}

/// Labels that choose a level, unless they could not be read before either.
fn pod_security_labels(errors: &mut Errors, old: &Value, new: &Value) {
    let bad = pod_security::bad_labels(new);
    if bad == pod_security::bad_labels(old) {
        return;
    }
    for label in bad {
        let field = format!("metadata.labels[{}]", label.label);
        errors.invalid(field, format_args!("{:?}", label.value), label.why);
    }
}

/// Checks a pod to which containers are to be added for debugging (`/ephemeralcontainers`).
#[must_use]
pub fn debug(old: &Value, new: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    ephemeral::check_update(&mut errors, old, new);
    errors.causes
}

/// What a write through a part of a CertificateSigningRequest (its object: empty, `status` or `approval`) may not change.
#[must_use]
pub fn signing(old: &Value, new: &Value, part: &str) -> Vec<Cause> {
    let mut errors = Errors::default();
    certificates::status(&mut errors, old, new, part);
    errors.causes
}

/// Where a pod's connections to Services are translated.
fn socket_lb(errors: &mut Errors, kind: &Kind, object: &Value) {
    let value = &object["metadata"]["annotations"][SOCKET_LB];
    if (*kind == PODS || *kind == NAMESPACES) && !value.is_null() {
        let field = format!("metadata.annotations[{SOCKET_LB}]");
        errors.one_of(&field, value, &["disabled", "enabled"]);
        // Its packets leave by no link of its own.
        if value == "disabled" && object["spec"]["hostNetwork"] == true {
            errors.forbidden(&field, "may not be \"disabled\" when `hostNetwork` is true");
        }
    }
}

/// Whether a Service's addresses and families fit each other: asked before the registry completes them.
#[must_use]
pub fn cluster_ips(spec: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    service::cluster_ips(&mut errors, spec);
    errors.causes
}

fn service_update(errors: &mut Errors, old: &Value, new: &Value) {
    let annotations = |object: &Value| object["metadata"].get("annotations").cloned();
    if old["spec"] == new["spec"] && annotations(old) != annotations(new) {
        service::check(errors, new);
    }
    service::check_update(errors, old, new);
    if old["status"] != new["status"] {
        service::check_status(errors, new);
    }
}

fn checks(errors: &mut Errors, kind: &Kind, object: &Value) {
    if *kind == PODS {
        pod::check_spec(errors, "spec", &object["spec"]);
        pod_support::check(errors, "spec", &object["spec"]);
    } else if *kind == DEPLOYMENTS {
        workload::deployment(errors, &object["spec"]);
    } else if *kind == REPLICA_SETS {
        workload::replica_set(errors, &object["spec"]);
    } else if *kind == REPLICATION_CONTROLLERS {
        workload::replication_controller(errors, &object["spec"]);
    } else if *kind == DAEMON_SETS {
        workload::daemon_set(errors, &object["spec"]);
    } else if *kind == STATEFUL_SETS {
        stateful_set::check(errors, &object["spec"]);
    } else if *kind == PERSISTENT_VOLUME_CLAIMS {
        storage::claim(errors, "spec", &object["spec"]);
    } else if *kind == PERSISTENT_VOLUMES {
        storage::volume(errors, &object["spec"]);
    } else if *kind == STORAGE_CLASSES {
        storage::class(errors, object);
    } else if *kind == CSI_DRIVERS {
        csi::driver(errors, &object["spec"]);
    } else if *kind == CSI_NODES {
        csi::node(errors, &object["spec"]);
    } else if *kind == CSI_STORAGE_CAPACITIES {
        csi::capacity(errors, object);
    } else if *kind == VOLUME_ATTACHMENTS {
        csi::attachment(errors, &object["spec"]);
    } else if *kind == CRON_JOBS {
        job::cron_job(errors, object);
    } else if *kind == JOBS {
        job::check(errors, object);
    } else if *kind == CONTROLLER_REVISIONS {
        workload::controller_revision(errors, object);
    } else if *kind == SERVICES {
        service::check(errors, object);
    } else if *kind == CONFIG_MAPS {
        config::config_map(errors, object);
    } else if *kind == LIMIT_RANGES {
        bounds::limit_range(errors, object);
    } else if *kind == RESOURCE_QUOTAS {
        bounds::quota(errors, object);
    } else if *kind == SECRETS {
        config::secret(errors, object);
    } else if *kind == ENDPOINTS {
        discovery::endpoints(errors, object);
    } else if *kind == ENDPOINT_SLICES {
        discovery::slice(errors, object);
    } else if *kind == HORIZONTAL_POD_AUTOSCALERS {
        autoscaling::autoscaler(errors, &object["spec"]);
    } else if *kind == API_SERVICES {
        aggregation::api_service(errors, object);
    } else if *kind == POD_DISRUPTION_BUDGETS {
        policy::disruption_budget(errors, &object["spec"]);
    } else if *kind == NETWORK_POLICIES {
        network_policy::check(errors, &object["spec"]);
    } else if *kind == CLUSTER_ROLES || *kind == ROLES {
        rbac::role(errors, kind, object);
    } else if *kind == CLUSTER_ROLE_BINDINGS || *kind == ROLE_BINDINGS {
        rbac::binding(errors, kind, object);
    } else if *kind == INGRESSES {
        ingress::check(errors, &object["spec"]);
    } else if *kind == INGRESS_CLASSES {
        ingress::class(errors, &object["spec"]);
    } else if *kind == POD_TEMPLATES {
        classes::pod_template(errors, &object["template"]);
    } else if *kind == PRIORITY_CLASSES {
        classes::priority(errors, object);
    } else if *kind == RUNTIME_CLASSES {
        classes::runtime(errors, object);
    } else if *kind == CERTIFICATE_SIGNING_REQUESTS {
        certificates::request(errors, object);
    } else if *kind == EVENTS {
        records::event(errors, object);
    } else if *kind == LEASES {
        records::lease(errors, object);
    }
}

/// The findings, with upstream's words for each reason.
#[derive(Debug, Default)]
struct Errors {
    causes: Vec<Cause>,
}

impl Errors {
    fn push(&mut self, reason: &str, field: impl Into<String>, message: String) {
        self.causes.push(Cause { reason: reason.to_owned(), message, field: field.into() });
    }

    fn required(&mut self, field: impl Into<String>, why: &str) {
        let message =
            if why.is_empty() { "Required value".to_owned() } else { format!("Required value: {why}") };
        self.push("FieldValueRequired", field, message);
    }

    fn invalid(&mut self, field: impl Into<String>, value: impl Display, why: impl Display) {
        self.push("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }

    fn forbidden(&mut self, field: impl Into<String>, why: impl Display) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {why}"));
    }

    fn unsupported(&mut self, field: impl Into<String>) {
        self.forbidden(field, "is not supported by this version of Oarlock");
    }

    fn duplicate(&mut self, field: impl Into<String>, value: impl Display) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    /// One of a set of words.
    fn one_of(&mut self, field: &str, value: &Value, words: &[&str]) {
        match value.as_str() {
            Some(word) if words.contains(&word) => {}
            _ => {
                let known: Vec<String> = words.iter().map(|w| format!("{w:?}")).collect();
                let message = format!("Unsupported value: {value}: supported values: {}", known.join(", "));
                self.push("FieldValueNotSupported", field, message);
            }
        }
    }

    fn port(&mut self, field: impl Into<String>, value: &Value) {
        if !value.as_i64().is_some_and(|port| (1..=65535).contains(&port)) {
            self.invalid(field, value, "must be between 1 and 65535, inclusive");
        }
    }

    fn not_negative(&mut self, field: &str, value: &Value) {
        if value.as_i64().is_some_and(|n| n < 0) {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }

    fn immutable(&mut self, field: &str, old: &Value, new: &Value) {
        if old != new {
            self.invalid(field, new, "field is immutable");
        }
    }

    fn unique<'v>(&mut self, values: impl Iterator<Item = (String, &'v str)>) {
        let mut seen = BTreeSet::new();
        for (field, value) in values {
            if !value.is_empty() && !seen.insert(value) {
                self.duplicate(field, format!("{value:?}"));
            }
        }
    }
}

fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    object.get(field).and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
pub(crate) mod tests;
