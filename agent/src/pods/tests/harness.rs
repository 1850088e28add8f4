//! A node of its own on a real dockerd: its label, its folder, a network that only pretends.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_api::node::LogRequest;
use oarlock_api::node::agent_message::Message;
use oarlock_daemon::Tasks;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::desired::Snapshot;
use crate::net::{NetError, PodNetRequest, PodNetResult, PodNetwork};
use crate::outbox::Outbox;
use crate::pods::{ClusterDns, Host, NodeFacts, Pods};
use crate::runtime::{Container, Docker, Runtime};

pub(super) const IMAGE: &str = "oarlock-test/busybox:2";
const PATIENCE: Duration = Duration::from_secs(20);

/// Gives every pod the same address and no link.
#[derive(Debug, Default)]
struct Pretended {
    removed: Mutex<Vec<String>>,
}

#[async_trait]
impl PodNetwork for Pretended {
    async fn add(&self, pod: &PodNetRequest) -> Result<PodNetResult, NetError> {
        Ok(PodNetResult {
            ip: Ipv4Addr::new(10, 9, 8, 7).into(),
            interface: pod.uid.clone(),
            ends: None,
            per_packet: None,
        })
    }

    async fn remove(&self, uid: &str) -> Result<(), NetError> {
        self.removed.lock().push(uid.to_owned());
        Ok(())
    }
}

/// The folder of an agent, and of those after it.
struct Folder(TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        // Parts of volumes are mounted there as long as their pods are.
        let _ = crate::volumes::unmount_below(self.0.path());
    }
}

pub(super) struct Node {
    pub(super) pods: Arc<Pods>,
    name: String,
    tasks: Tasks,
    docker: Arc<dyn Runtime>,
    network: Arc<dyn PodNetwork>,
    pretended: Arc<Pretended>,
    dir: Arc<Folder>,
    host: Host,
    snapshot: Mutex<Snapshot>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    statuses: BTreeMap<String, Value>,
    gone: Vec<String>,
    events: Vec<(String, String)>,
}

impl Node {
    pub(super) async fn start(name: &str) -> Self {
        let name = format!("pods-test-{name}-{}", std::process::id());
        let docker = Docker::new(&host(), &name);
        docker.version().await.expect("these tests need a dockerd at DOCKER_HOST or /var/run/docker.sock");
        import_image(&docker).await;
        Self::with(
            name,
            Arc::new(Folder(tempfile::tempdir().unwrap())),
            Arc::new(docker),
            None,
            Host::default(),
        )
    }

    /// A node whose containers are only pretended.
    pub(super) fn on(runtime: Arc<dyn Runtime>, name: &str) -> Self {
        Self::on_host(runtime, name, Host::default())
    }

    /// The same, with helpers of that host.
    pub(super) fn on_host(runtime: Arc<dyn Runtime>, name: &str, host: Host) -> Self {
        Self::with(name.to_owned(), Arc::new(Folder(tempfile::tempdir().unwrap())), runtime, None, host)
    }

    fn with(
        name: String,
        dir: Arc<Folder>,
        docker: Arc<dyn Runtime>,
        network: Option<Arc<dyn PodNetwork>>,
        host: Host,
    ) -> Self {
        let tasks = Tasks::new();
        let pretended = Arc::new(Pretended::default());
        let network = network.unwrap_or_else(|| pretended.clone());
        let outbox = Arc::new(Outbox::default());
        let facts = NodeFacts {
            ip: Ipv4Addr::LOCALHOST.into(),
            cgroup_parent: format!("/oarlock/{name}"),
            pause_image: IMAGE.to_owned(),
            data_dir: dir.0.path().to_path_buf(),
            volumes_dir: dir.0.path().join("volumes"),
            cpu_millis: 2000,
            memory: 1 << 30,
            host: host.clone(),
        };
        let pods = Pods::start(&tasks, facts, Arc::clone(&docker), network.clone(), Arc::clone(&outbox));
        pods.set_dns(ClusterDns { domain: "cluster.local".to_owned(), address: String::new() });
        let heard = Arc::new(Mutex::new(Heard::default()));
        tasks.job("test/outbox", {
            let (heard, token) = (Arc::clone(&heard), tasks.token());
            async move {
                loop {
                    tokio::select! {
                        () = token.cancelled() => return,
                        message = outbox.next() => hear(&heard, message),
                    }
                }
            }
        });
        let snapshot = Mutex::default();
        Self { pods, name, tasks, docker, network, pretended, dir, host, snapshot, heard }
    }

