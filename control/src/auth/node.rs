//! Nodes as clients of the API: each may read what its pods need and say what it is, beside what roles give it.
//!
//! In: which node asks, what for, and the pods that it has. Out: yes, or why not, in upstream's words. What a node may write of what
//! it may write at all is in `restriction`.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/auth/authorizer/node (v1.33).

mod restriction;

use std::sync::{Arc, LazyLock};

use oarlock_api::catalogue::{PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, VOLUME_ATTACHMENTS};
use serde_json::Value;

pub(super) use restriction::may_write;
pub(crate) use restriction::{may_end, may_have_token};

use super::{About, Attributes, ResourceAttributes, Rule, User, bootstrap};
use crate::cache::{Cache, Object};
use crate::nodes::references::{self, Named, Reference};

/// Before the name of a node in the name of a user.
pub(crate) const USER: &str = "system:node:";
/// The group of all nodes.
pub(crate) const GROUP: &str = "system:nodes";
/// Where the nodes' Leases are.
const LEASES: &str = "kube-node-lease";

/// What a node may, as far as that does not depend on which node it is.
static RULES: LazyLock<Vec<Rule>> = LazyLock::new(bootstrap::node_rules);

/// Which node a user is.
pub(crate) fn of(user: &User) -> Option<&str> {
    let node = user.name.strip_prefix(USER)?;
    user.groups.iter().any(|group| group == GROUP).then_some(node)
}

/// Whether a node may do this.
pub(super) fn decide(cache: &Cache, node: &str, attributes: &Attributes<'_>) -> Result<(), String> {
    if node.is_empty() {
        return Err(format!("unknown node for user {USER:?}"));
    }
    let verb = attributes.verb;
    let About::Resource(about) = attributes.about else { return by_rules(attributes) };
    let asked = Asked { cache, node, verb, about };
    match (about.group, about.resource) {
        ("", "secrets") => asked.reads(Named::Secret),
        ("", "configmaps") => asked.reads(Named::ConfigMap),
        ("", "persistentvolumeclaims") => asked.claim(),
        ("", "persistentvolumes") => asked.gets(|volume| asked.has_volume(volume)),
        ("storage.k8s.io", "volumeattachments") => asked.gets(|name| asked.has_attachment(name)),
        ("", "serviceaccounts") => asked.token(),
        ("coordination.k8s.io", "leases") => asked.lease(),
        ("storage.k8s.io", "csinodes") => asked.csi_node(),
        ("", "nodes") => asked.itself(),
        ("", "pods") => asked.pods(),
        _ => by_rules(attributes),
    }
}

fn by_rules(attributes: &Attributes<'_>) -> Result<(), String> {
    only(RULES.iter().any(|rule| rule.allows(attributes)), "")
}

/// What a node wants.
#[derive(Clone, Copy)]
struct Asked<'a> {
    cache: &'a Cache,
    node: &'a str,
    verb: &'a str,
    about: ResourceAttributes<'a>,
}

