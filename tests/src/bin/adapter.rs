//! An adapter of metrics for tests: serves `custom.metrics.k8s.io/v1beta2` and `external.metrics.k8s.io/v1beta1` over TLS to whoever is the
//! front proxy, as aggregated API servers do. The values are files beside its certificates: `rate` of pods, `depth` of something else.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program of tests: what is wrong ends it, and is told"
)]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use oarlock_daemon::Tasks;
use oarlock_daemon::pki::{CertifiedKey, peer_identity, server_config};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

const CUSTOM: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// Pods of a StatefulSet that have values, whether they are there or not.
const PODS: std::ops::Range<u32> = 0..2;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).unwrap());
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let own = CertifiedKey { certificate_pem: read("adapter.crt"), key_pem: read("adapter.key") };
    let tls = TlsAcceptor::from(server_config(&own, &read("front-proxy-ca.crt"), &[b"http/1.1"]).unwrap());
    let listener = tokio::net::TcpListener::bind("0.0.0.0:6443").await.unwrap();
    println!("listening");
    let (tasks, folder) = (Tasks::new(), Arc::new(folder));
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, folder) = (tls.clone(), Arc::clone(&folder));
        tasks.job("connection", async move {
            let Ok(io) = tls.accept(tcp).await else { return };
            let front = io.get_ref().1.peer_certificates().and_then(|c| peer_identity(c.first()?));
            let is_front = front.is_some_and(|front| front.user == "front-proxy-client");
            let service = service_fn(|request| {
                let answer = answer(&folder, is_front, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // Whoever hangs up has what they wanted.
            let _ =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
        });
    }
}

fn answer(folder: &Path, is_front: bool, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let user = request.headers().get("x-remote-user").and_then(|user| user.to_str().ok());
    let path = request.uri().path().replace("%2A", "*");
    println!("{} {path} {user:?} {is_front}", request.method());
    let (code, said) = match (is_front, user) {
        (true, Some(user)) => found(folder, &path, user),
        _ => (
            StatusCode::UNAUTHORIZED,
            json!({"kind": "Status", "apiVersion": "v1", "message": "Unauthorized", "code": 401}),
        ),
    };
    let response = Response::builder().status(code).header("content-type", "application/json");
    response.body(Full::new(Bytes::from(said.to_string()))).unwrap()
}

fn found(folder: &Path, path: &str, user: &str) -> (StatusCode, Value) {
    let value = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default().trim().to_owned();
    let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let list = |of: &str, resources: Value| json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": of, "resources": resources});
    let resource = |name: &str, kind: &str| json!([{"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get"]}]);
    if path == CUSTOM {
        return (
            StatusCode::OK,
            list("custom.metrics.k8s.io/v1beta2", resource("pods/rate", "MetricValueList")),
        );
    }
    if path == EXTERNAL {
        return (
            StatusCode::OK,
            list("external.metrics.k8s.io/v1beta1", resource("depth", "ExternalMetricValueList")),
        );
    }
    if let Some(path) = path.strip_prefix(CUSTOM)
        && path.ends_with("/pods/*/rate")
    {
        let namespace = path.split('/').nth(2).unwrap_or("");
        let item = |i: u32| {
            let pod = json!({"kind": "Pod", "namespace": namespace, "name": format!("queue-{i}"), "apiVersion": "/v1"});
            json!({"describedObject": pod, "metric": {"name": "rate", "selector": null}, "timestamp": at, "value": value("rate")})
        };
        let items: Vec<Value> = PODS.map(item).collect();
        let metadata = json!({"askedBy": user});
        return (
            StatusCode::OK,
            json!({"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": metadata, "items": items}),
        );
    }
    if path.starts_with(EXTERNAL) && path.ends_with("/depth") {
        let items =
            json!([{"metricName": "depth", "metricLabels": {}, "timestamp": at, "value": value("depth")}]);
        return (
            StatusCode::OK,
            json!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": {}, "items": items}),
        );
    }
    let message = "the server could not find the metric";
    (
        StatusCode::NOT_FOUND,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "NotFound", "code": 404}),
    )
}
