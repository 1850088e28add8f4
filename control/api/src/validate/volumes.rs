//! Volumes of pods: one source each, and what the source needs.

use serde_json::Value;

use super::{Errors, config, list, remote, text};

/// What a file of the downward API or a variable can show.
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

pub(super) fn check(errors: &mut Errors, path: &str, volume: &Value) {
    let sources: Vec<&str> = volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| *key != "name" && !value.is_null())
        .map(|(key, _)| key.as_str())
        .collect();
    let Some((_, more)) = sources.split_first() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    for source in more {
        errors.forbidden(format!("{path}.{source}"), "may not specify more than 1 volume type");
    }
    for source in sources {
        let (path, value) = (format!("{path}.{source}"), &volume[source]);
        match source {
            "hostPath" => host_path(errors, &path, value),
            "emptyDir" => errors.one_of(&format!("{path}.medium"), &medium(value), &["", "Memory"]),
            "projected" => projected(errors, &path, value),
            "ephemeral" => ephemeral(errors, &path, &value["volumeClaimTemplate"]),
            "persistentVolumeClaim" if text(value, "claimName").is_empty() => {
                errors.required(format!("{path}.claimName"), "");
            }
            other => remote::check(errors, &path, other, value),
        }
        files(errors, &path, source, value);
    }
}

fn ephemeral(errors: &mut Errors, path: &str, template: &Value) {
    let path = format!("{path}.volumeClaimTemplate");
    if template.is_null() {
        return errors.required(path, "");
    }
    super::meta::labels(errors, &format!("{path}.metadata.labels"), template["metadata"].get("labels"));
    super::storage::claim(errors, &format!("{path}.spec"), &template["spec"]);
}

fn medium(source: &Value) -> Value {
    Value::from(text(source, "medium"))
}

pub(super) fn host_path(errors: &mut Errors, path: &str, source: &Value) {
    let at = text(source, "path");
    if at.is_empty() {
        errors.required(format!("{path}.path"), "");
    } else {
        no_way_up(errors, &format!("{path}.path"), at);
    }
    errors.one_of(&format!("{path}.type"), &Value::from(text(source, "type")), HOST_PATH_TYPES);
}

fn projected(errors: &mut Errors, path: &str, source: &Value) {
    mode(errors, &format!("{path}.defaultMode"), &source["defaultMode"]);
    for (i, one) in list(source, "sources").iter().enumerate() {
        let kinds = one.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let path = format!("{path}.sources[{i}]");
        for (n, (kind, value)) in kinds.enumerate() {
            if n > 0 {
                errors.forbidden(format!("{path}.{kind}"), "may not specify more than 1 volume type");
            }
            if kind == "serviceAccountToken" {
                token(errors, &format!("{path}.{kind}"), value);
            }
            files(errors, &format!("{path}.{kind}"), kind, value);
        }
    }
}

