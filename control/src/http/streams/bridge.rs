//! From a node's stream to a client, whatever the client speaks: output in its order, then how it ended.

use std::time::Duration;

use bytes::Bytes;
use oarlock_daemon::mux::{ERROR, Piece, STDERR, STDOUT, Stream};

use super::failure;

/// How long a client that has heard everything may take to hang up.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// Who is told. None means that nobody listens any more.
pub(super) trait Client {
    /// Bytes of an output.
    async fn output(&mut self, channel: u32, bytes: Bytes) -> Option<()>;
    /// An output has ended.
    async fn output_ends(&mut self, channel: u32) -> Option<()>;
    /// How all ended, as a Status object.
    async fn status(&mut self, status: Bytes) -> Option<()>;
}

/// Tells a client everything that comes from a node.
pub(super) async fn tell(stream: &Stream, client: &mut impl Client) -> Option<()> {
    let mut status = None;
    while let Some(piece) = stream.read(&[STDOUT, STDERR, ERROR]).await {
        match piece {
            Piece::Data(ERROR, bytes) => status = Some(bytes),
            Piece::Data(channel, bytes) => client.output(channel, bytes).await?,
            Piece::End(ERROR) => {}
            Piece::End(channel) => client.output_ends(channel).await?,
        }
    }
    let status = match status {
        Some(status) => status,
        None => {
            let close = stream.closed().await;
            let mut failed = failure(&close);
            if close.code == 0 {
                failed.message = "the stream ended without saying how".to_owned();
            }
            failed.to_json().to_string().into()
        }
    };
    client.status(status).await
}
