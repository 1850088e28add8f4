//! A node's agent as a control plane sees it: a session over gRPC, in which it says what the node uses.

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_api::node::agent_message::Message;
use oarlock_api::node::control_message::Message as Downward;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::peer_client::PeerClient;
use oarlock_api::node::{
    AgentMessage, ContainerUsage, ControlMessage, Heartbeat, Hello, Others, PodGone, PodStatus, PodUsage,
    StatsReport, Usage,
};
use oarlock_daemon::Tasks;
use oarlock_daemon::pki::{Ca, Identity};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::process::Control;

pub(crate) struct Agent {
    say: mpsc::Sender<AgentMessage>,
    nodes: watch::Receiver<BTreeSet<String>>,
    ended: mpsc::Receiver<tonic::Status>,
    _tasks: Tasks,
}

/// The agents' port, with a certificate of the cluster's own.
async fn channel(control: &Control, user: &str, group: &str) -> Channel {
    let ca = Ca::load_or_create(&control.pki()).unwrap();
    let identity = Identity { user: user.to_owned(), groups: vec![group.to_owned()] };
    let own = ca.issue_client(&identity).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca.certificate_pem()))
        .identity(tonic::transport::Identity::from_pem(&own.certificate_pem, &own.key_pem))
        .domain_name("localhost");
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", control.agent_port())).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await.unwrap()
}

impl Agent {
    /// Opens the session of a node.
    pub(crate) async fn join(control: &Control, node: &str) -> Self {
        Self::join_as(control, node, true).await
    }

    /// Opens the session of a node whose agent knows of messages about many nodes, or is too old for that.
    pub(crate) async fn join_as(control: &Control, node: &str, knows_others: bool) -> Self {
        let channel = channel(control, &format!("system:node:{node}"), "system:nodes").await;
        let (say, said) = mpsc::channel(8);
        let tasks = Tasks::new();
        let object = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
        let (version, object) = ("test".to_owned(), object.to_string().into());
        let hello = Hello { node_name: node.to_owned(), node: object, version, knows_others };
        say.send(AgentMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
        let mut told =
            NodeClient::new(channel).session(ReceiverStream::new(said)).await.unwrap().into_inner();
        // What nobody reads would hold the session up.
        let (end, ended) = mpsc::channel(1);
        let (known, nodes) = watch::channel(BTreeSet::new());
        tasks.job("agent", async move {
            let why = loop {
                match told.message().await {
                    Ok(Some(message)) => known.send_modify(|known| hear(known, message, knows_others)),
                    Ok(None) => break tonic::Status::ok("it ended"),
                    Err(status) => break status,
                }
            };
            // The test may not ask.
            let _ = end.send(why).await;
        });
        Self { say, nodes, ended, _tasks: tasks }
    }

    /// What a node hears that asks as other control planes do.
    pub(crate) async fn listens_in(control: &Control) -> tonic::Code {
        let channel = channel(control, "system:node:curious", "system:nodes").await;
        let (_say, said) = mpsc::channel(1);
        PeerClient::new(channel).share_usage(ReceiverStream::new(said)).await.unwrap_err().code()
    }

    /// Waits until the node knows of these nodes and no others, itself among them.
    pub(crate) async fn knows(&mut self, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let heard = self.nodes.wait_for(|known| *known == wanted);
        let heard = tokio::time::timeout(Duration::from_secs(10), heard).await.is_ok_and(|r| r.is_ok());
        assert!(heard, "{:?}, not {wanted:?}", self.nodes.borrow());
    }

    /// Says that the node lives.
    pub(crate) async fn beats(&self) {
        self.say(Message::Heartbeat(Heartbeat::default())).await;
    }

    /// Why the control plane ended the session, if it does soon.
    pub(crate) async fn ended(&mut self) -> Option<tonic::Status> {
        tokio::time::timeout(Duration::from_secs(2), self.ended.recv()).await.ok().flatten()
    }

    async fn say(&self, message: Message) {
        self.say.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// Says that a pod runs.
    pub(crate) async fn runs(&self, pod: &Value) {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        let status = json!({"phase": "Running"}).to_string().into();
        let report = PodStatus { namespace: text("namespace"), name: text("name"), uid: text("uid"), status };
        self.say(Message::PodStatus(report)).await;
    }

    /// Says that nothing is left of a pod.
    pub(crate) async fn removed(&self, pod: &Value) {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        let gone = PodGone { namespace: text("namespace"), name: text("name"), uid: text("uid") };
        self.say(Message::PodGone(gone)).await;
    }

    /// Says that the node uses so many millicores, and a pod of it, too.
    pub(crate) async fn uses(&self, milli: u64, pod: Option<&Value>) {
        let usage = Usage {
            cpu_nanos: 1,
            cpu_nano_cores: Some(milli * 1_000_000),
            memory: 3 << 20,
            working_set: 2 << 20,
            rss: 1 << 20,
        };
        let text = |pod: &Value, field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        let pods = pod.map(|pod| PodUsage {
            namespace: text(pod, "namespace"),
            name: text(pod, "name"),
            uid: text(pod, "uid"),
            containers: vec![ContainerUsage { name: "c".to_owned(), usage: Some(usage), started_unix_ms: 1 }],
            usage: Some(usage),
            ..PodUsage::default()
        });
        let pods = pods.into_iter().collect();
        let report = StatsReport { window_ms: 10_000, node: Some(usage), pods, ..StatsReport::default() };
        self.say(Message::Stats(report)).await;
    }
}

fn hear(known: &mut BTreeSet<String>, message: ControlMessage, knows_others: bool) {
    match message.message {
        Some(Downward::Update(update)) if update.resource == "nodes" => drop(known.insert(update.name)),
        Some(Downward::Delete(gone)) if gone.resource == "nodes" => drop(known.remove(&gone.name)),
        Some(Downward::Others(packed)) => {
            assert!(knows_others, "it was told in a way that it does not know");
            let others = lz4_flex::block::decompress_size_prepended(&packed).unwrap();
            for other in Others::decode(&*others).unwrap().nodes {
                if other.object.is_empty() {
                    known.remove(&other.name);
                } else {
                    known.insert(other.name);
                }
            }
        }
        _ => {}
    }
}
