//! Streams towards nodes: logs, commands, attached containers, connections into pods.
//!
//! In: the channels that agents open, requests for streams. Out: streams over them; nothing here dials a node.

use std::collections::HashMap;
use std::sync::Arc;

use oarlock_api::node::StreamFrame;
use oarlock_api::node::stream_open::Request;
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::{Mux, Stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Streaming;

/// Frames on their way to one node, of all its streams.
const IN_FLIGHT: usize = 64;

/// The connections of all nodes. Shared by reference.
#[derive(Debug, Default)]
pub(super) struct Hub {
    nodes: Arc<Mutex<HashMap<String, Connection>>>,
}

#[derive(Debug)]
struct Connection {
    mux: Mux,
    outgoing: mpsc::Sender<StreamFrame>,
}

impl Hub {
    /// A node has opened its channel.
    pub(super) fn connect(
        &self,
        tasks: &Tasks,
        node: String,
        mut incoming: Streaming<StreamFrame>,
    ) -> mpsc::Receiver<StreamFrame> {
        let (outgoing, receiver) = mpsc::channel(IN_FLIGHT);
        let mux = Mux::new(tasks, outgoing.clone());
        let connection = Connection { mux: mux.clone(), outgoing: outgoing.clone() };
        self.nodes.lock().insert(node.clone(), connection);
        let (nodes, token) = (Arc::clone(&self.nodes), tasks.token());
        tasks.job("node/streams", async move {
            let receive = async {
                while let Ok(Some(frame)) = incoming.message().await {
                    if mux.deliver(frame).is_some() {
                        tracing::debug!("a node tried to open a stream; only the control plane does");
                    }
                }
            };
            tokio::select! {
                () = receive => {}
                () = outgoing.closed() => {}
                () = token.cancelled() => {}
            }
            mux.end();
            let mut nodes = nodes.lock();
            if nodes.get(&node).is_some_and(|present| present.outgoing.same_channel(&outgoing)) {
                nodes.remove(&node);
            }
        });
        receiver
    }

    /// Opens a stream on a node.
    pub(super) async fn open(&self, node: &str, request: Request) -> Result<Stream, Status> {
        let away =
            || Status::unavailable(format!("node {node} is not connected; its pods cannot be reached now"));
        let mux = self.nodes.lock().get(node).map(|connection| connection.mux.clone()).ok_or_else(away)?;
        mux.open(request).await.ok_or_else(away)
    }
}
