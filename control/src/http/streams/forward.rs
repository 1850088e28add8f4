//! `pods/portforward`: connections to ports of a pod over SPDY, each by a pair of streams that share a request id: what goes wrong,
//! and the bytes.
//!
//! In: streams that the client opens. Out: streams of the node's agent, one a connection, each in a job of its own that ends with the
//! client's connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use oarlock_api::meta;
use oarlock_api::node::DialRequest;
use oarlock_api::node::stream_open::Request;
use oarlock_api::static_pod;
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::{Piece, STDIN, STDOUT, Stream};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::NodeStreams;
use crate::http::spdy::{self, Event, Reader, SpdyError, Writer};

/// Connections at once over one connection of a client.
const MAX_PAIRS: usize = 256;
/// Pieces that wait for one connection; then the client's connection waits as a whole.
pub(super) const PIECES: usize = 32;

/// Where connections go.
#[derive(Clone)]
pub(super) struct Forward {
    nodes: Arc<dyn NodeStreams>,
    node: String,
    target: DialRequest,
    tasks: Tasks,
}

impl Forward {
    pub(super) fn new(nodes: Arc<dyn NodeStreams>, node: String, pod: &Value, tasks: Tasks) -> Self {
        let target = DialRequest {
            namespace: meta::namespace(pod).to_owned(),
            pod: meta::name(pod).to_owned(),
            uid: static_pod::uid_on_node(pod).to_owned(),
            port: 0,
        };
        Self { nodes, node, target, tasks }
    }

    /// Dials a port and carries bytes between it and a client.
    pub(super) async fn carry(
        &self,
        port: u16,
        caller: &impl Caller,
        pieces: mpsc::Receiver<Bytes>,
    ) -> Option<()> {
        let target = DialRequest { port: port.into(), ..self.target.clone() };
        let what = format!("error forwarding port {} to pod {}, uid {}", target.port, target.pod, target.uid);
        match self.nodes.open(&self.node, Request::Dial(target)).await {
            Ok(stream) => carry(&stream, caller, pieces, &what).await,
            Err(status) => caller.end(&format!("{what}: {}", status.message)).await,
        }
    }

    /// Carries connections until the client is gone.
    pub(super) async fn serve<I: AsyncRead + AsyncWrite>(self, io: I) {
        let (reader, writer, write) = spdy::split(io);
        let all = CancellationToken::new();
        let _end = all.clone().drop_guard();
        tokio::select! {
            heard = self.listen(reader, writer, &all) => {
                if let Err(error) = heard {
                    tracing::debug!(%error, "a SPDY connection ended");
                }
            }
            _ = write => {}
        }
    }

    async fn listen<R: AsyncRead + Unpin>(
        &self,
        mut reader: Reader<R>,
        writer: Writer,
        all: &CancellationToken,
    ) -> Result<(), SpdyError> {
        let (mut pairs, mut open) = (Pairs::default(), BTreeMap::<u32, Connection>::new());
        while let Some(event) = reader.next().await? {
            match event {
                Event::Opened { id, headers, .. } => {
                    open.retain(|_, connection| !connection.token.is_cancelled());
                    let room = open.len() < MAX_PAIRS;
                    match pairs.opened(id, &headers) {
                        Opened::Waits => {}
                        Opened::Whole(pair) if room => {
                            open.insert(pair.data, self.connect(pair, writer.clone(), all));
                        }
                        Opened::Whole(_) | Opened::Wrong => reader.refuse(id).await?,
                    }
                }
                Event::Data { id, bytes, last } => {
                    if let Some(connection) = open.get(&id)
                        && !bytes.is_empty()
                    {
                        // One that has ended takes nothing; the client hears of it.
                        let _ = connection.pieces.send(bytes).await;
                    }
                    if last && let Some(connection) = open.get_mut(&id) {
                        connection.end();
                    }
                }
                Event::Reset(id) => {
                    pairs.gone(id);
                    if let Some(connection) = open.remove(&id) {
                        connection.token.cancel();
                    }
                }
            }
        }
        Ok(())
    }

    fn connect(&self, pair: Pair, writer: Writer, all: &CancellationToken) -> Connection {
        let (sender, receiver) = mpsc::channel(PIECES);
        let token = all.child_token();
        let (forward, ended) = (self.clone(), token.clone());
        self.tasks.job("http/forward", async move {
            let caller = Streams { pair, writer };
            tokio::select! {
                _ = forward.carry(pair.port, &caller, receiver) => ended.cancel(),
                () = ended.cancelled() => {}
            }
        });
        Connection { pieces: sender, token }
    }
}

