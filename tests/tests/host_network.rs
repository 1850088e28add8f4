//! Pods on the networks of their nodes, which have each a Docker of its own; that Docker is killed while pods live. Needs root.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, run_in, shell, wait};
use oarlock_tests::inventory::Inventory;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
/// From the first look on images that nobody uses are too many.
const CONFIG: &str = "kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 1
imageGCLowThresholdPercent: 0
imageMinimumGCAge: 0s
";

#[test]
fn pods_on_their_nodes_networks_outlive_docker() {
    let before = Inventory::take();
    let cluster = Cluster::up_with_dockers();
    cluster.kubectl("apply -f manifests/host-network/");
    run(&cluster, "inside", "node1", &json!({}));
    cluster.kubectl("rollout status daemonset/edge --timeout=60s");
    cluster.kubectl("wait pod inside --for=condition=Ready --timeout=60s");
    let edge = ["node1", "node2"].map(|node| edge(&cluster, node));
    addresses_and_names_are_the_nodes(&cluster, &edge);
    services_lead_to_them(&cluster, &edge[0]);
    streams_reach_them(&cluster, &edge[1]);
    their_ports_are_the_nodes(&cluster);
    policies_are_not_for_them(&cluster);
    dockers_death_ends_no_pod(&cluster);
    dockers_death_while_pods_begin_makes_none_twice(&cluster);
    images_that_nobody_uses_go(&cluster);
    they_use_no_network_of_their_own(&cluster, &edge[0]);
    a_folder_of_the_node_is_run(&cluster);
    // What a Docker that is dead has run goes, too.
    cluster.signal("node2-docker", "KILL");
    cluster.down();
    assert_eq!(Inventory::take().more_than(&before), [""; 0]);
}

/// A web server on a node.
fn run(cluster: &Cluster, name: &str, node: &str, more: &Value) {
    let mut spec = json!({"nodeName": node, "terminationGracePeriodSeconds": 1});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let overrides = json!({"spec": spec});
    cluster.kubectl(&format!("run {name} --image=oarlock/web:0.1.0 --overrides='{overrides}'"));
}

/// The name of the pod of the DaemonSet on a node.
fn edge(cluster: &Cluster, node: &str) -> String {
    let one = format!("get pods -l app=edge --field-selector spec.nodeName={node}");
    cluster.kubectl(&format!("{one} -o jsonpath='{{.items[0].metadata.name}}'"))
}

fn addresses_and_names_are_the_nodes(cluster: &Cluster, edge: &[String; 2]) {
    for (name, ip) in edge.iter().zip(NODES) {
        let pod = cluster.json(&format!("get pod {name}"));
        let status = &pod["status"];
        assert_eq!((&status["podIP"], &status["hostIP"]), (&json!(ip), &json!(ip)), "{status}");
        assert_eq!(status["podIPs"], status["hostIPs"]);
        assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 8081);
    }
    let said = cluster.kubectl(&format!("exec {} -- sh -c 'hostname; cat /etc/hosts'", edge[0]));
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    assert!(said.starts_with(name.trim()) && said.contains("hosts file (host network)"), "{said}");
    let links = cluster.kubectl(&format!("exec {} -- ip -o address show dev eth0", edge[0]));
    assert!(links.contains(NODES[0]), "{links}");
    run(
        cluster,
        "asks-its-node",
        "node1",
        &json!({"hostNetwork": true, "containers": [{"name": "asks-its-node",
        "image": "oarlock/web:0.1.0", "args": ["/web", "8082"]}]}),
    );
    cluster.kubectl("wait pod asks-its-node --for=condition=Ready --timeout=30s");
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = |text: &str| {
        text.lines().filter(|l| l.starts_with("nameserver")).map(str::to_owned).collect::<Vec<_>>()
    };
    let said = cluster.kubectl("exec asks-its-node -- cat /etc/resolv.conf");
    assert_eq!(servers(&said), servers(&own), "ClusterFirst is Default there");
}

