//! The dataplane on the real kernel: needs root, a BPF file system, cgroup v2 and a built BPF object.
//!
//! Service addresses are taken from 127.0.0.0/8, so that a packet that was not translated never leaves the machine.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use oarlock_agent::dataplane::{
    Acceleration, Dataplane, DataplaneConfig, PodLink, Tc, Traffic, Uplink, Watcher,
};
use oarlock_agent::desired::Snapshot;
use oarlock_ebpf::count::ServiceCounts;
use serde_json::json;

/// A cgroup and a folder of pins of its own; both are removed at the end.
struct Node {
    config: DataplaneConfig,
    cgroup: PathBuf,
}

impl Node {
    fn new(name: &str) -> Self {
        let node_name = format!("test-{name}-{}", std::process::id());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let root =
            mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|f| f.get(2) == Some(&"cgroup2"));
        let root =
            root.expect("a cgroup v2 hierarchy: `cargo xtask setup` says what is missing")[1].to_owned();
        let cgroup = Path::new(&root).join("oarlock").join(&node_name);
        let config = DataplaneConfig {
            node_ip: Ipv4Addr::new(127, 30, 77, 11),
            node_ip6: None,
            cgroup: format!("/oarlock/{node_name}"),
            bpffs: "/sys/fs/bpf".into(),
            node_name,
            uplinks: Vec::new(),
            xdp: Acceleration::Disabled,
            tc: Tc::of_kernel(),
            accept_external_cluster_ip: false,
            count_backends: false,
            masquerade: true,
        };
        Self { config, cgroup }
    }

    fn open(&self) -> Dataplane {
        Dataplane::open(self.config.clone()).expect("needs root and `cargo xtask build`")
    }

    /// Runs a shell command inside the node's cgroup; what it printed, and whether it succeeded.
    fn run(&self, command: &str) -> (String, bool) {
        let script = format!("echo $$ > {}/cgroup.procs && {command}", self.cgroup.display());
        let output = Command::new("busybox").args(["sh", "-c", &script]).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text.trim().to_owned(), output.status.success())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.config.bpffs.join("oarlock").join(&self.config.node_name));
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

/// A server that answers every connection with its name.
fn server(name: &'static str) -> u16 {
    server_at("127.0.0.1:0", name)
}

fn server_at(address: &str, name: &'static str) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut line = String::new();
                let _ = BufReader::new(&stream).read_line(&mut line);
                let _ = (&stream).write_all(format!("{name}\n").as_bytes());
            });
        }
    });
    port
}

/// A server that answers every datagram with itself.
fn echo() -> u16 {
    echo_at("127.0.0.1:0")
}

fn echo_at(address: &str) -> u16 {
    let socket = UdpSocket::bind(address).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    port
}

const VIP: &str = "127.96.0.10";

/// A Service at [`VIP`]:80 with a NodePort, and one slice per backend port (each is its own named target).
fn snapshot(protocol: &str, ports: &[u16]) -> Snapshot {
    let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
        "clusterIP": VIP, "ports": [{"name": "p", "port": 80, "nodePort": 30080, "protocol": protocol}]}});
    let mut snapshot = Snapshot::default();
    let key = |name: String| ("d".to_owned(), name);
    snapshot.services.insert(key("web".into()), Arc::new(serde_json::from_value(service).unwrap()));
    for port in ports {
        let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "p", "port": port, "protocol": protocol}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
        snapshot
            .endpoint_slices
            .insert(key(format!("web-{port}")), Arc::new(serde_json::from_value(slice).unwrap()));
    }
    snapshot
}

const ASK: &str = "echo hello | nc -w 3";

#[test]
fn connections_to_a_service_reach_all_backends_in_turn() {
    let node = Node::new("turn");
    let mut dataplane = node.open();
    let (a, b) = (server("a"), server("b"));
    let changed = dataplane.sync(&snapshot("TCP", &[a, b])).unwrap();
    assert_eq!((changed.written, changed.frontends), (3, 3));
    // Round robin is per CPU: the client is kept on one.
    let script = format!("taskset 1 busybox sh -c 'for i in 1 2 3 4 5 6; do {ASK} {VIP} 80; done'");
    let (answers, _) = node.run(&script);
    let count = |name: &str| answers.lines().filter(|l| *l == name).count();
    assert_eq!((count("a"), count("b")), (3, 3), "{answers}");
    let again = dataplane.sync(&snapshot("TCP", &[a, b])).unwrap();
    assert_eq!((again.written, again.removed), (0, 0), "the same again writes nothing");
}

