//! The network of pods on real links, in network namespaces of the test's own. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use futures_util::future::join_all;
use oarlock_agent::dataplane::Answering;
use oarlock_agent::net::{
    Bandwidth, Network, NodeRoute, NorthSouth, Peer, PodNetRequest, PodNetResult, PodNetwork as _, Underlay,
    Way, node_routes,
};
use oarlock_daemon::Tasks;

/// A process in a network namespace of its own, as a pod's sandbox is; ends with the test.
struct Sandbox(Child);

impl Sandbox {
    fn start() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().expect("root");
        // Until it is in its own namespace.
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        while std::fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|net| net == own) {
            std::thread::yield_now();
        }
        Self(child)
    }

    /// `ip` in its namespace.
    fn ip(&self, words: &str) -> String {
        let net = format!("--net=/proc/{}/ns/net", self.0.id());
        run(Command::new("nsenter").args([&net, "ip"]).args(words.split(' ')))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(words: &str) -> String {
    run(Command::new("ip").args(words.split(' ')))
}

fn run(command: &mut Command) -> String {
    let said = command.output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&said.stderr));
    text
}

/// The number that a link of this name has now: another one after it was made anew.
fn number(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).unwrap()
}

async fn open(tasks: &Tasks, folder: &Path) -> Arc<Network> {
    let underlay = Underlay::by("eth0", Ipv4Addr::new(192, 0, 2, 1));
    Arc::new(Network::open(tasks, folder, underlay).await.unwrap())
}

fn request(uid: &str, sandbox: &Sandbox) -> PodNetRequest {
    let (namespace, name) = ("d".to_owned(), uid.to_owned());
    PodNetRequest {
        uid: uid.to_owned(),
        namespace,
        name,
        pid: sandbox.0.id(),
        bandwidth: Bandwidth::default(),
        per_packet: false,
    }
}

/// Runs a test of the network in a namespace of its own.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce(Tasks, PathBuf) -> F) {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    ip("link add eth0 type veth peer name far");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    runtime.block_on(test(tasks.clone(), folder.path().to_owned()));
    tasks.shut_down();
}

#[test]
fn a_new_agent_leaves_the_links_of_running_pods_alone_and_repairs_what_is_wrong_with_them() {
    on_a_node(|tasks, folder| async move {
        let sandbox = Sandbox::start();
        let pod = request("uid-1", &sandbox);
        let first = open(&tasks, &folder).await;
        first.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        let given = first.add(&pod).await.unwrap();
        let link = number(&given.interface);
        drop(first);

        let next = open(&tasks, &folder).await;
        assert_eq!(next.add(&pod).await.unwrap(), given, "the same address without a podCIDR yet");
        assert_eq!(number(&given.interface), link, "the same link");

        // What a crash may leave half made, and what somebody may have taken away.
        let inside = |words: &str| sandbox.ip(words);
        ip(&format!("route del {}/32", given.ip.v4));
        ip(&format!("neigh del {} dev {}", given.ip.v4, given.interface));
        ip(&format!("link set {} down", given.interface));
        inside(&format!("addr del {}/32 dev eth0", given.ip.v4));
        inside("link set eth0 down");
        assert_eq!(next.add(&pod).await.unwrap(), given);
        assert_eq!(number(&given.interface), link, "repaired in place");
        assert!(ip(&format!("route get {}", given.ip.v4)).contains(&given.interface));
        assert!(ip("neigh").contains("PERMANENT"), "{}", ip("neigh"));
        let pods = inside("addr show eth0") + &inside("route") + &inside("neigh");
        for part in [&format!("inet {}/32", given.ip.v4), "default via 169.254.1.1", "PERMANENT", "state UP"]
        {
            assert!(pods.contains(part), "no {part} in {pods}");
        }

        // Another sandbox of the same pod gets a link of its own, so does one whose link was taken away.
        let another = Sandbox::start();
        let pod = request("uid-1", &another);
        let again = next.add(&pod).await.unwrap();
        assert_eq!((again.ip, &again.interface), (given.ip, &given.interface));
        assert!(again.ends.is_some() && again.ends != given.ends, "of the new link");
        assert_eq!(next.pods(), [("uid-1".to_owned(), again)]);
        let anew = number(&given.interface);
        assert_ne!(anew, link);
        another.ip("link del eth0");
        assert_eq!(next.add(&pod).await.unwrap().ip, given.ip);
        assert_ne!(number(&given.interface), anew);
        assert_ne!(given.ip.v4, Ipv4Addr::UNSPECIFIED);
    });
}

