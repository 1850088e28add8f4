//! The roles and bindings that every cluster has: made at the start of whoever leads, completed when an older version made them.
//!
//! What an administrator added stays; what is missing comes back, unless the object's annotation
//! `rbac.authorization.kubernetes.io/autoupdate` is "false".

mod roles;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oarlock_api::catalogue::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Kind};
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Map, Value, json};

use super::rules::missing;
use super::{RBAC_GROUP, Rule};
use crate::registry::{Registry, Sub, WriteOptions};

use roles::{BINDINGS, Binding, NODE, ROLES, Role, Row};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Makes the default roles and bindings, and completes those that are there.
///
/// # Errors
/// The store is away.
pub(crate) async fn bootstrap(registry: &Registry) -> Result<(), Status> {
    registry.catch_up().await?;
    // At the same time: the store commits them together.
    let mut writes = FuturesUnordered::new();
    for (kind, object) in defaults() {
        writes.push(ensure(registry, kind, object));
    }
    while let Some(written) = writes.next().await {
        written?;
    }
    Ok(())
}

/// What a node may, as far as that does not depend on which node it is: the role `system:node`.
pub(super) fn node_rules() -> Vec<Rule> {
    NODE.iter().map(Row::rule).collect()
}

fn defaults() -> Vec<(&'static Kind, Value)> {
    let roles = ROLES.iter().map(|role| (&CLUSTER_ROLES, role.object()));
    roles.chain(BINDINGS.iter().map(|binding| (&CLUSTER_ROLE_BINDINGS, binding.object()))).collect()
}

async fn ensure(registry: &Registry, kind: &'static Kind, object: Value) -> Result<(), Status> {
    let (name, options) = (meta::name(&object).to_owned(), WriteOptions::default());
    if registry.cache().get(kind, "", &name).is_none() {
        match registry.create(kind, "", object.clone(), &options).await {
            Err(status) if status.is("AlreadyExists") => {}
            other => return other.map(drop),
        }
    } else if registry.cache().get(kind, "", &name).is_some_and(|o| completed(&o.value(), &object).is_none())
    {
        return Ok(());
    }
    let change = |present: Value| Ok(completed(&present, &object).unwrap_or(present));
    match registry.modify(kind, "", &name, Sub::Main, &options, change).await {
        Err(status) if status.is("NotFound") => Ok(()),
        // Bound to another role by an administrator, as it cannot be changed back.
        Err(status) if status.is("Invalid") => {
            tracing::warn!(%status, "a default role or binding is not as it should be");
            Ok(())
        }
        other => other.map(drop),
    }
}

