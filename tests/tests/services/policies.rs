//! NetworkPolicies as kubectl writes them, between pods of several nodes and namespaces (`manifests/policies`).

use std::fmt::Write as _;

use oarlock_tests::cluster::{CLIENT, Cluster, NODES, Said, run_in, shell, wait};

use super::{CLIENT_IP, SOON};

/// A client outside that the policy excepts.
const EXCEPTED_IP: &str = "172.30.77.201";

pub(super) fn policies_say_who_may_talk_to_whom(cluster: &Cluster) {
    cluster.kubectl("apply -f manifests/policies/shop.yaml");
    cluster.kubectl("-n shop rollout status deployment/db --timeout=60s");
    for (namespace, pods) in [("shop", "pod/till pod/thief"), ("partners", "pod/partner")] {
        cluster.kubectl(&format!("-n {namespace} wait --for=condition=Ready --timeout=60s {pods}"));
    }
    assert!(run_in(CLIENT, &format!("ip addr add {EXCEPTED_IP}/24 dev eth0")).well);
    let shop = Shop::of(cluster);
    assert_eq!(
        shop.who_reaches_the_database(),
        "till thief partner client excepted",
        "before there is a policy"
    );

    cluster.kubectl("apply -f manifests/policies/policies.yaml");
    shop.becomes("till partner client");
    assert_eq!(shop.told(&shop.databases[0], &shop.till), "till", "the database asks the till");
    assert_eq!(shop.told(&shop.databases[0], &shop.thief), "", "and nobody else");
    assert!(shop.told("thief", &shop.till).contains("till"), "others are not touched");
    let listed = cluster.kubectl("-n shop get netpol");
    assert!(listed.contains("POD-SELECTOR") && listed.contains("app=db"), "{listed}");
    let described = cluster.kubectl("-n shop describe networkpolicy db");
    for words in ["NamespaceSelector: trusted=yes", "Except: 172.30.77.201/32", "To Port: sql/TCP"] {
        assert!(described.contains(words), "no {words:?} in {described}");
    }

    // What pods and namespaces are called counts as soon as it changes.
    cluster.kubectl("-n shop label pod thief app=till --overwrite");
    shop.becomes("till thief partner client");
    cluster.kubectl("label namespace partners trusted-");
    shop.becomes("till thief client");

    // A pod that comes later is isolated from its first packet on.
    cluster.kubectl("-n shop label pod thief app=thief --overwrite");
    cluster.kubectl("-n shop scale deployment db --replicas=3");
    cluster.kubectl("-n shop rollout status deployment/db --timeout=60s");
    let more = Shop::of(cluster);
    assert_eq!(more.databases.len(), 3);
    more.becomes("till client");

    let refused = cluster.shell(
        "kubectl -n shop patch netpol db --type=json -p '[{\"op\":\"add\",\"path\":\"/spec/ingress/0/from/0/ipBlock\",\"value\":{\"cidr\":\"10.0.0.0/8\"}}]'",
    );
    let said = refused.text;
    assert!(!refused.well && said.contains("may not specify both ipBlock and another peer"), "{said}");
    cluster.kubectl("-n shop delete netpol db");
    more.becomes("till thief partner client excepted");
    cluster.kubectl("delete namespace shop partners");
}

/// The addresses of pods, and the databases' names.
struct Shop {
    till: String,
    thief: String,
    databases: Vec<String>,
    addresses: Vec<String>,
}

impl Shop {
    fn of(cluster: &Cluster) -> Self {
        let address = |pod: &str| {
            let ip = cluster.kubectl(&format!("-n shop get pod {pod} -o jsonpath='{{.status.podIP}}'"));
            format!("{} 8000", ip.trim())
        };
        let pods = "-n shop get pods -l app=db -o jsonpath=";
        let words = |path: &str| {
            let said = cluster.kubectl(&format!("{pods}'{{.items[*].{path}}}'"));
            said.split_whitespace().map(str::to_owned).collect()
        };
        let (databases, addresses) = (words("metadata.name"), words("status.podIP"));
        Self { till: address("till"), thief: address("thief"), databases, addresses }
    }

    /// What a pod hears at an address and port.
    fn told(&self, pod: &str, to: &str) -> String {
        let container = format!("$(docker ps -q --filter name=k8s_[a-z]*_{pod}_)");
        // The web server's image holds nothing to ask with: its network is entered.
        let pid = format!("$(docker inspect -f '{{{{.State.Pid}}}}' {container})");
        shell(&format!("nsenter --net=/proc/{pid}/ns/net busybox nc -w 1 {to} </dev/null 2>/dev/null"))
            .text
            .trim()
            .to_owned()
    }

    /// Everybody who is answered by every database, and, from outside, at a NodePort.
    fn who_reaches_the_database(&self) -> String {
        let mut who = String::new();
        for pod in ["till", "thief", "partner"] {
            let inside = |to: &String| {
                let asks = format!("timeout 1 wget -qO- http://{to}/healthz");
                shell(&format!("docker exec $(docker ps -q --filter name=k8s_{pod}_{pod}_) {asks}"))
            };
            let answers: Vec<Said> = self.addresses.iter().map(inside).collect();
            assert!(answers.iter().all(|said| said.well == answers[0].well), "{pod}: {answers:?}");
            if answers[0].well {
                let _ = write!(who, "{pod} ");
            }
        }
        for (name, ip) in [("client", CLIENT_IP), ("excepted", EXCEPTED_IP)] {
            // One of the nodes has a database.
            let ask = |node| run_in(CLIENT, &format!("curl -sS -m 1 --interface {ip} http://{node}:30095/"));
            if NODES.into_iter().any(|node| ask(node).well) {
                let _ = write!(who, "{name} ");
            }
        }
        who.trim_end().to_owned()
    }

    fn becomes(&self, wanted: &str) {
        wait(&format!("{wanted:?} reach the database"), SOON, || {
            let who = self.who_reaches_the_database();
            if who == wanted { Ok(()) } else { Err(who) }
        });
    }
}