#[test]
fn a_client_with_affinity_keeps_its_backend_and_another_agent_knows_of_it() {
    let node = Node::new("affinity");
    let mut dataplane = node.open();
    let (a, b) = (server("a"), server("b"));
    let with_affinity = |ports: &[u16]| {
        let mut snapshot = snapshot("TCP", ports);
        let service = snapshot.services.get_mut(&("d".to_owned(), "web".to_owned())).unwrap();
        Arc::make_mut(service).spec.as_mut().unwrap().session_affinity = Some("ClientIP".to_owned());
        snapshot
    };
    dataplane.sync(&with_affinity(&[a, b])).unwrap();
    let script = format!("for i in 1 2 3 4 5 6; do {ASK} {VIP} 80; {ASK} 127.0.0.1 30080; done");
    let (answers, _) = node.run(&script);
    let first = answers.lines().next().unwrap().to_owned();
    assert!(answers.lines().count() == 12 && answers.lines().all(|line| line == first), "{answers}");
    drop(dataplane);
    let mut next = node.open();
    let same = next.sync(&with_affinity(&[a, b])).unwrap();
    assert_eq!((same.written, same.removed), (0, 0), "nothing is written anew");
    let (left, name) = if first == "a" { (b, "b") } else { (a, "a") };
    next.sync(&with_affinity(&[left])).unwrap();
    assert_eq!(node.run(&format!("{ASK} {VIP} 80")).0, name, "the backend has left the Service");
}

#[test]
fn node_ports_answer_on_the_nodes_address_and_on_loopback() {
    let node = Node::new("nodeport");
    let mut dataplane = node.open();
    dataplane.sync(&snapshot("TCP", &[server("a")])).unwrap();
    for address in ["127.30.77.11", "127.0.0.1"] {
        assert_eq!(node.run(&format!("{ASK} {address} 30080")).0, "a", "{address}");
    }
    // A pod's loopback is its own.
    let inside = "ip link set lo up && (nc -l -p 30080 -e echo own & sleep 0.2";
    let script = format!("unshare --net busybox sh -c '{inside}; {ASK} 127.0.0.1 30080)'");
    assert_eq!(node.run(&script).0, "own");
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let node = Node::new("refuse");
    let mut dataplane = node.open();
    dataplane.sync(&snapshot("TCP", &[])).unwrap();
    let start = std::time::Instant::now();
    let (text, success) = node.run(&format!("{ASK} {VIP} 80"));
    assert!(!success && text.contains("refused"), "{text}");
    assert!(start.elapsed().as_secs() < 2, "refused, not dropped");
    let refused =
        dataplane.counters().unwrap().into_iter().find(|(name, _)| *name == "no_endpoints").unwrap();
    assert_eq!(refused.1, 1);
}

#[test]
fn traffic_flows_without_an_agent_and_the_next_one_goes_on() {
    let node = Node::new("pinned");
    let (a, b) = (server("a"), server("b"));
    let mut first = node.open();
    first.sync(&snapshot("TCP", &[a])).unwrap();
    drop(first);
    assert_eq!(node.run(&format!("{ASK} {VIP} 80")).0, "a", "no agent is there");
    let mut second = node.open();
    assert_eq!(node.run(&format!("{ASK} {VIP} 80")).0, "a", "before the first snapshot");
    let same = second.sync(&snapshot("TCP", &[a])).unwrap();
    assert_eq!((same.written, same.removed, same.frontends), (0, 0, 3), "what was pinned is known");
    second.sync(&snapshot("TCP", &[b])).unwrap();
    assert_eq!(node.run(&format!("{ASK} {VIP} 80")).0, "b");
    let gone = second.sync(&Snapshot::default()).unwrap();
    assert_eq!((gone.removed, gone.frontends), (3, 0));
    assert!(!node.run(&format!("{ASK} {VIP} 80")).1, "the address is nobody's again");
}

#[test]
fn datagrams_go_to_a_backend_and_answers_come_from_the_service() {
    let node = Node::new("udp");
    let port = echo();
    let mut dataplane = node.open();
    dataplane.sync(&snapshot("UDP", &[port])).unwrap();
    // An unconnected socket: sendto and recvfrom, which shows the answer's source.
    let script = format!(
        "python3 -c \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); \
         s.sendto(b'ping', ('{VIP}', 80)); d, a = s.recvfrom(64); print(d.decode(), a[0], a[1])\""
    );
    assert_eq!(node.run(&script).0, format!("ping {VIP} 80"));
}

