//! Owners, conflicts, and the algebra of applying.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Entry, FieldSet, Writer, is_reset, of, put};
use crate::catalogue::{CRON_JOBS_V1BETA1, DEPLOYMENTS, Kind, PODS, SERVICES};
use crate::status::Status;

fn writer(kind: &'static Kind, manager: &'static str) -> Writer<'static> {
    Writer { kind: kind.stored(), version: kind, manager, subresource: "", time: "2026-11-27T00:00:00Z" }
}

fn apply(manager: &'static str, live: &Value, config: &Value) -> Result<Value, Status> {
    writer(&DEPLOYMENTS, manager).apply(live, config, false)
}

fn forced(manager: &'static str, live: &Value, config: &Value) -> Value {
    writer(&DEPLOYMENTS, manager).apply(live, config, true).unwrap()
}

/// The fields of a manager.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = of(object).unwrap();
    entries.iter().find(|e| e.manager == manager).map_or(Value::Null, |entry| entry.set.to_json())
}

fn updated(manager: &'static str, old: &Value, mut new: Value) -> Value {
    let entries = writer(&DEPLOYMENTS, manager).update(old, &new, of(old).unwrap());
    put(&mut new, &entries);
    new
}

fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": 3, "selector": {"matchLabels": {"app": "web"}},
            "template": {"spec": {"containers": [
                {"name": "web", "image": "web:1", "ports": [{"containerPort": 80}]},
            ]}},
        },
    })
}

#[test]
fn who_applies_owns_what_the_configuration_says() {
    let made = writer(&DEPLOYMENTS, "ci").create(&web()).unwrap();
    let expected = json!({
        "f:metadata": {"f:labels": {"f:app": {}}},
        "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {
                ".": {}, "f:image": {}, "f:name": {},
                "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
            }}}},
        },
    });
    similar_asserts::assert_eq!(owned(&made, "ci"), expected);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!((&entry["operation"], &entry["fieldsType"]), (&json!("Apply"), &json!("FieldsV1")));
}

#[test]
fn who_creates_owns_everything_and_who_updates_what_changed() {
    let made = updated("kubectl-create", &Value::Null, web());
    let labels = json!({".": {}, "f:app": {}});
    assert_eq!(owned(&made, "kubectl-create")["f:metadata"]["f:labels"], labels);
    let mut scaled = made.clone();
    scaled["spec"]["replicas"] = json!(5);
    let scaled = updated("scaler", &made, scaled);
    assert_eq!(owned(&scaled, "scaler"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(owned(&scaled, "kubectl-create")["f:spec"].get("f:replicas").is_none(), "it was taken");
    let same = updated("nobody", &scaled, scaled.clone());
    assert_eq!(same, scaled, "who changes nothing owns nothing, and no time changes");
    let mut without = scaled.clone();
    without["metadata"]["labels"] = json!({});
    let without = updated("cleaner", &scaled, without);
    assert_eq!(
        owned(&without, "kubectl-create")["f:metadata"],
        json!({"f:labels": {}}),
        "what is gone has no owner"
    );
}

#[test]
fn a_conflict_names_fields_and_owners_as_upstream_does() {
    let live = updated("kubectl-create", &Value::Null, web());
    let scale = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 9}});
    let one = apply("ci", &live, &scale).unwrap_err();
    assert_eq!((one.code, one.reason), (409, "Conflict"));
    assert_eq!(
        one.message,
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using apps/v1: .spec.replicas"
    );
    let cause = &one.details.unwrap().causes[0];
    assert_eq!(
        (cause.reason.as_str(), cause.message.as_str(), cause.field.as_str()),
        ("FieldManagerConflict", "conflict with \"kubectl-create\" using apps/v1", ".spec.replicas")
    );
    let mut two = scale.clone();
    two["spec"]["template"]["spec"]["containers"] = json!([{"name": "web", "image": "web:2"}]);
    let two = apply("ci", &live, &two).unwrap_err();
    assert_eq!(
        two.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using apps/v1:\n- .spec.replicas\n\
         - .spec.template.spec.containers[name=\"web\"].image"
    );
    let taken = forced("ci", &live, &scale);
    assert_eq!(taken["spec"]["replicas"], 9);
    assert!(owned(&taken, "kubectl-create")["f:spec"].get("f:replicas").is_none());
    assert_eq!(owned(&taken, "ci"), json!({"f:spec": {"f:replicas": {}}}));
}

