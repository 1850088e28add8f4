//! Both ways of every version.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{field, from_stored, to_stored};
use crate::catalogue::{
    CRON_JOBS_V1BETA1, ENDPOINT_SLICES_V1BETA1, EVENTS_V1, HORIZONTAL_POD_AUTOSCALERS_V1, Kind,
    POD_DISRUPTION_BUDGETS_V1BETA1, PODS, VERSIONS,
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

#[test]
fn an_autoscaler_of_the_first_version_keeps_what_it_has_no_fields_for_in_annotations() {
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 90}}});
    let rate = json!({"type": "Pods", "pods": {"metric": {"name": "rate", "selector": {"matchLabels": {"a": "b"}}},
        "target": {"type": "AverageValue", "averageValue": "5"}}});
    let object = json!({"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "main"},
        "metric": {"name": "rate"}, "target": {"type": "Value", "value": "7"}}});
    let external = json!({"type": "External", "external": {"metric": {"name": "q", "selector": {}},
        "target": {"type": "AverageValue", "averageValue": "3"}}});
    let memory = json!({"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
        "target": {"type": "AverageValue", "averageValue": "1Mi"}}});
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 60}});
    let current = json!([{"type": "Resource", "resource": {"name": "cpu",
        "current": {"averageUtilization": 12, "averageValue": "12m"}}}]);
    let conditions = json!([{"type": "AbleToScale", "status": "True"}]);
    let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"minReplicas": 1, "maxReplicas": 9, "metrics": [cpu, rate, object, external, memory], "behavior": behavior},
        "status": {"currentReplicas": 2, "currentMetrics": current, "conditions": conditions}});
    let v1 = shown(&HORIZONTAL_POD_AUTOSCALERS_V1, v2.clone());
    assert_eq!(v1["spec"], json!({"minReplicas": 1, "maxReplicas": 9, "targetCPUUtilizationPercentage": 90}));
    assert_eq!(v1["status"], json!({"currentReplicas": 2, "currentCPUUtilizationPercentage": 12}));
    let note = |name: &str| {
        let text = v1["metadata"]["annotations"][format!("autoscaling.alpha.kubernetes.io/{name}")]
            .as_str()
            .unwrap();
        serde_json::from_str::<Value>(text).unwrap()
    };
    assert_eq!(
        note("metrics"),
        json!([
            {"type": "Pods", "pods": {"metricName": "rate", "selector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "5"}},
            {"type": "Object", "object": {"target": {"kind": "Ingress", "name": "main"}, "metricName": "rate", "targetValue": "7"}},
            {"type": "External", "external": {"metricName": "q", "metricSelector": {}, "targetAverageValue": "3"}},
            {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c", "targetAverageValue": "1Mi"}},
        ])
    );
    assert_eq!((note("behavior"), note("conditions")), (behavior, conditions));
    let current = json!([{"type": "Resource", "resource": {"name": "cpu", "currentAverageUtilization": 12, "currentAverageValue": "12m"}}]);
    assert_eq!(note("current-metrics"), current);
    assert_eq!(stored(&HORIZONTAL_POD_AUTOSCALERS_V1, v1), v2);
    let broken =
        json!({"metadata": {"annotations": {"autoscaling.alpha.kubernetes.io/metrics": "{"}}, "spec": {}});
    assert_eq!(stored(&HORIZONTAL_POD_AUTOSCALERS_V1, broken)["spec"], json!({}));
}
