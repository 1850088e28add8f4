//! Tests of the table's lookups, checks, pruning and patch facts; the decoder's are in `tests/protobuf.rs`.

use serde_json::{Value, json};

use super::*;

fn schema() -> &'static Schema {
    Schema::builtin()
}

fn kind(api_version: &str, kind: &str) -> MessageRef {
    schema().kind_of(api_version, kind).unwrap_or_else(|| panic!("{api_version} {kind}"))
}

fn unknown(api_version: &str, name: &str, object: &Value) -> Vec<String> {
    schema().check(kind(api_version, name), object).unknown
}

fn wrong(api_version: &str, name: &str, object: &Value) -> Vec<String> {
    let report = schema().check(kind(api_version, name), object);
    report.wrong_type.into_iter().map(|wrong| wrong.message).collect()
}

#[test]
fn every_line_of_the_table_is_understood() {
    let text = include_str!("table.txt");
    let fields = text.lines().filter(|line| line.starts_with(' ')).count();
    let messages =
        text.lines().filter(|line| !line.starts_with([' ', '#']) && !line.starts_with("package ")).count();
    assert_eq!(schema().fields.len(), fields);
    assert_eq!(schema().messages.len(), messages);
    assert!(messages > 700 && fields > 2500, "{messages} messages, {fields} fields");
    assert!(text.len() < 300_000);
}

#[test]
fn kinds_are_found_by_group_and_version() {
    for (api_version, name, definition) in [
        ("v1", "Pod", "io.k8s.api.core.v1.Pod"),
        ("apps/v1", "Deployment", "io.k8s.api.apps.v1.Deployment"),
        ("coordination.k8s.io/v1", "Lease", "io.k8s.api.coordination.v1.Lease"),
        ("discovery.k8s.io/v1", "EndpointSlice", "io.k8s.api.discovery.v1.EndpointSlice"),
        ("events.k8s.io/v1", "Event", "io.k8s.api.events.v1.Event"),
        ("autoscaling/v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
        ("policy/v1", "Eviction", "io.k8s.api.policy.v1.Eviction"),
        ("policy/v1beta1", "Eviction", "io.k8s.api.policy.v1beta1.Eviction"),
        ("batch/v1beta1", "CronJob", "io.k8s.api.batch.v1beta1.CronJob"),
        ("authentication.k8s.io/v1", "TokenReview", "io.k8s.api.authentication.v1.TokenReview"),
        (
            "authorization.k8s.io/v1",
            "SelfSubjectAccessReview",
            "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        ),
        ("rbac.authorization.k8s.io/v1", "Role", "io.k8s.api.rbac.v1.Role"),
        (
            "apiextensions.k8s.io/v1",
            "CustomResourceDefinition",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        ),
        ("v1", "PodList", "io.k8s.api.core.v1.PodList"),
        ("v1", "List", "io.k8s.apimachinery.pkg.apis.meta.v1.List"),
        ("v1", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
        ("meta.k8s.io/v1", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status"),
        ("apps/v1", "DeleteOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
        ("v1", "ListOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.ListOptions"),
    ] {
        assert_eq!(schema().message(kind(api_version, name)).definition(), definition);
    }
}

#[test]
fn everything_that_the_catalogue_serves_is_in_the_table() {
    for row in crate::catalogue::KINDS.iter().chain(crate::catalogue::VERSIONS) {
        kind(&row.api_version(), row.kind);
        kind(&row.api_version(), &row.list_kind());
        for sub in row.subresources {
            if sub.kind.ends_with("Options") {
                // The query of a connection, never a body.
                continue;
            }
            let (group, version) = sub.group_version.unwrap_or((row.group, row.version));
            assert!(schema().kind(group, version, sub.kind).is_some(), "{}/{}", row.plural, sub.name);
        }
    }
}

#[test]
fn parts_of_kinds_and_foreign_versions_are_no_kinds() {
    assert_eq!(schema().kind("", "v1", "PodSpec"), None);
    assert_eq!(schema().kind("apps", "v1", "Pod"), None);
    assert_eq!(schema().kind("apps", "v1", "Status"), None);
    assert_eq!(schema().kind("apps", "v2", "Deployment"), None);
    assert_eq!(schema().kind("meta.k8s.io", "v1", "Pod"), None);
}

#[test]
fn known_fields_are_known() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": null},
        "spec": {
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 1},
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}],
            "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "m", "defaultMode": 420}}],
            "restartPolicy": null
        },
        "status": {"startTime": "2024-01-01T00:00:00Z"}
    });
    assert_eq!(schema().check(kind("v1", "Pod"), &pod), Report::default());
}

