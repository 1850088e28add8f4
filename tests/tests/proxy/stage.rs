//! Two nodes with a pod each, a client and an API server, in network namespaces; all ends with the test.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oarlock_tests::cluster::{Said, build, run_in, shell, wait};
use serde_json::{Value, json};

/// The nodes' addresses.
pub(super) const NODES: [&str; 2] = ["172.31.78.11", "172.31.78.12"];
/// Another address of the first node.
pub(super) const EXTERNAL: &str = "172.31.78.111";
pub(super) const CLIENT: &str = "client";
pub(super) const CLIENT_IP: &str = "172.31.78.200";
pub(super) const CLUSTER_IP: &str = "10.97.0.50";
pub(super) const CLUSTER_IP6: &str = "fd00:10:97::50";
const FABRIC: &str = "fabric";
const FABRIC_IP: &str = "172.31.78.1";

/// A namespace or node of the test's own.
pub(super) fn name(of: &str) -> String {
    format!("oarlock-px-{of}")
}

/// The address of the pod of a node.
pub(super) fn pod_ip(node: usize) -> String {
    format!("10.88.{node}.5")
}

/// The address of IPv6 that goes with one of IPv4.
pub(super) fn six(ip: &str) -> String {
    let numbers: Vec<&str> = ip.split('.').collect();
    format!("fd00:{}:{}:{}::{}", numbers[0], numbers[1], numbers[2], numbers[3])
}

