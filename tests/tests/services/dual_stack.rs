//! A Service with an address of each family: from a pod, from a node, and from outside, by names and by NodePorts; and NetworkPolicies
//! over both.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic, as tests do")]

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, NODES6, run_in, shell, wait, xtask};
use serde_json::json;

use super::SOON;

const CLIENT6: &str = "fd00:172:30:77::200";

pub(super) fn a_service_is_reached_over_both_families(cluster: &Cluster) {
    if cluster.json("get node node1")["spec"]["podCIDRs"].as_array().is_none_or(|ranges| ranges.len() < 2) {
        let off = std::fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
        assert!(
            off.is_err() || off.is_ok_and(|off| off.trim() != "0"),
            "this machine has IPv6, and no node has"
        );
        return;
    }
    let service = json!({"spec": {"ipFamilyPolicy": "RequireDualStack", "type": "NodePort"}});
    let words = "expose deployment sticky --name=both --port=80 --overrides";
    cluster.kubectl(&format!("{words}='{service}'"));
    let service = cluster.json("get service both");
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    let ips = &service["spec"]["clusterIPs"];
    let (four, six) = (ips[0].as_str().unwrap(), ips[1].as_str().unwrap());
    assert!(four.starts_with("10.96.") && six.starts_with("fd00:10:96:"), "{ips}");

    let toolbox = |command: &str| {
        shell(&format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) {command}")).text
    };
    let node = |url: &str| xtask(&["node", "2", "--", "curl", "-gsS", "-m", "2", url]).text;
    let outside = |url: &str| run_in(CLIENT, &format!("curl -gsS -m 2 '{url}'")).text;
    let answers = |what: &str, ask: &dyn Fn() -> String| {
        wait(what, SOON, || {
            let said = ask();
            if said.contains("pod: sticky-") { Ok(said) } else { Err(said) }
        })
    };
    for ip in [four.to_owned(), format!("[{six}]")] {
        let url = format!("http://{ip}/");
        answers(&format!("a pod reaches {url}"), &|| toolbox(&format!("timeout 3 wget -qO- '{url}'")));
        answers(&format!("a node reaches {url}"), &|| node(&url));
    }
    for address in NODES.iter().map(|ip| (*ip).to_owned()).chain(NODES6.map(|ip| format!("[{ip}]"))) {
        let url = format!("http://{address}:{port}/");
        for turn in 0..4 {
            answers(&format!("the client reaches {url}, turn {turn}"), &|| outside(&url));
        }
        answers(&format!("a pod reaches {url}"), &|| toolbox(&format!("timeout 3 wget -qO- '{url}'")));
    }
    answers("a node reaches its own NodePort", &|| node(&format!("http://[::1]:{port}/")));

    // The pods that answer have both addresses, and meet each other and the outside by them.
    let pods = cluster.json("get pods -l app=sticky");
    for pod in pods["items"].as_array().unwrap() {
        let ips = pod["status"]["podIPs"].as_array().unwrap();
        let ip6 = ips[1]["ip"].as_str().unwrap();
        assert!(ips.len() == 2 && ip6.starts_with("fd00:10:244:"), "{ips:?}");
        answers(&format!("a pod reaches {ip6}"), &|| {
            toolbox(&format!("timeout 3 wget -qO- 'http://[{ip6}]/'"))
        });
    }
    policies_judge_both_families(cluster);

    let served = "timeout 30 busybox nc -lp 8091 -e echo told";
    let listening = std::thread::spawn(move || run_in(CLIENT, served));
    let told = wait("a pod reaches the outside", SOON, || {
        let said = toolbox(&format!("timeout 3 wget -qO- 'http://[{CLIENT6}]:8091/' 2>&1"));
        // It hears no HTTP, but it is heard.
        if said.contains("refused") || said.contains("timed out") { Err(said) } else { Ok(said) }
    });
    assert!(listening.join().unwrap().well, "{told}");

    let names = toolbox("nslookup both.default.svc.cluster.local");
    assert!(names.contains(six), "{names}");
    let reversed: String = six.parse::<std::net::Ipv6Addr>().unwrap().to_string();
    let names = toolbox(&format!("nslookup {reversed}"));
    assert!(names.contains("both.default.svc.cluster.local"), "{names}");

    // Nobody answers any more: refused at once, inside and outside.
    cluster.kubectl("patch service both -p '{\"spec\":{\"selector\":{\"app\":\"nobody\"}}}'");
    for address in [format!("[{six}]:80"), format!("[{}]:{port}", NODES6[0])] {
        let url = format!("http://{address}/");
        wait(&format!("{url} refuses a pod"), SOON, || {
            let said = toolbox(&format!("timeout 3 wget -qO- '{url}' 2>&1"));
            if said.contains("refused") { Ok(()) } else { Err(said) }
        });
    }
    wait("the NodePort refuses the client", SOON, || {
        let said = outside(&format!("http://[{}]:{port}/", NODES6[0]));
        if said.contains("refused") || said.contains("Couldn't connect") { Ok(()) } else { Err(said) }
    });
    for node in ["node1", "node2"] {
        let verify = format!("target/debug/oarlock-agent dataplane verify --node-name {node}");
        let verified = xtask(&["node", &node[4..], "--", "sh", "-c", &verify]);
        assert!(verified.well, "{}", verified.text);
    }
    cluster.kubectl("delete service both");
}