#[test]
fn unknown_fields_are_named_by_their_path() {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "foo": 1,
        "spec": {"replica": 1, "template": {"spec": {"containers": [{"name": "a"}, {"name": "b", "imagee": "x"}],
            "volumes": [{"name": "v", "volumeSource": {}}]}}}
    });
    let expected = [
        "foo",
        "spec.replica",
        "spec.template.spec.containers[1].imagee",
        "spec.template.spec.volumes[0].volumeSource",
    ];
    assert_eq!(unknown("apps/v1", "Deployment", &object), expected);
    let findings = schema().check(kind("apps/v1", "Deployment"), &object).findings();
    assert_eq!(
        strict_error(&findings[..2]),
        r#"strict decoding error: unknown field "foo", unknown field "spec.replica""#
    );
}

#[test]
fn wrong_types_read_as_go_says_it() {
    let object = json!({"spec": {"replicas": "two", "paused": 1, "template": {"spec": {"containers": {}, "volumes": [{"name": 5}]}}}});
    let report = schema().check(kind("apps/v1", "Deployment"), &object);
    assert_eq!(
        report.bad_request("v1", "Deployment").unwrap(),
        "Deployment in version \"v1\" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct \
         field DeploymentSpec.spec.replicas of type int32"
    );
    let messages: Vec<_> =
        report.wrong_type.iter().map(|wrong| (wrong.path.as_str(), wrong.message.as_str())).collect();
    assert_eq!(
        messages[1..],
        [
            (
                "spec.paused",
                "json: cannot unmarshal number into Go struct field DeploymentSpec.spec.paused of type bool"
            ),
            (
                "spec.template.spec.containers",
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container"
            ),
            (
                "spec.template.spec.volumes[0].name",
                "json: cannot unmarshal number into Go struct field Volume.spec.template.spec.volumes.name of type string"
            ),
        ]
    );
}

#[test]
fn numbers_must_fit_their_type() {
    let message =
        "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32";
    assert_eq!(wrong("apps/v1", "Deployment", &json!({"spec": {"replicas": 1.5}})), [message]);
    assert_eq!(wrong("apps/v1", "Deployment", &json!({"spec": {"replicas": 2_147_483_648_u64}})).len(), 1);
    assert_eq!(wrong("v1", "Pod", &json!({"spec": {"activeDeadlineSeconds": 2_147_483_648_u64}})).len(), 0);
    assert_eq!(wrong("v1", "Pod", &json!({"spec": {"activeDeadlineSeconds": u64::MAX}})).len(), 1);
}

#[test]
fn special_scalars_have_their_own_grammar() {
    let labels = json!({"metadata": {"labels": {"a": 1}}});
    let message =
        "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string";
    assert_eq!(wrong("v1", "Pod", &labels), [message]);
    assert_eq!(wrong("v1", "Pod", &json!({"metadata": {"creationTimestamp": "yesterday"}})).len(), 1);
    assert_eq!(
        wrong("v1", "Service", &json!({"spec": {"ports": [{"port": 1, "targetPort": true}]}})).len(),
        1
    );
    assert_eq!(
        wrong("v1", "Service", &json!({"spec": {"ports": [{"port": 1, "targetPort": "http"}]}})).len(),
        0
    );
    assert_eq!(wrong("v1", "Secret", &json!({"data": {"a": 5}})).len(), 1);
    let limits = json!({"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "lots"}}}]}});
    assert!(wrong("v1", "Pod", &limits)[0].starts_with("quantities must match the regular expression"));
}

#[test]
fn an_object_must_be_an_object() {
    let report = schema().check(kind("v1", "Pod"), &json!([]));
    assert_eq!(report.wrong_type[0].message, "json: cannot unmarshal array into Go value of type v1.Pod");
}

#[test]
fn schemas_of_crds_are_checked_at_every_depth() {
    let crd = |schema: Value| json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
    let good = crd(
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"items": {"type": "string"}, "default": [1, {"b": 2}],
        "additionalProperties": false, "dependencies": {"x": ["y"], "z": {"type": "string"}}, "$ref": "r"}}}),
    );
    assert_eq!(
        schema().check(kind("apiextensions.k8s.io/v1", "CustomResourceDefinition"), &good),
        Report::default()
    );
    let bad = crd(json!({"properties": {"a": {"items": {"tipe": "string"}}}}));
    assert_eq!(
        unknown("apiextensions.k8s.io/v1", "CustomResourceDefinition", &bad),
        ["spec.versions[0].schema.openAPIV3Schema.properties.a.items.tipe"]
    );
}

