//! Patches of each type: what they do, what they refuse, and that none does harm.

use oarlock_api::catalogue::{CONFIG_MAPS, Catalogue, DEPLOYMENTS, PODS};
use oarlock_fuzz::Target;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn apply(content_type: &str, patch: &Value, object: Value) -> Result<Value, Status> {
    Patch::parse(content_type, patch.to_string().as_bytes())?.apply(&CONFIG_MAPS, Sub::Main, object)
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[test]
fn every_type_does_what_its_standard_says() {
    let object = json!({"data": {"a": "1", "b": "2"}});
    let cases = [
        (JSON, json!([{"op": "replace", "path": "/data/a", "value": "9"}]), json!({"a": "9", "b": "2"})),
        (
            JSON,
            json!([{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]),
            json!({"b": "2"}),
        ),
        (
            JSON,
            json!([{"op": "copy", "from": "/data/a", "path": "/data/c"}]),
            json!({"a": "1", "b": "2", "c": "1"}),
        ),
        (JSON, json!([{"op": "move", "from": "/data/a", "path": "/data/c"}]), json!({"b": "2", "c": "1"})),
        (MERGE, json!({"data": {"a": null, "c": "3"}}), json!({"b": "2", "c": "3"})),
        (STRATEGIC, json!({"data": {"a": null, "c": "3"}}), json!({"b": "2", "c": "3"})),
        (STRATEGIC, json!({"data": {"$patch": "replace", "c": "3"}}), json!({"c": "3"})),
    ];
    for (content_type, patch, data) in cases {
        let patched = apply(content_type, &patch, object.clone()).unwrap();
        assert_eq!(patched["data"], data, "{content_type} {patch}");
    }
}

#[test]
fn bad_patches_are_refused_with_upstreams_codes() {
    let object = json!({"data": {"a": "1"}});
    let cases = [
        ("application/apply-patch+yaml", json!({}), 415),
        ("application/json", json!({}), 415),
        (JSON, json!({}), 400),
        (JSON, json!([{"op": "fly", "path": "/a"}]), 400),
        (JSON, json!([{"op": "test", "path": "/data/a", "value": "2"}]), 422),
        (JSON, json!([{"op": "remove", "path": "/data/nothing"}]), 422),
        (MERGE, json!([1]), 400),
        (STRATEGIC, json!([1]), 400),
        (STRATEGIC, json!({"data": {"$patch": "unknown"}}), 400),
    ];
    for (content_type, patch, code) in cases {
        let status = apply(content_type, &patch, object.clone()).unwrap_err();
        assert_eq!(status.code, code, "{content_type} {patch}: {status}");
    }
    let refused = apply("application/json", &json!({}), json!({})).unwrap_err();
    assert_eq!(
        refused.message,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, \
         application/apply-patch+yaml"
    );
    assert_eq!(Patch::parse(MERGE, b"{").unwrap_err().code, 400);
}

#[test]
fn a_patch_cannot_make_an_object_grow_or_nest_without_bounds() {
    let doubling: Vec<Value> =
        (0..20).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/x{i}")})).collect();
    let status = apply(JSON, &json!(doubling), json!({"data": {"a": "1"}})).unwrap_err();
    assert_eq!(status.code, 422);
    let deepening: Vec<Value> =
        (1..500).map(|i| json!({"op": "add", "path": "/a".repeat(i), "value": {}})).collect();
    let status = apply(JSON, &json!(deepening), json!({})).unwrap_err();
    assert!(status.message.contains("nests deeper"), "{status}");
}

#[test]
fn lists_of_workloads_merge_by_their_keys() {
    let strategic = |kind: &Kind, object: Value, patch: Value| {
        Patch::Strategic(patch).apply(kind, Sub::Main, object).unwrap()
    };
    // What `kubectl set env` sends.
    let container = |env: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", "env": env}]}}}});
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}}}});
    let patched = strategic(&DEPLOYMENTS, container(json!([{"name": "A", "value": "1"}])), patch);
    assert_eq!(patched, container(json!([{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])));
    // Volume mounts merge by mountPath, tolerations are atomic, image pull secrets merge by name.
    let object = json!({"spec": {"tolerations": [{"key": "a"}], "imagePullSecrets": [{"name": "s"}],
        "containers": [{"name": "c", "volumeMounts": [{"mountPath": "/a", "name": "x"}]}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "b"}], "imagePullSecrets": [{"name": "t"}],
        "containers": [{"name": "c", "volumeMounts": [{"mountPath": "/a", "name": "y"}]}]}});
    let wanted = json!({"spec": {"tolerations": [{"key": "b"}], "imagePullSecrets": [{"name": "s"}, {"name": "t"}],
        "containers": [{"name": "c", "volumeMounts": [{"mountPath": "/a", "name": "y"}]}]}});
    assert_eq!(strategic(&PODS, object, patch), wanted);
    // The number of replicas of a Scale.
    let scale = Patch::Strategic(json!({"spec": {"replicas": 3}}));
    let scaled = scale.apply(&DEPLOYMENTS, Sub::Scale, json!({"spec": {"replicas": 1}})).unwrap();
    assert_eq!(scaled["spec"]["replicas"], 3);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("[a-c]", inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    prop::collection::vec(("[a-c]", value()), 0..4)
        .prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

/// What a merge patch leaves of itself where there was nothing: RFC 7386 on an empty target.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect(),
        ),
        other => other.clone(),
    }
}

