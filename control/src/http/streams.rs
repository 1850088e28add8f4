//! `pods/exec`, `pods/attach` and `pods/portforward`: which container, which protocol, then streams between client and node.
//!
//! In: requests to be upgraded. Out: an answer before the upgrade where something is wrong, else bytes both ways until one side
//! ends. Nothing here dials a node: streams go over the channels that agents have opened.

mod bridge;
mod channels;
mod forward;
mod handshake;
mod ports;
mod remote;

use std::sync::Arc;

use async_trait::async_trait;
use http::Response;
use http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use oarlock_api::meta;
use oarlock_api::node::stream_open::Request;
use oarlock_api::node::{AttachRequest, ExecRequest, StreamClose};
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::Stream;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::logs;
use super::query::Query;
use super::respond::{self, Body};
use crate::dial::node_of;
use forward::Forward;
use handshake::{Protocol, Purpose};

/// Upgraded connections at once.
static OPEN: Semaphore = Semaphore::const_new(2000);

/// Who opens streams on nodes.
#[async_trait]
pub trait NodeStreams: Send + Sync {
    /// Opens a stream on a node.
    async fn open(&self, node: &str, request: Request) -> Result<Stream, Status>;
}

/// What an agent's refusal means to a client.
pub(super) fn failure(close: &StreamClose) -> Status {
    let message = close.message.clone();
    match close.code {
        404 | 400 => Status::bad_request(message),
        429 => Status::too_many_requests(message, 1),
        501 => Status::not_implemented(message),
        503 => Status::unavailable(message),
        _ => Status::internal(message),
    }
}

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn of(query: &Query) -> Result<Self, Status> {
        let tty = query.flag("tty");
        // A terminal has one output.
        let (stdin, stdout) = (query.flag("stdin"), query.flag("stdout"));
        let stderr = query.flag("stderr") && !tty;
        if stdin || stdout || stderr {
            Ok(Self { stdin, stdout, stderr, tty })
        } else {
            Err(Status::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
        }
    }
}

/// Answers a request to be connected to a pod.
pub(super) async fn connect(
    nodes: &Arc<dyn NodeStreams>,
    tasks: &Tasks,
    head: &Parts,
    pod: &Value,
    sub: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let node = node_of(pod)?;
    if sub == "portforward" {
        let (response, protocol, upgrade) = match upgrade(head, Purpose::Forward)? {
            Ok(agreed) => agreed,
            Err(refusal) => return Ok(refusal),
        };
        // Over SPDY each stream names its port.
        let ports = match protocol {
            Protocol::Channels(_) => ports::asked(query)?,
            Protocol::Spdy | Protocol::Tunnel => Vec::new(),
        };
        let forward = Forward::new(Arc::clone(nodes), node.to_owned(), pod, tasks.clone());
        spawn(tasks, upgrade, move |io| async move {
            match protocol {
                Protocol::Tunnel => channels::tunnel(io, |io| forward.serve(io)).await,
                Protocol::Channels(coding) => ports::serve(io, &forward, &ports, coding).await,
                Protocol::Spdy => forward.serve(io).await,
            }
        })?;
        return Ok(response);
    }
    let wanted = Wanted::of(query)?;
    let container = logs::container(pod, query.get("container"))?;
    if !runs(pod, &container) {
        // Kubelet's words, which clients print behind their own.
        let message = format!("container not found ({container:?})");
        return Ok(respond::text(http::StatusCode::NOT_FOUND, message));
    }
    let request = remote_request(pod, sub, container, wanted, query)?;
    let (response, protocol, upgrade) = match upgrade(head, Purpose::Remote)? {
        Ok(agreed) => agreed,
        Err(refusal) => return Ok(refusal),
    };
    let stream = nodes.open(node, request).await?;
    spawn(tasks, upgrade, move |io| async move {
        match protocol {
            Protocol::Channels(coding) => channels::serve(io, stream, wanted, coding).await,
            Protocol::Spdy | Protocol::Tunnel => remote::serve(io, stream, wanted).await,
        }
    })?;
    Ok(response)
}

type Upgrading = (Response<Body>, Protocol, OnUpgrade);

fn upgrade(head: &Parts, purpose: Purpose) -> Result<Result<Upgrading, Response<Body>>, Status> {
    let upgrade = head.extensions.get::<OnUpgrade>().cloned();
    let upgrade = upgrade.ok_or_else(|| Status::bad_request("Upgrade request required"))?;
    let agreed = handshake::negotiate(&head.headers, purpose)?;
    Ok(agreed.map(|(response, protocol)| (response, protocol, upgrade)))
}

/// Talks on a connection once it is upgraded, until one side ends or the server does.
pub(super) fn spawn<F: Future<Output = ()> + Send>(
    tasks: &Tasks,
    upgrade: OnUpgrade,
    talk: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<(), Status> {
    let slot = OPEN.try_acquire().map_err(|_| Status::too_many_requests("too many streams are open", 1))?;
    let token = tasks.token();
    tasks.job("http/stream", async move {
        let _slot = slot;
        let talk = async {
            match upgrade.await {
                Ok(io) => talk(TokioIo::new(io)).await,
                Err(error) => tracing::debug!(%error, "a connection was not upgraded"),
            }
        };
        tokio::select! {
            () = talk => {}
            () = token.cancelled() => {}
        }
    });
    Ok(())
}

/// Whether a container runs, as far as its node has said.
fn runs(pod: &Value, container: &str) -> bool {
    let statuses = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"].into_iter();
    let mut statuses = statuses.flat_map(|f| pod["status"][f].as_array().into_iter().flatten());
    statuses.any(|s| s["name"] == container && !s["state"]["running"].is_null())
}

fn remote_request(
    pod: &Value,
    sub: &str,
    container: String,
    wanted: Wanted,
    query: &Query,
) -> Result<Request, Status> {
    let (namespace, uid) = (meta::namespace(pod).to_owned(), static_pod::uid_on_node(pod).to_owned());
    let pod = meta::name(pod).to_owned();
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    if sub == "attach" {
        return Ok(Request::Attach(AttachRequest {
            namespace,
            pod,
            uid,
            container,
            stdin,
            stdout,
            stderr,
            tty,
        }));
    }
    let command = query.all("command");
    if command.is_empty() {
        return Err(Status::bad_request("you must specify at least 1 command"));
    }
    Ok(Request::Exec(ExecRequest { namespace, pod, uid, container, command, stdin, stdout, stderr, tty }))
}
