//! What is refused of affinity, topology spread, gates and added resources.

use serde_json::{Value, json};

use super::super::update;
use super::{pod, said};
use crate::catalogue::PODS;
use crate::defaults;

fn with(more: Value) -> Vec<String> {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    said(&PODS, pod(spec))
}

#[test]
fn affinity_of_pods_is_honoured_and_explained() {
    let term =
        json!({"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "zone", "namespaceSelector": {}});
    let good = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": [term],
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}],
    });
    assert_eq!(with(json!({"affinity": {"podAffinity": good, "podAntiAffinity": good}})), [""; 0]);
    let bad = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"matchLabelKeys": ["k"], "namespaces": ["N"]},
            {"topologyKey": "a b", "labelSelector": {"matchExpressions": [{"key": "k", "operator": "Gt"}]}},
        ],
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "podAffinityTerm": term}],
    });
    let said = with(json!({"affinity": {"podAffinity": bad}}));
    let path = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution";
    for wanted in [
        format!("{path}[0].topologyKey: Required value: can not be empty"),
        format!("{path}[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"),
        "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100".to_owned(),
    ] {
        assert!(said.contains(&wanted), "{wanted} in {said:?}");
    }
    for field in ["[0].namespaces[0]", "[1].topologyKey", "[1].labelSelector"] {
        assert!(
            said.iter().any(|line| line.starts_with(&format!("{path}{field}: Invalid value"))),
            "{field} in {said:?}"
        );
    }
    assert_eq!(said.len(), 6, "{said:?}");
    let preferred = |preference: Value| {
        let term = json!([{"weight": 1, "preference": preference}]);
        with(json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": term}}}))
    };
    assert_eq!(preferred(json!({"matchExpressions": [{"key": "k", "operator": "Exists"}]})), [""; 0]);
    let said = preferred(json!({"matchExpressions": [{"key": "k", "operator": "Like"}]}));
    let field = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]";
    assert!(said.len() == 1 && said[0].starts_with(&format!("{field}: Invalid value")), "{said:?}");
}

#[test]
fn topology_spread_is_honoured_and_explained() {
    let good = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2,
        "labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["k"], "nodeTaintsPolicy": "Honor"});
    assert_eq!(with(json!({"topologySpreadConstraints": [good]})), [""; 0]);
    let bad = json!({"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 0, "nodeAffinityPolicy": "x"});
    let path = "spec.topologySpreadConstraints";
    assert_eq!(
        with(json!({"topologySpreadConstraints": [bad, good, good]})),
        [
            format!("{path}[0].maxSkew: Invalid value: 0: must be greater than zero"),
            format!("{path}[0].topologyKey: Required value: can not be empty"),
            format!("{path}[0].minDomains: Invalid value: 0: must be greater than zero"),
            format!(
                "{path}[0].minDomains: Invalid value: 0: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"
            ),
            format!(
                "{path}[0].nodeAffinityPolicy: Unsupported value: \"x\": supported values: \"Honor\", \"Ignore\""
            ),
            format!(
                "{path}[2].{{topologyKey, whenUnsatisfiable}}: Duplicate value: \"{{zone, DoNotSchedule}}\""
            ),
        ]
    );
}

#[test]
fn gates_hold_a_pod_back_and_only_open() {
    assert_eq!(with(json!({"schedulingGates": [{"name": "example.com/a"}, {"name": "b"}]})), [""; 0]);
    assert_eq!(
        with(json!({"schedulingGates": [{"name": "a"}, {"name": "a"}], "nodeName": "n"})),
        [
            "spec.schedulingGates[1].name: Duplicate value: \"a\"",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ]
    );
    let gated = |gates: Value| {
        let spec = json!({"schedulingGates": gates, "containers": [{"name": "c", "image": "i"}]});
        let mut pod = pod(spec);
        defaults::apply(&PODS, &mut pod);
        pod
    };
    let both = gated(json!([{"name": "a"}, {"name": "b"}]));
    let told = |old: &Value, new: &Value| -> Vec<String> {
        update(&PODS, old, new).into_iter().map(|c| c.message).collect()
    };
    for fewer in [json!([{"name": "b"}]), json!([]), Value::Null] {
        assert_eq!(told(&both, &gated(fewer)), [""; 0]);
    }
    let other = told(&both, &gated(json!([{"name": "a"}, {"name": "c"}])));
    assert_eq!(other, ["Forbidden: only deletion is allowed, but found new scheduling gate 'c'"]);
    let mut free = both.clone();
    free["spec"].as_object_mut().unwrap().shift_remove("schedulingGates");
    assert_eq!(told(&both, &free), [""; 0]);
}

#[test]
fn resources_that_somebody_adds_to_nodes_are_whole_and_promised_once() {
    let of = |requests: Value, limits: Value| {
        with(
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": requests, "limits": limits}}]}),
        )
    };
    assert_eq!(of(json!({}), json!({"example.com/foo": "2"})), [""; 0], "the request follows the limit");
    assert_eq!(
        of(json!({"example.com/foo": "1"}), json!({})),
        [
            "spec.containers[0].resources.limits[example.com/foo]: Required value: Limit must be set for non overcommitable resources"
        ]
    );
    let unequal = of(json!({"example.com/foo": "1"}), json!({"example.com/foo": "2"}));
    assert!(unequal[0].ends_with("must be equal to example.com/foo limit of 2"), "{unequal:?}");
    let part = of(json!({}), json!({"example.com/foo": "500m"}));
    assert!(part.iter().all(|line| line.ends_with("must be an integer")) && !part.is_empty(), "{part:?}");
    assert!(of(json!({}), json!({"hugepages-2Mi": "2Mi"}))[0].contains("is not supported"));
}
