//! Pods of nodes that a router is between, which passes nothing with a pod's address.

use std::time::Instant;

use oarlock_tests::cluster::{CLIENT, Cluster, FAR_NODES, FAR_NODES6, run_in, shell, wait, xtask};
use serde_json::json;

use super::SOON;

/// A pod's name, its node, and what can be asked of it.
struct Pod {
    name: &'static str,
    ip: String,
    ip6: Option<String>,
    pid: String,
}

impl Pod {
    fn run(cluster: &Cluster, name: &'static str, node: usize, annotations: &serde_json::Value) {
        let spec = json!({"metadata": {"annotations": annotations}, "spec": {"nodeSelector": {"kubernetes.io/hostname": format!("node{node}")},
                                   "terminationGracePeriodSeconds": 1}});
        cluster.kubectl(&format!(
            "run {name} --image=oarlock/web:0.1.0 --labels=run={name} --overrides='{spec}'"
        ));
    }

    fn ready(cluster: &Cluster, name: &'static str) -> Self {
        cluster.kubectl(&format!("wait --for=condition=Ready --timeout=60s pod/{name}"));
        let ips = cluster.json(&format!("get pod {name}"))["status"]["podIPs"].take();
        let ip = |at: usize| ips[at]["ip"].as_str().map(str::to_owned);
        let (ip, ip6) = (ip(0).unwrap_or_default(), ip(1));
        let pid = shell(&format!(
            "docker inspect -f '{{{{.State.Pid}}}}' $(docker ps -q --filter name=k8s_{name}_{name})"
        ));
        Self { name, ip, ip6, pid: pid.text.trim().to_owned() }
    }

    /// A command in the pod's network, and in its cgroup, where its socket programs are.
    fn shell(&self, command: &str) -> String {
        let cgroup = "$(awk '$3==\"cgroup2\"{print $2; exit}' /proc/self/mounts)";
        let enter = format!("echo $$ >{cgroup}$(sed -n 's/^0:://p' /proc/{}/cgroup)/cgroup.procs", self.pid);
        shell(&format!("{enter} && exec nsenter -t {} -n sh <<'END'\n{command}\nEND", self.pid)).text
    }
}

fn curl(url: &str) -> String {
    format!("curl -sS -m 3 http://{url}/")
}

pub(super) fn pods_of_other_networks_are_reached(cluster: &Cluster) {
    let limited = |limit| {
        json!({"kubernetes.io/ingress-bandwidth": "16M", "kubernetes.io/egress-bandwidth": limit,
               "dataplane.oarlock.io/socket-lb": "disabled"})
    };
    Pod::run(cluster, "here", 1, &json!({}));
    Pod::run(cluster, "there", 2, &json!({}));
    Pod::run(cluster, "slow", 1, &limited("16M"));
    Pod::run(cluster, "mesh", 1, &json!({"dataplane.oarlock.io/socket-lb": "disabled"}));
    Pod::run(cluster, "never", 1, &limited("16"));
    let [here, there] = ["here", "there"].map(|name| Pod::ready(cluster, name));
    cluster.kubectl("expose pod there --name=away --type=NodePort --port=80");
    cluster.kubectl("patch service away -p '{\"spec\":{\"ipFamilyPolicy\":\"PreferDualStack\"}}'");
    let service = cluster.json("get service away");
    let (ip, port) =
        (service["spec"]["clusterIP"].as_str().unwrap_or_default(), &service["spec"]["ports"][0]["nodePort"]);
    for node in ["node1", "node2"] {
        let routing = "{.metadata.annotations.dataplane\\.oarlock\\.io/routing}";
        let said = cluster.kubectl(&format!("get node {node} -o jsonpath='{routing}'"));
        assert_eq!(said, "vxlan mtu=1450", "{node}");
    }

    let from = |client: &str| format!("pod: {}\nclient: {client}:", there.name);
    let said = here.shell(&curl(&there.ip));
    assert!(said.contains(&from(&here.ip)), "pod to pod, by their own addresses: {said}");
    wait("pods reach it by its Service", SOON, || {
        let said = here.shell(&curl(ip));
        if said.contains(&from(&here.ip)) { Ok(()) } else { Err(said) }
    });
    let said = run_in(CLIENT, &curl(&format!("{}:{port}", FAR_NODES[1]))).text;
    assert!(said.contains(&from("172.30.77.200")), "its own node shows the client: {said}");
    let inside = cluster.kubectl("get node node1 -o jsonpath='{.spec.podCIDR}'").replace("/24", "");
    let said = run_in(CLIENT, &curl(&format!("{}:{port}", FAR_NODES[0]))).text;
    assert!(said.contains(&from(&inside)), "the other one its own address in the tunnel: {said}");
    let said = run_in("oarlock-node1", &curl(&there.ip)).text;
    assert!(said.contains(&from(&inside)), "so do the node's processes: {said}");
    let serve = format!("timeout 20 python3 -m http.server 8123 --bind {} >/dev/null 2>&1 &", FAR_NODES[1]);
    assert!(run_in("oarlock-node2", &serve).well);
    wait("pods reach the other node, which sees theirs", SOON, || {
        let said = here.shell(&curl(&format!("{}:8123", FAR_NODES[1])));
        if said.contains("Directory listing") { Ok(()) } else { Err(said) }
    });
    much_arrives_whole(&here, &there.ip, port, FAR_NODES[0]);
    if let (Some(here6), Some(there6)) = (&here.ip6, &there.ip6) {
        so_are_they_over_ipv6(cluster, (&here, here6), (&there, there6), &service);
    }
    pods_are_as_slow_as_they_should(cluster, &here);
    a_pod_that_wants_it_is_served_packet_by_packet(cluster, &here, &there);

    let verify = "target/debug/oarlock-agent dataplane verify --node-name node1";
    let verified = xtask(&["node", "1", "--", "sh", "-c", verify]).text;
    let ranges = if here.ip6.is_some() { 2 } else { 1 };
    let expected = format!("0 other nodes' pods reached directly, {ranges} by VXLAN");
    assert!(verified.contains(&expected), "{verified}");
}