/// The present object with what it lacks; `None` when it lacks nothing or is not to be touched.
fn completed(present: &Value, wanted: &Value) -> Option<Value> {
    if present["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return None;
    }
    let mut next = present.clone();
    for field in ["labels", "annotations"] {
        let metadata = meta::metadata_mut(&mut next);
        let held = meta::map_at(metadata, field);
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            held.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let aggregated = !wanted["aggregationRule"].is_null();
    if aggregated {
        lists(&mut next, wanted, &["aggregationRule", "clusterRoleSelectors"]);
    } else if wanted.get("rules").is_some() {
        let (held, wanted) = (Rule::of_role(present), Rule::of_role(wanted));
        let lacking =
            wanted.into_iter().filter(|rule| !missing(&held, std::slice::from_ref(rule)).is_empty());
        let lacking: Vec<Value> = lacking.map(|rule| json!(rule)).collect();
        if !lacking.is_empty() {
            let mut rules = present["rules"].as_array().cloned().unwrap_or_default();
            rules.extend(lacking);
            next["rules"] = json!(rules);
        }
    }
    lists(&mut next, wanted, &["subjects"]);
    (next != *present).then_some(next)
}

/// Adds what is missing in a list somewhere below.
fn lists(next: &mut Value, wanted: &Value, path: &[&str]) {
    let pointer = format!("/{}", path.join("/"));
    let Some(wanted) = wanted.pointer(&pointer).and_then(Value::as_array) else { return };
    let mut held = next.pointer(&pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    let lacking: Vec<Value> = wanted.iter().filter(|item| !held.contains(item)).cloned().collect();
    if lacking.is_empty() {
        return;
    }
    held.extend(lacking);
    let place = path.iter().fold(next, |value, field| &mut value[*field]);
    *place = json!(held);
}

fn metadata(name: &str, aggregates_to: &str) -> Value {
    let mut labels = Map::new();
    labels.insert("kubernetes.io/bootstrapping".to_owned(), json!("rbac-defaults"));
    if !aggregates_to.is_empty() {
        labels.insert(aggregation(aggregates_to), json!("true"));
    }
    json!({"name": name, "labels": labels, "annotations": {AUTO_UPDATE: "true"}})
}

/// The label of what is gathered in a role.
fn aggregation(role: &str) -> String {
    format!("{RBAC_GROUP}/aggregate-to-{role}")
}

impl Role {
    fn object(&self) -> Value {
        let mut object = json!({"metadata": metadata(self.name, self.to)});
        if self.gathers {
            let selector = json!({"matchLabels": {aggregation(self.name): "true"}});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
        } else {
            let rules: Vec<Rule> = self.rules.iter().map(roles::Row::rule).collect();
            object["rules"] = json!(rules);
        }
        object
    }
}

impl Binding {
    fn object(&self) -> Value {
        let subject = |(kind, name): &(&str, &str)| match name.split_once('/') {
            Some((namespace, name)) if *kind == "ServiceAccount" => {
                json!({"kind": kind, "name": name, "namespace": namespace})
            }
            _ => json!({"apiGroup": RBAC_GROUP, "kind": kind, "name": name}),
        };
        let subjects: Vec<Value> = self.subjects.iter().map(subject).collect();
        let mut object = json!({
            "metadata": metadata(self.role, ""),
            "roleRef": {"apiGroup": RBAC_GROUP, "kind": "ClusterRole", "name": self.role},
        });
        if !subjects.is_empty() {
            object["subjects"] = json!(subjects);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_api::validate;

    #[test]
    fn every_default_is_valid_and_named_once() {
        let mut names = std::collections::BTreeSet::new();
        for role in ROLES {
            let mut object = role.object();
            oarlock_api::defaults::apply(&CLUSTER_ROLES, &mut object);
            assert_eq!(validate::create(&CLUSTER_ROLES, &object), [], "{}", role.name);
            assert!(names.insert(role.name), "{}", role.name);
        }
        for binding in BINDINGS {
            let object = binding.object();
            assert_eq!(validate::create(&CLUSTER_ROLE_BINDINGS, &object), [], "{}", binding.role);
            assert!(names.contains(binding.role), "{}", binding.role);
        }
    }

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let wanted = ROLES.iter().find(|role| role.name == "system:discovery").unwrap().object();
        assert_eq!(completed(&wanted, &wanted), None);
        let mut less = wanted.clone();
        less["rules"] = json!([{"verbs": ["get"], "nonResourceURLs": ["/mine"]}]);
        less["metadata"]["labels"] = json!({"mine": "too"});
        let next = completed(&less, &wanted).unwrap();
        assert_eq!(next["rules"].as_array().unwrap().len(), 2);
        assert_eq!(next["rules"][0]["nonResourceURLs"], json!(["/mine"]));
        assert_eq!(next["metadata"]["labels"]["mine"], "too");
        assert_eq!(next["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
        less["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
        assert_eq!(completed(&less, &wanted), None);
        let binding = BINDINGS.iter().find(|b| b.role == "cluster-admin").unwrap().object();
        let mut nobody = binding.clone();
        nobody["subjects"] = json!([{"apiGroup": RBAC_GROUP, "kind": "User", "name": "jane"}]);
        assert_eq!(completed(&nobody, &binding).unwrap()["subjects"].as_array().unwrap().len(), 2);
        let view = ROLES.iter().find(|role| role.name == "view").unwrap().object();
        let mut gathered = view.clone();
        gathered["rules"] = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]);
        assert_eq!(completed(&gathered, &view), None, "what was gathered is the controller's");
    }
}
