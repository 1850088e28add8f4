//! Pods and the specs of pods in templates.

use std::net::IpAddr;
use std::str::FromStr as _;

use serde_json::{Value, json};

use super::{Errors, list, text};
use crate::meta as rules;
use crate::quantity::Quantity;
use crate::static_pod;

pub(super) fn check_spec(errors: &mut Errors, path: &str, spec: &Value) {
    let containers = list(spec, "containers");
    if containers.is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    let volumes: Vec<&str> = list(spec, "volumes").iter().map(|v| text(v, "name")).collect();
    for (index, volume) in list(spec, "volumes").iter().enumerate() {
        name(errors, &format!("{path}.volumes[{index}].name"), text(volume, "name"));
        super::volumes::check(errors, &format!("{path}.volumes[{index}]"), volume);
    }
    errors.unique(volumes.iter().enumerate().map(|(i, v)| (format!("{path}.volumes[{i}].name"), *v)));
    super::pod_context::check(errors, path, spec);
    super::pod_rights::check(errors, path, spec);
    let all = ["initContainers", "containers"].into_iter().flat_map(|field| {
        list(spec, field).iter().enumerate().map(move |(i, c)| (format!("{path}.{field}[{i}]"), c))
    });
    let all: Vec<(String, &Value)> = all.collect();
    errors.unique(all.iter().map(|(path, c)| (format!("{path}.name"), text(c, "name"))));
    for (path, container) in &all {
        check_container(errors, path, container, &volumes);
        let is_init = path.contains(".initContainers[");
        let policy = &container["restartPolicy"];
        if !policy.is_null() {
            let path = format!("{path}.restartPolicy");
            if is_init {
                errors.one_of(&path, policy, &["Always"]);
            } else {
                errors.forbidden(path, "may not be set for non-init containers");
            }
        }
        // A sidecar runs as long as the others, and has all that they may have (KEP-753).
        super::handlers::check(errors, path, container, is_init && policy != "Always", spec);
    }
    host_ports(errors, path, containers);
    if spec["hostNetwork"] == true {
        all.iter().for_each(|(at, container)| host_network(errors, at, container, path == "spec"));
    }
    errors.one_of(
        &format!("{path}.restartPolicy"),
        &spec["restartPolicy"],
        &["Always", "OnFailure", "Never"],
    );
    errors.one_of(
        &format!("{path}.dnsPolicy"),
        &spec["dnsPolicy"],
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    errors.not_negative(
        &format!("{path}.terminationGracePeriodSeconds"),
        &spec["terminationGracePeriodSeconds"],
    );
    if spec["activeDeadlineSeconds"].as_i64().is_some_and(|s| s < 1) {
        let why = "must be between 1 and 2147483647, inclusive";
        errors.invalid(format!("{path}.activeDeadlineSeconds"), &spec["activeDeadlineSeconds"], why);
    }
    for (field, check) in [
        ("nodeName", rules::check_dns1123_subdomain as fn(&str) -> Result<(), String>),
        ("hostname", rules::check_dns1123_label),
        ("subdomain", rules::check_dns1123_label),
        ("serviceAccountName", rules::check_dns1123_subdomain),
        ("runtimeClassName", rules::check_dns1123_subdomain),
    ] {
        let value = text(spec, field);
        if let Some(why) = Some(value).filter(|v| !v.is_empty()).and_then(|v| check(v).err()) {
            errors.invalid(format!("{path}.{field}"), format!("{value:?}"), why);
        }
    }
    check_resources(errors, path, &json!({"overhead": spec["overhead"]}));
    super::meta::labels(errors, &format!("{path}.nodeSelector"), spec.get("nodeSelector"));
    super::scheduling::check(errors, path, spec);
}

pub(super) fn name(errors: &mut Errors, field: &str, name: &str) {
    if name.is_empty() {
        errors.required(field, "");
    } else if let Err(why) = rules::check_dns1123_label(name) {
        errors.invalid(field, format!("{name:?}"), why);
    }
}

pub(super) fn check_container(errors: &mut Errors, path: &str, container: &Value, volumes: &[&str]) {
    name(errors, &format!("{path}.name"), text(container, "name"));
    let image = text(container, "image");
    if image.is_empty() {
        errors.required(format!("{path}.image"), "");
    } else if image.trim() != image {
        errors.invalid(
            format!("{path}.image"),
            format!("{image:?}"),
            "must not have leading or trailing whitespace",
        );
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    errors.one_of(&format!("{path}.imagePullPolicy"), &container["imagePullPolicy"], &policies);
    check_ports(errors, path, container);
    check_env(errors, path, container);
    check_mounts(errors, path, container, volumes);
    check_resources(errors, &format!("{path}.resources"), &container["resources"]);
    super::pod_context::ids(errors, &format!("{path}.securityContext"), &container["securityContext"]);
    super::pod_rights::container(errors, &format!("{path}.securityContext"), &container["securityContext"]);
    let policies = ["FallbackToLogsOnError", "File"];
    let policy = &container["terminationMessagePolicy"];
    errors.one_of(&format!("{path}.terminationMessagePolicy"), policy, &policies);
}

fn check_ports(errors: &mut Errors, path: &str, container: &Value) {
    for (i, port) in list(container, "ports").iter().enumerate() {
        let path = format!("{path}.ports[{i}]");
        if port.get("containerPort").is_none_or(|p| p.is_null() || *p == json!(0)) {
            errors.required(format!("{path}.containerPort"), "");
        } else {
            errors.port(format!("{path}.containerPort"), &port["containerPort"]);
        }
        if port["hostPort"].as_i64().is_some_and(|number| number != 0) {
            errors.port(format!("{path}.hostPort"), &port["hostPort"]);
        }
        let ip = text(port, "hostIP");
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.invalid(format!("{path}.hostIP"), format!("{ip:?}"), why);
        }
        errors.one_of(&format!("{path}.protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        let name = text(port, "name");
        if !name.is_empty() {
            port_name(errors, &format!("{path}.name"), name);
        }
    }
    let ports = list(container, "ports").iter().enumerate();
    errors.unique(ports.map(|(i, p)| (format!("{path}.ports[{i}].name"), text(p, "name"))));
}

/// No port of the node twice; upstream's checkHostPortConflicts.
fn host_ports(errors: &mut Errors, path: &str, containers: &[Value]) {
    let mut asked = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in list(container, "ports").iter().enumerate() {
            if let Some(number) = port["hostPort"].as_i64().filter(|number| *number != 0) {
                let what = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
                asked.push((format!("{path}.containers[{i}].ports[{j}].hostPort"), what));
            }
        }
    }
    errors.unique(asked.iter().map(|(field, what)| (field.clone(), what.as_str())));
}

/// On the node's network a port of a container is the node's. A template may leave it to the pods, which have it by default.
fn host_network(errors: &mut Errors, path: &str, container: &Value, is_pod: bool) {
    for (i, port) in list(container, "ports").iter().enumerate() {
        let (host, inside) = (port["hostPort"].as_i64().unwrap_or(0), port["containerPort"].as_i64());
        if (is_pod || host != 0) && Some(host) != inside {
            let why = "must match `containerPort` when `hostNetwork` is true";
            errors.invalid(format!("{path}.ports[{i}].hostPort"), host, why);
        }
    }
}

/// IANA_SVC_NAME: at most 15 lower-case letters, digits and single hyphens, at least one letter.
pub(super) fn port_name(errors: &mut Errors, field: &str, name: &str) {
    let good = name.len() <= 15
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-');
    if name.len() > 15 {
        errors.invalid(field, format!("{name:?}"), "must be no more than 15 characters");
    } else if !good {
        let why = "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), with at least one letter";
        errors.invalid(field, format!("{name:?}"), why);
    }
}

fn check_env(errors: &mut Errors, path: &str, container: &Value) {
    for (i, variable) in list(container, "env").iter().enumerate() {
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(format!("{path}.env[{i}].name"), "");
        } else if name.contains('=') || !name.bytes().all(|b| b.is_ascii_graphic()) {
            let why = "a valid environment variable name must consist only of printable ASCII characters other than '='";
            errors.invalid(format!("{path}.env[{i}].name"), format!("{name:?}"), why);
        }
        if let Some(from) = variable.get("valueFrom").filter(|v| !v.is_null()) {
            check_env_source(errors, &format!("{path}.env[{i}].valueFrom"), from);
            if !text(variable, "value").is_empty() {
                let why = "may not be specified when `value` is not empty";
                errors.invalid(format!("{path}.env[{i}].valueFrom"), "\"\"", why);
            }
        }
    }
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        let path = format!("{path}.envFrom[{i}]");
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|r| source.get(*r).is_some_and(|v| !v.is_null()))
            .collect();
        match given.as_slice() {
            [one] if text(&source[*one], "name").is_empty() => {
                errors.required(format!("{path}.{one}.name"), "")
            }
            [_] => {}
            [] => errors.invalid(path, "\"\"", "must specify one of: `configMapRef` or `secretRef`"),
            _ => errors.invalid(path, "\"\"", "may not have more than one field specified at a time"),
        }
    }
}

