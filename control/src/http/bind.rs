//! Bindings by themselves and as a subresource of their pod.

use http::{Response, StatusCode};
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::body::{self, Expected};
use super::resource::Request;
use super::respond::{self, Body};
use crate::registry::Binding;

/// Gives a pod its node; `pod` is the one that the path names.
pub(super) async fn bind(
    request: &Request<'_>,
    namespace: &str,
    pod: Option<&str>,
) -> Result<Response<Body>, Status> {
    let expected = Expected { group: "", version: "v1", kind: "Binding" };
    let validation = request.query.field_validation()?;
    let object = body::decode(request.content_type, &request.body, expected, validation)?.object;
    let stated = meta::name(&object);
    let name = pod.unwrap_or(stated);
    if !stated.is_empty() && stated != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let causes = wrong(name, &object["target"]);
    if !causes.is_empty() {
        return Err(Status::invalid_kind("", "Binding", name, causes));
    }
    let binding = Binding {
        node: object["target"]["name"].as_str().unwrap_or("").to_owned(),
        uid: meta::uid(&object).to_owned(),
        resource_version: meta::resource_version(&object).to_owned(),
        annotations: object["metadata"]["annotations"].as_object().cloned().unwrap_or_default(),
        dry_run: request.query.dry_run()?,
    };
    request.registry.bind(namespace, name, &binding).await?;
    let success =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(StatusCode::CREATED, &success))
}

/// What is wrong with a binding. Upstream says the same and answers it as a failure of its own (500).
fn wrong(name: &str, target: &Value) -> Vec<Cause> {
    let cause = |reason: &str, field: &str, message: String| Cause {
        reason: format!("FieldValue{reason}"),
        message,
        field: field.to_owned(),
    };
    let mut causes = Vec::new();
    if name.is_empty() {
        causes.push(cause("Required", "metadata.name", "Required value: name is required".to_owned()));
    }
    let kind = target["kind"].as_str().unwrap_or("");
    if !matches!(kind, "" | "Node") {
        let message = format!("Unsupported value: {kind:?}: supported values: \"Node\", \"<empty>\"");
        causes.push(cause("NotSupported", "target.kind", message));
    }
    if target["name"].as_str().unwrap_or("").is_empty() {
        causes.push(cause("Required", "target.name", "Required value".to_owned()));
    }
    causes
}
