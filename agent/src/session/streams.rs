//! The second channel: streams that the control plane opens towards this node, many over one connection.
//!
//! Each stream may send only as many bytes as the control plane granted it, so that a slow reader of one log holds up
//! nobody else and no memory grows.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::stream_frame::Frame;
use oarlock_api::node::stream_open::Request;
use oarlock_api::node::{LogRequest, StreamClose, StreamFrame, StreamHello, StreamOpen};
use oarlock_daemon::Tasks;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Frames on their way into the connection, of all streams together.
const IN_FLIGHT: usize = 64;
/// The largest piece of a stream in one frame.
const MAX_PIECE: usize = 64 * 1024;
/// Streams served at once.
const MAX_STREAMS: usize = 256;
/// The channel number of standard output, as in Kubernetes' WebSocket protocol.
const STDOUT: u32 = 1;

/// Why a stream cannot be opened or broke: an HTTP status code as kube-apiserver would answer it, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamError {
    pub(crate) code: u16,
    pub(crate) message: String,
}

/// Who can read the logs of this node's containers.
#[async_trait]
pub(crate) trait LogSource: Send + Sync {
    /// Opens a log.
    async fn open(
        &self,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, StreamError>>, StreamError>;
}

/// Serves streams until the connection ends. The future is bound to the connection: dropping it ends every stream.
pub(super) async fn serve(
    mut client: NodeClient<Channel>,
    node_name: &str,
    logs: Arc<dyn LogSource>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let hello = Frame::Hello(StreamHello { node_name: node_name.to_owned() });
    sender.send(StreamFrame { id: 0, channel: 0, frame: Some(hello) }).await?;
    let mut downward = client.streams(ReceiverStream::new(receiver)).await?.into_inner();
    let mut open = Open { streams: BTreeMap::new(), all: CancellationToken::new() };
    while let Some(frame) = downward.message().await? {
        let id = frame.id;
        match frame.frame {
            Some(Frame::Open(request)) => open.start(id, request, &logs, &sender, tasks).await?,
            Some(Frame::Window(bytes)) => open.grant(id, bytes),
            Some(Frame::Close(_)) => open.end(id),
            Some(Frame::Data(_) | Frame::Hello(_)) | None => tracing::debug!(id, "frame without use ignored"),
        }
    }
    Ok(())
}

/// The streams that are open on one connection.
struct Open {
    streams: BTreeMap<u64, Granted>,
    all: CancellationToken,
}

struct Granted {
    window: Arc<Semaphore>,
    token: CancellationToken,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.cancel();
    }
}

impl Open {
    async fn start(
        &mut self,
        id: u64,
        request: StreamOpen,
        logs: &Arc<dyn LogSource>,
        sender: &mpsc::Sender<StreamFrame>,
        tasks: &Tasks,
    ) -> anyhow::Result<()> {
        self.streams.retain(|_, stream| !stream.token.is_cancelled());
        let refusal = match request.request {
            _ if self.streams.len() >= MAX_STREAMS => Some((429, "too many streams are open on this node")),
            None => Some((501, "the agent does not know this kind of stream; update the agent")),
            Some(Request::Log(log)) => {
                let (window, token) = (Arc::new(Semaphore::new(0)), self.all.child_token());
                self.streams.insert(id, Granted { window: Arc::clone(&window), token: token.clone() });
                let (logs, sender) = (Arc::clone(logs), sender.clone());
                tasks.job("stream/log", async move {
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = send_log(id, log, logs, sender, window) => token.cancel(),
                    }
                });
                None
            }
        };
        if let Some((code, message)) = refusal {
            sender.send(close(id, code, message.to_owned())).await?;
        }
        Ok(())
    }

    fn grant(&self, id: u64, bytes: u32) {
        if let Some(stream) = self.streams.get(&id) {
            let room = Semaphore::MAX_PERMITS - stream.window.available_permits();
            stream.window.add_permits((bytes as usize).min(room));
        }
    }

    fn end(&mut self, id: u64) {
        if let Some(stream) = self.streams.remove(&id) {
            stream.token.cancel();
        }
    }
}

async fn send_log(
    id: u64,
    request: LogRequest,
    logs: Arc<dyn LogSource>,
    sender: mpsc::Sender<StreamFrame>,
    window: Arc<Semaphore>,
) {
    let end = match logs.open(request).await {
        Err(error) => close(id, error.code, error.message),
        Ok(mut pieces) => loop {
            match pieces.next().await {
                None => break close(id, 0, String::new()),
                Some(Err(error)) => break close(id, error.code, error.message),
                Some(Ok(piece)) => {
                    if send_piece(id, piece, &sender, &window).await.is_none() {
                        return;
                    }
                }
            }
        },
    };
    // The connection may be gone; then nobody waits for the end either.
    let _ = sender.send(end).await;
}

async fn send_piece(
    id: u64,
    mut piece: Bytes,
    sender: &mpsc::Sender<StreamFrame>,
    window: &Semaphore,
) -> Option<()> {
    while !piece.is_empty() {
        let part = piece.split_to(piece.len().min(MAX_PIECE));
        let wanted = u32::try_from(part.len()).ok()?;
        window.acquire_many(wanted).await.ok()?.forget();
        let frame = StreamFrame { id, channel: STDOUT, frame: Some(Frame::Data(part)) };
        sender.send(frame).await.ok()?;
    }
    Some(())
}

fn close(id: u64, code: u16, message: String) -> StreamFrame {
    StreamFrame { id, channel: 0, frame: Some(Frame::Close(StreamClose { code: i32::from(code), message })) }
}
