//! Both ways of every version.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{field, from_stored, to_stored};
use crate::catalogue::{
    CRON_JOBS_V1BETA1, ENDPOINT_SLICES_V1BETA1, EVENTS_V1, Kind, POD_DISRUPTION_BUDGETS_V1BETA1, PODS,
    VERSIONS,
};
use crate::fields::is_selectable;

fn shown(kind: &Kind, mut stored: Value) -> Value {
    from_stored(kind, &mut stored);
    stored
}

fn stored(kind: &Kind, mut sent: Value) -> Value {
    to_stored(kind, &mut sent);
    sent
}

#[test]
fn an_event_has_the_names_of_its_group() {
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "involvedObject": {"name": "web"},
        "reason": "Killing", "message": "Stopping", "source": {"component": "kubelet"}, "count": 3,
        "firstTimestamp": "2026-11-27T00:00:00Z", "lastTimestamp": null, "type": "Normal", "eventTime": null,
        "reportingComponent": "kubelet", "reportingInstance": "n1",
    });
    let new = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "regarding": {"name": "web"},
        "reason": "Killing", "note": "Stopping", "deprecatedSource": {"component": "kubelet"}, "deprecatedCount": 3,
        "deprecatedFirstTimestamp": "2026-11-27T00:00:00Z", "deprecatedLastTimestamp": null, "type": "Normal",
        "eventTime": null, "reportingController": "kubelet", "reportingInstance": "n1",
    });
    similar_asserts::assert_eq!(shown(&EVENTS_V1, core.clone()), new);
    similar_asserts::assert_eq!(stored(&EVENTS_V1, new), core);
    for (selected, meant) in [
        ("regarding.name", Some("involvedObject.name")),
        ("reportingController", Some("reportingComponent")),
        ("reason", Some("reason")),
        ("involvedObject.name", None),
        ("source", None),
    ] {
        let means = field(&EVENTS_V1, selected);
        assert_eq!(means.as_deref(), meant, "{selected}");
        assert!(means.is_none_or(|means| is_selectable(EVENTS_V1.stored(), &means)), "{selected}");
    }
}

#[test]
fn the_zone_and_the_node_of_an_old_endpoint_are_topology() {
    let v1 = json!({"endpoints": [
        {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "a", "deprecatedTopology": {"rack": "7"}},
        {"addresses": ["10.0.0.2"]},
    ]});
    let old = shown(&ENDPOINT_SLICES_V1BETA1, v1.clone());
    assert_eq!(old["apiVersion"], "discovery.k8s.io/v1beta1");
    let topology = json!({"topology.kubernetes.io/zone": "a", "kubernetes.io/hostname": "n1", "rack": "7"});
    assert_eq!(old["endpoints"][0]["topology"], topology);
    assert_eq!(old["endpoints"][1], json!({"addresses": ["10.0.0.2"]}));
    assert_eq!(stored(&ENDPOINT_SLICES_V1BETA1, old)["endpoints"], v1["endpoints"]);
    let named = json!({"endpoints": [{"topology": {"kubernetes.io/hostname": "n2"}}]});
    assert_eq!(stored(&ENDPOINT_SLICES_V1BETA1, named)["endpoints"][0], json!({"nodeName": "n2"}));
}

#[test]
fn what_has_one_version_is_left_alone_and_the_others_are_named() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod"});
    assert_eq!((shown(&PODS, pod.clone()), stored(&PODS, pod.clone())), (pod.clone(), pod));
    let job = stored(&CRON_JOBS_V1BETA1, json!({"apiVersion": "batch/v1beta1", "spec": {"suspend": true}}));
    assert_eq!(job, json!({"apiVersion": "batch/v1", "spec": {"suspend": true}, "kind": "CronJob"}));
}

proptest! {
    #[test]
    fn no_object_makes_a_conversion_panic(version in 0..VERSIONS.len(), object in crate::validate::tests::any_json()) {
        let kind = VERSIONS[version];
        stored(kind, shown(kind, object));
    }
}

#[test]
fn an_empty_selector_of_the_first_budgets_stays_one_that_covers_nothing() {
    let budget = |selector: Value| json!({"spec": {"selector": selector}});
    let covers = |selector: Value| {
        let mut object = budget(selector);
        to_stored(&POD_DISRUPTION_BUDGETS_V1BETA1, &mut object);
        let pods = json!({"app": "web"});
        let covers = crate::disruption::covers(&object, pods.as_object());
        from_stored(&POD_DISRUPTION_BUDGETS_V1BETA1, &mut object);
        (covers, object["spec"]["selector"].clone())
    };
    let labels = json!({"matchLabels": {"app": "web"}});
    assert_eq!(covers(json!({})), (false, json!({})));
    assert_eq!(covers(labels.clone()), (true, labels));
    assert_eq!(covers(Value::Null), (false, Value::Null));
    let mut all = budget(json!({}));
    from_stored(&POD_DISRUPTION_BUDGETS_V1BETA1, &mut all);
    let shown = all["spec"]["selector"].clone();
    assert_eq!(covers(shown.clone()), (true, shown), "one of version 1 that covers everything");
}