/// What a variable can take from its pod.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn check_env_source(errors: &mut Errors, path: &str, from: &Value) {
    let known = ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef"];
    let given: Vec<&str> =
        known.into_iter().filter(|field| from.get(*field).is_some_and(|v| !v.is_null())).collect();
    match given.as_slice() {
        [] => {
            let why =
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            errors.invalid(path, "\"\"", why);
        }
        [_] => {}
        _ => errors.invalid(path, "\"\"", "may not have more than one field specified at a time"),
    }
    for source in given {
        let (path, reference) = (format!("{path}.{source}"), &from[source]);
        match source {
            "fieldRef" => super::volumes::field_ref(errors, &path, reference, ENV_FIELDS),
            "resourceFieldRef" => super::volumes::resource_ref(errors, &path, reference, false),
            _ => super::volumes::key_ref(errors, &path, reference),
        }
    }
}

fn check_mounts(errors: &mut Errors, path: &str, container: &Value, volumes: &[&str]) {
    let mounts = list(container, "volumeMounts");
    for (i, mount) in mounts.iter().enumerate() {
        let (name, at) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(format!("{path}.volumeMounts[{i}].name"), "");
        } else if !volumes.contains(&name) {
            errors.push(
                "FieldValueNotFound",
                format!("{path}.volumeMounts[{i}].name"),
                format!("Not found: {name:?}"),
            );
        }
        if at.is_empty() {
            errors.required(format!("{path}.volumeMounts[{i}].mountPath"), "");
        } else if at.contains(':') {
            errors.invalid(
                format!("{path}.volumeMounts[{i}].mountPath"),
                format!("{at:?}"),
                "must not contain ':'",
            );
        }
        let privileged = container["securityContext"]["privileged"] == true;
        super::pod_rights::mount(errors, &format!("{path}.volumeMounts[{i}]"), mount, privileged);
    }
    for (i, mount) in mounts.iter().enumerate() {
        let at = text(mount, "mountPath");
        if !at.is_empty() && mounts[..i].iter().any(|m| text(m, "mountPath") == at) {
            errors.invalid(
                format!("{path}.volumeMounts[{i}].mountPath"),
                format!("{at:?}"),
                "must be unique",
            );
        }
    }
}

