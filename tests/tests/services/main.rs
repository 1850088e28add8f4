//! Services' addresses and policies as clients outside and pods meet them, on real nodes. Needs root.

mod direct;
mod dual_stack;
mod policies;

use std::time::Duration;

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, run_in, shell, wait, xtask};
use oarlock_tests::load::count;
use serde_json::json;

const SOON: Duration = Duration::from_secs(20);
/// Addresses for documentation (RFC 5737); only the client's namespace has a route to them, through node 1.
const BALANCED: &str = "192.0.2.7";
const EXTERNAL: &str = "198.51.100.1";
/// The client's address, and another one that it takes.
const CLIENT_IP: &str = "172.30.77.200";
const OTHER_IP: &str = "203.0.113.5";
/// The client's namespace as a router, and a client behind it.
const ROUTER_IP: &str = "203.0.113.8";
const BEYOND_IP: &str = "203.0.113.9";

#[test]
fn clients_meet_a_services_addresses_and_policies() {
    let cluster = Cluster::up("embedded", "native");
    cluster.kubectl("apply -f manifests/quickstart/ -f manifests/services/");
    for name in ["near", "sticky", "web"] {
        cluster.kubectl(&format!("wait --for=condition=Available --timeout=60s deployment/{name}"));
    }
    let routes = format!(
        "ip route add {BALANCED} via {0} && ip route add {EXTERNAL} via {0} && ip addr add {OTHER_IP}/32 dev eth0",
        NODES[0]
    );
    assert!(run_in(CLIENT, &routes).well);
    for node in ["1", "2"] {
        let back = format!("ip route add {OTHER_IP} via {CLIENT_IP}");
        assert!(run_in(&format!("oarlock-node{node}"), &back).well);
    }

    names_lead_to_services(&cluster);
    dual_stack::a_service_is_reached_over_both_families(&cluster);
    local_policy_shows_the_client_and_answers_where_pods_are(&cluster);
    a_load_balancer_answers_those_who_may_ask(&cluster);
    datagrams_are_answered_by_whom_they_were_sent_to(&cluster);
    much_at_once_arrives_whole(CLIENT);
    a_narrow_way_to_a_client_is_found_out();
    a_pod_reaches_itself(&cluster);
    clients_keep_their_pod(&cluster);
    ports_of_a_node_are_a_pods(&cluster);
    the_plugin_shows_what_happens(&cluster);
    direct::pods_answer_clients_of_other_nodes_themselves(&cluster);
    a_change_of_type_takes_what_it_had(&cluster);
    policies::policies_say_who_may_talk_to_whom(&cluster);
    cluster.down();
}

