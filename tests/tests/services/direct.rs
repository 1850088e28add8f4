//! Clients whose pods' own nodes answer them: agents are killed, and begin again with `--north-south direct`.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic, as tests do")]

use std::net::SocketAddr;

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, run_in, wait, xtask};
use oarlock_tests::load::Load;

use super::{
    CLIENT_IP, SOON, a_narrow_way_to_a_client_is_found_out, a_pod_reaches_itself_at_all_addresses, asked,
    datagrams_show_the_client, much_at_once_arrives_whole,
};

/// Counts, on all links of a node, packets of clients to a port of the node, and those that answer them: from the node, or from the pod.
const WATCH: &str = "
import socket, struct, sys, time
node, pod, port, end = socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2]), int(sys.argv[3]), time.time() + 3
links = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3)); links.settimeout(0.2)
asked = answered = 0
while time.time() < end:
    try: packet, link = links.recvfrom(65536)
    except TimeoutError: continue
    if link[1] != 0x0800 or packet[9] != 6: continue
    start = (packet[0] & 15) * 4
    source, destination = struct.unpack('!HH', packet[start:start + 4])
    asked += packet[16:20] == node and destination == port
    answered += packet[12:16] == node and source == port or packet[12:16] == pod and source == 80
print(asked, answered)
";

/// `near` runs on the first node; clients knock at the second.
pub(super) fn pods_answer_clients_of_other_nodes_themselves(cluster: &Cluster) {
    cluster.kubectl("expose deployment near --name=straight --port=80 --type=NodePort");
    let port = cluster.kubectl("get service straight -o jsonpath='{.spec.ports[0].nodePort}'");
    let knocked: SocketAddr = format!("{}:{port}", NODES[1]).parse().unwrap();
    let sees = |who: &str| {
        wait(&format!("the pod sees {who}"), SOON, || {
            let said = asked(&format!("http://{knocked}/"), "");
            if said.contains("pod: near-") && said.contains(&format!("client: {who}:")) {
                Ok(())
            } else {
                Err(said)
            }
        });
    };
    let pod = cluster.kubectl("get pods -l app=near -o jsonpath='{.items[0].status.podIP}'");
    sees(NODES[1]);
    assert!(answers_of_second_node() > 0, "they come by it");
    begin_again(cluster, "direct");
    sees(CLIENT_IP);
    let before = answers_of_second_node();
    let (questions, answers) = passing(&pod, knocked);
    assert!(questions > 30 && answers == 0, "{questions} questions, {answers} answers");
    assert_eq!(answers_of_second_node(), before, "not by its driver either, which no socket sees");

    let kept = Load::keep(CLIENT, knocked, 4);
    for _ in 0..2 {
        begin_again(cluster, "direct");
    }
    let (well, failures) = kept.end();
    assert_eq!(failures, [] as [String; 0], "connections outlive agents; {well} requests were answered");
    assert!(well > 100, "{well}");

    datagrams_show_the_client(NODES[1], CLIENT_IP);
    much_at_once_arrives_whole(CLIENT);
    a_narrow_way_to_a_client_is_found_out();
    a_pod_reaches_itself_at_all_addresses(cluster);
    the_plugin_tells_of_both_nodes(cluster, knocked);
    for node in ["1", "2"] {
        let verify = format!("target/debug/oarlock-agent dataplane verify --node-name node{node}");
        let verified = xtask(&["node", node, "--", "sh", "-c", &verify]);
        assert!(verified.well && verified.text.contains("tables are as wanted"), "{}", verified.text);
    }
    begin_again(cluster, "snat");
    sees(NODES[1]);
    cluster.kubectl("delete service straight");
}

/// Kills the agents and starts others that answer so; what they were told of before stays true until all of them say it.
fn begin_again(cluster: &Cluster, north_south: &str) {
    for node in ["node1", "node2"] {
        cluster.signal(node, "KILL");
    }
    cluster.up_again_answering(north_south);
    let mode =
        "get nodes -o jsonpath='{.items[*].metadata.annotations.dataplane\\.oarlock\\.io/north-south}'";
    wait(&format!("nodes say {north_south}"), SOON, || {
        let said = cluster.kubectl(mode);
        // With dual stack the other family is named, too.
        if said.split(' ').filter(|word| *word == north_south).count() == 2 { Ok(()) } else { Err(said) }
    });
}

/// How many answers of the Service the second node has translated.
fn answers_of_second_node() -> u64 {
    let metrics = run_in("oarlock-node2", "curl -s http://127.0.0.1:10255/metrics").text;
    let is_ours = |line: &&str| {
        line.starts_with("oarlock_service_packets_total{")
            && ["service=\"straight\"", "direction=\"out\""].iter().all(|label| line.contains(label))
    };
    let count = metrics.lines().find(is_ours).and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("{metrics}"))
}

/// What passes the second node while its port is asked: packets of clients, and answers.
fn passing(pod: &str, knocked: SocketAddr) -> (u32, u32) {
    let watch = format!("python3 -c \"{WATCH}\" {} {pod} {}", knocked.ip(), knocked.port());
    let watching = std::thread::spawn(move || run_in("oarlock-node2", &watch).text);
    let ask = format!(
        "for turn in $(seq 30); do curl -sS -m 2 -o /dev/null http://{knocked}/ || echo failed; sleep 0.1; done"
    );
    let said = run_in(CLIENT, &ask).text;
    assert_eq!(said, "");
    let seen = watching.join().unwrap_or_default();
    let numbers: Vec<u32> = seen.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [asked, answered] = numbers[..] else { panic!("{seen}") };
    (asked, answered)
}

fn the_plugin_tells_of_both_nodes(cluster: &Cluster, knocked: SocketAddr) {
    let plugin = |words: &str| {
        let said = cluster.shell(&format!("export PATH=$PATH:$PWD/target/debug; {words}"));
        assert!(said.well, "{words}: {}", said.text);
        said.text
    };
    let trace = plugin(&format!("kubectl oarlock trace {CLIENT_IP} {knocked}"));
    let way = format!("goes as it came to its node {}", NODES[0]);
    assert!(
        trace.contains("at node2\n") && trace.contains(&way) && trace.ends_with("forwarded\n"),
        "{trace}"
    );

    let curl = format!("nsenter --net=/run/netns/{CLIENT} curl -s -o /dev/null http://{knocked}/");
    let during = format!("(for turn in 1 2 3 4 5; do sleep 0.5; {curl}; done) &");
    let flows = plugin(&format!("{during} kubectl oarlock flows --seconds 4; wait"));
    for told in ["node2 xdp translated TCP ", "node1 tc direct TCP "] {
        let is_told = |line: &&str| line.contains(told) && line.contains("(default/straight:");
        assert!(flows.lines().filter(is_told).count() >= 3, "{told}: {flows}");
    }
    // Questions are counted by the one, answers by the other.
    let services = plugin(&format!("{during} kubectl oarlock services --once --interval 3 -n default; wait"));
    let is_ours = |line: &&str| line.starts_with("default     straight");
    let rates: Vec<&str> = services.lines().filter(is_ours).flat_map(str::split_whitespace).collect();
    assert!(rates.len() >= 9 && rates[3..8].iter().all(|rate| *rate != "0"), "{services}");
    for node in ["1", "2"] {
        let metrics = xtask(&["node", node, "--", "curl", "-s", "http://127.0.0.1:10255/metrics"]).text;
        assert!(metrics.contains("oarlock_dataplane_north_south_info{mode=\"direct\"} 1"), "{metrics}");
    }
}
