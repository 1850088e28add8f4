//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), and Kubernetes' strategic merge patch. Pure.

mod strategic;

use oarlock_api::catalogue::Kind;
use oarlock_api::schema::Schema;
use oarlock_api::status::Status;
use serde_json::Value;

use crate::registry::Sub;

/// The most operations of one JSON patch, as upstream limits them.
const MAX_OPERATIONS: usize = 10_000;

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
    pub const TYPES: &'static str =
        "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

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
            Self::Json(patch) => {
                json_patch::patch(&mut object, patch).map_err(|e| {
                    let message =
                        format!("the server rejected our request due to an error in our request: {e}");
                    Status::invalid_patch(message)
                })?;
            }
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

    /// The paths that the patch sets, as an object: for the check of unknown fields. A JSON patch has none.
    #[must_use]
    pub fn as_object(&self) -> Option<&Value> {
        match self {
            Self::Json(_) => None,
            Self::Merge(patch) | Self::Strategic(patch) => Some(patch),
        }
    }
}