/// `kubectl oarlock`, and `verify` on a node, on tables that all the tests before have used.
fn the_plugin_shows_what_happens(cluster: &Cluster) {
    let plugin = |words: &str| {
        let said = cluster.shell(&format!("export PATH=$PATH:$PWD/target/debug; {words}"));
        assert!(said.well, "{words}: {}", said.text);
        said.text
    };
    let maps = plugin("kubectl oarlock maps");
    assert!(maps.contains("node1   FRONTENDS") && maps.contains("node2   FLOWS "), "{maps}");
    let trace = plugin(&format!("kubectl oarlock trace {CLIENT_IP} {}:30080", NODES[1]));
    assert!(trace.contains("at node2\n") && trace.contains("is default/web:"), "{trace}");
    let trace = plugin("kubectl oarlock trace pod/toolbox svc/web");
    assert!(trace.contains("socket") && trace.contains("is default/web:"), "{trace}");

    // Connections by the NodePort, begun while others look.
    let curl = format!("nsenter --net=/run/netns/{CLIENT} curl -s -o /dev/null http://{}:30080/", NODES[0]);
    let during = format!("(for turn in 1 2 3 4 5; do sleep 0.5; {curl}; done) &");
    let services = plugin(&format!("{during} kubectl oarlock services --once --interval 3 -n default; wait"));
    let is_web = |line: &&str| line.starts_with("default     web");
    let web: Vec<&str> = services.lines().filter(is_web).flat_map(str::split_whitespace).collect();
    assert!(web.len() >= 9 && web[3..8].iter().all(|rate| *rate != "0"), "{services}");
    let flows = plugin(&format!("{during} kubectl oarlock flows --seconds 4; wait"));
    let seen =
        flows.lines().filter(|line| line.contains(" translated TCP ") && line.contains("(default/web:"));
    assert!(seen.count() >= 3, "{flows}");
    let web = cluster.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");
    let toolbox = "docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox)";
    let inside = format!("(sleep 1.5; {toolbox} wget -qO /dev/null http://{web}/) &");
    let flows = plugin(&format!("{inside} kubectl oarlock flows --seconds 4; wait"));
    assert!(flows.contains("socket translated TCP pod default/toolbox to "), "{flows}");
    let drops = plugin(&format!("{during} kubectl oarlock flows --drops --node node1 --seconds 2; wait"));
    assert!(!drops.contains("translated"), "{drops}");

    let verify = "target/debug/oarlock-agent dataplane verify --node-name node1";
    let verified = xtask(&["node", "1", "--", "sh", "-c", verify]);
    assert!(verified.well && verified.text.contains("tables are as wanted"), "{}", verified.text);
}

fn asked(url: &str, more: &str) -> String {
    run_in(CLIENT, &format!("curl -sS -m 2 {more} {url}")).text
}

fn names_lead_to_services(cluster: &Cluster) {
    let toolbox = |command: &str| {
        shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) {command}"))
    };
    for name in ["near", "near.default", "near.default.svc", "near.default.svc.cluster.local"] {
        wait(&format!("a pod asks {name}"), SOON, || {
            let said = toolbox(&format!("wget -qO- http://{name}/")).text;
            if said.contains("pod: near-") { Ok(()) } else { Err(said) }
        });
    }
    let address = |name: &str| {
        let said = toolbox(&format!("nslookup {name}"));
        // The first address is the server's own.
        let found = said.text.lines().filter_map(|line| line.strip_prefix("Address:")).nth(1);
        found.map(|ip| ip.trim().to_owned())
    };
    let cluster_ip =
        |name: &str| cluster.kubectl(&format!("get service {name} -o jsonpath='{{.spec.clusterIP}}'"));
    let near = cluster_ip("near");
    assert_eq!(address("near.default.svc.cluster.local").as_deref(), Some(near.trim()));
    assert_eq!(address("nobody.default.svc.cluster.local"), None);
    let conf = toolbox("cat /etc/resolv.conf").text;
    assert!(
        conf.contains("nameserver 10.96.0.10") && conf.contains("search default.svc.cluster.local"),
        "{conf}"
    );
    cluster.kubectl("create service clusterip fresh --tcp=80:80");
    let fresh = "fresh.default.svc.cluster.local";
    assert_eq!(address(fresh).as_deref(), Some(cluster_ip("fresh").trim()), "known at once");
    cluster.kubectl("delete service fresh");
    assert_eq!(address(fresh), None);
}

