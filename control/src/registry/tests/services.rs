//! Services over a real store: what they are given, what they keep, what they give back.

use std::collections::BTreeSet;

use oarlock_api::catalogue::SERVICES;
use oarlock_store::ListOptions;
use serde_json::{Value, json};

use super::super::claims::claims_of;
use super::{Fixture, Sub, WriteOptions, fixture, fixture_of};
use crate::patch::Patch;

fn node_port(name: &str, port: Option<u16>) -> Value {
    let mut object =
        json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    if let Some(port) = port {
        object["spec"]["ports"][0]["nodePort"] = json!(port);
    }
    object
}

#[tokio::test]
async fn services_get_addresses_that_nobody_else_has() {
    let f = fixture().await;
    let one = f.create(&SERVICES, "d", node_port("a", Some(30001))).await.unwrap();
    let ip = one["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!(one["spec"]["clusterIPs"], json!([ip]));
    let taken = f.create(&SERVICES, "d", node_port("b", Some(30001))).await.unwrap_err();
    assert!(
        taken
            .message
            .contains("spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"),
        "{taken}"
    );
    let high = f.create(&SERVICES, "d", node_port("b", Some(40000))).await.unwrap_err();
    let expected = "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 40000: provided port is not in the valid \
                    range. The range of valid ports is 30000-30003";
    assert_eq!(high.message, expected);
    let elsewhere =
        json!({"metadata": {"name": "b"}, "spec": {"clusterIP": "10.97.0.1", "ports": [{"port": 80}]}});
    let elsewhere = f.create(&SERVICES, "d", elsewhere).await.unwrap_err();
    let expected = "spec.clusterIPs: Invalid value: [\"10.97.0.1\"]: failed to allocate IP 10.97.0.1: the provided IP \
                    (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/24";
    assert!(elsewhere.message.contains(expected), "{elsewhere}");
    let same_ip = json!({"metadata": {"name": "b"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
    let taken = f.create(&SERVICES, "d", same_ip.clone()).await.unwrap_err();
    assert!(taken.message.contains("provided IP is already allocated"), "{taken}");
    for name in ["c", "e", "g"] {
        f.create(&SERVICES, "d", node_port(name, None)).await.unwrap();
    }
    assert!(
        f.create(&SERVICES, "d", node_port("h", None)).await.unwrap_err().message.contains("range is full")
    );
    f.delete(&SERVICES, "a").await.unwrap();
    f.create(&SERVICES, "d", same_ip).await.unwrap();
    f.create(&SERVICES, "d", node_port("i", Some(30001))).await.unwrap();
}

#[tokio::test]
async fn addresses_and_ports_outside_the_ranges_are_refused_in_upstreams_words() {
    let f = fixture().await;
    let range = "The range of valid ports is 30000-30003";
    for port in [-1, 80, 29999, 30004, 70000] {
        let mut service = node_port("a", None);
        service["spec"]["ports"][0]["nodePort"] = json!(port);
        let refused = f.create(&SERVICES, "d", service).await.unwrap_err();
        assert_eq!((refused.code, refused.reason), (422, "Invalid"));
        let cause = &refused.details.as_ref().unwrap().causes[0];
        assert_eq!(cause.field, "spec.ports[0].nodePort");
        let why = format!("Invalid value: {port}: provided port is not in the valid range. {range}");
        assert_eq!(cause.message, why);
        assert_eq!(
            refused.message,
            format!("Service \"a\" is invalid: spec.ports[0].nodePort: {}", cause.message)
        );
    }
    for ip in ["192.168.1.1", "10.96.0.0", "10.96.0.255"] {
        let service = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": ip, "ports": [{"port": 80}]}});
        let refused = f.create(&SERVICES, "d", service).await.unwrap_err();
        assert_eq!(
            refused.message,
            format!(
                "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: the \
                 provided IP ({ip}) is not in the valid range. The range of valid IPs is 10.96.0.0/24"
            )
        );
    }
    f.create(&SERVICES, "d", node_port("a", Some(30003))).await.unwrap();
    let moved = json!({"spec": {"ports": [{"port": 80, "nodePort": 31000}]}});
    let refused = f.patch(&SERVICES, "a", moved).await.unwrap_err();
    assert!(refused.message.contains("nodePort: Invalid value: 31000: provided port is not in"), "{refused}");
}

#[tokio::test]
async fn a_service_keeps_its_address_and_frees_its_port_with_its_type() {
    let f = fixture().await;
    let made = f.create(&SERVICES, "d", node_port("a", Some(30002))).await.unwrap();
    let changed = f.patch(&SERVICES, "a", json!({"spec": {"type": "ClusterIP"}})).await.unwrap();
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert_eq!(changed["spec"]["ports"][0].get("nodePort"), None);
    f.create(&SERVICES, "d", node_port("b", Some(30002))).await.unwrap();
    let moved = f.patch(&SERVICES, "a", json!({"spec": {"clusterIP": "10.96.0.7"}})).await.unwrap_err();
    assert!(moved.message.contains("may not change once set"), "{moved}");
}

fn service(name: &str, spec: &Value) -> Value {
    let mut object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

impl Fixture {
    async fn serve(&self, name: &str, spec: Value) -> Value {
        self.create(&SERVICES, "d", service(name, &spec)).await.unwrap()
    }

    async fn refused(&self, name: &str, spec: Value) -> String {
        self.create(&SERVICES, "d", service(name, &spec)).await.unwrap_err().message
    }

    async fn set(&self, name: &str, spec: Value) -> Value {
        self.patch(&SERVICES, name, json!({"spec": spec})).await.unwrap()
    }

    /// Every claim in the store, and every claim that the Services there should have.
    pub(super) async fn claims(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let store = &self.registry.store;
        let keys = store.list("/registry/claims/", ListOptions::default()).await.unwrap();
        let services = store.list(&SERVICES.prefix(), ListOptions::default()).await.unwrap();
        let held = services
            .records
            .iter()
            .flat_map(|record| claims_of(&SERVICES, &serde_json::from_slice(&record.value).unwrap()));
        (keys.records.into_iter().map(|r| r.key).collect(), held.map(|claim| claim.key()).collect())
    }
}

#[tokio::test]
async fn a_load_balancer_has_ports_on_nodes_unless_it_wants_none() {
    let f = fixture().await;
    let made = f.serve("a", json!({"type": "LoadBalancer"})).await;
    assert!(made["spec"]["ports"][0]["nodePort"].is_u64(), "{made}");
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    let bare = f.serve("b", json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false})).await;
    assert_eq!(bare["spec"]["ports"][0].get("nodePort"), None);
    let asked = json!([{"port": 80, "nodePort": made["spec"]["ports"][0]["nodePort"]}]);
    let taken = f
        .refused("c", json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": asked}))
        .await;
    assert!(taken.contains("provided port is already allocated"), "{taken}");
    let back = f.set("a", json!({"type": "ClusterIP"})).await;
    for field in ["allocateLoadBalancerNodePorts", "externalTrafficPolicy", "healthCheckNodePort"] {
        assert_eq!(back["spec"].get(field), None, "{field}");
    }
    assert_eq!(back["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

#[tokio::test]
async fn one_port_for_tcp_and_udp_has_one_number_on_nodes() {
    let f = fixture().await;
    let ports = json!([{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}]);
    let made = f.serve("dns", json!({"type": "NodePort", "ports": ports})).await;
    assert_eq!(made["spec"]["ports"][0]["nodePort"], made["spec"]["ports"][1]["nodePort"]);
    // A client that does not know the numbers keeps them all the same, whatever else it changes.
    let ports = json!([{"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "tcp", "port": 54}]);
    let changed = f.set("dns", json!({"ports": ports})).await;
    assert_eq!(changed["spec"]["ports"][0]["nodePort"], made["spec"]["ports"][1]["nodePort"]);
    assert_eq!(changed["spec"]["ports"][1]["nodePort"], made["spec"]["ports"][0]["nodePort"]);
}

#[tokio::test]
async fn a_local_load_balancer_has_a_health_check_port_of_its_own() {
    let f = fixture().await;
    let local = |port: Option<u16>| {
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false,
            "healthCheckNodePort": port.unwrap_or(0)})
    };
    let made = f.serve("a", local(Some(30001))).await;
    assert_eq!(made["spec"]["healthCheckNodePort"], 30001);
    let taken = f.refused("b", local(Some(30001))).await;
    let expected = "spec.healthCheckNodePort: Invalid value: 30001: failed to allocate requested HealthCheck NodePort 30001: \
                    provided port is already allocated";
    assert!(taken.contains(expected), "{taken}");
    let picked = f.serve("b", local(None)).await["spec"]["healthCheckNodePort"].as_u64().unwrap();
    assert!((30000..=30003).contains(&picked) && picked != 30001, "{picked}");
    let kept = f.set("a", json!({"healthCheckNodePort": null, "sessionAffinity": "ClientIP"})).await;
    assert_eq!(kept["spec"]["healthCheckNodePort"], 30001, "not repeated is not given back");
    let freed = f.set("a", json!({"externalTrafficPolicy": "Cluster"})).await;
    assert_eq!(freed["spec"].get("healthCheckNodePort"), None);
    f.serve("c", local(Some(30001))).await;
    let twice = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30002,
        "ports": [{"port": 80, "nodePort": 30002}]});
    assert!(f.refused("d", twice).await.contains("provided port is already allocated"));
}

#[tokio::test]
async fn an_external_name_gives_its_address_back() {
    let f = fixture().await;
    let made = f.serve("a", json!({"clusterIP": "10.96.0.9"})).await;
    assert_eq!(made["spec"]["ipFamilyPolicy"], "SingleStack");
    let named = f.set("a", json!({"type": "ExternalName", "externalName": "example.com"})).await;
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(named["spec"].get(field), None, "{field}");
    }
    f.serve("b", json!({"clusterIP": "10.96.0.9"})).await;
    let again = f.set("a", json!({"type": "ClusterIP", "externalName": null})).await;
    assert!(again["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96.0."));
    let headless = f.serve("c", json!({"clusterIP": "None"})).await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let bare = json!({"metadata": {"name": "d"}, "spec": {"clusterIP": "None"}});
    f.create(&SERVICES, "d", bare).await.unwrap();
    let bare = f.set("d", json!({"publishNotReadyAddresses": true, "externalName": null})).await;
    let nulls: Vec<_> = bare["spec"].as_object().unwrap().iter().filter(|(_, v)| v.is_null()).collect();
    assert_eq!(nulls, [], "what is not there stays away");
}

#[tokio::test]
async fn a_balancer_reports_in_the_status_and_its_word_goes_with_the_type() {
    let f = fixture().await;
    f.serve("a", json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.1.2.3/8"]})).await;
    let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}));
    let options = WriteOptions::default();
    let said = f.registry.patch(&SERVICES, "d", "a", Sub::Status, &patch, &options).await.unwrap();
    assert_eq!(said["status"]["loadBalancer"]["ingress"][0], json!({"ip": "192.0.2.1", "ipMode": "VIP"}));
    assert_eq!(said["spec"]["loadBalancerSourceRanges"], json!([" 10.1.2.3/8"]), "as the user wrote it");
    let changed = f.set("a", json!({"type": "NodePort", "loadBalancerSourceRanges": null})).await;
    assert_eq!(changed["status"]["loadBalancer"], json!({}));
    let late = f.registry.patch(&SERVICES, "d", "a", Sub::Status, &patch, &options).await.unwrap_err();
    assert!(late.message.contains("may only be used when `spec.type` is 'LoadBalancer'"), "{late}");
}

#[tokio::test]
async fn a_cluster_of_one_family_refuses_the_other_in_upstreams_words() {
    let f = fixture().await;
    for (spec, line) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"externalIPs": ["2001:db8::1"]}),
            "spec.externalIPs[0]: Invalid value: \"2001:db8::1\": IPv6 is not one of this Service's `ipFamilies`",
        ),
        (
            json!({"clusterIP": "fd00::1"}),
            "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
        ),
    ] {
        assert_eq!(f.refused("a", spec).await, format!("Service \"a\" is invalid: {line}"));
    }
    let prefers = f.serve("a", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(prefers["spec"]["ipFamilies"], json!(["IPv4"]));
    let headless = f.serve("b", json!({"clusterIP": "None"})).await;
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]), "somebody else writes its endpoints");
    let headless = f.serve("c", json!({"clusterIP": "None", "selector": {"a": "b"}})).await;
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[tokio::test]
async fn dual_stack_services_have_an_address_of_each_family() {
    let f = fixture_of(&["10.96.0.0/24", "fd00:96::/112"]).await;
    let made = f.serve("a", json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]})).await;
    let ips = made["spec"]["clusterIPs"].as_array().unwrap();
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv6", "IPv4"]));
    assert!(
        ips[0].as_str().unwrap().starts_with("fd00:96::") && ips[1].as_str().unwrap().starts_with("10.96.0.")
    );
    assert_eq!(made["spec"]["clusterIP"], ips[0]);
    let single = f.serve("b", json!({})).await;
    assert_eq!(
        (single["spec"]["clusterIPs"].as_array().unwrap().len(), &single["spec"]["ipFamilies"]),
        (1, &json!(["IPv4"]))
    );
    let fixed = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:96::7"], "ipFamilyPolicy": "PreferDualStack"});
    f.serve("c", fixed).await;
    let taken = f.refused("d", json!({"clusterIP": "fd00:96::7"})).await;
    let line = "failed to allocate IP fd00:96::7: provided IP is already allocated";
    assert!(taken.contains(&format!("spec.clusterIPs: Invalid value: [\"fd00:96::7\"]: {line}")), "{taken}");
    let outside = f.refused("d", json!({"clusterIP": "fd00:97::7"})).await;
    assert!(outside.contains("The range of valid IPs is fd00:96::/112"), "{outside}");
    let many = json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8", "fd00:96::8"]});
    let many = f.refused("d", many).await;
    assert!(
        many.contains(
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"
        ),
        "{many}"
    );
}

