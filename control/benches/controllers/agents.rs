//! Thousands of agents in one process, as the control plane meets them: each joins with the token over a connection of its own, opens its
//! session and its streams with the certificate it was given, beats, says what its pods use, and reports every pod that it is told of
//! as a real one does that has nothing to wait for. It starts no container and keeps of each pod its uid alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oarlock_api::node::agent_message::Message;
use oarlock_api::node::control_message::Message as Downward;
use oarlock_api::node::join_client::JoinClient;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::stream_frame::Frame;
use oarlock_api::node::{
    AgentMessage, ContainerUsage, ControlMessage, EventReport, FilesystemUsage, Heartbeat, Hello,
    JoinRequest, ObjectUpdate, PodGone, PodStatus, PodUsage, StatsReport, StreamFrame, StreamHello, Usage,
};
use oarlock_daemon::{Tasks, pki};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// As the real agent: `HEARTBEAT`, and how often it says what is used.
const BEAT: Duration = Duration::from_secs(10);
/// Nodes that join at the same time.
const JOINING: usize = 32;
const TIME: &str = "2026-01-01T00:00:00Z";

/// All agents.
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    nodes: usize,
    tasks: Tasks,
}

struct Shared {
    server: String,
    ca: String,
    token: String,
    counts: Counts,
    joining: Semaphore,
}

#[derive(Default)]
struct Counts {
    /// Sessions whose snapshot has ended.
    settled: AtomicUsize,
    /// Pods that nodes were told of.
    told: AtomicUsize,
    /// Pods that nodes run.
    running: AtomicUsize,
}

impl Fleet {
    pub(crate) fn new(server: String, ca: String, token: String, nodes: usize) -> Self {
        let shared =
            Shared { server, ca, token, counts: Counts::default(), joining: Semaphore::new(JOINING) };
        Self { shared: Arc::new(shared), nodes, tasks: Tasks::new() }
    }

