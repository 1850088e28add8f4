//! What Kubernetes knows and this version cannot honour in pods: refused, never ignored.

use serde_json::Value;

use super::{Errors, list};

/// Fields of the spec that change behaviour and are not built.
const SPEC: &[&str] = &["resourceClaims", "resources"];
const CONTAINER: &[&str] = &["volumeDevices"];
const VOLUMES: &[&str] = &[
    "name",
    "emptyDir",
    "hostPath",
    "configMap",
    "secret",
    "downwardAPI",
    "projected",
    "persistentVolumeClaim",
    "ephemeral",
    "nfs",
    "glusterfs",
    "iscsi",
    "rbd",
];
const PROJECTED: &[&str] = &["configMap", "secret", "downwardAPI", "serviceAccountToken"];
const RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Adds an error per field that is set and not honoured.
pub(super) fn check(errors: &mut Errors, path: &str, spec: &Value) {
    refuse(errors, path, spec, SPEC);
    if path != "spec" && !list(spec, "ephemeralContainers").is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.forbidden(format!("{path}.ephemeralContainers"), why);
    }
    if spec["hostUsers"] == false {
        errors.unsupported(format!("{path}.hostUsers"));
    }
    let security = &spec["securityContext"];
    refuse(errors, &format!("{path}.securityContext"), security, &["windowsOptions", "seLinuxChangePolicy"]);
    if security["supplementalGroupsPolicy"] == "Strict" && security["runAsGroup"].is_null() {
        // To a user without one Docker gives the groups that the image has for it.
        let why = "Strict is supported by this version of Oarlock only with `runAsGroup` beside it";
        errors.forbidden(format!("{path}.securityContext.supplementalGroupsPolicy"), why);
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in list(spec, field).iter().enumerate() {
            check_container(errors, &format!("{path}.{field}[{i}]"), container);
        }
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{i}]");
        for source in set_fields(volume).filter(|source| !VOLUMES.contains(source)) {
            errors.unsupported(format!("{path}.{source}"));
        }
        for (j, source) in list(&volume["projected"], "sources").iter().enumerate() {
            for kind in set_fields(source).filter(|kind| !PROJECTED.contains(kind)) {
                errors.unsupported(format!("{path}.projected.sources[{j}].{kind}"));
            }
        }
    }
}

fn check_container(errors: &mut Errors, path: &str, container: &Value) {
    refuse(errors, path, container, CONTAINER);
    let security = &container["securityContext"];
    refuse(errors, &format!("{path}.securityContext"), security, &["windowsOptions"]);
    if security["procMount"] == "Unmasked" {
        errors.unsupported(format!("{path}.securityContext.procMount"));
    }
    for (i, port) in list(container, "ports").iter().enumerate() {
        if port["protocol"] == "SCTP" {
            errors.unsupported(format!("{path}.ports[{i}].protocol"));
        }
    }
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        if mount["recursiveReadOnly"] == "Enabled" {
            errors.unsupported(format!("{path}.volumeMounts[{i}].recursiveReadOnly"));
        }
    }
    refuse(errors, &format!("{path}.resources"), &container["resources"], &["claims"]);
    for field in ["limits", "requests"] {
        for name in
            container["resources"].get(field).and_then(Value::as_object).into_iter().flat_map(|m| m.keys())
        {
            if !RESOURCES.contains(&name.as_str()) && !super::scheduling::is_extended(name) {
                errors.unsupported(format!("{path}.resources.{field}[{name}]"));
            }
        }
    }
}

fn refuse(errors: &mut Errors, path: &str, object: &Value, fields: &[&str]) {
    for field in fields {
        if object.get(field).is_some_and(is_set) {
            errors.unsupported(format!("{path}.{field}"));
        }
    }
}

fn set_fields(object: &Value) -> impl Iterator<Item = &str> {
    object
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, _)| key.as_str())
}

/// Whether a value says anything: zero values of Go say nothing.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