#[test]
fn the_same_value_is_owned_together_and_goes_with_its_last_owner() {
    let label = |value: &str| json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {"tier": value}}});
    let bare = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
    let live = writer(&DEPLOYMENTS, "ci").create(&web()).unwrap();
    let one = apply("one", &live, &label("a")).unwrap();
    let both = apply("two", &one, &label("a")).unwrap();
    assert_eq!(apply("two", &both, &label("b")).unwrap_err().code, 409);
    let left = apply("one", &both, &bare).unwrap();
    assert_eq!(left["metadata"]["labels"], json!({"app": "web", "tier": "a"}), "two still applies it");
    assert_eq!(owned(&left, "one"), Value::Null);
    let gone = apply("two", &left, &bare).unwrap();
    assert_eq!(gone["metadata"]["labels"], json!({"app": "web"}));
    assert_eq!(gone["metadata"]["name"], "web");
}

#[test]
fn items_of_lists_are_merged_by_their_keys_and_removed_with_the_configuration() {
    let containers = |names: &[&str]| {
        let items: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": format!("{n}:1")})).collect();
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"containers": items}}}})
    };
    let names = |object: &Value| -> Vec<String> {
        let items = object["spec"]["template"]["spec"]["containers"].as_array().unwrap();
        items.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    let live = writer(&DEPLOYMENTS, "ci").create(&containers(&["a", "b"])).unwrap();
    let injected = apply("mesh", &live, &containers(&["proxy"])).unwrap();
    assert_eq!(names(&injected), ["a", "b", "proxy"]);
    let less = apply("ci", &injected, &containers(&["b", "c"])).unwrap();
    assert_eq!(names(&less), ["b", "proxy", "c"], "what ci no longer applies is gone, the mesh's stays");
    let mut edited = less.clone();
    edited["spec"]["template"]["spec"]["containers"][0]["workingDir"] = json!("/tmp");
    let edited = updated("editor", &less, edited);
    let kept = apply("ci", &edited, &containers(&["c"])).unwrap();
    assert_eq!(names(&kept), ["proxy", "c"], "who owns a field of an item does not own the item");
    let ambiguous = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"image": "x"}]}}}});
    assert_eq!(
        apply("ci", &live, &ambiguous).unwrap_err().message,
        "failed to create typed patch object (deployments; apps/v1, Kind=Deployment): .spec.template.spec.containers: \
         element 0: associative list with keys has an element that omits key field \"name\" (and doesn't have default \
         value)"
    );
    assert_eq!(apply("ci", &live, &containers(&["a", "a"])).unwrap_err().code, 400);
    let unknown = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"foo": 1}});
    assert!(
        apply("ci", &live, &unknown)
            .unwrap_err()
            .message
            .ends_with(".spec.foo: field not declared in schema")
    );
}

#[test]
fn lists_and_structs_are_as_whole_as_the_schema_says() {
    let pod =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
    let one = pod(json!({"containers": [{"name": "c", "command": ["a", "b"]}], "nodeSelector": {"a": "1"}}));
    let live = writer(&PODS, "one").create(&one).unwrap();
    let fields = owned(&live, "one");
    assert_eq!(fields["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:command"], json!({}), "atomic");
    assert_eq!(fields["f:spec"]["f:nodeSelector"], json!({}), "atomic");
    let other = pod(json!({"nodeSelector": {"b": "2"}}));
    assert_eq!(writer(&PODS, "two").apply(&live, &other, false).unwrap_err().code, 409);
    let finalizer = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": [name]}});
    let both = writer(&PODS, "two").apply(&live, &finalizer("example.com/two"), false).unwrap();
    let both = writer(&PODS, "three").apply(&both, &finalizer("example.com/three"), false).unwrap();
    assert_eq!(both["metadata"]["finalizers"], json!(["example.com/two", "example.com/three"]), "a set");
    assert_eq!(owned(&both, "two")["f:metadata"]["f:finalizers"], json!({"v:\"example.com/two\"": {}}));
}

