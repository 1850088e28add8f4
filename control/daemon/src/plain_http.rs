//! A small server of short texts over plain HTTP: what admin endpoints and health checks are made of.
//!
//! In: a bound listener and a function from method and path to an answer. Connections are bounded; nobody is authenticated.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Tasks;

/// Connections served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 32;

/// An answer.
pub type Answer = Response<Full<Bytes>>;

/// Serves until the token ends.
pub async fn serve(
    tasks: Tasks,
    token: CancellationToken,
    listener: TcpListener,
    answer: impl Fn(&Method, &Uri) -> Answer + Send + Sync + 'static,
) {
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    let answer = Arc::new(answer);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = token.cancelled() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, or the peer gave up: both pass.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let (answer, token) = (Arc::clone(&answer), token.clone());
        tasks.job("http/connection", async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(request.method(), request.uri());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ = connection => {}
                () = token.cancelled() => {}
            }
            drop(slot);
        });
    }
}

/// A plain text.
#[must_use]
pub fn text(status: StatusCode, body: String) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

/// A text of this content type.
#[must_use]
pub fn typed(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
