//! autoscaling/v1 Scale: the view of a workload that has replicas. Pure.

use oarlock_api::catalogue::Kind;
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use oarlock_api::status::Status;
use serde_json::{Value, json};

/// The Scale of an object.
pub(super) fn view(kind: &Kind, object: &Value) -> Result<Value, Status> {
    if !kind.has_subresource("scale") {
        return Err(Status::no_resource());
    }
    let selector = Selector::of_workload(object)
        .map_err(|e| Status::internal(format!("the selector of {} is invalid: {e}", meta::name(object))))?;
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    Ok(json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": object["spec"]["replicas"].as_i64().unwrap_or(0)},
        "status": {
            "replicas": object["status"]["replicas"].as_i64().unwrap_or(0),
            "selector": selector.unwrap_or_default().to_string(),
        },
    }))
}

/// The object with the replicas of a Scale.
pub(super) fn apply(kind: &Kind, object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = match scale["spec"].get("replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().ok_or_else(|| {
            Status::bad_request(
                "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is not a number",
            )
        })?,
    };
    let mut next = object.clone();
    meta::map_at(meta::map_of(&mut next), "spec").insert("replicas".to_owned(), json!(replicas));
    debug_assert!(kind.has_subresource("scale"));
    Ok(next)
}
