//! Real processes for a test: `oarlock-control` on free ports with a folder of its own, and an etcd; each is ended by its id.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oarlock_daemon::pki::CertifiedKey;
use oarlock_store::{Etcd, EtcdOptions, Store as _};

use crate::client::Client;

/// A process that ends with its guard.
pub(crate) struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).spawn().unwrap_or_else(|error| {
            panic!(
                "{command:?} does not start ({error}): these tests need etcd (apt-get install etcd-server)"
            )
        }))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.id()).unwrap()), signal).unwrap();
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, and its end.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.ends();
    }

    /// Its end, which it was asked for.
    pub(crate) fn ends(&mut self) {
        assert!(self.0.wait().unwrap().success(), "ends well when asked to");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_ports() -> (u16, u16) {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = (free(), free());
    (one.local_addr().unwrap().port(), other.local_addr().unwrap().port())
}

/// An etcd of one member.
pub(crate) struct EtcdServer {
    pub(crate) process: Process,
    ports: (u16, u16),
    folder: tempfile::TempDir,
}

impl EtcdServer {
    pub(crate) async fn start() -> Self {
        let (ports, folder) = (free_ports(), tempfile::tempdir().unwrap());
        let server = Self { process: Self::run(folder.path(), ports), ports, folder };
        server.answers().await;
        server
    }

    fn run(folder: &Path, (client, peer): (u16, u16)) -> Process {
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args([
                "--initial-cluster",
                &format!("default={peer}"),
                "--log-level",
                "error",
                "--logger",
                "zap",
            ]);
        Process::start(&mut command)
    }

    /// Starts it again on the same folder and ports.
    pub(crate) async fn restart(&mut self) {
        self.process = Self::run(self.folder.path(), self.ports);
        self.answers().await;
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.0)
    }

    pub(crate) async fn client(&self) -> Etcd {
        Etcd::connect(EtcdOptions { endpoints: vec![self.endpoint()], ..EtcdOptions::default() })
            .await
            .unwrap()
    }

    async fn answers(&self) {
        let client = self.client().await;
        for _ in 0..100 {
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), client.get("/")).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd does not answer");
    }
}

/// Where a control plane keeps its objects.
pub(crate) enum Store<'a> {
    Embedded,
    Etcd(&'a EtcdServer),
}

/// A control plane.
pub(crate) struct Control {
    pub(crate) process: Process,
    folder: PathBuf,
    ports: (u16, u16),
    arguments: Vec<String>,
    pub(crate) client: Client,
}

impl Control {
    /// Starts one in a new folder below `parent` and waits until it is ready.
    pub(crate) async fn start(parent: &Path, name: &str, store: Store<'_>) -> Self {
        let (folder, ports) = (parent.join(name), free_ports());
        let arguments = match store {
            Store::Embedded => vec![],
            Store::Etcd(etcd) => {
                vec!["--store".to_owned(), "etcd".to_owned(), "--etcd-endpoints".to_owned(), etcd.endpoint()]
            }
        };
        let process = Self::run(&folder, ports, &arguments);
        let client = Client::new(ports.0, certificates(&folder).await);
        let control = Self { process, folder, ports, arguments, client };
        control.is_ready().await;
        control
    }

    /// One that has a service manager, which listens at `socket` and wants to hear every 300 ms that it lives.
    pub(crate) fn under_a_manager(parent: &Path, socket: &Path) -> Process {
        let (ports, folder) = (free_ports(), parent.join("managed"));
        let mut command = Self::command(&folder, ports, &[]);
        Process::start(command.env("NOTIFY_SOCKET", socket).env("WATCHDOG_USEC", "300000"))
    }

    fn run(folder: &Path, ports: (u16, u16), arguments: &[String]) -> Process {
        Process::start(&mut Self::command(folder, ports, arguments))
    }

    fn command(folder: &Path, ports: (u16, u16), arguments: &[String]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock-control"));
        command
            .args(["--log", "error", "serve", "--bind-address", "127.0.0.1", "--data-dir"])
            .arg(folder)
            .args(["--secure-port", &ports.0.to_string(), "--agent-port", &ports.1.to_string()])
            .args(arguments);
        command
    }

    /// Starts it again in its folder with another store.
    pub(crate) async fn restart_on(&mut self, store: &EtcdServer) {
        self.arguments =
            ["--store", "etcd", "--etcd-endpoints", &store.endpoint()].map(str::to_owned).to_vec();
        self.restart().await;
    }

    /// The address of its embedded store.
    pub(crate) fn file(&self) -> String {
        format!("file://{}/store.redb", self.folder.display())
    }

    /// The folder of certificates and keys.
    pub(crate) fn pki(&self) -> PathBuf {
        self.folder.join("pki")
    }

    /// The port of agents.
    pub(crate) fn agent_port(&self) -> u16 {
        self.ports.1
    }

    /// The cluster's CA.
    pub(crate) fn ca(&self) -> String {
        std::fs::read_to_string(self.pki().join("ca.crt")).unwrap()
    }

    /// Starts it again as it was.
    pub(crate) async fn restart(&mut self) {
        self.process = Self::run(&self.folder, self.ports, &self.arguments);
        self.is_ready().await;
    }

    async fn is_ready(&self) {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            if self.client.text("/readyz").await.is_ok_and(|answer| answer == "ok") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the control plane does not become ready");
    }
}

/// The CA and the administrator's certificate, as soon as the control plane has made them.
async fn certificates(folder: &Path) -> (String, CertifiedKey) {
    let pki = folder.join("pki");
    let read = |name: &str| std::fs::read_to_string(pki.join(name)).unwrap();
    for _ in 0..500 {
        // Written last.
        if folder.join("admin.kubeconfig").exists() {
            let own = CertifiedKey { certificate_pem: read("admin.crt"), key_pem: read("admin.key") };
            return (read("ca.crt"), own);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no certificates in {}", pki.display());
}
