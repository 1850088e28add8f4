//! Pods that go for more important ones.

use serde_json::{Value, json};

use super::super::{Verdict, Victims};
use super::{app, assert_none, node, place, world};

fn pod(name: &str, on: &str, cpu: &str, priority: i64) -> Value {
    let containers = json!([{"resources": {"requests": {"cpu": cpu}}}]);
    app(name, name, on, json!({"containers": containers, "priority": priority}))
}

fn victims(verdict: Verdict) -> (String, Vec<String>) {
    let Verdict::Preempt(Victims { node, pods }, _) = verdict else { panic!("{verdict:?}") };
    (node, pods.into_iter().map(|(_, name)| name).collect())
}

#[test]
fn the_least_important_pods_go_and_no_more_than_must() {
    let nodes = [node("n1", "1", json!({})), node("n2", "1", json!({}))];
    let there = [
        pod("a", "n1", "400m", 1),
        pod("b", "n1", "400m", 2),
        pod("c", "n2", "500m", 3),
        pod("d", "n2", "500m", 1),
    ];
    let with = |new: Value| place(&world(&nodes, &[&there[..], &[new]].concat()), "new");
    let verdict = with(pod("new", "", "500m", 5));
    let Verdict::Preempt(_, why) = &verdict else { panic!("{verdict:?}") };
    assert_eq!(why, "0/2 nodes are available: 2 Insufficient cpu.");
    // On either node one pod of priority 1 goes; the first is as good as the second.
    let (on, gone) = victims(verdict);
    assert!((on.as_str(), gone[0].as_str()) == ("n1", "a") || (on.as_str(), gone[0].as_str()) == ("n2", "d"));
    assert_eq!(gone.len(), 1);
    assert_eq!(
        victims(with(pod("new", "", "900m", 5))),
        ("n1".to_owned(), vec!["b".to_owned(), "a".to_owned()])
    );
    assert_none(
        &with(pod("new", "", "500m", 1)),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
         2 No preemption victims found for incoming pod.",
    );
    assert_none(
        &with(pod("new", "", "1", 2)),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Insufficient cpu.",
    );
    let mut polite = pod("new", "", "500m", 5);
    polite["spec"]["preemptionPolicy"] = json!("Never");
    assert_none(
        &with(polite),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
    );
}

#[test]
fn who_has_been_promised_a_node_waits_for_it_and_gets_it() {
    let nodes = [node("n1", "1", json!({}))];
    let mut going = pod("a", "n1", "800m", 1);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut promised = pod("new", "", "800m", 5);
    promised["status"]["nominatedNodeName"] = json!("n1");
    let waiting = [going, promised.clone()];
    assert_none(
        &place(&world(&nodes, &waiting), "new"),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to a terminating pod on the nominated node.",
    );
    // Who is less important does not come in between.
    let pods = [promised, pod("sly", "", "800m", 4), pod("boss", "", "800m", 6)];
    let world = world(&nodes, &pods);
    assert_eq!(place(&world, "new"), Verdict::Node("n1".into()));
    assert!(matches!(place(&world, "sly"), Verdict::None(_)));
    assert_eq!(place(&world, "boss"), Verdict::Node("n1".into()));
}

#[test]
fn pods_that_keep_the_important_one_away_go() {
    let nodes = [node("n1", "1", json!({}))];
    let term =
        json!({"labelSelector": {"matchLabels": {"app": "new"}}, "topologyKey": "kubernetes.io/hostname"});
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let mut loner = pod("loner", "n1", "1m", 1);
    loner["spec"]["affinity"] = apart;
    let pods = [loner, pod("bystander", "n1", "1m", 1), pod("new", "", "1m", 5)];
    assert_eq!(victims(place(&world(&nodes, &pods), "new")), ("n1".to_owned(), vec!["loner".to_owned()]));
}