/// The client's side of one connection. None means that it is gone.
pub(super) trait Caller: Sync {
    /// Whether the client can say that it sends nothing more while it goes on reading.
    const ENDS_BY_HALVES: bool;

    /// Bytes from the port.
    fn data(&self, bytes: Bytes) -> impl Future<Output = Option<()>> + Send;

    /// Nothing more comes from the port; what went wrong, if something did.
    fn end(&self, message: &str) -> impl Future<Output = Option<()>> + Send;
}

/// A pair of SPDY streams.
struct Streams {
    pair: Pair,
    writer: Writer,
}

impl Caller for Streams {
    const ENDS_BY_HALVES: bool = true;

    async fn data(&self, bytes: Bytes) -> Option<()> {
        self.writer.data(self.pair.data, bytes, false).await
    }

    /// Ends both streams, one with what went wrong.
    async fn end(&self, message: &str) -> Option<()> {
        self.writer.data(self.pair.error, Bytes::copy_from_slice(message.as_bytes()), true).await?;
        self.writer.data(self.pair.data, Bytes::new(), true).await
    }
}

/// A connection that is carried.
struct Connection {
    pieces: mpsc::Sender<Bytes>,
    token: CancellationToken,
}

impl Connection {
    /// The client sends nothing more.
    fn end(&mut self) {
        // The sender of a queue that nobody reads takes the place of the one that is dropped.
        self.pieces = mpsc::channel(1).0;
    }
}

/// Carries one connection until both directions have ended.
async fn carry<C: Caller>(
    stream: &Stream,
    caller: &C,
    mut pieces: mpsc::Receiver<Bytes>,
    what: &str,
) -> Option<()> {
    let sender = stream.sender();
    let up = async {
        while let Some(bytes) = pieces.recv().await {
            sender.send(STDIN, bytes).await?;
        }
        sender.end_of(STDIN).await
    };
    tokio::pin!(up);
    let down = hear(stream, caller, what);
    tokio::pin!(down);
    tokio::select! {
        down = &mut down => down?,
        _ = &mut up => return down.await,
    }
    if !C::ENDS_BY_HALVES {
        return Some(());
    }
    tokio::select! {
        up = up => up,
        _ = stream.closed() => None,
    }
}

/// Tells the client what comes from a port, and how it ends.
async fn hear(stream: &Stream, caller: &impl Caller, what: &str) -> Option<()> {
    let message = loop {
        match stream.read(&[STDOUT]).await {
            Some(Piece::Data(_, bytes)) => caller.data(bytes).await?,
            // The client may go on sending, but waits for the stream of errors before it hangs up.
            Some(Piece::End(_)) => break String::new(),
            None => match stream.closed().await {
                close if close.code == 0 => break String::new(),
                close => break format!("{what}: {}", close.message),
            },
        }
    };
    caller.end(&message).await
}

/// The streams of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    port: u16,
    error: u32,
    data: u32,
}

/// Streams whose other half is not there yet.
#[derive(Debug, Default)]
struct Pairs {
    waiting: BTreeMap<String, Half>,
}

#[derive(Debug)]
struct Half {
    id: u32,
    port: u16,
    is_data: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Opened {
    Waits,
    Whole(Pair),
    Wrong,
}

impl Pairs {
    fn opened(&mut self, id: u32, headers: &[(String, String)]) -> Opened {
        let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let Some(port) = header("port").and_then(|port| port.parse().ok()).filter(|port| *port > 0) else {
            return Opened::Wrong;
        };
        let is_data = match header("streamtype") {
            Some("data") => true,
            Some("error") => false,
            _ => return Opened::Wrong,
        };
        // Clients of old name no request: they open the stream of errors first and the other one next.
        let first = if is_data { id.wrapping_sub(2) } else { id };
        let request = header("requestid").map_or_else(|| first.to_string(), str::to_owned);
        match self.waiting.remove(&request) {
            Some(half) if half.is_data == is_data || half.port != port => Opened::Wrong,
            Some(half) if is_data => Opened::Whole(Pair { port, error: half.id, data: id }),
            Some(half) => Opened::Whole(Pair { port, error: id, data: half.id }),
            None if self.waiting.len() >= MAX_PAIRS => Opened::Wrong,
            None => {
                self.waiting.insert(request, Half { id, port, is_data });
                Opened::Waits
            }
        }
    }

