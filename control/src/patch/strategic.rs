//! Strategic merge patch: a merge patch that knows which lists are maps by a key or sets.
//!
//! Source: k8s.io/apimachinery/pkg/util/strategicpatch and the document "strategic-merge-patch.md". Which lists merge by
//! which key is in the field table; a field that the table does not know is merged as JSON merge patch would.

use oarlock_api::meta::map_of;
use oarlock_api::schema::{MessageRef, PatchMeta, Schema, Shape};
use oarlock_api::status::Status;
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
/// Patches nest no deeper than objects can.
const MAX_DEPTH: usize = 128;

/// Applies a patch to an object of a message.
pub(super) fn apply(message: Option<MessageRef>, object: &mut Value, patch: &Value) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        return Err(Status::bad_request("the patch is no object"));
    };
    merge_map(message, map_of(object), patch, MAX_DEPTH)
}

fn field(message: Option<MessageRef>, name: &str) -> Option<PatchMeta> {
    Schema::builtin().patch_meta(message?, name)
}

fn bad(why: &str) -> Status {
    Status::bad_request(format!("invalid strategic merge patch: {why}"))
}

fn merge_map(
    message: Option<MessageRef>,
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    depth: usize,
) -> Result<(), Status> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("it is nested too deeply"))?;
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None => {}
        Some(Some("replace")) => {
            object.clear();
            object.extend(patch.iter().filter(|(k, _)| *k != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())));
            return Ok(());
        }
        Some(Some("delete")) => {
            object.clear();
            return Ok(());
        }
        Some(Some("merge")) => {}
        Some(_) => return Err(bad("$patch must be replace, merge or delete")),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        let keys = keys.as_array().ok_or_else(|| bad("$retainKeys must be a list"))?;
        object.retain(|key, _| keys.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            let gone = value.as_array().ok_or_else(|| bad("$deleteFromPrimitiveList must be a list"))?;
            if let Some(list) = object.get_mut(name).and_then(Value::as_array_mut) {
                list.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            merge_field(message, object, key, value, depth)?;
        }
    }
    for (key, order) in patch.iter().filter_map(|(k, v)| Some((k.strip_prefix(ORDER)?, v))) {
        let order = order.as_array().ok_or_else(|| bad("$setElementOrder must be a list"))?;
        let merge_key = field(message, key).and_then(|m| m.merge_key);
        if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
            reorder(list, order, merge_key);
        }
    }
    Ok(())
}

fn merge_field(
    message: Option<MessageRef>,
    object: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    depth: usize,
) -> Result<(), Status> {
    let meta = field(message, key);
    match value {
        Value::Null => drop(object.shift_remove(key)),
        Value::Object(patch) => {
            let below = meta.and_then(|m| m.message);
            let deletes = patch.get(DIRECTIVE).is_some_and(|d| d == "delete");
            if meta.is_some_and(|m| m.replace) || deletes {
                object.shift_remove(key);
            }
            if !deletes {
                let entry = object.entry(key).or_insert(Value::Null);
                merge_map(below, map_of(entry), patch, depth)?;
            }
        }
        Value::Array(patch) if meta.is_some_and(|m| m.merge && m.shape == Shape::List) => {
            let entry = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            if !entry.is_array() {
                *entry = Value::Array(Vec::new());
            }
            if let (Value::Array(list), Some(meta)) = (entry, meta) {
                match meta.merge_key {
                    Some(merge_key) => merge_list(meta.message, merge_key, list, patch, depth)?,
                    None => merge_set(list, patch),
                }
            }
        }
        other => drop(object.insert(key.to_owned(), other.clone())),
    }
    Ok(())
}

