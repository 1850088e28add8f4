//! Parts that die under load: traffic goes on, nothing acknowledged is lost, everything comes back. Needs root.

#![expect(clippy::disallowed_methods, reason = "a test that waits for something to go wrong sleeps")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, run_in, shell, wait};
use oarlock_tests::load::Load;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn traffic_and_objects_outlive_agents_control_plane_and_store() {
    let cluster = Cluster::up("etcd", "best-effort");
    cluster.kubectl("apply -f manifests/quickstart/");
    cluster.web_is_ready(3);

    strangers_are_refused(&cluster);
    agents_killed_under_load(&cluster);
    connections_outlive_rollouts(&cluster);
    control_plane_killed_while_it_writes(&cluster);
    a_store_that_hangs(&cluster);
    cluster.down();
}

/// From outside by NodePort, from a pod by ClusterIP: the loads under which parts die.
struct Loads {
    outside: Load,
    inside: std::thread::JoinHandle<String>,
}

impl Loads {
    fn start(cluster: &Cluster) -> Self {
        let ip = cluster.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");
        // What the API says has to reach the nodes first.
        wait("the ClusterIP answers in a pod", SOON, || {
            let said = shell(&format!(
                "docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) wget -qO- http://{ip}/"
            ));
            if said.text.contains("pod: ") { Ok(()) } else { Err(said.text) }
        });
        wait("the NodePort answers outside", SOON, || {
            let said = run_in(CLIENT, "curl -sS -m 3 http://172.30.77.12:30080/");
            if said.text.contains("pod: ") { Ok(()) } else { Err(said.text) }
        });
        let script = format!(
            "rm -f /tmp/end; well=0; while [ ! -e /tmp/end ]; do \
             if wget -qO /dev/null http://{ip}/; then well=$((well+1)); else echo failed; fi; done; echo $well"
        );
        let inside = std::thread::spawn(move || {
            shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) sh -c '{script}'"))
                .text
        });
        Self { outside: Load::start(CLIENT, SocketAddr::from(([172, 30, 77, 12], 30080))), inside }
    }

    fn end(self, while_: &str) {
        let (well, failures) = self.outside.end();
        assert_eq!(failures, Vec::<String>::new(), "NodePort {while_}; {well} were answered");
        let _ = shell("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) touch /tmp/end");
        let inside = self.inside.join().unwrap_or_default();
        assert!(!inside.contains("failed"), "ClusterIP {while_}: {inside}");
        assert!(well > 50 && inside.trim().parse::<u32>().is_ok_and(|n| n > 50), "{while_}: {well} {inside}");
    }
}

/// An agent with a wrong token, and one that meets a server which is not the one it was told of.
fn strangers_are_refused(cluster: &Cluster) {
    let run = |more: &str| {
        let command = format!(
            "cd {} && echo aaaaaa.bbbbbbbbbbbbbbbb >wrong-token && timeout 3 ../debug/oarlock-agent run --node-name stranger \
             --server https://172.30.77.1:6444 --data-dir stranger --node-ip 172.30.77.200 --uplink eth0 {more} 2>&1",
            Cluster::folder().display()
        );
        run_in(CLIENT, &command).text
    };
    let wrong_token = run("--token-file wrong-token --ca-file control/pki/ca.crt");
    assert!(wrong_token.contains("the join token is wrong"), "{wrong_token}");
    let hash = "0".repeat(64);
    let wrong_server = run(&format!("--token-file control/join-token --ca-hash sha256:{hash}"));
    assert!(wrong_server.contains("no session with the control plane"), "{wrong_server}");
    assert!(!wrong_server.contains("joined the cluster"), "{wrong_server}");
    assert!(!cluster.shell("kubectl get node stranger").well);
    let _ = shell(&format!("cd {} && rm -r stranger wrong-token", Cluster::folder().display()));
}

fn agents_killed_under_load(cluster: &Cluster) {
    let containers = shell("docker ps -q --filter label=oarlock.io/node").text;
    let ready =
        "get nodes -o jsonpath='{.items[*].status.conditions[?(@.type==\"Ready\")].lastTransitionTime}'";
    let since = cluster.kubectl(ready);
    let slices = "get endpointslices -l kubernetes.io/service-name=web -o jsonpath='{.items[*].metadata.resourceVersion}'";
    let endpoints = cluster.kubectl(slices);
    let loads = Loads::start(cluster);
    // More than once: what goes wrong for a tenth of a second is not always met.
    for _ in 0..3 {
        for node in ["node1", "node2"] {
            cluster.signal(node, "KILL");
        }
        std::thread::sleep(Duration::from_secs(1));
        cluster.up_again();
        std::thread::sleep(Duration::from_secs(1));
    }
    loads.end("while the agents were killed and came back");
    assert_eq!(
        shell("docker ps -q --filter label=oarlock.io/node").text,
        containers,
        "no container was touched"
    );
    assert_eq!(cluster.kubectl(ready), since, "the nodes were Ready all the time");
    assert_eq!(cluster.kubectl(slices), endpoints, "the pods were endpoints all the time");
}

/// Two web servers that stay, one on each node, beside those of the quickstart that are replaced.
const STEADY: &str = "apiVersion: v1
kind: Service
metadata: {name: steady}
spec:
  type: NodePort
  selector: {app: steady}
  ports: [{port: 80, nodePort: 30081}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: steady}
