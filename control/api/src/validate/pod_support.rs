//! What Kubernetes knows and this version cannot honour in pods: refused, never ignored.

use serde_json::Value;

use super::{Errors, list};

/// Fields of the spec that change behaviour and are not built.
const SPEC: &[&str] = &[
    "ephemeralContainers",
    "runtimeClassName",
    "overhead",
    "readinessGates",
    "resourceClaims",
    "hostUsers",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "imagePullSecrets",
    "os",
    "resources",
];
const HOST: &[&str] = &["hostNetwork", "hostPID", "hostIPC"];
const CONTAINER: &[&str] = &["restartPolicy", "resizePolicy", "volumeDevices"];
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
];
const PROJECTED: &[&str] = &["configMap", "secret", "downwardAPI", "serviceAccountToken"];
const MOUNT: &[&str] = &["subPath", "subPathExpr", "mountPropagation", "recursiveReadOnly"];
const POD_SECURITY: &[&str] = &[
    "seLinuxOptions",
    "appArmorProfile",
    "sysctls",
    "windowsOptions",
    "fsGroupChangePolicy",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const CONTAINER_SECURITY: &[&str] = &["seLinuxOptions", "appArmorProfile", "procMount", "windowsOptions"];
const RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Adds an error per field that is set and not honoured.
pub(super) fn check(errors: &mut Errors, path: &str, spec: &Value) {
    refuse(errors, path, spec, SPEC);
    for field in HOST {
        if spec.get(field) == Some(&Value::Bool(true)) {
            errors.unsupported(format!("{path}.{field}"));
        }
    }
    let context = format!("{path}.securityContext");
    refuse(errors, &context, &spec["securityContext"], POD_SECURITY);
    seccomp(errors, &context, &spec["securityContext"]);
    for field in ["initContainers", "containers"] {
        for (i, container) in list(spec, field).iter().enumerate() {
            check_container(errors, &format!("{path}.{field}[{i}]"), container);
        }
    }
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let path = format!("{path}.volumes[{i}]");
        for source in set_fields(volume).filter(|source| !VOLUMES.contains(source)) {
            errors.unsupported(format!("{path}.{source}"));
        }
        // Only a tmpfs is held to its size here.
        if is_set(&volume["emptyDir"]["sizeLimit"]) && volume["emptyDir"]["medium"] != "Memory" {
            errors.unsupported(format!("{path}.emptyDir.sizeLimit"));
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
    let context = format!("{path}.securityContext");
    refuse(errors, &context, &container["securityContext"], CONTAINER_SECURITY);
    seccomp(errors, &context, &container["securityContext"]);
    for (i, port) in list(container, "ports").iter().enumerate() {
        if port["protocol"] == "SCTP" {
            errors.unsupported(format!("{path}.ports[{i}].protocol"));
        }
    }
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        refuse(errors, &format!("{path}.volumeMounts[{i}]"), mount, MOUNT);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        refuse(
            errors,
            &format!("{path}.{probe}"),
            &container[probe],
            &["grpc", "terminationGracePeriodSeconds"],
        );
    }
    refuse(errors, &format!("{path}.resources"), &container["resources"], &["claims"]);
    refuse(errors, &format!("{path}.lifecycle"), &container["lifecycle"], &["stopSignal"]);
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

/// Docker has one profile, and may go without; there is no place for others.
fn seccomp(errors: &mut Errors, path: &str, context: &Value) {
    let profile = &context["seccompProfile"];
    if !profile.is_object() {
        return;
    }
    let path = format!("{path}.seccompProfile");
    match profile["type"].as_str().unwrap_or("") {
        "" => errors.required(format!("{path}.type"), "type is required when seccompProfile is set"),
        "Localhost" => errors.unsupported(format!("{path}.localhostProfile")),
        _ => errors.one_of(
            &format!("{path}.type"),
            &profile["type"],
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
    if profile["type"] != "Localhost" && !profile["localhostProfile"].is_null() {
        let why = "can only be set when seccomp type is Localhost";
        errors.invalid(format!("{path}.localhostProfile"), &profile["localhostProfile"], why);
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
