//! What control planes say is read or refused, and of several the next is asked while one is away.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;

use async_trait::async_trait;
use oarlock_api::node::node_server::{Node, NodeServer};
use oarlock_api::node::stream_open::Request as Opening;
use oarlock_api::node::{JoinResponse, OtherNode, RenewRequest, StreamFrame};
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::Stream;
use oarlock_daemon::pki::{self, Ca, Identity};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::*;

#[test]
fn what_is_packed_is_read_and_what_is_not_is_refused() {
    let others = Others { nodes: vec![OtherNode { name: "a".to_owned(), revision: 7, object: "{}".into() }] };
    let packed = block::compress_prepend_size(&others.encode_to_vec());
    assert_eq!(unpacked(&packed).unwrap(), others);
    let mut long = packed.clone();
    long[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(unpacked(&long).unwrap_err().to_string().contains("more than a message may have"));
    assert!(unpacked(&packed[..packed.len() - 1]).is_err());
    assert!(unpacked(&[1, 0]).is_err());
}

/// A control plane that welcomes whoever comes, tells of it, and ends a session when it is told to.
struct Welcomes {
    name: &'static str,
    opened: mpsc::UnboundedSender<&'static str>,
    end: Arc<tokio::sync::Notify>,
}

type Downwards<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Node for Welcomes {
    type SessionStream = Downwards<ControlMessage>;
    type StreamsStream = Downwards<StreamFrame>;

    async fn session(
        &self,
        _: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        self.opened.send(self.name).unwrap();
        let (sender, receiver) = mpsc::channel(1);
        let welcome = ControlMessage { version: 1, message: Some(Downward::Welcome(Welcome::default())) };
        sender.send(Ok(welcome)).await.unwrap();
        let end = Arc::clone(&self.end);
        Tasks::new().job("session", async move {
            end.notified().await;
            drop(sender);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn streams(
        &self,
        _: Request<Streaming<StreamFrame>>,
    ) -> Result<Response<Self::StreamsStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

struct Nothing;

#[async_trait]
impl streams::StreamSource for Nothing {
    async fn serve(&self, _: Opening, _: &Stream) -> Result<(), streams::StreamError> {
        Ok(())
    }
}

/// Serves at an address until the token is cancelled.
async fn serve(tasks: &Tasks, at: SocketAddr, plane: Welcomes) -> (SocketAddr, CancellationToken) {
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    let at = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let router = tonic::transport::Server::builder().add_service(NodeServer::new(plane));
    tasks.job("plane", async move {
        tokio::select! {
            ended = router.serve_with_incoming(incoming) => ended.unwrap(),
            () = stopped.cancelled() => {}
        }
    });
    (at, stop)
}

/// As a node that has joined before.
fn joined(folder: &Path) -> Joining {
    let ca = Ca::load_or_create(&folder.join("ca")).unwrap();
    let identity = Identity { user: "system:node:n".to_owned(), groups: Vec::new() };
    let (key, csr) = pki::new_request(&identity).unwrap();
    let both = format!("{}\n{key}", ca.sign_request(&csr, &identity).unwrap().trim_end());
    let pki_dir = folder.join("pki");
    std::fs::create_dir(&pki_dir).unwrap();
    std::fs::write(pki_dir.join("node.pem"), both).unwrap();
    std::fs::write(pki_dir.join("ca.crt"), ca.certificate_pem()).unwrap();
    Joining { node_name: "n".to_owned(), token_file: None, ca_file: None, ca_hash: None, pki_dir }
}

#[tokio::test]
async fn of_several_control_planes_the_next_is_asked_while_one_opens_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let (tasks, (opened, mut told)) = (Tasks::new(), mpsc::unbounded_channel());
    let end = Arc::new(tokio::sync::Notify::new());
    let plane = |name| Welcomes { name, opened: opened.clone(), end: Arc::clone(&end) };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (first, stop) = serve(&tasks, any, plane("first")).await;
    stop.cancel();
    let (second, stop_second) = serve(&tasks, any, plane("second")).await;
    let session = Session {
        servers: vec![format!("http://{first}"), format!("http://{second}")],
        joining: joined(folder.path()),
        desired: Arc::default(),
        outbox: Arc::default(),
        health: Health::default(),
        cluster: watch::channel(None).0,
        node: watch::channel(bytes::Bytes::new()).1,
        streams: Arc::new(Nothing),
        tasks: tasks.clone(),
    };
    tasks.spawn("session", session.run());
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, "second", "the first is away");
    let (_, stop_first) = serve(&tasks, first, plane("first")).await;
    end.notify_one();
    assert_eq!(next().await, "second", "who has ended a session is asked once more");
    stop_second.cancel();
    end.notify_one();
    assert_eq!(next().await, "first");
    stop_first.cancel();
    tasks.shut_down();
    tasks.finish(Duration::from_secs(5)).await.unwrap();
}
