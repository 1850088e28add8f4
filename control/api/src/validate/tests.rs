//! A table of what is refused, with upstream's words.

mod classes;
mod csi;
mod mirrors;
mod remote;
mod rights;
mod scheduling;
mod services;
mod stateful_sets;
mod storage;

use serde_json::{Value, json};

use super::{create, update};
use crate::catalogue::{
    CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, Kind, LEASES, PODS,
    REPLICATION_CONTROLLERS, SECRETS, SERVICES,
};
use crate::defaults;

fn said(kind: &'static Kind, mut object: Value) -> Vec<String> {
    defaults::apply(kind, &mut object);
    create(kind, &object).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

fn changed(kind: &'static Kind, old: &Value, new: &Value) -> Vec<String> {
    let (mut old, mut new) = (old.clone(), new.clone());
    defaults::apply(kind, &mut old);
    defaults::apply(kind, &mut new);
    update(kind, &old, &new).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
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
    assert_eq!(said(&SERVICES, service(json!({"clusterIP": "None", "clusterIPs": ["None"]}))), [""; 0]);
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
fn ports_of_the_node_are_asked_for_once() {
    let of =
        |ports: Value| said(&PODS, pod(json!({"containers": [{"name": "c", "image": "i", "ports": ports}]})));
    let port = |host: i64, ip: &str| json!({"containerPort": 80, "hostPort": host, "hostIP": ip});
    assert_eq!(of(json!([port(80, ""), port(80, "127.0.0.1"), port(81, "")])), [""; 0]);
    assert_eq!(
        of(json!([port(80, ""), port(80, ""), port(70_000, ""), port(82, "localhost")])),
        [
            "spec.containers[0].ports[2].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[3].hostIP: Invalid value: \"localhost\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""
        ]
    );
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let spec = json!({
        "resources": {"limits": {"cpu": "1"}},
        "volumes": [{"name": "v", "flexVolume": {"driver": "d"}}],
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "SCTP"}]}],
    });
    let refused = said(&PODS, pod(spec));
    for field in ["spec.resources", "spec.containers[0].ports[0].protocol", "spec.volumes[0].flexVolume"] {
        let line = format!("{field}: Forbidden: is not supported by this version of Oarlock");
        assert!(refused.contains(&line), "{field} in {refused:?}");
    }
    assert_eq!(refused.len(), 3);
}

#[test]
fn a_port_on_the_nodes_network_is_the_nodes() {
    let spec = |host: i64| json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": host}]}]});
    assert_eq!(said(&PODS, pod(spec(0))), [""; 0], "it is given to it");
    let at = "spec.containers[0].ports[0].hostPort: Invalid value: 81";
    let why = "must match `containerPort` when `hostNetwork` is true";
    assert_eq!(said(&PODS, pod(spec(81))), [format!("{at}: {why}")]);
    let mut template = deployment();
    template["spec"]["template"]["spec"] = spec(0);
    assert_eq!(said(&DEPLOYMENTS, template.clone()), [""; 0], "and to each pod of a template");
    template["spec"]["template"]["spec"] = spec(81);
    assert_eq!(said(&DEPLOYMENTS, template), [format!("spec.template.{at}: {why}")]);
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
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxUnavailable": "101%", "maxSurge": 0}});
    let field = "spec.strategy.rollingUpdate.maxUnavailable";
    assert_eq!(
        said(&DEPLOYMENTS, object),
        [format!("{field}: Invalid value: \"101%\": must not be greater than 100%")]
    );
    let mut object = deployment();
    object["spec"]["replicas"] = json!(-1);
    assert_eq!(
        said(&DEPLOYMENTS, object),
        ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]
    );
}