#[test]
fn a_pod_of_a_node_with_dual_stack_has_an_address_of_each_family() {
    on_a_node(|tasks, folder| async move {
        ip("link set eth0 up");
        ip("link set far up");
        ip("addr add fd00:77::1/64 dev eth0 nodad");
        let sandbox = Sandbox::start();
        // As Docker leaves it where it gives no network.
        let off = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1";
        let net = format!("--net=/proc/{}/ns/net", sandbox.0.id());
        run(Command::new("nsenter").arg(&net).args(off.split(' ')));
        let pod = request("uid-1", &sandbox);
        let network = open(&tasks, &folder).await;
        network.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        network.set_pod_cidr6("fd00:10:77::/64".parse().unwrap()).await.unwrap();
        let given = network.add(&pod).await.unwrap();
        let six = given.ip.v6.unwrap();
        assert_eq!(six.to_string(), "fd00:10:77::a4d:1", "the one of IPv4 at its end");
        let reaches = || {
            assert!(ip(&format!("route get {six}")).contains(&given.interface));
            let words = ["nsenter", &net, "busybox", "ping", "-c", "3", "-W", "1", "fd00:77::1"];
            run(Command::new(words[0]).args(&words[1..]));
            run(Command::new("busybox").args(["ping", "-c", "3", "-W", "1", &six.to_string()]));
        };
        reaches();
        let link = number(&given.interface);
        ip(&format!("-6 neigh del {six} dev {}", given.interface));
        sandbox.ip(&format!("addr del {six}/128 dev eth0"));
        sandbox.ip("link set eth0 down");
        assert_eq!(network.add(&pod).await.unwrap(), given);
        assert_eq!(number(&given.interface), link, "repaired in place");
        reaches();
        assert!(ip("-6 route show proto 201").contains("unreachable fd00:10:77::/64"));

        ip("addr add 192.0.2.1/24 dev eth0");
        let peer = |net: u8, address: &str| Peer {
            pod_cidr: format!("fd00:10:{net:x}::/64").parse().unwrap(),
            address: address.parse().unwrap(),
            direct: false,
        };
        // As agents before this one left it of a node on another network.
        ip("route add unreachable fd00:10:7a::/64 proto 201");
        let far = peer(0x7a, "198.51.100.2,fd00:78::2");
        let peers = [
            peer(0x78, "192.0.2.2,fd00:77::2"),
            peer(0x79, "192.0.2.3,fd00:77::3"),
            peer(0x7b, "192.0.2.4"),
            far,
        ];
        network.set_peers(&peers.into()).await.unwrap();
        let present = ip("-6 route show proto 201");
        assert!(present.contains("fd00:10:79::/64 via fd00:77::3"), "{present}");
        for tunnel in [
            "fd00:10:7a::/64 via fe80::86f:c6ff:fe33:6402 dev oarlock-vx src fd00:10:77::a4d:0",
            "fd00:10:7b::/64 via fe80::86f:c0ff:fe00:204 dev oarlock-vx src fd00:10:77::a4d:0",
        ] {
            assert!(present.contains(tunnel), "not on our network, or not of IPv6: {present}");
        }
        assert!(!present.contains("unreachable fd00:10:7a"), "{present}");
        let neighbours = ip("-6 neigh show dev oarlock-vx");
        let known = "fe80::86f:c6ff:fe33:6402 lladdr 0a:6f:c6:33:64:02 PERMANENT";
        assert!(neighbours.contains(known), "{neighbours}");
        assert!(sandbox.ip("-6 route show default").contains("mtu 1450"), "pods send what fits");
        let (link, own) = (ip("-d link show oarlock-vx"), ip("-6 addr show dev oarlock-vx"));
        assert!(own.contains("inet6 fd00:10:77::a4d:0/128") && own.contains("deprecated"), "{own}");
        assert!(own.contains("inet6 fe80::86f:c0ff:fe00:201/64"), "next hop of others: {own}");
        assert!(link.contains("mtu 1450"), "{link}");
        let ways = network.reached().borrow().clone();
        let overlay = ways.overlay.unwrap();
        assert_eq!(overlay.address6.unwrap().to_string(), "fd00:10:77::a4d:0");
        let far_nodes: Vec<String> = overlay.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(far_nodes, ["fd00:78::2"], "whose pods are reached by their node's address of IPv4");
        assert_eq!(node_routes().await.unwrap(), ways.routes, "as the kernel has it");
        ip("-6 neigh del fe80::86f:c6ff:fe33:6402 dev oarlock-vx");
        let lost = NodeRoute { pod_cidr: far.pod_cidr, via: [198, 51, 100, 2].into(), way: Way::Vxlan };
        assert!(ways.routes.contains(&lost) && !node_routes().await.unwrap().contains(&lost));
        for _ in 0..2 {
            network.set_peers(&[peer(0x78, "192.0.2.2,fd00:77::4"), far].into()).await.unwrap();
            assert!(node_routes().await.unwrap().contains(&lost), "mended");
            let present = ip("-6 route show proto 201");
            assert!(
                present.contains("fd00:10:78::/64 via fd00:77::4") && !present.contains("fd00:10:79"),
                "{present}"
            );
            assert!(!present.contains("fd00:77::2"), "replaced, not added: {present}");
            assert!(present.contains("unreachable fd00:10:77::/64"), "our own: {present}");
            assert!(!ip("-6 neigh show dev oarlock-vx").contains("fe80::86f:c0ff:fe00:204"), "forgotten");
        }
        let mut moved = network.moved();
        moved.mark_unchanged();
        ip("addr add fd00:78::1/64 dev eth0 nodad");
        let bell = tokio::time::timeout(std::time::Duration::from_secs(5), moved.changed());
        bell.await.expect("a bell").unwrap();
        network.set_peers(&[far].into()).await.unwrap();
        let present = ip("-6 route show proto 201");
        assert!(present.contains("fd00:10:7a::/64 via fd00:78::2 dev eth0"), "{present}");
        assert!(!ip("link").contains("oarlock-vx"), "nobody is behind it any more");
        assert!(!sandbox.ip("-6 route show default").contains("mtu"), "as much as the uplink takes");
        network.remove("uid-1").await.unwrap();
        assert!(!ip("-6 route").contains(&six.to_string()));
    });
}

