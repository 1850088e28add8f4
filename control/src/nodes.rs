//! The control plane's side of the conversation with agents: joining, sessions, streams.
//!
//! In: gRPC calls of agents, authenticated by token (join) or certificate (everything else). Out: objects downwards as the
//! cache has them, statuses and events upwards through the registry. Agents dial in; nothing here dials a node.

mod events;
mod join;
mod mirror;
mod peers;
mod policies;
pub(crate) mod references;
mod report;
mod router;
mod session;
mod settle;
mod share;
mod streams;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use oarlock_api::meta;
use oarlock_api::node::Welcome;
use oarlock_api::node::join_server::JoinServer;
use oarlock_api::node::node_server::NodeServer;
use oarlock_api::node::peer_server::PeerServer;
use oarlock_api::node::stream_open::Request;
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::Stream;
use oarlock_daemon::pki::{Ca, CertifiedKey, peer_identity};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::auth::node;
use crate::auth::tokens::Tokens;
use crate::http::NodeStreams;
use crate::registry::Registry;
use crate::usage::Board;

pub use events::{Event, Events};
pub(crate) use mirror::may_mirror;
pub(crate) use report::RESERVED as RESERVED_LABELS;

/// Objects as large as the store accepts fit with their envelope.
pub(crate) const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Agents and what they need of the control plane. Shared by reference.
pub struct Nodes {
    registry: Arc<Registry>,
    usage: Arc<Board>,
    ca: Arc<Ca>,
    tokens: Arc<Tokens>,
    join_token: String,
    cluster: Welcome,
    events: Arc<Events>,
    streams: streams::Hub,
    peers: Arc<peers::Peers>,
    router: Arc<router::Router>,
    tasks: Tasks,
}

impl Nodes {
    /// The part that talks to agents.
    #[must_use]
    pub(crate) fn new(
        registry: Arc<Registry>,
        usage: Arc<Board>,
        events: Arc<Events>,
        (ca, tokens): (Arc<Ca>, Arc<Tokens>),
        join_token: String,
        cluster: Welcome,
        tasks: Tasks,
    ) -> Arc<Self> {
        let peers = Arc::new(peers::Peers::default());
        let following = Arc::clone(&peers).run(Arc::clone(registry.cache()), tasks.token());
        tasks.spawn("nodes/peers", following);
        let router = Arc::new(router::Router::default());
        let routing = Arc::clone(&router).run(Arc::clone(registry.cache()), tasks.token());
        tasks.spawn("nodes/router", routing);
        let streams = streams::Hub::default();
        Arc::new(Self {
            registry,
            usage,
            ca,
            tokens,
            join_token,
            cluster,
            events,
            streams,
            peers,
            router,
            tasks,
        })
    }

    /// Serves agents until shutdown.
    ///
    /// # Errors
    /// The certificate does not parse, or the server fails.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        own: &CertifiedKey,
    ) -> Result<(), tonic::transport::Error> {
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(&own.certificate_pem, &own.key_pem))
            .client_ca_root(Certificate::from_pem(self.ca.certificate_pem()))
            .client_auth_optional(true);
        let token = self.tasks.token();
        let keep_alive = std::time::Duration::from_secs(20);
        Server::builder()
            .tls_config(tls)?
            .http2_keepalive_interval(Some(keep_alive))
            .http2_keepalive_timeout(Some(keep_alive))
            .tcp_nodelay(true)
            .add_service(JoinServer::new(join::Service(Arc::clone(&self))))
            .add_service(
                PeerServer::new(share::Service(Arc::clone(&self))).max_decoding_message_size(MAX_MESSAGE),
            )
            .add_service(
                NodeServer::new(session::Service(self))
                    .max_decoding_message_size(MAX_MESSAGE)
                    .max_encoding_message_size(MAX_MESSAGE),
            )
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), token.cancelled_owned())
            .await
    }
}

#[async_trait]
impl NodeStreams for Nodes {
    async fn open(&self, node: &str, request: Request) -> Result<Stream, Status> {
        self.streams.open(node, request).await
    }
}

/// Since when a node counts as lost; `None` when it does not.
pub(crate) fn is_lost(node: &Value) -> Option<Timestamp> {
    let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let lost = conditions.find(|c| c["type"] == "Ready" && c["status"] == "Unknown")?;
    meta::parse_time(lost["lastTransitionTime"].as_str()?)
}

/// The node that a request's certificate speaks for.
fn caller<T>(request: &tonic::Request<T>) -> Result<String, tonic::Status> {
    let identity = request.peer_certs().and_then(|certs| peer_identity(certs.first()?));
    let who = identity.as_ref().map_or("a client without a certificate", |i| i.user.as_str());
    identity
        .as_ref()
        .filter(|i| i.groups.iter().any(|g| g == node::GROUP))
        .and_then(|i| i.user.strip_prefix(node::USER))
        .map(str::to_owned)
        .ok_or_else(|| {
            let from: Option<SocketAddr> = request.remote_addr();
            tracing::warn!(%who, ?from, "refused: only nodes may open sessions");
            tonic::Status::permission_denied(format!("{who} is no node: join with a token first"))
        })
}
