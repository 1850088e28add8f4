//! Who may do what. Today: the cluster's masters everything, anybody see health and version, nobody else anything.
//!
//! In: who a client certificate says is asking, and what is asked. Out: nothing, or a refusal in upstream's words.

use http::Method;
use oarlock_api::catalogue::Catalogue;
use oarlock_api::status::Status;
use oarlock_daemon::pki::Identity;

use super::path::{Resource, Target};
use super::query::Query;

/// Who may do everything.
const MASTERS: &str = "system:masters";

/// A request as far as access to it is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'r> {
    pub(super) method: &'r Method,
    pub(super) path: &'r str,
    pub(super) target: &'r Target<'r>,
    pub(super) query: &'r Query,
}

/// Lets a request pass, or says why not.
pub(super) fn authorize(
    catalogue: &Catalogue,
    identity: Option<&Identity>,
    attempt: Attempt<'_>,
) -> Result<(), Status> {
    if matches!(attempt.target, Target::Health(_) | Target::Version) {
        return Ok(());
    }
    let identity = identity.ok_or_else(Status::unauthorized)?;
    if identity.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    if let Target::Resource(resource) = attempt.target
        && let Some(kind) = catalogue.by_plural(resource.group, resource.version, resource.plural)
    {
        let why = refusal(&identity.user, resource, verb(attempt, resource));
        return Err(Status::forbidden(kind, resource.name.unwrap_or(""), &why));
    }
    let verb = attempt.method.as_str().to_lowercase();
    Err(Status::forbidden_path(&identity.user, &verb, attempt.path))
}

fn verb(attempt: Attempt<'_>, resource: &Resource<'_>) -> &'static str {
    let one = resource.name.is_some();
    match *attempt.method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if one => "delete",
        Method::DELETE => "deletecollection",
        _ if resource.watch || attempt.query.flag("watch") => "watch",
        _ if one => "get",
        _ => "list",
    }
}

fn refusal(user: &str, resource: &Resource<'_>, verb: &str) -> String {
    let below = resource.subresource.map(|sub| format!("/{sub}")).unwrap_or_default();
    let place = match resource.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let (plural, group) = (resource.plural, resource.group);
    format!("User {user:?} cannot {verb} resource \"{plural}{below}\" in API group {group:?} {place}")
}

#[cfg(test)]
mod tests {
    use super::super::path;
    use super::*;

    fn attempt(
        identity: Option<(&str, &str)>,
        method: &Method,
        path: &str,
        query: &str,
    ) -> Result<(), Status> {
        let identity =
            identity.map(|(user, group)| Identity { user: user.to_owned(), groups: vec![group.to_owned()] });
        let (target, query) = (path::parse(path), Query::parse(Some(query)));
        let attempt = Attempt { method, path, target: &target, query: &query };
        authorize(&Catalogue::builtin(), identity.as_ref(), attempt)
    }

    #[test]
    fn masters_may_do_everything_and_strangers_see_health_and_version_only() {
        assert_eq!(attempt(Some(("admin", MASTERS)), &Method::DELETE, "/api/v1/nodes/n", ""), Ok(()));
        for open in ["/healthz", "/livez", "/readyz", "/version"] {
            assert_eq!(attempt(None, &Method::GET, open, ""), Ok(()), "{open}");
        }
        for closed in ["/", "/api", "/metrics", "/openapi/v2", "/api/v1/pods", "/nothing"] {
            assert_eq!(attempt(None, &Method::GET, closed, "").unwrap_err().code, 401, "{closed}");
        }
    }

    #[test]
    fn others_are_refused_in_upstreams_words() {
        let node = Some(("system:node:n1", "system:nodes"));
        let message = |method: &Method, path: &str, query: &str| {
            let status = attempt(node, method, path, query).unwrap_err();
            assert_eq!((status.code, status.reason), (403, "Forbidden"));
            status.message
        };
        assert_eq!(
            message(&Method::GET, "/api/v1/namespaces/d/pods", ""),
            r#"pods is forbidden: User "system:node:n1" cannot list resource "pods" in API group "" in the namespace "d""#
        );
        assert_eq!(
            message(&Method::GET, "/apis/apps/v1/deployments", "watch=true"),
            r#"deployments.apps is forbidden: User "system:node:n1" cannot watch resource "deployments" in API group "apps" at the cluster scope"#
        );
        assert_eq!(
            message(&Method::PATCH, "/api/v1/nodes/n1/status", ""),
            r#"nodes "n1" is forbidden: User "system:node:n1" cannot patch resource "nodes/status" in API group "" at the cluster scope"#
        );
        assert_eq!(
            message(&Method::GET, "/apis", ""),
            r#"forbidden: User "system:node:n1" cannot get path "/apis""#
        );
    }
}
