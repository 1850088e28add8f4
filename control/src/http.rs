//! The Kubernetes API over HTTPS.
//!
//! In: TLS connections. Out: answers. Every request takes the same way: who asks, may they, what do they ask, then the
//! registry. Nothing here knows a single kind but for the paths that upstream made special.

mod access;
mod aggregated;
mod apply;
mod bind;
mod body;
mod components;
mod discovery;
mod encode;
mod etag;
mod gzip;
mod impersonate;
mod list;
mod listing;
mod logs;
mod negotiate;
mod path;
mod protobuf;
mod proxy;
mod query;
mod resource;
mod resource_metrics;
mod respond;
mod reviews;
mod spdy;
mod streams;
mod watch;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use jiff::Timestamp;
use oarlock_api::openapi::{OpenApi, V2Format};
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::Health;
use oarlock_daemon::metrics::SharedRegistry;
use oarlock_daemon::pki::peer_identity;
use parking_lot::RwLock;
use percent_encoding::percent_decode_str;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use access::Attempt;
use path::Target;
use query::Query;
use respond::Body;

use crate::aggregate::{Aggregator, Backend};
use crate::auth::{Authenticator, Authorizer, User};
use crate::metrics::{RequestLabels, Requests};
use crate::registry::Registry;
use crate::usage::Board;

pub use streams::NodeStreams;

/// The largest request body: an object of the store's limit, with room for its envelope.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 10_000;
/// How long a client may take for its handshake and for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the body of a request may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How often an idle HTTP/2 peer is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long a document may be kept that never changes, in seconds.
const YEAR: i64 = 365 * 24 * 60 * 60;

/// What the server needs.
pub struct Server {
    /// The verbs.
    pub registry: Arc<Registry>,
    /// Whose token it is.
    pub(crate) authenticator: Arc<Authenticator>,
    /// Who may do what.
    pub(crate) authorizer: Arc<Authorizer>,
    /// Who opens streams on nodes.
    pub nodes: Arc<dyn NodeStreams>,
    /// Who else answers.
    pub aggregator: Arc<Aggregator>,
    /// What nodes and pods use.
    pub usage: Arc<Board>,
    /// What `/readyz` says.
    pub health: Health,
    /// What `/metrics` says.
    pub metrics: SharedRegistry,
    /// What is counted about requests.
    pub requests: Requests,
    /// `host:port` under which clients reach it, for discovery.
    pub address: String,
    /// Whether several control planes elect who runs the controllers.
    pub elected: bool,
    /// Documents that are made once, when somebody asks.
    pub documents: Documents,
}

/// OpenAPI documents in the two forms that clients ask for.
#[derive(Debug, Default)]
pub struct Documents {
    v2_json: OnceLock<Bytes>,
    v2_protobuf: OnceLock<Bytes>,
    /// Those of version 3 and their hashes, by group and version.
    v3: RwLock<HashMap<(String, String), (Bytes, String)>>,
}

