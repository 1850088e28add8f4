//! Commands and containers over SPDY: a stream for each of error, stdin, stdout, stderr and resize, opened by the client.

use std::time::Duration;

use bytes::Bytes;
use oarlock_daemon::mux::{ERROR, RESIZE, STDERR, STDIN, STDOUT, Sender, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::Wanted;
use super::bridge::{self, Client, LINGER};
use crate::http::spdy::{self, Event, Reader, SpdyError, Writer};

/// How long a client may take to open its streams (upstream's `DefaultStreamCreationTimeout`).
const OPENING: Duration = Duration::from_secs(30);
/// How many channels there are.
const CHANNELS: usize = 5;

/// Carries bytes until the client is gone or the node has said how it ended.
pub(super) async fn serve<I: AsyncRead + AsyncWrite>(io: I, stream: Stream, wanted: Wanted) {
    let (reader, writer, write) = spdy::split(io);
    let streams = Streams { ids: Mutex::default(), wanted, complete: Notify::new() };
    let sender = stream.sender();
    let listen = listen(reader, &streams, &sender);
    let tell = async {
        if tokio::time::timeout(OPENING, streams.complete.notified()).await.is_err() {
            tracing::debug!("a client did not open the streams that it asked for");
            return None;
        }
        let ids = *streams.ids.lock();
        bridge::tell(&stream, &mut Remote { writer, ids }).await
    };
    tokio::pin!(listen, write);
    tokio::select! {
        heard = &mut listen => {
            if let Err(error) = heard {
                tracing::debug!(%error, "a SPDY connection ended");
            }
            return;
        }
        _ = &mut write => return,
        told = tell => if told.is_none() { return },
    }
    drop(stream);
    // The client hangs up when it has read everything; what it still sends is for nobody.
    let _ = tokio::time::timeout(LINGER, async {
        tokio::select! { _ = listen => {}, _ = write => {} }
    })
    .await;
}

type Ids = [Option<u32>; CHANNELS];

/// The client's streams by channel.
struct Streams {
    ids: Mutex<Ids>,
    wanted: Wanted,
    complete: Notify,
}

impl Streams {
    fn opened(&self, id: u32, headers: &[(String, String)]) -> bool {
        let name = headers.iter().find(|(name, _)| name == "streamtype").map(|(_, value)| value.as_str());
        let channel = match name {
            Some("stdin") => STDIN,
            Some("stdout") => STDOUT,
            Some("stderr") => STDERR,
            Some("error") => ERROR,
            Some("resize") => RESIZE,
            _ => return false,
        };
        let mut ids = self.ids.lock();
        let Some(slot @ None) = ids.get_mut(channel as usize) else { return false };
        *slot = Some(id);
        let Wanted { stdin, stdout, stderr, tty } = self.wanted;
        let needed = [stdin, stdout, stderr, true, tty];
        if ids.iter().zip(needed).all(|(id, needed)| !needed || id.is_some()) {
            self.complete.notify_one();
        }
        true
    }

    fn is(&self, channel: u32, id: u32) -> bool {
        self.ids.lock().get(channel as usize) == Some(&Some(id))
    }
}

async fn listen<R: AsyncRead + Unpin>(
    mut reader: Reader<R>,
    streams: &Streams,
    sender: &Sender,
) -> Result<(), SpdyError> {
    // A stream of the node's that has ended takes nothing; the client will hear of it.
    while let Some(event) = reader.next().await? {
        match event {
            Event::Opened { id, headers, .. } => {
                if !streams.opened(id, &headers) {
                    reader.refuse(id).await?;
                }
            }
            Event::Data { id, bytes, last } if streams.is(STDIN, id) => {
                sender.send(STDIN, bytes).await;
                if last {
                    sender.end_of(STDIN).await;
                }
            }
            Event::Data { id, bytes, .. } if streams.is(RESIZE, id) => drop(sender.send(RESIZE, bytes).await),
            Event::Reset(id) if streams.is(STDIN, id) => drop(sender.end_of(STDIN).await),
            Event::Data { .. } | Event::Reset(_) => {}
        }
    }
    Ok(())
}

struct Remote {
    writer: Writer,
    ids: Ids,
}

impl Remote {
    async fn data(&mut self, channel: u32, bytes: Bytes, last: bool) -> Option<()> {
        let Some(slot) = self.ids.get_mut(channel as usize) else { return Some(()) };
        let Some(id) = *slot else { return Some(()) };
        if last {
            *slot = None;
        }
        self.writer.data(id, bytes, last).await
    }
}

impl Client for Remote {
    async fn output(&mut self, channel: u32, bytes: Bytes) -> Option<()> {
        self.data(channel, bytes, false).await
    }

    async fn output_ends(&mut self, channel: u32) -> Option<()> {
        self.data(channel, Bytes::new(), true).await
    }

    async fn status(&mut self, status: Bytes) -> Option<()> {
        for channel in [STDOUT, STDERR] {
            self.output_ends(channel).await?;
        }
        self.data(ERROR, status, true).await
    }
}
