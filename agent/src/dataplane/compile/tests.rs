//! Services as users write them, and who answers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const NODE: Ipv4Addr = Ipv4Addr::new(172, 30, 77, 11);
const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x172, 0x30, 0x77, 0, 0, 0, 0x11);

/// With dual stack.
const DUAL: DualIp = DualIp { v4: NODE, v6: Some(NODE6) };

fn snapshot(spec: Value, endpoints: Value) -> Snapshot {
    let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7", "ipMode": "VIP"},
                                                {"ip": "192.0.2.8", "ipMode": "Proxy"}, {"hostname": "a.b"}]}}});
    let slice = json!({"metadata": {"labels": {SERVICE_LABEL: "web"}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
    let node = json!({"metadata": {"name": "node1", "labels": {ZONE_LABEL: "a"}}});
    let mut snapshot = Snapshot::default();
    let key = |name: &str| ("d".to_owned(), name.to_owned());
    snapshot.services.insert(key("web"), serde_json::from_value(service).map(std::sync::Arc::new).unwrap());
    snapshot
        .endpoint_slices
        .insert(key("web-1"), serde_json::from_value(slice).map(std::sync::Arc::new).unwrap());
    let own = (String::new(), "node1".to_owned());
    snapshot.nodes.insert(own, serde_json::from_value(node).map(std::sync::Arc::new).unwrap());
    snapshot
}

/// Everything, compiled at once.
fn all(snapshot: &Snapshot) -> Frontends {
    with_pods(snapshot, &PodAddresses::new())
}

fn with_pods(snapshot: &Snapshot, pods: &PodAddresses) -> Frontends {
    let mut compiler = Compiler::new("node1", NODE.into());
    let keys = compiler.update(snapshot, pods);
    keys.into_iter().filter_map(|key| Some((key, compiler.frontend(&key)?.clone()))).collect()
}

fn compiled(spec: Value, endpoints: Value) -> Frontends {
    all(&snapshot(spec, endpoints))
}

/// A Service of everything, with changes.
fn spec(changes: Value) -> Value {
    let mut spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
        "externalIPs": ["198.51.100.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]});
    for (field, value) in changes.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}

/// An endpoint 10.244.0.`last`, on node1 if that is odd.
fn endpoint(last: u8, conditions: Value) -> Value {
    let node = if last % 2 == 1 { "node1" } else { "node2" };
    json!({"addresses": [format!("10.244.0.{last}")], "conditions": conditions, "nodeName": node})
}

fn ready() -> Value {
    json!({"ready": true, "serving": true, "terminating": false})
}

fn ending() -> Value {
    json!({"ready": false, "serving": true, "terminating": true})
}

fn at<'f>(frontends: &'f Frontends, ip: &str, port: u16) -> &'f Frontend {
    &frontends[&Door::new(ip.parse::<IpAddr>().unwrap(), port, 6)]
}

/// The last bytes of the backends' addresses.
fn last(peers: &[Peer]) -> Vec<u8> {
    let last = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    peers.iter().map(|(ip, _)| last(ip)).collect()
}

#[test]
fn a_service_answers_on_each_of_its_addresses() {
    let frontends = compiled(spec(json!({})), json!([endpoint(2, ready()), endpoint(1, ready())]));
    let peers = [1, 2].map(|last| (Ipv4Addr::new(10, 244, 0, last).into(), 8080)).to_vec();
    for (ip, port, external) in [
        ("10.96.0.9", 80, false),
        ("172.30.77.11", 30080, true),
        ("127.0.0.1", 30080, false),
        ("198.51.100.1", 80, true),
        ("192.0.2.7", 80, true),
    ] {
        let frontend = at(&frontends, ip, port);
        assert_eq!((&frontend.inside, &frontend.outside), (&peers, &peers), "{ip}");
        assert_eq!(frontend.external, external, "{ip}");
    }
    assert_eq!(frontends.len(), 5, "not at a load balancer's that wants to be asked itself");
    let numbers: BTreeSet<u64> = frontends.values().map(|f| f.service).collect();
    assert_eq!(numbers.len(), 1, "one port of one Service");
}

#[test]
fn node_ports_are_answered_at_each_address_of_the_node_even_when_its_node_is_gone() {
    let mut snapshot = snapshot(spec(json!({})), json!([endpoint(1, ready())]));
    let own = (String::new(), "node1".to_owned());
    let mut compiler = Compiler::new("node1", NODE.into());
    let answers = |compiler: &Compiler, ip: [u8; 4]| compiler.frontend(&Door::new(ip, 30080, 6)).is_some();
    let _ = compiler.update(&snapshot, &PodAddresses::new());
    assert!(answers(&compiler, NODE.octets()) && !answers(&compiler, [203, 0, 113, 1]));
    let known = json!({"metadata": {"name": "node1"}, "status": {"addresses": [
        {"type": "InternalIP", "address": "172.30.77.11"}, {"type": "InternalIP", "address": "fd00::1"},
        {"type": "ExternalIP", "address": "203.0.113.1"}, {"type": "Hostname", "address": "203.0.113.2"}]}});
    snapshot.nodes.insert(own.clone(), serde_json::from_value(known).map(std::sync::Arc::new).unwrap());
    let _ = compiler.update(&snapshot, &PodAddresses::new());
    snapshot.nodes.remove(&own);
    let _ = compiler.update(&snapshot, &PodAddresses::new());
    for (ip, is) in [([172, 30, 77, 11], true), ([203, 0, 113, 1], true), ([203, 0, 113, 2], false)] {
        assert_eq!(answers(&compiler, ip), is, "{ip:?}");
    }
}

#[test]
fn policies_keep_clients_on_the_node() {
    let endpoints = json!([endpoint(1, ready()), endpoint(2, ready()), endpoint(3, ready())]);
    let frontends = compiled(spec(json!({"externalTrafficPolicy": "Local"})), endpoints.clone());
    for (ip, port) in [("172.30.77.11", 30080), ("198.51.100.1", 80), ("192.0.2.7", 80)] {
        let frontend = at(&frontends, ip, port);
        assert_eq!((last(&frontend.inside), last(&frontend.outside)), (vec![1, 2, 3], vec![1, 3]), "{ip}");
    }
    assert_eq!(last(&at(&frontends, "10.96.0.9", 80).outside), [1, 2, 3]);
    let frontends = compiled(spec(json!({"internalTrafficPolicy": "Local"})), endpoints);
    assert_eq!(last(&at(&frontends, "10.96.0.9", 80).inside), [1, 3]);
    assert_eq!(last(&at(&frontends, "172.30.77.11", 30080).outside), [1, 2, 3]);
}

#[test]
fn endpoints_that_end_serve_only_when_nobody_else_does() {
    let local = spec(json!({"externalTrafficPolicy": "Local"}));
    let of = |endpoints: Value| {
        let frontends = compiled(local.clone(), endpoints);
        let node_port = at(&frontends, "172.30.77.11", 30080);
        (last(&node_port.inside), last(&node_port.outside))
    };
    assert_eq!(of(json!([endpoint(1, ending()), endpoint(3, ready())])), (vec![3], vec![3]));
    assert_eq!(of(json!([endpoint(1, ending()), endpoint(2, ready())])), (vec![2], vec![1]), "on this node");
    assert_eq!(of(json!([endpoint(1, ending())])), (vec![1], vec![1]));
    assert_eq!(of(json!([endpoint(1, json!({"ready": false}))])), (vec![], vec![]), "clients are refused");
}

#[test]
fn zones_are_kept_when_every_endpoint_has_a_hint_and_one_is_here() {
    let hinted = |last: u8, zone: &str| {
        let mut endpoint = endpoint(last, ready());
        endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        endpoint
    };
    let of = |endpoints: Value| last(&at(&compiled(spec(json!({})), endpoints), "10.96.0.9", 80).inside);
    assert_eq!(of(json!([hinted(1, "a"), hinted(2, "b"), hinted(3, "a")])), [1, 3]);
    assert_eq!(of(json!([hinted(1, "a"), endpoint(2, ready())])), [1, 2], "one has no hint");
    assert_eq!(of(json!([hinted(1, "b"), hinted(2, "c")])), [1, 2], "none is for this zone");
}

#[test]
fn affinity_and_source_ranges_are_where_they_belong() {
    let changes =
        json!({"sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["10.0.0.9/8", " 192.0.2.0/24"]});
    let frontends = compiled(spec(changes), json!([endpoint(1, ready())]));
    assert!(frontends.values().all(|f| f.affinity == 10_800));
    let ranges: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
    assert_eq!(at(&frontends, "192.0.2.7", 80).ranges, ranges);
    assert!(at(&frontends, "172.30.77.11", 30080).ranges.is_empty(), "only at the load balancer's address");
    let timeout =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    assert_eq!(at(&compiled(spec(timeout), json!([])), "10.96.0.9", 80).affinity, 60);
}

#[test]
fn an_annotation_names_the_algorithm_and_maglev_has_a_table_for_clients_outside() {
    let with = |word: &str| {
        let mut snapshot = snapshot(spec(json!({})), json!([endpoint(1, ready()), endpoint(2, ready())]));
        let key = ("d".to_owned(), "web".to_owned());
        let mut service: Service = (**snapshot.services.get(&key).unwrap()).clone();
        service.metadata.annotations = Some(BTreeMap::from([(ALGORITHM.to_owned(), word.to_owned())]));
        snapshot.services.insert(key, Arc::new(service));
        all(&snapshot)
    };
    for (word, algorithm) in [("random", Algorithm::Random), ("another", Algorithm::RoundRobin)] {
        let frontends = with(word);
        assert!(frontends.values().all(|f| f.algorithm == algorithm && f.inside == f.outside), "{word}");
    }
    let frontends = with("maglev");
    for (ip, port) in [("172.30.77.11", 30080), ("198.51.100.1", 80), ("192.0.2.7", 80)] {
        let frontend = at(&frontends, ip, port);
        assert_eq!((frontend.inside.len(), frontend.outside.len()), (2, 1021), "{ip}");
    }
    for (ip, port) in [("127.0.0.1", 30080), ("10.96.0.9", 80)] {
        let frontend = at(&frontends, ip, port);
        assert_eq!(frontend.inside, frontend.outside, "nobody comes there from outside: {ip}");
    }
}

#[test]
fn headless_and_external_names_have_no_frontend() {
    let headless = json!({"clusterIP": "None", "externalIPs": ["198.51.100.1"], "ports": [{"name": "http", "port": 80}]});
    assert!(compiled(headless, json!([])).is_empty());
    assert!(compiled(json!({"type": "ExternalName", "externalName": "a.b"}), json!([])).is_empty());
}

#[test]
fn health_checks_count_the_ready_endpoints_of_the_node() {
    let with = json!({"externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
    let endpoints = json!([endpoint(1, ready()), endpoint(2, ready()), endpoint(3, ending())]);
    let checks = health_checks(&snapshot(spec(with), endpoints), "node1");
    assert_eq!((checks.len(), checks[&31000].local_endpoints), (1, 1));
    assert_eq!((checks[&31000].namespace.as_str(), checks[&31000].name.as_str()), ("d", "web"));
}

/// A pod of the node with such ports.
fn pod(snapshot: &mut Snapshot, name: &str, phase: &str, ports: Value) {
    let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "status": {"phase": phase},
        "spec": {"containers": [{"name": "c", "ports": ports}]}});
    snapshot.pods.insert(("d".to_owned(), name.to_owned()), Arc::new(serde_json::from_value(pod).unwrap()));
}

fn plugged(pods: &[(&str, u8)]) -> PodAddresses {
    pods.iter().map(|(uid, last)| ((*uid).to_owned(), Ipv4Addr::new(10, 244, 0, *last).into())).collect()
}

#[test]
fn host_ports_are_answered_at_addresses_of_the_node_and_nowhere_else() {
    let mut snapshot = snapshot(spec(json!({})), json!([endpoint(1, ready())]));
    let ports = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81, "hostPort": 8081, "hostIP": "0.0.0.0"},
        {"containerPort": 82, "hostPort": 8082, "hostIP": "127.0.0.1"}, {"containerPort": 83, "hostPort": 80, "hostIP": "10.96.0.9"},
        {"containerPort": 84}, {"containerPort": 85, "hostPort": 30080}]);
    pod(&mut snapshot, "web", "Pending", ports.clone());
    pod(&mut snapshot, "done", "Succeeded", json!([{"containerPort": 80, "hostPort": 8089}]));
    pod(&mut snapshot, "not-plugged", "Pending", json!([{"containerPort": 80, "hostPort": 8090}]));
    let mut compiler = Compiler::new("node1", NODE.into());
    let keys = compiler.update(&snapshot, &plugged(&[("web", 7), ("done", 8)]));
    let found: BTreeMap<(IpAddr, u16), (u16, bool)> = keys
        .into_iter()
        .filter_map(|key| Some((key, compiler.frontend(&key)?)))
        .filter(|(_, frontend)| frontend.name.service.starts_with("pod/"))
        .map(|(key, f)| ((key.ip, key.port), (f.outside[0].1, f.external)))
        .collect();
    let (node, local) = (IpAddr::V4(NODE), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let expected = [
        ((node, 8080), (80, true)),
        ((node, 8081), (81, true)),
        ((local, 8080), (80, false)),
        ((local, 8081), (81, false)),
        ((local, 8082), (82, false)),
    ];
    assert_eq!(found, BTreeMap::from(expected), "a NodePort is its Service's");
    let gone = compiler.update(&snapshot, &plugged(&[]));
    assert!(gone.iter().all(|key| compiler.frontend(key).is_none_or(|f| f.name.service == "web")));
}

#[test]
fn a_dual_stack_service_is_answered_by_endpoints_of_the_clients_family() {
    let dual = spec(json!({"clusterIPs": ["10.96.0.9", "fd00:10:96::9"],
        "externalIPs": ["198.51.100.1", "2001:db8::1"], "loadBalancerSourceRanges": ["10.0.0.0/8"]}));
    let mut snapshot = snapshot(dual, json!([endpoint(1, ready())]));
    let balanced = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}, {"ip": "2001:db8::7"}]}});
    let key = ("d".to_owned(), "web".to_owned());
    let mut service: Service = (**snapshot.services.get(&key).unwrap()).clone();
    service.status = serde_json::from_value(balanced).unwrap();
    snapshot.services.insert(key, Arc::new(service));
    let slice = json!({"metadata": {"labels": {SERVICE_LABEL: "web"}}, "addressType": "IPv6",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["fd00:10:244::7"], "conditions": ready(), "nodeName": "node1"}]});
    let key = ("d".to_owned(), "web-6".to_owned());
    snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
    pod(
        &mut snapshot,
        "h",
        "Running",
        json!([{"containerPort": 80, "hostPort": 8080},
        {"containerPort": 81, "hostPort": 8081, "hostIP": "::"}]),
    );

    let pods = PodAddresses::from([(
        "h".to_owned(),
        DualIp { v4: Ipv4Addr::new(10, 244, 0, 9), v6: Some("fd00:10:244::9".parse().unwrap()) },
    )]);
    let mut compiler = Compiler::new("node1", DUAL);
    let keys = compiler.update(&snapshot, &pods);
    let frontends: Frontends =
        keys.into_iter().filter_map(|key| Some((key, compiler.frontend(&key)?.clone()))).collect();
    let (node, node6) = (NODE.to_string(), NODE6.to_string());
    for (v4, v6, port) in [
        ("10.96.0.9", "fd00:10:96::9", 80),
        (&node, &node6, 30080),
        ("127.0.0.1", "::1", 30080),
        ("198.51.100.1", "2001:db8::1", 80),
        ("192.0.2.7", "2001:db8::7", 80),
    ] {
        assert_eq!(
            (last(&at(&frontends, v4, port).inside), last(&at(&frontends, v6, port).inside)),
            (vec![1], vec![7])
        );
    }
    let nobody: Vec<IpNet> = vec!["::/128".parse().unwrap()];
    assert_eq!(at(&frontends, "2001:db8::7", 80).ranges, nobody, "only ranges of IPv4 are listed");
    assert_eq!(last(&at(&frontends, &node6, 8080).outside), [9], "a hostPort too");
    assert!(
        !frontends.contains_key(&Door::new(NODE, 8081, 6))
            && frontends.contains_key(&Door::new(NODE6, 8081, 6))
    );
    let checks = health_checks(&snapshot, "node1");
    assert!(checks.is_empty());
    assert!(all(&snapshot).keys().all(|door| door.ip.is_ipv4()), "a node without IPv6 answers none");
}