/// All pods at once, as an agent that starts again asks for them: none may lose its link over the others.
#[test]
fn pods_that_are_looked_at_together_keep_their_links() {
    on_a_node(|tasks, folder| async move {
        let sandboxes: Vec<Sandbox> = (0..20).map(|_| Sandbox::start()).collect();
        let pods: Vec<_> =
            sandboxes.iter().enumerate().map(|(n, sandbox)| request(&format!("uid-{n}"), sandbox)).collect();
        let first = open(&tasks, &folder).await;
        first.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        let given = add_all(&first, &pods).await;
        drop(first);

        let links: Vec<u32> = given.iter().map(|net| number(&net.interface)).collect();
        for _ in 0..10 {
            let next = open(&tasks, &folder).await;
            let others = tokio::spawn({
                let next = Arc::clone(&next);
                async move { next.set_peers(&BTreeSet::new()).await }
            });
            assert_eq!(add_all(&next, &pods).await, given);
            others.await.unwrap().unwrap();
        }
        let present: Vec<u32> = given.iter().map(|net| number(&net.interface)).collect();
        assert_eq!(present, links, "the same links");
    });
}

async fn add_all(network: &Arc<Network>, pods: &[PodNetRequest]) -> Vec<PodNetResult> {
    let adding = pods.iter().cloned().map(|pod| {
        let network = Arc::clone(network);
        tokio::spawn(async move { network.add(&pod).await })
    });
    join_all(adding).await.into_iter().map(|added| added.unwrap().unwrap()).collect()
}

