//! What the server owns in an object, set right on every create and update. Pure.

use jiff::Timestamp;
use oarlock_api::aggregation::{self, Availability};
use oarlock_api::catalogue::{
    API_SERVICES, CERTIFICATE_SIGNING_REQUESTS, DEPLOYMENTS, Kind, NAMESPACES, NODES,
    PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, SERVICES, VOLUME_ATTACHMENTS,
};
use oarlock_api::meta;
use oarlock_api::schema::Schema;
use oarlock_api::status::{Cause, Status};
use oarlock_api::storage::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use serde_json::{Map, Value, json};

/// Metadata that clients cannot change.
const OWNED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
    "resourceVersion",
    "managedFields",
];

/// A 422 for one missing field.
pub(super) fn required(kind: &Kind, name: &str, field: &str, why: &str) -> Status {
    let cause = Cause {
        reason: "FieldValueRequired".to_owned(),
        message: format!("Required value: {why}"),
        field: field.to_owned(),
    };
    Status::invalid(kind, name, vec![cause])
}

/// An object that is about to be created: type and server-owned metadata set, status as a new object has it.
pub(super) fn create(kind: &Kind, namespace: &str, object: Value, now: Timestamp) -> Result<Value, Status> {
    let Value::Object(mut object) = object else {
        return Err(Status::bad_request("the body of the request is not an object"));
    };
    let mut metadata = match object.shift_remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(Status::bad_request("metadata is not an object")),
    };
    if metadata.get("resourceVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty()) {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let stated = metadata.get("namespace").and_then(Value::as_str).unwrap_or("");
    if kind.namespaced && !stated.is_empty() && stated != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
        "namespace",
        "generation",
    ] {
        metadata.shift_remove(field);
    }
    if kind.namespaced {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(meta::time(now)));
    protect(kind, &mut metadata);
    if kind.has_generation {
        metadata.insert("generation".to_owned(), json!(1));
    }
    if kind.has_subresource("status") && *kind != NODES {
        object.insert("status".to_owned(), initial_status(kind));
    }
    let mut object = assemble(kind, metadata, object);
    // Nobody has to be asked whether it is.
    if *kind == API_SERVICES
        && aggregation::service(&object).is_none()
        && let Some(status) = Availability::local().status_of(&object, now)
    {
        object["status"] = status;
    }
    Ok(object)
}

/// What is in use stays though it is deleted: admission's StorageObjectInUseProtection.
fn protect(kind: &Kind, metadata: &mut Map<String, Value>) {
    let finalizer = if *kind == PERSISTENT_VOLUME_CLAIMS {
        CLAIM_PROTECTION
    } else if *kind == PERSISTENT_VOLUMES {
        VOLUME_PROTECTION
    } else {
        return;
    };
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(finalizers) = finalizers.as_array_mut()
        && !finalizers.contains(&json!(finalizer))
    {
        finalizers.push(json!(finalizer));
    }
}

fn initial_status(kind: &Kind) -> Value {
    let mut status = if [&PODS, &PERSISTENT_VOLUME_CLAIMS, &PERSISTENT_VOLUMES].contains(&kind) {
        json!({"phase": "Pending"})
    } else if *kind == NAMESPACES {
        json!({"phase": "Active"})
    } else if *kind == SERVICES {
        json!({"loadBalancer": {}})
    } else {
        json!({})
    };
    fill_status(kind, &mut status);
    status
}

/// Counts and the like are there though nobody has said them.
fn fill_status(kind: &Kind, status: &mut Value) {
    let schema = Schema::builtin();
    let message = schema.kind(kind.group, kind.version, kind.kind);
    let message = message.and_then(|message| schema.field(message, "status")?.message());
    if let Some(message) = message {
        schema.fill_zeros(message, status);
    }
}