    fn gone(&mut self, id: u32) {
        self.waiting.retain(|_, half| half.id != id);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use oarlock_api::status::Status;
    use oarlock_daemon::mux::{Mux, local};

    use super::*;
    use crate::http::spdy::client::Client;

    fn headers(kind: &str, port: &str, request: Option<&str>) -> Vec<(String, String)> {
        let all = [("streamtype", Some(kind)), ("port", Some(port)), ("requestid", request)];
        all.iter().filter_map(|(n, v)| Some(((*n).to_owned(), (*v)?.to_owned()))).collect()
    }

    #[test]
    fn streams_are_paired_by_their_request() {
        let mut pairs = Pairs::default();
        assert_eq!(pairs.opened(1, &headers("error", "80", Some("0"))), Opened::Waits);
        assert_eq!(pairs.opened(3, &headers("data", "81", Some("1"))), Opened::Waits);
        let pair = Pair { port: 81, error: 5, data: 3 };
        assert_eq!(pairs.opened(5, &headers("error", "81", Some("1"))), Opened::Whole(pair));
        assert_eq!(pairs.opened(7, &headers("data", "99", Some("0"))), Opened::Wrong, "another port");
        assert_eq!(pairs.opened(9, &headers("error", "80", None)), Opened::Waits);
        let pair = Pair { port: 80, error: 9, data: 11 };
        assert_eq!(pairs.opened(11, &headers("data", "80", None)), Opened::Whole(pair));
        for wrong in [headers("data", "0", None), headers("data", "x", None), headers("stdin", "80", None)] {
            assert_eq!(pairs.opened(13, &wrong), Opened::Wrong);
        }
        assert!(pairs.waiting.is_empty());
    }

    struct Node(Mux);

    #[async_trait]
    impl NodeStreams for Node {
        async fn open(&self, _: &str, request: Request) -> Result<Stream, Status> {
            self.0.open(request).await.ok_or_else(|| Status::unavailable("away"))
        }
    }

    /// A node on which port 80 echoes, and nobody listens to others.
    pub(in super::super) fn node(tasks: &Tasks) -> Arc<dyn NodeStreams> {
        let (mux, mut opened) = local(tasks);
        let jobs = tasks.clone();
        tasks.job("node", async move {
            while let Some((stream, open)) = opened.recv().await {
                let Some(Request::Dial(dial)) = open.request else { panic!("{open:?}") };
                jobs.job("echo", async move {
                    if dial.port != 80 {
                        return stream.finish(502, "connection refused").await;
                    }
                    stream.receive().await.unwrap();
                    while let Some(Piece::Data(_, bytes)) = stream.read(&[STDIN]).await {
                        stream.sender().send(STDOUT, bytes).await;
                    }
                    stream.sender().end_of(STDOUT).await;
                    stream.finish(0, "").await;
                });
            }
        });
        Arc::new(Node(mux))
    }

    #[tokio::test]
    async fn connections_are_carried_and_refusals_told() {
        let tasks = Tasks::new();
        let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}});
        let forward = Forward::new(node(&tasks), "n".to_owned(), &pod, tasks.clone());
        let (near, far) = tokio::io::duplex(64 * 1024);
        tasks.job("forward", forward.serve(far));
        let talk = async {
            let mut client = Client::new(near);
            let open = [("requestid", "0"), ("port", "80")];
            client.open(1, &[&[("streamtype", "error")], &open[..]].concat()).await;
            client.open(3, &[&[("streamtype", "data")], &open[..]].concat()).await;
            client.data(3, b"hello", false).await;
            assert_eq!(client.next().await, Some((3, "hello".into(), false)));
            client.data(3, b" again", true).await;
            assert_eq!(client.next().await, Some((3, " again".into(), false)));
            assert_eq!(client.next().await, Some((1, "".into(), true)));
            assert_eq!(client.next().await, Some((3, "".into(), true)));
            let open = [("requestid", "1"), ("port", "81")];
            client.open(5, &[&[("streamtype", "error")], &open[..]].concat()).await;
            client.open(7, &[&[("streamtype", "data")], &open[..]].concat()).await;
            let said = "error forwarding port 81 to pod p, uid u: connection refused";
            assert_eq!(client.next().await, Some((5, said.into(), true)));
            assert_eq!(client.next().await, Some((7, "".into(), true)));
        };
        tokio::time::timeout(Duration::from_secs(5), talk).await.expect("in time");
    }
}
