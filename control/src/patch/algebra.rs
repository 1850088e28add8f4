//! The algebra of strategic merge patches: what leads from one object to another, applied to the first, is the second.

use std::collections::BTreeMap;

use oarlock_api::catalogue::PODS;
use oarlock_api::schema::{MessageRef, PatchMeta, Schema, Shape};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{Patch, Sub};

fn meta(message: Option<MessageRef>, key: &str) -> Option<PatchMeta> {
    Schema::builtin().patch_meta(message?, key)
}

/// What leads from one object to another, as `kubectl apply` computes it.
fn diff(
    message: Option<MessageRef>,
    from: &Map<String, Value>,
    to: &Map<String, Value>,
) -> Map<String, Value> {
    let mut patch = Map::new();
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, wanted) in to.iter().filter(|(key, wanted)| from.get(*key) != Some(wanted)) {
        let meta = meta(message, key);
        match (from.get(key), wanted) {
            (Some(Value::Object(from)), Value::Object(to)) if !meta.is_some_and(|m| m.replace) => {
                patch.insert(key.clone(), Value::Object(diff(meta.and_then(|m| m.message), from, to)));
            }
            (Some(Value::Array(from)), Value::Array(to))
                if meta.is_some_and(|m| m.merge && m.shape == Shape::List) =>
            {
                lists(meta.unwrap(), key, from, to, &mut patch);
            }
            _ => drop(patch.insert(key.clone(), wanted.clone())),
        }
    }
    patch
}

fn lists(meta: PatchMeta, key: &str, from: &[Value], to: &[Value], patch: &mut Map<String, Value>) {
    let Some(by) = meta.merge_key else {
        let more = |one: &[Value], other: &[Value]| {
            one.iter().filter(|i| !other.contains(i)).cloned().collect::<Value>()
        };
        patch.insert(format!("$deleteFromPrimitiveList/{key}"), more(from, to));
        patch.insert(key.to_owned(), more(to, from));
        patch.insert(format!("$setElementOrder/{key}"), json!(to));
        return;
    };
    let find = |list: &[Value], id: &Value| list.iter().find(|item| item[by] == *id).cloned();
    let mut items = Vec::new();
    for gone in from.iter().filter(|item| find(to, &item[by]).is_none()) {
        items.push(json!({"$patch": "delete", by: gone[by]}));
    }
    for item in to {
        match find(from, &item[by]) {
            None => items.push(item.clone()),
            Some(old) if old == *item => {}
            Some(old) => {
                let mut changed = diff(meta.message, old.as_object().unwrap(), item.as_object().unwrap());
                changed.insert(by.to_owned(), item[by].clone());
                items.push(Value::Object(changed));
            }
        }
    }
    patch.insert(key.to_owned(), Value::Array(items));
    let order: Vec<Value> = to.iter().map(|item| json!({by: item[by]})).collect();
    patch.insert(format!("$setElementOrder/{key}"), Value::Array(order));
}

/// Some of these, in any order.
fn some<V: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = V>,
) -> impl Strategy<Value = Vec<(String, V)>> {
    let all = prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "d"]), value, 0..4);
    let pairs = |all: BTreeMap<&str, V>| all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Vec<_>>();
    all.prop_map(pairs).prop_shuffle()
}

fn map() -> impl Strategy<Value = Value> {
    some("[xyz]").prop_map(|pairs| pairs.into_iter().map(|(k, v)| (k, json!(v))).collect())
}

prop_compose! {
    fn container()(image in "[xyz]", env in some(prop_oneof![
            "[xyz]".prop_map(|v| json!({"value": v})),
            "[xyz]".prop_map(|v| json!({"valueFrom": {"fieldRef": {"fieldPath": v}}})),
        ]), ports in prop::sample::subsequence(vec![80, 81, 82], 0..=3).prop_shuffle(), port in "[xyz]",
        args in prop::collection::vec("[xyz]", 0..3), limits in map()) -> Value {
        let named = |(name, mut value): (String, Value)| { value["name"] = json!(name); value };
        let ports: Vec<Value> = ports.into_iter().map(|number| json!({"containerPort": number, "name": port})).collect();
        json!({"image": image, "env": env.into_iter().map(named).collect::<Vec<_>>(), "ports": ports, "args": args,
            "resources": {"limits": limits}})
    }
}

prop_compose! {
    fn pod()(labels in map(), node_selector in map(), containers in some(container()),
        volumes in some(prop_oneof![Just(json!({"emptyDir": {}})), "[xyz]".prop_map(|p| json!({"hostPath": {"path": p}}))]),
        finalizers in prop::sample::subsequence(vec!["f/a", "f/b", "f/c"], 0..=3).prop_shuffle(),
        tolerations in prop::collection::vec("[xyz]", 0..3), bare: bool, node in prop::option::of("[xyz]")) -> Value {
        let named = |(name, mut value): (String, Value)| { value["name"] = json!(name); value };
        let tolerations: Vec<Value> = tolerations.into_iter().map(|key| json!({"key": key})).collect();
        let mut spec = json!({"containers": containers.into_iter().map(named).collect::<Vec<_>>()});
        if !bare {
            spec["volumes"] = volumes.into_iter().map(named).collect();
            spec["tolerations"] = json!(tolerations);
            spec["nodeSelector"] = node_selector;
        }
        if let Some(node) = node {
            spec["nodeName"] = json!(node);
        }
        json!({"metadata": {"name": "p", "labels": labels, "finalizers": finalizers}, "spec": spec})
    }
}

fn patched(from: &Value, patch: &Map<String, Value>) -> Value {
    let patch = Patch::Strategic(Value::Object(patch.clone()));
    patch.apply(&PODS, Sub::Main, from.clone()).unwrap()
}

proptest! {
    #[test]
    fn what_leads_to_another_object_leads_there(from in pod(), to in pod()) {
        let message = Schema::builtin().kind("", "v1", "Pod");
        let patch = diff(message, from.as_object().unwrap(), to.as_object().unwrap());
        let there = patched(&from, &patch);
        prop_assert_eq!(&there, &to, "by {}", Value::Object(patch.clone()));
        // Once more changes nothing, and neither does what leads from an object to itself.
        prop_assert_eq!(&patched(&there, &patch), &to, "again by {}", Value::Object(patch));
        let nothing = diff(message, to.as_object().unwrap(), to.as_object().unwrap());
        prop_assert!(nothing.is_empty());
        // The same by a merge patch, for which lists are one value.
        let mut merged = from.clone();
        json_patch::merge(&mut merged, &json!(diff(None, from.as_object().unwrap(), to.as_object().unwrap())));
        prop_assert_eq!(merged, to);
    }
}
