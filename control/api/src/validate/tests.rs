//! A table of what is refused, with upstream's words.

use serde_json::{Value, json};

use super::{create, update};
use crate::catalogue::{CONFIG_MAPS, DEPLOYMENTS, Kind, PODS, SERVICES};
use crate::defaults;

fn said(kind: &'static Kind, mut object: Value) -> Vec<String> {
    defaults::apply(kind, &mut object);
    create(kind, &object).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "p"}, "spec": spec})
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s"}, "spec": spec})
}

fn deployment() -> Value {
    json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }})
}

#[test]
fn good_objects_pass() {
    assert_eq!(said(&DEPLOYMENTS, deployment()), [""; 0]);
    assert_eq!(said(&SERVICES, service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}}))), [""; 0]);
    assert_eq!(said(&SERVICES, service(json!({"clusterIP": "None"}))), [""; 0]);
    let full = json!({"volumes": [{"name": "v"}], "containers": [{
        "name": "c", "image": "i:1", "ports": [{"containerPort": 80, "name": "http"}],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "readinessProbe": {"httpGet": {"port": "http"}},
        "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "64Mi"}},
    }]});
    assert_eq!(said(&PODS, pod(full)), [""; 0]);
}

#[test]
fn bad_pods_are_explained() {
    let one = |container: Value| said(&PODS, pod(json!({"containers": [container]})));
    assert_eq!(said(&PODS, pod(json!({}))), ["spec.containers: Required value"]);
    assert_eq!(one(json!({"name": "c"})), ["spec.containers[0].image: Required value"]);
    assert_eq!(
        one(json!({"name": "c", "image": "i", "ports": [{"containerPort": 70000}]})),
        [
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
        ]
    );
    assert_eq!(
        one(json!({"name": "c", "image": "i", "volumeMounts": [{"name": "x", "mountPath": "/x"}]})),
        ["spec.containers[0].volumeMounts[0].name: Not found: \"x\""]
    );
    assert_eq!(
        one(
            json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}})
        ),
        [
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
        ]
    );
    let two = json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]});
    assert_eq!(said(&PODS, pod(two)), ["spec.containers[1].name: Duplicate value: \"c\""]);
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let spec = json!({
        "hostNetwork": true, "affinity": {"nodeAffinity": {}},
        "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}],
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 80}]}],
    });
    let refused = said(&PODS, pod(spec));
    for field in
        ["spec.affinity", "spec.hostNetwork", "spec.containers[0].ports[0].hostPort", "spec.volumes[0].nfs"]
    {
        let line = format!("{field}: Forbidden: is not supported by this version of Oarlock");
        assert!(refused.contains(&line), "{field} in {refused:?}");
    }
    assert_eq!(refused.len(), 4);
    let sctp = service(json!({"ports": [{"port": 80, "protocol": "SCTP"}]}));
    assert_eq!(
        said(&SERVICES, sctp),
        ["spec.ports[0].protocol: Forbidden: is not supported by this version of Oarlock"]
    );
}

#[test]
fn bad_services_are_explained() {
    let ports = |ports: Value| said(&SERVICES, service(json!({"ports": ports})));
    assert_eq!(said(&SERVICES, service(json!({}))), ["spec.ports: Required value"]);
    assert_eq!(
        ports(json!([{"port": 0, "targetPort": 1}])),
        ["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"]
    );
    assert_eq!(
        ports(json!([{"port": 80}, {"port": 81}])),
        ["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"]
    );
    assert_eq!(
        ports(json!([{"port": 80, "nodePort": 30080}])),
        ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]
    );
}

#[test]
fn bad_deployments_are_explained() {
    let mut object = deployment();
    object["spec"]["template"]["metadata"]["labels"]["app"] = json!("b");
    assert_eq!(
        said(&DEPLOYMENTS, object),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does not match template `labels`"
        ]
    );
    let mut object = deployment();
    object["spec"]["replicas"] = json!(-1);
    assert_eq!(
        said(&DEPLOYMENTS, object),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn immutable_fields_stay() {
    let mut old = deployment();
    defaults::apply(&DEPLOYMENTS, &mut old);
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["x"] = json!("y");
    new["spec"]["template"]["metadata"]["labels"]["x"] = json!("y");
    let causes = update(&DEPLOYMENTS, &old, &new);
    assert_eq!(causes.len(), 1);
    assert!(causes[0].message.ends_with("field is immutable"), "{causes:?}");

    let mut old = pod(json!({"containers": [{"name": "c", "image": "a"}]}));
    defaults::apply(&PODS, &mut old);
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("b");
    assert!(update(&PODS, &old, &new).is_empty(), "the image may change");
    new["spec"]["containers"][0]["command"] = json!(["x"]);
    assert_eq!(update(&PODS, &old, &new)[0].field, "spec");

    let old = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "1"}});
    let mut new = old.clone();
    new["data"]["a"] = json!("2");
    assert_eq!(update(&CONFIG_MAPS, &old, &new)[0].field, "data");
}