    /// The same node with real links, in a network namespace of this thread's own. Needs root.
    pub(super) async fn with_links(self) -> Self {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
        for words in [
            "link add eth0 type veth peer name eth1",
            "address add 172.30.99.1/24 dev eth0",
            "link set eth1 up",
            "link set eth0 up",
            "link set lo up",
        ] {
            let done = std::process::Command::new("ip").args(words.split(' ')).status();
            assert!(done.expect("these tests need ip (package iproute2)").success(), "ip {words}");
        }
        let underlay = crate::net::Underlay::by("eth0", std::net::Ipv4Addr::LOCALHOST);
        let network = crate::net::Network::open(&self.tasks, self.dir.0.path(), underlay).await.unwrap();
        network.set_pod_cidr("10.77.0.0/24".parse().unwrap()).await.unwrap();
        Self::with(self.name, self.dir, self.docker, Some(Arc::new(network)), self.host)
    }

    /// What kill -9 leaves: jobs end wherever they are, containers stay.
    pub(super) async fn kill_agent_and_start_again(self) -> Self {
        self.tasks.shut_down();
        self.tasks.finish(Duration::from_secs(5)).await.unwrap();
        Self::with(self.name, self.dir, self.docker, Some(self.network), self.host)
    }

    pub(super) fn pod(&self, name: &str, spec: Value) -> Pod {
        let uid = format!("{}-{name}", self.name);
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "test", "uid": uid}, "spec": spec}),
        )
        .unwrap()
    }

    /// A folder of the host for this test.
    pub(super) fn scratch(&self) -> String {
        let dir = self.dir.0.path().join("scratch");
        std::fs::create_dir_all(&dir).unwrap();
        dir.to_string_lossy().into_owned()
    }

    /// A file in the agent's own folder.
    pub(super) fn data_file(&self, name: &str) -> std::path::PathBuf {
        let path = self.dir.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub(super) fn secret(&self, name: &str, key: &str, value: &str) {
        self.secret_of(name, "Opaque", key, value);
    }

    pub(super) fn secret_of(&self, name: &str, kind: &str, key: &str, value: &str) {
        let data =
            BTreeMap::from([(key.to_owned(), oarlock_api::k8s::ByteString(value.as_bytes().to_vec()))]);
        let secret = oarlock_api::k8s::api::core::v1::Secret {
            data: Some(data),
            type_: Some(kind.to_owned()),
            ..Default::default()
        };
        self.snapshot.lock().secrets.insert(("test".into(), name.into()), Arc::new(secret));
    }

    pub(super) fn runtime_class(&self, name: &str, handler: &str) {
        let class = oarlock_api::k8s::api::node::v1::RuntimeClass {
            handler: handler.to_owned(),
            ..Default::default()
        };
        self.snapshot.lock().runtime_classes.insert((String::new(), name.into()), Arc::new(class));
    }

    pub(super) fn forget_secret(&self, name: &str) {
        self.snapshot.lock().secrets.remove(&("test".to_owned(), name.to_owned()));
    }

    /// What is in a file of a volume.
    pub(super) fn volume(&self, pod: &Pod, path: &str) -> String {
        let dir = self.dir.0.path().join("pods").join(uid(pod)).join("volumes");
        std::fs::read_to_string(dir.join(format!("kubernetes.io~{path}"))).unwrap()
    }

    pub(super) fn want(&self, pods: &[Pod]) {
        self.apply(pods, true);
    }

    /// Before the control plane has said what else there is.
    pub(super) fn want_for_now(&self, pods: &[Pod]) {
        self.apply(pods, false);
    }

    fn apply(&self, pods: &[Pod], complete: bool) {
        let mut snapshot = self.snapshot.lock();
        snapshot.pods = pods
            .iter()
            .map(|p| (("test".to_owned(), p.metadata.name.clone().unwrap()), Arc::new(p.clone())))
            .collect();
        self.pods.apply(&Arc::new(snapshot.clone()), complete);
    }

    pub(super) fn delete(&self, pod: &Pod, grace: i64) {
        let mut pod = pod.clone();
        let deadline = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
        pod.metadata.deletion_timestamp =
            Some(oarlock_api::k8s::apimachinery::pkg::apis::meta::v1::Time(deadline));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.want(&[pod]);
    }

    pub(super) async fn until(&self, pod: &Pod, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let uid = uid(pod);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let status = self.heard.lock().statuses.get(&uid).cloned();
            match status {
                Some(status) if is_so(&status) => return status,
                other if tokio::time::Instant::now() > deadline => {
                    panic!("{what} never came: {other:#?}\nevents: {:#?}", self.events())
                }
                _ => tokio::time::sleep(Duration::from_millis(30)).await,
            }
        }
    }

    pub(super) async fn until_gone(&self, pod: &Pod) {
        let uid = uid(pod);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.heard.lock().gone.contains(&uid) {
            let events = self.events();
            assert!(tokio::time::Instant::now() < deadline, "{uid} never went: {events:#?}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        assert!(!self.dir.0.path().join("pods").join(&uid).exists(), "its files went with it");
    }

    pub(super) fn events(&self) -> Vec<(String, String)> {
        self.heard.lock().events.clone()
    }

    pub(super) fn removed_networks(&self) -> Vec<String> {
        self.pretended.removed.lock().clone()
    }

    pub(super) async fn exec(&self, id: &str, command: &[&str]) {
        let command: Vec<String> = command.iter().map(ToString::to_string).collect();
        let id = id.trim_start_matches("docker://");
        assert_eq!(self.docker.exec(id, &command, PATIENCE).await.unwrap().code, 0);
    }

    pub(super) async fn containers(&self, pod: &Pod) -> Vec<Container> {
        let mut found = self.docker.pod(&uid(pod)).await.unwrap();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    pub(super) async fn log(&self, pod: &Pod, request: LogRequest) -> String {
        let (namespace, name) = ("test".to_owned(), pod.metadata.name.clone().unwrap());
        let request = LogRequest { namespace, pod: name, uid: uid(pod), ..request };
        let mut log = self.pods.open_log(request).await.unwrap();
        let mut text = Vec::new();
        while let Some(piece) = log.next().await {
            text.extend_from_slice(&piece.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    pub(super) async fn stop(self) {
        self.tasks.shut_down();
        self.tasks.finish(Duration::from_secs(5)).await.unwrap();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Docker leaves the parents of its cgroups; those that are not empty stay.
            let node = hierarchy.path().join("oarlock").join(&self.name);
            for pod in std::fs::read_dir(&node).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(pod.path());
            }
            let _ = std::fs::remove_dir(node);
        }
    }
}

pub(super) fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap()
}

pub(super) fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

fn hear(heard: &Mutex<Heard>, message: Message) {
    let mut heard = heard.lock();
    match message {
        Message::PodStatus(s) => {
            let status = serde_json::from_slice(&s.status).unwrap();
            heard.statuses.insert(s.uid, status);
        }
        Message::PodGone(g) => heard.gone.push(g.uid),
        Message::Event(e) => heard.events.push((e.reason, e.message)),
        _ => {}
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no config.rs")]
fn host() -> String {
    std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned())
}

/// A `docker save` archive with one image: a static busybox. The host's `/bin/busybox` (package busybox-static) is the only
/// thing it needs.
async fn import_image(docker: &Docker) {
    if docker.image(IMAGE).await.unwrap().is_some() {
        return;
    }
    let layer = layer(Path::new("/bin/busybox"));
    let digest = {
        use sha2::Digest as _;
        sha2::Sha256::digest(&layer).iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let config = json!({"architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}});
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, data) in [
        ("layer.tar", layer),
        ("config.json", config.to_string().into_bytes()),
        ("manifest.json", manifest.to_string().into_bytes()),
    ] {
        file(&mut archive, name, 0o644, &data);
    }
    let archive = archive.into_inner().unwrap();
    let stream = futures_util::stream::iter([Ok(Bytes::from(archive))]);
    docker.import(stream.boxed()).await.unwrap();
}

pub(super) fn layer(busybox: &Path) -> Vec<u8> {
    let binary = std::fs::read(busybox).expect("these tests need /bin/busybox (package busybox-static)");
    let mut layer = tar::Builder::new(Vec::new());
    file(&mut layer, "bin/busybox", 0o755, &binary);
    for name in
        ["sh", "sleep", "cat", "rm", "test", "touch", "hostname", "echo", "true", "httpd", "id", "wget"]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    file(&mut layer, "tmp/.keep", 0o644, b"");
    file(&mut layer, "etc/passwd", 0o644, b"app:x:1000:1000::/:/bin/sh\n");
    file(&mut layer, "etc/group", 0o644, b"app:x:1000:\nextra:x:4242:app\n");
    layer.into_inner().unwrap()
}

fn file(archive: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, name, data).unwrap();
}
