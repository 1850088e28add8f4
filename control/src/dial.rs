//! Connections into pods, for requests that are handed on: through the stream that the agent of the pod's node has open.
//!
//! In: a pod or a Service as the cache has it, and a port. Out: bytes both ways. Nothing here dials a node.

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use oarlock_api::meta;
use oarlock_api::node::DialRequest;
use oarlock_api::node::stream_open::Request;
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use oarlock_daemon::mux::{Piece, STDIN, STDOUT, Stream};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::oneshot;

use crate::http::NodeStreams;

/// Bytes between a connection's two ends.
const BUFFER: usize = 64 * 1024;

/// A connection into a pod.
pub(crate) struct Connection {
    /// Our end.
    pub(crate) io: DuplexStream,
    /// What went wrong on the node, once it has ended.
    ended: oneshot::Receiver<String>,
}

impl Connection {
    /// Opens a connection to a port of a pod.
    pub(crate) async fn open(
        nodes: &Arc<dyn NodeStreams>,
        tasks: &Tasks,
        pod: &Value,
        port: u16,
    ) -> Result<Self, Status> {
        let target = DialRequest {
            namespace: meta::namespace(pod).to_owned(),
            pod: meta::name(pod).to_owned(),
            uid: static_pod::uid_on_node(pod).to_owned(),
            port: port.into(),
        };
        let stream = nodes.open(node_of(pod)?, Request::Dial(target)).await?;
        let (io, far) = tokio::io::duplex(BUFFER);
        let (why, ended) = oneshot::channel();
        tasks.job("http/proxy", async move {
            // Nobody asks for it when the answer has come.
            let _ = why.send(carry(&stream, far).await);
        });
        Ok(Self { io, ended })
    }

    /// Our end, and who to ask why it ended.
    pub(crate) fn split(self) -> (DuplexStream, Ending) {
        (self.io, Ending(self.ended))
    }
}

/// How a connection ends.
pub(crate) struct Ending(oneshot::Receiver<String>);

impl Ending {
    /// What the node says of it, or what is said here when it says nothing. Our end is to be dropped before.
    pub(crate) async fn why(self, otherwise: impl std::fmt::Display) -> String {
        let why = self.0.await.ok().filter(|why| !why.is_empty());
        why.unwrap_or_else(|| otherwise.to_string())
    }
}

/// The node of a pod that has one.
pub(crate) fn node_of(pod: &Value) -> Result<&str, Status> {
    let node = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    node.ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", meta::name(pod))))
}

/// A port by its number.
pub(crate) fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port > 0)
}

/// The name of the port of a Service that is asked for by name or number; the only one when none is.
pub(crate) fn service_port(service: &Value, asked: &str) -> Result<String, Status> {
    let empty = Vec::new();
    let ports = service["spec"]["ports"].as_array().unwrap_or(&empty);
    let found = match (asked, ports.as_slice()) {
        ("", [only]) => Some(only),
        _ => ports.iter().find(|p| p["name"] == asked || p["port"].as_u64() == number(asked).map(u64::from)),
    };
    let name = meta::name(service);
    let found = found.filter(|_| !(asked.is_empty() && ports.len() != 1));
    let found = found.ok_or_else(|| {
        Status::unavailable(format!("no service port {asked:?} found for service {name:?}"))
    })?;
    Ok(found["name"].as_str().unwrap_or("").to_owned())
}

/// The ready pods behind a port, and their own ports.
pub(crate) fn candidates(endpoints: &Value, port: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let number =
            ports.filter(|p| p["name"].as_str().unwrap_or("") == port).find_map(|p| p["port"].as_u64());
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        let addresses = subset["addresses"].as_array().into_iter().flatten();
        let pods = addresses.filter(|a| a["targetRef"]["kind"] == "Pod");
        found.extend(pods.filter_map(|a| Some((a["targetRef"]["name"].as_str()?.to_owned(), number))));
    }
    found
}

/// Carries bytes both ways until both have ended; says what went wrong on the node.
async fn carry(stream: &Stream, io: DuplexStream) -> String {
    let (mut from, mut to) = tokio::io::split(io);
    let sender = stream.sender();
    let up = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(BUFFER / 2);
            match from.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => sender.send(STDIN, buffer.split().freeze()).await?,
            }
        }
        sender.end_of(STDIN).await
    };
    let down = async {
        while let Some(Piece::Data(_, bytes)) = stream.read(&[STDOUT]).await {
            to.write_all(&bytes).await.ok()?;
        }
        to.shutdown().await.ok()
    };
    // A client of HTTP does not close one direction before it is done with both.
    tokio::select! {
        _ = up => {}
        _ = down => {}
    }
    stream.closed().now_or_never().map(|close| close.message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_services_port_leads_to_its_ready_pods() {
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [
            {"name": "http", "port": 80}, {"name": "admin", "port": 8080}]}});
        assert_eq!(service_port(&service, "8080").unwrap(), "admin");
        assert_eq!(service_port(&service, "http").unwrap(), "http");
        let missing = service_port(&service, "").unwrap_err();
        assert_eq!(
            (missing.code, &*missing.message),
            (503, "no service port \"\" found for service \"web\"")
        );
        let endpoints = json!({"subsets": [{
            "ports": [{"name": "http", "port": 8000}, {"name": "admin", "port": 9000}],
            "addresses": [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "name": "a"}}, {"ip": "192.0.2.1"}],
            "notReadyAddresses": [{"ip": "10.0.0.2", "targetRef": {"kind": "Pod", "name": "b"}}]}]});
        assert_eq!(candidates(&endpoints, "admin"), [("a".to_owned(), 9000)]);
        assert_eq!(candidates(&endpoints, "other"), []);
    }
}
