//! `oarlock-agent proxy` instead of kube-proxy: nodes whose pods are plugged by somebody else (by hand), in namespaces of the
//! test's own, and a real API server that tells of them. Needs root.

#![expect(
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "helpers of tests panic, as tests do, and wait for something to go wrong by sleeping"
)]

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oarlock_tests::cluster::{Said, run_in, shell, wait};
use oarlock_tests::load::{Load, count};
use serde_json::{Value, json};

mod stage;

use stage::{CLIENT, CLUSTER_IP, CLUSTER_IP6, EXTERNAL, NODES, Stage, in_url, name, six};

const SOON: Duration = Duration::from_secs(30);
const NODE_PORT: u16 = 30180;
/// Of a Service that another proxy answers.
const OTHERS_PORT: u16 = 30181;
/// Of a Service whose backend is a process of the first node.
const HOST_PORT: u16 = 30182;
/// Of a Service whose backends' nodes talk by an overlay.
const OVERLAY_PORT: u16 = 30183;

#[test]
fn a_node_of_somebody_elses_answers_services_while_its_proxy_and_the_api_server_die() {
    let mut stage = Stage::set();
    stage.serve();
    stage.create(&objects());
    for node in [1, 2] {
        stage.proxy(node);
    }
    everybody_is_answered(&stage);
    what_is_not_ours_is_left_alone(&stage);
    health_and_metrics_are_told(&stage);
    parts_die_under_load(&mut stage);
    pods_behind_an_overlay_are_reached(&stage);
    what_was_made_can_be_taken_back(&mut stage);
}

/// Two nodes, and Services whose endpoints are written by hand.
fn objects() -> Vec<Value> {
    let node = |number: usize| {
        let internal = |ip: &str| json!({"type": "InternalIP", "address": ip});
        let four = NODES[number - 1];
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(&format!("node{number}"))},
            "status": {"addresses": [internal(four), internal(&six(four))]}})
    };
    let service = |name: &str, spec: Value, labels: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": spec})
    };
    let port = |number: u16| json!({"name": "http", "port": 80, "nodePort": number});
    let spec = |number: u16| json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": [port(number)]});
    let sctp = json!({"name": "sctp", "port": 132, "protocol": "SCTP"});
    let web = json!({"type": "NodePort", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP, CLUSTER_IP6],
        "ipFamilyPolicy": "RequireDualStack", "ports": [port(NODE_PORT), sctp]});
    let other = json!({"service.kubernetes.io/service-proxy-name": "another"});
    let mut first = node(1);
    let external = json!({"type": "ExternalIP", "address": EXTERNAL});
    first["status"]["addresses"].as_array_mut().expect("a list").push(external);
    vec![
        first,
        node(2),
        service("web", web, json!({})),
        slice("web", 8080, &[1, 2]),
        slice6("web", 8080, &[1, 2]),
        service("others", spec(OTHERS_PORT), other.clone()),
        labelled(slice("others", 8080, &[1]), &other),
        service("host", spec(HOST_PORT), json!({})),
        host_slice(),
        of_ipv6(host_slice()),
        service("headless", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}), json!({})),
    ]
}

/// The endpoints of a Service: the pods of these nodes.
fn slice(service: &str, port: u16, nodes: &[usize]) -> Value {
    let endpoint = |number: &usize| {
        json!({"addresses": [stage::pod_ip(*number)], "conditions": {"ready": true},
            "nodeName": name(&format!("node{number}"))})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "hand"}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": nodes.iter().map(endpoint).collect::<Vec<_>>()})
}

/// The same slice with addresses of IPv6.
fn of_ipv6(mut slice: Value) -> Value {
    slice["addressType"] = json!("IPv6");
    slice["metadata"]["name"] =
        json!(format!("{}-six", slice["metadata"]["name"].as_str().unwrap_or_default()));
    for endpoint in slice["endpoints"].as_array_mut().into_iter().flatten() {
        let ip = six(endpoint["addresses"][0].as_str().unwrap_or_default());
        endpoint["addresses"] = json!([ip]);
    }
    slice
}

fn slice6(service: &str, port: u16, nodes: &[usize]) -> Value {
    of_ipv6(slice(service, port, nodes))
}

fn host_slice() -> Value {
    let mut slice = slice("host", 9000, &[1]);
    slice["endpoints"][0]["addresses"] = json!([NODES[0]]);
    slice
}

fn labelled(mut object: Value, labels: &Value) -> Value {
    for (key, value) in labels.as_object().into_iter().flatten() {
        object["metadata"]["labels"][key] = value.clone();
    }
    object
}