#[test]
fn pruning_drops_unknown_fields_and_nulls_but_no_raw_json() {
    let mut object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"creationTimestamp": null, "labels": {"a": null}, "x": 1},
        "spec": {"containers": [{"name": "a", "y": {}, "args": [null]}]}, "z": null});
    schema().prune(kind("v1", "Pod"), &mut object);
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": ""}},
            "spec": {"containers": [{"name": "a", "args": [""]}]}})
    );
    let mut list = json!({"kind": "List", "items": [{"anything": null}]});
    schema().prune(kind("v1", "List"), &mut list);
    assert_eq!(list, json!({"kind": "List", "items": [{"anything": null}]}));
}

#[test]
fn quantities_are_kept_as_their_canonical_texts_whether_text_or_number() {
    let pod = |amounts: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "resources": {"requests": amounts}}]}});
    let mut object =
        pod(json!({"cpu": 2, "memory": "1024Mi", "a/b": 0.5, "a/c": "1000m", "a/d": 1e3, "a/e": null}));
    assert_eq!(schema().check(kind("v1", "Pod"), &object), Report::default());
    schema().prune(kind("v1", "Pod"), &mut object);
    assert_eq!(
        object,
        pod(json!({"cpu": "2", "memory": "1Gi", "a/b": "500m", "a/c": "1", "a/d": "1k", "a/e": "0"}))
    );
    let report = schema().check(kind("v1", "Pod"), &pod(json!({"cpu": 1e300})));
    assert_eq!(report.wrong_type.len(), 1);
}

#[test]
fn bytes_are_refused_in_gos_words_and_kept_as_it_writes_them() {
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "aGk\n=", "b": null}});
    assert_eq!(schema().check(kind("v1", "Secret"), &secret), Report::default());
    schema().prune(kind("v1", "Secret"), &mut secret);
    assert_eq!(secret["data"], json!({"a": "aGk=", "b": ""}));
    let report = schema().check(kind("v1", "Secret"), &json!({"data": {"a": "hi there"}}));
    assert_eq!(
        report.bad_request("v1", "Secret").unwrap(),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 2"
    );
}

/// Walks `path` from a kind and returns the patch facts of its last field.
fn facts(api_version: &str, name: &str, path: &str) -> (PatchMeta, &'static Field) {
    let mut message = kind(api_version, name);
    let mut last = None;
    for step in path.split('.') {
        let field = schema().field(message, step).unwrap_or_else(|| panic!("{path}: {step}"));
        last = Some(field);
        if let Some(next) = field.message() {
            message = next;
        }
    }
    let field = last.unwrap();
    (field.patch_meta(), field)
}

#[test]
fn lists_merge_by_the_keys_of_upstream() {
    for (path, key) in [
        ("spec.containers", "name"),
        ("spec.initContainers", "name"),
        ("spec.ephemeralContainers", "name"),
        ("spec.ephemeralContainers.env", "name"),
        ("spec.ephemeralContainers.volumeMounts", "mountPath"),
        ("spec.containers.ports", "containerPort"),
        ("spec.containers.env", "name"),
        ("spec.containers.volumeMounts", "mountPath"),
        ("spec.containers.volumeDevices", "devicePath"),
        ("spec.volumes", "name"),
        ("spec.imagePullSecrets", "name"),
        ("spec.hostAliases", "ip"),
        ("spec.topologySpreadConstraints", "topologyKey"),
        ("spec.schedulingGates", "name"),
        ("metadata.ownerReferences", "uid"),
        ("status.conditions", "type"),
        ("status.podIPs", "ip"),
    ] {
        let (meta, _) = facts("v1", "Pod", path);
        assert!(meta.merge && meta.merge_key == Some(key) && meta.message.is_some(), "{path}: {meta:?}");
    }
    assert_eq!(facts("v1", "Service", "spec.ports").0.merge_key, Some("port"));
    assert_eq!(facts("v1", "ServiceAccount", "secrets").0.merge_key, Some("name"));
    assert_eq!(facts("v1", "Node", "status.addresses").0.merge_key, Some("type"));
    assert_eq!(facts("apps/v1", "Deployment", "status.conditions").0.merge_key, Some("type"));
}

