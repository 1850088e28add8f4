//! APIs that somebody else answers for: which there are (APIServices), where they are, and requests to them.
//!
//! In: APIServices, Services and Endpoints out of the cache, requests of ours and of clients. Out: connections into ready pods through
//! their agents' streams, TLS inside of them, our identity as front proxy, and the answers. Who asks is said in headers; whether they
//! may was decided before.

mod bootstrap;
mod checks;
mod documents;
mod identity;
mod index;
mod metrics;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use oarlock_api::catalogue::{ENDPOINTS, PODS, SERVICES};
use oarlock_daemon::Tasks;
use oarlock_daemon::pki::CertifiedKey;
use rand::seq::SliceRandom as _;
use tokio::io::DuplexStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::auth::User;
use crate::cache::Cache;
use crate::dial::{Connection, candidates, service_port};
use crate::http::NodeStreams;

pub(crate) use bootstrap::bootstrap;
pub(crate) use identity::{FRONT_PROXY, introduce};
pub(crate) use index::Backend;
pub(crate) use metrics::unregistered;

/// How long a connection to a pod and its handshake may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Pods of one Service that are tried for a request.
const TRIES: usize = 3;
/// The largest answer to a question of our own.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The body of a request that is handed on.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// Who else answers. Shared by reference.
pub struct Aggregator {
    cache: Arc<Cache>,
    nodes: Arc<dyn NodeStreams>,
    index: index::Index,
    documents: documents::Documents,
    tasks: Tasks,
}

impl Aggregator {
    /// Everybody whom APIServices name. `front` is what we show them.
    pub(crate) fn new(
        cache: Arc<Cache>,
        nodes: Arc<dyn NodeStreams>,
        front: CertifiedKey,
        tasks: Tasks,
    ) -> Arc<Self> {
        let index = index::Index::new(Arc::clone(&cache), front);
        Arc::new(Self { cache, nodes, index, documents: documents::Documents::default(), tasks })
    }

    /// Who answers for a group and version, if not we.
    pub(crate) fn backend(&self, group: &str, version: &str) -> Option<Arc<Backend>> {
        self.index.get(group, version)
    }

    /// Everybody.
    pub(crate) fn backends(&self) -> Vec<Arc<Backend>> {
        self.index.all()
    }

    /// Asks one of the ready pods of a backend. An answer is whatever its head says; its body is on its way.
    ///
    /// # Errors
    /// In words: nobody is there, or they broke off.
    pub(crate) async fn send(
        &self,
        backend: &Backend,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, String> {
        let (io, ending) = self.connect(backend).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
        self.tasks.job("aggregate/request", async move {
            // How it ends is what the request says.
            let _ = connection.with_upgrades().await;
        });
        match sender.send_request(request).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                drop(sender);
                Err(ending.why(error).await)
            }
        }
    }

    async fn connect(
        &self,
        backend: &Backend,
    ) -> Result<(TlsStream<DuplexStream>, crate::dial::Ending), String> {
        let tls = backend.tls.clone()?;
        let (namespace, name) = (&backend.namespace, &backend.service);
        let found = self.cache.get(&SERVICES, namespace, name);
        let found = found.ok_or_else(|| format!("service {name:?} not found"))?;
        let port =
            service_port(&found.value(), &backend.port.to_string()).map_err(|status| status.message)?;
        let endpoints = self.cache.get(&ENDPOINTS, namespace, name);
        let mut pods = endpoints.map(|found| candidates(&found.value(), &port)).unwrap_or_default();
        pods.shuffle(&mut rand::rng());
        let mut why = format!("no endpoints available for service {name:?}");
        for (pod, port) in pods.into_iter().take(TRIES) {
            let Some(pod) = self.cache.get(&PODS, namespace, &pod) else { continue };
            let value = pod.value();
            let attempt = self.handshake(&tls, backend, &value, port);
            match tokio::time::timeout(CONNECT, attempt).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => why = error,
                Err(_) => why = format!("pod {} did not answer within {CONNECT:?}", pod.key.name),
            }
        }
        Err(why)
    }

    async fn handshake(
        &self,
        tls: &Arc<tokio_rustls::rustls::ClientConfig>,
        backend: &Backend,
        pod: &serde_json::Value,
        port: u16,
    ) -> Result<(TlsStream<DuplexStream>, crate::dial::Ending), String> {
        let host = ServerName::try_from(backend.host()).map_err(|e| e.to_string())?;
        let connection = Connection::open(&self.nodes, &self.tasks, pod, port).await;
        let (io, ending) = connection.map_err(|status| status.message)?.split();
        match TlsConnector::from(Arc::clone(tls)).connect(host, io).await {
            Ok(io) => Ok((io, ending)),
            Err(error) => Err(ending.why(error).await),
        }
    }

    /// Asks as somebody, within a time, and takes the whole answer.
    ///
    /// # Errors
    /// In words: nobody is there, they are slow, or what they say is no success.
    pub(crate) async fn ask(
        &self,
        backend: &Backend,
        user: &User,
        path: &str,
        within: Duration,
    ) -> Result<Bytes, Refusal> {
        let asked = async {
            let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let mut request = Request::get(path).body(body).map_err(|e| e.to_string())?;
            let headers = request.headers_mut();
            headers.insert(http::header::ACCEPT, http::HeaderValue::from_static("application/json"));
            introduce(headers, user)?;
            headers.insert(http::header::HOST, backend.authority()?);
            let answer = self.send(backend, request).await?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|e| e.to_string())?.to_bytes();
            Ok((head.status, body))
        };
        match tokio::time::timeout(within, asked).await {
            Ok(Ok((status, body))) if status.is_success() => Ok(body),
            Ok(Ok((status, body))) => Err(Refusal::Answer(status.as_u16(), body)),
            Ok(Err(why)) => Err(Refusal::Unreachable(why)),
            Err(_) => Err(Refusal::Unreachable(format!("no answer within {within:?}"))),
        }
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nobody was reached, or they broke off.
    Unreachable(String),
    /// It was answered by something else than success.
    Answer(u16, Bytes),
}
