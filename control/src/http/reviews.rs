//! Questions about who somebody is and what they may: asked as objects that are never kept.
//!
//! Source: k8s.io/kubernetes/pkg/registry/{authentication,authorization}, pkg/apis/authorization/validation.

use std::collections::BTreeMap;

use http::{Method, Response, StatusCode};
use oarlock_api::catalogue::{
    LOCAL_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_REVIEWS,
    SELF_SUBJECT_RULES_REVIEWS, TOKEN_REVIEWS,
};
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::body::{self, Expected};
use super::resource::Request;
use super::respond::{self, Body};
use crate::auth::{About, Attributes, Decision, ResourceAttributes, Rule, User, node};

/// Answers a review.
pub(super) async fn answer(request: &Request<'_>) -> Result<Response<Body>, Status> {
    let kind = request.served;
    if request.path.name.is_some() || *request.method != Method::POST {
        return Err(Status::method_not_allowed());
    }
    if kind.namespaced && request.path.namespace.is_none() {
        return Err(Status::method_not_allowed());
    }
    let validation = request.query.field_validation()?;
    let decoded = body::decode(request.content_type, &request.body, Expected::of(kind), validation)?;
    let mut review = decoded.object;
    let status = if *kind == TOKEN_REVIEWS {
        token(request, &review).await?
    } else if *kind == SELF_SUBJECT_REVIEWS {
        json!({"userInfo": shown(request.user)})
    } else if *kind == SELF_SUBJECT_RULES_REVIEWS {
        rules(request, &review).await?
    } else {
        access(request, &review).await?
    };
    let metadata = meta::metadata_mut(&mut review);
    metadata.insert("creationTimestamp".to_owned(), Value::Null);
    review["status"] = status;
    let mut response = respond::json(StatusCode::CREATED, &review);
    respond::warn(&mut response, &decoded.warnings);
    Ok(response)
}

