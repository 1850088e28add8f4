//! `kubectl exec`, `attach`, `cp` and `port-forward` on real nodes, by WebSockets and by SPDY; the same by the official Python client and
//! kube-rs. Needs root.

#[path = "clients/streams.rs"]
mod kube_rs;

use std::time::Duration;

use oarlock_tests::cluster::{Cluster, PYTHON, Said, wait};

const SOON: Duration = Duration::from_secs(30);
/// Both ways that kubectl knows (1.31 and later take WebSockets, the ones before SPDY).
const WAYS: [&str; 2] = [
    "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true KUBECTL_PORT_FORWARD_WEBSOCKETS=true",
    "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false KUBECTL_PORT_FORWARD_WEBSOCKETS=false",
];

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: "oarlock/web:0.1.0"}
  - {name: tool, image: "oarlock/toolbox:0.1.0", command: [sleep, "100000"]}
---
apiVersion: v1
kind: Service
metadata: {name: front}
spec: {selector: {app: two}, ports: [{name: http, port: 8080, targetPort: 80}]}
"#;

#[test]
fn streams_reach_into_pods_by_both_protocols() {
    let cluster = Cluster::up("embedded", "native");
    cluster.kubectl(&format!("apply -f - <<'END'{POD}END"));
    cluster.kubectl("wait --for=condition=Ready --timeout=60s pod/two");
    for way in WAYS {
        commands_run_and_say_how_they_ended(&cluster, way);
        input_ends_and_large_streams_arrive_whole(&cluster, way);
        what_cannot_be_is_said(&cluster, way);
        containers_are_attached_to(&cluster, way);
        ports_are_forwarded(&cluster, way);
        either_side_may_die(&cluster, way);
    }
    containers_are_added_to_look_into_others(&cluster);
    requests_are_handed_on(&cluster);
    kube_rs::streams_work(&Cluster::folder().join("kubeconfig"));
    let said = cluster.shell(&format!("timeout 120 {PYTHON} tests/tests/clients/streams.py"));
    assert!(said.well, "{}", said.text);
    cluster.down();
}

/// A shell command in which `k` is kubectl, bounded.
fn run(cluster: &Cluster, way: &str, command: &str) -> Said {
    cluster.shell(&format!("export {way}; k() {{ timeout 60 kubectl \"$@\"; }}; {command}"))
}

fn says(cluster: &Cluster, way: &str, command: &str, wanted: &str) {
    let said = run(cluster, way, command);
    assert_eq!(said.text.trim_end(), wanted, "{way} {command}");
}

fn commands_run_and_say_how_they_ended(cluster: &Cluster, way: &str) {
    says(cluster, way, "k exec two -c tool -- echo hello", "hello");
    says(cluster, way, "k exec two -c tool -- sh -c 'echo out; echo err >&2' 2>/dev/null", "out");
    says(cluster, way, "k exec two -c tool -- sh -c 'echo out; echo err >&2' 2>&1 >/dev/null", "err");
    says(
        cluster,
        way,
        "k exec two -c tool -- sh -c 'exit 3' 2>&1; echo $?",
        "command terminated with exit code 3\n3",
    );
    let said = run(cluster, way, "k exec two -c tool -- no-such-command; echo $?");
    assert!(said.text.contains("executable file not found") && said.text.contains("12"), "{said:?}");
    // Without a name it is the first container, and kubectl says so.
    let said = run(cluster, way, "k exec two -- hostname");
    assert!(said.text.starts_with("two\n") && said.text.contains("Defaulted container \"web\""), "{said:?}");
}

