//! NetworkPolicies between pods of a node, on real links in network namespaces of the test's own. Needs root, a BPF file system,
//! cgroup v2, busybox and a built BPF object.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, Map, MapData};
use oarlock_agent::dataplane::{
    self, Acceleration, Dataplane, DataplaneConfig, PodLink, Question, Surroundings, Tc, Uplink,
};
use oarlock_agent::desired::Snapshot;
use oarlock_agent::net::{Bandwidth, Network, PodNetRequest, PodNetwork as _, Underlay};
use oarlock_api::k8s::api::networking::v1::NetworkPolicyPeer;
use oarlock_api::network_policy::{Member, PodGroup};
use oarlock_daemon::Tasks;
use serde_json::{Value, json};

/// A process in a network namespace of its own; ends with the test.
struct Process(Child);

impl Process {
    fn sandbox() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("root");
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|net| net == own) {
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pod with servers on ports 80 and 81 that answer with its name, and on 82 and 83 that repeat to one client what they hear.
struct Pod {
    ip: Ipv4Addr,
    link: PodLink,
    sandbox: Process,
    _servers: Vec<Process>,
}

impl Pod {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.sandbox.0.id())).args(words);
        command
    }

    /// What the server at an address answers the pod; none where it hears nothing.
    fn ask(&self, to: Ipv4Addr, port: u16) -> Option<String> {
        answer(&mut self.command(&["busybox", "nc", "-w", "1", &to.to_string(), &port.to_string()]))
    }
}

fn answer(command: &mut Command) -> Option<String> {
    let said = command.stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A node in a network namespace of the test's own, with pods a, b and c in the namespace "d".
struct Node {
    config: DataplaneConfig,
    pods: BTreeMap<&'static str, Pod>,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Node {
    fn new(name: &str) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        for words in [
            "link set lo up",
            "link add eth0 type veth peer name far",
            "addr add 172.30.99.1/24 dev eth0",
            "link set eth0 up",
            "link set far up",
        ] {
            assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
        }
        let (tasks, folder) = (Tasks::new(), tempfile::tempdir().unwrap());
        let pods = plug(&tasks, folder.path().to_owned());
        let node_name = format!("test-{name}-{}", std::process::id());
        let config = DataplaneConfig {
            node_ip: Ipv4Addr::new(172, 30, 99, 1),
            node_ip6: None,
            cgroup: format!("/oarlock/{node_name}"),
            bpffs: "/sys/fs/bpf".into(),
            node_name,
            uplinks: vec![Uplink { name: "eth0".to_owned(), is_veth: true }],
            xdp: Acceleration::Disabled,
            tc: Tc::of_kernel(),
            accept_external_cluster_ip: false,
            count_backends: false,
            masquerade: true,
        };
        Self { config, pods, tasks, _folder: folder }
    }

    /// An agent that knows of the pods; with `stack` they are reached by the node's routes alone.
    fn open(&self, stack: bool) -> Dataplane {
        let mut dataplane = Dataplane::open(self.config.clone()).expect("needs root and `cargo xtask build`");
        for pod in self.pods.values() {
            std::fs::write(self.cgroup().join("cgroup.procs"), pod.sandbox.0.id().to_string()).unwrap();
        }
        let link = |pod: &Pod| PodLink { ends: pod.link.ends.filter(|_| !stack), ..pod.link.clone() };
        dataplane.set_pods(&self.pods.values().map(|pod| (pod.ip, link(pod))).collect()).unwrap();
        dataplane
    }

    /// What differs in the tables of policies from what is wanted.
    fn differences(&self, snapshot: &Snapshot) -> Vec<String> {
        let kernel = dataplane::kernel(&self.config.bpffs, &self.config.node_name).unwrap();
        let linked = self.pods.values().map(|pod| (pod.ip, pod.link.clone())).collect();
        let around = Surroundings {
            cluster_cidrs: &[],
            overlay: None,
            namespace: 0,
            pods: (&linked, &BTreeSet::new()),
        };
        let wanted = dataplane::wanted(&self.config, snapshot, around);
        let all = dataplane::compare(&kernel, &wanted).into_iter();
        let of_policies =
            all.filter(|d| ["ISOLATED", "IDENTITIES", "RULES", "POLICIES"].contains(&d.map.as_str()));
        of_policies.map(|difference| difference.to_string()).collect()
    }

    /// What the tables say would become of a packet from a pod to another.
    fn traced(&self, from: &str, to: &str, port: u16) -> String {
        let tables = dataplane::kernel(&self.config.bpffs, &self.config.node_name).unwrap().tables;
        let to = SocketAddr::from((self.pods[to].ip, port));
        let question = Question { from: self.pods[from].ip.into(), to, protocol: "TCP".to_owned() };
        dataplane::trace(&tables, &question, true).verdict
    }

    /// Takes away everything that is allowed.
    fn forget_rules(&self) {
        let pin =
            format!("/sys/fs/bpf/oarlock/{}/v{}/RULES", self.config.node_name, oarlock_ebpf::LAYOUT_VERSION);
        let mut rules: LpmTrie<MapData, [u8; 11], u32> =
            Map::LpmTrie(MapData::from_pin(pin).unwrap()).try_into().unwrap();
        let all: Vec<_> = rules.keys().map(Result::unwrap).collect();
        for key in all {
            rules.remove(&key).unwrap();
        }
    }

    fn cgroup(&self) -> PathBuf {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.find(|fields| fields[2] == "cgroup2").expect("a cgroup v2 hierarchy")[1].to_owned();
        PathBuf::from(root).join(self.config.cgroup.trim_start_matches('/'))
    }

    /// The pods, and policies with the pods that their peers name.
    fn snapshot(&self, specs: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let key = |name: &str| ("d".to_owned(), name.to_owned());
        for name in self.pods.keys() {
            let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": name}},
                "spec": {"containers": []}});
            snapshot.pods.insert(key(name), Arc::new(serde_json::from_value(pod).unwrap()));
        }
        for (i, spec) in specs.iter().enumerate() {
            let name = format!("p{i}");
            let policy = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec});
            snapshot.network_policies.insert(key(&name), Arc::new(serde_json::from_value(policy).unwrap()));
        }
        for (name, pod) in &self.pods {
            let peer: NetworkPolicyPeer = serde_json::from_value(app(name)).unwrap();
            let group = PodGroup::of("d", &peer).unwrap().id();
            let member = Member { ip: pod.ip, ip6: None, ports: BTreeMap::new() };
            snapshot.network_peers.insert((group, format!("d/{name}")), Arc::new(member));
        }
        snapshot
    }

    /// The revisions of policies: the present one, and the highest that there was.
    fn revisions(&self) -> [u32; 2] {
        let version = format!("v{}", oarlock_ebpf::LAYOUT_VERSION);
        let pins = self.config.bpffs.join("oarlock").join(&self.config.node_name).join(version);
        let table = MapData::from_pin(pins.join(oarlock_ebpf::maps::POLICIES)).unwrap();
        let table: Array<_, u32> = Map::Array(table).try_into().unwrap();
        [0, 1].map(|index| table.get(&index, 0).unwrap())
    }

    /// What b hears of a, of c, and of the node, when they ask it at port 80.
    fn heard(&self) -> [bool; 3] {
        let to = self.pods["b"].ip;
        let of_node = answer(Command::new("busybox").args(["nc", "-w", "1", &to.to_string(), "80"]));
        [self.pods["a"].ask(to, 80), self.pods["c"].ask(to, 80), of_node]
            .map(|said| said.as_deref() == Some("b"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.shut_down();
        // Their cgroup is removed with the rest.
        self.pods.clear();
        let _ = dataplane::remove(&self.config);
    }
}

fn app(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"app": name}}})
}