#[test]
fn a_replication_controller_selects_by_a_map_that_its_template_gives() {
    let controller = || {
        json!({"metadata": {"name": "rc"}, "spec": {"template": {"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    };
    let mut object = controller();
    defaults::apply(&REPLICATION_CONTROLLERS, &mut object);
    assert_eq!((&object["spec"]["replicas"], &object["spec"]["selector"]), (&json!(1), &json!({"app": "a"})));
    assert_eq!(object["metadata"]["labels"], json!({"app": "a"}));
    assert_eq!(said(&REPLICATION_CONTROLLERS, controller()), [""; 0]);
    let mut object = controller();
    object["spec"]["selector"] = json!({"app": "b"});
    object["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(3);
    assert_eq!(
        said(&REPLICATION_CONTROLLERS, object),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicationController is not Supported",
        ]
    );
    let bare = json!({"metadata": {"name": "rc"}, "spec": {"replicas": 1}});
    assert_eq!(said(&REPLICATION_CONTROLLERS, bare), ["spec.selector: Required value"]);
    let mut old = controller();
    defaults::apply(&REPLICATION_CONTROLLERS, &mut old);
    let mut new = old.clone();
    new["spec"]["selector"]["x"] = json!("y");
    new["spec"]["template"]["metadata"]["labels"]["x"] = json!("y");
    assert!(update(&REPLICATION_CONTROLLERS, &old, &new).is_empty(), "its selector may change");
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

/// What is said of a pod with one container that has these fields beside name and image.
fn of_container(fields: Value) -> Vec<String> {
    let mut container = json!({"name": "c", "image": "i"});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    said(&PODS, pod(json!({"containers": [container]})))
}

fn of_spec(fields: Value) -> Vec<String> {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    spec.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    said(&PODS, pod(spec))
}

#[test]
fn probes_and_hooks_need_one_whole_handler() {
    let c = "spec.containers[0]";
    assert_eq!(
        of_container(json!({"livenessProbe": {}})),
        [format!("{c}.livenessProbe: Required value: must specify a handler type")]
    );
    let both = json!({"readinessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}});
    let why = "Forbidden: may not specify more than 1 handler type";
    assert_eq!(of_container(both), [format!("{c}.readinessProbe.tcpSocket: {why}")]);
    let empty = json!({"lifecycle": {"preStop": {"exec": {}}}});
    assert_eq!(of_container(empty), [format!("{c}.lifecycle.preStop.exec.command: Required value")]);
    let long = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}});
    let why = "Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)";
    assert_eq!(of_container(long), [format!("{c}.lifecycle.preStop.sleep: {why}")]);
    let scheme = json!({"startupProbe": {"httpGet": {"port": 80, "scheme": "FTP"}}});
    let why = "Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"";
    assert_eq!(of_container(scheme), [format!("{c}.startupProbe.httpGet.scheme: {why}")]);
    let init = json!({"initContainers": [{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]});
    let why = "Forbidden: may not be set for init containers without restartPolicy=Always";
    assert_eq!(of_spec(init), [format!("spec.initContainers[0].readinessProbe: {why}")]);
}

#[test]
fn variables_come_from_one_known_place() {
    let of = |from: Value| of_container(json!({"env": [{"name": "A", "valueFrom": from}]}));
    let e = "spec.containers[0].env[0].valueFrom";
    assert_eq!(of(json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})), [""; 0]);
    assert_eq!(of(json!({"configMapKeyRef": {"name": "m", "key": "k"}})), [""; 0]);
    assert_eq!(
        of(json!({"secretKeyRef": {"name": "m", "key": ""}})),
        [format!("{e}.secretKeyRef.key: Required value")]
    );
    assert!(of(json!({"fieldRef": {"fieldPath": "spec.x"}}))[0].contains("Unsupported value: \"spec.x\""));
    assert!(of(json!({}))[0].contains("must specify one of"));
    let two =
        json!({"fieldRef": {"fieldPath": "metadata.name"}, "configMapKeyRef": {"name": "m", "key": "k"}});
    let why = "Invalid value: \"\": may not have more than one field specified at a time";
    assert_eq!(of(two), [format!("{e}: {why}")]);
    let empty = of_container(json!({"envFrom": [{"configMapRef": {}}]}));
    assert_eq!(empty, ["spec.containers[0].envFrom[0].configMapRef.name: Required value"]);
}

#[test]
fn volumes_have_one_whole_source() {
    let of = |fields: Value| {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        of_spec(json!({"volumes": [volume]}))
    };
    let v = "spec.volumes[0]";
    for good in [
        json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({"hostPath": {"path": "/data", "type": "Directory"}}),
        json!({"secret": {"secretName": "s", "items": [{"key": "a", "path": "b/c"}]}}),
        json!({"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}),
        json!({"projected": {"sources": [{"configMap": {"name": "m"}}, {"secret": {"name": "s"}}]}}),
    ] {
        assert_eq!(of(good.clone()), [""; 0], "{good}");
    }
    let why = "Forbidden: may not specify more than 1 volume type";
    assert_eq!(of(json!({"emptyDir": {}, "hostPath": {"path": "/a"}})), [format!("{v}.hostPath: {why}")]);
    assert_eq!(of(json!({"hostPath": {}})), [format!("{v}.hostPath.path: Required value")]);
    let up = of(json!({"hostPath": {"path": "/a/../b"}}));
    assert_eq!(up, [format!("{v}.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'")]);
    assert_eq!(of(json!({"secret": {}})), [format!("{v}.secret.secretName: Required value")]);
    assert_eq!(of(json!({"configMap": {}})), [format!("{v}.configMap.name: Required value")]);
    assert_eq!(
        of(json!({"projected": {"sources": [{"secret": {}}]}})),
        [format!("{v}.projected.sources[0].secret.name: Required value")]
    );
    let absolute = json!({"configMap": {"name": "m", "items": [{"key": "a", "path": "/a"}]}});
    assert_eq!(
        of(absolute),
        [format!("{v}.configMap.items[0].path: Invalid value: \"/a\": must be a relative path")]
    );
    let mode = json!({"configMap": {"name": "m", "defaultMode": 512}});
    let why = "Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive";
    assert_eq!(of(mode), [format!("{v}.configMap.defaultMode: {why}")]);
}

#[test]
fn the_context_of_a_pod_is_checked() {
    let toleration = |t: Value| of_spec(json!({"tolerations": [t]}));
    assert_eq!(toleration(json!({"operator": "Exists"})), [""; 0]);
    let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
    assert_eq!(
        toleration(json!({"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1})),
        [format!("spec.tolerations[0].effect: Invalid value: \"NoSchedule\": {why}")]
    );
    assert!(toleration(json!({"value": "x"}))[0].contains("operator must be Exists when `key` is empty"));
    assert_eq!(
        of_spec(json!({"dnsPolicy": "None"})),
        [
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"
        ]
    );
    assert!(
        of_spec(json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}))[0].contains("valid IP address")
    );
    assert_eq!(
        of_spec(json!({"securityContext": {"runAsUser": -1}})),
        ["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"]
    );
    let both = json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}});
    assert!(of_container(both)[0].contains("`allowPrivilegeEscalation` to false and `privileged` to true"));
}

#[test]
fn endpoints_must_be_addresses_that_can_be_sent_to() {
    let slice = |ip: &str| {
        json!({"metadata": {"name": "s"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": [ip]}]})
    };
    assert_eq!(said(&ENDPOINT_SLICES, slice("10.0.0.1")), [""; 0]);
    let field = "endpoints[0].addresses[0]";
    for (ip, why) in [
        ("x", "must be a valid IPv4 address"),
        ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        ("169.254.1.1", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        ("0.0.0.0", "may not be unspecified (0.0.0.0 or ::)"),
        ("224.0.0.1", "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ] {
        assert_eq!(said(&ENDPOINT_SLICES, slice(ip)), [format!("{field}: Invalid value: {ip:?}: {why}")]);
    }
    let mut bad = slice("10.0.0.1");
    bad["ports"] = json!([{"port": 0}, {"port": 1}]);
    assert_eq!(
        said(&ENDPOINT_SLICES, bad),
        [
            "ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "ports[1].name: Duplicate value: \"\""
        ]
    );
    assert_eq!(said(&ENDPOINT_SLICES, json!({"metadata": {"name": "s"}})), ["addressType: Required value"]);
    let old = slice("10.0.0.1");
    let mut new = old.clone();
    new["addressType"] = json!("IPv6");
    assert!(update(&ENDPOINT_SLICES, &old, &new).iter().any(|c| c.message.ends_with("field is immutable")));

    let endpoints = |subset: Value| json!({"metadata": {"name": "e"}, "subsets": [subset]});
    let good = json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]});
    assert_eq!(said(&ENDPOINTS, endpoints(good)), [""; 0]);
    assert_eq!(
        said(&ENDPOINTS, endpoints(json!({}))),
        ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]
    );
    let unnamed =
        json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}, {"port": 81, "name": "b"}]});
    assert_eq!(said(&ENDPOINTS, endpoints(unnamed)), ["subsets[0].ports[0].name: Required value"]);
}

#[test]
fn owners_and_finalizers_are_whole() {
    let of = |metadata: Value| {
        let mut metadata = metadata;
        metadata["name"] = json!("c");
        said(&CONFIG_MAPS, json!({"metadata": metadata}))
    };
    let owner =
        |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": "u", "controller": true});
    assert_eq!(of(json!({"ownerReferences": [owner("a")], "finalizers": ["a.b/c", "orphan"]})), [""; 0]);
    assert_eq!(
        of(json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "a"}]})),
        ["metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty"]
    );
    let two = of(json!({"ownerReferences": [owner("a"), owner("b")]}));
    assert!(two[0].ends_with("Found \"true\" in references for a and b"), "{two:?}");
    let why = "name is neither a standard finalizer name nor is it fully qualified";
    assert_eq!(
        of(json!({"finalizers": ["mine"]})),
        [format!("metadata.finalizers[0]: Invalid value: \"mine\": {why}")]
    );
    let old = json!({"metadata": {"name": "c", "deletionTimestamp": "2026-11-23T00:00:00Z", "finalizers": ["a.b/c"]}});
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["a.b/c", "a.b/d"]);
    let causes = update(&CONFIG_MAPS, &old, &new);
    assert!(causes[0].message.ends_with("found new finalizers []string{\"a.b/d\"}"), "{causes:?}");
    new["metadata"]["finalizers"] = json!([]);
    assert!(update(&CONFIG_MAPS, &old, &new).is_empty(), "finalizers may always go");
}

