//! ConfigMaps and Secrets: keys, sizes, what a type of Secret must hold, and content that may not change.

use serde_json::{Map, Value};

use super::{Errors, text};
use crate::catalogue::{Kind, SECRETS};
use crate::meta as rules;

/// The most that the content of one object may hold, in bytes.
const MAX_CONTENT: usize = 1024 * 1024;

pub(super) fn config_map(errors: &mut Errors, object: &Value) {
    keys(errors, object);
    let binary = object.get("binaryData").and_then(Value::as_object);
    for key in content(object, "data").into_iter().flat_map(Map::keys) {
        if binary.is_some_and(|b| b.contains_key(key)) {
            let why = "duplicate of key present in binaryData";
            errors.invalid(format!("data[{key}]"), format!("{key:?}"), why);
        }
    }
    let plain = |value: &Value| value.as_str().map_or(0, str::len);
    let total = size(object, "data", plain) + size(object, "binaryData", decoded_length);
    too_long(errors, "", total);
}

pub(super) fn secret(errors: &mut Errors, object: &Value) {
    keys(errors, object);
    too_long(errors, "data", size(object, "data", decoded_length));
    let needs: &[&str] = match text(object, "type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needs {
        if content(object, "data").is_none_or(|data| !data.contains_key(*key)) {
            errors.required(format!("data[{key}]"), "");
        }
    }
    let account = "kubernetes.io/service-account.name";
    if text(object, "type") == "kubernetes.io/service-account-token"
        && rules::annotation(object, account).is_none_or(str::is_empty)
    {
        errors.required(format!("metadata.annotations[{account}]"), "");
    }
}

/// What may not change: a Secret's type, and the content of what says so of itself.
pub(super) fn check_update(errors: &mut Errors, kind: &Kind, old: &Value, new: &Value) {
    if *kind == SECRETS {
        errors.immutable("type", &old["type"], &new["type"]);
    }
    if old["immutable"] != Value::Bool(true) {
        return;
    }
    if new["immutable"] != Value::Bool(true) {
        errors.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for field in ["data", "binaryData"] {
        if old.get(field) != new.get(field) {
            errors.forbidden(field, "field is immutable when `immutable` is set");
        }
    }
}

fn content<'v>(object: &'v Value, field: &str) -> Option<&'v Map<String, Value>> {
    object.get(field).and_then(Value::as_object)
}

fn size(object: &Value, field: &str, of: impl Fn(&Value) -> usize) -> usize {
    content(object, field).into_iter().flat_map(Map::values).map(of).sum()
}

/// How many bytes a base64 text stands for.
fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("");
    text.len() / 4 * 3 - text.bytes().rev().take_while(|b| *b == b'=').count().min(text.len() / 4 * 3)
}

fn too_long(errors: &mut Errors, field: &str, total: usize) {
    if total > MAX_CONTENT {
        errors.push("FieldValueTooLong", field, format!("Too long: must have at most {MAX_CONTENT} bytes"));
    }
}

fn keys(errors: &mut Errors, object: &Value) {
    for field in ["data", "binaryData"] {
        for key in content(object, field).into_iter().flat_map(Map::keys) {
            if let Err(why) = check_key(key) {
                errors.invalid(format!("{field}[{key}]"), format!("{key:?}"), why);
            }
        }
    }
}

/// A key of a ConfigMap or Secret: what can be a file's name.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    if key.len() > 253 {
        return Err("must be no more than 253 characters".to_owned());
    }
    if key == "." || key == ".." {
        return Err(format!("must not be '{key}'"));
    }
    if key.starts_with("..") {
        return Err("must not start with '..'".to_owned());
    }
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if key.is_empty() || !key.bytes().all(letter) {
        let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or \
            'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
        return Err(why.to_owned());
    }
    Ok(())
}