/// Not for longer than a test takes: whoever is cut off never hears that its peer has gone.
const CAT: [&str; 3] = ["timeout", "20", "cat"];

/// Three pods, as the agent plugs them.
fn plug(tasks: &Tasks, folder: PathBuf) -> BTreeMap<&'static str, Pod> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let network = Network::open(tasks, &folder, Underlay::by("eth0", Ipv4Addr::LOCALHOST)).await.unwrap();
        network.set_pod_cidr("10.78.0.0/24".parse().unwrap()).await.unwrap();
        let mut pods = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let sandbox = Process::sandbox();
            let (uid, namespace) = (name.to_owned(), "d".to_owned());
            let request = PodNetRequest {
                uid: uid.clone(),
                namespace,
                name: uid.clone(),
                pid: sandbox.0.id(),
                bandwidth: Bandwidth::default(),
                per_packet: false,
            };
            let given = network.add(&request).await.unwrap();
            let link = PodLink { uid, name: given.interface, ends: given.ends, ip6: None, per_packet: None };
            let mut pod = Pod { ip: given.ip.v4, link, sandbox, _servers: Vec::new() };
            for (port, answer) in
                [("80", &["echo", name][..]), ("81", &["echo", name]), ("82", &CAT), ("83", &CAT)]
            {
                let words = [&["busybox", "nc", "-ll", "-p", port, "-e"], answer].concat();
                let server = pod.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
                pod._servers.push(Process(server.unwrap()));
            }
            pods.insert(name, pod);
        }
        pods
    })
}

/// Until the servers listen, and ARP knows everybody.
fn everybody_is_heard(node: &Node) {
    for _ in 0..50 {
        if node.heard() == [true; 3] {
            return;
        }
    }
    assert_eq!(node.heard(), [true; 3], "before there was a policy");
}

