//! Volumes that other machines have: what nfs, glusterfs, iscsi and rbd must say, in a pod and in a PersistentVolume.
//!
//! Source: k8s.io/kubernetes/pkg/apis/core/validation/validation.go.

use serde_json::Value;

use super::{Errors, list, text};
use crate::meta;

/// The fields of a pod's volume and of a PersistentVolume that are checked here.
pub(super) const SOURCES: &[&str] = &["nfs", "glusterfs", "iscsi", "rbd"];

/// Checks a source, if it is one of [`SOURCES`].
pub(super) fn check(errors: &mut Errors, path: &str, kind: &str, source: &Value) {
    match kind {
        "nfs" => nfs(errors, path, source),
        "glusterfs" => glusterfs(errors, path, source),
        "iscsi" => iscsi(errors, path, source),
        "rbd" => rbd(errors, path, source),
        _ => {}
    }
}

fn needs(errors: &mut Errors, path: &str, source: &Value, field: &str) {
    if text(source, field).is_empty() {
        errors.required(format!("{path}.{field}"), "");
    }
}

fn nfs(errors: &mut Errors, path: &str, source: &Value) {
    needs(errors, path, source, "server");
    needs(errors, path, source, "path");
    let export = text(source, "path");
    if !export.starts_with('/') {
        errors.invalid(format!("{path}.path"), format!("{export:?}"), "must be an absolute path");
    }
}

fn glusterfs(errors: &mut Errors, path: &str, source: &Value) {
    needs(errors, path, source, "endpoints");
    needs(errors, path, source, "path");
    let Some(namespace) = source.get("endpointsNamespace").and_then(Value::as_str) else { return };
    let field = format!("{path}.endpointsNamespace");
    if namespace.is_empty() {
        let why = "if the endpointnamespace is set, it must be a valid namespace name";
        errors.invalid(field, "\"\"", why);
    } else if let Err(why) = meta::check_dns1123_label(namespace) {
        errors.invalid(field, format!("{namespace:?}"), why);
    }
}

fn iscsi(errors: &mut Errors, path: &str, source: &Value) {
    needs(errors, path, source, "targetPortal");
    needs(errors, path, source, "iqn");
    let name = text(source, "iqn");
    if let Some(why) = Some(name).filter(|name| !name.is_empty()).and_then(|name| bad_name(name)) {
        errors.invalid(format!("{path}.iqn"), format!("{name:?}"), why);
    }
    if source["lun"].as_i64().is_some_and(|lun| !(0..=255).contains(&lun)) {
        errors.invalid(format!("{path}.lun"), &source["lun"], "must be between 0 and 255, inclusive");
    }
    let authenticates = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if authenticates && source.get("secretRef").is_none_or(Value::is_null) {
        errors.required(format!("{path}.secretRef"), "");
    }
    if source.get("initiatorName").is_some_and(|name| !name.is_null()) {
        // It would be an interface of its own for each volume.
        errors.unsupported(format!("{path}.initiatorName"));
    }
}

fn rbd(errors: &mut Errors, path: &str, source: &Value) {
    if list(source, "monitors").is_empty() {
        errors.required(format!("{path}.monitors"), "");
    }
    needs(errors, path, source, "image");
}

/// What is wrong with the name of an iSCSI target (RFC 3720, 3.2.6.3).
fn bad_name(name: &str) -> Option<&'static str> {
    let alphanumeric = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_well = if let Some(rest) = name.strip_prefix("iqn.") {
        is_qualified(rest)
    } else if name.starts_with("iqn") {
        false
    } else if let Some(rest) = name.strip_prefix("eui") {
        rest.strip_prefix('.').is_some_and(|id| alphanumeric(id, 16))
    } else if let Some(rest) = name.strip_prefix("naa") {
        rest.strip_prefix('.').is_some_and(|id| alphanumeric(id, 32))
    } else {
        return Some("must be valid format starting with iqn, eui, or naa");
    };
    if is_well { None } else { Some("must be valid format") }
}

/// `2001-04.com.example:storage.disk1`: when and who, then what.
fn is_qualified(name: &str) -> bool {
    let Some((authority, what)) = name.split_once(':') else { return false };
    let Some((date, domain)) = authority.split_once('.') else { return false };
    let is_date = date.len() == 7
        && date.bytes().enumerate().all(|(i, b)| if i == 4 { b == b'-' } else { b.is_ascii_digit() });
    let is_domain =
        !domain.is_empty() && domain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
    let is_plain = !what.is_empty()
        && !what.chars().any(|c| c.is_whitespace() || matches!(c, ',' | ';' | '*' | '&' | '$' | '|'));
    is_date && is_domain && is_plain
}