/// Asks until both nodes' pods have answered.
fn both_answer(what: &str, ask: impl Fn() -> String) {
    wait(&format!("{what} is answered by both nodes"), SOON, || {
        let said: Vec<String> = (0..8).map(|_| ask()).collect();
        let missing = ["node1", "node2"]
            .into_iter()
            .find(|node| !said.iter().any(|s| s.contains(&format!("pod: {node}\n"))));
        missing.map_or(Ok(()), |node| Err(format!("{node} is missing in {said:?}")))
    });
}

fn services_lead_to_them(cluster: &Cluster, edge: &str) {
    let ip = cluster.kubectl("get service edge -o jsonpath='{.spec.clusterIP}'");
    let from = |pod: &str| {
        // busybox' wget asks libc for names, which a static program cannot.
        let ask = format!("printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | nc -w 3 {ip} 80");
        cluster.shell(&format!("kubectl exec {pod} -- sh -c '{ask}'")).text
    };
    both_answer("its address, for a pod", || from("inside"));
    both_answer("its address, for a pod on its node's network", || from(edge));
    let names = cluster.kubectl(&format!("exec {edge} -- nslookup edge.default.svc.cluster.local"));
    assert!(names.contains(&ip), "ClusterFirstWithHostNet knows names: {names}");
    for node in NODES {
        both_answer(&format!("its port at {node}"), || {
            run_in(CLIENT, &format!("curl -sS -m 3 http://{node}:30081/")).text
        });
        let said = run_in(CLIENT, &format!("curl -sS -m 3 http://{node}:8081/")).text;
        assert!(said.contains("client: 172.30.77.200"), "{said}");
    }
}

fn streams_reach_them(cluster: &Cluster, edge: &str) {
    assert_eq!(cluster.kubectl(&format!("logs {edge}")), "listening on port 8081");
    let said = cluster.shell(&format!(
        "kubectl port-forward pod/{edge} 18081:8081 >/dev/null & curl -sS -m 5 --retry 20 --retry-delay 0 --retry-connrefused \
         --retry-max-time 10 http://127.0.0.1:18081/ 2>/dev/null; kill $!"
    ));
    assert!(said.text.contains("pod: node2\n"), "{}", said.text);
}

fn their_ports_are_the_nodes(cluster: &Cluster) {
    run(
        cluster,
        "second",
        "",
        &json!({"hostNetwork": true, "containers": [{"name": "second", "image": "oarlock/web:0.1.0",
        "ports": [{"containerPort": 8081}]}]}),
    );
    let why = "didn't have free ports for the requested pod ports";
    wait("the scheduler knows whose the port is", SOON, || {
        let said = cluster.kubectl("describe pod second");
        if said.contains(why) { Ok(()) } else { Err(said) }
    });
    cluster.kubectl("delete pod second");
}

fn policies_are_not_for_them(cluster: &Cluster) {
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "nobody"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}});
    cluster.kubectl(&format!("apply -f - <<'END'\n{policy}\nEND"));
    let inside = cluster.kubectl("get pod inside -o jsonpath='{.status.podIP}'");
    let ask = |address: &str| cluster.shell(&format!("curl -sS -m 1 http://{address}/"));
    wait("the policy holds for pods", SOON, || {
        let said = ask(&inside);
        if said.well { Err(said.text) } else { Ok(()) }
    });
    let said = ask(&format!("{}:8081", NODES[0]));
    assert!(said.well, "it is not for who is on the node's network: {}", said.text);
    cluster.kubectl("delete networkpolicy nobody");
}

/// Containers of a node: name and id.
fn containers(node: &str) -> BTreeSet<String> {
    Cluster::docker(node, "ps -a --no-trunc --format '{{.Names}} {{.ID}} {{.State}}'")
        .lines()
        .map(str::to_owned)
        .collect()
}

fn ready(cluster: &Cluster, wanted: &str) {
    let path = "{.status.conditions[?(@.type==\"Ready\")].status}";
    wait(&format!("node1 Ready is {wanted}"), SOON, || {
        let said = cluster.kubectl(&format!("get node node1 -o jsonpath='{path}'"));
        if said == wanted { Ok(()) } else { Err(said) }
    });
}

