//! The agent's side of the conversation with the control plane: join once, then one session and one stream channel that
//! are opened again for ever.
//!
//! In: the servers' addresses, the token. Out: [`Desired`] filled, the [`Outbox`] emptied. The control plane being away is no
//! error here: it is logged, shown in the health report, and tried again.

mod join;
pub(crate) mod streams;

use std::sync::Arc;
use std::time::Duration;

use lz4_flex::block;
use oarlock_api::node::agent_message::Message;
use oarlock_api::node::control_message::Message as Downward;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::{AgentMessage, ControlMessage, Heartbeat, Hello, Others, Welcome};
use oarlock_daemon::admin::Health;
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::desired::Desired;
use crate::outbox::Outbox;

pub(crate) use join::Joining;

/// Objects as large as the store accepts (1.5 MiB) fit with their envelope.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// A quarter of the grace period after which a node counts as lost (40 s).
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Messages on their way into the stream.
const IN_FLIGHT: usize = 64;

/// What the session needs of the rest of the agent.
pub(crate) struct Session {
    /// `https://host:port` of the agents' port of each control plane, the first choice first.
    pub(crate) servers: Vec<String>,
    pub(crate) joining: Joining,
    pub(crate) desired: Arc<Desired>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) health: Health,
    /// Facts of the cluster, as the last Welcome gave them.
    pub(crate) cluster: watch::Sender<Option<Welcome>>,
    /// The JSON of this node's object, as of now.
    pub(crate) node: watch::Receiver<bytes::Bytes>,
    pub(crate) streams: Arc<dyn streams::StreamSource>,
    pub(crate) tasks: oarlock_daemon::Tasks,
}

impl Session {
    /// Runs until shutdown.
    pub(crate) async fn run(self) {
        let token = self.tasks.token();
        tokio::select! {
            () = token.cancelled() => {}
            () = self.run_for_ever() => {}
        }
    }

    /// A control plane that ended a session is asked once more, as it may only have been started again; one that opens none gives way to
    /// the next.
    async fn run_for_ever(&self) {
        let mut backoff = Backoff::default();
        for server in self.servers.iter().cycle() {
            let mut is_open = true;
            while is_open {
                is_open = false;
                self.health.set("control-plane", Err("not connected".to_owned()));
                match self.connect_and_talk(server, &mut backoff, &mut is_open).await {
                    Ok(()) => tracing::info!(server, "the control plane ended the session"),
                    Err(error) => {
                        tracing::warn!(server, error = %format!("{error:#}"), "no session with the control plane");
                    }
                }
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }

    async fn connect_and_talk(
        &self,
        server: &str,
        backoff: &mut Backoff,
        is_open: &mut bool,
    ) -> anyhow::Result<()> {
        let credentials = self.joining.credentials(server).await?;
        let channel = join::connect(server, &credentials).await?;
        let member = self.joining.stay_member(channel.clone(), join::now);
        let client = NodeClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let streams =
            streams::serve(client.clone(), &self.joining.node_name, Arc::clone(&self.streams), &self.tasks);
        tokio::select! {
            ended = self.talk(client, server, backoff, is_open) => ended,
            ended = streams => ended,
            () = member => Ok(()),
        }
    }

    async fn talk(
        &self,
        mut client: NodeClient<Channel>,
        server: &str,
        backoff: &mut Backoff,
        is_open: &mut bool,
    ) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let hello = Hello {
            node_name: self.joining.node_name.clone(),
            node: self.node.borrow().clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            knows_others: true,
        };
        sender.send(AgentMessage { message: Some(Message::Hello(hello)) }).await?;
        let mut downward = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        let receive = async {
            while let Some(message) = downward.message().await? {
                if matches!(message.message, Some(Downward::Welcome(_))) {
                    tracing::info!(server, "session with the control plane opened");
                    *is_open = true;
                    self.health.set("control-plane", Ok(()));
                    backoff.reset();
                    self.outbox.say_all_again();
                }
                self.receive(message);
            }
            anyhow::Ok(())
        };
        tokio::select! {
            ended = receive => ended,
            ended = self.send(sender) => ended,
        }
    }

    async fn send(&self, sender: mpsc::Sender<AgentMessage>) -> anyhow::Result<()> {
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            let slot = sender.reserve().await?;
            let message = tokio::select! {
                message = self.outbox.next() => message,
                _ = beat.tick() => Message::Heartbeat(Heartbeat { sent_unix_ms: jiff::Timestamp::now().as_millisecond() }),
            };
            slot.send(AgentMessage { message: Some(message) });
        }
    }

    fn receive(&self, message: ControlMessage) {
        let version = message.version;
        match message.message {
            Some(Downward::Welcome(welcome)) => {
                self.desired.begin();
                self.cluster.send_replace(Some(welcome));
            }
            Some(Downward::Update(u)) => {
                self.note(self.desired.update(&u.resource, &u.namespace, &u.name, &u.object))
            }
            Some(Downward::Delete(d)) => self.note(self.desired.delete(&d.resource, &d.namespace, &d.name)),
            Some(Downward::Others(packed)) => self.others(&packed),
            Some(Downward::SnapshotEnd(_)) => self.desired.end_snapshot(),
            None => tracing::warn!(
                version,
                "the control plane sent a message that this agent does not know; update the agent"
            ),
        }
        self.desired.set_version(version);
    }

    fn others(&self, packed: &[u8]) {
        let others = match unpacked(packed) {
            Ok(others) => others,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "what the control plane says of other nodes does not parse; what was known stays"
                );
                return;
            }
        };
        // Of itself it hears more, and by itself.
        for node in others.nodes.iter().filter(|node| node.name != self.joining.node_name) {
            self.note(if node.object.is_empty() {
                self.desired.delete("nodes", "", &node.name)
            } else {
                self.desired.update("nodes", "", &node.name, &node.object)
            });
        }
    }

    #[expect(clippy::unused_self, reason = "reads better beside the calls that it wraps")]
    fn note(&self, outcome: Result<(), crate::desired::BadObject>) {
        if let Err(error) = outcome {
            tracing::error!(%error, "an object from the control plane cannot be used; the one before stays");
        }
    }
}

/// What `ControlMessage.others` holds.
fn unpacked(packed: &[u8]) -> anyhow::Result<Others> {
    let (length, block) = block::uncompressed_size(packed)?;
    anyhow::ensure!(length <= MAX_MESSAGE, "{length} bytes are more than a message may have");
    Ok(Others::decode(&*block::decompress(block, length)?)?)
}

#[cfg(test)]
mod tests;
