//! Streams towards nodes: logs today; exec, attach and port-forward take the same way later.
//!
//! Each stream is granted a window of bytes and granted more as its reader takes them, so that a slow reader holds up
//! nobody else and no memory grows.

use std::collections::HashMap;
use std::sync::Arc;

use oarlock_api::node::stream_frame::Frame;
use oarlock_api::node::stream_open::Request;
use oarlock_api::node::{LogRequest, StreamClose, StreamFrame, StreamOpen};
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::http::LogStream;

/// Frames on their way to one node, of all its streams.
const IN_FLIGHT: usize = 64;
/// Bytes that a stream may have under way.
const WINDOW: u32 = 256 * 1024;
/// Pieces that wait for one reader: more than fit into a window are a fault of the agent.
const PIECES: usize = 1024;

type Outgoing = mpsc::Sender<Result<StreamFrame, tonic::Status>>;
type Piece = Result<bytes::Bytes, Status>;

/// The connections of all nodes. Shared by reference.
#[derive(Debug, Default)]
pub(super) struct Hub {
    nodes: Arc<Mutex<HashMap<String, Arc<Connection>>>>,
}

#[derive(Debug)]
struct Connection {
    outgoing: Outgoing,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    last: u64,
    open: HashMap<u64, mpsc::Sender<Piece>>,
    closed: bool,
}

impl Hub {
    /// A node has opened its channel.
    pub(super) fn connect(
        &self,
        tasks: &Tasks,
        node: String,
        incoming: Streaming<StreamFrame>,
    ) -> mpsc::Receiver<Result<StreamFrame, tonic::Status>> {
        let (outgoing, receiver) = mpsc::channel(IN_FLIGHT);
        let connection = Arc::new(Connection { outgoing, streams: Mutex::default() });
        self.nodes.lock().insert(node.clone(), Arc::clone(&connection));
        let (nodes, token) = (Arc::clone(&self.nodes), tasks.token());
        tasks.job("node/streams", async move {
            tokio::select! {
                () = connection.receive(incoming) => {}
                () = connection.outgoing.closed() => {}
                () = token.cancelled() => {}
            }
            connection.end();
            let mut nodes = nodes.lock();
            if nodes.get(&node).is_some_and(|present| Arc::ptr_eq(present, &connection)) {
                nodes.remove(&node);
            }
        });
        receiver
    }

    /// Opens a log on a node.
    pub(super) async fn open_log(&self, node: &str, request: LogRequest) -> Result<LogStream, Status> {
        let connection = self.nodes.lock().get(node).cloned();
        let away =
            || Status::unavailable(format!("node {node} is not connected; its logs cannot be read now"));
        let connection = connection.ok_or_else(away)?;
        let (sender, mut pieces) = mpsc::channel(PIECES);
        let id = connection.add(sender).ok_or_else(away)?;
        let open = Frame::Open(StreamOpen { request: Some(Request::Log(request)) });
        connection.send(id, open).await.ok_or_else(away)?;
        connection.send(id, Frame::Window(WINDOW)).await.ok_or_else(away)?;
        let (forward, stream) = mpsc::channel(1);
        // Forwarding ends with its reader; the agent then hears of it.
        let forwarding = async move {
            while let Some(piece) = pieces.recv().await {
                let taken = piece.as_ref().map_or(0, bytes::Bytes::len);
                if forward.send(piece).await.is_err() {
                    break;
                }
                let taken = u32::try_from(taken).unwrap_or(WINDOW);
                if taken > 0 && connection.send(id, Frame::Window(taken)).await.is_none() {
                    break;
                }
            }
            connection.close(id).await;
        };
        self.spawn(forwarding);
        Ok(stream)
    }

    #[expect(
        clippy::unused_self,
        clippy::disallowed_methods,
        reason = "ends with its reader or its connection"
    )]
    fn spawn(&self, forwarding: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(forwarding);
    }
}

impl Connection {
    async fn receive(&self, mut incoming: Streaming<StreamFrame>) {
        while let Ok(Some(frame)) = incoming.message().await {
            match frame.frame {
                Some(Frame::Data(data)) => self.deliver(frame.id, Ok(data)),
                Some(Frame::Close(StreamClose { code: 0, .. })) => {
                    drop(self.streams.lock().open.remove(&frame.id))
                }
                Some(Frame::Close(close)) => {
                    self.deliver(frame.id, Err(failure(&close)));
                    self.streams.lock().open.remove(&frame.id);
                }
                Some(Frame::Hello(_) | Frame::Open(_) | Frame::Window(_)) | None => {}
            }
        }
    }

    /// Hands a piece to its reader. One that does not fit breaks the rule of the window: its stream ends.
    fn deliver(&self, id: u64, piece: Piece) {
        let mut streams = self.streams.lock();
        let refused = streams.open.get(&id).is_some_and(|reader| reader.try_send(piece).is_err());
        if refused {
            streams.open.remove(&id);
        }
    }

    fn add(&self, reader: mpsc::Sender<Piece>) -> Option<u64> {
        let mut streams = self.streams.lock();
        if streams.closed {
            return None;
        }
        streams.last += 1;
        let id = streams.last;
        streams.open.insert(id, reader);
        Some(id)
    }

    async fn send(&self, id: u64, frame: Frame) -> Option<()> {
        self.outgoing.send(Ok(StreamFrame { id, channel: 0, frame: Some(frame) })).await.ok()
    }

    async fn close(&self, id: u64) {
        let open = self.streams.lock().open.remove(&id).is_some();
        if open {
            let close = StreamClose { code: 0, message: String::new() };
            self.send(id, Frame::Close(close)).await;
        }
    }

    /// The connection is gone: every reader hears the end.
    fn end(&self) {
        let mut streams = self.streams.lock();
        streams.closed = true;
        streams.open.clear();
    }
}

fn failure(close: &StreamClose) -> Status {
    let message = close.message.clone();
    match close.code {
        404 => Status::bad_request(message),
        429 => Status::too_many_requests(message, 1),
        501 => Status::not_implemented(message),
        503 => Status::unavailable(message),
        400 => Status::bad_request(message),
        _ => Status::internal(message),
    }
}