fn dockers_death_ends_no_pod(cluster: &Cluster) {
    let mut stay = containers("node1");
    stay.retain(|one| !one.contains("_inside_"));
    assert!(stay.len() >= 4, "{stay:?}");
    cluster.signal("node1-docker", "KILL");
    ready(cluster, "False");
    let said = run_in(CLIENT, &format!("curl -sS -m 3 http://{}:8081/", NODES[0])).text;
    assert!(said.contains("pod: node1\n"), "pods go on: {said}");
    // Meanwhile one is to go and another one to come.
    cluster.kubectl("delete pod inside --wait=false");
    run(cluster, "late", "node1", &json!({}));
    cluster.up_again();
    ready(cluster, "True");
    cluster.kubectl("wait pod late --for=condition=Ready --timeout=30s");
    cluster.kubectl("wait pod inside --for=delete --timeout=30s");
    let now = containers("node1");
    assert!(stay.is_subset(&now), "{stay:?} and now {now:?}");
    assert!(!now.iter().any(|one| one.contains("_inside_")), "{now:?}");
    let restarts =
        cluster.kubectl("get pods -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'");
    assert!(restarts.split(' ').all(|count| count == "0"), "{restarts}");
}

fn dockers_death_while_pods_begin_makes_none_twice(cluster: &Cluster) {
    const NAMES: [&str; 4] = ["first", "next", "third", "last"];
    for (nth, name) in NAMES.into_iter().enumerate() {
        // Some of them on the node's network.
        let args = json!([{"name": name, "image": "oarlock/web:0.1.0", "args": ["/web", format!("{}", 8090 + nth)]}]);
        run(cluster, name, "node1", &json!({"hostNetwork": nth % 2 == 0, "containers": args}));
    }
    cluster.signal("node1-docker", "KILL");
    cluster.up_again();
    for name in NAMES {
        cluster.kubectl(&format!("wait pod {name} --for=condition=Ready --timeout=40s"));
        let now = containers("node1");
        let of = |part: &str| {
            let is = |one: &str| one.starts_with(&format!("k8s_{part}_{name}_")) && one.ends_with("running");
            now.iter().filter(|one| is(one)).count()
        };
        assert_eq!((of("POD"), of(name)), (1, 1), "{name} in {now:?}");
    }
    cluster.kubectl(&format!("delete pod {} --wait=true", NAMES.join(" ")));
    wait("nothing is left of them", SOON, || {
        let now = containers("node1");
        let left = now.iter().find(|one| NAMES.iter().any(|name| one.contains(&format!("_{name}_"))));
        left.map_or(Ok(()), |one| Err(one.clone()))
    });
}

fn images_that_nobody_uses_go(cluster: &Cluster) {
    let images = || Cluster::docker("node2", "images --format '{{.Repository}}'");
    assert!(images().contains("oarlock/toolbox"), "{}", images());
    let running = containers("node2");
    let config = Cluster::folder().join("node2-config.yaml");
    assert!(std::fs::create_dir_all(static_pods()).is_ok());
    let text = format!("{CONFIG}staticPodPath: {}\n", static_pods().display());
    assert!(std::fs::write(&config, text).is_ok());
    cluster.signal("node2", "KILL");
    cluster.up_again_with(&config);
    wait("the one that is unused goes", SOON, || {
        let now = images();
        if now.contains("oarlock/toolbox") { Err(now) } else { Ok(()) }
    });
    assert!(["oarlock/web", "oarlock/pause"].iter().all(|image| images().contains(image)), "{}", images());
    assert_eq!(containers("node2"), running);
}

fn they_use_no_network_of_their_own(cluster: &Cluster, edge: &str) {
    wait("the node says what pods use", SOON, || {
        let said = cluster.kubectl("get --raw /api/v1/nodes/node1/proxy/stats/summary");
        let summary: Value = serde_json::from_str(&said).map_err(|e| e.to_string())?;
        let of = |name: &str| {
            summary["pods"].as_array()?.iter().find(|pod| pod["podRef"]["name"] == name).cloned()
        };
        match (of(edge), of("late")) {
            (Some(edge), Some(late)) if late["network"].is_object() => {
                assert!(edge["network"].is_null() && edge["containers"][0]["memory"].is_object(), "{edge}");
                Ok(())
            }
            _ => Err(said),
        }
    });
}

