//! The network of pods on real links, in network namespaces of the test's own. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]

use std::net::Ipv4Addr;
use std::process::{Child, Command};

use oarlock_agent::net::{Network, PodNetRequest, PodNetwork as _};
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
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(words: &str) -> String {
    let said = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(said.status.success(), "ip {words}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The number that a link of this name has now: another one after it was made anew.
fn number(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).unwrap()
}

#[test]
fn a_new_agent_leaves_the_links_of_running_pods_alone_and_repairs_broken_ones() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root");
    ip("link add eth0 type veth peer name far");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let sandbox = Sandbox::start();
        let pod = PodNetRequest {
            uid: "uid-1".to_owned(),
            namespace: "d".to_owned(),
            name: "p".to_owned(),
            pid: sandbox.0.id(),
        };
        let first = Network::open(&tasks, folder.path(), "eth0").await.unwrap();
        first.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        let given = first.add(&pod).await.unwrap();
        let link = number(&given.interface);
        drop(first);

        let next = Network::open(&tasks, folder.path(), "eth0").await.unwrap();
        assert_eq!(next.add(&pod).await.unwrap(), given, "the same address without a podCIDR yet");
        assert_eq!(number(&given.interface), link, "the same link");

        // What a crash may leave half made: no route yet.
        ip(&format!("route del {}/32", given.ip));
        assert_eq!(next.add(&pod).await.unwrap(), given);
        let repaired = number(&given.interface);
        assert_ne!(repaired, link, "made anew");
        assert!(ip(&format!("route get {}", given.ip)).contains(&given.interface));

        // Another sandbox of the same pod gets a link of its own.
        let another = Sandbox::start();
        let pod = PodNetRequest { pid: another.0.id(), ..pod };
        assert_eq!(next.add(&pod).await.unwrap(), given);
        assert_ne!(number(&given.interface), repaired);
        assert_ne!(given.ip, Ipv4Addr::UNSPECIFIED);
        tasks.shut_down();
    });
}
