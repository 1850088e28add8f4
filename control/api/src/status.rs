//! What went wrong, as Kubernetes says it: `metav1.Status` with upstream's reasons, codes and wording. kubectl prints the
//! message as it is, and clients branch on the reason.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::catalogue::Kind;

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field's path: `spec.ports[0].nodePort`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What the failure is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its API group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The resource's plural name (the kind's name in validation errors).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Every single thing that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// A failure. Implements [`std::error::Error`]; its text is the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason: `NotFound`, `Conflict`, ...
    pub reason: &'static str,
    /// What a person reads.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn about(self, kind: &Kind, name: &str) -> Self {
        self.about_resource(kind.group, kind.plural, name)
    }

    fn about_resource(mut self, group: &str, resource: &str, name: &str) -> Self {
        let (name, group, kind) = (name.to_owned(), group.to_owned(), resource.to_owned());
        self.details = Some(Box::new(Details { name, group, kind, ..Details::default() }));
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason: reason.to_owned(), message: message.into(), field: field.to_owned() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Tells the client when to come back (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.qualified())).about(kind, name)
    }

    /// The same for a resource that need not be served.
    #[must_use]
    pub fn not_found_resource(group: &str, resource: &str, name: &str) -> Self {
        let dot = if group.is_empty() { "" } else { "." };
        let mut status = Self::new(404, "NotFound", format!("{resource}{dot}{group} {name:?} not found"));
        status.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            ..Details::default()
        }));
        status
    }

    /// 404: no such path of a resource.
    #[must_use]
    pub fn no_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", kind.qualified()))
            .about(kind, name)
    }

    /// 409: the object changed since it was read, or a precondition fails.
    #[must_use]
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        Self::conflict_resource(kind.group, kind.plural, name, why)
    }

    /// The same for a resource that need not be served.
    #[must_use]
    pub fn conflict_resource(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let dot = if group.is_empty() { "" } else { "." };
        let message = format!("Operation cannot be fulfilled on {resource}{dot}{group} {name:?}: {why}");
        Self::new(409, "Conflict", message).about_resource(group, resource, name)
    }

    /// 409 in the words of an outdated resourceVersion.
    #[must_use]
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 409: fields that somebody else owns would be applied.
    #[must_use]
    pub fn apply_conflict(message: String, causes: Vec<Cause>) -> Self {
        let mut status = Self::new(409, "Conflict", message);
        status.details = Some(Box::new(Details { causes, ..Details::default() }));
        status
    }

    /// 422: the object does not pass validation. With no causes at all this would be a bug of the caller.
    #[must_use]
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        Self::invalid_kind(kind.group, kind.kind, name, causes)
    }

    /// The same for a kind that need not be served.
    #[must_use]
    pub fn invalid_kind(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let texts: Vec<String> =
            causes
                .iter()
                .map(|c| {
                    if c.field.is_empty() { c.message.clone() } else { format!("{}: {}", c.field, c.message) }
                })
                .collect();
        let all = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut status = Self::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {all}"));
        status.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            causes,
            ..Details::default()
        }));
        status
    }

    /// 400: the request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 422: a JSON patch that does not fit the object.
    #[must_use]
    pub fn invalid_patch(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// 401: who is asking is not known.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: who is asking may not.
    #[must_use]
    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        Self::forbidden_resource(kind.group, kind.plural, name, why)
    }

    /// The same for a resource that need not be served.
    #[must_use]
    pub fn forbidden_resource(group: &str, plural: &str, name: &str, why: &str) -> Self {
        let subject = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        let dot = if group.is_empty() { "" } else { "." };
        let message = format!("{plural}{dot}{group}{subject} is forbidden: {why}");
        Self::new(403, "Forbidden", message).about_resource(group, plural, name)
    }

    /// 403 for a path that is no resource.
    #[must_use]
    pub fn forbidden_path(why: &str) -> Self {
        let mut status = Self::new(403, "Forbidden", format!("forbidden: {why}"));
        status.details = Some(Box::default());
        status
    }

    /// 405: the resource does not know the verb.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }

    /// 406: none of the accepted types can be answered.
    #[must_use]
    pub fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::new(406, "NotAcceptable", message)
    }

    /// 410: the history asked for is gone; list again.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is too large.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 415: the body's type is unknown.
    #[must_use]
    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 429: come back later.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(seconds)
    }

    /// 500: our fault.
    #[must_use]
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 501: not to be had here.
    #[must_use]
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(501, "NotImplemented", message)
    }

    /// 503: something that is needed is away.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message).retry_after(1)
    }

    /// 504: it took too long. Who has waited that long is not told to try again at once: clients would do so ten times.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// 504: a resourceVersion that has not happened yet.
    #[must_use]
    pub fn future_version(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let status = Self::timeout(message).retry_after(1);
        status.with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }

    /// Whether the reason is this one.
    #[must_use]
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }

    /// The JSON that clients expect.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        });
        if let Some(details) = &self.details {
            // A struct of strings and numbers always serializes.
            value["details"] = serde_json::to_value(details).unwrap_or(Value::Null);
        }
        value["code"] = json!(self.code);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{DEPLOYMENTS, PODS};

    #[test]
    fn messages_are_upstreams_to_the_letter() {
        assert_eq!(Status::not_found(&PODS, "web").message, "pods \"web\" not found");
        assert_eq!(
            Status::already_exists(&DEPLOYMENTS, "web").message,
            "deployments.apps \"web\" already exists"
        );
        assert_eq!(
            Status::modified(&DEPLOYMENTS, "web").message,
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply \
             your changes to the latest version and try again"
        );
        let cause = |field: &str, message: &str| Cause {
            reason: "FieldValueRequired".into(),
            message: message.into(),
            field: field.into(),
        };
        let one = Status::invalid(&DEPLOYMENTS, "web", vec![cause("spec.selector", "Required value")]);
        assert_eq!(one.message, "Deployment.apps \"web\" is invalid: spec.selector: Required value");
        let two = Status::invalid(&PODS, "web", vec![cause("a", "x"), cause("b", "y")]);
        assert_eq!(two.message, "Pod \"web\" is invalid: [a: x, b: y]");
    }

    #[test]
    fn the_json_has_what_clients_branch_on() {
        let json = Status::not_found(&DEPLOYMENTS, "web").to_json();
        assert_eq!(json["code"], 404);
        assert_eq!(json["reason"], "NotFound");
        assert_eq!(json["details"], json!({"name": "web", "group": "apps", "kind": "deployments"}));
        assert_eq!(Status::unavailable("x").to_json()["details"]["retryAfterSeconds"], 1);
    }
}
