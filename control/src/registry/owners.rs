//! Whose fields are whose after a write. Pure.
//!
//! Only objects that had owners from the start are told apart, as upstream has it: what the control plane makes for itself
//! has none, which keeps the cache small.

use jiff::Timestamp;
use oarlock_api::catalogue::{Kind, NODES};
use oarlock_api::managed::{self, Writer};
use oarlock_api::meta;
use serde_json::Value;

use super::{Sub, WriteOptions};

/// The list that a client sent.
pub(super) fn sent(object: &Value) -> Option<Value> {
    object.get("metadata")?.get("managedFields").cloned()
}

/// Sets the owners of a new object, whose defaults are filled in.
pub(super) fn created(
    kind: &'static Kind,
    options: &WriteOptions,
    object: &mut Value,
    sent: Option<Value>,
    now: Timestamp,
) {
    let Some(manager) = &options.manager else { return };
    if manager.applies {
        set(object, sent);
        return;
    }
    let time = meta::time(now);
    let version = manager.version.unwrap_or(kind);
    let writer = Writer { kind, version, manager: &manager.name, subresource: "", time: &time };
    // The status of a new object is nobody's.
    let nobodys =
        if kind.has_subresource("status") && *kind != NODES { object.get_mut("status") } else { None };
    let status = nobodys.map(Value::take);
    let entries = writer.update(&Value::Null, object, Vec::new());
    if let (Some(status), Some(place)) = (status, object.get_mut("status")) {
        *place = status;
    }
    managed::put(object, &entries);
}

/// Sets the owners of a changed object, which so far has those of the present one.
pub(super) fn changed(
    kind: &'static Kind,
    sub: Sub,
    options: &WriteOptions,
    present: &Value,
    next: &mut Value,
    sent: Option<Value>,
) {
    let Some(manager) = &options.manager else { return };
    if manager.applies {
        set(next, sent);
        return;
    }
    let sent = sent.filter(|_| sub == Sub::Main);
    if sent.as_ref().is_some_and(managed::is_reset) {
        managed::put(next, &[]);
        return;
    }
    // Clients that do not know the list must not lose it.
    let sent = sent.and_then(|sent| managed::read(&sent).ok()).filter(|entries| !entries.is_empty());
    let entries = sent.or_else(|| managed::of(present).ok()).unwrap_or_default();
    if entries.is_empty() {
        return;
    }
    let time = meta::time(Timestamp::now());
    let version = manager.version.unwrap_or(kind);
    let writer = Writer { kind, version, manager: &manager.name, subresource: sub.name(), time: &time };
    let entries = writer.update(present, next, entries);
    managed::put(next, &entries);
}

fn set(object: &mut Value, entries: Option<Value>) {
    let metadata = meta::metadata_mut(object);
    match entries {
        Some(entries) => drop(metadata.insert("managedFields".to_owned(), entries)),
        None => drop(metadata.shift_remove("managedFields")),
    }
}