/// Sockets of IPv6 that talk IPv4, as Java's do: to the Service, to its NodePort, and by datagrams with and without a connection.
#[test]
fn sockets_of_ipv6_reach_services_by_mapped_addresses() {
    let node = Node::new("mapped");
    let mut dataplane = node.open();
    dataplane.sync(&snapshot("TCP", &[server("a")])).unwrap();
    let script = format!(
        "python3 -c \"
import socket
for address in [('::ffff:{VIP}', 80), ('::ffff:127.0.0.1', 30080)]:
    s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM); s.settimeout(3)
    s.connect(address); s.send(b'x\\n'); print(s.recv(9).decode().strip(), *s.getpeername()[:2])
\""
    );
    assert_eq!(node.run(&script).0, format!("a ::ffff:{VIP} 80\na ::ffff:127.0.0.1 30080"));
    dataplane.sync(&snapshot("TCP", &[])).unwrap();
    let (text, success) = node.run(&script);
    assert!(!success && text.contains("refused"), "{text}");

    let port = echo();
    dataplane.sync(&snapshot("UDP", &[port])).unwrap();
    let script = format!(
        "python3 -c \"
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(b'ping', ('::ffff:{VIP}', 80)); d, a = s.recvfrom(64); print(d.decode(), *a[:2])
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(3)
s.connect(('::ffff:{VIP}', 80)); s.send(b'pong'); print(s.recv(9).decode(), *s.getpeername()[:2])
\""
    );
    assert_eq!(node.run(&script).0, format!("ping ::ffff:{VIP} 80\npong ::ffff:{VIP} 80"));
}

/// The Service of [`snapshot`] at an address of IPv6: the loopback's, of which there is but one.
fn snapshot6(protocol: &str, ports: &[u16]) -> Snapshot {
    let mut snapshot = snapshot(protocol, ports);
    let service = snapshot.services.get_mut(&("d".to_owned(), "web".to_owned())).unwrap();
    let spec = Arc::make_mut(service).spec.as_mut().unwrap();
    (spec.cluster_ip, spec.cluster_ips) = (Some("::1".to_owned()), Some(vec!["::1".to_owned()]));
    let keys: Vec<_> = snapshot.endpoint_slices.keys().cloned().collect();
    for key in keys {
        let slice = Arc::make_mut(snapshot.endpoint_slices.get_mut(&key).unwrap());
        slice.address_type = "IPv6".to_owned();
        slice.endpoints[0].addresses = vec!["::1".to_owned()];
    }
    snapshot
}

#[test]
fn sockets_of_ipv6_reach_services_of_ipv6() {
    let mut node = Node::new("six");
    node.config.node_ip6 = Some(std::net::Ipv6Addr::LOCALHOST);
    let mut dataplane = node.open();
    let (a, b) = (server_at("[::1]:0", "a"), server_at("[::1]:0", "b"));
    let changed = dataplane.sync(&snapshot6("TCP", &[a])).unwrap();
    assert_eq!(
        changed.frontends, 2,
        "the ClusterIP, and the NodePort at the loopback, which is the node's own"
    );
    let script = "python3 -c \"
import socket
for port in 80, 30080:
    s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM); s.settimeout(3)
    s.connect(('::1', port)); s.send(b'x\\n'); print(s.recv(9).decode().strip(), *s.getpeername()[:2])
\"";
    assert_eq!(node.run(script).0, "a ::1 80\na ::1 30080");
    drop(dataplane);
    let mut next = node.open();
    assert_eq!(next.sync(&snapshot6("TCP", &[a])).unwrap().written, 0, "what was pinned is known");
    next.sync(&snapshot6("TCP", &[b])).unwrap();
    assert_eq!(node.run(script).0, "b ::1 80\nb ::1 30080");
    next.sync(&snapshot6("TCP", &[])).unwrap();
    let (text, success) = node.run(script);
    assert!(!success && text.contains("refused"), "{text}");
    // A pod's loopback is its own.
    let inside = "ip link set lo up && (nc -l -p 30080 -e echo own & sleep 0.2";
    let script = format!("unshare --net busybox sh -c '{inside}; {ASK} ::1 30080)'");
    assert_eq!(node.run(&script).0, "own");

    next.sync(&snapshot6("UDP", &[echo_at("[::1]:0")])).unwrap();
    let script = "python3 -c \"
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(3)
s.sendto(b'ping', ('::1', 80)); d, a = s.recvfrom(64); print(d.decode(), *a[:2])
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(3)
s.connect(('::1', 80)); s.send(b'pong'); print(s.recv(9).decode(), *s.getpeername()[:2])
\"";
    assert_eq!(node.run(script).0, "ping ::1 80\npong ::1 80");
}