/// An address as it is in a URL.
pub(super) fn in_url(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// The address of a node on the network of [`Stage::lay_over`].
pub(super) fn overlay_ip(node: usize) -> String {
    format!("10.88.100.{node}")
}

/// The stage and who is on it.
pub(super) struct Stage {
    folder: PathBuf,
    cgroup: PathBuf,
    daemons: BTreeMap<String, Child>,
}

impl Stage {
    /// Makes namespaces, links and routes, and starts the pods' servers.
    pub(super) fn set() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace");
        build();
        let folder = root.join("target/oarlock-proxy");
        let mounted = shell("awk '$3 == \"cgroup2\" {print $2; exit}' /proc/self/mounts").text;
        let cgroup = Path::new(mounted.trim()).join("oarlock-px");
        let stage = Self { folder, cgroup, daemons: BTreeMap::new() };
        // What a test that was killed has left.
        stage.strike();
        std::fs::create_dir_all(&stage.folder).expect("the target folder is writable");
        for node in 1..=2 {
            std::fs::create_dir_all(stage.cgroup.join(format!("node{node}"))).expect("root");
        }
        links();
        for node in 1..=2 {
            let pod = format!("pod{node}");
            for ip in [pod_ip(node), six(&pod_ip(node))] {
                answer(&pod, SocketAddr::new(ip.parse().expect("an address"), 8080));
            }
        }
        // At all addresses of both families.
        answer_as("host", "node1", SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9000)));
        answer(CLIENT, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9000)));
        stage
    }

    pub(super) fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    /// Starts the API server, anew or on what it has.
    pub(super) fn serve(&mut self) {
        let arguments = format!(
            "serve --data-dir {} --advertise-address {FABRIC_IP} --tls-san {FABRIC_IP} \
             --service-cluster-ip-range 10.97.0.0/16,fd00:10:97::/112 --cluster-cidr 10.88.0.0/16,fd00:10:88::/48",
            self.path("control")
        );
        self.start("control", FABRIC, "oarlock-control", &arguments);
        wait("the API server is ready", Duration::from_secs(30), || {
            let text =
                std::fs::read_to_string(self.path("control/admin.kubeconfig")).map_err(|e| e.to_string())?;
            let text = text.replace("127.0.0.1", FABRIC_IP);
            std::fs::write(self.path("kubeconfig"), text).map_err(|e| e.to_string())?;
            let said = self.kubectl("get --raw /readyz");
            if said.well { Ok(()) } else { Err(said.text) }
        });
    }

    /// Starts the proxy of a node.
    pub(super) fn proxy(&mut self, node: usize) {
        let arguments = format!(
            "{} --kubeconfig {} --uplink eth0 --overlay vx0 --xdp disabled --cluster-cidr 10.88.0.0/16,fd00:10:88::/48",
            of_node(node),
            self.path("kubeconfig")
        );
        self.start(&format!("proxy{node}"), &format!("node{node}"), "oarlock-agent", &arguments);
    }

    /// From now on nodes reach each other's pods by a network of their own, as flannel's.
    pub(super) fn lay_over(&self) {
        for node in 1..=2 {
            let (host, other) = (name(&format!("node{node}")), 3 - node);
            let remote = NODES[other - 1];
            ip(&format!("-n {host} link add vx0 type vxlan id 78 remote {remote} dstport 4789 dev eth0"));
            ip(&format!("-n {host} addr add {}/24 dev vx0", overlay_ip(node)));
            ip(&format!("-n {host} link set vx0 up"));
            ip(&format!("-n {host} route replace 10.88.{other}.0/24 via {} dev vx0", overlay_ip(other)));
            let [own, far] = [node, other].map(|node| six(&overlay_ip(node)));
            ip(&format!("-n {host} addr add {own}/64 dev vx0 nodad"));
            ip(&format!("-n {host} route replace fd00:10:88:{other}::/64 via {far} dev vx0"));
        }
    }

    pub(super) fn clean_up(&self, node: usize) -> Said {
        let agent = self.folder.join("../debug/oarlock-agent");
        shell(&format!("{} {} --cleanup", agent.display(), of_node(node)))
    }

    fn start(&mut self, daemon: &str, namespace: &str, program: &str, arguments: &str) {
        let log = File::options().create(true).append(true).open(self.path(&format!("{daemon}.log")));
        let log = log.expect("the folder is the test's");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", name(namespace)));
        command.arg(self.folder.join("../debug").join(program)).args(arguments.split_whitespace());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
        self.daemons.insert(daemon.to_owned(), command.spawn().expect("nsenter is there"));
    }

    /// kill -9.
    pub(super) fn kill(&mut self, daemon: &str) {
        let mut child = self.daemons.remove(daemon).expect("it runs");
        child.kill().expect("it is ours");
        let _ = child.wait();
    }

    pub(super) fn log(&self, daemon: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{daemon}.log"))).unwrap_or_default()
    }

    pub(super) fn metrics(&self, node: usize) -> String {
        run_in(&name(&format!("node{node}")), "curl -sS -m 3 http://127.0.0.1:10249/metrics").text
    }

    fn kubectl(&self, arguments: &str) -> Said {
        run_in(&name(FABRIC), &format!("kubectl --kubeconfig {} {arguments}", self.path("kubeconfig")))
    }

    /// Creates or changes objects.
    pub(super) fn create(&self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        std::fs::write(self.path("objects.json"), list.to_string()).expect("the folder is the test's");
        let said = self.kubectl(&format!("apply -f {}", self.path("objects.json")));
        assert!(said.well, "{}", said.text);
    }

    /// A shell command in a namespace and below a node's cgroup, as a shell command of its own.
    pub(super) fn entering(&self, node: usize, namespace: &str, command: &str) -> String {
        let procs = self.cgroup.join(format!("node{node}/cgroup.procs"));
        format!(
            "echo $$ >{} && exec nsenter --net=/run/netns/{} sh -c '{command}'",
            procs.display(),
            name(namespace)
        )
    }

    /// Runs it.
    pub(super) fn below(&self, node: usize, namespace: &str, command: &str) -> Said {
        shell(&self.entering(node, namespace, command))
    }

    /// Removes everything.
    fn strike(&self) {
        for node in 1..=2 {
            let _ = self.clean_up(node);
            let _ = std::fs::remove_dir(self.cgroup.join(format!("node{node}")));
        }
        let _ = std::fs::remove_dir(&self.cgroup);
        for namespace in [FABRIC, CLIENT, "node1", "node2", "pod1", "pod2"] {
            let _ = shell(&format!("ip netns del {}", name(namespace)));
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in self.daemons.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for daemon in ["control", "proxy1", "proxy2"] {
                let log = self.log(daemon);
                let last = log.lines().rev().take(30).collect::<Vec<_>>();
                eprintln!("{daemon}:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        self.strike();
    }
}

fn of_node(node: usize) -> String {
    format!("proxy --node-name {} --cgroup /oarlock-px/node{node}", name(&format!("node{node}")))
}

fn links() {
    let fabric = name(FABRIC);
    ip(&format!("netns add {fabric}"));
    ip(&format!("-n {fabric} link add bridge0 type bridge"));
    ip(&format!("-n {fabric} addr add {FABRIC_IP}/24 dev bridge0"));
    ip(&format!("-n {fabric} link set bridge0 up"));
    ip(&format!("-n {fabric} link set lo up"));
    for (member, address) in [("node1", NODES[0]), ("node2", NODES[1]), (CLIENT, CLIENT_IP)] {
        let inside = join(member, &fabric, member, address);
        ip(&format!("-n {fabric} link set {member} master bridge0 up"));
        let forward = "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1";
        assert!(run_in(&inside, forward).well, "{inside} forwards");
    }
    ip(&format!("-n {} addr add {EXTERNAL}/24 dev eth0", name("node1")));
    for node in 1..=2 {
        let (host, other) = (name(&format!("node{node}")), 3 - node);
        let pod = join(&format!("pod{node}"), &host, "pod", &pod_ip(node));
        ip(&format!("-n {host} addr add 10.88.{node}.1/24 dev pod"));
        ip(&format!("-n {host} addr add fd00:10:88:{node}::1/64 dev pod nodad"));
        ip(&format!("-n {host} link set pod up"));
        ip(&format!("-n {pod} route add default via 10.88.{node}.1"));
        ip(&format!("-n {pod} route add default via fd00:10:88:{node}::1"));
        ip(&format!("-n {host} route add 10.88.{other}.0/24 via {}", NODES[other - 1]));
        ip(&format!("-n {host} route add fd00:10:88:{other}::/64 via {}", six(NODES[other - 1])));
    }
    // For what pods begin: their network's own way to the outside, on which nobody changes an address.
    ip(&format!("-n {} route add 10.88.1.0/24 via {}", name(CLIENT), NODES[0]));
}

/// Makes a namespace with a link `eth0` to another one, and an address of each family there.
fn join(member: &str, to: &str, peer: &str, address: &str) -> String {
    let inside = name(member);
    ip(&format!("netns add {inside}"));
    ip(&format!("link add {peer} netns {to} type veth peer name eth0 netns {inside}"));
    ip(&format!("-n {inside} addr add {address}/24 dev eth0"));
    ip(&format!("-n {inside} addr add {}/64 dev eth0 nodad", six(address)));
    ip(&format!("-n {inside} link set eth0 up"));
    ip(&format!("-n {inside} link set lo up"));
    inside
}

fn ip(words: &str) {
    let said = shell(&format!("ip {words}"));
    assert!(said.well, "ip {words}: {}", said.text);
}

/// A web server in a namespace, as long as the test lives.
fn answer(namespace: &str, address: SocketAddr) {
    answer_as(namespace, namespace, address);
}

fn answer_as(who: &str, namespace: &str, address: SocketAddr) {
    let (who, path) = (who.to_owned(), format!("/run/netns/{}", name(namespace)));
    let (ready, listens) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let network = File::open(path).expect("it was made");
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
        let listener = TcpListener::bind(address).expect("the address is the namespace's");
        ready.send(()).expect("the test waits");
        for mut stream in listener.incoming().flatten() {
            // Who leaves before the answer is none of the server's troubles.
            let _ = say(&who, &mut stream);
        }
    });
    listens.recv().expect("it listens");
}

fn say(who: &str, stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    let body = format!("pod: {who}\nclient: {}\n", stream.peer_addr()?);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes())
}
