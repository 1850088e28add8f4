//! The least that a server can do: the same HTTP and TLS, one answer that is in memory already.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use oarlock_daemon::pki::{self, Ca};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::connection::Address;

/// Starts one that answers everything with `body`, with threads of its own as the API server has; it ends with the process.
pub(crate) fn start(body: Bytes) -> Address {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let own = ca.issue_server("bare", &["localhost".to_owned()]).unwrap();
    let identity = pki::Identity { user: "bench".to_owned(), groups: Vec::new() };
    let client = ca.issue_client(&identity).unwrap();
    let tls = TlsAcceptor::from(pki::server_config(&own, ca.certificate_pem(), &[b"http/1.1"]).unwrap());
    let connector = TlsConnector::from(pki::client_config(ca.certificate_pem(), Some(&client)).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(serve(listener, tls, body));
    });
    Address { port, tls: connector }
}

async fn serve(listener: std::net::TcpListener, tls: TlsAcceptor, body: Bytes) {
    let listener = TcpListener::from_std(listener).unwrap();
    let body = Arc::new(body);
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (tls, body) = (tls.clone(), Arc::clone(&body));
        tokio::spawn(async move {
            let stream = tls.accept(stream).await.unwrap();
            let service = service_fn(move |_: Request<hyper::body::Incoming>| {
                let answer = Response::new(Full::new(Bytes::clone(&body)));
                async move { Ok::<_, Infallible>(answer) }
            });
            // The client goes when it is done.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
