//! Requests that somebody else answers: handed on as they came, in the name of who asks.
//!
//! In: an authorized request, body and all. Out: the answer as it comes, upgrades included; or upstream's words for why there is none.
//!
//! Source: k8s.io/kube-aggregator/pkg/apiserver/handler_proxy.go, k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go.

use std::io;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use tokio_util::sync::CancellationToken;

use super::respond::{self, Body};
use super::{RequestBody, discovery, streams};
use crate::aggregate::{Aggregator, Backend, Outgoing, introduce};
use crate::auth::User;

/// Headers that are about one connection only (RFC 9110, section 7.6.1).
const OF_CONNECTION: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Hands a request on, and what is answered back.
pub(super) async fn hand_on<B: RequestBody>(
    aggregator: &Aggregator,
    backend: &Backend,
    user: &User,
    head: &Parts,
    body: B,
    tasks: &Tasks,
) -> Result<Response<Body>, Status> {
    if !backend.available {
        return Ok(unavailable("service unavailable"));
    }
    let upgrade = upgrade(&head.headers);
    let body = if upgrade.is_some() {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        body.map_err(Into::into).boxed_unsync()
    };
    let request = outgoing(backend, user, head, upgrade.as_ref(), body)?;
    let answer = match aggregator.send(backend, request).await {
        Ok(answer) => answer,
        Err(why) => {
            tracing::debug!(name = %backend.name, why, "an aggregated API was not reached");
            return Ok(unavailable(&format!("error trying to reach service: {why}")));
        }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return switch(head, answer, tasks);
    }
    if answer.status().is_redirection() && answer.headers().contains_key(header::LOCATION) {
        let why = "the backend attempted to redirect this request, which is not permitted";
        return Ok(respond::text(StatusCode::BAD_GATEWAY, why));
    }
    let (mut head, body) = answer.into_parts();
    take_away(&mut head.headers);
    let mut response = Response::new(until(body, tasks.token()));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

fn unavailable(why: &str) -> Response<Body> {
    respond::text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"))
}

/// The protocol that a client wants to go over to.
fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = connection.flat_map(|value| value.split(','));
    let asked = words.any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

fn outgoing(
    backend: &Backend,
    user: &User,
    head: &Parts,
    upgrade: Option<&HeaderValue>,
    body: Outgoing,
) -> Result<Request<Outgoing>, Status> {
    let mut headers = head.headers.clone();
    take_away(&mut headers);
    // How long the body is, it says itself.
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::AUTHORIZATION);
    let claims = headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned();
    for name in claims.collect::<Vec<_>>() {
        headers.remove(name);
    }
    introduce(&mut headers, user).map_err(Status::internal)?;
    headers.insert(header::HOST, backend.authority().map_err(Status::internal)?);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(head.method.clone()).uri(path).body(body);
    if let Ok(request) = &mut request {
        *request.headers_mut() = headers;
    }
    request.map_err(|e| Status::bad_request(e.to_string()))
}

/// Removes what is about one connection, and what that names as such.
fn take_away(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named = named.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    for name in named.collect::<Vec<HeaderName>>().iter().chain(&OF_CONNECTION) {
        headers.remove(name);
    }
}

/// Both connections go over to another protocol: bytes both ways until one side has ended, or the server does.
fn switch(head: &Parts, mut answer: Response<Incoming>, tasks: &Tasks) -> Result<Response<Body>, Status> {
    let client = head.extensions.get::<OnUpgrade>().cloned();
    let client = client.ok_or_else(|| Status::bad_request("Upgrade request required"))?;
    let far = hyper::upgrade::on(&mut answer);
    streams::spawn(tasks, client, move |mut near| async move {
        let carried = match far.await {
            Ok(far) => tokio::io::copy_bidirectional(&mut near, &mut TokioIo::new(far)).await.map(drop),
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = carried {
            tracing::debug!(%error, "an upgraded connection to an aggregated API ended");
        }
    })?;
    let mut response = Response::new(respond::whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = std::mem::take(answer.headers_mut());
    Ok(response)
}

/// A body that arrives, at most until the server ends: watches would go on for good. What breaks off is no end.
fn until(body: Incoming, stop: CancellationToken) -> Body {
    let frames = futures_util::stream::try_unfold((body, stop), |(mut body, stop)| async move {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = stop.cancelled() => None,
        };
        let frame: Option<Frame<Bytes>> = frame.transpose().map_err(io::Error::other)?;
        Ok(frame.map(|frame| (frame, (body, stop))))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// What others serve, for discovery.
pub(super) fn remotes(aggregator: &Aggregator) -> Vec<discovery::Remote> {
    let remote = |backend: &std::sync::Arc<Backend>| {
        let document = aggregator.document(backend);
        discovery::Remote {
            group: backend.group.clone(),
            version: backend.version.clone(),
            priority: backend.priority,
            is_current: document.as_ref().is_some_and(|document| document.is_current),
            open_api: document.as_ref().and_then(|document| document.open_api.clone()),
            resources: document.map(|document| document.resources),
        }
    };
    aggregator.backends().iter().map(remote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_connection_stays_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ] {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
        }
        assert_eq!(upgrade(&headers), None, "nobody asked for it");
        take_away(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
        headers.append("connection", HeaderValue::from_static("keep-alive, Upgrade"));
        headers.append("upgrade", HeaderValue::from_static("websocket"));
        assert_eq!(upgrade(&headers), Some(HeaderValue::from_static("websocket")));
    }
}
