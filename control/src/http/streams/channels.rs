//! WebSockets of commands and containers: messages that begin with the number of their channel (`v5.channel.k8s.io` and the ones
//! before it).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::SplitSink;
use futures_util::{SinkExt as _, StreamExt as _};
use oarlock_daemon::mux::{ERROR, RESIZE, STDERR, STDIN, STDOUT, Sender, Stream};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

use super::Wanted;
use super::bridge::{self, Client, LINGER};
use super::handshake::Coding;

/// The largest message that is taken; kubectl's have 32 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Messages on their way into the connection.
pub(super) const IN_FLIGHT: usize = 8;
/// The largest piece in one message.
pub(super) const MAX_PIECE: usize = 32 * 1024;
/// The channel that ends another one, since version 5.
const CLOSE: u8 = 255;
/// How often the client is asked whether it is still there: a dead one is noticed by writing only.
const PING: Duration = Duration::from_secs(10);

/// A connection that has become a WebSocket.
pub(super) async fn open<I: AsyncRead + AsyncWrite + Unpin>(io: I) -> WebSocketStream<I> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// Carries bytes until the client is gone or the node has said how it ended.
pub(super) async fn serve<I>(io: I, stream: Stream, wanted: Wanted, coding: Coding)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, mut source) = open(io).await.split();
    let sender = stream.sender();
    let listen = async {
        while let Some(Ok(message)) = source.next().await {
            match decode(&message, coding) {
                Some(said) => said.hand_to(&sender, wanted).await,
                None if message.is_close() => break,
                None => {}
            }
        }
    };
    let (messages, queue) = mpsc::channel(IN_FLIGHT);
    let mut client = Socket { messages, coding };
    let tell = async {
        client.greet(wanted).await?;
        bridge::tell(&stream, &mut client).await?;
        client.close().await
    };
    let write = write_all(sink, queue);
    tokio::pin!(listen, write);
    tokio::select! {
        () = &mut listen => return,
        _ = &mut write => return,
        told = tell => if told.is_none() { return },
    }
    // Closes the queue, and the stream: what the client still sends is for nobody.
    drop((client, stream));
    let end = async { tokio::join!(listen, write) };
    let _ = tokio::time::timeout(LINGER, end).await;
}

pub(super) async fn write_all<I: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<I>, Message>,
    mut queue: mpsc::Receiver<Message>,
) -> Option<()> {
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
    loop {
        let message = tokio::select! {
            message = queue.recv() => message?,
            _ = beat.tick() => Message::Ping(Bytes::new()),
        };
        sink.send(message).await.ok()?;
    }
}

/// Serves a protocol of bytes in the messages of a WebSocket.
pub(super) async fn tunnel<I, F>(io: I, serve: impl FnOnce(DuplexStream) -> F)
where
    I: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = ()>,
{
    let (sink, mut source) = open(io).await.split();
    let (near, far) = tokio::io::duplex(2 * MAX_PIECE);
    let (mut from_server, mut to_server) = tokio::io::split(near);
    let (messages, queue) = mpsc::channel(IN_FLIGHT);
    let listen = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => to_server.write_all(&bytes).await.ok()?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_server.shutdown().await.ok()
    };
    let say = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(MAX_PIECE);
            if from_server.read_buf(&mut buffer).await.ok()? == 0 {
                break;
            }
            messages.send(Message::Binary(buffer.split().freeze())).await.ok()?;
        }
        messages.send(Message::Close(None)).await.ok()
    };
    // The server ends when it hears that the client has, and the other way round.
    let talk = async { tokio::join!(serve(far), say) };
    tokio::pin!(listen, talk);
    tokio::select! {
        _ = write_all(sink, queue) => {}
        _ = &mut talk => {}
        _ = &mut listen => drop(tokio::time::timeout(LINGER, talk).await),
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Data(u8, Bytes),
    End(u8),
}

impl Said {
    async fn hand_to(self, sender: &Sender, wanted: Wanted) {
        // A stream that has ended takes nothing: the client will hear of it.
        match self {
            Self::Data(0, bytes) if wanted.stdin => drop(sender.send(STDIN, bytes).await),
            Self::Data(4, bytes) => drop(sender.send(RESIZE, bytes).await),
            Self::End(0) => drop(sender.end_of(STDIN).await),
            Self::Data(..) | Self::End(_) => {}
        }
    }
}