/// A replaced object: what the server owns and the status are those of the present one.
pub(super) fn update(kind: &Kind, present: &Value, wanted: Value) -> Value {
    let mut wanted = match wanted {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let metadata = metadata(present, wanted.shift_remove("metadata"), &[]);
    if kind.has_subresource("status") {
        match present.get("status") {
            Some(status) => drop(wanted.insert("status".to_owned(), status.clone())),
            None => drop(wanted.shift_remove("status")),
        }
    }
    // What was asked for stays what was asked for.
    if *kind == CERTIFICATE_SIGNING_REQUESTS {
        wanted.insert("spec".to_owned(), present["spec"].clone());
    }
    if *kind == NAMESPACES
        && let Some(finalizers) = present["spec"].get("finalizers")
    {
        meta::map_at(&mut wanted, "spec").insert("finalizers".to_owned(), finalizers.clone());
    }
    assemble(kind, metadata, wanted)
}

/// Other metadata, but for what the server owns and what is kept besides.
fn metadata(present: &Value, wanted: Option<Value>, kept: &[&str]) -> Map<String, Value> {
    let mut metadata = match wanted {
        Some(Value::Object(metadata)) => metadata,
        _ => Map::new(),
    };
    for field in OWNED.iter().chain(kept) {
        match present["metadata"].get(field) {
            Some(value) => drop(metadata.insert((*field).to_owned(), value.clone())),
            None => drop(metadata.shift_remove(*field)),
        }
    }
    metadata.shift_remove("selfLink");
    metadata
}

/// What of metadata cannot be changed with the status, kind by kind as upstream has it.
fn kept_with_status(kind: &Kind) -> &'static [&'static str] {
    if *kind == DEPLOYMENTS {
        &["labels"]
    } else if *kind == PODS {
        &["ownerReferences"]
    } else if *kind == API_SERVICES || *kind == VOLUME_ATTACHMENTS {
        &["labels", "annotations", "finalizers", "ownerReferences"]
    } else {
        &[]
    }
}

/// The present object with other metadata.
fn with_metadata(present: &Value, wanted: Option<Value>, kept: &[&str]) -> Value {
    let mut next = present.clone();
    let metadata = metadata(present, wanted, kept);
    meta::map_of(&mut next).insert("metadata".to_owned(), Value::Object(metadata));
    next
}

/// The present object with another status, and with other labels and annotations as upstream has it.
pub(super) fn update_status(kind: &Kind, present: &Value, mut wanted: Value) -> Value {
    let mut next = with_metadata(present, taken(&mut wanted, "metadata"), kept_with_status(kind));
    let mut status = taken(&mut wanted, "status").unwrap_or_else(|| json!({}));
    fill_status(kind, &mut status);
    meta::map_of(&mut next).insert("status".to_owned(), status);
    next
}

fn taken(object: &mut Value, field: &str) -> Option<Value> {
    object.get_mut(field).map(Value::take)
}

/// The present namespace with other `spec.finalizers` and metadata.
pub(super) fn finalize(present: &Value, mut wanted: Value) -> Value {
    let mut next = with_metadata(present, taken(&mut wanted, "metadata"), &[]);
    let finalizers = wanted["spec"].get("finalizers").cloned().unwrap_or_else(|| json!([]));
    meta::map_at(meta::map_of(&mut next), "spec").insert("finalizers".to_owned(), finalizers);
    next
}

/// The present request for a certificate with other conditions and metadata.
pub(super) fn approve(present: &Value, mut wanted: Value) -> Value {
    let mut next = with_metadata(present, taken(&mut wanted, "metadata"), &[]);
    let status = meta::map_at(meta::map_of(&mut next), "status");
    match wanted["status"].get("conditions") {
        Some(conditions) => drop(status.insert("conditions".to_owned(), conditions.clone())),
        None => drop(status.shift_remove("conditions")),
    }
    next
}

/// The present pod with other `spec.ephemeralContainers`.
pub(super) fn debug(present: &Value, wanted: &Value) -> Value {
    let mut next = present.clone();
    let spec = meta::map_at(meta::map_of(&mut next), "spec");
    match wanted["spec"].get("ephemeralContainers") {
        Some(added) => drop(spec.insert("ephemeralContainers".to_owned(), added.clone())),
        None => drop(spec.shift_remove("ephemeralContainers")),
    }
    next
}

/// apiVersion, kind and metadata first: the order that the cache counts on.
fn assemble(kind: &Kind, metadata: Map<String, Value>, rest: Map<String, Value>) -> Value {
    let mut object = Map::with_capacity(rest.len() + 3);
    object.insert("apiVersion".to_owned(), json!(kind.api_version()));
    object.insert("kind".to_owned(), json!(kind.kind));
    object.insert("metadata".to_owned(), Value::Object(metadata));
    object.extend(rest.into_iter().filter(|(key, _)| key != "apiVersion" && key != "kind"));
    Value::Object(object)
}