/// The merge patch that makes one object the other, which has no nulls: the standard cannot say them.
fn merge_between(one: &Value, other: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (one, other) else { return other.clone() };
    let gone = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = to.iter().filter(|(key, value)| from.get(*key) != Some(value));
    let changed = changed.map(|(key, value)| {
        let before = from.get(key).filter(|before| before.is_object()).cloned().unwrap_or(json!({}));
        (key.clone(), merge_between(&before, value))
    });
    Value::Object(gone.chain(changed).collect())
}

proptest! {
    #[test]
    fn the_difference_of_two_objects_makes_one_the_other(one in object(), other in object()) {
        let steps = serde_json::to_value(json_patch::diff(&one, &other)).unwrap();
        prop_assert_eq!(&apply(JSON, &steps, one.clone()).unwrap(), &other);
        let other = without_nulls(&other);
        let patch = merge_between(&one, &other);
        prop_assert_eq!(apply(MERGE, &patch, one).unwrap(), other, "{}", patch);
    }

    #[test]
    fn a_merge_patch_is_idempotent_and_of_nothing_is_itself_without_nulls(object in object(), patch in object()) {
        let patch_of = Patch::Merge(patch.clone());
        let once = patch_of.apply(&CONFIG_MAPS, Sub::Main, object.clone()).unwrap();
        prop_assert_eq!(&patch_of.apply(&CONFIG_MAPS, Sub::Main, once.clone()).unwrap(), &once);
        prop_assert_eq!(Patch::Merge(json!({})).apply(&CONFIG_MAPS, Sub::Main, object.clone()).unwrap(), object);
        let fresh = patch_of.apply(&CONFIG_MAPS, Sub::Main, json!({})).unwrap();
        prop_assert_eq!(fresh, without_nulls(&patch));
    }
}

/// Something to patch, with lists that are merged by keys, by values, and not at all.
fn live() -> Value {
    let container = json!({"name": "c", "image": "i", "args": ["a"], "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}]});
    let spec = json!({"containers": [container, {"name": "d"}], "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "a"}]});
    json!({"metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f", "g"]}, "data": {"a": "1"},
        "spec": {"ports": [{"port": 1, "name": "p"}], "replicas": 1, "containers": spec["containers"], "template": {"spec": spec}}})
}

/// A line of content type and the plural of a kind, then the patch. What comes out is stored, and must be readable.
#[test]
fn fuzz_patches() {
    let (catalogue, live) = (Catalogue::builtin(), live());
    Target::new("patches").run(|input| {
        let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
        let (head, body) = (String::from_utf8_lossy(&input[..end]), input.get(end + 1..).unwrap_or_default());
        let (content_type, plural) = head.split_once(' ').unwrap_or((&head, "pods"));
        let kind = catalogue.served().find(|kind| kind.plural == plural).unwrap_or(&PODS);
        let Ok(patch) = Patch::parse(content_type, body) else { return };
        for (sub, object) in [(Sub::Main, live.clone()), (Sub::Main, json!({})), (Sub::Scale, live.clone())] {
            match patch.apply(kind, sub, object) {
                Ok(patched) => {
                    assert_eq!(serde_json::from_str::<Value>(&patched.to_string()).unwrap(), patched)
                }
                Err(status) => assert!(status.code < 500, "{status}"),
            }
        }
    });
}
