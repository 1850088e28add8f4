//! The README's way in, word for word, with real kubectl, Docker and kernel. Needs root.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, run_in, shell, wait, xtask};
use oarlock_tests::inventory::Inventory;
use oarlock_tests::load::{count, who_connects};

/// Enough requests that each of three replicas has its turn whatever core they come by.
const ASKED: usize = 18;

#[test]
fn the_quickstart_works_and_leaves_nothing_behind() {
    let before = Inventory::take();
    let cluster = Cluster::up("embedded", "native");
    let pid = cluster.pid("control");
    cluster.up_again();
    assert_eq!(cluster.pid("control"), pid, "up twice is harmless");

    let nodes = cluster.kubectl("get nodes -o wide");
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    let applied = cluster.kubectl("apply -f manifests/quickstart/");
    assert!(applied.contains("deployment.apps/web created"), "{applied}");
    cluster.web_is_ready(3);
    let shown = cluster.kubectl("get pods,svc,endpoints -o wide");
    assert!(shown.contains("80:30080/TCP"), "{shown}");

    every_client_is_answered_by_all(&cluster, 3);
    cluster.kubectl("scale deployment web --replicas=5");
    cluster.web_is_ready(5);
    every_client_is_answered_by_all(&cluster, 5);

    let logs = cluster.kubectl("logs deployment/web");
    assert!(!logs.is_empty());
    let described = cluster.kubectl("describe pods -l app=web");
    for said in ["Successfully assigned", "Created container: web", "Started container web"] {
        assert!(described.contains(said), "{said} is not in {described}");
    }
    uplinks_answer_by_xdp(&cluster);
    a_service_without_endpoints_refuses(&cluster);
    what_leaves_the_cluster_has_the_nodes_address(&cluster);
    a_missing_image_is_reported(&cluster);
    bad_input_is_explained(&cluster);

    let status = xtask(&["status"]);
    assert!(status.text.contains("control    running") && status.text.contains("node2"), "{}", status.text);
    cluster.down();
    assert_eq!(Inventory::take().more_than(&before), Vec::<String>::new(), "left behind");
}

/// Each node has had to send requests to a pod of the other one.
fn uplinks_answer_by_xdp(cluster: &Cluster) {
    let modes = "get nodes -o jsonpath='{.items[*].metadata.annotations.dataplane\\.oarlock\\.io/modes}'";
    assert_eq!(cluster.kubectl(modes), "eth0=xdp eth0=xdp");
    for node in ["1", "2"] {
        let metrics = xtask(&["node", node, "--", "curl", "-s", "http://127.0.0.1:10255/metrics"]).text;
        let express = metrics.lines().find(|line| line.contains("reason=\"express\""));
        let count = express.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        assert!(count.is_some_and(|packets| packets > 0), "{metrics}");
    }
}

fn every_client_is_answered_by_all(cluster: &Cluster, replicas: usize) {
    let pods: BTreeSet<String> = cluster.web_pods().into_iter().collect();
    assert_eq!(pods.len(), replicas);
    let cluster_ip = cluster.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");
    let asked = ASKED * replicas / 3;
    // What the API says has to reach the nodes first: all of the requests in a row have to be answered, but not at once.
    let all = |what: &str, ask: &dyn Fn() -> String| {
        wait(&format!("{what} is answered by all"), Duration::from_secs(5), || {
            let counts = count(&ask());
            let whole = counts.keys().eq(&pods) && counts.values().sum::<usize>() == asked;
            if whole { Ok(()) } else { Err(format!("{asked} requests: {counts:?}")) }
        });
    };
    let curl = |url: &str| format!("for i in $(seq {asked}); do curl -sS -m 3 {url} || exit 1; done");
    let inside = |url: &str| {
        let toolbox = "$(docker ps -q --filter name=k8s_toolbox_toolbox)";
        let script = format!("for i in $(seq {asked}); do wget -qO- {url} || exit 1; done");
        shell(&format!("docker exec {toolbox} sh -c '{script}'")).text
    };
    let url = format!("http://{cluster_ip}/");
    all("the ClusterIP from the machine", &|| shell(&curl(&url)).text);
    all("the ClusterIP from a pod", &|| inside(&url));
    for (number, node) in ["1", "2"].iter().zip(NODES) {
        let url = format!("http://{node}:30080/");
        all("a NodePort from outside", &|| run_in(CLIENT, &curl(&url)).text);
        all("a NodePort from the machine", &|| shell(&curl(&url)).text);
        all("a NodePort from a pod", &|| inside(&url));
        let local = curl("http://127.0.0.1:30080/");
        all("a NodePort on the node", &|| xtask(&["node", number, "--", "sh", "-c", &local]).text);
    }
}