/// A token of the pod's account.
fn token(errors: &mut Errors, path: &str, source: &Value) {
    let life = source["expirationSeconds"].as_i64();
    if life.is_some_and(|life| life < 10 * 60) {
        errors.invalid(
            format!("{path}.expirationSeconds"),
            life.unwrap_or_default(),
            "may not specify a duration less than 10 minutes",
        );
    } else if life.is_some_and(|life| life > 1 << 32) {
        errors.invalid(
            format!("{path}.expirationSeconds"),
            life.unwrap_or_default(),
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    let file = text(source, "path");
    if file.is_empty() {
        errors.required(format!("{path}.path"), "");
    } else {
        relative(errors, &format!("{path}.path"), file);
    }
}

/// A path of a file below its volume.
fn relative(errors: &mut Errors, field: &str, file: &str) {
    if file.starts_with('/') {
        errors.invalid(field, format!("{file:?}"), "must be a relative path");
        return;
    }
    no_way_up(errors, field, file);
    if file.starts_with("..") {
        errors.invalid(field, format!("{file:?}"), "must not start with '..'");
    }
}

/// Sources that are made of files.
fn files(errors: &mut Errors, path: &str, source: &str, value: &Value) {
    if !matches!(source, "configMap" | "secret" | "downwardAPI") {
        return;
    }
    mode(errors, &format!("{path}.defaultMode"), &value["defaultMode"]);
    let in_projection = path.contains(".sources[");
    let (reference, name) = if source == "secret" && !in_projection {
        ("secretName", text(value, "secretName"))
    } else {
        ("name", text(value, "name"))
    };
    if name.is_empty() && source != "downwardAPI" {
        errors.required(format!("{path}.{reference}"), "");
    }
    for (i, item) in list(value, "items").iter().enumerate() {
        let path = format!("{path}.items[{i}]");
        mode(errors, &format!("{path}.mode"), &item["mode"]);
        let file = text(item, "path");
        if file.is_empty() {
            errors.required(format!("{path}.path"), "");
        } else {
            relative(errors, &format!("{path}.path"), file);
        }
        if source == "downwardAPI" {
            downward(errors, &path, item);
        } else if text(item, "key").is_empty() {
            errors.required(format!("{path}.key"), "");
        }
    }
}

fn downward(errors: &mut Errors, path: &str, item: &Value) {
    let given = |field: &str| item.get(field).is_some_and(|v| !v.is_null());
    match (given("fieldRef"), given("resourceFieldRef")) {
        (true, true) => errors.invalid(
            path,
            "\"resource\"",
            "fieldRef and resourceFieldRef can not be specified simultaneously",
        ),
        (true, false) => field_ref(errors, &format!("{path}.fieldRef"), &item["fieldRef"], FILE_FIELDS),
        (false, true) => {
            resource_ref(errors, &format!("{path}.resourceFieldRef"), &item["resourceFieldRef"], true);
        }
        (false, false) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
}

/// A field of the pod by its path.
pub(super) fn field_ref(errors: &mut Errors, path: &str, reference: &Value, known: &[&str]) {
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        errors.required(format!("{path}.fieldPath"), "");
    } else if let Some((map, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        if !matches!(map, "metadata.labels" | "metadata.annotations") {
            errors.invalid(format!("{path}.fieldPath"), format!("{field:?}"), "does not support subscript");
        } else if let Err(why) = crate::meta::check_qualified_name(key) {
            errors.invalid(format!("{path}.fieldPath"), format!("{key:?}"), why);
        }
    } else {
        errors.one_of(&format!("{path}.fieldPath"), &reference["fieldPath"], known);
    }
}

/// A limit or request of a container.
pub(super) fn resource_ref(errors: &mut Errors, path: &str, reference: &Value, in_volume: bool) {
    if in_volume && text(reference, "containerName").is_empty() {
        errors.required(format!("{path}.containerName"), "");
    }
    if text(reference, "resource").is_empty() {
        errors.required(format!("{path}.resource"), "");
    } else {
        let known = [
            "limits.cpu",
            "limits.ephemeral-storage",
            "limits.memory",
            "requests.cpu",
            "requests.ephemeral-storage",
            "requests.memory",
        ];
        errors.one_of(&format!("{path}.resource"), &reference["resource"], &known);
    }
}

/// The key of a ConfigMap or Secret that a variable takes.
pub(super) fn key_ref(errors: &mut Errors, path: &str, reference: &Value) {
    let name = text(reference, "name");
    if let Err(why) = crate::meta::check_dns1123_subdomain(name) {
        errors.invalid(format!("{path}.name"), format!("{name:?}"), why);
    }
    let key = text(reference, "key");
    if key.is_empty() {
        errors.required(format!("{path}.key"), "");
    } else if let Err(why) = config::check_key(key) {
        errors.invalid(format!("{path}.key"), format!("{key:?}"), why);
    }
}

pub(super) fn no_way_up(errors: &mut Errors, field: &str, path: &str) {
    if path.split('/').any(|part| part == "..") {
        errors.invalid(field, format!("{path:?}"), "must not contain '..'");
    }
}

fn mode(errors: &mut Errors, field: &str, mode: &Value) {
    if mode.as_i64().is_some_and(|m| !(0..=0o777).contains(&m)) {
        errors.invalid(field, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}
