//! ComponentStatuses: kinds of their own, which nobody stores and which `kubectl get cs` still asks for.

use http::{Method, Response, StatusCode};
use oarlock_api::catalogue::COMPONENT_STATUSES;
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::encode::{self, Include};
use super::negotiate::{self, Form};
use super::resource::Request;
use super::respond::{self, Body};

/// Answers a get or a list.
pub(super) async fn answer(request: &Request<'_>) -> Result<Response<Body>, Status> {
    let kind = &COMPONENT_STATUSES;
    if *request.method != Method::GET || request.path.watch || request.query.flag("watch") {
        return Err(Status::method_not_allowed());
    }
    let form = negotiate::form(request.accept)?;
    let include = Include::parse(request.query.get("includeObject"));
    let all = request.registry.components(request.elected).await;
    let shown = match request.path.name {
        Some(name) => {
            let found = all.iter().find(|component| meta::name(component) == name);
            encode::object(kind, form, include, found.ok_or_else(|| Status::not_found(kind, name))?)
        }
        None => {
            let labels = request.query.labels()?;
            let fields = request.query.fields(kind)?;
            let chosen = |component: &&Value| {
                labels.matches(meta::labels(component))
                    && fields.matches_with(|field| oarlock_api::fields::value(component, field))
            };
            let chosen: Vec<&Value> = all.iter().filter(chosen).collect();
            list(form, include, &chosen)
        }
    };
    Ok(respond::json(StatusCode::OK, &shown))
}

fn list(form: Form, include: Include, components: &[&Value]) -> Value {
    let kind = &COMPONENT_STATUSES;
    let each = components.iter().map(|component| encode::object(kind, form, include, component));
    match form {
        Form::Objects => {
            let items: Vec<Value> = each.collect();
            json!({"kind": kind.list_kind(), "apiVersion": "v1", "metadata": {}, "items": items})
        }
        Form::Metadata(version) => {
            let items: Vec<Value> = each.collect();
            json!({
                "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
                "items": items,
            })
        }
        Form::Table(_) => {
            let mut whole = encode::object(kind, form, include, &json!({"metadata": {}}));
            whole["metadata"] = json!({});
            whole["rows"] = each
                .flat_map(|mut table| table["rows"].take().as_array().cloned().unwrap_or_default())
                .collect();
            whole
        }
    }
}
