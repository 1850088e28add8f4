//! Roles and bindings by whom they are for: kept up to date change by change, so that the cost of a decision depends on what
//! one user has, not on the size of the cluster. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use oarlock_api::catalogue::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Kind, ROLE_BINDINGS, ROLES};
use serde_json::Value;

use super::{ACCOUNT_PREFIX, About, Attributes, Rule, User};

/// Namespace (empty for those of the cluster) and name.
type Key = (String, String);

/// Whom a binding is for. A ServiceAccount is a user by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
}

#[derive(Debug)]
struct Binding {
    /// With how upstream names them.
    subjects: Vec<(Subject, String)>,
    /// A ClusterRole, or a Role of the binding's namespace.
    cluster_role: bool,
    role: Box<str>,
}

/// Roles and bindings.
#[derive(Debug, Default)]
pub(super) struct Index {
    roles: HashMap<Key, Arc<[Rule]>>,
    bindings: HashMap<Key, Binding>,
    /// Names of bindings, by subject and namespace.
    by_subject: HashMap<Subject, BTreeMap<String, BTreeSet<String>>>,
}

/// A role that somebody has, or the name of one that is bound and missing.
type Held<'i> = Result<(&'i Arc<[Rule]>, Grant<'i>), String>;

/// Through what somebody has a role.
#[derive(Debug, Clone, Copy)]
struct Grant<'i> {
    namespace: &'i str,
    name: &'i str,
    binding: &'i Binding,
    subject: &'i str,
}

/// Whether kinds of objects are of concern here.
pub(super) fn concerns(kind: &Kind) -> bool {
    [&ROLES, &CLUSTER_ROLES, &ROLE_BINDINGS, &CLUSTER_ROLE_BINDINGS].contains(&kind)
}

impl Index {
    /// An object was created or changed.
    pub(super) fn put(&mut self, kind: &Kind, namespace: &str, name: &str, object: &Value) {
        let key = (namespace.to_owned(), name.to_owned());
        if *kind == ROLES || *kind == CLUSTER_ROLES {
            self.roles.insert(key, Rule::of_role(object).into());
        } else {
            self.unbind(&key);
            let binding = Binding::read(object, namespace);
            for (subject, _) in &binding.subjects {
                let places = self.by_subject.entry(subject.clone()).or_default();
                places.entry(key.0.clone()).or_default().insert(key.1.clone());
            }
            self.bindings.insert(key, binding);
        }
    }

    /// An object is gone.
    pub(super) fn delete(&mut self, kind: &Kind, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if *kind == ROLES || *kind == CLUSTER_ROLES {
            self.roles.remove(&key);
        } else {
            self.unbind(&key);
        }
    }

    fn unbind(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for (subject, _) in binding.subjects {
            let Some(places) = self.by_subject.get_mut(&subject) else { continue };
            if let Some(names) = places.get_mut(&key.0) {
                names.remove(&key.1);
                if names.is_empty() {
                    places.remove(&key.0);
                }
            }
            if places.is_empty() {
                self.by_subject.remove(&subject);
            }
        }
    }

    /// The rules of a role.
    pub(super) fn role(&self, namespace: &str, name: &str) -> Option<&Arc<[Rule]>> {
        self.roles.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Everything that a user has in a namespace: by bindings of the cluster, then of the namespace.
    fn held<'i>(&'i self, user: &User, namespace: &str) -> impl Iterator<Item = Held<'i>> {
        let subjects = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(user.groups.iter().map(|group| Subject::Group(group.as_str().into())));
        let subjects: Vec<(Subject, _)> =
            subjects.filter_map(|s| self.by_subject.get(&s).map(|places| (s, places))).collect();
        let mut places = vec![String::new()];
        if !namespace.is_empty() {
            places.push(namespace.to_owned());
        }
        places.into_iter().flat_map(move |place| {
            let mut found: BTreeMap<&str, Held<'i>> = BTreeMap::new();
            for (subject, all) in &subjects {
                let Some((place, names)) = all.get_key_value(&place) else { continue };
                for name in names {
                    if let Some(held) = self.through(place, name, subject) {
                        found.entry(name).or_insert(held);
                    }
                }
            }
            found.into_values()
        })
    }

    fn through<'i>(&'i self, namespace: &'i str, name: &'i str, subject: &Subject) -> Option<Held<'i>> {
        let binding = self.bindings.get(&(namespace.to_owned(), name.to_owned()))?;
        let (_, subject) = binding.subjects.iter().find(|(s, _)| s == subject)?;
        let place = if binding.cluster_role { "" } else { namespace };
        let grant = Grant { namespace, name, binding, subject };
        Some(self.role(place, &binding.role).map(|rules| (rules, grant)).ok_or_else(|| {
            let kind = if binding.cluster_role { "clusterrole" } else { "role" };
            format!("{kind}.rbac.authorization.k8s.io {:?} not found", &*binding.role)
        }))
    }

    /// Why a user may do something, or why perhaps not.
    pub(super) fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Result<String, String> {
        let namespace = match attributes.about {
            About::Resource(about) => about.namespace,
            About::Path(_) => "",
        };
        let mut missing = BTreeSet::new();
        for held in self.held(user, namespace) {
            match held {
                Ok((rules, grant)) if rules.iter().any(|rule| rule.allows(attributes)) => {
                    return Ok(format!("RBAC: allowed by {}", grant.describe()));
                }
                Ok(_) => {}
                Err(role) => drop(missing.insert(role)),
            }
        }
        let missing: Vec<String> = missing.into_iter().collect();
        Err(match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            all => format!("RBAC: [{}]", all.join(", ")),
        })
    }

    /// All rules of a user in a namespace, and what could not be found.
    pub(super) fn rules(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for held in self.held(user, namespace) {
            match held {
                Ok((held, _)) => rules.extend(held.iter().cloned()),
                Err(role) => missing.push(role),
            }
        }
        (rules, missing)
    }
}

impl Binding {
    fn read(object: &Value, namespace: &str) -> Self {
        let text = |value: &Value, field: &str| value[field].as_str().unwrap_or("").to_owned();
        let subjects = object["subjects"].as_array().into_iter().flatten().filter_map(|subject| {
            let (kind, name) = (text(subject, "kind"), text(subject, "name"));
            let described = format!("{kind} {name:?}");
            match kind.as_str() {
                "User" => Some((Subject::User(name.into()), described)),
                "Group" => Some((Subject::Group(name.into()), described)),
                "ServiceAccount" => {
                    let own = text(subject, "namespace");
                    let place = if own.is_empty() { namespace } else { own.as_str() };
                    let user = format!("{ACCOUNT_PREFIX}{place}:{name}");
                    let described = format!("{kind} {:?}", format!("{name}/{place}"));
                    (!place.is_empty()).then(|| (Subject::User(user.into()), described))
                }
                _ => None,
            }
        });
        let role = &object["roleRef"];
        Self {
            subjects: subjects.collect(),
            cluster_role: role["kind"] == "ClusterRole",
            role: text(role, "name").into(),
        }
    }
}

impl Grant<'_> {
    /// `RoleBinding "b/ns" of Role "r" to User "jane"`
    fn describe(&self) -> String {
        let (kind, name) = match self.namespace {
            "" => ("ClusterRoleBinding", self.name.to_owned()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        let role = if self.binding.cluster_role { "ClusterRole" } else { "Role" };
        format!("{kind} {name:?} of {role} {:?} to {}", &*self.binding.role, self.subject)
    }
}

#[cfg(test)]
mod tests;