/// One of three Services at one of two addresses with one of two sets of endpoints, or none of it.
type Step = (u8, Option<(u8, bool)>);

/// Numbers from 3 on are pods that want the port of the first address' Service, or another.
fn stepped(snapshot: &mut Snapshot, (service, what): Step) {
    if service >= 3 {
        let name = format!("p{service}");
        match what {
            Some((port, _)) => pod(
                snapshot,
                &name,
                "Running",
                json!([{"containerPort": 80, "hostPort": 30080 + i32::from(port)}]),
            ),
            None => drop(snapshot.pods.remove(&("d".to_owned(), name))),
        }
        return;
    }
    let key = ("d".to_owned(), format!("s{service}"));
    let Some((address, many)) = what else {
        snapshot.services.remove(&key);
        snapshot.endpoint_slices.remove(&key);
        return;
    };
    let object = json!({"metadata": {"name": key.1, "namespace": "d"},
        "spec": {"clusterIP": format!("10.96.0.{address}"),
            "ports": [{"name": "http", "port": 80, "nodePort": 30080 + i32::from(address)}]}});
    let endpoints = if many {
        vec![endpoint(1, ready()), endpoint(2, ready())]
    } else {
        vec![endpoint(service, ready())]
    };
    let slice = json!({"metadata": {"labels": {SERVICE_LABEL: key.1}}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
    snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(object).unwrap()));
    snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
}

