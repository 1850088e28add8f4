//! Metrics that others serve: what is asked, and what comes of the answers. After upstream's replica_calculator_test and horizontal_test.

use super::*;
use crate::world::Sample;

fn sample(object: &str, value: i64) -> Sample {
    Sample { object: object.to_owned(), value, at: now(), window: 60 }
}

/// Values of pods `p0`, `p1`, ... in thousandths.
fn of_pods(values: &[i64]) -> Answer {
    Ok(values.iter().enumerate().map(|(i, value)| sample(&format!("p{i}"), *value)).collect())
}

fn pods(wanted: &str) -> Value {
    json!({"type": "Pods", "pods": {"metric": {"name": "rate"}, "target": {"type": "AverageValue", "averageValue": wanted}}})
}

fn object(target: Value) -> Value {
    json!({"type": "Object", "object": {"metric": {"name": "hits", "selector": {"matchLabels": {"verb": "GET"}}},
        "describedObject": {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "name": "main"}, "target": target}})
}

fn external(target: Value) -> Value {
    json!({"type": "External", "external": {"metric": {"name": "depth", "selector": {"matchLabels": {"queue": "jobs"}}}, "target": target}})
}

fn value(wanted: &str) -> Value {
    json!({"type": "Value", "value": wanted})
}

fn average(wanted: &str) -> Value {
    json!({"type": "AverageValue", "averageValue": wanted})
}