fn peer(net: u8, address: &str) -> Peer {
    let pod_cidr = format!("10.77.{net}.0/24").parse().unwrap();
    Peer { pod_cidr, address: address.parse().unwrap(), direct: false }
}

/// What leads to a peer, in the words of `ip route`.
fn route_to(net: u8) -> String {
    ip(&format!("route show 10.77.{net}.0/24"))
}

/// What a pod sends fits into the tunnel as long as there is one; the tunnel knows exactly the nodes that it leads to.
#[test]
fn nodes_on_other_networks_are_reached_through_a_tunnel_that_pods_packets_fit_into() {
    on_a_node(|tasks, folder| async move {
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        ip("link set far up");
        let (sandbox, network) = (Sandbox::start(), open(&tasks, &folder).await);
        network.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        let pod = network.add(&request("uid-1", &sandbox)).await.unwrap();
        let near = BTreeSet::from([peer(1, "192.0.2.2")]);
        network.set_peers(&near).await.unwrap();
        assert!(route_to(1).contains("via 192.0.2.2 dev eth0"), "{}", route_to(1));
        assert_eq!(network.reached().borrow().description, "direct mtu=1500");
        assert!(!sandbox.ip("route show default").contains("mtu"));

        let far = BTreeSet::from([peer(1, "192.0.2.2"), peer(2, "198.51.100.2"), peer(3, "198.51.100.3")]);
        network.set_peers(&far).await.unwrap();
        let tunnel = "via 198.51.100.2 dev oarlock-vx proto 201 src 10.77.0.0 onlink";
        assert!(route_to(2).contains(tunnel), "{}", route_to(2));
        assert!(route_to(1).contains("dev eth0"), "a neighbour is routed to as before");
        let link = ip("-d link show oarlock-vx");
        for part in ["mtu 1450", "link/ether 0a:6f:c0:00:02:01", "dstport 8472", "nolearning"] {
            assert!(link.contains(part), "no {part} in {link}");
        }
        let knows = || run(Command::new("bridge").args(["fdb", "show", "dev", "oarlock-vx"]));
        assert!(knows().contains("0a:6f:c6:33:64:02 dst 198.51.100.2 self permanent"), "{}", knows());
        assert!(sandbox.ip("route show default").contains("mtu 1450"), "pods send what fits");
        assert!(sandbox.ip("link show eth0").contains("mtu 1500"), "and take what others send");
        let ways = network.reached().borrow().clone();
        assert_eq!(ways.description, "direct,vxlan mtu=1450");
        let overlay = ways.overlay.unwrap();
        assert_eq!((overlay.link, overlay.address), (number("oarlock-vx"), Some([10, 77, 0, 0].into())));
        assert_eq!(overlay.nodes.len(), 2, "those that are not neighbours");
        assert_eq!(node_routes().await.unwrap(), ways.routes, "as the kernel has it");

        // Somebody takes away what the tunnel knows: that is found, and mended by the next call.
        run(Command::new("bridge")
            .args("fdb del 0a:6f:c6:33:64:02 dst 198.51.100.2 dev oarlock-vx".split(' ')));
        let lost = NodeRoute {
            pod_cidr: far.iter().nth(1).unwrap().pod_cidr,
            via: [198, 51, 100, 2].into(),
            way: Way::Vxlan,
        };
        assert!(ways.routes.contains(&lost) && !node_routes().await.unwrap().contains(&lost));
        network.set_peers(&far).await.unwrap();
        assert!(node_routes().await.unwrap().contains(&lost));

        // Another agent leaves it as it is, and links as long as it does not know better.
        drop(network);
        let (index, next) = (number("oarlock-vx"), open(&tasks, &folder).await);
        next.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        assert_eq!(next.add(&request("uid-1", &sandbox)).await.unwrap(), pod);
        assert!(sandbox.ip("route show default").contains("mtu 1450"));
        next.set_peers(&far).await.unwrap();
        assert_eq!(number("oarlock-vx"), index);

        // The uplink takes more: the bell rings, and pods follow.
        let mut moved = next.moved();
        moved.mark_unchanged();
        ip("link set eth0 mtu 9000");
        tokio::time::timeout(std::time::Duration::from_secs(5), moved.changed())
            .await
            .expect("a bell")
            .unwrap();
        next.set_peers(&far).await.unwrap();
        assert!(sandbox.ip("link show eth0").contains("mtu 9000"));
        assert!(sandbox.ip("route show default").contains("mtu 8950"));
        assert!(ip("link show oarlock-vx").contains("mtu 8950"));

        // A node has gone: the tunnel forgets it. One that has come nearer needs none.
        next.set_peers(&BTreeSet::from([peer(3, "198.51.100.3")])).await.unwrap();
        assert!(!knows().contains("198.51.100.2") && knows().contains("198.51.100.3"), "{}", knows());
        assert_eq!(route_to(2), "");
        ip("addr add 198.51.100.1/24 dev eth0");
        next.set_peers(&BTreeSet::from([peer(3, "198.51.100.3")])).await.unwrap();
        assert!(route_to(3).contains("via 198.51.100.3 dev eth0"), "{}", route_to(3));
        assert!(!ip("link").contains("oarlock-vx"), "nobody is behind it any more");
        assert!(!sandbox.ip("route show default").contains("mtu"), "as much as the uplink takes");
    });
}