fn merge_set(list: &mut Vec<Value>, patch: &[Value]) {
    for item in patch {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn merge_list(
    message: Option<MessageRef>,
    merge_key: &str,
    list: &mut Vec<Value>,
    patch: &[Value],
    depth: usize,
) -> Result<(), Status> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).unwrap_or("").to_owned();
    if patch.iter().any(|item| directive(item) == "replace") {
        list.clear();
    }
    for item in patch {
        let Value::Object(map) = item else {
            return Err(bad("an item of a list that merges by key is no object"));
        };
        let only_directive = map.len() == 1 && map.contains_key(DIRECTIVE);
        if directive(item) == "replace" && only_directive {
            continue;
        }
        let key = map
            .get(merge_key)
            .ok_or_else(|| bad(&format!("map: {item} does not contain declared merge key: {merge_key}")))?;
        let position = list.iter().position(|present| present.get(merge_key) == Some(key));
        match (directive(item).as_str(), position) {
            ("delete", Some(_)) => list.retain(|present| present.get(merge_key) != Some(key)),
            ("delete", None) => {}
            (_, Some(position)) => merge_map(message, map_of(&mut list[position]), map, depth)?,
            (_, None) => {
                let mut fresh = Map::new();
                merge_map(message, &mut fresh, map, depth)?;
                list.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Puts the items that `order` names into its order; the others keep their places.
fn reorder(list: &mut [Value], order: &[Value], merge_key: Option<&str>) {
    let rank = |item: &Value| {
        order.iter().position(|o| match merge_key {
            Some(key) => o.get(key).is_some() && o.get(key) == item.get(key),
            None => o == item,
        })
    };
    let places: Vec<usize> = (0..list.len()).filter(|i| rank(&list[*i]).is_some()).collect();
    let mut ordered: Vec<Value> = places.iter().map(|i| list[*i].clone()).collect();
    ordered.sort_by_key(|item| rank(item));
    for (place, item) in places.into_iter().zip(ordered) {
        list[place] = item;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_api::catalogue::{DEPLOYMENTS, PODS};
    use proptest::prelude::*;
    use serde_json::json;

    fn patched(group: &str, kind: &str, mut object: Value, patch: &Value) -> Value {
        let message = Schema::builtin().kind(group, "v1", kind).unwrap();
        apply(Some(message), &mut object, patch).unwrap();
        object
    }

    fn pod(object: Value, patch: Value) -> Value {
        patched("", PODS.kind, object, &patch)
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"containers": items}})
    }

    #[test]
    fn containers_merge_by_name() {
        let object =
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1", "tty": true}]));
        let patch = containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}]));
        let wanted = json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2", "tty": true}, {"name": "c", "image": "3"}]);
        assert_eq!(pod(object, patch), containers(wanted));
    }

    #[test]
    fn directives_delete_and_replace() {
        let object = || containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
        let delete = containers(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(pod(object(), delete), containers(json!([{"name": "b", "image": "1"}])));
        let replace = containers(json!([{"name": "c", "image": "3"}, {"$patch": "replace"}]));
        assert_eq!(pod(object(), replace), containers(json!([{"name": "c", "image": "3"}])));
        let map = json!({"metadata": {"labels": {"$patch": "replace", "x": "y"}}});
        assert_eq!(
            pod(json!({"metadata": {"labels": {"a": "b"}}}), map),
            json!({"metadata": {"labels": {"x": "y"}}})
        );
    }

    #[test]
    fn nulls_delete_and_atomic_lists_replace() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"containers": [{"name": "a", "args": ["x", "y"]}]}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "spec": {"containers": [{"name": "a", "args": ["z"]}]}});
        let wanted = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"containers": [{"name": "a", "args": ["z"]}]}});
        assert_eq!(pod(object, patch), wanted);
    }

    #[test]
    fn sets_of_scalars_merge_and_shrink() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["a"]}});
        assert_eq!(pod(object, patch), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }

    #[test]
    fn the_order_of_elements_follows_the_patch() {
        let object = containers(json!([{"name": "a"}, {"name": "b"}]));
        let patch = json!({"spec": {
            "containers": [{"name": "c"}], "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}});
        assert_eq!(pod(object, patch), containers(json!([{"name": "c"}, {"name": "a"}, {"name": "b"}])));
    }

    #[test]
    fn retained_keys_of_a_strategy_drop_the_others() {
        let object =
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        let wanted = json!({"spec": {"strategy": {"type": "Recreate"}}});
        assert_eq!(patched(DEPLOYMENTS.group, DEPLOYMENTS.kind, object, &patch), wanted);
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let message = Schema::builtin().kind("", "v1", "Pod");
        let error = apply(message, &mut json!({}), &containers(json!([{"image": "1"}]))).unwrap_err();
        assert_eq!(error.code, 400);
        assert!(error.message.contains("merge key: name"), "{error}");
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z$]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            let key = prop::sample::select(vec![
                "metadata",
                "spec",
                "containers",
                "name",
                "$patch",
                "$retainKeys",
                "labels",
                "finalizers",
                "ports",
                "$setElementOrder/containers",
                "$deleteFromPrimitiveList/finalizers",
                "x",
            ]);
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..6).prop_map(|pairs| {
                    Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_patch_panics_and_no_directive_stays(mut object in json_value(), patch in json_value()) {
            let message = Schema::builtin().kind("", "v1", "Pod");
            let had = object.to_string().contains('$');
            if apply(message, &mut object, &patch).is_ok() && !had && !patch.to_string().contains("replace") {
                let labels = object["metadata"]["labels"].as_object().cloned().unwrap_or_default();
                prop_assert!(!labels.contains_key("$patch"));
            }
        }

        #[test]
        fn an_empty_patch_changes_nothing(spec in json_value(), metadata in json_value()) {
            let object = json!({"metadata": metadata, "spec": spec});
            let mut patched = object.clone();
            apply(Schema::builtin().kind("", "v1", "Pod"), &mut patched, &json!({})).unwrap();
            prop_assert_eq!(patched, object);
        }
    }
}
