//! Affinity and anti-affinity between pods.

use std::sync::Arc;

use oarlock_api::catalogue::NAMESPACES;
use serde_json::{Value, json};

use super::super::Verdict;
use super::{app, assert_none, choices, place, world, zones};

fn term(app: &str, topology: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology})
}

fn required(which: &str, terms: Value) -> Value {
    json!({"affinity": {which: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn preferred(which: &str, term: Value) -> Value {
    let weighed = json!([{"weight": 100, "podAffinityTerm": term}]);
    json!({"affinity": {which: {"preferredDuringSchedulingIgnoredDuringExecution": weighed}}})
}

#[test]
fn a_pod_goes_where_those_are_that_it_must_be_near() {
    let db = app("db", "db", "b1", json!({}));
    let web = app("web", "web", "", required("podAffinity", json!([term("db", "zone")])));
    assert_eq!(choices(&zones(), &[db.clone(), web.clone()], "web"), ["b1", "b2"]);
    let close = app("web", "web", "", required("podAffinity", json!([term("db", "kubernetes.io/hostname")])));
    assert_eq!(choices(&zones(), &[db, close], "web"), ["b1"]);
    assert_none(
        &place(&world(&zones(), &[web]), "web"),
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules. preemption: 0/4 nodes are available: \
         4 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn pods_that_want_to_be_near_each_other_have_a_first() {
    let rules = required("podAffinity", json!([term("web", "zone")]));
    let first = app("first", "web", "", rules.clone());
    assert_eq!(choices(&zones(), std::slice::from_ref(&first), "first").len(), 4);
    let there = app("there", "web", "a2", rules);
    assert_eq!(choices(&zones(), &[there, first], "first"), ["a1", "a2"]);
}

#[test]
fn all_terms_must_be_met_by_the_same_pods() {
    let rules = required("podAffinity", json!([term("db", "zone"), term("cache", "zone")]));
    let pods = [
        app("db", "db", "a1", json!({})),
        app("cache", "cache", "a2", json!({})),
        app("web", "web", "", rules),
    ];
    assert!(matches!(place(&world(&zones(), &pods), "web"), Verdict::None(_)), "no pod is both");
}

#[test]
fn a_pod_stays_away_from_those_that_it_must_not_be_near_and_from_those_that_say_so() {
    let apart = required("podAntiAffinity", json!([term("noisy", "zone")]));
    let noisy = app("noisy", "noisy", "a1", json!({}));
    let quiet = app("quiet", "quiet", "", apart.clone());
    assert_eq!(choices(&zones(), &[noisy, quiet], "quiet"), ["b1", "b2"]);
    // The other way round: who is there says so.
    let quiet = app("quiet", "quiet", "b2", apart);
    let noisy = app("noisy", "noisy", "", json!({}));
    assert_eq!(choices(&zones(), &[quiet.clone(), noisy.clone()], "noisy"), ["a1", "a2"]);
    let both = [
        quiet,
        app("other", "quiet", "a1", required("podAntiAffinity", json!([term("noisy", "zone")]))),
        noisy,
    ];
    assert_none(
        &place(&world(&zones(), &both), "noisy"),
        "0/4 nodes are available: 4 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/4 nodes are \
         available: 4 No preemption victims found for incoming pod.",
    );
    let replicas = required("podAntiAffinity", json!([term("web", "kubernetes.io/hostname")]));
    let there = ["a1", "a2", "b1"].map(|on| app(on, "web", on, replicas.clone()));
    let pods = [&there[..], &[app("new", "web", "", replicas)]].concat();
    assert_eq!(choices(&zones(), &pods, "new"), ["b2"]);
}

#[test]
fn terms_mean_pods_of_their_own_namespace_of_named_ones_or_of_those_with_labels() {
    let mut other = app("db", "db", "a1", json!({}));
    other["metadata"]["namespace"] = json!("e");
    let with = |more: Value| {
        let mut term = term("db", "zone");
        for (key, value) in more.as_object().unwrap() {
            term[key] = value.clone();
        }
        let pods = [other.clone(), app("web", "web", "", required("podAffinity", json!([term])))];
        let mut world = world(&zones(), &pods);
        let namespace = json!({"metadata": {"name": "e", "labels": {"team": "x"}}});
        world.put(&NAMESPACES, "", "e", &Arc::new(namespace), 1);
        matches!(place(&world, "web"), Verdict::Node(_))
    };
    assert!(!with(json!({})));
    assert!(with(json!({"namespaces": ["e"]})));
    assert!(with(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})));
    assert!(!with(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}})));
    assert!(with(json!({"namespaceSelector": {}})), "all namespaces");
    assert!(with(json!({"namespaceSelector": {"matchLabels": {"team": "y"}}, "namespaces": ["e"]})));
}

#[test]
fn keys_of_labels_narrow_a_term_to_pods_of_the_same_or_of_another_revision() {
    let pods = |keys: &str| {
        let mut near = term("web", "zone");
        near[keys] = json!(["revision"]);
        let mut new = app("new", "web", "", required("podAffinity", json!([near])));
        new["metadata"]["labels"]["revision"] = json!("2");
        let [old, own] = [("old", "1", "a1"), ("own", "2", "b1")].map(|(name, revision, on)| {
            let mut pod = app(name, "web", on, json!({}));
            pod["metadata"]["labels"]["revision"] = json!(revision);
            pod
        });
        [old, own, new]
    };
    assert_eq!(choices(&zones(), &pods("matchLabelKeys"), "new"), ["b1", "b2"]);
    assert_eq!(choices(&zones(), &pods("mismatchLabelKeys"), "new"), ["a1", "a2"]);
}

#[test]
fn preferences_draw_and_repel_in_both_directions() {
    let db = |rules: Value| app("db", "db", "b1", rules);
    let web = |rules: Value| app("web", "web", "", rules);
    let zone_of = |pods: &[Value]| match place(&world(&zones(), pods), "web") {
        Verdict::Node(name) => name[..1].to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(zone_of(&[db(json!({})), web(preferred("podAffinity", term("db", "zone")))]), "b");
    assert_eq!(zone_of(&[db(json!({})), web(preferred("podAntiAffinity", term("db", "zone")))]), "a");
    assert_eq!(zone_of(&[db(preferred("podAffinity", term("web", "zone"))), web(json!({}))]), "b");
    assert_eq!(zone_of(&[db(preferred("podAntiAffinity", term("web", "zone"))), web(json!({}))]), "a");
    let near = required("podAffinity", json!([term("web", "zone")]));
    assert_eq!(zone_of(&[db(near), web(json!({}))]), "b", "who must be near draws, too");
}