/// Who may come by which family: by blocks of each, by their exceptions, and by the pods that a policy names.
fn policies_judge_both_families(cluster: &Cluster) {
    let ips = |pod: &serde_json::Value| {
        let ip = |at: usize| pod["status"]["podIPs"][at]["ip"].as_str().unwrap().to_owned();
        (ip(0), ip(1))
    };
    cluster.kubectl("label pod toolbox app=toolbox");
    let own6 = ips(&cluster.json("get pod toolbox")).1;
    let pods = cluster.json("get pods -l app=sticky");
    let pods: Vec<_> = pods["items"].as_array().unwrap().iter().map(ips).collect();
    let reaches = |url: String| {
        let ask = format!("timeout 1 wget -qO- '{url}'");
        let asked = format!("docker exec $(docker ps -q --filter name=k8s_toolbox_toolbox) {ask}");
        shell(&asked).text.contains("pod: sticky-")
    };
    for (what, from, expected) in [
        ("a block of IPv6", json!({"ipBlock": {"cidr": "fd00:10:244::/56"}}), (false, true)),
        (
            "a block of IPv6 without the pod",
            json!({"ipBlock": {"cidr": "fd00:10:244::/56", "except": [format!("{own6}/128")]}}),
            (false, false),
        ),
        ("the pod itself", json!({"podSelector": {"matchLabels": {"app": "toolbox"}}}), (true, true)),
        ("a block of IPv4", json!({"ipBlock": {"cidr": "10.244.0.0/16"}}), (true, false)),
    ] {
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "both"},
            "spec": {"podSelector": {"matchLabels": {"app": "sticky"}}, "ingress": [{"from": [from]}]}});
        let applied = cluster.shell(&format!("echo '{policy}' | kubectl apply -f -"));
        assert!(applied.well, "{}", applied.text);
        for (four, six) in &pods {
            wait(&format!("{what} is allowed, and nobody else"), SOON, || {
                let said = (reaches(format!("http://{four}/")), reaches(format!("http://[{six}]/")));
                if said == expected { Ok(()) } else { Err(format!("{said:?} to {four} and {six}")) }
            });
        }
    }
    for node in ["node1", "node2"] {
        let verify = format!("target/debug/oarlock-agent dataplane verify --node-name {node}");
        let verified = xtask(&["node", &node[4..], "--", "sh", "-c", &verify]);
        assert!(verified.well, "{}", verified.text);
    }
    cluster.kubectl("delete networkpolicy both");
    cluster.kubectl("label pod toolbox app-");
}
