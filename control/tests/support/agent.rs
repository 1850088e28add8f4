//! A node's agent as a control plane sees it: a session over gRPC, in which it says what the node uses.

use std::time::Duration;

use oarlock_api::node::agent_message::Message;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::peer_client::PeerClient;
use oarlock_api::node::{
    AgentMessage, ContainerUsage, Heartbeat, Hello, PodGone, PodStatus, PodUsage, StatsReport, Usage,
};
use oarlock_daemon::Tasks;
use oarlock_daemon::pki::{Ca, Identity};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::process::Control;

pub(crate) struct Agent {
    say: mpsc::Sender<AgentMessage>,
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
        let channel = channel(control, &format!("system:node:{node}"), "system:nodes").await;
        let (say, said) = mpsc::channel(8);
        let tasks = Tasks::new();
        let object = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
        let hello =
            Hello { node_name: node.to_owned(), node: object.to_string().into(), version: "test".to_owned() };
        say.send(AgentMessage { message: Some(Message::Hello(hello)) }).await.unwrap();
        let mut told =
            NodeClient::new(channel).session(ReceiverStream::new(said)).await.unwrap().into_inner();
        // What nobody reads would hold the session up.
        let (end, ended) = mpsc::channel(1);
        tasks.job("agent", async move {
            let why = loop {
                match told.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break tonic::Status::ok("it ended"),
                    Err(status) => break status,
                }
            };
            // The test may not ask.
            let _ = end.send(why).await;
        });
        Self { say, ended, _tasks: tasks }
    }

    /// What a node hears that asks as other control planes do.
    pub(crate) async fn listens_in(control: &Control) -> tonic::Code {
        let channel = channel(control, "system:node:curious", "system:nodes").await;
        let (_say, said) = mpsc::channel(1);
        PeerClient::new(channel).share_usage(ReceiverStream::new(said)).await.unwrap_err().code()
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