fn policies_hold(name: &str, stack: bool) {
    let node = Node::new(name);
    let mut agent = node.open(stack);
    let free = node.snapshot(&[]);
    agent.enforce(&free).unwrap();
    agent.sync(&free).unwrap();
    everybody_is_heard(&node);
    assert_eq!(node.revisions(), [0, 0], "nothing is judged");

    let only_a = json!({"podSelector": {"matchLabels": {"app": "b"}}, "ingress": [{"from": [app("a")], "ports": [{"port": 80}]}]});
    let isolated = node.snapshot(std::slice::from_ref(&only_a));
    agent.enforce(&isolated).unwrap();
    assert_eq!(node.heard(), [true, false, true]);
    let (a, b, c) = (&node.pods["a"], &node.pods["b"], &node.pods["c"]);
    assert_eq!(a.ask(b.ip, 81), None, "another port");
    assert_eq!(b.ask(c.ip, 80).as_deref(), Some("c"), "answers come back to b");
    assert_eq!(c.ask(a.ip, 80).as_deref(), Some("a"), "nobody else is touched");

    let before = node.revisions();
    drop(agent);
    assert_eq!(node.heard(), [true, false, true], "without an agent");
    let mut agent = node.open(stack);
    agent.enforce(&isolated).unwrap();
    assert_eq!(
        (node.heard(), node.revisions()),
        ([true, false, true], before),
        "the next one changes nothing"
    );

    assert_eq!(node.differences(&isolated), [""; 0]);
    for (from, to, port, verdict) in [
        ("a", "b", 80, "delivered"),
        ("c", "b", 80, "dropped"),
        ("a", "b", 81, "dropped"),
        ("b", "a", 80, "delivered"),
    ] {
        assert_eq!(node.traced(from, to, port), verdict, "{from} to {to} at {port}");
    }
    node.forget_rules();
    let differences = node.differences(&isolated);
    let is_named =
        |said: &String| said.starts_with("RULES: ") && said.ends_with(" by TCP port 80 is missing: allowed");
    assert!(differences.len() == 1 && differences.iter().all(is_named), "{differences:?}");
    drop(agent);
    let mut agent = node.open(stack);
    agent.enforce(&isolated).unwrap();
    assert_eq!(node.differences(&isolated), [""; 0], "the next one mends it");

    let silent = json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", c.ip)}}], "ports": [{"port": 81}]}]});
    agent.enforce(&node.snapshot(&[only_a, silent])).unwrap();
    assert_eq!((b.ask(c.ip, 80), b.ask(c.ip, 81).as_deref(), b.ask(a.ip, 80)), (None, Some("c"), None));
    assert_eq!(node.heard(), [true, false, true], "answers leave");

    agent.enforce(&free).unwrap();
    assert_eq!(node.heard(), [true; 3]);
    assert_eq!(node.revisions()[0], 0);
}

#[test]
fn policies_hold_between_pods_that_packets_reach_straight() {
    policies_hold("straight", false);
}

#[test]
fn policies_hold_between_pods_that_packets_reach_by_the_nodes_routes() {
    policies_hold("stack", true);
}

/// A connection that stays.
struct Connection {
    client: Child,
    heard: BufReader<ChildStdout>,
}

impl Connection {
    fn open(from: &Pod, to: &Pod, port: &str) -> Self {
        // The server may not listen yet.
        (0..50)
            .map(|_| Self::try_open(from, to, port))
            .find_map(|mut this| this.talks().then_some(this))
            .unwrap()
    }

    fn try_open(from: &Pod, to: &Pod, port: &str) -> Self {
        let mut command = from.command(&["timeout", "5", "busybox", "nc", &to.ip.to_string(), port]);
        let mut client = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let heard = BufReader::new(client.stdout.take().unwrap());
        Self { client, heard }
    }

    /// Whether what is said is heard and answered.
    fn talks(&mut self) -> bool {
        let mut said = String::new();
        // Who was refused has left.
        let _ = self.client.stdin.as_mut().unwrap().write_all(b"hello\n");
        self.heard.read_line(&mut said).unwrap();
        said == "hello\n"
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

#[test]
fn connections_outlive_a_policy_that_allows_who_has_begun_them() {
    let node = Node::new("outlive");
    let mut agent = node.open(false);
    let free = node.snapshot(&[]);
    agent.enforce(&free).unwrap();
    agent.sync(&free).unwrap();
    everybody_is_heard(&node);
    let (a, b, c) = (&node.pods["a"], &node.pods["b"], &node.pods["c"]);
    let mut own = Connection::open(b, c, "82");
    let mut friend = Connection::open(a, b, "82");
    let mut other = Connection::open(c, b, "83");

    // Nothing may leave b but answers, and to c.
    let spec = json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [app("a")]}], "egress": [{"to": [app("c")]}]});
    agent.enforce(&node.snapshot(&[spec])).unwrap();
    assert!(own.talks(), "which b has begun, and may");
    assert!(friend.talks(), "which a has begun, and may");
    assert!(!other.talks(), "which c has begun, and may not");
}