proptest! {
    /// Also when two Services want one address, and the one that has it goes.
    #[test]
    fn what_was_compiled_step_by_step_is_what_is_compiled_at_once(
        steps in proptest::collection::vec((0..5_u8, proptest::option::of((0..2_u8, any::<bool>()))), 1..20),
    ) {
        let pods = plugged(&[("p3", 33), ("p4", 44)]);
        let mut snapshot = Snapshot::default();
        let mut compiler = Compiler::new("node1", NODE.into());
        let mut table = Frontends::new();
        for step in steps {
            stepped(&mut snapshot, step);
            for key in compiler.update(&snapshot, &pods) {
                match compiler.frontend(&key) {
                    Some(frontend) => drop(table.insert(key, frontend.clone())),
                    None => drop(table.remove(&key)),
                }
            }
            prop_assert_eq!(&table, &with_pods(&snapshot, &pods));
            prop_assert!(compiler.update(&snapshot, &pods).is_empty(), "the same again changes nothing");
        }
    }
}

/// `{"spec": of a Service, "endpoints": of a slice}`, as if nobody had checked them: what is compiled changes nothing the second time.
#[test]
fn fuzz_services() {
    oarlock_fuzz::Target::new("services").run(|input| {
        let Ok(made) = serde_json::from_slice::<Value>(input) else { return };
        let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": made["spec"], "status": made["status"]});
        let slice = json!({"metadata": {"labels": {SERVICE_LABEL: "web"}}, "addressType": "IPv4", "ports": made["ports"], "endpoints": made["endpoints"]});
        let (Ok(service), Ok(slice)) = (serde_json::from_value(service), serde_json::from_value(slice)) else { return };
        let mut snapshot = Snapshot::default();
        let key = ("d".to_owned(), "web".to_owned());
        snapshot.services.insert(key.clone(), std::sync::Arc::new(service));
        snapshot.endpoint_slices.insert(key, std::sync::Arc::new(slice));
        for own in [NODE.into(), DUAL] {
            let mut compiler = Compiler::new("node1", own);
            compiler.update(&snapshot, &PodAddresses::new());
            assert!(compiler.update(&snapshot, &PodAddresses::new()).is_empty());
        }
    });
}