fn stage(replicas: i64, metrics: Value, served: Vec<(&'static str, Answer)>) -> Stage {
    let stage = Stage::new(replicas, metrics).pods(replicas, 1);
    Stage { served, ..stage }
}

#[test]
fn each_metric_is_asked_for_once_a_turn() {
    let metrics = json!([pods("5"), object(value("5")), external(average("5")), pods("7")]);
    let mut stage = stage(2, metrics, vec![("rate", of_pods(&[5000, 5000]))]);
    stage.plan();
    let asked = [
        "namespaces/d/pods/*/rate?labelSelector=app=web",
        "namespaces/d/ingresses.networking.k8s.io/main/hits?metricLabelSelector=verb=GET",
        "namespaces/d/depth?labelSelector=queue=jobs",
    ];
    assert_eq!(stage.asked, asked);
    // Its own write comes by: the same answers do.
    stage.plan();
    assert_eq!(stage.asked.len(), 3);
    stage.now = stage.now.checked_add(SignedDuration::from_secs(15)).unwrap();
    stage.plan();
    assert_eq!(stage.asked.len(), 6);
    let of_namespace = json!({"type": "Object", "object": {"metric": {"name": "hits"},
        "describedObject": {"apiVersion": "v1", "kind": "Namespace", "name": "other"}, "target": value("5")}});
    let mut stage = Stage::new(1, json!([of_namespace])).pods(1, 1);
    stage.plan();
    assert_eq!(stage.asked, ["namespaces/d/metrics/hits?"], "an autoscaler sees no namespace but its own");
    let mut outside = Stage::new(11, json!([pods("5")])).pods(11, 1);
    outside.plan();
    assert_eq!(outside.asked, Vec::<String>::new(), "nothing is asked when bounds decide");
}

#[test]
fn pods_get_company_or_leave_by_the_average_of_a_metric() {
    let run = |replicas: i64, wanted: &str, values: &[i64]| {
        let mut stage = stage(replicas, json!([pods(wanted)]), vec![("rate", of_pods(values))]);
        stage.spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
        let said = events(&stage.plan()).concat();
        let current = stage.status["currentMetrics"][0]["pods"]["current"]["averageValue"].clone();
        (stage.replicas, said, current)
    };
    let reason = "SuccessfulRescale: New size: 4; reason: pods metric rate above target".to_owned();
    assert_eq!(run(3, "15", &[20_000, 10_000, 30_000]), (4, reason, json!("20")));
    let reason = "SuccessfulRescale: New size: 3; reason: All metrics below target".to_owned();
    assert_eq!(run(5, "20", &[12_000, 12_000, 12_000, 12_000, 12_000]), (3, reason, json!("12")));
    assert_eq!(run(3, "15", &[14_000, 15_000, 16_100]).0, 3, "near enough");
    assert_eq!(run(2, "10", &[30_000]).0, 3, "who is not known does nothing: 15 of 10");
    assert_eq!(run(2, "10", &[1000]).0, 2, "who is not known does as wanted");
}

#[test]
fn an_objects_value_is_for_all_ready_pods_or_shared_by_them() {
    let run = |replicas: i64, target: Value, hits: i64| {
        let mut stage =
            stage(replicas, json!([object(target)]), vec![("hits", Ok(vec![sample("main", hits)]))]);
        stage.spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
        let said = events(&stage.plan()).concat();
        let now = &stage.status["currentMetrics"][0]["object"];
        assert_eq!(
            (&now["describedObject"]["name"], &now["metric"]["name"]),
            (&json!("main"), &json!("hits"))
        );
        (stage.replicas, said, now["current"].clone())
    };
    let why = "SuccessfulRescale: New size: 4; reason: Ingress metric hits above target".to_owned();
    assert_eq!(run(3, value("15"), 20_000), (4, why, json!({"value": "20"})));
    assert_eq!(run(5, value("20"), 12_000).0, 3);
    assert_eq!(run(3, value("20"), 20_050).0, 3);
    let why = "SuccessfulRescale: New size: 8; reason: external metric hits(&LabelSelector{MatchLabels:map[string]string{verb: \
               GET,},MatchExpressions:[]LabelSelectorRequirement{},}) above target"
        .to_owned();
    assert_eq!(run(5, average("5"), 40_000), (8, why, json!({"averageValue": "8"})));
    assert_eq!(run(5, average("8"), 40_001).0, 5, "near enough");
    assert_eq!(run(5, average("10"), 10_500).0, 2);
    // Who is not ready does not count.
    let served = vec![("hits", Ok(vec![sample("main", 30_000)]))];
    let ready = Stage::new(2, json!([object(value("10"))])).pod("a", None, State::Ready);
    let mut ready = Stage { served, ..ready.pod("b", None, State::Unready) };
    ready.plan();
    assert_eq!(ready.replicas, 3);
}

#[test]
fn something_elses_values_are_summed() {
    let run = |replicas: i64, target: Value, values: &[i64]| {
        let answer = Ok(values.iter().map(|value| sample("", *value)).collect());
        let mut stage = stage(replicas, json!([external(target)]), vec![("depth", answer)]);
        stage.spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
        stage.plan();
        (stage.replicas, stage.status["currentMetrics"][0]["external"]["current"].clone())
    };
    assert_eq!(run(3, value("6666m"), &[8600]), (4, json!({"value": "8600m"})));
    assert_eq!(run(3, average("2"), &[5000, 5000]), (5, json!({"averageValue": "3334m"})));
    assert_eq!(run(5, average("3"), &[8600]), (3, json!({"averageValue": "1720m"})));
    assert_eq!(run(5, value("14400m"), &[8600]).0, 3);
    assert_eq!(run(2, value("8"), &[8500]).0, 2);
}

#[test]
fn what_cannot_be_measured_is_said_in_upstreams_words() {
    let run = |metric: Value, answer: Answer| {
        let mut stage = stage(
            1,
            json!([metric]),
            vec![("rate", answer.clone()), ("hits", answer.clone()), ("depth", answer)],
        );
        let plan = stage.plan();
        assert!(events(&stage.plan()).is_empty(), "said once");
        (stage.said()[1].clone(), stage.message("ScalingActive"), events(&plan)[1].clone())
    };
    let unable = "the HPA was unable to compute the replica count: ";
    let all = "FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: ";
    let away = || {
        Err("the server is currently unable to handle the request (get pods.custom.metrics.k8s.io *)"
            .to_owned())
    };
    let why = "unable to get metric rate: unable to fetch metrics from custom metrics API: the server is currently unable to handle \
               the request (get pods.custom.metrics.k8s.io *)";
    let (condition, message, event) = run(pods("5"), away());
    assert_eq!(condition, "ScalingActive False FailedGetPodsMetric");
    assert_eq!(message, format!("{unable}{why}"));
    assert_eq!(event, format!("{all}failed to get pods metric value: {why}"));
    let (_, message, _) = run(pods("5"), Ok(Vec::new()));
    assert_eq!(
        message,
        format!("{unable}unable to get metric rate: no metrics returned from custom metrics API")
    );
    let two = || Ok(vec![sample("a", 1), sample("b", 2)]);
    let why = "unable to get metric hits: Ingress on d main/unable to fetch metrics from custom metrics API: the custom metrics API \
               server returned 2 results when we asked for exactly one";
    let (condition, message, event) = run(object(average("5")), two());
    assert_eq!(condition, "ScalingActive False FailedGetObjectMetric");
    assert_eq!(message, format!("{unable}{why}"));
    assert_eq!(
        event,
        format!("{all}failed to get object metric value: failed to get hits object metric: {why}")
    );
    let (condition, _, event) = run(external(value("5")), Ok(Vec::new()));
    assert_eq!(condition, "ScalingActive False FailedGetExternalMetric");
    assert!(event.ends_with("no metrics returned from external metrics API"), "{event}");
}

#[test]
fn of_metrics_that_are_known_the_highest_counts_and_an_unknown_one_keeps_what_there_is() {
    let metrics = || json!([pods("10"), external(average("5")), object(value("10"))]);
    let deep = ("depth", Ok(vec![sample("", 30_000)]));
    let mut grows = stage(3, metrics(), vec![("rate", of_pods(&[12_000, 12_000, 12_000])), deep.clone()]);
    let said = events(&grows.plan()).concat();
    assert_eq!(grows.replicas, 6, "{said}");
    assert_eq!(grows.said()[1], "ScalingActive True ValidMetricFound");
    assert!(
        grows.message("ScalingActive").contains("external metric depth("),
        "{}",
        grows.message("ScalingActive")
    );
    assert_eq!(grows.status["currentMetrics"][2], json!({"type": ""}));
    let mut shrinks = stage(8, metrics(), vec![("rate", of_pods(&[1000; 8])), deep]);
    shrinks.plan();
    assert_eq!(
        (shrinks.replicas, shrinks.said()[1].as_str()),
        (8, "ScalingActive False FailedGetObjectMetric")
    );
}
