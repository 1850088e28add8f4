//! Requests about objects: one generic path for every kind.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use oarlock_api::catalogue::{BINDINGS, COMPONENT_STATUSES, COMPUTED, Kind, NODES, PODS};
use oarlock_api::status::Status;
use oarlock_api::{convert, meta, validate};
use oarlock_daemon::Tasks;
use serde_json::{Value, json};

use super::body::{self, Decoded, Expected};
use super::encode::{self, Include};
use super::list::Scope;
use super::negotiate::{self, Form, Wanted};
use super::path::Resource;
use super::query::{self, Query};
use super::respond::{self, Body};
use super::streams::{self, NodeStreams};
use super::{access, apply, bind, components, list, logs, proxy, resource_metrics, reviews, watch};
use crate::auth::{Authenticator, Authorizer, Guard, User, asked_by, node, request};
use crate::patch::Patch;
use crate::registry::{DeleteOptions, Deleted, Manager, Registry, Sub, WriteOptions, may_warn};
use crate::usage::Board;

/// A request about objects, with everything that it carries.
pub(super) struct Request<'r> {
    /// The kind, in the version that the path names.
    pub(super) served: &'static Kind,
    pub(super) registry: &'r Arc<Registry>,
    /// Whether several control planes elect who runs the controllers.
    pub(super) elected: bool,
    pub(super) authenticator: &'r Authenticator,
    pub(super) authorizer: &'r Authorizer,
    pub(super) user: &'r User,
    pub(super) nodes: &'r Arc<dyn NodeStreams>,
    pub(super) usage: &'r Board,
    pub(super) head: &'r http::request::Parts,
    pub(super) method: &'r Method,
    pub(super) path: Resource<'r>,
    pub(super) query: Query,
    pub(super) accept: Option<&'r str>,
    pub(super) content_type: &'r str,
    pub(super) body: Bytes,
    pub(super) tasks: &'r Tasks,
}

