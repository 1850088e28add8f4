//! Services: which combinations of fields are refused, and how they may change.

use serde_json::{Value, json};

use super::super::{create, update};
use super::said;
use crate::catalogue::{ENDPOINT_SLICES, SERVICES};
use crate::defaults;

/// A Service of one port, with these fields.
fn service(spec: Value) -> Value {
    let mut object = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

fn refusals(spec: Value) -> Vec<String> {
    said(&SERVICES, service(spec))
}

/// What an update from one to the other is told.
fn change(old: Value, new: Value) -> Vec<String> {
    let [old, new] = [old, new].map(|spec| {
        let mut object = service(spec);
        defaults::apply(&SERVICES, &mut object);
        object
    });
    update(&SERVICES, &old, &new).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

#[test]
fn every_type_passes_as_kubernetes_writes_it() {
    for spec in [
        json!({}),
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": []}),
        json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 53, "protocol": "UDP", "nodePort": 30053}, {"name": "b", "port": 53, "nodePort": 30053}]}),
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30001,
            "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"], "loadBalancerClass": "example.com/lb"}),
        json!({"type": "ExternalName", "externalName": "example.com.", "ports": []}),
        json!({"externalIPs": ["192.0.2.1", "2001:db8::1"], "externalTrafficPolicy": "Local"}),
        json!({"sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose",
            "publishNotReadyAddresses": true, "ports": [{"port": 80, "protocol": "SCTP", "appProtocol": "kubernetes.io/h2c"}]}),
        json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack"}),
    ] {
        assert_eq!(refusals(spec.clone()), [""; 0], "{spec}");
    }
}

#[test]
fn ports_are_checked_one_by_one_and_against_each_other() {
    let ports = |ports: Value| refusals(json!({"ports": ports}));
    assert_eq!(ports(json!([])), ["spec.ports: Required value"]);
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
    let twice =
        json!([{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]);
    assert_eq!(
        refusals(json!({"type": "NodePort", "ports": twice})),
        ["spec.ports[1].nodePort: Duplicate value: 30080"]
    );
    let app = ports(json!([{"port": 80, "appProtocol": "a b"}]));
    assert!(app[0].starts_with("spec.ports[0].appProtocol: Invalid value: \"a b\": "), "{app:?}");
    assert_eq!(
        refusals(json!({"type": "LoadBalancer", "ports": [{"port": 10250}]})),
        [
            "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet"
        ]
    );
}

#[test]
fn fields_belong_to_their_types() {
    let only = "Forbidden: may only be used when `type` is 'LoadBalancer'";
    for (spec, line) in [
        (json!({"loadBalancerClass": "a/b"}), format!("spec.loadBalancerClass: {only}")),
        (json!({"allocateLoadBalancerNodePorts": true}), format!("spec.allocateLoadBalancerNodePorts: {only}")),
        (json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}), format!("spec.LoadBalancerSourceRanges: {only}")),
        (
            json!({"externalTrafficPolicy": "Local"}),
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services".into(),
        ),
        (
            json!({"healthCheckNodePort": 30000}),
            "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and \
             `externalTrafficPolicy` is 'Local'"
                .into(),
        ),
        (
            json!({"type": "NodePort", "clusterIP": "None", "clusterIPs": ["None"]}),
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services".into(),
        ),
        (json!({"type": "ExternalName"}), "spec.externalName: Required value".into()),
        (
            json!({"type": "ExternalName", "externalName": "a.b", "ipFamilyPolicy": "SingleStack"}),
            "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services".into(),
        ),
        (
            json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0"]}),
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or \
             2001:db8::/64)"
                .into(),
        ),
        (
            json!({"externalIPs": ["127.0.0.1"]}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)".into(),
        ),
        (
            json!({"trafficDistribution": "Near"}),
            "spec.trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\"".into(),
        ),
        (
            json!({"internalTrafficPolicy": "Near"}),
            "spec.internalTrafficPolicy: Unsupported value: \"Near\": supported values: \"Cluster\", \"Local\"".into(),
        ),
    ] {
        assert_eq!(refusals(spec.clone()), [line], "{spec}");
    }
}

#[test]
fn affinity_remembers_for_a_second_to_a_day() {
    let timeout = |seconds: i64| {
        refusals(
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}),
        )
    };
    assert_eq!((timeout(1), timeout(86_400)), (vec![], vec![]));
    for bad in [-1, 0, 86_401] {
        let line = "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value";
        assert_eq!(timeout(bad), [format!("{line}: {bad}: must be greater than 0 and less than 86400")]);
    }
    let mut object = service(json!({}));
    defaults::apply(&SERVICES, &mut object);
    object["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 5}});
    assert_eq!(
        create(&SERVICES, &object)[0].message,
        "Forbidden: must not be set when session affinity is None"
    );
}