/// Clients send text in either kind of message, whatever the coding.
pub(super) fn decode(message: &Message, coding: Coding) -> Option<Said> {
    let message = match message {
        Message::Binary(bytes) => bytes.clone(),
        Message::Text(text) => Bytes::from(text.clone()),
        _ => return None,
    };
    let (channel, bytes) = (*message.first()?, message.slice(1..));
    let (channel, bytes) = match coding.base64 {
        true => (channel.wrapping_sub(b'0'), STANDARD.decode(&bytes).ok()?.into()),
        false => (channel, bytes),
    };
    match channel {
        CLOSE => Some(Said::End(*bytes.first()?)),
        channel => Some(Said::Data(channel, bytes)),
    }
}

pub(super) fn encode(channel: u32, bytes: &[u8], coding: Coding) -> Message {
    let channel = u8::try_from(channel).unwrap_or(CLOSE);
    if coding.base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(bytes)));
    }
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

struct Socket {
    messages: mpsc::Sender<Message>,
    coding: Coding,
}

impl Socket {
    async fn send(&self, channel: u32, bytes: &[u8]) -> Option<()> {
        self.messages.send(encode(channel, bytes, self.coding)).await.ok()
    }

    /// An empty message on the first channel that the client listens to: the connection is there.
    async fn greet(&self, wanted: Wanted) -> Option<()> {
        let channel = match wanted {
            Wanted { stdout: true, .. } => STDOUT,
            Wanted { stderr: true, .. } => STDERR,
            Wanted { .. } => ERROR,
        };
        self.send(channel, &[]).await
    }

    async fn close(&self) -> Option<()> {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.messages.send(Message::Close(Some(frame))).await.ok()
    }
}

impl Client for Socket {
    async fn output(&mut self, channel: u32, bytes: Bytes) -> Option<()> {
        for piece in bytes.chunks(MAX_PIECE) {
            self.send(channel, piece).await?;
        }
        Some(())
    }

    /// Clients hear of it with the end of everything: there is no message for it.
    async fn output_ends(&mut self, _channel: u32) -> Option<()> {
        Some(())
    }

    async fn status(&mut self, status: Bytes) -> Option<()> {
        if self.coding.status {
            return self.send(ERROR, &status).await;
        }
        let status: Value = serde_json::from_slice(&status).unwrap_or_default();
        match status["status"].as_str() {
            Some("Success") => Some(()),
            _ => self.send(ERROR, status["message"].as_str().unwrap_or("failed").as_bytes()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use oarlock_fuzz::Target;
    use proptest::prelude::*;

    use super::*;

    const BINARY: Coding = Coding { base64: false, status: true };
    const TEXT: Coding = Coding { base64: true, status: true };

    #[test]
    fn a_message_is_a_channel_and_bytes() {
        assert_eq!(encode(1, b"hi", BINARY), Message::binary(b"\x01hi".to_vec()));
        assert_eq!(encode(1, b"hi", TEXT), Message::text("1aGk="));
        let end = Message::binary(vec![255, 0]);
        assert_eq!(decode(&end, BINARY), Some(Said::End(0)));
        assert_eq!(decode(&Message::text("0aGk="), TEXT), Some(Said::Data(0, "hi".into())));
        // As the Python client sends what it was given as text.
        assert_eq!(decode(&Message::text("\0hi"), BINARY), Some(Said::Data(0, "hi".into())));
        assert_eq!(decode(&Message::binary(b"0aGk=".to_vec()), TEXT), Some(Said::Data(0, "hi".into())));
        for none in [Message::binary(vec![]), Message::binary(vec![255]), Message::text("")] {
            assert_eq!(decode(&none, BINARY), None);
        }
        assert_eq!(decode(&Message::text("0hi"), TEXT), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(channel in 0_u32..5, bytes in proptest::collection::vec(any::<u8>(), 0..100), base64: bool) {
            let coding = Coding { base64, status: true };
            let wanted = Said::Data(u8::try_from(channel).unwrap(), bytes.clone().into());
            prop_assert_eq!(decode(&encode(channel, &bytes, coding), coding), Some(wanted));
        }
    }

    #[test]
    fn fuzz_channels() {
        Target::new("channels").run(|input| {
            for coding in [BINARY, TEXT] {
                let text = Message::text(String::from_utf8_lossy(input).into_owned());
                for message in [text, Message::binary(input.to_vec())] {
                    let Some(Said::Data(channel, bytes)) = decode(&message, coding) else { continue };
                    let again = decode(&encode(channel.into(), &bytes, coding), coding);
                    // In text a channel is a digit.
                    assert!(again == Some(Said::Data(channel, bytes)) || coding.base64 && channel > 9);
                }
            }
        });
    }
}