/// `hostPort`: one pod of a node has it, clients outside and inside meet that pod and it them, and nobody when it is gone.
fn ports_of_a_node_are_a_pods(cluster: &Cluster) {
    let run = |name: &str| {
        let spec = json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node1"}, "containers": [
            {"name": "web", "image": "oarlock/web:0.1.0", "ports": [{"containerPort": 80, "hostPort": 8088}]}]}});
        cluster.kubectl(&format!("run {name} --image=oarlock/web:0.1.0 --overrides='{spec}'"));
    };
    let [here, elsewhere] = NODES.map(|node| format!("http://{node}:8088/"));
    let answers = |name: &str| {
        wait(&format!("{name} answers at its node's port"), SOON, || {
            let said = asked(&here, "");
            let is =
                said.contains(&format!("pod: {name}")) && said.contains(&format!("client: {CLIENT_IP}:"));
            if is { Ok(()) } else { Err(said) }
        });
    };
    run("porter");
    answers("porter");
    assert!(!asked(&elsewhere, "").contains("pod:"), "only at its own node");
    let inside =
        shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) wget -qO- {here}"));
    assert!(inside.text.contains("pod: porter"), "{}", inside.text);
    let node = xtask(&["node", "1", "--", "curl", "-s", "-m", "2", "http://127.0.0.1:8088/"]);
    assert!(node.text.contains("pod: porter"), "{}", node.text);

    run("porter-2");
    wait("the second says why it waits", SOON, || {
        let said = cluster.kubectl("describe pod porter-2");
        let why = "1 node(s) didn't have free ports for the requested pod ports";
        if said.contains(why) { Ok(()) } else { Err(said) }
    });
    cluster.kubectl("delete pod porter");
    answers("porter-2");
    cluster.kubectl("delete pod porter-2");
    wait("nobody answers", SOON, || {
        let said = asked(&here, "");
        if said.contains("pod:") { Err(said) } else { Ok(()) }
    });
}

fn local_policy_shows_the_client_and_answers_where_pods_are(cluster: &Cluster) {
    let [here, elsewhere] = NODES.map(|node| format!("http://{node}:30085/"));
    wait("the node with the pod answers", SOON, || {
        let said = asked(&here, "");
        if said.contains(&format!("client: {CLIENT_IP}:")) { Ok(()) } else { Err(said) }
    });
    let refused = asked(&elsewhere, "");
    assert!(refused.contains("refused") || refused.contains("Couldn't connect"), "{refused}");
    // Pods are answered by all, at any node.
    let toolbox = "$(docker ps -q --filter name=k8s_toolbox_toolbox)";
    let inside = shell(&format!("docker exec {toolbox} wget -qO- {here}")).text;
    assert!(inside.contains("pod: near-"), "{inside}");

    let port = cluster.kubectl("get service near -o jsonpath='{.spec.healthCheckNodePort}'");
    assert!(port.parse::<u16>().is_ok_and(|port| port >= 30000), "{port}");
    let healthy = asked(&format!("http://{}:{port}/", NODES[0]), "-i");
    assert!(healthy.contains("200 OK") && healthy.contains("\"localEndpoints\":1"), "{healthy}");
    let idle = asked(&format!("http://{}:{port}/", NODES[1]), "-i");
    assert!(idle.contains("503") && idle.contains("\"localEndpoints\":0"), "{idle}");
}

fn a_load_balancer_answers_those_who_may_ask(cluster: &Cluster) {
    let url = format!("http://{BALANCED}/");
    assert_eq!(
        cluster.kubectl("get service near -o jsonpath='{.status.loadBalancer}'"),
        "{}",
        "nobody has said an address yet"
    );
    // As a controller of load balancers does. kubectl 1.20 knows no other way to a status.
    let mut service = cluster.json("get service near");
    service["status"]["loadBalancer"] = json!({"ingress": [{"ip": BALANCED}]});
    let path = "/api/v1/namespaces/default/services/near/status";
    cluster.kubectl(&format!("replace --raw {path} -f - <<'END'\n{service}\nEND"));
    wait("the load balancer's address answers", SOON, || {
        let said = asked(&url, "");
        if said.contains(&format!("client: {CLIENT_IP}:")) { Ok(()) } else { Err(said) }
    });
    let shown = cluster.kubectl("get service near");
    assert!(shown.contains(BALANCED), "{shown}");
    let denied = asked(&url, &format!("--interface {OTHER_IP}"));
    assert!(denied.contains("timed out"), "{denied}");
    cluster.kubectl("patch service near --type=merge -p '{\"spec\":{\"loadBalancerSourceRanges\":null}}'");
    wait("anybody may ask", SOON, || {
        let said = asked(&url, &format!("--interface {OTHER_IP}"));
        if said.contains(&format!("client: {OTHER_IP}:")) { Ok(()) } else { Err(said) }
    });
}