/// Lets pass what holds, or says why not.
fn only(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

impl Asked<'_> {
    fn is_one_of(&self, verbs: &[&str]) -> bool {
        verbs.contains(&self.verb)
    }

    /// About an object that its pods lead to.
    fn related(&self, has: impl FnOnce(&str) -> bool) -> Result<(), String> {
        let name = self.about.name;
        only(!name.is_empty(), "No Object name found")?;
        only(has(name), &format!("no relationship found between node '{}' and this object", self.node))
    }

    /// One object of a kind whose pods name it, in whatever way it is read.
    fn reads(&self, named: Named) -> Result<(), String> {
        only(self.is_one_of(&["get", "list", "watch"]), "can only read resources of this type")?;
        only(self.about.subresource.is_empty(), "cannot read subresource")?;
        only(!self.about.namespace.is_empty(), "can only read namespaced object of this type")?;
        self.related(|name| self.names(&(named, self.about.namespace.to_owned(), name.to_owned())))
    }

    fn gets(&self, has: impl FnOnce(&str) -> bool) -> Result<(), String> {
        only(self.verb == "get", "can only get individual resources of this type")?;
        only(self.about.subresource.is_empty(), "cannot get subresource")?;
        self.related(has)
    }

    fn claim(&self) -> Result<(), String> {
        let has = |name: &str| self.names(&(Named::Claim, self.about.namespace.to_owned(), name.to_owned()));
        if self.about.subresource != "status" {
            return self.gets(has);
        }
        only(self.is_one_of(&["update", "patch"]), "can only get/update/patch this type")?;
        self.related(has)
    }

    fn token(&self) -> Result<(), String> {
        let is_of_one = self.verb == "create" && !self.about.name.is_empty();
        only(is_of_one, "can only create tokens for individual service accounts")?;
        only(self.about.subresource == "token", "can only create token subresource of serviceaccount")?;
        self.related(|account| {
            let mut pods = self.pods_here().into_iter();
            pods.any(|pod| {
                pod.key.namespace == self.about.namespace
                    && pod.value()["spec"]["serviceAccountName"] == account
            })
        })
    }

    fn lease(&self) -> Result<(), String> {
        let verbs = ["get", "create", "update", "patch", "delete"];
        only(self.is_one_of(&verbs), "can only get, create, update, patch, or delete a node lease")?;
        let place = format!("can only access leases in the {LEASES:?} system namespace");
        only(self.about.namespace == LEASES, &place)?;
        let why = "can only access node lease with the same name as the requesting node";
        only(self.verb == "create" || self.about.name == self.node, why)
    }

    fn csi_node(&self) -> Result<(), String> {
        let verbs = ["get", "create", "update", "patch", "delete"];
        only(self.is_one_of(&verbs), "can only get, create, update, patch, or delete a CSINode")?;
        only(self.about.subresource.is_empty(), "cannot authorize CSINode subresources")?;
        let why = "can only access CSINode with the same name as the requesting node";
        only(self.verb == "create" || self.about.name == self.node, why)
    }

    /// Its own Node. Which one is written is looked at when it is known what is written.
    fn itself(&self) -> Result<(), String> {
        let (node, name) = (self.node, self.about.name);
        match (self.about.subresource, self.verb) {
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
            ("", "get" | "list" | "watch") if name == node => Ok(()),
            ("", "get" | "list" | "watch") if name.is_empty() => {
                Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
            }
            ("", "get" | "list" | "watch") => {
                Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
            }
            _ => Err(String::new()),
        }
    }

    fn pods(&self) -> Result<(), String> {
        let has = |name: &str| {
            let pod = self.cache.get(&PODS, self.about.namespace, name);
            pod.is_some_and(|pod| pod.node_name.as_deref() == Some(self.node))
        };
        match (self.about.subresource, self.verb) {
            ("", "get") => self.gets(has),
            ("", "list" | "watch") if self.about.of_node == self.node => Ok(()),
            ("", "list" | "watch") if !self.about.name.is_empty() => self.related(has),
            ("", "list" | "watch") => {
                Err("can only list/watch pods with spec.nodeName field selector".to_owned())
            }
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        }
    }

    fn pods_here(&self) -> Vec<Arc<Object>> {
        self.cache.pods_on(self.node)
    }

    /// Whether one of its pods names an object, or the volume of one of their claims does.
    fn names(&self, wanted: &Reference) -> bool {
        self.pods_here().iter().any(|pod| {
            let named = references::of(&pod.key.namespace, &pod.value());
            let mut volumes = named.iter().filter_map(|claim| self.volume_of(claim));
            named.contains(wanted)
                || volumes.any(|volume| references::of_volume(&volume.value()).contains(wanted))
        })
    }

    fn has_volume(&self, name: &str) -> bool {
        self.pods_here().iter().any(|pod| {
            let named = references::of(&pod.key.namespace, &pod.value());
            named.iter().filter_map(|claim| self.volume_of(claim)).any(|volume| volume.key.name == name)
        })
    }

    /// The volume of a claim that a pod names.
    fn volume_of(&self, (named, namespace, name): &Reference) -> Option<Arc<Object>> {
        if *named != Named::Claim {
            return None;
        }
        let claim = self.cache.get(&PERSISTENT_VOLUME_CLAIMS, namespace, name)?.value();
        self.cache.get(&PERSISTENT_VOLUMES, "", claim["spec"]["volumeName"].as_str()?)
    }

    fn has_attachment(&self, name: &str) -> bool {
        let attachment = self.cache.get(&VOLUME_ATTACHMENTS, "", name);
        attachment.is_some_and(|attachment| node_of(&attachment.value()) == self.node)
    }
}

/// `spec.nodeName`.
fn node_of(object: &Value) -> &str {
    object["spec"]["nodeName"].as_str().unwrap_or_default()
}
