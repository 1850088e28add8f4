//! StatefulSets: what is refused, in upstream's words, and what may change.

use serde_json::{Value, json};

use super::said;
use crate::catalogue::STATEFUL_SETS;
use crate::defaults;
use crate::validate::update;

fn set(spec: &Value) -> Value {
    let mut set = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}, "serviceName": "web",
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    set
}

#[test]
fn defaults_are_those_of_kube_apiserver() {
    let mut object = set(&json!({}));
    defaults::apply(&STATEFUL_SETS, &mut object);
    let spec = &object["spec"];
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}});
    assert_eq!(spec["updateStrategy"], rolling);
    assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
    assert_eq!(spec["podManagementPolicy"], "OrderedReady");
    let retain = json!({"whenDeleted": "Retain", "whenScaled": "Retain"});
    assert_eq!(spec["persistentVolumeClaimRetentionPolicy"], retain);
    let mut named = set(&json!({"updateStrategy": {"type": "RollingUpdate"}}));
    defaults::apply(&STATEFUL_SETS, &mut named);
    assert_eq!(named["spec"]["updateStrategy"], json!({"type": "RollingUpdate"}));
}

#[test]
fn bad_ones_are_explained() {
    let rolling =
        |fields: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": fields}});
    let cases = [
        (json!({}), vec![]),
        (
            json!({"podManagementPolicy": "Random"}),
            vec!["spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'"],
        ),
        (
            json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
            vec![
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
            ],
        ),
        (
            json!({"updateStrategy": {"type": "Recreate"}}),
            vec![
                "spec.updateStrategy: Invalid value: {\"type\":\"Recreate\"}: must be 'RollingUpdate' or 'OnDelete'",
            ],
        ),
        (
            rolling(json!({"partition": -1})),
            vec![
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (
            rolling(json!({"maxUnavailable": 0})),
            vec!["spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0"],
        ),
        (rolling(json!({"maxUnavailable": "50%"})), vec![]),
        (
            json!({"ordinals": {"start": -1}, "replicas": -1, "minReadySeconds": -1, "revisionHistoryLimit": -1}),
            vec![
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
                "spec.revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (
            json!({"selector": {}}),
            vec!["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"],
        ),
        (
            json!({"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Keep"}}),
            vec![
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \"Retain\", \"Delete\"",
            ],
        ),
        (
            json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}),
            vec!["spec.volumeClaimTemplates[0].spec.resources[storage]: Required value"],
        ),
    ];
    for (spec, wanted) in cases {
        similar_asserts::assert_eq!(said(&STATEFUL_SETS, set(&spec)), wanted, "{spec}");
    }
    let mut named = set(&json!({}));
    named["metadata"]["name"] = json!("web.example");
    assert!(said(&STATEFUL_SETS, named)[0].starts_with("metadata.name: Invalid value: \"web.example\""));
}

#[test]
fn a_set_changes_in_what_upstream_lets_change() {
    let mut old = set(&json!({}));
    defaults::apply(&STATEFUL_SETS, &mut old);
    let with = |field: &str, value: Value| {
        let mut new = old.clone();
        new["spec"][field] = value;
        new
    };
    for (field, value) in [
        ("replicas", json!(3)),
        ("minReadySeconds", json!(3)),
        ("ordinals", json!({"start": 3})),
        ("revisionHistoryLimit", json!(3)),
        ("updateStrategy", json!({"type": "OnDelete"})),
        ("persistentVolumeClaimRetentionPolicy", json!({"whenDeleted": "Delete", "whenScaled": "Retain"})),
        ("volumeClaimTemplates", Value::Null),
    ] {
        assert!(update(&STATEFUL_SETS, &old, &with(field, value)).is_empty(), "{field}");
    }
    for (field, value) in [("serviceName", json!("other")), ("podManagementPolicy", json!("Parallel"))] {
        let causes = update(&STATEFUL_SETS, &old, &with(field, value));
        let said: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        assert_eq!(
            said,
            [
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are \
                 forbidden"
            ],
            "{field}"
        );
    }
}

#[test]
fn containers_mount_the_claims_of_the_templates() {
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    let mut object = set(&json!({"volumeClaimTemplates": [claim]}));
    let mount = |name: &str| json!([{"name": name, "mountPath": "/data"}]);
    object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mount("data");
    assert_eq!(said(&STATEFUL_SETS, object.clone()), [""; 0]);
    object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = mount("other");
    let field = "spec.template.spec.containers[0].volumeMounts[0].name";
    assert_eq!(said(&STATEFUL_SETS, object.clone()), [format!("{field}: Not found: \"other\"")]);
    defaults::apply(&STATEFUL_SETS, &mut object);
    let template = &object["spec"]["volumeClaimTemplates"][0];
    assert_eq!(
        (&template["kind"], &template["status"]),
        (&json!("PersistentVolumeClaim"), &json!({"phase": "Pending"}))
    );
    assert_eq!(template["spec"]["volumeMode"], "Filesystem");
}