#[tokio::test]
async fn a_second_family_comes_and_goes_with_the_policy() {
    let f = fixture_of(&["10.96.0.0/24", "fd00:96::/112"]).await;
    let made = f.serve("a", json!({})).await;
    let dual = f.set("a", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(dual["spec"]["clusterIPs"][0], made["spec"]["clusterIP"]);
    assert_eq!(
        (dual["spec"]["clusterIPs"].as_array().unwrap().len(), &dual["spec"]["ipFamilies"]),
        (2, &json!(["IPv4", "IPv6"]))
    );
    let less = f
        .patch(&SERVICES, "a", json!({"spec": {"clusterIPs": [made["spec"]["clusterIP"]]}}))
        .await
        .unwrap_err();
    assert!(less.message.contains("must be 'SingleStack' to release the secondary cluster IP"), "{less}");
    let single = f.set("a", json!({"ipFamilyPolicy": "SingleStack"})).await;
    assert_eq!(
        (&single["spec"]["clusterIPs"], &single["spec"]["ipFamilies"]),
        (&json!([made["spec"]["clusterIP"]]), &json!(["IPv4"]))
    );
    let second = dual["spec"]["clusterIPs"][1].as_str().unwrap();
    f.serve("b", json!({"clusterIP": second})).await;
}

/// Whatever users do to Services, the claims in the store are exactly what the Services have.
#[tokio::test]
async fn claims_are_what_services_have_after_any_history() {
    for seed in 0..6_u64 {
        let f = fixture_of(&["10.96.0.0/28", "fd00:96::/124"]).await;
        let mut state = seed;
        let mut random = |end: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % end
        };
        for step in 0..60 {
            let name = ["a", "b", "c", "d"][usize::try_from(random(4)).unwrap()];
            let kind = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]
                [usize::try_from(random(4)).unwrap()];
            let policy =
                ["SingleStack", "PreferDualStack", "RequireDualStack"][usize::try_from(random(3)).unwrap()];
            let local = if random(2) == 0 { "Local" } else { "Cluster" };
            let mut spec = json!({"type": kind, "externalName": "example.com"});
            if kind != "ExternalName" {
                spec["ipFamilyPolicy"] = json!(policy);
            }
            if kind == "LoadBalancer" {
                spec["externalTrafficPolicy"] = json!(local);
            }
            // Ranges this small run out: refusals are part of it.
            match random(3) {
                0 => drop(f.create(&SERVICES, "d", service(name, &spec)).await),
                1 => drop(f.patch(&SERVICES, name, json!({"spec": spec})).await),
                _ => drop(f.delete(&SERVICES, name).await),
            }
            let (are, should) = f.claims().await;
            assert_eq!(are, should, "seed {seed}, step {step}");
        }
    }
}
