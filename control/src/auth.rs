//! Who is asking, and what they may.
//!
//! In: tokens, and roles and bindings out of the cache. Out: users ([`Authenticator`]) and decisions ([`Authorizer`]) in upstream's
//! words. Nothing here knows HTTP; what a request is about comes as [`Attributes`].

mod authenticator;
mod authorizer;
pub(crate) mod bootstrap;
mod certificates;
mod escalation;
mod index;
pub(crate) mod node;
pub(crate) mod request;
mod rules;
mod secrets;
mod token_file;
pub(crate) mod tokens;

use std::collections::BTreeMap;

pub(crate) use authenticator::Authenticator;
pub(crate) use authorizer::{Authorizer, Decision};
pub(crate) use certificates::{Signing, asked_by};
pub(crate) use escalation::Guard;
pub(crate) use rules::Rule;
pub(crate) use secrets::TokenSecrets;
pub(crate) use token_file::TokenFile;

/// Who may do everything, whatever roles there are.
pub(crate) const MASTERS: &str = "system:masters";
/// Everybody who is known.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who is not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of everybody who is not known.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// All ServiceAccounts, and with a colon and a namespace behind it those of one.
pub(crate) const ACCOUNTS: &str = "system:serviceaccounts";
/// Before the namespace and name of a ServiceAccount.
pub(crate) const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// The group of everything about roles.
pub(crate) const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// Who is asking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// The name: a certificate's common name, or `system:serviceaccount:<namespace>:<name>`.
    pub(crate) name: String,
    /// The uid, where there is one.
    pub(crate) uid: String,
    /// The groups.
    pub(crate) groups: Vec<String>,
    /// What else is known.
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Whoever did not say.
    pub(crate) fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    /// Somebody known: a member of `system:authenticated`, too.
    pub(crate) fn known(name: &str, groups: &[String]) -> Self {
        let mut groups = groups.to_vec();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// Whether this is whoever did not say.
    pub(crate) fn is_stranger(&self) -> bool {
        self.groups.iter().any(|group| group == UNAUTHENTICATED)
    }

    /// Whether this is a master of the cluster.
    pub(crate) fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    /// `get`, `list`, `create`, ...; for paths the method in lower case.
    pub(crate) verb: &'a str,
    /// With what.
    pub(crate) about: About<'a>,
}

/// With what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About<'a> {
    /// A path that is no resource.
    Path(&'a str),
    /// Objects.
    Resource(ResourceAttributes<'a>),
}

/// Objects as far as access to them is concerned. Empty is none, or all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ResourceAttributes<'a> {
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// Of pods that are listed or watched: whose they are to be (`spec.nodeName`), if that is asked for.
    pub(crate) of_node: &'a str,
}

impl Attributes<'_> {
    /// `User "jane" cannot list resource "pods" in API group "" in the namespace "d"`
    pub(crate) fn refusal(&self, user: &str) -> String {
        let verb = self.verb;
        let about = match self.about {
            About::Path(path) => return format!("User {user:?} cannot {verb} path {path:?}"),
            About::Resource(about) => about,
        };
        let below =
            if about.subresource.is_empty() { String::new() } else { format!("/{}", about.subresource) };
        let place = match about.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let (resource, group) = (about.resource, about.group);
        format!("User {user:?} cannot {verb} resource \"{resource}{below}\" in API group {group:?} {place}")
    }
}