#[test]
fn addresses_fit_their_families() {
    let field = "spec.clusterIPs";
    for (spec, line) in [
        (json!({"clusterIP": "10.0.0.1"}), format!("{field}: Required value")),
        (
            json!({"clusterIPs": ["10.0.0.1"]}),
            format!(
                "{field}: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified"
            ),
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]}),
            format!("{field}: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"),
        ),
        (
            json!({"clusterIP": "x", "clusterIPs": ["x"]}),
            format!(
                "{field}[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ),
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            format!(
                "{field}: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family"
            ),
        ),
        (
            json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]}),
            format!(
                "{field}[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`"
            ),
        ),
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies[1]: Duplicate value: \"IPv4\"".into()),
    ] {
        assert_eq!(refusals(spec.clone()), [line], "{spec}");
    }
}

#[test]
fn what_was_given_does_not_change_but_a_second_family_comes_and_goes() {
    let single = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack"});
    let dual = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": "RequireDualStack"});
    assert_eq!(change(single.clone(), dual.clone()), [""; 0]);
    assert_eq!(change(dual.clone(), single.clone()), [""; 0]);
    let mut moved = single.clone();
    moved["clusterIP"] = json!("10.0.0.2");
    moved["clusterIPs"] = json!(["10.0.0.2"]);
    assert_eq!(
        change(single.clone(), moved),
        ["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"]
    );
    let mut silent = single.clone();
    silent["ipFamilyPolicy"] = json!("PreferDualStack");
    assert_eq!(
        change(dual, silent),
        [
            "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
             secondary clusterIP",
            "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be set to 'SingleStack' when releasing the \
             secondary ipFamily"
        ]
    );
    assert_eq!(change(single, json!({"type": "ExternalName", "externalName": "a.b"})), [""; 0]);
}

#[test]
fn a_health_check_port_and_a_class_stay() {
    let local = |port: i64, class: &str| json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port, "loadBalancerClass": class});
    assert_eq!(
        change(local(30001, "a/b"), local(30002, "a/b")),
        ["spec.healthCheckNodePort: Forbidden: field is immutable"]
    );
    assert_eq!(
        change(local(30001, "a/b"), local(30001, "a/c")),
        ["spec.loadBalancerClass: Invalid value: \"a/c\": may not change once set"]
    );
}

#[test]
fn a_balancers_status_is_checked() {
    let status = |kind: &str, ingress: Value| {
        let old = service(json!({"type": kind}));
        let mut new = old.clone();
        new["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
        update(&SERVICES, &old, &new)
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect::<Vec<_>>()
    };
    let path = "status.loadBalancer.ingress";
    assert_eq!(status("LoadBalancer", json!({"ip": "192.0.2.1", "ipMode": "VIP"})), [""; 0]);
    assert_eq!(
        status("NodePort", json!({"ip": "192.0.2.1", "ipMode": "VIP"})),
        [format!("{path}: Forbidden: may only be used when `spec.type` is 'LoadBalancer'")]
    );
    for (ingress, line) in [
        (json!({"ip": "192.0.2.1"}), "ipMode: Required value: must be specified when `ip` is set"),
        (
            json!({"hostname": "a.b", "ipMode": "VIP"}),
            "ipMode: Forbidden: may not be specified when `ip` is not set",
        ),
        (
            json!({"ip": "192.0.2.1", "ipMode": "X"}),
            "ipMode: Unsupported value: \"X\": supported values: \"Proxy\", \"VIP\"",
        ),
        (
            json!({"hostname": "192.0.2.1"}),
            "hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
        ),
    ] {
        assert_eq!(status("LoadBalancer", ingress), [format!("{path}[0].{line}")]);
    }
}

#[test]
fn a_slice_holds_one_family() {
    let slice = |kind: &str, address: &str| {
        said(
            &ENDPOINT_SLICES,
            json!({"metadata": {"name": "s"}, "addressType": kind, "ports": [],
            "endpoints": [{"addresses": [address], "hints": {"forZones": [{"name": "a"}]}}]}),
        )
    };
    assert_eq!((slice("IPv4", "10.0.0.1"), slice("IPv6", "fd00::1")), (vec![], vec![]));
    assert_eq!(
        slice("IPv6", "10.0.0.1"),
        ["endpoints[0].addresses[0]: Invalid value: \"10.0.0.1\": must be a valid IPv6 address"]
    );
}

#[test]
fn an_algorithm_is_one_that_there_is() {
    let with = |word: &str| {
        let mut object = service(json!({}));
        object["metadata"]["annotations"] = json!({crate::service::ALGORITHM: word});
        said(&SERVICES, object)
    };
    for word in ["round-robin", "random", "maglev"] {
        assert_eq!(with(word), [""; 0]);
    }
    assert_eq!(
        with("leastconn"),
        [
            "metadata.annotations[dataplane.oarlock.io/algorithm]: Unsupported value: \"leastconn\": supported values: \
            \"maglev\", \"random\", \"round-robin\""
        ]
    );
}