/// Neighbours are routed to as ever, and are in the tunnel besides; an agent that starts goes on with it.
#[test]
fn nodes_that_answer_clients_themselves_have_tunnels_to_all_others() {
    on_a_node(|tasks, folder| async move {
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        ip("link set far up");
        let open = async |north_south| {
            let underlay = Underlay { north_south, ..Underlay::by("eth0", Ipv4Addr::new(192, 0, 2, 1)) };
            let network = Network::open(&tasks, &folder, underlay).await.unwrap();
            network.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
            network
        };
        let (sandbox, network) = (Sandbox::start(), open(NorthSouth::Direct).await);
        network.add(&request("uid-1", &sandbox)).await.unwrap();
        assert_eq!(network.reached().borrow().north_south, None, "not looked yet");
        let answering = Peer { direct: true, ..peer(1, "192.0.2.2") };
        let peers = BTreeSet::from([answering, peer(2, "192.0.2.3")]);
        network.set_peers(&peers).await.unwrap();
        let ways = network.reached().borrow().clone();
        assert_eq!(
            (ways.north_south, ways.description.as_str()),
            (Some(NorthSouth::Direct), "direct mtu=1450")
        );
        let overlay = ways.overlay.unwrap();
        let ranges = [("10.77.1.0/24".parse().unwrap(), Ipv4Addr::new(192, 0, 2, 2))];
        assert_eq!(overlay.tunnel, Some(Answering::These(Arc::new(ranges.into()))));
        assert_eq!(
            (overlay.address, overlay.nodes.len()),
            (Some([10, 77, 0, 0].into()), 0),
            "all are neighbours"
        );
        for net in [1, 2] {
            assert!(route_to(net).contains("dev eth0"), "{}", route_to(net));
        }
        let knows = || run(Command::new("bridge").args(["fdb", "show", "dev", "oarlock-vx"]));
        for place in ["0a:6f:c0:00:02:02 dst 192.0.2.2", "0a:6f:c0:00:02:03 dst 192.0.2.3"] {
            assert!(knows().contains(place), "{}", knows());
        }
        assert!(sandbox.ip("route show default").contains("mtu 1450"), "pods send what fits");

        drop(network);
        let index = number("oarlock-vx");
        let next = open(NorthSouth::Direct).await;
        let found = next.reached().borrow().overlay.clone().unwrap();
        assert_eq!(
            (found.link, found.address, found.tunnel),
            (index, overlay.address, Some(Answering::Unchanged))
        );
        next.set_peers(&BTreeSet::from([answering])).await.unwrap();
        assert!(number("oarlock-vx") == index && !knows().contains("192.0.2.3"), "{}", knows());
        drop(next);
        let last = open(NorthSouth::Snat).await;
        last.set_peers(&peers).await.unwrap();
        let ways = last.reached().borrow().clone();
        assert_eq!((ways.north_south, ways.overlay), (Some(NorthSouth::Snat), None));
        assert!(!ip("link").contains("oarlock-vx"), "nobody is behind it any more");
    });
}