/// The same over IPv6, inside the same tunnel.
fn so_are_they_over_ipv6(
    cluster: &Cluster,
    (here, here6): (&Pod, &str),
    (there, there6): (&Pod, &str),
    service: &serde_json::Value,
) {
    let from = |client: &str| format!("pod: {}\nclient: [{client}]:", there.name);
    let said = here.shell(&curl(&format!("[{there6}]")));
    assert!(said.contains(&from(here6)), "pod to pod, by their own addresses: {said}");
    let ip6 = service["spec"]["clusterIPs"][1].as_str().unwrap_or_default();
    let port = &service["spec"]["ports"][0]["nodePort"];
    wait("pods reach it by its Service's address of IPv6", SOON, || {
        let said = here.shell(&curl(&format!("[{ip6}]")));
        if said.contains(&from(here6)) { Ok(()) } else { Err(said) }
    });
    let said = run_in(CLIENT, &curl(&format!("[{}]:{port}", FAR_NODES6[1]))).text;
    assert!(said.contains(&from("fd00:172:30:77::200")), "its own node shows the client: {said}");
    // The range of IPv6, and the first address of the one of IPv4 at its end.
    let ranges = &cluster.json("get node node1")["spec"]["podCIDRs"];
    let range = |at: usize| ranges[at].as_str().unwrap_or_default().split('/').next().unwrap_or_default();
    let first: std::net::Ipv4Addr = range(0).parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
    let inside: Result<std::net::Ipv6Addr, _> = format!("{}{first}", range(1)).parse();
    let inside = inside.map_or_else(|why| format!("{ranges}: {why}"), |ip| ip.to_string());
    let said = run_in(CLIENT, &curl(&format!("[{}]:{port}", FAR_NODES6[0]))).text;
    assert!(said.contains(&from(&inside)), "the other one its own address in the tunnel: {said}");
    let said = run_in("oarlock-node1", &curl(&format!("[{there6}]"))).text;
    assert!(said.contains(&from(&inside)), "so do the node's processes: {said}");
    let own = FAR_NODES6[1];
    let serve = format!("timeout 20 python3 -m http.server 8124 --bind {own} >/dev/null 2>&1 &");
    assert!(run_in("oarlock-node2", &serve).well);
    wait("pods reach the other node over IPv6, which sees theirs", SOON, || {
        let said = here.shell(&curl(&format!("[{own}]:8124")));
        if said.contains("Directory listing") { Ok(()) } else { Err(said) }
    });
    much_arrives_whole(here, there6, port, FAR_NODES6[0]);
}

/// Megabytes there and back again.
const MUCH: &str = "
import socket, sys
lines = b''.join(b'X-%d: %s\\r\\n' % (n, b'y' * 1000) for n in range(5000))
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
s.sendall(b'GET / HTTP/1.1\\r\\nConnection: close\\r\\n' + lines + b'\\r\\n')
answer = b''.join(iter(lambda: s.recv(1 << 20), b''))
print('whole' if lines in answer else 'broken')
";

fn python(script: &str, to: &str) -> String {
    format!("python3 -c \"{script}\" {to}")
}

/// Annotations of a pod hold for what comes to it from a neighbour and for what it sends.
fn pods_are_as_slow_as_they_should(cluster: &Cluster, here: &Pod) {
    let slow = Pod::ready(cluster, "slow");
    let begin = Instant::now();
    assert_eq!(here.shell(&python(MUCH, &format!("{} 80", slow.ip))).trim(), "whole");
    // Five megabytes each way at two a second, of which buckets and buffers let something go at once.
    let seconds = begin.elapsed().as_secs_f64();
    assert!((3.0..30.0).contains(&seconds), "{seconds} s");
    let trace = cluster.shell("export PATH=$PATH:$PWD/target/debug; kubectl oarlock trace pod/slow svc/away");
    assert!(trace.text.contains("pod's link (tc)") && !trace.text.contains("socket"), "{}", trace.text);
    wait("a limit that nothing could pass is refused", SOON, || {
        let said = cluster.kubectl("describe pod never");
        let why = "kubernetes.io/egress-bandwidth is \"16\": resource is unreasonably small (< 1kbit)";
        if said.contains("FailedCreatePodSandBox") && said.contains(why) { Ok(()) } else { Err(said) }
    });
}