/// A connected socket would send to where nobody is for as long as it lives; nobody tells it.
#[test]
fn sockets_whose_backend_is_gone_hear_of_it_and_others_do_not() {
    let node = Node::new("gone");
    let mut dataplane = node.open();
    let (a, b) = (echo(), echo());
    dataplane.sync(&snapshot("UDP", &[a])).unwrap();
    let script = format!(
        "python3 -uc \"
import socket, sys
def connected(family, to):
    s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(5); s.connect(to); return s
kinds = [(socket.AF_INET, ('{VIP}', 80)), (socket.AF_INET6, ('::ffff:{VIP}', 80))]
sockets = [connected(*kind) for kind in kinds]
direct = connected(socket.AF_INET, ('127.0.0.1', {a}))
print('connected'); sys.stdin.readline()
for s, (family, to) in zip(sockets, kinds):
    try: print('still', s.recv(9))
    except OSError as e: print(e.strerror)
    s.connect(to); s.send(b'x'); print(s.recv(9).decode())
direct.send(b'direct'); print(direct.recv(9).decode())
\""
    );
    let script = format!("echo $$ > {}/cgroup.procs && {script}", node.cgroup.display());
    let mut client = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(said.next().as_deref(), Some("connected"));
    dataplane.sync(&snapshot("UDP", &[b])).unwrap();
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    let aborted = "Software caused connection abort";
    assert_eq!(said.collect::<Vec<_>>(), [aborted, "x", aborted, "x", "direct"]);
    assert!(client.wait().unwrap().success());
}

fn counted(dataplane: &Dataplane) -> (ServiceCounts, Vec<(String, [u64; 2])>) {
    let traffic = Traffic::of(dataplane.config(), &dataplane.directory()).unwrap();
    let [(name, counts)] = traffic.services.into_iter().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(name.to_string(), "d/web:p");
    let backends = traffic.backends.iter().map(|(peer, counts)| (peer.to_string(), counts.begun));
    (counts, backends.collect())
}

/// All frontends of a Service's port count as one, over restarts, and its backends where that is asked for.
#[test]
fn connections_are_counted_by_service_and_by_backend() {
    let mut node = Node::new("counted");
    node.config.count_backends = true;
    let mut dataplane = node.open();
    let port = server("a");
    dataplane.sync(&snapshot("TCP", &[port])).unwrap();
    node.run(&format!("{ASK} {VIP} 80; {ASK} {VIP} 80; {ASK} 127.0.0.1 30080"));
    let backend = format!("127.0.0.1:{port}");
    let three = ServiceCounts { begun: [3, 0], ..ServiceCounts::default() };
    assert_eq!(counted(&dataplane), (three, vec![(backend.clone(), [3, 0])]));
    drop(dataplane);
    dataplane = node.open();
    dataplane.sync(&snapshot("TCP", &[port])).unwrap();
    assert_eq!(counted(&dataplane), (three, vec![(backend, [3, 0])]), "another agent counts on");
    dataplane.sync(&snapshot("TCP", &[])).unwrap();
    node.run(&format!("{ASK} {VIP} 80"));
    let refused = ServiceCounts { dropped: [1, 0, 0, 0], ..three };
    assert_eq!(counted(&dataplane), (refused, vec![]));
    drop(dataplane);
    node.config.count_backends = false;
    dataplane = node.open();
    dataplane.sync(&snapshot("TCP", &[port])).unwrap();
    node.run(&format!("{ASK} {VIP} 80"));
    let four = ServiceCounts { begun: [4, 0], ..refused };
    assert_eq!(counted(&dataplane), (four, vec![]), "backends are not counted any more, Services are");
    dataplane.sync(&Snapshot::default()).unwrap();
    dataplane.sync(&snapshot("TCP", &[port])).unwrap();
    assert_eq!(counted(&dataplane).0, ServiceCounts::default(), "a Service made anew begins with nothing");
}

