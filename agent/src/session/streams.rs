//! The second channel: streams that the control plane opens towards this node, many over one connection.
//!
//! In: what is to be opened. Out: streams handed to whoever can serve them, each in a job of its own that ends with the stream,
//! with the connection, and with the agent.

use std::sync::Arc;

use async_trait::async_trait;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::stream_frame::Frame;
use oarlock_api::node::stream_open::Request;
use oarlock_api::node::{StreamFrame, StreamHello};
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::{Mux, Stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Frames on their way into the connection, of all streams together.
const IN_FLIGHT: usize = 64;
/// Streams served at once.
const MAX_STREAMS: usize = 256;

/// Why a stream cannot be opened or broke: an HTTP status code as kube-apiserver would answer it, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamError {
    pub(crate) code: u16,
    pub(crate) message: String,
}

/// Who can serve streams on this node.
#[async_trait]
pub(crate) trait StreamSource: Send + Sync {
    /// Serves one to its end. Dropped when the other side has ended it.
    async fn serve(&self, request: Request, stream: &Stream) -> Result<(), StreamError>;
}

/// Serves streams until the connection ends. The future is bound to the connection: dropping it ends every stream.
pub(super) async fn serve(
    mut client: NodeClient<Channel>,
    node_name: &str,
    source: Arc<dyn StreamSource>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let hello = Frame::Hello(StreamHello { node_name: node_name.to_owned() });
    sender.send(StreamFrame { id: 0, channel: 0, frame: Some(hello) }).await?;
    let mut downward = client.streams(ReceiverStream::new(receiver)).await?.into_inner();
    let connection = Connection(Mux::new(tasks, sender));
    while let Some(frame) = downward.message().await? {
        let Some((stream, open)) = connection.0.deliver(frame) else { continue };
        let (source, open_now) = (Arc::clone(&source), connection.0.count());
        tasks.job("stream", one(source, stream, open.request, open_now));
    }
    Ok(())
}

/// Ends every stream when the connection ends.
struct Connection(Mux);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn one(source: Arc<dyn StreamSource>, stream: Stream, request: Option<Request>, open_now: usize) {
    let served = async {
        if open_now > MAX_STREAMS {
            let message = "too many streams are open on this node".to_owned();
            return Err(StreamError { code: 429, message });
        }
        let unknown = || StreamError {
            code: 501,
            message: "the agent does not know this kind of stream; update the agent".to_owned(),
        };
        source.serve(request.ok_or_else(unknown)?, &stream).await
    };
    let end = tokio::select! {
        _ = stream.closed() => return,
        end = served => end,
    };
    match end {
        Ok(()) => stream.finish(0, "").await,
        Err(error) => stream.finish(error.code, &error.message).await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oarlock_api::node::LogRequest;
    use oarlock_daemon::mux::{Piece, STDOUT, local};

    use super::*;

    struct Endless(mpsc::Sender<()>);

    #[async_trait]
    impl StreamSource for Endless {
        async fn serve(&self, _: Request, stream: &Stream) -> Result<(), StreamError> {
            let _ended = self.0.clone();
            while stream.sender().send(STDOUT, "x".into()).await.is_some() {}
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_reader_and_one_too_many_is_refused() {
        let tasks = Tasks::new();
        let (control, mut opened) = local(&tasks);
        let (alive, mut gone) = mpsc::channel(1);
        let source = Arc::new(Endless(alive));
        let reader = control.open(Request::Log(LogRequest::default())).await.unwrap();
        let (stream, open) = opened.recv().await.unwrap();
        tasks.job("one", one(source.clone(), stream, open.request, 1));
        assert!(matches!(reader.read(&[STDOUT]).await, Some(Piece::Data(STDOUT, _))));
        drop(reader);
        drop(source.clone());

        let refused = control.open(Request::Log(LogRequest::default())).await.unwrap();
        let (stream, open) = opened.recv().await.unwrap();
        one(source, stream, open.request, MAX_STREAMS + 1).await;
        assert_eq!(refused.closed().await.code, 429);
        let ended = tokio::time::timeout(Duration::from_secs(5), gone.recv()).await;
        assert_eq!(ended, Ok(None), "nobody serves it any more");
    }
}