/// The folder of pods of node2.
fn static_pods() -> PathBuf {
    Cluster::folder().join("node2-static")
}

/// A web server at a port of node2, in a file of its folder.
fn write_static(name: &str, port: u16) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"hostNetwork": true,
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "web", "image": "oarlock/web:0.1.0", "args": ["/web", format!("{port}"), name]}]}});
    assert!(std::fs::write(static_pods().join(format!("{name}.json")), pod.to_string()).is_ok());
}

fn answers(name: &str, port: u16) {
    wait(&format!("{name} answers at {port}"), SOON, || {
        let said = run_in(CLIENT, &format!("curl -sS -m 1 http://{}:{port}/", NODES[1])).text;
        if said.contains(&format!("pod: {name}\n")) { Ok(()) } else { Err(said) }
    });
}

/// The mirror, once it is there and is not `other`.
fn mirror(cluster: &Cluster, name: &str, other: &Value) -> Value {
    wait(&format!("{name} has a mirror that is ready"), SOON, || {
        let said = cluster.shell(&format!("kubectl get pod {name}-node2 -o json"));
        let pod: Value = serde_json::from_str(&said.text).map_err(|_| said.text.clone())?;
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        if ready && pod["metadata"]["uid"] != other["metadata"]["uid"] { Ok(pod) } else { Err(said.text) }
    })
}

fn a_folder_of_the_node_is_run(cluster: &Cluster) {
    let ids = || {
        let mut running = containers("node2");
        running.retain(|one| one.contains("_own-node2_"));
        running
    };
    assert!(std::fs::write(static_pods().join("bad.yaml"), "kind: Deployment").is_ok());
    write_static("own", 8099);
    answers("own", 8099);
    let first = mirror(cluster, "own", &Value::Null);
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(first["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert!(first["spec"]["serviceAccountName"].is_null() && first["status"]["podIP"] == NODES[1], "{first}");
    assert_eq!(cluster.kubectl("logs own-node2"), "listening on port 8099");
    assert_eq!(cluster.kubectl("exec own-node2 -- cat /proc/1/comm"), "web");

    let before = ids();
    cluster.kubectl("delete pod own-node2 --wait=false");
    let second = mirror(cluster, "own", &first);
    assert_eq!(ids(), before, "only its mirror was deleted");
    wait("the file that is none is told of", SOON, || {
        let said = cluster
            .kubectl("get events --field-selector reason=InvalidStaticPod -o jsonpath='{.items[*].message}'");
        if said.ends_with("bad.yaml: it is no Pod of v1") { Ok(()) } else { Err(said) }
    });
    let pid = cluster.pid("node2");
    cluster.signal("node2", "KILL");
    wait("the agent is gone", SOON, || {
        if shell(&format!("kill -0 {pid}")).well { Err("it runs".to_owned()) } else { Ok(()) }
    });
    cluster.up_again_with(&Cluster::folder().join("node2-config.yaml"));
    wait("the agent is back", SOON, || {
        let said = cluster.shell("kubectl exec own-node2 -- cat /proc/1/comm");
        if said.well && said.text.trim() == "web" { Ok(()) } else { Err(said.text) }
    });
    assert_eq!(ids(), before, "and has touched nothing");
    write_static("own", 8100);
    answers("own", 8100);
    mirror(cluster, "own", &second);
    let said = run_in(CLIENT, &format!("curl -sS -m 1 http://{}:8099/", NODES[1]));
    assert!(!said.well, "the one before has ended: {}", said.text);

    cluster.signal("control", "KILL");
    write_static("alone", 8101);
    answers("alone", 8101);
    assert!(std::fs::remove_file(static_pods().join("own.json")).is_ok());
    wait("it ends without a control plane", SOON, || {
        if ids().is_empty() { Ok(()) } else { Err(format!("{:?}", ids())) }
    });
    cluster.up_again();
    mirror(cluster, "alone", &Value::Null);
    assert!(std::fs::remove_file(static_pods().join("alone.json")).is_ok());
    wait("their mirrors are gone", SOON, || {
        let said = cluster.kubectl("get pods -o name");
        if said.contains("own-node2") || said.contains("alone-node2") { Err(said) } else { Ok(()) }
    });
}