#[test]
fn who_looks_is_told_of_each_connection_and_nobody_else_is() {
    let node = Node::new("events");
    let mut dataplane = node.open();
    let port = server("a");
    dataplane.sync(&snapshot("TCP", &[port])).unwrap();
    let directory = dataplane.directory();
    let mut watcher = Watcher::open(&node.config).unwrap();
    let ask = format!("{ASK} {VIP} 80");
    node.run(&ask);
    assert_eq!(watcher.take(&directory), [], "nobody has looked");
    watcher.watch(std::time::Duration::from_secs(60)).unwrap();
    node.run(&ask);
    dataplane.sync(&snapshot("TCP", &[])).unwrap();
    node.run(&ask);
    let [connected, refused] = watcher.take(&directory).try_into().unwrap();
    assert_eq!((connected.what.as_str(), connected.hook.as_str()), ("translated", "socket"));
    assert_eq!(connected.destination.to_string(), format!("{VIP}:80"));
    assert_eq!(connected.translated_destination.unwrap().to_string(), format!("127.0.0.1:{port}"));
    assert_eq!(connected.service.as_deref(), Some("d/web:p"));
    assert_eq!(connected.client.as_deref(), Some("node"), "a process in the node's own cgroup");
    assert!(jiff::Timestamp::now().duration_since(connected.at).as_secs() < 30, "{connected:?}");
    assert!(refused.what == "no_endpoints" && refused.is_loss() && refused.at >= connected.at, "{refused:?}");
    watcher.watch(std::time::Duration::ZERO).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_millis(1200);
    while std::time::Instant::now() < end {
        node.run(&ask);
    }
    watcher.take(&directory);
    node.run(&ask);
    assert_eq!(watcher.take(&directory), [], "it ends by itself");
}

/// The program on a link, as its pin says: another one after it was replaced.
fn program_of(pin: &Path) -> u32 {
    let link = aya::programs::links::PinnedLink::from_pin(pin).unwrap();
    aya::programs::links::FdLink::from(link).info().unwrap().program_id()
}

/// What an agent of another layout leaves is made by pinning elsewhere what this one leaves.
#[test]
fn programs_of_another_layout_serve_until_the_tables_are_filled() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    for words in
        ["link add eth0 type veth peer name far", "link set lo up", "link add pod type veth peer name podfar"]
    {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    }
    let mut node = Node::new("layout");
    node.config.uplinks = vec![Uplink { name: "eth0".to_owned(), is_veth: true }];
    let (a, b) = (server("a"), server("b"));
    let link =
        PodLink { uid: "pod".to_owned(), name: "pod".to_owned(), ends: None, ip6: None, per_packet: None };
    let pods = [(Ipv4Addr::new(127, 0, 0, 9), link)].into();
    let mut old = node.open();
    old.set_pods(&pods).unwrap();
    old.sync(&snapshot("TCP", &[a])).unwrap();
    drop(old);
    let layouts = node.config.bpffs.join("oarlock").join(&node.config.node_name);
    let (present, other) = (layouts.join(format!("v{}", oarlock_ebpf::LAYOUT_VERSION)), layouts.join("v0"));
    std::fs::rename(&present, &other).unwrap();

    // A connection by name of the Service, which outlives the change.
    let talk = format!(
        "python3 -c \"import socket, sys; s = socket.create_connection(('{VIP}', 80), 3); print(s.getpeername()[0]); \
         sys.stdout.flush(); sys.stdin.readline(); print(s.getpeername()[0]); s.send(b'x\\n'); print(s.recv(9).decode().strip())\""
    );
    let script = format!("echo $$ > {}/cgroup.procs && {talk}", node.cgroup.display());
    let mut client = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), VIP);

    let mut new = node.open();
    new.set_pods(&pods).unwrap();
    assert_eq!(node.run(&format!("{ASK} {VIP} 80")).0, "a", "the other layout serves");
    let hooks = ["link_uplink_ingress_eth0", "link_uplink_egress_eth0", "link_pod_egress_pod"];
    let before = hooks.map(|hook| program_of(&other.join(hook)));
    assert!(hooks.iter().all(|hook| !present.join(hook).exists()), "nothing is attached over empty tables");
    drop(new);
    let mut new = node.open();
    new.set_pods(&pods).unwrap();
    new.sync(&snapshot("TCP", &[b])).unwrap();
    // The kernel lets go what has been unpinned by a work queue (kernel/bpf/syscall.c, bpf_link_put): a moment later.
    let ask = || node.run(&format!("sleep 0.1; {ASK} {VIP} 80")).0;
    let answer = (0..50).map(|_| ask()).find(|answer| answer == "b");
    assert_eq!(answer.as_deref(), Some("b"), "a start that was cut short is no hindrance: {}", ask());
    for (hook, before) in hooks.iter().zip(before) {
        assert_ne!(program_of(&present.join(hook)), before, "{hook} was replaced");
    }
    assert!(!other.exists(), "nothing of it is left");
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    let rest: Vec<String> = said.lines().map(Result::unwrap).collect();
    assert_eq!(rest, [VIP, "a"], "it talks on, and to whom it believes");
    assert!(client.wait().unwrap().success());
}