/// How many bytes a second get from one namespace into another, by TCP.
fn bytes_per_second(receiver: &str, sender: &str, ip: Ipv4Addr) -> u64 {
    let receive = "
import socket, time
s = socket.create_server(('', 7000)); print('ready', flush=True); c = s.accept()[0]; begin = time.time(); n = 0
while time.time() < begin + 1.5:
    n += len(c.recv(1 << 20))
print(int(n / 1.5))
";
    let send = format!(
        "
import socket
c = socket.create_connection(('{ip}', 7000), 5)
try:
    while True: c.sendall(b'x' * 65536)
except OSError: pass
"
    );
    let python = |net: &str, script: &str| {
        let mut command = Command::new("nsenter");
        command.args([&format!("--net={net}"), "python3", "-c", script]);
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let mut receiver = python(receiver, receive);
    let mut said = std::io::BufReader::new(receiver.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let mut sender = python(sender, &send);
    line.clear();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    let _ = (sender.kill(), sender.wait(), receiver.wait());
    line.trim().parse().unwrap()
}

#[test]
fn pods_receive_and_send_no_more_than_their_annotations_say() {
    on_a_node(|tasks, folder| async move {
        ip("addr add 192.0.2.1/24 dev eth0");
        ip("link set eth0 up");
        ip("link set far up");
        ip("link set lo up");
        let (sandbox, network) = (Sandbox::start(), open(&tasks, &folder).await);
        network.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        // A megabyte a second in, two out.
        let bandwidth = Bandwidth { ingress: Some(8_000_000), egress: Some(16_000_000) };
        let request = PodNetRequest { bandwidth, ..request("uid-1", &sandbox) };
        let given = network.add(&request).await.unwrap();
        assert_eq!(given.ends, None, "packets have to come by the queue");
        let pod = format!("/proc/{}/ns/net", sandbox.0.id());
        let node = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
        let measured = [
            bytes_per_second(&pod, &node, given.ip.v4),
            bytes_per_second(&node, &pod, Ipv4Addr::new(192, 0, 2, 1)),
        ];
        for (rate, limit) in measured.into_iter().zip([1_000_000, 2_000_000]) {
            // The burst and what the receiver has waiting come on top, on a busy machine less arrives.
            assert!((limit / 4..limit * 5 / 4).contains(&rate), "{rate} of {limit} bytes a second");
        }
        assert_eq!(network.add(&request).await.unwrap(), given, "a second time changes nothing");
        let queue = run(Command::new("tc").args(["qdisc", "show", "dev", &given.interface, "root"]));
        assert!(queue.contains("tbf") && queue.contains("rate 8Mbit"), "{queue}");
    });
}
