//! Nobody gives away what they do not have: checked when roles and bindings are written, and when certificates are approved or
//! signed. What nodes write is checked on the same way.
//!
//! Source: k8s.io/kubernetes/pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased.

use oarlock_api::catalogue::{CERTIFICATE_SIGNING_REQUESTS, CLUSTER_ROLES, Kind, ROLES};
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::Value;

use super::certificates;
use super::rules::{describe, missing, quoted};
use super::{About, Attributes, Authorizer, RBAC_GROUP, ResourceAttributes, Rule, User, node};

/// Who is writing, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guard<'g> {
    pub(crate) authorizer: &'g Authorizer,
    pub(crate) user: &'g User,
    /// Empty for objects of the cluster.
    pub(crate) namespace: &'g str,
    /// The name in the request's path; empty in a create.
    pub(crate) name: &'g str,
    /// The part of the object that is written; empty for the object.
    pub(crate) part: &'g str,
}

impl Guard<'_> {
    /// Lets a role or a binding pass (and every other kind), or says what its writer does not have.
    pub(crate) fn check(&self, kind: &Kind, old: Option<&Value>, new: &Value) -> Result<(), Status> {
        if let Some(node) = node::of(self.user) {
            node::may_write(self.authorizer.cache(), node, (kind, self.part, self.namespace), old, new)?;
        }
        if !self.concerns_rights(kind) || old.is_some_and(|old| only_metadata_of_gc(old, new)) {
            return Ok(());
        }
        if *kind == CERTIFICATE_SIGNING_REQUESTS {
            let decide =
                |verb: &str, signer: &str| certificates::may(self.authorizer, self.user, verb, signer);
            return old.map_or(Ok(()), |old| certificates::check(self.part, old, new, decide));
        }
        if *kind == ROLES || *kind == CLUSTER_ROLES {
            self.role(kind, old, new)
        } else {
            self.binding(kind, new)
        }
    }

    /// Whether there is anything to check.
    pub(crate) fn concerns(&self, kind: &Kind) -> bool {
        self.concerns_rights(kind) || node::of(self.user).is_some()
    }

    /// Whether somebody may get rights by it.
    fn concerns_rights(&self, kind: &Kind) -> bool {
        (super::index::concerns(kind) || *kind == CERTIFICATE_SIGNING_REQUESTS) && !self.user.is_master()
    }

    fn role(&self, kind: &Kind, old: Option<&Value>, new: &Value) -> Result<(), Status> {
        if self.may("escalate", kind.plural, self.name) {
            return Ok(());
        }
        let aggregates = |role: &Value| !role["aggregationRule"].is_null();
        let refuse = |why: &str| Err(Status::forbidden(kind, meta::name(new), why));
        if *kind == CLUSTER_ROLES && (aggregates(new) || old.is_some_and(aggregates)) {
            // It can gather anything, now or later.
            if !self.lacks(&Rule::everything()).is_empty() {
                return refuse("must have cluster-admin privileges to use the aggregationRule");
            }
        }
        self.holds(&Rule::of_role(new)).or_else(|why| refuse(&why))
    }

    fn binding(&self, kind: &Kind, new: &Value) -> Result<(), Status> {
        let role = &new["roleRef"];
        let (name, cluster) = (role["name"].as_str().unwrap_or(""), role["kind"] == "ClusterRole");
        let resource = if cluster { "clusterroles" } else { "roles" };
        if self.may("bind", resource, name) {
            return Ok(());
        }
        let place = if cluster { "" } else { self.namespace };
        let Some(rules) = self.authorizer.role(place, name) else {
            let singular = if cluster { "clusterrole" } else { "role" };
            return Err(Status::not_found_resource(RBAC_GROUP, singular, name));
        };
        self.holds(&rules).map_err(|why| Status::forbidden(kind, meta::name(new), &why))
    }

    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let about = ResourceAttributes {
            group: RBAC_GROUP,
            resource,
            namespace: self.namespace,
            name,
            ..ResourceAttributes::default()
        };
        self.authorizer.decide(self.user, &Attributes { verb, about: About::Resource(about) }).is_allowed()
    }

    fn lacks(&self, rules: &[Rule]) -> Vec<Rule> {
        missing(&self.authorizer.rules(self.user, self.namespace).0, rules)
    }

    fn holds(&self, rules: &[Rule]) -> Result<(), String> {
        let (held, unknown) = self.authorizer.rules(self.user, self.namespace);
        let missing = missing(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let (name, groups) = (&self.user.name, quoted(&self.user.groups));
        let lines = describe(missing).join("\n");
        let unknown = if unknown.is_empty() {
            String::new()
        } else {
            format!("; resolution errors: {}", bracketed(&unknown))
        };
        Err(format!(
            "user {name:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{lines}{unknown}"
        ))
    }
}

fn bracketed(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// Whoever cleans up may not have what a role gives: finalizers and owners are theirs to change.
fn only_metadata_of_gc(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        let metadata = meta::metadata_mut(&mut object);
        for field in ["finalizers", "ownerReferences", "resourceVersion", "managedFields", "selfLink"] {
            metadata.shift_remove(field);
        }
        object
    };
    bare(old) == bare(new)
}