/// Links of a network namespace that ends with the test's thread: a veth, and the loopback, whose driver knows no XDP.
#[test]
fn uplinks_without_native_xdp_are_served_by_tc_and_say_why() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    let ip = |words: &str| {
        let said = Command::new("ip").args(words.split(' ')).output().unwrap();
        assert!(said.status.success(), "ip {words}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    ip("link add eth0 type veth peer name far");
    let mut node = Node::new("modes");
    node.config.uplinks = vec![
        Uplink { name: "eth0".to_owned(), is_veth: true },
        Uplink { name: "lo".to_owned(), is_veth: false },
    ];
    let mut open = |xdp| {
        node.config.xdp = xdp;
        node.open().modes().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let tc = if Tc::of_kernel() == Tc::Tcx { "tc" } else { "clsact" };
    let modes = open(Acceleration::BestEffort);
    assert!(modes[0].starts_with(&format!("eth0={tc} (a veth's other end")), "{modes:?}");
    assert!(modes[1].starts_with(&format!("lo={tc} (no native XDP:")), "{modes:?}");
    let modes = open(Acceleration::Native);
    assert_eq!(modes[0], "eth0=xdp");
    let program = || ip("-o -d link show eth0").split("prog/xdp id ").nth(1).map(str::to_owned);
    let first = program().expect("stays while no agent runs");
    assert_eq!(open(Acceleration::Native)[0], "eth0=xdp");
    assert_ne!(program().expect("another agent's"), first, "replaced in place");
    assert_eq!(open(Acceleration::Disabled)[0], format!("eth0={tc} (disabled by --xdp)"));
    assert_eq!(program(), None, "taken away");
}

/// What kernels without TCX do, tried on whatever this one is.
#[test]
fn filters_of_clsact_are_replaced_in_place_and_go_with_the_node() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    for words in
        ["link add eth0 type veth peer name far", "link set lo up", "link add pod type veth peer name podfar"]
    {
        assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success());
    }
    let filters = |link: &str, direction: &str| {
        let said = Command::new("tc").args(["filter", "show", "dev", link, direction]).output().unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        let lines = text.lines().filter(|line| line.contains("direct-action"));
        lines.map(|line| line.split_once("handle").unwrap().1.trim().to_owned()).collect::<Vec<_>>()
    };
    let mut node = Node::new("clsact");
    node.config.tc = Tc::Clsact;
    node.config.uplinks = vec![Uplink { name: "eth0".to_owned(), is_veth: true }];
    let link =
        PodLink { uid: "pod".to_owned(), name: "pod".to_owned(), ends: None, ip6: None, per_packet: None };
    let pods = [(Ipv4Addr::new(127, 0, 0, 9), link)].into();
    let places = [
        ("eth0", "ingress", "uplink_ingress"),
        ("eth0", "egress", "uplink_egress"),
        ("pod", "ingress", "pod_egress"),
    ];
    let mut before = Vec::new();
    for _ in 0..2 {
        let mut agent = node.open();
        assert_eq!(agent.modes()[0].name(), "clsact");
        agent.set_pods(&pods).unwrap();
        drop(agent);
        let present: Vec<Vec<String>> =
            places.iter().map(|(link, direction, _)| filters(link, direction)).collect();
        for ((.., program), present) in places.iter().zip(&present) {
            assert!(present.len() == 1 && present[0].contains(program), "one {program}: {present:?}");
        }
        assert_ne!(present, before, "other programs than the last agent's");
        before = present;
    }
    oarlock_agent::dataplane::remove(&node.config).unwrap();
    assert_eq!(filters("eth0", "ingress").len() + filters("eth0", "egress").len(), 0);
}