/// Ten megabytes there and back, as large as the links' offloads make packets, by local and by remote backends.
fn much_at_once_arrives_whole(client: &str) {
    let script = "
import socket, sys
lines = b''.join(b'X-%d: %s\\r\\n' % (n, b'y' * 1000) for n in range(10000))
for node in sys.argv[1:]:
    for _ in range(4):
        s = socket.create_connection((node, 30080), 10)
        s.sendall(b'GET / HTTP/1.1\\r\\nConnection: close\\r\\n' + lines + b'\\r\\n')
        answer = b''.join(iter(lambda: s.recv(1 << 20), b''))
        print('whole' if lines in answer else 'broken')
";
    let said = run_in(client, &format!("python3 -c \"{script}\" {}", NODES.join(" "))).text;
    assert_eq!(said.lines().collect::<Vec<_>>(), ["whole"; 8]);
}

/// A client behind a router whose other link takes less: the pods hear of it from the router, through their Service.
fn a_narrow_way_to_a_client_is_found_out() {
    struct Beyond;
    impl Drop for Beyond {
        fn drop(&mut self) {
            let _ = shell(&format!(
                "ip -n {CLIENT} link del beyond; ip netns del oarlock-beyond
                 for node in 1 2; do ip -n oarlock-node$node route del {BEYOND_IP}; done"
            ));
        }
    }
    let _end = Beyond;
    let made = shell(&format!(
        "set -e; ip netns add oarlock-beyond
         ip -n {CLIENT} link add beyond type veth peer name eth0 netns oarlock-beyond
         ip -n {CLIENT} link set beyond up; ip -n oarlock-beyond link set eth0 up
         ip -n {CLIENT} addr add {ROUTER_IP}/32 dev beyond; ip -n oarlock-beyond addr add {BEYOND_IP}/32 dev eth0
         ip -n {CLIENT} route add {BEYOND_IP}/32 dev beyond mtu lock 1300
         ip -n oarlock-beyond route add {ROUTER_IP}/32 dev eth0
         ip -n oarlock-beyond route add 172.30.77.0/24 via {ROUTER_IP}
         ip netns exec {CLIENT} sysctl -q net.ipv4.ip_forward=1
         for node in 1 2; do ip -n oarlock-node$node route add {BEYOND_IP} via {CLIENT_IP}; done"
    ));
    assert!(made.well, "{}", made.text);
    much_at_once_arrives_whole("oarlock-beyond");
    let heard =
        run_in("oarlock-node1", "curl -s http://127.0.0.1:10255/metrics | grep oarlock_dataplane_events")
            .text;
    assert!(heard.contains("reason=\"reported\"") && !heard.contains("reason=\"reported\"} 0"), "{heard}");
}

/// Of several from one port; a connected socket hears only whom it was connected to.
fn datagrams_are_answered_by_whom_they_were_sent_to(cluster: &Cluster) {
    let ip = cluster.kubectl("get service datagrams -o jsonpath='{.spec.clusterIP}'");
    for (node, client) in [(NODES[0], CLIENT_IP), (NODES[1], NODES[1])] {
        datagrams_show_the_client(node, client);
    }
    let inside = xtask(&["node", "2", "--", "sh", "-c", &send_datagrams(&ip, 80, 10_000)]).text;
    assert_eq!(count(&inside).values().collect::<Vec<_>>(), [&5], "{inside}");
    let nobody = run_in(CLIENT, &send_datagrams(NODES[1], 30087, 1)).text;
    assert!(nobody.contains("Connection refused"), "ICMP says so: {nobody}");
}

