//! A cluster as a user makes it: by `cargo xtask up`, looked at with kubectl.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// One cluster at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The address of the machine on the fabric.
pub const MACHINE: &str = "172.30.77.1";
/// The addresses of the nodes.
pub const NODES: [&str; 2] = ["172.30.77.11", "172.30.77.12"];
/// Those of two nodes on networks of their own.
pub const FAR_NODES: [&str; 2] = ["172.30.77.11", "172.30.78.12"];
/// The same of IPv6, on a machine that has it.
pub const NODES6: [&str; 2] = ["fd00:172:30:77::11", "fd00:172:30:77::12"];
/// Python with the packages of `requirements.txt` beside the tests of clients, as `cargo xtask setup` makes it.
pub const PYTHON: &str = "target/tools/python/bin/python";
/// Those of two nodes on networks of their own.
pub const FAR_NODES6: [&str; 2] = ["fd00:172:30:77::11", "fd00:172:30:78::12"];
/// The network namespace of a client outside the nodes.
pub const CLIENT: &str = "oarlock-client";

/// What a command said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whether it succeeded.
    pub well: bool,
    /// Its output, then its errors.
    pub text: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Self { well: output.status.success(), text }
    }
}

/// Runs a shell command.
#[must_use]
pub fn shell(command: &str) -> Said {
    Command::new("sh").args(["-c", command]).current_dir(root()).output().unwrap().into()
}

/// Runs a command in a network namespace.
#[must_use]
pub fn run_in(namespace: &str, command: &str) -> Said {
    let net = format!("--net=/run/netns/{namespace}");
    Command::new("nsenter").args([&net, "sh", "-c", command]).output().unwrap().into()
}

/// The workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Builds the daemons as `cargo xtask up --profile dev` of a shell does: what cargo tells a test of its package would make it build
/// much anew.
pub fn build() {
    let mut command = Command::new("cargo");
    command.args(["build", "--quiet", "--workspace", "--bins"]);
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"]
            .iter()
            .any(|of_package| name.to_string_lossy().starts_with(of_package))
        {
            command.env_remove(name);
        }
    }
    let build = Said::from(command.current_dir(root()).output().unwrap());
    assert!(build.well, "{}", build.text);
}

/// Runs `cargo xtask` with arguments.
#[must_use]
pub fn xtask(arguments: &[&str]) -> Said {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--package", "xtask", "--"]).args(arguments);
    command.current_dir(root()).output().unwrap().into()
}