/// `kubectl debug`: the added container sees the processes of its target, is attached to, and leaves the pod as it was.
fn containers_are_added_to_look_into_others(cluster: &Cluster) {
    let image = "--image=oarlock/toolbox:0.1.0 --target=tool";
    let debug = format!("debug two -c look {image} -- sh -c 'cat /proc/1/cmdline; echo; hostname'");
    let said = cluster.kubectl(&debug);
    assert!(said.contains("Targeting container \"tool\""), "{said:?}");
    wait("the added container has spoken", SOON, || {
        let said = cluster.shell("kubectl logs two -c look | tr '\\0' ' '");
        if said.text.contains("sleep 100000") && said.text.ends_with("two\n") {
            Ok(())
        } else {
            Err(said.text)
        }
    });
    says(
        cluster,
        WAYS[0],
        "echo 'echo asked $((6*7)); exit' | k debug two -c ask -i -q --image=oarlock/toolbox:0.1.0 -- sh 2>/dev/null",
        "asked 42",
    );
    let state = "{.status.ephemeralContainerStatuses[*].state.terminated.reason} {.status.phase}";
    wait("both are over and the pod is not", SOON, || {
        let said = cluster.kubectl(&format!("get pod two -o jsonpath='{state}'"));
        if said == "Completed Completed Running" { Ok(()) } else { Err(said) }
    });
    let described = cluster.kubectl("describe pod two");
    assert!(described.contains("Ephemeral Containers:\n  look:"), "{}", described);
}

fn input_ends_and_large_streams_arrive_whole(cluster: &Cluster, way: &str) {
    says(cluster, way, "printf 'a\\nb\\n' | k exec -i two -c tool -- wc -l", "2");
    // A command that does not read all that it is sent ends all the same.
    says(cluster, way, "yes | k exec -i two -c tool -- head -n 1 2>/dev/null", "y");
    let many = "head -c 20000000 /dev/urandom > $d/many";
    let there_and_back = "k exec -i two -c tool -- cat < $d/many | cmp - $d/many && echo same";
    says(cluster, way, &format!("d=$(mktemp -d); {many}; {there_and_back}; rm -r $d"), "same");
    // A slow reader loses nothing.
    says(cluster, way, "k exec two -c tool -- seq 300000 | (sleep 1; tail -n 1)", "300000");
    says(
        cluster,
        way,
        "d=$(mktemp -d); echo kept > $d/a; k cp $d/a two:/tmp/b -c tool && k cp two:/tmp/b $d/c -c tool >/dev/null && cat $d/c; rm -r $d",
        "kept",
    );
    // With a terminal there is one output, and its size is the client's.
    let inside = "kubectl exec -it two -c tool -- sh -c 'sleep 0.5; stty size; echo err >&2'";
    let terminal = format!("sleep 5 | script -qec \"stty cols 90 rows 30; {inside}\" /dev/null");
    let said = run(cluster, way, &terminal);
    assert!(said.text.contains("30 90") && said.text.contains("err"), "{said:?}");
}

fn what_cannot_be_is_said(cluster: &Cluster, way: &str) {
    let said = run(cluster, way, "k exec two -c nobody -- true");
    assert!(!said.well && said.text.contains("container nobody is not valid for pod two"), "{said:?}");
    let said = run(cluster, way, "k exec nobody -- true");
    assert!(!said.well && said.text.contains("pods \"nobody\" not found"), "{said:?}");
    let path = "/api/v1/namespaces/default/pods/two/exec?command=true&stdout=true&container=tool";
    let said = run(cluster, way, &format!("k get --raw '{path}'"));
    assert!(!said.well && said.text.contains("Upgrade request required"), "{said:?}");
}

fn containers_are_attached_to(cluster: &Cluster, way: &str) {
    let make = "k run -i --rm --quiet --restart=Never --image=oarlock/toolbox:0.1.0 brief";
    // The input of `kubectl run -i` ends with the client's.
    says(cluster, way, &format!("(sleep 3; echo fed) | {make} -- sh -c 'cat; sleep 0.2' 2>/dev/null"), "fed");
    let said =
        run(cluster, way, &format!("sleep 5 | {make} -- sh -c 'sleep 3; echo said; exit 4' 2>&1; echo $?"));
    assert!(said.text.contains("said") && said.text.ends_with("4\n"), "{said:?}");
}

