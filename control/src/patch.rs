//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), and Kubernetes' strategic merge patch. Pure.

mod strategic;

use json_patch::PatchOperation;
use oarlock_api::catalogue::Kind;
use oarlock_api::schema::Schema;
use oarlock_api::status::Status;
use serde_json::Value;

use crate::registry::Sub;

/// The most operations of one JSON patch, as upstream limits them.
const MAX_OPERATIONS: usize = 10_000;
/// The most bytes that all copies and moves of one JSON patch may carry: as many as a request may have.
const MAX_CARRIED: usize = 3 * 1024 * 1024;
/// The deepest object that a JSON patch may make: what is stored must be readable again (`serde_json` reads 128 levels).
const MAX_DEPTH: usize = 120;

/// A patch, parsed.
#[derive(Debug, Clone)]
pub enum Patch {
    /// `application/json-patch+json`.
    Json(json_patch::Patch),
    /// `application/merge-patch+json`.
    Merge(Value),
    /// `application/strategic-merge-patch+json`.
    Strategic(Value),
}

impl Patch {
    /// The content types that are taken, as the refusal of others lists them.
    pub const TYPES: &'static str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
         application/apply-patch+yaml";

    /// Parses a body by its content type.
    ///
    /// # Errors
    /// 415 for other types, 400 for text that is no such patch.
    pub fn parse(content_type: &str, body: &[u8]) -> Result<Self, Status> {
        let bad = |e: serde_json::Error| Status::bad_request(format!("error decoding patch: {e}"));
        match content_type {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(bad)?;
                if patch.0.len() > MAX_OPERATIONS {
                    let (limit, count) = (MAX_OPERATIONS, patch.0.len());
                    let message =
                        format!("The allowed maximum operations in a JSON patch is {limit}, got {count}");
                    return Err(Status::bad_request(message));
                }
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(serde_json::from_slice(body).map_err(bad)?)),
            "application/strategic-merge-patch+json" => {
                Ok(Self::Strategic(serde_json::from_slice(body).map_err(bad)?))
            }
            _ => Err(Status::unsupported_media_type(Self::TYPES)),
        }
    }

    /// The object with the patch applied.
    ///
    /// # Errors
    /// A patch that does not fit the object.
    pub fn apply(&self, kind: &Kind, sub: Sub, mut object: Value) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => apply_json(&mut object, patch)?,
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => {
                let (group, version, name) = if sub == Sub::Scale {
                    ("autoscaling", "v1", "Scale")
                } else {
                    (kind.group, kind.version, kind.kind)
                };
                strategic::apply(Schema::builtin().kind(group, version, name), &mut object, patch)?;
            }
        }
        if object.is_object() {
            Ok(object)
        } else {
            Err(Status::bad_request("the patched object is no object"))
        }
    }
}

/// Applies the operations one by one. Copies and moves can double an object each time, in size and in depth, so both are
/// bounded, as upstream bounds them (`AccumulatedCopySizeLimit`).
fn apply_json(object: &mut Value, patch: &json_patch::Patch) -> Result<(), Status> {
    let rejected = |why: &dyn std::fmt::Display| {
        Status::invalid_patch(format!(
            "the server rejected our request due to an error in our request: {why}"
        ))
    };
    let mut carried = 0;
    for operation in &patch.0 {
        let (path, value) = match operation {
            PatchOperation::Copy(copy) => (copy.path.as_str(), object.pointer(copy.from.as_str())),
            PatchOperation::Move(r#move) => (r#move.path.as_str(), object.pointer(r#move.from.as_str())),
            PatchOperation::Add(add) => (add.path.as_str(), Some(&add.value)),
            PatchOperation::Replace(replace) => (replace.path.as_str(), Some(&replace.value)),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => ("", None),
        };
        if let Some(value) = value {
            if matches!(operation, PatchOperation::Copy(_) | PatchOperation::Move(_)) {
                carried += value.to_string().len();
            }
            if carried > MAX_CARRIED {
                return Err(rejected(&format_args!("it copies more than {MAX_CARRIED} bytes")));
            }
            if path.matches('/').count() + depth(value) > MAX_DEPTH {
                return Err(rejected(&format_args!("it nests deeper than {MAX_DEPTH} levels")));
            }
        }
        json_patch::patch(object, std::slice::from_ref(operation)).map_err(|e| rejected(&e))?;
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod algebra;
#[cfg(test)]
mod tests;
