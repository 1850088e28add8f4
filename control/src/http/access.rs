//! Who is asking, and whether they may.
//!
//! In: what a connection's certificate says, the head of a request. Out: a user, and nothing or a refusal in upstream's words.

use std::borrow::Cow;

use http::{HeaderMap, Method, header};
use oarlock_api::selector::FieldSelector;
use oarlock_api::status::Status;
use oarlock_daemon::pki::Identity;

use super::path::{Resource, Target};
use super::query::Query;
use crate::auth::{About, Attributes, Authenticator, Authorizer, Decision, ResourceAttributes, User};

/// A request as far as access to it is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'r> {
    pub(super) method: &'r Method,
    pub(super) path: &'r str,
    pub(super) target: &'r Target<'r>,
    pub(super) query: &'r Query,
}

/// The user that a client's certificate names.
pub(super) fn certified(identity: &Identity) -> User {
    User::known(&identity.user, &identity.groups)
}

/// Who is asking: whom the certificate names, else whose token it is, else nobody known. Who shows a token and is not known by
/// it is not let pass as nobody.
pub(super) async fn authenticate(
    authenticator: &Authenticator,
    certified: Option<&User>,
    headers: &HeaderMap,
) -> Result<User, Status> {
    match (certified, bearer(headers)) {
        (Some(user), _) => Ok(user.clone()),
        (None, Some(token)) => authenticator.user(token).await.map_err(|why| {
            tracing::debug!(%why, "a token was refused");
            Status::unauthorized()
        }),
        (None, None) => Ok(User::anonymous()),
    }
}

