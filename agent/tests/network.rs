//! The network of pods on real links, in network namespaces of the test's own. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;

use futures_util::future::join_all;
use oarlock_agent::net::{Network, PodNetRequest, PodNetResult, PodNetwork as _};
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
    assert!(said.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The number that a link of this name has now: another one after it was made anew.
fn number(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).unwrap()
}

async fn open(tasks: &Tasks, folder: &Path) -> Arc<Network> {
    Arc::new(Network::open(tasks, folder, "eth0").await.unwrap())
}

fn request(uid: &str, sandbox: &Sandbox) -> PodNetRequest {
    let (namespace, name) = ("d".to_owned(), uid.to_owned());
    PodNetRequest { uid: uid.to_owned(), namespace, name, pid: sandbox.0.id() }
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
        ip(&format!("route del {}/32", given.ip));
        ip(&format!("neigh del {} dev {}", given.ip, given.interface));
        ip(&format!("link set {} down", given.interface));
        inside(&format!("addr del {}/32 dev eth0", given.ip));
        inside("link set eth0 down");
        assert_eq!(next.add(&pod).await.unwrap(), given);
        assert_eq!(number(&given.interface), link, "repaired in place");
        assert!(ip(&format!("route get {}", given.ip)).contains(&given.interface));
        assert!(ip("neigh").contains("PERMANENT"), "{}", ip("neigh"));
        let pods = inside("addr show eth0") + &inside("route") + &inside("neigh");
        for part in [&format!("inet {}/32", given.ip), "default via 169.254.1.1", "PERMANENT", "state UP"] {
            assert!(pods.contains(part), "no {part} in {pods}");
        }

        // Another sandbox of the same pod gets a link of its own, so does one whose link was taken away.
        let another = Sandbox::start();
        let pod = request("uid-1", &another);
        let again = next.add(&pod).await.unwrap();
        assert_eq!((again.ip, &again.interface), (given.ip, &given.interface));
        assert!(again.ends.is_some() && again.ends != given.ends, "of the new link");
        assert_eq!(next.pods().await, [("uid-1".to_owned(), again)]);
        let anew = number(&given.interface);
        assert_ne!(anew, link);
        another.ip("link del eth0");
        assert_eq!(next.add(&pod).await.unwrap().ip, given.ip);
        assert_ne!(number(&given.interface), anew);
        assert_ne!(given.ip, Ipv4Addr::UNSPECIFIED);
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
                async move { next.set_node_routes(&BTreeSet::new()).await }
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