#[test]
fn content_is_bounded_and_typed() {
    let big = "x".repeat(1024 * 1024);
    let map = |data: Value| said(&CONFIG_MAPS, json!({"metadata": {"name": "c"}, "data": data}));
    assert_eq!(map(json!({"a": big})), [""; 0]);
    assert_eq!(map(json!({"a": big, "b": "1"})), [": Too long: must have at most 1048576 bytes"]);
    assert_eq!(map(json!({"..": ""})), ["data[..]: Invalid value: \"..\": must not be '..'"]);
    let tls = json!({"metadata": {"name": "s"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
    assert_eq!(said(&SECRETS, tls), ["data[tls.key]: Required value"]);
    let both = json!({"metadata": {"name": "c"}, "data": {"a": ""}, "binaryData": {"a": ""}});
    assert!(said(&CONFIG_MAPS, both)[0].ends_with("duplicate of key present in binaryData"));
}

#[test]
fn events_live_beside_what_they_are_about() {
    let event = |about: &str| {
        said(
            &EVENTS,
            json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": about}}),
        )
    };
    assert_eq!(event("a"), [""; 0]);
    assert_eq!(
        event("b"),
        ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
    );
    let lease = json!({"metadata": {"name": "l"}, "spec": {"leaseDurationSeconds": 0}});
    assert_eq!(said(&LEASES, lease), ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"]);
}

proptest::proptest! {
    /// Whatever arrives, the answer is a list of causes.
    #[test]
    fn no_object_makes_validation_panic(kind in 0..crate::catalogue::KINDS.len(), object in crate::validate::tests::any_json()) {
        let kind = crate::catalogue::KINDS[kind];
        let mut defaulted = object.clone();
        defaults::apply(kind, &mut defaulted);
        let _ = create(kind, &defaulted);
        let _ = update(kind, &object, &defaulted);
        let _ = update(kind, &defaulted, &object);
        let nonsense = json!({"spec": object, "metadata": object});
        let _ = update(kind, &nonsense, &nonsense);
        let odd = json!({"spec": {"containers": [object], "initContainers": [object]}});
        let _ = update(kind, &odd, &odd);
        let _ = crate::table::cells(kind, &object, jiff::Timestamp::UNIX_EPOCH);
    }
}

/// JSON with the field names that the rules look at, and the wrong things in them.
pub(crate) fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-zA-Z/.:]{0,8}".prop_map(Value::from),
    ];
    let names = [
        "endpoints",
        "topology",
        "metadata",
        "spec",
        "status",
        "name",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "selector",
        "template",
        "containers",
        "initContainers",
        "ports",
        "port",
        "volumes",
        "emptyDir",
        "projected",
        "sources",
        "env",
        "valueFrom",
        "resources",
        "limits",
        "requests",
        "livenessProbe",
        "lifecycle",
        "strategy",
        "data",
        "stringData",
        "subsets",
        "addresses",
        "endpoints",
        "tolerations",
        "securityContext",
        "containerStatuses",
        "state",
        "conditions",
        "involvedObject",
        "rollingUpdate",
        "matchLabels",
        "matchExpressions",
    ];
    let key = proptest::sample::select(names.to_vec());
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    })
}
