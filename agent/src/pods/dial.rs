//! Dials pods from the node: TCP connections and HTTP requests of probes and hooks.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use oarlock_api::k8s::api::core::v1::{Container, HTTPGetAction};
use oarlock_api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use oarlock_daemon::Tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

mod trust;

/// How much of an answer is read.
const MAX_BODY: usize = 10 * 1024;

/// The number of a port that may be given by its name.
pub(super) fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("couldn't find port: {port:?}"))
}

/// Connects and hangs up.
pub(super) async fn tcp(host: &str, port: u16, timeout: Duration) -> Result<(), String> {
    let connect = TcpStream::connect((host, port));
    match tokio::time::timeout(timeout, connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("dial tcp {host}:{port}: {error}")),
        Err(_) => Err(format!("dial tcp {host}:{port}: i/o timeout")),
    }
}

/// Asks; 200 to 399 is a success.
pub(super) async fn http(
    tasks: &Tasks,
    container: &Container,
    action: &HTTPGetAction,
    pod_ip: &str,
    timeout: Duration,
) -> Result<(), String> {
    let port = port(container, &action.port)?;
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_ip);
    let secure = action.scheme.as_deref() == Some("HTTPS");
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = if secure { "https" } else { "http" };
    let url = format!("{scheme}://{host}:{port}{path}");
    let ask = async {
        let stream =
            TcpStream::connect((host, port)).await.map_err(|e| format!("dial tcp {host}:{port}: {e}"))?;
        let request = request(action, &path, &format!("{host}:{port}"))?;
        if secure {
            send(tasks, trust::anybody(stream).await?, request).await
        } else {
            send(tasks, stream, request).await
        }
    };
    let status = match tokio::time::timeout(timeout, ask).await {
        Ok(answer) => answer.map_err(|e| format!("Get \"{url}\": {e}"))?,
        Err(_) => {
            return Err(format!(
                "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
            ));
        }
    };
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {status}"))
    }
}

fn request(action: &HTTPGetAction, path: &str, host: &str) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path);
    let mut named = Vec::new();
    for header in action.http_headers.iter().flatten() {
        named.push(header.name.to_lowercase());
        request = request.header(&header.name, &header.value);
    }
    for (name, value) in
        [("host", host), ("user-agent", "kube-probe/1.33"), ("accept", "*/*"), ("connection", "close")]
    {
        if !named.iter().any(|n| n == name) {
            request = request.header(name, value);
        }
    }
    request.body(Empty::new()).map_err(|e| e.to_string())
}

async fn send<S>(tasks: &Tasks, stream: S, request: Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(Box::new(stream)))
        .await
        .map_err(|e| e.to_string())?;
    tasks.job("pod/dial", async move {
        // How the connection ends is what the request says.
        let _ = connection.await;
    });
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    // A body that is too long or breaks off does not change the verdict.
    let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
    Ok(status)
}