/// Whether a user may do everything that is asked for at once, as acting as somebody else; what is not allowed is said.
pub(super) fn all_allowed(
    authorizer: &Authorizer,
    user: &User,
    asks: &[Attributes<'_>],
) -> Result<(), Status> {
    asks.iter().try_for_each(|ask| match authorizer.decide(user, ask) {
        Decision::Allowed(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(refuse(user, ask, &reason)),
    })
}

/// The token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

/// Lets a request pass, or says why not.
pub(super) fn authorize(authorizer: &Authorizer, user: &User, attempt: Attempt<'_>) -> Result<(), Status> {
    // Whoever looks whether we live need not be known.
    if matches!(attempt.target, Target::Health(_)) {
        return Ok(());
    }
    let (verb, name, of_node) = (attempt.verb(), attempt.name(), attempt.required("spec.nodeName"));
    let attributes = Attributes { verb: &verb, about: attempt.about(&name, &of_node) };
    match authorizer.decide(user, &attributes) {
        Decision::Allowed(_) => Ok(()),
        Decision::NoOpinion(_) if !authorizer.is_filled() => {
            Err(Status::unavailable("the roles have not been read from the store yet; try again"))
        }
        Decision::NoOpinion(reason) => Err(refuse(user, &attributes, &reason)),
    }
}

/// A 403 in upstream's words.
pub(super) fn refuse(user: &User, attributes: &Attributes<'_>, reason: &str) -> Status {
    let mut why = attributes.refusal(&user.name);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    match attributes.about {
        About::Path(_) => Status::forbidden_path(&why),
        About::Resource(about) => Status::forbidden_resource(about.group, about.resource, about.name, &why),
    }
}

/// Lets an apply create what is not there, or says why not.
pub(super) fn authorize_create(
    authorizer: &Authorizer,
    user: &User,
    path: &Resource<'_>,
) -> Result<(), Status> {
    let about = About::Resource(ResourceAttributes {
        group: path.group,
        resource: path.plural,
        subresource: "",
        namespace: path.namespace.unwrap_or(""),
        name: path.name.unwrap_or(""),
        of_node: "",
    });
    let attributes = Attributes { verb: "create", about };
    match authorizer.decide(user, &attributes) {
        Decision::Allowed(_) => Ok(()),
        Decision::NoOpinion(reason) => Err(refuse(user, &attributes, &reason)),
    }
}

impl<'r> Attempt<'r> {
    fn resource(&self) -> Option<&'r Resource<'r>> {
        match self.target {
            Target::Resource(resource) => Some(resource),
            _ => None,
        }
    }

    fn verb(&self) -> Cow<'static, str> {
        let Some(resource) = self.resource() else { return self.method.as_str().to_lowercase().into() };
        let one = resource.name.is_some();
        let verb = match *self.method {
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if one => "delete",
            Method::DELETE => "deletecollection",
            _ if resource.watch => "watch",
            _ if one => "get",
            _ if self.query.flag("watch") => "watch",
            _ => "list",
        };
        verb.into()
    }

    /// The object's name. A list or watch of one name is about that one.
    fn name(&self) -> Cow<'r, str> {
        let Some(resource) = self.resource() else { return "".into() };
        resource.name.map_or_else(|| self.required("metadata.name"), Cow::from)
    }

    /// What a field has to be of the objects that are asked for.
    fn required(&self, field: &str) -> Cow<'static, str> {
        let fields = self.query.get("fieldSelector").filter(|_| matches!(*self.method, Method::GET));
        let selector = fields.and_then(|text| FieldSelector::parse(text).ok());
        let wanted = selector.as_ref().and_then(|selector| selector.required(field));
        wanted.map_or("".into(), |wanted| wanted.to_owned().into())
    }

    fn about(&self, name: &'r str, of_node: &'r str) -> About<'r> {
        let Some(resource) = self.resource() else { return About::Path(self.path) };
        // A namespace is an object of itself: who may everything in it may get it, too.
        let own = if resource.plural == "namespaces" { resource.name } else { None };
        About::Resource(ResourceAttributes {
            group: resource.group,
            resource: resource.plural,
            subresource: resource.subresource.unwrap_or(""),
            namespace: resource.namespace.or(own).unwrap_or(""),
            name,
            of_node,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::path;
    use super::*;

    fn refusal(user: &User, method: &Method, path: &str, query: &str) -> String {
        let (target, query) = (path::parse(path), Query::parse(Some(query)));
        let attempt = Attempt { method, path, target: &target, query: &query };
        let (verb, name) = (attempt.verb(), attempt.name());
        let attributes = Attributes { verb: &verb, about: attempt.about(&name, "") };
        let status = refuse(user, &attributes, "");
        assert_eq!((status.code, status.reason), (403, "Forbidden"));
        status.message
    }

    #[test]
    fn others_are_refused_in_upstreams_words() {
        let jane = User::known("jane", &[]);
        let message = |method: &Method, path: &str, query: &str| refusal(&jane, method, path, query);
        for (method, path, query, expected) in [
            (
                &Method::GET,
                "/api/v1/namespaces/d/pods",
                "",
                r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "d""#,
            ),
            (
                &Method::GET,
                "/apis/apps/v1/deployments",
                "watch=true",
                r#"deployments.apps is forbidden: User "jane" cannot watch resource "deployments" in API group "apps" at the cluster scope"#,
            ),
            (
                &Method::PATCH,
                "/api/v1/nodes/n1/status",
                "",
                r#"nodes "n1" is forbidden: User "jane" cannot patch resource "nodes/status" in API group "" at the cluster scope"#,
            ),
            (
                &Method::GET,
                "/api/v1/namespaces/d",
                "",
                r#"namespaces "d" is forbidden: User "jane" cannot get resource "namespaces" in API group "" in the namespace "d""#,
            ),
            (
                &Method::GET,
                "/api/v1/namespaces/d/pods",
                "fieldSelector=metadata.name%3Dweb",
                r#"pods "web" is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "d""#,
            ),
            (
                &Method::DELETE,
                "/apis/made.up/v1/things",
                "",
                r#"things.made.up is forbidden: User "jane" cannot deletecollection resource "things" in API group "made.up" at the cluster scope"#,
            ),
            (&Method::GET, "/apis", "", r#"forbidden: User "jane" cannot get path "/apis""#),
        ] {
            assert_eq!(message(method, path, query), expected);
        }
    }
}
