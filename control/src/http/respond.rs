//! Answers: bodies, headers, failures.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use oarlock_api::status::Status;
use serde_json::Value;

/// The body of every answer. One that fails breaks off: the client sees that this was not the end.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is there already.
pub(super) fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn bytes(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// In an answer's extensions: its body is one object in JSON, which may be wanted in another coding.
#[derive(Debug, Clone, Copy)]
pub(super) struct Object;

pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    object(status, value.to_string())
}

/// One object that is encoded already.
pub(super) fn object(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = bytes(status, "application/json", body);
    response.extensions_mut().insert(Object);
    response
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    bytes(status, "text/plain; charset=utf-8", body)
}

/// A failure, as a Status object.
pub(super) fn failure(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, &status.to_json());
    // Clients repeat whatever is answered with this header up to ten times, writes included. A write whose fate is unknown is
    // not to be repeated blindly, and a store that is away would keep kubectl waiting for minutes: those say it in the body.
    let repeat = status.code == 429;
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds).filter(|_| repeat) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A body of some kind.
pub(super) fn made(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A body that is made piece by piece.
pub(super) fn stream(
    content_type: &'static str,
    pieces: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    use futures_util::StreamExt as _;
    let frames = pieces.map(|piece| Ok::<_, io::Error>(Frame::data(piece)));
    made(content_type, StreamBody::new(frames).boxed_unsync())
}

/// A body that arrives, and breaks off where that does.
pub(super) fn pieces(body: Incoming) -> Body {
    body.map_err(io::Error::other).boxed_unsync()
}

/// Adds `Warning: 299` headers, which kubectl prints.
pub(super) fn warn<W: AsRef<str>>(response: &mut Response<Body>, warnings: impl IntoIterator<Item = W>) {
    for warning in warnings {
        let quoted = warning.as_ref().replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}