    /// All nodes join; returns when each has its session and the first snapshot.
    pub(crate) async fn join(&self) {
        for index in 0..self.nodes {
            let shared = Arc::clone(&self.shared);
            self.tasks.job("agent", async move {
                if let Err(error) = run(index, &shared).await {
                    // The control plane was killed on purpose, or the wait for pods tells.
                    tracing::debug!(index, %error, "an agent ended");
                }
            });
        }
        let mut last = 0;
        loop {
            let settled = self.shared.counts.settled.load(Ordering::Relaxed);
            if settled >= self.nodes {
                return;
            }
            if settled / 1000 != last / 1000 {
                println!("{settled} nodes have joined");
            }
            last = settled;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Pods that nodes were told of so far.
    pub(crate) fn told(&self) -> usize {
        self.shared.counts.told.load(Ordering::Relaxed)
    }

    /// Pods that nodes run now.
    pub(crate) fn running(&self) -> usize {
        self.shared.counts.running.load(Ordering::Relaxed)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.shut_down();
    }
}

fn endpoint(server: &str, tls: ClientTlsConfig) -> Result<Endpoint, tonic::transport::Error> {
    // As `agent/src/session/join.rs`.
    let keep_alive = Duration::from_secs(10);
    Ok(Endpoint::from_shared(server.to_owned())?
        .tls_config(tls)?
        .connect_timeout(Duration::from_secs(30))
        .http2_keep_alive_interval(keep_alive)
        .keep_alive_timeout(Duration::from_secs(60))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// Joins, as `agent/src/session/join.rs`: the connection with the certificate.
async fn member(name: &str, shared: &Shared) -> anyhow::Result<Channel> {
    let _turn = shared.joining.acquire().await?;
    let (key_pem, csr_pem) = pki::new_request(&pki::Identity {
        user: format!("system:node:{name}"),
        groups: vec!["system:nodes".to_owned()],
    })?;
    let tls = || ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&shared.ca));
    let stranger = endpoint(&shared.server, tls())?.connect().await?;
    let request = JoinRequest { token: shared.token.clone(), node_name: name.to_owned(), csr_pem };
    let given = JoinClient::new(stranger).join(request).await?.into_inner();
    let identity = Identity::from_pem(&given.certificate_pem, &key_pem);
    Ok(endpoint(&shared.server, tls().identity(identity))?.connect().await?)
}

async fn run(index: usize, shared: &Shared) -> anyhow::Result<()> {
    let name = format!("node{index:05}");
    let channel = member(&name, shared).await?;
    let (say, said) = mpsc::channel(64);
    let node = node(index, &name).to_string().into();
    let hello = Hello { node_name: name.clone(), node, version: "simulated".to_owned(), knows_others: true };
    say.send(wrapped(Message::Hello(hello))).await?;
    let turn = shared.joining.acquire().await?;
    let mut client = NodeClient::new(channel).max_decoding_message_size(4 << 20);
    let mut told = client.session(ReceiverStream::new(said)).await?.into_inner();
    let (_streams, frames) = mpsc::channel(1);
    let hello = StreamHello { node_name: name.clone() };
    let first = StreamFrame { id: 0, frame: Some(Frame::Hello(hello)), channel: 0 };
    _streams.send(first).await?;
    let _asked = client.streams(ReceiverStream::new(frames)).await?.into_inner();
    let mut agent = Agent { index, say, pods: HashMap::new(), counts: &shared.counts };
    let mut turn = Some(turn);
    let mut beat = tokio::time::interval(BEAT);
    // Agents were not started at the same moment.
    beat.reset_after(BEAT.mul_f64((index % 1000) as f64 / 1000.0));
    loop {
        tokio::select! {
            message = told.message() => match message? {
                Some(message) => agent.hears(message, &mut turn).await?,
                None => return Ok(()),
            },
            _ = beat.tick() => agent.beats().await?,
        }
    }
}

fn wrapped(message: Message) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

struct Agent<'a> {
    index: usize,
    say: mpsc::Sender<AgentMessage>,
    /// Name and namespace, and uid.
    pods: HashMap<(String, String), String>,
    counts: &'a Counts,
}

/// What an agent looks at of a pod.
#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    uid: String,
    deletion_timestamp: Option<String>,
}