/// A user as reviews show them.
fn shown(user: &User) -> Value {
    let mut shown = json!({"username": user.name});
    if !user.uid.is_empty() {
        shown["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        shown["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        shown["extra"] = json!(user.extra);
    }
    shown
}

async fn token(request: &Request<'_>, review: &Value) -> Result<Value, Status> {
    let spec = &review["spec"];
    let token = spec["token"].as_str().unwrap_or("");
    if token.is_empty() {
        return Err(Status::bad_request("token is required for TokenReview in authentication"));
    }
    let wanted = words(&spec["audiences"]);
    let asked = if wanted.is_empty() { request.authenticator.tokens().audiences() } else { &wanted };
    Ok(match request.authenticator.know(token, asked).await {
        Ok(known) => json!({"authenticated": true, "user": shown(&known.user), "audiences": known.audiences}),
        Err(why) => json!({"user": {}, "error": why}),
    })
}

async fn access(request: &Request<'_>, review: &Value) -> Result<Value, Status> {
    let (kind, spec) = (request.served, &review["spec"]);
    let own = *kind == SELF_SUBJECT_ACCESS_REVIEWS;
    let causes = check(spec, own);
    if !causes.is_empty() {
        return Err(Status::invalid(kind, "", causes));
    }
    if *kind == LOCAL_SUBJECT_ACCESS_REVIEWS {
        local(request, spec)?;
    }
    let user = if own { request.user.clone() } else { subject(spec) };
    let attributes = wanted(spec);
    let mut decision = request.authorizer.decide(&user, &attributes);
    if !decision.is_allowed() {
        // What gives the right may have been written just now.
        request.registry.catch_up().await?;
        decision = request.authorizer.decide(&user, &attributes);
    }
    let (allowed, reason) = match decision {
        Decision::Allowed(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    Ok(status)
}

/// What a local review may not say.
fn local(request: &Request<'_>, spec: &Value) -> Result<(), Status> {
    let namespace = request.path.namespace.unwrap_or("");
    let invalid = |field: &str, value: &str, why: &str| {
        let message = format!("Invalid value: {value}: {why}");
        let cause = Cause { reason: "FieldValueInvalid".to_owned(), message, field: format!("spec.{field}") };
        Err(Status::invalid(request.served, "", vec![cause]))
    };
    if spec["nonResourceAttributes"].is_object() {
        let shown = spec["nonResourceAttributes"].to_string();
        return invalid("nonResourceAttributes", &shown, "disallowed on this kind of request");
    }
    let stated = spec["resourceAttributes"]["namespace"].as_str().unwrap_or("");
    if stated != namespace {
        return invalid(
            "resourceAttributes.namespace",
            &format!("{stated:?}"),
            "must match metadata.namespace",
        );
    }
    Ok(())
}

fn check(spec: &Value, own: bool) -> Vec<Cause> {
    let (resource, path) =
        (spec["resourceAttributes"].is_object(), spec["nonResourceAttributes"].is_object());
    let mut causes = Vec::new();
    let mut cause = |reason: &str, field: &str, message: String| {
        causes.push(Cause { reason: reason.to_owned(), message, field: field.to_owned() });
    };
    if resource && path {
        let shown = &spec["nonResourceAttributes"];
        let why =
            format!("Invalid value: {shown}: cannot be specified in combination with resourceAttributes");
        cause("FieldValueInvalid", "spec.nonResourceAttributes", why);
    } else if !resource && !path {
        let why =
            "Required value: exactly one of nonResourceAttributes or resourceAttributes must be specified";
        cause("FieldValueRequired", "spec.resourceAttributes", why.to_owned());
    }
    let named = !spec["user"].as_str().unwrap_or("").is_empty() || !words(&spec["groups"]).is_empty();
    if !own && !named {
        let why = "Invalid value: \"\": at least one of user or group must be specified";
        cause("FieldValueInvalid", "spec.user", why.to_owned());
    }
    causes
}

/// Whom a review asks about.
fn subject(spec: &Value) -> User {
    let text = |field: &str| spec[field].as_str().unwrap_or("").to_owned();
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.clone(), words(values)))
        .collect();
    User { name: text("user"), uid: text("uid"), groups: words(&spec["groups"]), extra }
}

/// What a review asks about.
fn wanted(spec: &Value) -> Attributes<'_> {
    fn text<'v>(of: &'v Value, field: &str) -> &'v str {
        of[field].as_str().unwrap_or("")
    }
    let path = &spec["nonResourceAttributes"];
    if path.is_object() {
        return Attributes { verb: text(path, "verb"), about: About::Path(text(path, "path")) };
    }
    let of = &spec["resourceAttributes"];
    let about = ResourceAttributes {
        group: text(of, "group"),
        resource: text(of, "resource"),
        subresource: text(of, "subresource"),
        namespace: text(of, "namespace"),
        name: text(of, "name"),
        of_node: of_node(&of["fieldSelector"]),
    };
    Attributes { verb: text(of, "verb"), about: About::Resource(about) }
}

/// The node to which a selector limits pods.
fn of_node(selector: &Value) -> &str {
    let requirements = selector["requirements"].as_array().into_iter().flatten();
    let mut wanted = requirements.filter(|one| one["key"] == "spec.nodeName" && one["operator"] == "In");
    let values = wanted.next().and_then(|one| one["values"].as_array()).map(Vec::as_slice);
    match values {
        Some([only]) => only.as_str().unwrap_or_default(),
        _ => "",
    }
}

async fn rules(request: &Request<'_>, review: &Value) -> Result<Value, Status> {
    let namespace = review["spec"]["namespace"].as_str().unwrap_or("");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    request.registry.catch_up().await?;
    let (mut held, mut missing) = request.authorizer.rules(request.user, namespace);
    if node::of(request.user).is_some() {
        missing.insert(0, "node authorizer does not support user rule resolution".to_owned());
    }
    if request.user.is_master() {
        held.splice(0..0, Rule::everything());
    }
    let (paths, resources): (Vec<Rule>, Vec<Rule>) = held.into_iter().partition(|rule| !rule.urls.is_empty());
    let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false});
    if !missing.is_empty() {
        status["incomplete"] = json!(true);
        status["evaluationError"] = json!(missing.join(", "));
    }
    Ok(status)
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