fn check_resources(errors: &mut Errors, path: &str, resources: &Value) {
    let read = |value: &Value| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Quantity::from_str(&text).ok()
    };
    for field in ["limits", "requests", "overhead"] {
        for (name, value) in resources.get(field).and_then(Value::as_object).into_iter().flatten() {
            let at = format!("{path}.{field}[{name}]");
            match read(value) {
                None => errors.invalid(at, value, crate::quantity::ParseQuantityError),
                Some(quantity) if quantity.is_negative() => {
                    errors.invalid(at, value, "must be greater than or equal to 0");
                }
                Some(quantity) => {
                    if field != "overhead" && super::scheduling::is_extended(name) {
                        super::scheduling::extended(errors, &at, quantity, resources, name);
                    }
                    let limit = resources["limits"].get(name).and_then(read);
                    if field == "requests" && limit.is_some_and(|limit| quantity > limit) {
                        let limit = limit.map_or_else(String::new, |l| l.to_string());
                        errors.invalid(
                            at,
                            value,
                            format!("must be less than or equal to {name} limit of {limit}"),
                        );
                    }
                }
            }
        }
    }
}

const MIRROR_FIELD: &str = "metadata.annotations[kubernetes.io/config.mirror]";

/// What is said of a new pod beside its spec.
pub(super) fn check_new(errors: &mut Errors, pod: &Value) {
    if let Some(hash) = static_pod::mirrored(pod).filter(|_| text(&pod["spec"], "nodeName").is_empty()) {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(MIRROR_FIELD, format!("{hash:?}"), why);
    }
}

/// What of a pod may change: images, deadlines, tolerations that are added, and shorter grace for a negative one.
pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    match (static_pod::mirrored(old), static_pod::mirrored(new)) {
        (None, Some(_)) => errors.forbidden(MIRROR_FIELD, "may not add mirror pod annotation"),
        (old, new) if old != new => {
            errors.forbidden(MIRROR_FIELD, "may not remove or update mirror pod annotation");
        }
        _ => {}
    }
    let mut allowed = new["spec"].clone();
    let old_spec = &old["spec"];
    super::scheduling::gates_only_open(errors, old_spec, &mut allowed);
    for field in ["initContainers", "containers"] {
        let olds = list(old_spec, field);
        if let Some(news) = allowed.get_mut(field).and_then(Value::as_array_mut) {
            if news.len() != olds.len() {
                errors.forbidden(format!("spec.{field}"), "pod updates may not add or remove containers");
                return;
            }
            for (container, old) in news.iter_mut().zip(olds) {
                crate::meta::map_of(container).insert("image".to_owned(), old["image"].clone());
            }
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName"] {
        let may_change = match field {
            "tolerations" => list(old_spec, field).iter().all(|t| list(&new["spec"], field).contains(t)),
            "activeDeadlineSeconds" => new["spec"][field].as_i64().is_some(),
            "nodeName" => text(old_spec, field).is_empty() && !text(&new["spec"], field).is_empty(),
            _ => old_spec[field].as_i64().is_some_and(|s| s < 0) && new["spec"][field] == json!(1),
        };
        if may_change {
            match old_spec.get(field) {
                Some(value) => {
                    drop(crate::meta::map_of(&mut allowed).insert(field.to_owned(), value.clone()))
                }
                None => drop(crate::meta::map_of(&mut allowed).shift_remove(field)),
            }
        }
    }
    if allowed != *old_spec {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
            tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        errors.forbidden("spec", why);
    }
}
