//! Server-side apply: `PATCH` with a configuration, which is laid over the object or becomes it.

use http::{Response, StatusCode};
use jiff::Timestamp;
use oarlock_api::catalogue::Kind;
use oarlock_api::managed::Writer;
use oarlock_api::meta;
use oarlock_api::status::Status;
use oarlock_api::validate;
use serde_json::{Value, json};

use super::access;
use super::body::{self, Decoded};
use super::resource::{Request, expected};
use super::respond::Body;
use crate::auth::asked_by;
use crate::registry::Sub;

/// The content type.
pub(super) const TYPE: &str = "application/apply-patch+yaml";
/// How often an object that comes and goes meanwhile is tried.
const ATTEMPTS: usize = 4;

/// Answers it.
pub(super) async fn apply(
    request: &Request<'_>,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
    sub: Sub,
) -> Result<Response<Body>, Status> {
    let force = request.query.force(true)?;
    let options = request.write_options("PatchOptions", true)?;
    let validation = request.query.field_validation()?;
    let Decoded { object: config, mut warnings } =
        body::configuration(&request.body, expected(request.served, sub), validation)?;
    let config = addressed(request.served, namespace, name, sub, config)?;
    let guard = request.guard(kind, namespace).await?;
    let manager = options.manager.as_ref().map_or("", |manager| manager.name.as_str());
    for _ in 0..ATTEMPTS {
        let time = meta::time(Timestamp::now());
        let writer = Writer { kind, version: request.served, manager, subresource: sub.name(), time: &time };
        let mut told = Vec::new();
        let laid_over = |present: Value| {
            let next = writer.apply(&present, &config, force)?;
            told = request.told(kind, sub, Some(&present), &next);
            guard.check(kind, Some(&present), &next)?;
            Ok(next)
        };
        match request.registry.modify(kind, namespace, name, sub, &options, laid_over).await {
            Err(status) if status.is("NotFound") && sub == Sub::Main && kind.allows("create") => {}
            written => {
                warnings.extend(told);
                return request.answer_written(sub, &written?, &warnings);
            }
        }
        access::authorize_create(request.authorizer, request.user, &request.path)?;
        if !meta::uid(&config).is_empty() {
            let uid = meta::uid(&config);
            let why = format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            );
            return Err(Status::conflict(kind, name, &why));
        }
        let mut object = writer.create(&config)?;
        asked_by(kind, request.user, &mut object);
        let causes = validate::version(request.served, &object);
        if !causes.is_empty() {
            return Err(Status::invalid(kind, name, causes));
        }
        guard.check(kind, None, &object)?;
        match request.registry.create(kind, namespace, object, &options).await {
            // Somebody was faster: there is something to lay it over now.
            Err(status) if status.is("AlreadyExists") => {}
            created => {
                let created = created?;
                warnings.extend(request.told(kind, sub, None, &created));
                return request.answer_object(StatusCode::CREATED, &created, &warnings);
            }
        }
    }
    Err(Status::modified(kind, name))
}

/// The configuration of the object that the path names; that of a Scale is one of the object that has the replicas.
fn addressed(
    served: &Kind,
    namespace: &str,
    name: &str,
    sub: Sub,
    mut config: Value,
) -> Result<Value, Status> {
    let stated = meta::name(&config);
    if !stated.is_empty() && stated != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({stated}) does not match the name on the URL ({name})"
        )));
    }
    let stated = meta::namespace(&config);
    if !stated.is_empty() && stated != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta::metadata_mut(&mut config).insert("name".to_owned(), json!(name));
    if sub != Sub::Scale {
        return Ok(config);
    }
    let metadata = config["metadata"].take();
    let mut of_parent =
        json!({"apiVersion": served.api_version(), "kind": served.kind, "metadata": metadata});
    if let Some(replicas) = config["spec"].get("replicas") {
        of_parent["spec"] = json!({"replicas": replicas});
    }
    Ok(of_parent)
}
