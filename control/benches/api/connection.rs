//! A client of HTTP/1.1 over TLS that does as little as it can: requests are bytes that are made before, of answers the status and the
//! length are read. What it does not do is left to the server.

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where and as whom.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) port: u16,
    pub(crate) tls: TlsConnector,
}

/// A connection that is kept alive.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    held: BytesMut,
}

/// How the body of an answer is told from what follows.
enum Framing {
    Length(usize),
    Chunks,
}

/// An answer whose body is not kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) bytes: usize,
}

/// The media types of answers.
pub(crate) const JSON: &str = "application/json";
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request without or with a body.
pub(crate) fn request(method: &str, path: &str, kind: &str, body: &str) -> Vec<u8> {
    whole(method, path, JSON, kind, body)
}

/// A request whose answer is wanted in some coding.
pub(crate) fn asking(method: &str, path: &str, accept: &str) -> Vec<u8> {
    whole(method, path, accept, "", "")
}

fn whole(method: &str, path: &str, accept: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\naccept: {accept}\r\ncontent-type: {kind}\r\ncontent-length: \
         {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Connection {
    pub(crate) async fn open(address: &Address) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", address.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = address.tls.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        Self { stream, held: BytesMut::with_capacity(64 << 10) }
    }

    /// One request and its whole answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Answer {
        let (code, framing) = self.head(request).await;
        let bytes = match framing {
            Framing::Length(length) => {
                self.skip(length).await;
                length
            }
            Framing::Chunks => {
                let mut bytes = 0;
                while let Some(chunk) = self.chunk().await {
                    bytes += chunk.len();
                }
                bytes
            }
        };
        Answer { code, bytes }
    }

    /// Sends a request and waits until its answer has begun; the rest is not read.
    pub(crate) async fn begin(&mut self, request: &[u8]) {
        let (code, _) = self.head(request).await;
        assert_eq!(code, 200);
    }

    /// Sends the request of a watch.
    pub(crate) async fn watch(&mut self, request: &[u8]) {
        let (code, framing) = self.head(request).await;
        assert!(code == 200 && matches!(framing, Framing::Chunks));
    }

    /// How many lines of a watch the next chunk ends; `None` when the server is gone.
    pub(crate) async fn lines(&mut self) -> Option<usize> {
        let chunk = self.chunk().await?;
        Some(chunk.iter().filter(|byte| **byte == b'\n').count())
    }

    async fn head(&mut self, request: &[u8]) -> (u16, Framing) {
        self.stream.write_all(request).await.unwrap();
        self.stream.flush().await.unwrap();
        let end = loop {
            if let Some(end) = self.held.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            self.fill().await;
        };
        let head = self.held.split_to(end + 4);
        let head = std::str::from_utf8(&head).unwrap();
        let code = head.get(9..12).unwrap().parse().unwrap();
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned));
        (code, length.map_or(Framing::Chunks, |length| Framing::Length(length.parse().unwrap())))
    }

    async fn fill(&mut self) {
        assert!(self.more().await, "the server went away");
    }

    async fn more(&mut self) -> bool {
        self.held.reserve(64 << 10);
        self.stream.read_buf(&mut self.held).await.is_ok_and(|count| count > 0)
    }

    async fn skip(&mut self, mut length: usize) {
        loop {
            let now = length.min(self.held.len());
            self.held.advance(now);
            length -= now;
            if length == 0 {
                return;
            }
            self.fill().await;
        }
    }

    /// The next chunk of a body; `None` at its end and that of the connection.
    async fn chunk(&mut self) -> Option<BytesMut> {
        let line = loop {
            if let Some(end) = self.held.windows(2).position(|two| two == b"\r\n") {
                break self.held.split_to(end + 2);
            }
            if !self.more().await {
                return None;
            }
        };
        let size = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        while self.held.len() < size + 2 {
            self.fill().await;
        }
        let chunk = self.held.split_to(size);
        self.held.advance(2);
        (size > 0).then_some(chunk)
    }
}
