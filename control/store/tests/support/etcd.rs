//! A real etcd for a test: one process on free loopback ports with a folder of its own, ended by its id.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oarlock_store::{Etcd, EtcdOptions, Store as _, Together};

/// A running etcd; ends with its guard.
pub(crate) struct Server {
    process: Child,
    ports: (u16, u16),
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts one and waits until it answers. Another process may take a port first: then with other ports.
    pub(crate) async fn start() -> Self {
        for _ in 0..5 {
            let free = || TcpListener::bind("127.0.0.1:0").unwrap();
            let (client, peer) = (free(), free());
            let ports = (client.local_addr().unwrap().port(), peer.local_addr().unwrap().port());
            drop((client, peer));
            let folder = tempfile::tempdir().unwrap();
            let mut server = Self { process: run(&folder, ports), ports, folder };
            if server.answers().await {
                return server;
            }
        }
        panic!("etcd does not start: see its log in the test's output");
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Etcd {
        let endpoints = vec![format!("http://127.0.0.1:{}", self.ports.0)];
        // What begins with "/b" waits a little for others.
        let may = |prefix: &str, patience| Together { prefix: prefix.to_owned(), patience };
        let together = vec![may("/b", Duration::from_millis(3)), may("/", Duration::ZERO)];
        Etcd::connect(EtcdOptions { endpoints, together, ..EtcdOptions::default() }).await.unwrap()
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on the same folder and ports.
    pub(crate) async fn restart(&mut self) {
        self.process = run(&self.folder, self.ports);
        assert!(self.answers().await, "etcd starts again on what it has");
    }

    async fn answers(&mut self) -> bool {
        let client = self.client().await;
        for _ in 0..200 {
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), client.get("/")).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(folder: &tempfile::TempDir, (client, peer): (u16, u16)) -> Child {
    let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let cluster = format!("default={peer}");
    Command::new("etcd")
        .arg("--data-dir")
        .arg(folder.path().join("etcd"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &cluster, "--log-level", "error", "--logger", "zap"])
        .stdout(Stdio::null())
        .spawn()
        .expect("these tests need etcd: install it with `apt-get install etcd-server` (Debian), or put it in the PATH")
}
