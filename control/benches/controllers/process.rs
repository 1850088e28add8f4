//! The processes that are measured: etcd and control planes, on free ports of the loopback, ended by their ids.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use oarlock_control::leader;
use oarlock_daemon::pki::CertifiedKey;
use oarlock_store::{EtcdOptions, LeaseId, Op, Store as _};

/// A process that ends with its guard.
struct Process(Child);

impl Process {
    /// What it says goes into a file: cargo's own output stays readable.
    fn start(mut command: Command, log: &Path) -> Self {
        let log = File::create(log).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log).stdin(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
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
    let free = || TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (one, other) = (free(), free());
    let port = |listener: &TcpListener| listener.local_addr().expect("its port").port();
    (port(&one), port(&other))
}

/// An etcd of one member.
pub(crate) struct Etcd {
    _process: Process,
    port: u16,
}

impl Etcd {
    pub(crate) fn start(folder: &Path) -> Self {
        let (client, peer) = free_ports();
        let (of_clients, of_peers) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(folder.join("etcd"));
        command.args(["--listen-client-urls", &of_clients, "--advertise-client-urls", &of_clients]);
        command.args(["--listen-peer-urls", &of_peers, "--initial-advertise-peer-urls", &of_peers]);
        command.args(["--initial-cluster", &format!("default={of_peers}"), "--log-level", "error"]);
        // 150,000 pods and what was written of them in five minutes are more than the 2 GB of the default.
        command.args(["--logger", "zap", "--quota-backend-bytes", "8589934592"]);
        Self { _process: Process::start(command, &folder.join("etcd.log")), port: client }
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Takes the leadership away from whoever has it.
    pub(crate) async fn usurp(&self) -> Usurper {
        let options = EtcdOptions { endpoints: vec![self.endpoint()], ..EtcdOptions::default() };
        let client = oarlock_store::Etcd::connect(options).await.expect("etcd");
        let lease = client.grant_lease(Duration::from_secs(300)).await.expect("a lease");
        let put = Op::Put(leader::KEY.to_owned(), Bytes::from_static(b"the benchmark"), Some(lease));
        client.txn(vec![], vec![put]).await.expect("the leader's key");
        // Whoever led notices, and what it has begun comes to its end.
        tokio::time::sleep(Duration::from_secs(3)).await;
        Usurper { client, lease }
    }
}

/// Who holds the leadership and does nothing with it.
pub(crate) struct Usurper {
    client: oarlock_store::Etcd,
    lease: LeaseId,
}

impl Usurper {
    pub(crate) async fn resign(self) {
        self.client.revoke_lease(self.lease).await.expect("the lease");
    }
}

/// A control plane.
pub(crate) struct Control {
    process: Process,
    folder: PathBuf,
    ports: (u16, u16),
}

impl Control {
    /// Starts one in a new folder and waits until it has made its certificates and answers.
    pub(crate) async fn start(parent: &Path, name: &str, etcd: Option<&Etcd>) -> Self {
        let (folder, ports) = (parent.join(name), free_ports());
        let mut command = Command::new(env!("CARGO_BIN_EXE_oarlock-control"));
        command.args(["--log", "warn", "serve", "--bind-address", "127.0.0.1", "--data-dir"]).arg(&folder);
        command.args(["--secure-port", &ports.0.to_string(), "--agent-port", &ports.1.to_string()]);
        // Room for a /24 of each of 8,192 nodes.
        command.args(["--cluster-cidr", "10.64.0.0/11", "--service-cluster-ip-range", "10.96.0.0/16"]);
        if let Some(etcd) = etcd {
            command.args(["--store", "etcd", "--etcd-endpoints", &etcd.endpoint()]);
        }
        let process = Process::start(command, &parent.join(format!("{name}.log")));
        let control = Self { process, folder, ports };
        let start = Instant::now();
        while !control.folder.join("admin.kubeconfig").exists() || !control.is_ready().await {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "the control plane {name} does not become ready"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        control
    }

    async fn is_ready(&self) -> bool {
        let api = crate::api::Api::try_connect(self).await;
        match api {
            Ok(api) => api.text("/readyz").await == "ok",
            Err(_) => false,
        }
    }

    /// The port of the API.
    pub(crate) fn port(&self) -> u16 {
        self.ports.0
    }

    /// Where agents dial.
    pub(crate) fn agent_address(&self) -> String {
        format!("https://127.0.0.1:{}", self.ports.1)
    }

    /// The cluster's CA.
    pub(crate) fn ca(&self) -> String {
        self.read("pki/ca.crt")
    }

    /// The token with which agents join.
    pub(crate) fn token(&self) -> String {
        self.read("join-token").trim().to_owned()
    }

    /// The administrator's certificate.
    pub(crate) fn admin(&self) -> CertifiedKey {
        CertifiedKey { certificate_pem: self.read("pki/admin.crt"), key_pem: self.read("pki/admin.key") }
    }

    fn read(&self, name: &str) -> String {
        let path = self.folder.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn of_process(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.process.0.id())).expect("it runs")
    }

    /// Seconds that it has spent on processors.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = self.of_process("stat");
        let (_, rest) = stat.rsplit_once(") ").expect("the form of /proc/PID/stat");
        let ticks: f64 =
            rest.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().expect("ticks")).sum();
        // USER_HZ is 100 on every architecture that there is.
        ticks / 100.0
    }

    /// Megabytes that it has in memory.
    pub(crate) fn resident_megabytes(&self) -> f64 {
        let text = self.of_process("smaps_rollup");
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("kB") / 1000.0
    }

    /// SIGKILL.
    pub(crate) fn kill(self) {
        drop(self.process);
    }
}