spec:
  selector: {matchLabels: {app: steady}}
  template:
    metadata: {labels: {app: steady}}
    spec: {containers: [{name: web, image: 'oarlock/web:0.1.0'}]}
";

/// Connections to pods that stay, and requests to pods that are replaced, while pods are replaced and agents killed.
fn connections_outlive_rollouts(cluster: &Cluster) {
    let rollouts = std::env::var("OARLOCK_ROLLOUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let said = cluster.shell(&format!("kubectl apply -f - <<'END'\n{STEADY}END"));
    assert!(said.well, "{}", said.text);
    cluster.kubectl("rollout status daemonset steady --timeout=60s");
    let ip = cluster.kubectl("get service steady -o jsonpath='{.spec.clusterIP}'");
    for node in NODES {
        wait("the NodePort of those that stay answers", SOON, || {
            let said = run_in(CLIENT, &format!("curl -sS -m 3 http://{node}:30081/"));
            if said.text.contains("pod: ") { Ok(()) } else { Err(said.text) }
        });
    }
    let kept = [[172, 30, 77, 11], [172, 30, 77, 12]].map(|ip| Load::keep(CLIENT, (ip, 30081).into(), 8));
    // One connection from a pod by the ClusterIP: netcat ends when it does.
    let script = format!(
        "rm -f /tmp/kept; (while [ ! -e /tmp/kept ]; do printf \"GET / HTTP/1.1\\r\\n\\r\\n\"; sleep 0.05; done) \
         | nc {ip} 80 | grep -c ^pod:; [ -e /tmp/kept ] || echo broken"
    );
    let inside = std::thread::spawn(move || {
        shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) sh -c '{script}'")).text
    });
    let loads = Loads::start(cluster);
    for rollout in 0..rollouts {
        cluster.kubectl("rollout restart deployment web");
        if rollout % 10 == 1 {
            // In the midst of it: one node's, then the other's.
            std::thread::sleep(Duration::from_millis(300 * (rollout % 7)));
            cluster.signal(if rollout % 20 == 1 { "node1" } else { "node2" }, "KILL");
            std::thread::sleep(Duration::from_secs(1));
            cluster.up_again();
        }
        cluster.kubectl("rollout status deployment web --timeout=120s");
    }
    loads.end(&format!("while {rollouts} rollouts replaced its pods"));
    for (node, kept) in NODES.iter().zip(kept) {
        let (well, failures) = kept.end();
        assert_eq!(failures, Vec::<String>::new(), "connections to {node} that stay; {well} were answered");
        assert!(well > 500, "{well} requests on connections to {node} that stay");
    }
    let _ = shell("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) touch /tmp/kept");
    let inside = inside.join().unwrap_or_default();
    assert!(
        inside.trim().parse::<u32>().is_ok_and(|n| n > 50),
        "a pod's connection to the ClusterIP: {inside}"
    );
    cluster.kubectl("delete service,daemonset steady");
}

fn control_plane_killed_while_it_writes(cluster: &Cluster) {
    let loads = Loads::start(cluster);
    let writer = std::thread::scope(|scope| {
        let writes = scope.spawn(|| {
            // Until the control plane is gone; every one that was acknowledged counts.
            let written = (0..1000).map(|n| format!("kept-{n}")).take_while(|name| {
                cluster.shell(&format!("kubectl create configmap {name} --from-literal=a=b")).well
            });
            written.collect::<Vec<_>>()
        });
        std::thread::sleep(Duration::from_secs(2));
        cluster.signal("control", "KILL");
        writes.join().unwrap_or_default()
    });
    assert!(writer.len() > 2, "it wrote before it was killed: {writer:?}");
    cluster.up_again();
    let present = cluster.kubectl("get configmaps -o name");
    for name in &writer {
        assert!(
            present.lines().any(|line| line == format!("configmap/{name}")),
            "{name} was acknowledged and is lost"
        );
    }
    // Agents come back by themselves: what is decided now reaches the pods.
    cluster.kubectl("scale deployment web --replicas=4");
    cluster.web_is_ready(4);
    loads.end("while the control plane was killed and came back");
    cluster.kubectl("delete configmaps --all");
}

fn a_store_that_hangs(cluster: &Cluster) {
    let loads = Loads::start(cluster);
    cluster.signal("etcd", "STOP");
    for command in ["kubectl get pods", "kubectl create configmap late --from-literal=a=b"] {
        let start = Instant::now();
        let said = cluster.shell(command);
        assert!(!said.well, "{command} without a store: {}", said.text);
        assert!(start.elapsed() < SOON, "{command} took {:?}", start.elapsed());
        let explained = ["the store does not answer", "the store is unavailable"];
        assert!(explained.iter().any(|text| said.text.contains(text)), "{}", said.text);
    }
    cluster.signal("etcd", "CONT");
    wait("the API answers again", SOON, || {
        let said = cluster.shell("kubectl create configmap late2 --from-literal=a=b");
        if said.well { Ok(()) } else { Err(said.text) }
    });
    cluster.signal("etcd", "KILL");
    std::thread::sleep(Duration::from_secs(1));
    cluster.up_again();
    wait("the API answers again", SOON, || {
        let said = cluster.shell("kubectl scale deployment web --replicas=5");
        if said.well { Ok(()) } else { Err(said.text) }
    });
    cluster.web_is_ready(5);
    assert!(cluster.kubectl("get configmaps -o name").contains("configmap/late2"));
    loads.end("while the store hung and was killed");
}