#[test]
fn an_object_without_owners_belongs_to_before_first_apply() {
    let done = apply("ci", &web(), &web()).unwrap();
    assert_ne!(owned(&done, "before-first-apply"), Value::Null);
    let mut other = web();
    other["spec"]["replicas"] = json!(1);
    assert!(apply("ci", &web(), &other).unwrap_err().message.contains("before-first-apply"));
}

#[test]
fn kubectl_takes_over_from_client_side_apply_without_conflicts() {
    let mut live = web();
    live["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": format!("{}\n", web())});
    let live = updated("kubectl-client-side-apply", &Value::Null, live);
    let mut wanted = web();
    wanted["spec"]["replicas"] = json!(7);
    assert_eq!(apply("ci", &live, &wanted).unwrap_err().code, 409);
    let done = apply("kubectl", &live, &wanted).unwrap();
    assert_eq!(done["spec"]["replicas"], 7);
    let last = crate::meta::annotation(&done, "kubectl.kubernetes.io/last-applied-configuration").unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(last).unwrap()["spec"]["replicas"],
        7,
        "told to client-side apply"
    );
}

#[test]
fn the_status_is_applied_by_its_own_subresource() {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "ClusterIP"}});
    let live = writer(&SERVICES, "ci").create(&service).unwrap();
    let status = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "labels": {"a": "b"}},
        "spec": {"type": "NodePort"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}});
    let balancer = Writer { subresource: "status", ..writer(&SERVICES, "balancer") };
    let done = balancer.apply(&live, &status, false).unwrap();
    assert_eq!(done["spec"]["type"], "ClusterIP");
    let entries = done["metadata"]["managedFields"].as_array().unwrap();
    let own = entries.iter().find(|e| e["manager"] == "balancer").unwrap();
    assert_eq!(own["subresource"], "status");
    assert!(own["fieldsV1"].get("f:spec").is_none() && own["fieldsV1"].get("f:metadata").is_none());
}

#[test]
fn each_entry_speaks_in_its_own_version_and_old_ones_are_put_together() {
    let job = json!({"apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": {"name": "j"}, "spec": {"suspend": true}});
    let old = writer(&CRON_JOBS_V1BETA1, "old").create(&job).unwrap();
    assert_eq!(
        (&old["apiVersion"], &old["metadata"]["managedFields"][0]["apiVersion"]),
        (&json!("batch/v1"), &json!("batch/v1beta1"))
    );
    let mut new = job.clone();
    new["apiVersion"] = json!("batch/v1");
    new["spec"]["suspend"] = json!(false);
    let kind = CRON_JOBS_V1BETA1.stored();
    assert!(
        writer(kind, "new").apply(&old, &new, false).unwrap_err().message.contains("conflict with \"old\"")
    );
    assert_eq!(
        writer(kind, "old").apply(&old, &new, false).unwrap()["spec"]["suspend"],
        false,
        "one applier"
    );
    let mut live = updated("m0", &Value::Null, web());
    for (i, manager) in
        ["m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11"].into_iter().enumerate()
    {
        let mut next = live.clone();
        next["metadata"]["labels"][format!("l{i}")] = json!("x");
        live = updated(manager, &live, next);
    }
    let entries = of(&live).unwrap();
    assert_eq!(entries.len(), 10);
    assert!(entries.iter().any(|e| e.manager == "ancient-changes"));
}

#[test]
fn a_list_with_one_empty_entry_resets() {
    assert!(is_reset(&json!([{}])));
    assert!(!is_reset(&json!([])) && !is_reset(&json!([{}, {}])) && !is_reset(&Value::Null));
    for bad in [
        json!([{"operation": "Steal", "fieldsType": "FieldsV1"}]),
        json!([{"operation": "Apply", "fieldsType": "x"}]),
    ] {
        assert!(super::read(&bad).is_err(), "{bad}");
    }
}

/// Configurations of a Deployment over few names, so that they meet.
fn config() -> impl Strategy<Value = Value> {
    let labels = proptest::collection::btree_map("[a-c]", "[xy]", 0..3);
    let containers = proptest::collection::btree_map("[a-c]", ("[pq]", proptest::option::of("[mn]")), 0..3);
    (labels, containers, proptest::option::of(1..3i64)).prop_map(|(labels, containers, replicas)| {
        let containers: Vec<Value> = containers
            .into_iter()
            .map(|(name, (image, dir))| {
                let mut container = json!({"name": name, "image": image});
                if let Some(dir) = dir {
                    container["workingDir"] = json!(dir);
                }
                container
            })
            .collect();
        let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
        if !labels.is_empty() {
            config["metadata"]["labels"] = json!(labels);
        }
        if let Some(replicas) = replicas {
            config["spec"]["replicas"] = json!(replicas);
        }
        if !containers.is_empty() {
            config["spec"]["template"]["spec"]["containers"] = json!(containers);
        }
        config
    })
}

