//! Topology spread constraints.

use serde_json::{Value, json};

use super::super::Verdict;
use super::{app, assert_none, choices, labelled, place, world, zones};

fn constraint(more: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}});
    for (key, value) in more.as_object().unwrap() {
        constraint[key] = value.clone();
    }
    constraint
}

fn web(name: &str, on: &str, more: Value) -> Value {
    app(name, "web", on, json!({"topologySpreadConstraints": [constraint(more)]}))
}

#[test]
fn no_domain_gets_more_than_its_share() {
    let pods = [web("1", "a1", json!({})), web("new", "", json!({}))];
    assert_eq!(choices(&zones(), &pods, "new"), ["b1", "b2"]);
    let wide = [web("1", "a1", json!({})), web("new", "", json!({"maxSkew": 2}))];
    assert_eq!(choices(&zones(), &wide, "new").len(), 4);
    let mut nodes = zones();
    nodes.push(labelled("c1", json!({})));
    for node in &mut nodes[2..4] {
        node["spec"]["unschedulable"] = json!(true);
    }
    // The zone where nothing may go counts: its taint is not looked at.
    assert_none(
        &place(&world(&nodes, &pods), "new"),
        "0/5 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         2 node(s) didn't match pod topology spread constraints, 2 node(s) were unschedulable. preemption: 0/5 nodes are \
         available: 2 No preemption victims found for incoming pod, 3 Preemption is not helpful for scheduling.",
    );
}

#[test]
fn pods_that_are_going_do_not_count_and_neither_do_others() {
    let mut going = web("1", "a1", json!({}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let other = app("2", "db", "a1", json!({}));
    assert_eq!(choices(&zones(), &[going, other, web("new", "", json!({}))], "new").len(), 4);
}

#[test]
fn with_too_few_domains_the_emptiest_counts_as_empty() {
    let pods = |more: Value| [web("1", "a1", json!({})), web("2", "b1", json!({})), web("new", "", more)];
    assert_eq!(choices(&zones(), &pods(json!({"minDomains": 2})), "new").len(), 4);
    assert!(matches!(place(&world(&zones(), &pods(json!({"minDomains": 3}))), "new"), Verdict::None(_)));
}

#[test]
fn policies_say_which_nodes_count() {
    // Zone b is empty, and the pod may not go there.
    let in_a = json!({"zone": "a"});
    let pods = |more: Value| {
        let mut new = web("new", "", more);
        new["spec"]["nodeSelector"] = in_a.clone();
        [web("1", "a1", json!({})), new]
    };
    assert_eq!(choices(&zones(), &pods(json!({})), "new"), ["a1", "a2"]);
    let ignored = pods(json!({"nodeAffinityPolicy": "Ignore"}));
    assert!(matches!(place(&world(&zones(), &ignored), "new"), Verdict::None(_)));
    let mut nodes = zones();
    for node in &mut nodes[2..] {
        node["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
    }
    let pods = |more: Value| [web("1", "a1", json!({})), web("new", "", more)];
    assert!(matches!(place(&world(&nodes, &pods(json!({}))), "new"), Verdict::None(_)));
    assert_eq!(choices(&nodes, &pods(json!({"nodeTaintsPolicy": "Honor"})), "new"), ["a1", "a2"]);
}

#[test]
fn keys_of_labels_count_each_revision_alone() {
    let revision = |mut pod: Value, revision: &str| {
        pod["metadata"]["labels"]["revision"] = json!(revision);
        pod
    };
    let new = |more: Value| [revision(web("1", "a1", json!({})), "1"), revision(web("new", "", more), "2")];
    assert_eq!(choices(&zones(), &new(json!({})), "new"), ["b1", "b2"]);
    assert_eq!(choices(&zones(), &new(json!({"matchLabelKeys": ["revision"]})), "new").len(), 4);
}

#[test]
fn a_constraint_that_need_not_hold_only_prefers() {
    let anyway = json!({"whenUnsatisfiable": "ScheduleAnyway"});
    let pods = [web("1", "a1", json!({})), web("2", "a2", json!({})), web("new", "", anyway)];
    assert!(matches!(place(&world(&zones(), &pods), "new"), Verdict::Node(n) if n.starts_with('b')));
    assert_eq!(choices(&zones(), &pods, "new").len(), 4);
}