fn from_client(url: &str) -> Said {
    run_in(&name(CLIENT), &format!("curl -sS -m 3 {url}"))
}

/// Who answers twenty requests.
fn who(mut ask: impl FnMut() -> Said) -> Result<Vec<String>, String> {
    let answers: Vec<Said> = (0..20).map(|_| ask()).collect();
    match answers.iter().find(|said| !said.well) {
        Some(failed) => Err(failed.text.clone()),
        None => Ok(count(&answers.iter().map(|said| &*said.text).collect::<String>()).into_keys().collect()),
    }
}

fn answers(what: &str, expected: &[&str], mut ask: impl FnMut() -> Said) {
    wait(&format!("{expected:?} answer {what}"), SOON, || match who(&mut ask)? {
        pods if pods == expected => Ok(()),
        pods => Err(format!("{pods:?} answer")),
    });
}

/// The nodes' addresses of both families.
fn everywhere() -> impl Iterator<Item = String> {
    NODES.iter().flat_map(|ip| [(*ip).to_owned(), in_url(&six(ip))])
}

fn everybody_is_answered(stage: &Stage) {
    for node in everywhere().chain([EXTERNAL.to_owned()]) {
        answers(&format!("at the NodePort of {node}"), &["pod1", "pod2"], || {
            from_client(&format!("http://{node}:{NODE_PORT}/"))
        });
    }
    for (namespace, node) in [("pod1", 1), ("node1", 1), ("pod2", 2)] {
        for ip in [CLUSTER_IP, CLUSTER_IP6].map(in_url) {
            answers(&format!("at the ClusterIP {ip} in {namespace}"), &["pod1", "pod2"], || {
                stage.below(node, namespace, &format!("curl -sS -m 3 http://{ip}/"))
            });
        }
    }
    for loopback in ["127.0.0.1", "[::1]"] {
        answers("on the node itself", &["pod1", "pod2"], || {
            stage.below(1, "node1", &format!("curl -sS -m 3 http://{loopback}:{NODE_PORT}/"))
        });
    }
    for node in everywhere() {
        answers("for a process of the node", &["host"], || {
            from_client(&format!("http://{node}:{HOST_PORT}/"))
        });
    }
}

fn what_is_not_ours_is_left_alone(stage: &Stage) {
    let refused = from_client(&format!("http://{}:{OTHERS_PORT}/", NODES[0]));
    assert!(!refused.well && refused.text.contains("connect"), "{}", refused.text);
    // A pod's loopback is its own.
    let own = stage.below(1, "pod1", &format!("curl -sS -m 3 http://127.0.0.1:{NODE_PORT}/"));
    assert!(!own.well && own.text.contains("connect"), "{}", own.text);
    // What somebody else's pods begin keeps its address.
    let seen = run_in(&name("pod1"), &format!("curl -sS -m 3 http://{}:9000/", stage::CLIENT_IP));
    assert!(seen.text.contains(&format!("client: {}", stage::pod_ip(1))), "{}", seen.text);
    let log = stage.log("proxy1");
    assert!(log.contains("port 132 is of SCTP"), "{log}");
}

fn health_and_metrics_are_told(stage: &Stage) {
    let healthz = from_client(&format!("http://{}:10256/healthz", NODES[0]));
    let body: Value = serde_json::from_str(&healthz.text).unwrap_or_default();
    assert_eq!(body["nodeEligible"], true, "{}", healthz.text);
    assert!(body["lastUpdated"].as_str().is_some_and(|time| time.starts_with("20")), "{body}");
    let metrics = stage.metrics(1);
    assert!(metrics.contains("oarlock_proxy_unsupported_services 1"), "{metrics}");
    assert!(metrics.contains("oarlock_dataplane_uplink_info{interface=\"eth0\",mode=\"tc\"} 1"), "{metrics}");
}