fn ports_are_forwarded(cluster: &Cluster, way: &str) {
    // The port that kubectl took is in what it says.
    let forward = "o=$(mktemp); kubectl port-forward pod/two :80 :81 > $o 2>&1 & p=$!; \
        for i in $(seq 100); do [ $(grep -c 127.0.0.1 $o) = 2 ] && break; sleep 0.1; done; \
        port() { grep -o \"127.0.0.1:[0-9]* -> $1\" $o | cut -d' ' -f1; }";
    let ask = "seq 20 | xargs -P 8 -I{} curl -s -m 10 http://$(port 80)/healthz -o /dev/null -w '%{http_code}\\n' | sort | uniq -c";
    let refused =
        "curl -s -m 10 http://$(port 81)/ || echo refused; grep -o 'an error occurred forwarding.*' $o";
    let end = "kill $p; rm $o";
    let said = run(cluster, way, &format!("{forward}; {ask}; {refused}; {end}"));
    assert!(said.text.contains("20 200\n") && said.text.contains("\nrefused\n"), "{said:?}");
    assert!(said.text.contains("error forwarding port 81 to pod two, uid "), "{said:?}");
    assert!(said.text.contains("connection refused"), "{said:?}");
}

fn requests_are_handed_on(cluster: &Cluster) {
    let base = "/api/v1/namespaces/default";
    for to in
        ["pods/two/proxy/", "pods/http:two:80/proxy/", "services/front/proxy/", "services/front:http/proxy/"]
    {
        let said = cluster.kubectl(&format!("get --raw {base}/{to}"));
        assert!(said.contains("pod: two"), "{to}: {said}");
    }
    let said = cluster.shell(&format!("kubectl get --raw {base}/pods/two:81/proxy/"));
    assert!(!said.well && said.text.contains("connection refused"), "{said:?}");
    let said = cluster.shell(&format!("kubectl get --raw {base}/services/front:9/proxy/"));
    assert!(
        !said.well && said.text.contains("no service port \"9\" found for service \"front\""),
        "{said:?}"
    );
    // By `kubectl proxy`, as a browser would: without the last slash it is sent there.
    let proxy = "o=$(mktemp); kubectl proxy --port=0 > $o & p=$!; for i in $(seq 100); do grep -q : $o && break; sleep 0.1; done; \
        a=$(grep -o 127.0.0.1:.* $o)";
    let ask =
        format!("curl -s -L -m 10 http://$a{base}/services/front/proxy; curl -s -m 10 http://$a/version");
    let said = cluster.shell(&format!("{proxy}; {ask}; kill $p; rm $o"));
    assert!(said.text.contains("pod: two") && said.text.contains("gitVersion"), "{said:?}");
}

fn either_side_may_die(cluster: &Cluster, way: &str) {
    // A client that is killed takes its command's input along: cat ends.
    let runs = "kubectl exec two -c tool -- ps | grep -q '[m]ark-of-a-test'";
    let start = "kubectl exec -i two -c tool -- sh -c 'cat >/dev/null; : mark-of-a-test' < /dev/zero & p=$!";
    let seen = format!("for i in $(seq 50); do {runs} && break; sleep 0.1; done; {runs} && echo seen");
    let said = run(cluster, way, &format!("{start}; {seen}; kill -9 $p"));
    assert!(said.text.contains("seen"), "{said:?}");
    wait("the command of a dead client has ended", SOON, || {
        let said = run(cluster, way, runs);
        if said.well { Err(said.text) } else { Ok(()) }
    });
    // A container that dies ends its clients.
    cluster.kubectl(
        "run brief --image=oarlock/toolbox:0.1.0 --restart=Never --command -- sh -c 'while [ ! -f /stop ]; do sleep 0.2; done'",
    );
    cluster.kubectl("wait --for=condition=Ready --timeout=60s pod/brief");
    let said = run(cluster, way, "k exec brief -- sh -c 'touch /stop; sleep 50'; echo code $?");
    assert!(said.text.contains("code 137"), "{said:?}");
    cluster.kubectl("wait --for=jsonpath='{.status.phase}'=Succeeded --timeout=30s pod/brief");
    let said = run(cluster, way, "k exec brief -- true");
    assert!(said.text.contains("cannot exec into a container in a completed pod"), "{said:?}");
    cluster.kubectl("delete pod brief");
}