impl Request<'_> {
    /// Answers it.
    pub(super) async fn answer(&self) -> Result<Response<Body>, Status> {
        let path = &self.path;
        if COMPUTED.contains(&self.served) {
            return resource_metrics::answer(self).await;
        }
        let kind = self.served.stored();
        if path.namespace.is_some() && !kind.namespaced {
            return Err(Status::no_resource());
        }
        if let (Some(name), Some("proxy"), true) = (path.name, path.subresource, *kind == NODES) {
            return proxy::proxy(self, name).await;
        }
        if !path
            .subresource
            .is_some_and(|sub| matches!(sub, "log" | "exec" | "attach" | "portforward" | "proxy"))
        {
            // Before anything is written: an answer that cannot be given must not hide that it was.
            self.form()?;
        }
        if *kind == BINDINGS {
            return match (self.path.namespace, self.path.name, self.method) {
                (Some(namespace), None, &Method::POST) => bind::bind(self, namespace, None).await,
                _ => Err(Status::method_not_allowed()),
            };
        }
        if kind.is_review() {
            if let Form::Table(_) = self.form()? {
                return Err(negotiate::not_acceptable());
            }
            return reviews::answer(self).await;
        }
        if *kind == COMPONENT_STATUSES {
            return components::answer(self).await;
        }
        match (path.name, path.subresource) {
            (None, _) => self.collection(kind).await,
            (Some(name), None) => self.object(kind, name).await,
            (Some(name), Some(sub)) if kind.has_subresource(sub) => self.subresource(kind, name, sub).await,
            (Some(_), Some(_)) => Err(Status::no_resource()),
        }
    }

    fn namespace(&self, kind: &Kind) -> Result<&str, Status> {
        match self.path.namespace {
            Some(namespace) => Ok(namespace),
            None if kind.namespaced => Err(Status::method_not_allowed()),
            None => Ok(""),
        }
    }

    fn wanted(&self) -> Result<Wanted, Status> {
        Ok(Wanted { form: self.form()?, is_protobuf: negotiate::is_protobuf(self.accept) })
    }

    pub(super) fn form(&self) -> Result<Form, Status> {
        negotiate::form(self.accept)
    }

    async fn collection(&self, kind: &'static Kind) -> Result<Response<Body>, Status> {
        match *self.method {
            Method::GET => {
                let scope = self.scope(kind)?;
                if self.path.watch || self.query.flag("watch") {
                    let wanted = self.wanted()?;
                    return watch::watch(self.registry, scope, &self.query, wanted, self.tasks.token()).await;
                }
                list::list(self.registry, &scope, &self.query, self.wanted()?).await
            }
            Method::POST if kind.allows("create") => self.create(kind).await,
            Method::DELETE if kind.allows("deletecollection") => self.delete_collection(kind).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn scope(&self, kind: &'static Kind) -> Result<Scope, Status> {
        Ok(Scope {
            served: self.served,
            kind,
            namespace: self.path.namespace.map(str::to_owned),
            labels: self.query.labels()?,
            fields: self.query.fields(self.served)?,
        })
    }

    async fn object(&self, kind: &'static Kind, name: &str) -> Result<Response<Body>, Status> {
        let namespace = self.namespace(kind)?;
        match *self.method {
            Method::GET if self.path.watch || self.query.flag("watch") => {
                let mut scope = self.scope(kind)?;
                let only = format!("metadata.name={name}");
                scope.fields = oarlock_api::selector::FieldSelector::parse(&only)
                    .map_err(|e| Status::bad_request(e.to_string()))?;
                watch::watch(self.registry, scope, &self.query, self.wanted()?, self.tasks.token()).await
            }
            Method::GET => {
                let object = self.registry.find(kind, namespace, name).await?;
                let include = Include::parse(self.query.get("includeObject"));
                let body = encode::event(self.served, self.form()?, include, &object, true);
                Ok(respond::object(StatusCode::OK, body))
            }
            Method::PUT if kind.allows("update") => self.update(kind, name, Sub::Main).await,
            Method::PATCH if kind.allows("patch") => self.patch(kind, name, Sub::Main).await,
            Method::DELETE if kind.allows("delete") => {
                if *kind == PODS {
                    self.may_end("delete", namespace, name).await?;
                }
                let deleted = self.registry.delete(kind, namespace, name, &self.delete_options()?).await?;
                Ok(deletion(self.served, name, deleted))
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    async fn subresource(
        &self,
        kind: &'static Kind,
        name: &str,
        sub: &str,
    ) -> Result<Response<Body>, Status> {
        let namespace = self.namespace(kind)?;
        match (sub, self.method) {
            ("log", &Method::GET) if *kind == PODS => {
                logs::log(self.registry, &**self.nodes, namespace, name, &self.query).await
            }
            ("exec" | "attach" | "portforward", &Method::GET | &Method::POST) if *kind == PODS => {
                let pod = self.registry.get(kind, namespace, name).await?;
                streams::connect(self.nodes, self.tasks, self.head, &pod, sub, &self.query).await
            }
            ("proxy", _) => proxy::pods::answer(self, kind, namespace, name).await,
            ("token", &Method::POST) => self.token(namespace, name).await,
            ("binding", &Method::POST) if *kind == PODS => bind::bind(self, namespace, Some(name)).await,
            ("eviction", &Method::POST) if *kind == PODS => self.evict(namespace, name).await,
            ("status" | "ephemeralcontainers" | "approval", &Method::GET) => {
                let value = self.registry.get(kind, namespace, name).await?;
                self.answer_object(StatusCode::OK, &value, &[])
            }
            ("status", &Method::PUT) => self.update(kind, name, Sub::Status).await,
            ("status", &Method::PATCH) => self.patch(kind, name, Sub::Status).await,
            ("approval", &Method::PUT) => self.update(kind, name, Sub::Approval).await,
            ("approval", &Method::PATCH) => self.patch(kind, name, Sub::Approval).await,
            ("ephemeralcontainers", &Method::PUT) => self.update(kind, name, Sub::Ephemeral).await,
            ("ephemeralcontainers", &Method::PATCH) => self.patch(kind, name, Sub::Ephemeral).await,
            ("finalize", &Method::PUT) => self.update(kind, name, Sub::Finalize).await,
            ("scale", &Method::GET) => {
                let view = self.registry.scale(kind, namespace, name).await?;
                Ok(respond::json(StatusCode::OK, &view))
            }
            ("scale", &Method::PUT) => self.update(kind, name, Sub::Scale).await,
            ("scale", &Method::PATCH) => self.patch(kind, name, Sub::Scale).await,
            _ => Err(Status::method_not_allowed()),
        }
    }

    /// What may be given away in a write.
    pub(super) async fn guard<'s>(&'s self, kind: &Kind, namespace: &'s str) -> Result<Guard<'s>, Status> {
        let name = self.path.name.unwrap_or("");
        let part = self.path.subresource.unwrap_or("");
        let guard = Guard { authorizer: self.authorizer, user: self.user, namespace, name, part };
        if guard.concerns(kind) {
            // A role that was made just now may be bound.
            self.registry.catch_up().await?;
        }
        Ok(guard)
    }

    /// How to write, and who does. `kind` is that of the options, as refusals name it.
    pub(super) fn write_options(&self, kind: &str, applies: bool) -> Result<WriteOptions, Status> {
        let agent = self.head.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let name = self.query.manager(kind, agent)?;
        let manager = Manager { name, version: Some(self.served), applies };
        Ok(WriteOptions { dry_run: self.query.dry_run()?, manager: Some(manager), from_cache: false })
    }

    async fn create(&self, kind: &'static Kind) -> Result<Response<Body>, Status> {
        let namespace = self.namespace(kind)?;
        let validation = self.query.field_validation()?;
        let Decoded { mut object, mut warnings } =
            body::decode(self.content_type, &self.body, Expected::of(self.served), validation)?;
        convert::to_stored(self.served, &mut object);
        let options = self.write_options("CreateOptions", false)?;
        let created = self.created(kind, namespace, object, &options).await?;
        warnings.extend(self.told(kind, Sub::Main, None, &created));
        self.answer_object(StatusCode::CREATED, &created, &warnings)
    }

    /// Creates an object that was read.
    async fn created(
        &self,
        kind: &'static Kind,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let causes = validate::version(self.served, &object);
        if !causes.is_empty() {
            return Err(Status::invalid(kind, meta::name(&object), causes));
        }
        asked_by(kind, self.user, &mut object);
        self.guard(kind, namespace).await?.check(kind, None, &object)?;
        self.registry.create(kind, namespace, object, options).await
    }

    async fn update(&self, kind: &'static Kind, name: &str, sub: Sub) -> Result<Response<Body>, Status> {
        let namespace = self.namespace(kind)?;
        let validation = self.query.field_validation()?;
        let Decoded { mut object, mut warnings } =
            body::decode(self.content_type, &self.body, expected(self.served, sub), validation)?;
        if sub != Sub::Scale {
            convert::to_stored(self.served, &mut object);
        }
        let (guard, options) =
            (self.guard(kind, namespace).await?, self.write_options("UpdateOptions", false)?);
        // Of an object that the client has seen there is no other.
        let unseen = meta::uid(&object).is_empty() && meta::text(&object, "resourceVersion").is_empty();
        let makes = sub == Sub::Main && kind.is_created_by_updates() && unseen;
        let new = makes.then(|| object.clone());
        let mut told = Vec::new();
        let written = self
            .registry
            .replace(kind, namespace, name, sub, object, &options, |old, new| {
                told = self.told(kind, sub, Some(old), new);
                guard.check(kind, Some(old), new)
            })
            .await;
        let written = match (written, new) {
            (Err(status), Some(new)) if status.is("NotFound") => {
                access::authorize_create(self.authorizer, self.user, &self.path)?;
                let created = self.created(kind, namespace, new, &options).await?;
                return self.answer_object(StatusCode::CREATED, &created, &warnings);
            }
            (written, _) => written?,
        };
        warnings.extend(told);
        self.answer_written(sub, &written, &warnings)
    }

    async fn patch(&self, kind: &'static Kind, name: &str, sub: Sub) -> Result<Response<Body>, Status> {
        let namespace = self.namespace(kind)?;
        let validation = self.query.field_validation()?;
        if self.content_type == apply::TYPE {
            return apply::apply(self, kind, namespace, name, sub).await;
        }
        let patch = Patch::parse(self.content_type, &self.body)?;
        self.query.force(false)?;
        let doubled = body::doubled(&self.body, expected(self.served, sub), validation)?;
        let mut warnings = Vec::new();
        let (guard, options) =
            (self.guard(kind, namespace).await?, self.write_options("PatchOptions", false)?);
        let written = self
            .registry
            .modify(kind, namespace, name, sub, &options, |mut present| {
                let old = (guard.concerns(kind) || Self::may_be_told(kind, sub)).then(|| present.clone());
                let version = if sub == Sub::Scale { kind } else { self.served };
                convert::from_stored(version, &mut present);
                let mut patched = patch.apply(self.served, sub, present)?;
                if meta::name(&patched) != name {
                    return Err(Status::bad_request("the name of an object may not be changed by a patch"));
                }
                warnings = body::check_patched(&mut patched, expected(self.served, sub), validation)?;
                warnings.extend(doubled.iter().cloned());
                convert::to_stored(version, &mut patched);
                warnings.extend(self.told(kind, sub, old.as_ref(), &patched));
                guard.check(kind, old.as_ref(), &patched)?;
                Ok(patched)
            })
            .await?;
        self.answer_written(sub, &written, &warnings)
    }

    /// Whether a write may be one that clients are told something of.
    fn may_be_told(kind: &Kind, sub: Sub) -> bool {
        matches!(sub, Sub::Main | Sub::Ephemeral) && may_warn(kind)
    }

    /// What a write that is allowed is warned of.
    pub(super) fn told(
        &self,
        kind: &'static Kind,
        sub: Sub,
        old: Option<&Value>,
        new: &Value,
    ) -> Vec<String> {
        if Self::may_be_told(kind, sub) {
            self.registry.security_warnings(kind, old, new)
        } else {
            Vec::new()
        }
    }

    pub(super) fn answer_written(
        &self,
        sub: Sub,
        written: &Value,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        if sub == Sub::Scale {
            let mut response = respond::json(StatusCode::OK, written);
            respond::warn(&mut response, warnings);
            return Ok(response);
        }
        self.answer_object(StatusCode::OK, written, warnings)
    }

    pub(super) fn answer_object(
        &self,
        code: StatusCode,
        value: &Value,
        warnings: &[String],
    ) -> Result<Response<Body>, Status> {
        let include = Include::parse(self.query.get("includeObject"));
        let mut response = respond::json(code, &encode::object(self.served, self.form()?, include, value));
        respond::warn(&mut response, warnings);
        Ok(response)
    }

    /// Lets a pod be ended, unless a node wants that which is not its own.
    async fn may_end(&self, verb: &str, namespace: &str, name: &str) -> Result<(), Status> {
        if node::of(self.user).is_none() {
            return Ok(());
        }
        node::may_end(self.user, verb, &self.registry.get(&PODS, namespace, name).await?)
    }

    async fn evict(&self, namespace: &str, name: &str) -> Result<Response<Body>, Status> {
        self.may_end("evict", namespace, name).await?;
        let stated = body::options(self.content_type, &self.body)?.unwrap_or_default();
        let version = if stated["apiVersion"] == "policy/v1beta1" { "v1beta1" } else { "v1" };
        let expected = Expected { group: "policy", version, kind: "Eviction" };
        let validation = self.query.field_validation()?;
        let eviction = body::decode(self.content_type, &self.body, expected, validation)?.object;
        if meta::name(&eviction) != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = self.deletion_of(&eviction["deleteOptions"])?;
        self.registry.evict(namespace, name, &options).await?;
        let success =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(respond::json(StatusCode::CREATED, &success))
    }

    /// A token for an account.
    async fn token(&self, namespace: &str, name: &str) -> Result<Response<Body>, Status> {
        let expected = Expected { group: "authentication.k8s.io", version: "v1", kind: "TokenRequest" };
        let validation = self.query.field_validation()?;
        let Decoded { object, warnings } = body::decode(self.content_type, &self.body, expected, validation)?;
        node::may_have_token(self.registry.cache(), self.user, (namespace, name), &object)?;
        let tokens = self.authenticator.tokens();
        let answered = request::answer(self.registry, tokens, namespace, name, object).await?;
        let mut response = respond::json(StatusCode::CREATED, &answered);
        respond::warn(&mut response, &warnings);
        Ok(response)
    }

    fn delete_options(&self) -> Result<DeleteOptions, Status> {
        self.deletion_of(&body::options(self.content_type, &self.body)?.unwrap_or_default())
    }

    fn deletion_of(&self, body: &Value) -> Result<DeleteOptions, Status> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let grace = body["gracePeriodSeconds"].as_i64();
        let query_grace = self.query.number("gracePeriodSeconds")?.and_then(|n| i64::try_from(n).ok());
        let orphan =
            body["orphanDependents"].as_bool().map(|o| if o { "Orphan" } else { "Background" }.to_owned());
        let policy = text(&body["propagationPolicy"])
            .or_else(|| self.query.get("propagationPolicy").map(str::to_owned));
        if let (Some(policy), true) = (&policy, orphan.is_some()) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let message = format!("Invalid value: {policy:?}: {why}");
            return Err(query::options_error_of("DeleteOptions", "propagationPolicy", message));
        }
        let dry_body = body["dryRun"].as_array().is_some_and(|d| d.iter().any(|d| d == "All"));
        Ok(DeleteOptions {
            grace_period_seconds: grace.or(query_grace),
            uid: text(&body["preconditions"]["uid"]),
            resource_version: text(&body["preconditions"]["resourceVersion"]),
            propagation_policy: policy.or(orphan),
            dry_run: self.query.dry_run()? || dry_body,
            evicted: false,
        })
    }

    async fn delete_collection(&self, kind: &'static Kind) -> Result<Response<Body>, Status> {
        let namespace = self.namespace(kind)?;
        let scope = self.scope(kind)?;
        let options = self.delete_options()?;
        let objects = self.registry.list(kind, Some(namespace).filter(|_| kind.namespaced)).await?;
        let mut items = Vec::new();
        for object in objects.iter().filter(|o| scope.matches(o)) {
            match self.registry.delete(kind, &object.key.namespace, &object.key.name, &options).await {
                Ok(Deleted::Gone(value) | Deleted::Terminating(value)) => {
                    items.push(shown(self.served, value));
                }
                Err(status) if status.is("NotFound") => {}
                Err(status) => return Err(status),
            }
        }
        let list = json!({
            "kind": kind.list_kind(), "apiVersion": self.served.api_version(),
            "metadata": {"resourceVersion": self.registry.cache().revision().0.to_string()}, "items": items,
        });
        Ok(respond::json(StatusCode::OK, &list))
    }
}

pub(super) fn expected(kind: &Kind, sub: Sub) -> Expected<'_> {
    if sub == Sub::Scale {
        Expected { group: "autoscaling", version: "v1", kind: "Scale" }
    } else {
        Expected::of(kind)
    }
}

/// What a delete answers: the object while it is ending, and of some kinds when it is gone; else a Status with what is gone.
fn deletion(served: &'static Kind, name: &str, deleted: Deleted) -> Response<Body> {
    let object = match deleted {
        Deleted::Terminating(object) => return respond::json(StatusCode::OK, &shown(served, object)),
        Deleted::Gone(object) if served.answers_deleted() => {
            return respond::json(StatusCode::OK, &shown(served, object));
        }
        Deleted::Gone(object) => object,
    };
    let mut details = json!({"name": name, "kind": served.plural, "uid": meta::uid(&object)});
    if !served.group.is_empty() {
        details["group"] = json!(served.group);
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    respond::json(StatusCode::OK, &status)
}

/// A stored object in the version that is answered.
fn shown(served: &Kind, mut object: Value) -> Value {
    convert::from_stored(served, &mut object);
    object
}