impl Server {
    /// Serves until shutdown.
    pub async fn serve(self: Arc<Self>, tasks: Tasks, listener: TcpListener, tls: TlsAcceptor) {
        let token = tasks.token();
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let slot = Arc::clone(&slots).acquire_owned();
            let (Ok(slot), accepted) = (tokio::select! {
                pair = async { (slot.await, listener.accept().await) } => pair,
                () = token.cancelled() => return,
            }) else {
                return;
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, or the peer gave up: both pass.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (server, tls, tasks_of_server) = (Arc::clone(&self), tls.clone(), tasks.clone());
            tasks.job("http/connection", async move {
                if let Err(error) = server.connection(tasks_of_server, stream, tls).await {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                drop(slot);
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        tasks: Tasks,
        stream: TcpStream,
        tls: TlsAcceptor,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let stream = tokio::time::timeout(PATIENCE, tls.accept(stream)).await??;
        let certificates = stream.get_ref().1.peer_certificates();
        let identity = certificates.and_then(|c| c.first()).and_then(|c| peer_identity(c));
        let certified = Arc::new(identity.as_ref().map(access::certified));
        let token = tasks.token();
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, certified, tasks) = (Arc::clone(&self), Arc::clone(&certified), tasks.clone());
            async move { Ok::<_, Infallible>(server.answer(certified.as_ref().as_ref(), request, &tasks).await) }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(250).keep_alive_interval(KEEP_ALIVE);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = token.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    async fn answer<B: RequestBody>(
        &self,
        certified: Option<&User>,
        request: Request<B>,
        tasks: &Tasks,
    ) -> Response<Body> {
        let start = std::time::Instant::now();
        let (head, body) = request.into_parts();
        // What is no UTF-8 names no object.
        let path = percent_decode_str(head.uri.path()).decode_utf8_lossy().into_owned();
        let outcome = self.route(certified, &head, &path, body, tasks).await;
        let response = match outcome {
            Ok(response) => response,
            Err(status) => {
                if status.code >= 500 {
                    tracing::warn!(method = %head.method, %path, code = status.code, message = %status.message, "a request failed");
                }
                let accept = head.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
                protobuf::answered(accept, respond::failure(&status)).await
            }
        };
        let mut response = gzip::packed(&head.headers, response).await;
        let what = self.labels(&head, &path);
        self.requests.answered(what, response.status().as_u16(), start.elapsed());
        let id = uuid::Uuid::new_v4().to_string();
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("audit-id", id);
        }
        let asked_again = || HeaderValue::from_static("no-cache, private");
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert_with(asked_again);
        response
    }

    /// What is counted as what: kinds and parts that are served by name, everything else as one.
    fn labels(&self, head: &http::request::Parts, path: &str) -> RequestLabels {
        let other = match head.method {
            Method::GET | Method::HEAD => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        let none = RequestLabels { verb: other, group: "", version: "", resource: "", subresource: "" };
        let Target::Resource(resource) = path::parse(path) else { return none };
        let catalogue = self.registry.cache().catalogue();
        let Some(kind) = catalogue.by_plural(resource.group, resource.version, resource.plural) else {
            return none;
        };
        let watches = || resource.watch || Query::parse(head.uri.query()).flag("watch");
        let verb = match other {
            "GET" if watches() => "WATCH",
            "GET" if resource.name.is_none() => "LIST",
            other => other,
        };
        let below = kind.subresources.iter().find(|sub| Some(sub.name) == resource.subresource);
        RequestLabels {
            verb,
            group: kind.group,
            version: kind.version,
            resource: kind.plural,
            subresource: below.map_or("", |sub| sub.name),
        }
    }

    async fn route<B: RequestBody>(
        &self,
        certified: Option<&User>,
        head: &http::request::Parts,
        path: &str,
        body: B,
        tasks: &Tasks,
    ) -> Result<Response<Body>, Status> {
        // Who answers, if not we; and their paths may be longer than ours.
        let (place, backend) = self.claimed(path);
        let target = if place { path::leading(path) } else { path::parse(path) };
        let query = Query::parse(head.uri.query());
        let attempt = Attempt { method: &head.method, path, target: &target, query: &query };
        let known = access::authenticate(&self.authenticator, certified, &head.headers).await?;
        let user = match impersonate::wanted(&head.headers)? {
            Some(wanted) => {
                let asks = wanted.asks();
                self.allowed(&known, || access::all_allowed(&self.authorizer, &known, &asks)).await?;
                wanted.into_user()
            }
            None => known.clone(),
        };
        self.allowed(&known, || access::authorize(&self.authorizer, &user, attempt)).await?;
        if let Some(backend) = backend {
            return aggregated::hand_on(&self.aggregator, &backend, &user, head, body, tasks).await;
        }
        let accept = head.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
        let Target::Resource(resource) = target else {
            if head.method != Method::GET && head.method != Method::HEAD {
                return Err(Status::method_not_allowed());
            }
            let document = self.document(&target, &query, accept)?;
            return Ok(if target.is_cacheable() {
                etag::tagged(&head.headers, document).await
            } else {
                document
            });
        };
        let served =
            self.registry.cache().catalogue().by_plural(resource.group, resource.version, resource.plural);
        let served = served.ok_or_else(Status::no_resource)?;
        let body = read(body).await?;
        let request = resource::Request {
            served,
            elected: self.elected,
            registry: &self.registry,
            authenticator: &self.authenticator,
            authorizer: &self.authorizer,
            user: &user,
            nodes: &self.nodes,
            usage: &self.usage,
            head,
            method: &head.method,
            path: resource,
            query,
            accept,
            content_type: body::content_type(&head.headers),
            body,
            tasks,
        };
        let mut response = protobuf::answered(accept, request.answer().await?).await;
        respond::warn(&mut response, served.deprecated);
        Ok(response)
    }

    /// Who else answers for a path: as for objects (and whether it is about those), as for the document that describes them.
    fn claimed(&self, path: &str) -> (bool, Option<Arc<Backend>>) {
        let objects = path::group_version(path);
        let place = objects.or_else(|| match path::parse(path) {
            Target::OpenApiV3(group, version) => Some((group, version)),
            _ => None,
        });
        let backend = place.and_then(|(group, version)| self.aggregator.backend(group, version));
        (objects.is_some() && backend.is_some(), backend)
    }

    /// Asks again with what is in the store now: what gives the right may have been written just now. Strangers do not make us
    /// ask the store.
    async fn allowed(&self, known: &User, ask: impl Fn() -> Result<(), Status>) -> Result<(), Status> {
        match ask() {
            Err(_) if !known.is_stranger() => {
                self.registry.catch_up().await?;
                ask()
            }
            answer => answer,
        }
    }

    /// Everything that is no object.
    fn document(
        &self,
        target: &Target<'_>,
        query: &Query,
        accept: Option<&str>,
    ) -> Result<Response<Body>, Status> {
        let catalogue = self.registry.cache().catalogue();
        let remotes = || aggregated::remotes(&self.aggregator);
        let found = match *target {
            Target::Root => discovery::paths(catalogue, &remotes()),
            Target::Health(endpoint) => return Ok(self.health(endpoint, query)),
            Target::Version => version(),
            Target::Metrics => {
                let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                return Ok(respond::bytes(
                    StatusCode::OK,
                    openmetrics,
                    oarlock_daemon::metrics::encode(&self.metrics),
                ));
            }
            Target::CoreVersions | Target::Groups => return Ok(self.discovery(target, accept)),
            Target::Group(group) => {
                discovery::group(catalogue, &remotes(), group).ok_or_else(Status::no_resource)?
            }
            Target::Resources(group, version) => {
                discovery::resources(catalogue, group, version).ok_or_else(Status::no_resource)?
            }
            Target::OpenApiV2 => {
                let format = V2Format::accepted(accept.unwrap_or(""));
                let format = format.ok_or_else(|| Status::not_acceptable("application/json"))?;
                return Ok(respond::bytes(StatusCode::OK, format.content_type(), self.openapi_v2(format)));
            }
            Target::Issuer => self.authenticator.tokens().discovery(&self.address),
            Target::IssuersKeys => {
                let keys = self.authenticator.tokens().keys().to_string();
                return Ok(respond::bytes(StatusCode::OK, "application/jwk-set+json", keys));
            }
            Target::OpenApiV3Index => {
                discovery::with_documents(OpenApi::new(catalogue).v3_index(), &remotes())
            }
            Target::OpenApiV3(group, version) => {
                let (document, hash) = self.openapi_v3(group, version).ok_or_else(Status::no_resource)?;
                return Ok(kept_by_hash(document, &hash, (group, version), query.get("hash")));
            }
            Target::Resource(_) | Target::Unknown => {
                return Ok(respond::text(StatusCode::NOT_FOUND, "404 page not found\n"));
            }
        };
        Ok(respond::json(StatusCode::OK, &found))
    }

    fn openapi_v2(&self, format: V2Format) -> Bytes {
        let slot = match format {
            V2Format::Json => &self.documents.v2_json,
            V2Format::Protobuf => &self.documents.v2_protobuf,
        };
        let make = || Bytes::from(OpenApi::new(self.registry.cache().catalogue()).v2(format));
        slot.get_or_init(make).clone()
    }

    /// A document of version 3 with its hash; `None`: nothing is served there.
    fn openapi_v3(&self, group: &str, version: &str) -> Option<(Bytes, String)> {
        let key = (group.to_owned(), version.to_owned());
        if let Some(made) = self.documents.v3.read().get(&key) {
            return Some(made.clone());
        }
        let api = OpenApi::new(self.registry.cache().catalogue());
        let made = (Bytes::from(api.v3(group, version)?.to_string()), api.hash(group, version));
        self.documents.v3.write().insert(key, made.clone());
        Some(made)
    }

    fn discovery(&self, target: &Target<'_>, accept: Option<&str>) -> Response<Body> {
        let catalogue = self.registry.cache().catalogue();
        let core = matches!(target, Target::CoreVersions);
        let remotes = aggregated::remotes(&self.aggregator);
        let mut response = match negotiate::aggregated(accept) {
            Some(version) => {
                let content_type = if version == "v2" {
                    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
                } else {
                    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
                };
                let body = discovery::aggregated(catalogue, &remotes, core, version).to_string();
                respond::bytes(StatusCode::OK, content_type, body)
            }
            None if core => respond::json(StatusCode::OK, &discovery::core_versions(&self.address)),
            None => respond::json(StatusCode::OK, &discovery::group_list(catalogue, &remotes)),
        };
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        response
    }

    fn health(&self, endpoint: &str, query: &Query) -> Response<Body> {
        let ready = endpoint == "livez" || self.health.is_ready();
        let status = if ready { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
        let short = ready && !query.flag("verbose");
        respond::text(status, if short { "ok".to_owned() } else { self.health.report(endpoint) })
    }
}

/// A document of OpenAPI 3. Whoever asks for it by its hash never has to ask again; with the hash of another they are sent to
/// where it is now.
fn kept_by_hash(
    document: Bytes,
    hash: &str,
    (group, version): (&str, &str),
    asked: Option<&str>,
) -> Response<Body> {
    let Some(asked) = asked else { return respond::bytes(StatusCode::OK, "application/json", document) };
    let mut response = if asked == hash {
        respond::bytes(StatusCode::OK, "application/json", document)
    } else {
        respond::text(StatusCode::MOVED_PERMANENTLY, "")
    };
    let headers = response.headers_mut();
    if asked == hash {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let end = Timestamp::from_second(Timestamp::now().as_second() + YEAR).unwrap_or(Timestamp::MAX);
        if let Ok(end) = HeaderValue::from_str(&end.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()) {
            headers.insert(header::EXPIRES, end);
        }
    } else if let Ok(place) = HeaderValue::from_str(&OpenApi::v3_address(group, version, hash)) {
        headers.insert(header::LOCATION, place);
    }
    response
}

/// The body of a request: from a connection, or (in tests) out of memory.
trait RequestBody:
    hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static
{
}

impl<B> RequestBody for B where
    B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + 'static
{
}

/// A whole body, of bounded size and within a bounded time.
async fn read(body: impl RequestBody) -> Result<Bytes, Status> {
    match tokio::time::timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Status::too_large(MAX_BODY)),
        Ok(Err(error)) => Err(Status::bad_request(format!("the body of the request broke off: {error}"))),
        Err(_) => {
            let seconds = BODY_PATIENCE.as_secs();
            Err(Status::bad_request(format!("the body of the request did not arrive within {seconds} s")))
        }
    }
}

fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "33",
        "gitVersion": oarlock_api::SERVER_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

#[cfg(test)]
mod tests;
