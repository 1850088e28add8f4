//! What is refused of Ingresses, classes and templates, with upstream's words.

use serde_json::{Value, json};

use super::{said, update};
use crate::catalogue::{INGRESS_CLASSES, INGRESSES, Kind, POD_TEMPLATES, PRIORITY_CLASSES, RUNTIME_CLASSES};
use crate::defaults;

fn named(mut object: Value) -> Value {
    object["metadata"]["name"] = json!("x");
    object
}

fn ingress(rule: Value) -> Value {
    named(json!({"spec": {"rules": [rule]}}))
}

fn path(path: &str, kind: &str) -> Value {
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    ingress(json!({"http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}))
}

fn backend(backend: Value) -> Value {
    named(json!({"spec": {"defaultBackend": backend}}))
}

#[test]
fn good_ones_pass_with_their_defaults() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (kind, object) in [
        (&INGRESSES, path("/a", "Prefix")),
        (&INGRESSES, backend(json!({"resource": {"apiGroup": "g", "kind": "K", "name": "n"}}))),
        (&INGRESSES, ingress(json!({"host": "*.example.com"}))),
        (
            &INGRESS_CLASSES,
            named(json!({"spec": {"controller": "example.com/c", "parameters": {"kind": "K", "name": "n"}}})),
        ),
        (&PRIORITY_CLASSES, named(json!({"value": 1000}))),
        (&PRIORITY_CLASSES, json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000})),
        (&RUNTIME_CLASSES, named(json!({"handler": "runc", "overhead": {"podFixed": {"cpu": "10m"}}}))),
        (&POD_TEMPLATES, named(json!({"template": template}))),
    ] {
        assert_eq!(said(kind, object.clone()), [""; 0], "{object}");
    }
}

#[test]
fn bad_ones_are_explained() {
    let cases: [(&'static Kind, Value, &str); 19] = [
        (
            &INGRESSES,
            named(json!({"spec": {}})),
            "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified",
        ),
        (
            &INGRESSES,
            ingress(json!({"host": "10.0.0.1"})),
            "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ),
        (&INGRESSES, ingress(json!({"http": {"paths": []}})), "spec.rules[0].http.paths: Required value"),
        (
            &INGRESSES,
            path("a", "Exact"),
            "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
        ),
        (
            &INGRESSES,
            path("/a//b", "Prefix"),
            "spec.rules[0].http.paths[0].path: Invalid value: \"/a//b\": must not contain '//'",
        ),
        (
            &INGRESSES,
            path("/a/..", "Prefix"),
            "spec.rules[0].http.paths[0].path: Invalid value: \"/a/..\": cannot end with '/..'",
        ),
        (
            &INGRESSES,
            path("/", ""),
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        (
            &INGRESSES,
            path("/", "Regex"),
            "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ),
        (
            &INGRESSES,
            backend(json!({})),
            "spec.defaultBackend: Invalid value: \"\": resource or service backend is required",
        ),
        (
            &INGRESSES,
            backend(json!({"service": {"name": "web"}})),
            "spec.defaultBackend: Required value: port name or number is required",
        ),
        (
            &INGRESSES,
            backend(json!({"service": {"port": {"number": 80}}})),
            "spec.defaultBackend.service.name: Required value",
        ),
        (
            &INGRESSES,
            backend(json!({"service": {"name": "web", "port": {"number": 80, "name": "http"}}})),
            "spec.defaultBackend: Invalid value: \"\": cannot set both port name & port number",
        ),
        (
            &INGRESS_CLASSES,
            named(json!({"spec": {"controller": "c"}})),
            "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            &INGRESS_CLASSES,
            named(
                json!({"spec": {"controller": "e.io/c", "parameters": {"kind": "K", "name": "n", "namespace": "d"}}}),
            ),
            "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
        ),
        (
            &PRIORITY_CLASSES,
            named(json!({"value": 1_000_000_001})),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            &PRIORITY_CLASSES,
            json!({"metadata": {"name": "system-x"}, "value": 1}),
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a \
             known system priority class",
        ),
        (
            &PRIORITY_CLASSES,
            named(json!({"value": 1, "preemptionPolicy": "Sometimes"})),
            "preemptionPolicy: Unsupported value: \"Sometimes\": supported values: \"Never\", \"PreemptLowerPriority\"",
        ),
        (
            &RUNTIME_CLASSES,
            named(json!({"handler": "runc", "scheduling": {"tolerations": [{"effect": "NoExecute"}]}})),
            "scheduling.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all \
             values and all keys\"",
        ),
        (
            &POD_TEMPLATES,
            named(json!({"template": {"spec": {"containers": []}}})),
            "template.spec.containers: Required value",
        ),
    ];
    for (kind, object, message) in cases {
        assert_eq!(said(kind, object.clone()), [message], "{object}");
    }
}

#[test]
fn what_may_not_change_stays() {
    let class = |value: i64| named(json!({"value": value}));
    let runtime = |handler: &str| named(json!({"handler": handler}));
    let ingress_class = |controller: &str| named(json!({"spec": {"controller": controller}}));
    for (kind, mut old, mut new, message) in [
        (&PRIORITY_CLASSES, class(1), class(2), "value: Forbidden: may not be changed in an update."),
        (&RUNTIME_CLASSES, runtime("a"), runtime("b"), "handler: Invalid value: \"b\": field is immutable"),
        (
            &INGRESS_CLASSES,
            ingress_class("e.io/a"),
            ingress_class("e.io/b"),
            "spec.controller: Invalid value: \"e.io/b\": field is immutable",
        ),
    ] {
        defaults::apply(kind, &mut old);
        defaults::apply(kind, &mut new);
        let causes: Vec<String> = update(kind, &old, &new)
            .into_iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        assert_eq!(causes, [message]);
    }
}