#[test]
fn other_lists_are_replaced() {
    for path in
        ["spec.tolerations", "spec.containers.args", "spec.containers.envFrom", "metadata.managedFields"]
    {
        let (meta, _) = facts("v1", "Pod", path);
        assert!(!meta.merge && meta.merge_key.is_none(), "{path}: {meta:?}");
    }
    assert!(!facts("v1", "Endpoints", "subsets").0.merge);
    assert!(!facts("discovery.k8s.io/v1", "EndpointSlice", "endpoints").0.merge);
}

#[test]
fn strategies_without_key_are_known() {
    let (finalizers, field) = facts("v1", "Pod", "metadata.finalizers");
    assert!(finalizers.merge && finalizers.merge_key.is_none() && finalizers.message.is_none());
    assert_eq!(field.list_type(), Some("set"));
    assert!(facts("v1", "Node", "spec.podCIDRs").0.merge);
    let (strategy, _) = facts("apps/v1", "Deployment", "spec.strategy");
    assert!(strategy.retain_keys && !strategy.merge);
    let (volumes, _) = facts("v1", "Pod", "spec.volumes");
    assert!(volumes.retain_keys && volumes.merge);
    assert!(facts("policy/v1", "PodDisruptionBudget", "spec.selector").0.replace);
}

#[test]
fn server_side_apply_facts_are_apart_from_patch_facts() {
    let keys = |path| facts("v1", "Pod", path).1.list_map_keys().collect::<Vec<_>>();
    assert_eq!(keys("spec.containers"), ["name"]);
    assert_eq!(keys("spec.containers.ports"), ["containerPort", "protocol"]);
    assert_eq!(keys("spec.topologySpreadConstraints"), ["topologyKey", "whenUnsatisfiable"]);
    assert!(keys("spec.tolerations").is_empty());
    assert_eq!(
        facts("v1", "Service", "spec.ports").1.list_map_keys().collect::<Vec<_>>(),
        ["port", "protocol"]
    );
    assert_eq!(facts("v1", "Pod", "status.hostIPs").1.list_type(), Some("atomic"));
    assert!(facts("v1", "Service", "spec.selector").1.atomic_map());
    assert!(!facts("v1", "Pod", "metadata.labels").1.atomic_map());
    let selector = facts("apps/v1", "Deployment", "spec.selector").1.message().unwrap();
    assert!(schema().message(selector).atomic);
}

#[test]
fn names_that_camel_case_would_miss_are_right() {
    for (api_version, name, path) in [
        ("v1", "Service", "spec.clusterIP"),
        ("v1", "Service", "spec.externalIPs"),
        ("v1", "Node", "spec.podCIDRs"),
        ("v1", "Node", "spec.providerID"),
        ("v1", "Node", "status.nodeInfo.bootID"),
        ("v1", "Node", "status.daemonEndpoints.kubeletEndpoint.Port"),
        ("v1", "Pod", "status.hostIP"),
        ("v1", "Pod", "status.podIPs"),
        ("v1", "Pod", "spec.setHostnameAsFQDN"),
        ("v1", "Pod", "spec.volumes.awsElasticBlockStore.volumeID"),
        ("v1", "PersistentVolume", "spec.csi.fsType"),
    ] {
        facts(api_version, name, path);
    }
}

#[test]
fn findings_stay_small_whatever_the_body_holds() {
    let fields = |value: Value| (0..1_000).map(|n| (format!("x{n}"), value.clone())).collect::<Value>();
    assert_eq!(unknown("v1", "Pod", &fields(json!(1))).len(), 100);
    let key = "k".repeat(100_000);
    let crd = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {key: fields(json!(1))}}}}]}});
    let found = unknown("apiextensions.k8s.io/v1", "CustomResourceDefinition", &crd);
    assert!(found.len() == 100 && found.iter().all(|path| path.len() <= 500));
    let late = wrong("v1", "Pod", &json!({"metadata": {"creationTimestamp": "é".repeat(100_000)}}));
    assert!(late[0].len() < 1_500, "{}", late[0].len());
}

#[test]
fn references_by_name_may_leave_the_name_out_as_upstream_allows() {
    let field = facts("v1", "Pod", "spec.containers.env.valueFrom.secretKeyRef.name").1;
    assert!(!field.required);
    assert!(facts("v1", "Pod", "spec.containers.env.valueFrom.secretKeyRef.key").1.required);
}
