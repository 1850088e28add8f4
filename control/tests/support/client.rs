//! An HTTPS client of one control plane, with the administrator's certificate: one connection a request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use oarlock_daemon::Tasks;
use oarlock_daemon::pki::{self, CertifiedKey};
use serde_json::Value;
use tokio_rustls::TlsConnector;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) port: u16,
    pub(crate) tls: TlsConnector,
    tasks: Tasks,
    token: Option<String>,
}

/// The answer to a request.
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn reason(&self) -> &str {
        self.body["reason"].as_str().unwrap_or("")
    }

    pub(crate) fn version(&self) -> u64 {
        self.body["metadata"]["resourceVersion"].as_str().map_or(0, |v| v.parse().unwrap())
    }
}

impl Client {
    pub(crate) fn new(port: u16, (ca, own): (String, CertifiedKey)) -> Self {
        let config = pki::client_config(&ca, Some(&own)).unwrap();
        Self { port, tls: TlsConnector::from(config), tasks: Tasks::new(), token: None }
    }

    /// Another client of the same server, who shows a token and no certificate.
    pub(crate) fn bearing(&self, ca: &str, token: &str) -> Self {
        let tls = TlsConnector::from(pki::client_config(ca, None).unwrap());
        Self { tls, token: Some(token.to_owned()), ..self.clone() }
    }

    async fn open(&self, method: &str, path: &str, body: &Value) -> Result<Response<Incoming>, Failure> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await?;
        let stream = self.tls.connect("localhost".try_into()?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.job("client", async move {
            // A connection that breaks is seen by the request.
            let _ = connection.await;
        });
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let bearer = self.token.iter().map(|token| format!("Bearer {token}"));
        let request = bearer.fold(request, |request, bearer| request.header("authorization", bearer));
        let request = request.header("content-type", kind).body(Full::new(bytes))?;
        Ok(sender.send_request(request).await?)
    }

    /// One request; never longer than half a minute.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Result<Answer, Failure> {
        let asking = async {
            let response = self.open(method, path, &body).await?;
            let code = response.status().as_u16();
            let bytes = response.into_body().collect().await?.to_bytes();
            Ok(Answer { code, body: serde_json::from_slice(&bytes)? })
        };
        tokio::time::timeout(Duration::from_secs(30), asking).await?
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Value::Null).await.unwrap()
    }

    pub(crate) async fn text(&self, path: &str) -> Result<String, Failure> {
        let response = self.open("GET", path, &Value::Null).await?;
        Ok(String::from_utf8(response.into_body().collect().await?.to_bytes().into())?)
    }

    /// A watch: its lines, parsed.
    pub(crate) async fn watch(&self, path: &str) -> Lines {
        self.try_watch(path).await.unwrap()
    }

    /// The same where it may fail.
    pub(crate) async fn try_watch(&self, path: &str) -> Result<Lines, Failure> {
        let response = self.open("GET", path, &Value::Null).await?;
        match response.status().as_u16() {
            200 => Ok(Lines { body: response.into_body(), rest: Vec::new() }),
            code => Err(format!("a watch is answered with {code}").into()),
        }
    }
}

/// The lines of a watch.
pub(crate) struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    /// The next one; `None` when the stream ended or nothing came within `bound`.
    pub(crate) async fn next(&mut self, bound: Duration) -> Option<Value> {
        let deadline = tokio::time::Instant::now() + bound;
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout_at(deadline, self.body.frame()).await.ok()??.ok()?;
            self.rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }

    /// Reads on until an object of this name comes by; panics when it does not.
    pub(crate) async fn until(&mut self, kind: &str, name: &str) -> Value {
        loop {
            let line = self.next(Duration::from_secs(30)).await;
            let line = line.unwrap_or_else(|| panic!("the watch shows no {kind} of {name}"));
            if line["type"] == kind && line["object"]["metadata"]["name"] == name {
                return line;
            }
        }
    }
}
