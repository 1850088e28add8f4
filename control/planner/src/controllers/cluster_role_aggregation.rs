//! ClusterRoles whose rules are those of others, chosen by labels (`aggregationRule`): `admin`, `edit` and `view`, to which
//! whoever adds kinds adds roles.
//!
//! Source: k8s.io/kubernetes/pkg/controller/clusterroleaggregation.

use jiff::Timestamp;
use oarlock_api::catalogue::{CLUSTER_ROLES, Kind};
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

use super::Settings;
use crate::change::{Change, Part, Plan};
use crate::world::{Held, Key, World};

fn gathers(role: &Held) -> bool {
    !role.value["aggregationRule"].is_null()
}

pub(super) fn affected(world: &World, kind: &'static Kind, _: &Key) -> Vec<Key> {
    if *kind != CLUSTER_ROLES {
        return Vec::new();
    }
    world.list(&CLUSTER_ROLES).filter(|(_, role)| gathers(role)).map(|(key, _)| key.clone()).collect()
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, _: Timestamp) -> Plan {
    let Some(role) = world.get(&CLUSTER_ROLES, key).filter(|role| gathers(role)) else {
        return Plan::nothing();
    };
    if meta::is_terminating(&role.value) {
        return Plan::nothing();
    }
    let selectors = role.value["aggregationRule"]["clusterRoleSelectors"].as_array();
    let mut rules: Vec<&Value> = Vec::new();
    for selector in selectors.into_iter().flatten() {
        let Ok(Some(selector)) = Selector::from_label_selector(Some(selector)) else { continue };
        let chosen = world.list(&CLUSTER_ROLES).filter(|(other, chosen)| {
            *other != key && selector.matches(chosen.value["metadata"]["labels"].as_object())
        });
        for rule in chosen.flat_map(|(_, role)| role.value["rules"].as_array().into_iter().flatten()) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    let held = role.value["rules"].as_array().into_iter().flatten();
    if held.eq(rules.iter().copied()) {
        return Plan::nothing();
    }
    Plan::of(vec![Change::Patch {
        kind: &CLUSTER_ROLES,
        namespace: String::new(),
        name: key.1.clone(),
        part: Part::Main,
        patch: json!({"metadata": {"resourceVersion": role.revision.to_string()}, "rules": rules}),
    }])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn settings() -> Settings {
        Settings { cluster_cidr: "10.244.0.0/16".parse().unwrap(), ca_pem: String::new() }
    }

    fn put(world: &mut World, name: &str, rest: Value) {
        let mut role = json!({"metadata": {"name": name, "uid": name}});
        role.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        world.put(&CLUSTER_ROLES, "", name, &Arc::new(role), 7);
    }

    fn of(name: &str) -> Key {
        (String::new(), name.to_owned())
    }

    #[test]
    fn a_role_gathers_what_is_labelled_for_it_in_order_and_once() {
        let mut world = World::default();
        let selector = json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}]});
        put(&mut world, "view", json!({"aggregationRule": selector, "rules": null}));
        let labelled = |rules: Value| json!({"metadata": {"name": "x", "uid": "x", "labels": {"to": "view"}}, "rules": rules});
        put(&mut world, "b", labelled(json!([{"verbs": ["b"]}, {"verbs": ["a"]}])));
        put(&mut world, "a", labelled(json!([{"verbs": ["a"]}])));
        put(&mut world, "c", json!({"rules": [{"verbs": ["c"]}]}));
        assert_eq!(affected(&world, &CLUSTER_ROLES, &of("a")), [of("view")]);
        let plan = super::plan(&world, &settings(), &of("view"), Timestamp::UNIX_EPOCH);
        let [Change::Patch { patch, .. }] = plan.changes.as_slice() else { panic!("{plan:?}") };
        let expected = json!([{"verbs": ["a"]}, {"verbs": ["b"]}]);
        assert_eq!(patch["rules"], expected);
        put(&mut world, "view", json!({"aggregationRule": selector, "rules": expected}));
        assert_eq!(super::plan(&world, &settings(), &of("view"), Timestamp::UNIX_EPOCH), Plan::nothing());
        assert_eq!(super::plan(&world, &settings(), &of("c"), Timestamp::UNIX_EPOCH), Plan::nothing());
    }
}