/// The client sends five of a length, and prints what is answered.
fn send_datagrams(address: &str, port: u16, length: usize) -> String {
    format!(
        "python3 -c \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); \
         s.connect(('{address}', {port})); [(s.send(b'%d' % i * {length}), print(s.recv(65000).decode())) \
         for i in range(5)]\""
    )
}

/// Who knocks at a node is this one to the pod.
fn datagrams_show_the_client(node: &str, client: &str) {
    // The longer ones come in seven fragments, and are answered in as many.
    for length in [1, 10_000] {
        let said = run_in(CLIENT, &send_datagrams(node, 30086, length)).text;
        assert_eq!(count(&said).values().collect::<Vec<_>>(), [&5], "{node}: {said}");
        assert_eq!(said.matches(&format!("client: {client}:")).count(), 5, "{node}: {said}");
        assert!(said.contains(&format!("request: {}\n", "4".repeat(length))), "{node}: {said}");
    }
}

/// By its Service's own address, and by the NodePort of its node and of another one.
fn a_pod_reaches_itself(cluster: &Cluster) {
    let inside = |command: &str| {
        shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) {command}")).text
    };
    let _ = inside("sh -c 'echo myself >/tmp/index.html; httpd -p 8080 -h /tmp'");
    cluster.kubectl("label pod toolbox app=self");
    cluster.kubectl("expose pod toolbox --name=self --port=80 --target-port=8080 --type=NodePort");
    a_pod_reaches_itself_at_all_addresses(cluster);
}

/// That of its Service and those of the nodes.
fn a_pod_reaches_itself_at_all_addresses(cluster: &Cluster) {
    let inside = |command: &str| {
        shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) {command}")).text
    };
    let ip = cluster.kubectl("get service self -o jsonpath='{.spec.clusterIP}'");
    let port = cluster.kubectl("get service self -o jsonpath='{.spec.ports[0].nodePort}'");
    for url in [ip, format!("{}:{port}", NODES[0]), format!("{}:{port}", NODES[1])] {
        wait(&format!("the pod reaches itself by {url}"), SOON, || {
            let said = inside(&format!("wget -qO- http://{url}/"));
            if said.trim() == "myself" { Ok(()) } else { Err(said) }
        });
    }
}

fn clients_keep_their_pod(cluster: &Cluster) {
    let ip = cluster.kubectl("get service sticky -o jsonpath='{.spec.clusterIP}'");
    let ten = |url: &str| format!("for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -m 2 {url}; done");
    let outside = count(&run_in(CLIENT, &ten(&format!("http://{EXTERNAL}/"))).text);
    assert_eq!(outside.values().collect::<Vec<_>>(), [&10], "{outside:?}");
    let toolbox = "$(docker ps -q --filter name=k8s_toolbox_toolbox)";
    let script = format!("for i in 1 2 3 4 5; do wget -qO- http://{ip}/; wget -qO- http://{EXTERNAL}/; done");
    let inside = count(&shell(&format!("docker exec {toolbox} sh -c '{script}'")).text);
    assert_eq!(inside.values().collect::<Vec<_>>(), [&10], "{inside:?}");
}

fn a_change_of_type_takes_what_it_had(cluster: &Cluster) {
    cluster.kubectl("patch service near --type=merge -p '{\"spec\":{\"type\":\"ClusterIP\"}}'");
    let service = cluster.json("get service near");
    for field in ["externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"] {
        assert!(service["spec"].get(field).is_none(), "{field}: {service}");
    }
    assert!(service["spec"]["ports"][0].get("nodePort").is_none(), "{service}");
    assert_eq!(service["status"]["loadBalancer"], json!({}), "{service}");
    wait("the NodePort is nobody's", SOON, || {
        let said = asked(&format!("http://{}:30085/", NODES[0]), "");
        if said.contains("pod: ") { Err(said) } else { Ok(()) }
    });
}