impl Agent<'_> {
    async fn says(&self, message: Message) -> anyhow::Result<()> {
        Ok(self.say.send(wrapped(message)).await?)
    }

    async fn hears<T>(&mut self, message: ControlMessage, turn: &mut Option<T>) -> anyhow::Result<()> {
        match message.message {
            Some(Downward::SnapshotEnd(_)) => {
                drop(turn.take());
                self.counts.settled.fetch_add(1, Ordering::Relaxed);
            }
            Some(Downward::Update(update)) if update.resource == "pods" => self.pod(update).await?,
            Some(Downward::Delete(gone)) if gone.resource == "pods" => {
                let known = self.pods.remove(&(gone.namespace, gone.name)).is_some();
                self.counts.running.fetch_sub(usize::from(known), Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(())
    }

    async fn pod(&mut self, update: ObjectUpdate) -> anyhow::Result<()> {
        let pod: Pod = serde_json::from_slice(&update.object)?;
        let (namespace, name, uid) = (update.namespace, update.name, pod.metadata.uid);
        if pod.metadata.deletion_timestamp.is_some() {
            return self.says(Message::PodGone(PodGone { namespace, name, uid })).await;
        }
        let number = self.pods.len();
        if self.pods.insert((namespace.clone(), name.clone()), uid.clone()).is_some() {
            return Ok(());
        }
        self.counts.told.fetch_add(1, Ordering::Relaxed);
        self.counts.running.fetch_add(1, Ordering::Relaxed);
        let about = json!({"kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": uid,
            "fieldPath": "spec.containers{web}"});
        for (reason, message) in [
            ("Pulled", "Container image already present on machine"),
            ("Created", "Created container: web"),
            ("Started", "Started container web"),
        ] {
            let event = EventReport {
                involved_object: about.to_string().into(),
                r#type: "Normal".to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                component: "kubelet".to_owned(),
            };
            self.says(Message::Event(event)).await?;
        }
        let status = status(self.index, number, &uid).to_string().into();
        self.says(Message::PodStatus(PodStatus { namespace, name, uid, status })).await
    }

    async fn beats(&self) -> anyhow::Result<()> {
        self.says(Message::Heartbeat(Heartbeat::default())).await?;
        let usage = |cpu: u64| Usage {
            cpu_nanos: 1_000_000_000,
            cpu_nano_cores: Some(cpu),
            memory: 30 << 20,
            working_set: 20 << 20,
            rss: 10 << 20,
        };
        let pods = self.pods.iter().map(|((namespace, name), uid)| PodUsage {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            containers: vec![ContainerUsage {
                name: "web".to_owned(),
                usage: Some(usage(5_000_000)),
                started_unix_ms: 1,
            }],
            usage: Some(usage(5_000_000)),
            has_network: true,
            rx_bytes: 1,
            tx_bytes: 1,
        });
        let filesystem = FilesystemUsage {
            capacity: 1 << 40,
            available: 1 << 39,
            used: 1 << 39,
            inodes: 1,
            inodes_free: 1,
        };
        self.says(Message::Stats(StatsReport {
            at_unix_ms: 1,
            window_ms: 10_000,
            node: Some(usage(1_000_000_000)),
            pods: pods.collect(),
            boot_unix_ms: 1,
            filesystem: Some(filesystem),
        }))
        .await
    }
}

/// As `agent/src/node_object.rs` says it.
fn node(index: usize, name: &str) -> serde_json::Value {
    let resources =
        json!({"cpu": "16", "memory": "67108864Ki", "ephemeral-storage": "1048576000Ki", "pods": "110"});
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": TIME, "lastTransitionTime": TIME})
    };
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64", "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "amd64",
            "topology.kubernetes.io/zone": format!("zone{}", index % 3)},
            "annotations": {"dataplane.oarlock.io/modes": "eth0=xdp", "dataplane.oarlock.io/routing": "direct mtu=1500"}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": format!("172.16.{}.{}", index / 250, index % 250 + 1)},
                {"type": "Hostname", "address": name}],
            "allocatable": resources, "capacity": resources,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {"machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "6.1.0",
                "osImage": "Debian GNU/Linux 12 (bookworm)", "containerRuntimeVersion": "docker://20.10.24",
                "kubeletVersion": "v1.33.0", "kubeProxyVersion": "v1.33.0", "operatingSystem": "linux", "architecture": "amd64"},
        },
    })
}

/// As `agent/src/status.rs` says it of a pod that is ready.
fn status(node: usize, number: usize, uid: &str) -> serde_json::Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": TIME});
    let (host, ip) = (
        format!("172.16.{}.{}", node / 250, node % 250 + 1),
        format!("10.{}.{}.{}", 64 + node / 256, node % 256, number % 250 + 2),
    );
    json!({
        "phase": "Running", "hostIP": host, "hostIPs": [{"ip": host}], "podIP": ip, "podIPs": [{"ip": ip}],
        "qosClass": "Burstable", "startTime": TIME,
        "conditions": [condition("PodReadyToStartContainers"), condition("Initialized"), condition("Ready"),
            condition("ContainersReady")],
        "containerStatuses": [{
            "name": "web", "image": "registry.example/web:1", "ready": true, "started": true, "restartCount": 0,
            "imageID": "docker-pullable://registry.example/web@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "containerID": format!("docker://9f86d081884c7d659a2feaa0c55ad015a3bf4f1b{uid}"),
            "state": {"running": {"startedAt": TIME}}, "lastState": {},
        }],
    })
}