/// `FieldsV1`, mostly.
fn any_fields() -> impl Strategy<Value = Value> {
    let element = prop_oneof![
        "f:[a-c]",
        Just("k:{\"b\":1,\"a\":\"x\"}".to_owned()),
        "v:[0-9]{1,2}",
        "[fkvix]:.{0,6}",
        Just(".".to_owned())
    ];
    let leaf = prop_oneof![Just(json!({})), Just(json!(1)), Just(Value::Null)];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        proptest::collection::btree_map(element.clone(), inner, 0..4).prop_map(|map| json!(map))
    })
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(first in config(), second in config()) {
        let live = writer(&DEPLOYMENTS, "base").create(&first).unwrap();
        let once = forced("one", &live, &second);
        let twice = apply("one", &once, &second).unwrap();
        prop_assert_eq!(&twice, &once);
        let entries: Vec<Entry> = of(&once).unwrap();
        prop_assert!(entries.iter().all(|entry| !entry.set.is_empty()));
    }

    #[test]
    fn what_was_applied_is_there_and_what_was_given_up_is_not(first in config(), second in config()) {
        let once = writer(&DEPLOYMENTS, "one").create(&first).unwrap();
        let done = apply("one", &once, &second).unwrap();
        let mut fields = done.clone();
        put(&mut fields, &[]);
        // Nobody else owns anything: the object is the configuration.
        prop_assert_eq!(&fields["metadata"]["labels"], &second["metadata"]["labels"]);
        prop_assert_eq!(&fields["spec"]["replicas"], &second["spec"]["replicas"]);
        let containers = |object: &Value| object["spec"]["template"]["spec"]["containers"].clone();
        prop_assert_eq!(containers(&fields), containers(&second));
    }

    #[test]
    fn who_applies_other_fields_never_meets_a_conflict(config in config(), label in "[d-f]", replicas in 1..9i64) {
        let live = writer(&DEPLOYMENTS, "one").create(&config).unwrap();
        let mut other = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": {}}});
        other["metadata"]["labels"][label.as_str()] = json!("z");
        if config["spec"].get("replicas").is_none() {
            other["spec"]["replicas"] = json!(replicas);
        }
        let both = apply("two", &live, &other).unwrap();
        prop_assert_eq!(owned(&both, "one"), owned(&live, "one"));
        let bare = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
        let back = apply("two", &both, &bare).unwrap();
        prop_assert_eq!(back["metadata"].get("labels"), live["metadata"].get("labels"));
        prop_assert_eq!(back["spec"].get("replicas"), live["spec"].get("replicas"));
    }

    #[test]
    fn applying_what_is_there_changes_nothing(first in config(), second in config()) {
        let live = forced("two", &writer(&DEPLOYMENTS, "one").create(&first).unwrap(), &second);
        let mut same = live.clone();
        put(&mut same, &[]);
        let mut done = apply("three", &live, &same).unwrap();
        put(&mut done, &[]);
        prop_assert_eq!(done, same);
    }

    #[test]
    fn sets_are_what_their_json_says_and_obey_the_algebra(one in any_fields(), other in any_fields()) {
        let (Ok(one), Ok(other)) = (FieldSet::from_json(&one), FieldSet::from_json(&other)) else { return Ok(()) };
        prop_assert_eq!(FieldSet::from_json(&one.to_json()).unwrap(), one.clone());
        prop_assert_eq!(one.clone().union(&other), other.clone().union(&one));
        prop_assert_eq!(one.intersection(&other), other.intersection(&one));
        prop_assert_eq!(one.difference(&other).union(&one.intersection(&other)), one.clone());
        prop_assert!(one.difference(&one).is_empty());
        prop_assert_eq!(one.paths().len(), one.intersection(&one).paths().len());
    }
}
