//! The Kubernetes API as the administrator sees it: one HTTP/2 connection, many requests at a time.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use oarlock_daemon::{Tasks, pki};
use serde_json::Value;
use tokio_rustls::TlsConnector;

use crate::process::Control;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A connection.
pub(crate) struct Api {
    sender: SendRequest<Full<Bytes>>,
    _tasks: Tasks,
}

impl Api {
    pub(crate) async fn connect(control: &Control) -> Self {
        Self::try_connect(control).await.expect("the API answers")
    }

    pub(crate) async fn try_connect(control: &Control) -> Result<Self, Failure> {
        let mut config = (*pki::client_config(&control.ca(), Some(&control.admin()))?).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", control.port())).await?;
        stream.set_nodelay(true)?;
        let stream =
            TlsConnector::from(std::sync::Arc::new(config)).connect("localhost".try_into()?, stream).await?;
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let tasks = Tasks::new();
        tasks.job("connection", async move {
            // Whoever asks sees that it broke.
            let _ = connection.await;
        });
        Ok(Self { sender, _tasks: tasks })
    }

    async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<(u16, Bytes), Failure> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        let request = request.header("content-type", kind).body(Full::new(body))?;
        let response = self.sender.clone().send_request(request).await?;
        let code = response.status().as_u16();
        Ok((code, response.into_body().collect().await?.to_bytes()))
    }

    /// A request that succeeds, or the benchmark ends.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let (code, answer) =
            self.send(method, path, body).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        assert!((200..300).contains(&code), "{method} {path}: {code} {}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).expect("JSON")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) {
        self.ask("POST", path, object).await;
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let answer = self.send("GET", path, Bytes::new()).await;
        answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).unwrap_or_default()
    }

    /// How many objects there are of these kinds, in all namespaces.
    pub(crate) async fn counts(&self, plurals: &[&str]) -> Vec<(String, u64)> {
        let mut counts = Vec::new();
        for plural in plurals {
            let group = match *plural {
                "leases" => "/apis/coordination.k8s.io/v1",
                "replicasets" => "/apis/apps/v1",
                _ => "/api/v1",
            };
            let list = self.get(&format!("{group}/{plural}?limit=1")).await;
            let rest = list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
            let first = list["items"].as_array().map_or(0, Vec::len) as u64;
            counts.push(((*plural).to_owned(), rest + first));
        }
        counts
    }
}