/// Waits until something is so; panics with what `seen` says when it is not in time.
pub fn wait<T>(what: &str, patience: Duration, mut seen: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match seen() {
            Ok(value) => return value,
            Err(why) if start.elapsed() > patience => {
                panic!("waited {patience:?} in vain until {what}: {why}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// A running cluster of two nodes; taken down when dropped.
pub struct Cluster {
    store: &'static str,
    xdp: &'static str,
    networks: &'static str,
    docker: &'static str,
    is_up: bool,
    _one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Brings a cluster up that keeps its objects in `store` (embedded, etcd), with XDP on its uplinks as in the flag `--xdp`.
    #[must_use]
    pub fn up(store: &'static str, xdp: &'static str) -> Self {
        Self::up_on("1", store, xdp)
    }

    /// The same, with the two nodes on that many networks.
    #[must_use]
    pub fn up_on(networks: &'static str, store: &'static str, xdp: &'static str) -> Self {
        Self::up_as(networks, store, xdp, "shared")
    }

    /// Brings a cluster up whose nodes have each a Docker of its own ([`Self::docker`]).
    #[must_use]
    pub fn up_with_dockers() -> Self {
        Self::up_as("1", "embedded", "best-effort", "own")
    }

    fn up_as(networks: &'static str, store: &'static str, xdp: &'static str, docker: &'static str) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let status = xtask(&["status"]).text;
        assert!(
            !status.contains("running, pid"),
            "take your cluster down first (cargo xtask down):\n{status}"
        );
        let cluster = Self { store, xdp, networks, docker, is_up: true, _one: one };
        cluster.start(&[]);
        cluster
    }

    /// Where its data and logs are.
    #[must_use]
    pub fn folder() -> PathBuf {
        root().join("target/oarlock")
    }

    /// `cargo xtask up` on a cluster that is there: starts what is missing.
    pub fn up_again(&self) {
        self.start(&["--keep"]);
    }

    /// The same, with a file of settings for agents that are started.
    pub fn up_again_with(&self, agent_config: &Path) {
        self.start(&["--keep", "--agent-config", &agent_config.display().to_string()]);
    }

    /// The same, with agents whose `--north-south` is this.
    pub fn up_again_answering(&self, north_south: &str) {
        self.start(&["--keep", "--north-south", north_south]);
    }

    fn start(&self, more: &[&str]) {
        // Both families: what holds for them holds for IPv4 alone, which is what a user's `up` has.
        let up = ["up", "--profile", "dev", "--ip-family", "dual", "--store", self.store];
        let up =
            [&up[..], &["--xdp", self.xdp, "--networks", self.networks, "--docker", self.docker]].concat();
        let said = xtask(&[&up[..], more].concat());
        assert!(said.well, "{}\n{}", said.text, self.logs());
    }

    /// Takes the cluster down as a user does.
    pub fn down(mut self) {
        self.is_up = false;
        let said = xtask(&["down"]);
        assert!(said.well, "{}", said.text);
    }

    /// Runs a shell command in which kubectl talks to this cluster.
    #[must_use]
    pub fn shell(&self, command: &str) -> Said {
        let (tools, target) = (root().join("target/tools/kubectl/usr/bin"), root().join("target/oarlock"));
        shell(&format!(
            "export PATH=$PATH:{} KUBECONFIG={}; {command}",
            tools.display(),
            target.join("kubeconfig").display()
        ))
    }

    /// What kubectl prints; it must succeed.
    #[expect(clippy::must_use_candidate, reason = "often only that it succeeds counts")]
    pub fn kubectl(&self, arguments: &str) -> String {
        let said = self.shell(&format!("kubectl {arguments}"));
        assert!(said.well, "kubectl {arguments}: {}", said.text);
        said.text.trim().to_owned()
    }

    /// Objects as JSON.
    #[must_use]
    pub fn json(&self, arguments: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("{arguments} -o json"))).unwrap()
    }

    /// Waits until this many web servers are ready and their endpoints are known.
    pub fn web_is_ready(&self, replicas: usize) {
        wait("the web servers are ready", Duration::from_secs(60), || {
            let pods = self.json("get pods -l app=web");
            let ready = |pod: &&Value| {
                let conditions = pod["status"]["conditions"].as_array();
                conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
            };
            let is = pods["items"].as_array().into_iter().flatten().filter(ready).count();
            let endpoints = self.json("get endpoints web");
            let addresses = endpoints["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
            if (is, addresses) == (replicas, replicas) {
                return Ok(());
            }
            Err(format!("{is} ready, {addresses} endpoints\n{}", self.kubectl("describe pods -l app=web")))
        });
    }

    /// The names of the web servers' pods, sorted.
    #[must_use]
    pub fn web_pods(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .kubectl("get pods -l app=web -o jsonpath='{.items[*].metadata.name}'")
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }

    /// What the Docker of a node says, where each has its own.
    #[must_use]
    pub fn docker(node: &str, arguments: &str) -> String {
        let socket = Self::folder().join(format!("{node}-docker/docker.sock"));
        shell(&format!("docker -H unix://{} {arguments}", socket.display())).text
    }

    /// The pid of a daemon: control, etcd, node1, node2, and with Dockers of their own node1-docker, node2-docker.
    #[must_use]
    pub fn pid(&self, daemon: &str) -> String {
        let text = std::fs::read_to_string(root().join(format!("target/oarlock/{daemon}.pid"))).unwrap();
        text.split(' ').next().unwrap().to_owned()
    }

    /// Sends a signal to a daemon.
    pub fn signal(&self, daemon: &str, signal: &str) {
        let said = shell(&format!("kill -{signal} {}", self.pid(daemon)));
        assert!(said.well, "{}", said.text);
    }

    /// The last lines of every daemon's log.
    #[must_use]
    pub fn logs(&self) -> String {
        shell("tail -n 30 target/oarlock/*.log").text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_up {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let _ = xtask(&["down"]);
    }
}