fn parts_die_under_load(stage: &mut Stage) {
    let outside: Vec<Load> = NODES
        .iter()
        .map(|ip| Load::start(&name(CLIENT), SocketAddr::new(ip.parse().expect("an address"), NODE_PORT)))
        .collect();
    let inside = Inside::start(stage);
    std::thread::sleep(Duration::from_secs(1));

    stage.kill("proxy1");
    std::thread::sleep(Duration::from_secs(1));
    stage.proxy(1);
    wait("the new proxy has written", SOON, || listed(stage, 1));

    // The API server dies, then a proxy, which begins without it.
    stage.kill("control");
    std::thread::sleep(Duration::from_secs(1));
    stage.kill("proxy1");
    stage.proxy(1);
    wait("the proxy is well on the tables of the one before", SOON, || {
        let healthz = from_client(&format!("http://{}:10256/healthz", NODES[0]));
        if healthz.text.contains("nodeEligible\":true") { Ok(()) } else { Err(healthz.text) }
    });
    // Long enough for many of the client's ports to have been the pod's that leaves: they come again.
    std::thread::sleep(Duration::from_secs(8));
    stage.serve();
    stage.create(&[slice("web", 8080, &[1]), slice6("web", 8080, &[1])]);
    for node in everywhere() {
        answers("after one has left", &["pod1"], || from_client(&format!("http://{node}:{NODE_PORT}/")));
    }
    answers("inside too", &["pod1"], || {
        stage.below(2, "pod2", &format!("curl -sS -m 3 http://{CLUSTER_IP}/"))
    });

    let said = inside.end(stage);
    assert!(
        !said.contains("failed") && said.trim().parse::<u32>().is_ok_and(|n| n > 50),
        "ClusterIP: {said}"
    );
    for load in outside {
        let (well, failures) = load.end();
        assert_eq!(failures, Vec::<String>::new(), "NodePort; {well} were answered");
        assert!(well > 500, "only {well} were answered");
    }
}

/// Whether the running proxy has listed everything.
fn listed(stage: &Stage, node: usize) -> Result<(), String> {
    let metrics = stage.metrics(node);
    let is_listed = ["services", "endpointslices", "nodes"].iter().all(|resource| {
        metrics.contains(&format!(
            "oarlock_proxy_watch_events_total{{resource=\"{resource}\",event=\"list\"}} 1"
        ))
    });
    if is_listed { Ok(()) } else { Err(metrics) }
}

/// Requests of a pod to the ClusterIP, one after the other.
struct Inside {
    asking: Child,
}

impl Inside {
    fn start(stage: &Stage) -> Self {
        let end = stage.path("end");
        let script = format!(
            "while [ ! -e {end} ]; do \
             if curl -sS -o /dev/null -m 3 http://{CLUSTER_IP}/ 2>&1; then well=$((well+1)); else echo failed; fi; done; echo $well"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &stage.entering(1, "pod1", &script)]).stdout(Stdio::piped());
        Self { asking: command.spawn().expect("there is a shell") }
    }

    fn end(self, stage: &Stage) -> String {
        std::fs::write(stage.path("end"), "").expect("the folder is the test's");
        let output = self.asking.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn pods_behind_an_overlay_are_reached(stage: &Stage) {
    stage.lay_over();
    // A Service of its own: the kernel remembers by which way connections to the others went.
    let ports = json!([{"name": "http", "port": 80, "nodePort": OVERLAY_PORT}]);
    let far = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far", "namespace": "default"},
        "spec": {"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": ports}});
    stage.create(&[far, slice("far", 8080, &[1, 2]), slice6("far", 8080, &[1, 2])]);
    for node in everywhere() {
        answers("over the overlay", &["pod1", "pod2"], || {
            from_client(&format!("http://{node}:{OVERLAY_PORT}/"))
        });
    }
    for (node, inside) in
        [(NODES[0].to_owned(), stage::overlay_ip(1)), (six(NODES[0]), six(&stage::overlay_ip(1)))]
    {
        let url = format!("http://{}:{OVERLAY_PORT}/", in_url(&node));
        let seen: String = (0..8).map(|_| from_client(&url).text).collect();
        let elsewhere = format!("pod: pod2\nclient: {}:", in_url(&inside));
        assert!(seen.contains(&elsewhere), "replies come back by the overlay: {seen}");
    }
}

fn what_was_made_can_be_taken_back(stage: &mut Stage) {
    stage.kill("proxy1");
    let said = from_client(&format!("http://{}:{NODE_PORT}/", NODES[0]));
    assert!(said.well, "nobody is needed to answer: {}", said.text);
    let cleanup = stage.clean_up(1);
    assert!(cleanup.well, "{}", cleanup.text);
    // The kernel lets programs go a moment after their pins.
    wait("nobody answers", SOON, || {
        let said = from_client(&format!("http://{}:{NODE_PORT}/", NODES[0]));
        if said.well { Err(said.text) } else { Ok(()) }
    });
    let pins = shell(&format!("ls /sys/fs/bpf/oarlock/{}", name("node1")));
    assert!(!pins.well, "{}", pins.text);
}