/// Megabytes, and datagrams longer than a packet. Of connections nothing is cut into fragments on the way.
fn much_arrives_whole(here: &Pod, there: &str, port: &serde_json::Value, node: &str) {
    let pieces = || {
        let nodes = ["oarlock-node1", "oarlock-node2", "oarlock-fabric"];
        let made =
            "awk '$1==\"Ip:\"{print $19}' /proc/net/snmp | tail -1; grep Ip6FragCreates /proc/net/snmp6";
        nodes.map(|node| run_in(node, made).text)
    };
    let datagram = "
import socket, sys
to = socket.getaddrinfo(sys.argv[1], 80, 0, socket.SOCK_DGRAM)[0]
s = socket.socket(*to[:2])
s.settimeout(5)
s.sendto(b'x' * 10000, to[4])
print('whole' if b'x' * 10000 in s.recv(65000) else 'broken')
";
    let before = pieces();
    assert_eq!(here.shell(&python(MUCH, &format!("{there} 80"))).trim(), "whole");
    let by_node = run_in(CLIENT, &python(MUCH, &format!("{node} {port}"))).text;
    assert_eq!(by_node.trim(), "whole");
    assert_eq!(pieces(), before, "packets of connections fit into the tunnel");
    assert_eq!(here.shell(&python(datagram, there)).trim(), "whole");
}

/// Services are translated at the pod's link: the pod's own sockets know nothing of backends. Whoever answers: a pod of another
/// node, a neighbour, the pod itself, the node (the cluster's DNS), a machine outside (the API server), or nobody.
fn a_pod_that_wants_it_is_served_packet_by_packet(cluster: &Cluster, here: &Pod, there: &Pod) {
    let mesh = Pod::ready(cluster, "mesh");
    for pod in ["mesh", "here"] {
        cluster.kubectl(&format!("expose pod {pod} --name=to-{pod} --port=80"));
    }
    cluster.kubectl("create service clusterip to-nobody --tcp=80:80");
    let ip = |name: &str| cluster.kubectl(&format!("get service {name} -o jsonpath='{{.spec.clusterIP}}'"));
    let answered = |service: &str, by: &Pod, seen: &str| {
        wait(&format!("{} answers for {service}", by.name), SOON, || {
            let said = mesh.shell(&curl(&ip(service)));
            if said.contains(&format!("pod: {}\nclient: {seen}:", by.name)) { Ok(()) } else { Err(said) }
        });
    };
    answered("away", there, &mesh.ip);
    answered("to-here", here, &mesh.ip);
    answered("to-mesh", &mesh, "172.30.77.11");
    // Over IPv6, on a machine that has it.
    let dual = json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}});
    cluster.kubectl(&format!("patch service to-here -p '{dual}'"));
    let service = cluster.json("get service to-here");
    let (pod, mine) = (cluster.json("get pod here"), cluster.json("get pod mesh"));
    if let Some(six) = service["spec"]["clusterIPs"][1].as_str() {
        let seen = format!("client: [{}]:", mine["status"]["podIPs"][1]["ip"].as_str().unwrap_or_default());
        wait("the pod answers over IPv6", SOON, || {
            let said = mesh.shell(&format!("curl -sS -m 3 'http://[{six}]/'"));
            if said.contains("pod: here\n") && said.contains(&seen) {
                Ok(())
            } else {
                Err(format!("{said}{pod}"))
            }
        });
    }
    let peers = "
import socket, subprocess, sys
s = socket.create_connection((sys.argv[1], 80), 5)
print(subprocess.run(['ss', '-Htn'], capture_output=True, text=True).stdout)
";
    let away = ip("away");
    let said = mesh.shell(&python(peers, &away));
    assert!(said.contains(&format!("{away}:80")) && !said.contains(&there.ip), "{said}");
    let said = here.shell(&python(peers, &away));
    assert!(said.contains(&there.ip), "others are served at the socket: {said}");

    let said = mesh.shell("busybox nslookup away.default.svc.cluster.local 10.96.0.10");
    assert!(said.contains(&away), "the node's own DNS: {said}");
    let said = mesh.shell("curl -sk -m 3 https://10.96.0.1/version");
    assert!(said.contains("gitVersion"), "the API server: {said}");
    let said = mesh.shell(&curl(&ip("to-nobody")));
    assert!(!said.contains("timed out") && said.contains("curl: (7)"), "nobody: refused at once: {said}");

    // What a policy names are the backends.
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "mesh"}, "spec": {
        "podSelector": {"matchLabels": {"run": "mesh"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"run": "there"}}}]}]}});
    cluster.kubectl(&format!("apply -f - <<'END'\n{policy}\nEND"));
    wait("what is not allowed is not reached", SOON, || {
        let said = mesh.shell(&curl(&ip("to-here")));
        if said.contains("timed out") { Ok(()) } else { Err(said) }
    });
    answered("away", there, &mesh.ip);
    answered("to-mesh", &mesh, "172.30.77.11");
}