fn a_service_without_endpoints_refuses(cluster: &Cluster) {
    cluster.kubectl("create service nodeport nothing --tcp=80:80 --node-port=30099");
    let ip = cluster.kubectl("get service nothing -o jsonpath='{.spec.clusterIP}'");
    let refused = |command: &str| {
        wait("connections are refused", Duration::from_secs(5), || {
            let said = xtask(&["node", "1", "--", "sh", "-c", command]);
            if said.text.contains("Connection refused") {
                return Ok(());
            }
            Err(said.text)
        });
    };
    refused(&format!("busybox wget -qO- http://{ip}/"));
    refused("busybox wget -qO- http://127.0.0.1:30099/");
    let outside = run_in(CLIENT, "curl -sS -m 3 http://172.30.77.11:30099/");
    assert!(
        outside.text.contains("refused") || outside.text.contains("Couldn't connect"),
        "{}",
        outside.text
    );
    cluster.kubectl("delete service nothing");
}

fn what_leaves_the_cluster_has_the_nodes_address(cluster: &Cluster) {
    let node = cluster.kubectl("get pod toolbox -o jsonpath='{.status.hostIP}'");
    let seen = who_connects(CLIENT, SocketAddr::from(([172, 30, 77, 200], 8099)), || {
        let toolbox = "$(docker ps -q --filter name=k8s_toolbox_toolbox)";
        let asked = shell(&format!("docker exec {toolbox} nc -w 3 172.30.77.200 8099 </dev/null"));
        assert!(asked.well, "{}", asked.text);
    });
    assert_eq!(seen.to_string(), node);
}

fn a_missing_image_is_reported(cluster: &Cluster) {
    cluster.kubectl("run missing --image=nowhere/nothing:1 --image-pull-policy=IfNotPresent --restart=Never");
    wait("the events say so", Duration::from_secs(30), || {
        let said = cluster.kubectl("describe pod missing");
        if said.contains("ErrImagePull") && said.contains("Failed to pull image \"nowhere/nothing:1\"") {
            return Ok(());
        }
        Err(said)
    });
    cluster.kubectl("delete pod missing --grace-period=1");
}

fn bad_input_is_explained(cluster: &Cluster) {
    let pod = "apiVersion: v1\\nkind: Pod\\nmetadata: {name: bad}\\nspec: {containers: [{name: c, image: i%s}]%s}\\n";
    let cases = [
        ("printf 'a: [b\\n' | kubectl apply -f -", "error converting YAML to JSON"),
        (
            "printf 'apiVersion: v1\\nkind: Nothing\\nmetadata: {name: none}\\n' | kubectl apply -f -",
            "no matches for kind \"Nothing\"",
        ),
        (
            &format!("printf '{pod}' '' ', frobnicate: 1' | kubectl apply -f -"),
            "unknown field \"spec.frobnicate\"",
        ),
        (
            &format!("printf '{pod}' '' ', restartPolicy: 5' | kubectl apply --validate=false -f -"),
            "restartPolicy",
        ),
        ("kubectl create namespace default", "namespaces \"default\" already exists"),
        (
            "kubectl create service nodeport high --tcp=80:80 --node-port=40000",
            "provided port is not in the valid range. The range of valid ports is 30000-32767",
        ),
        ("kubectl create service clusterip high --tcp=70000:80", "70000"),
        (
            "kubectl --token=wrong --server=https://127.0.0.1:6443 --kubeconfig=/dev/null --insecure-skip-tls-verify get pods",
            "Unauthorized",
        ),
    ];
    for (command, expected) in cases {
        let said = cluster.shell(command);
        assert!(
            !said.well && said.text.contains(expected),
            "{command}\nsaid: {}\nnot: {expected}",
            said.text
        );
    }
}
