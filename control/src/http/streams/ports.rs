//! `pods/portforward` in the channels of a WebSocket, as the clients of other languages ask for it: two channels for each port that
//! the query names, one of bytes and one of what goes wrong. Each begins with the number of its port.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use oarlock_api::status::Status;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::bridge::LINGER;
use super::channels::{self, Said};
use super::forward::{Caller, Forward, PIECES};
use super::handshake::Coding;
use crate::http::query::Query;

/// As many as channels have numbers for.
const MAX_PORTS: usize = 127;

/// The ports of a query: `ports=80&ports=443`, or `ports=80,443`.
pub(super) fn asked(query: &Query) -> Result<Vec<u16>, Status> {
    let texts = query.all("ports");
    let mut ports = Vec::new();
    for text in texts.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty()) {
        let port = text.parse().ok().filter(|port| *port > 0);
        ports.push(port.ok_or_else(|| Status::bad_request(format!("unable to parse {text:?} as a port")))?);
    }
    match ports.len() {
        0 => Err(Status::bad_request("query parameter \"ports\" is required")),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(Status::bad_request(format!(
            "at most {MAX_PORTS} ports can be forwarded over one connection"
        ))),
    }
}

/// Carries a connection to each port until all have ended or the client is gone.
pub(super) async fn serve<I>(io: I, forward: &Forward, ports: &[u16], coding: Coding)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, mut source) = channels::open(io).await.split();
    let (messages, queue) = mpsc::channel(channels::IN_FLIGHT);
    let (mut lines, mut connections) = (Vec::new(), Vec::new());
    for (number, port) in (0..).step_by(2).zip(ports) {
        let (pieces, receiver) = mpsc::channel(PIECES);
        lines.push(pieces);
        let channel = Channel { messages: messages.clone(), number, coding };
        connections.push(connect(forward, *port, channel, receiver));
    }
    let listen = async move {
        while let Some(Ok(message)) = source.next().await {
            match channels::decode(&message, coding) {
                Some(Said::Data(channel, bytes)) if channel % 2 == 0 && !bytes.is_empty() => {
                    if let Some(pieces) = lines.get(usize::from(channel / 2)) {
                        // One that has ended takes nothing. One that takes nothing more lets the others wait.
                        let _ = pieces.send(bytes).await;
                    }
                }
                None if message.is_close() => break,
                _ => {}
            }
        }
    };
    let carry = async move {
        join_all(connections).await;
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        messages.send(Message::Close(Some(frame))).await
    };
    let write = channels::write_all(sink, queue);
    tokio::pin!(listen, write);
    tokio::select! {
        () = &mut listen => return,
        _ = &mut write => return,
        _ = carry => {}
    }
    let end = async { tokio::join!(listen, write) };
    let _ = tokio::time::timeout(LINGER, end).await;
}

async fn connect(
    forward: &Forward,
    port: u16,
    channel: Channel,
    pieces: mpsc::Receiver<Bytes>,
) -> Option<()> {
    for number in [channel.number, channel.number + 1] {
        channel.send(number, &port.to_le_bytes()).await?;
    }
    forward.carry(port, &channel, pieces).await
}

/// The two channels of a port: this number and the next.
struct Channel {
    messages: mpsc::Sender<Message>,
    number: u32,
    coding: Coding,
}

impl Channel {
    async fn send(&self, number: u32, bytes: &[u8]) -> Option<()> {
        self.messages.send(channels::encode(number, bytes, self.coding)).await.ok()
    }
}

impl Caller for Channel {
    /// No message says that the client sends nothing more.
    const ENDS_BY_HALVES: bool = false;

    async fn data(&self, bytes: Bytes) -> Option<()> {
        for piece in bytes.chunks(channels::MAX_PIECE) {
            self.send(self.number, piece).await?;
        }
        Some(())
    }

    async fn end(&self, message: &str) -> Option<()> {
        if message.is_empty() { Some(()) } else { self.send(self.number + 1, message.as_bytes()).await }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::SinkExt as _;
    use oarlock_daemon::Tasks;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::http::streams::forward::tests::node;

    #[test]
    fn ports_are_read_from_the_query() {
        let of = |text: &str| asked(&Query::parse(Some(text)));
        assert_eq!(of("ports=80&ports=443,8080").unwrap(), [80, 443, 8080]);
        for wrong in ["", "ports=", "ports=0", "ports=x", "ports=70000", "port=80"] {
            assert_eq!(of(wrong).unwrap_err().code, 400, "{wrong}");
        }
        let many = (1..=128).map(|port| format!("&ports={port}")).collect::<String>();
        assert_eq!(of(&many).unwrap_err().code, 400);
    }

    #[tokio::test]
    async fn two_ports_share_a_web_socket() {
        let tasks = Tasks::new();
        let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}});
        let forward = Forward::new(node(&tasks), "n".to_owned(), &pod, tasks.clone());
        let (near, far) = tokio::io::duplex(64 * 1024);
        tasks.job("forward", async move {
            serve(far, &forward, &[80, 81], Coding { base64: false, status: true }).await;
        });
        let talk = async {
            let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            client.send(Message::binary(b"\0hello".to_vec())).await.unwrap();
            let mut heard = vec![Vec::new(); 4];
            while heard[0].len() < 7 || heard[3].len() < 3 {
                let message = client.next().await.unwrap().unwrap().into_data();
                heard[usize::from(message[0])].extend_from_slice(&message[1..]);
            }
            let refusal = b"\x51\0error forwarding port 81 to pod p, uid u: connection refused";
            assert_eq!(heard, [&b"\x50\0hello"[..], b"\x50\0", b"\x51\0", refusal]);
            client.close(None).await.unwrap();
            while client.next().await.is_some() {}
        };
        tokio::time::timeout(Duration::from_secs(5), talk).await.expect("in time");
    }
}
