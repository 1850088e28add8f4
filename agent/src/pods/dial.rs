//! Dials pods from the node: TCP connections and HTTP requests of probes and hooks.

use std::net::{IpAddr, SocketAddr};
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
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::report::chain;

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

/// Asks by the gRPC health checking protocol (grpc.health.v1), in kubelet's words.
pub(super) async fn grpc(ip: &str, port: i32, service: &str, timeout: Duration) -> Result<(), String> {
    let ip: IpAddr = ip.parse().map_err(|e| format!("error: {ip:?}: {e}"))?;
    let port = u16::try_from(port).map_err(|_| format!("invalid port number: {port}"))?;
    let address = SocketAddr::new(ip, port);
    let seconds = timeout.as_secs();
    let ask = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .and_then(|endpoint| endpoint.user_agent("kube-probe/1.33"))
            .map_err(|e| format!("error: {e}"))?;
        let failed = |e| format!("error: failed to connect service {address:?}: {}", chain(&e));
        let channel = endpoint.connect().await.map_err(failed)?;
        let request = HealthCheckRequest { service: service.to_owned() };
        HealthClient::new(channel).check(request).await.map_err(|status| match status.code() {
            Code::Unimplemented => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message()
            ),
            _ => format!("error: health rpc probe failed: {}", status.message()),
        })
    };
    let answer = tokio::time::timeout(timeout, ask)
        .await
        .map_err(|_| format!("timeout: health rpc did not complete within {seconds}s"))??;
    let status = answer.into_inner().status();
    match status {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("service unhealthy (responded with {:?})", other.as_str_name())),
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers one connection with `answer`, or never if it is empty; returns what was asked.
    async fn ask(answer: &'static str, path: &str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let action: HTTPGetAction = serde_json::from_value(json!({"path": path, "port": "http",
            "httpHeaders": [{"name": "X-Own", "value": "1"}]}))
        .unwrap();
        let container: Container =
            serde_json::from_value(json!({"name": "c", "ports": [{"name": "http", "containerPort": port}]}))
                .unwrap();
        let serve = async {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let read = peer.read(&mut asked).await.unwrap();
            if answer.is_empty() {
                tokio::time::sleep(SECOND).await;
            }
            peer.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        };
        let tasks = Tasks::new();
        let limit = SECOND / 2;
        tokio::join!(http(&tasks, &container, &action, "127.0.0.1", limit), serve)
    }

    #[tokio::test]
    async fn answers_below_400_are_good_and_others_are_said() {
        let (answer, asked) = ask("HTTP/1.1 204 No Content\r\n\r\n", "healthz?full=1").await;
        assert_eq!(answer, Ok(()));
        assert!(asked.starts_with("GET /healthz?full=1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("x-own: 1") && asked.contains("user-agent: kube-probe/1.33"), "{asked}");
        let (answer, _) = ask("HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", "/").await;
        assert_eq!(answer, Err("HTTP probe failed with statuscode: 503".to_owned()));
        let (answer, _) = ask("", "/").await;
        assert!(answer.unwrap_err().contains("context deadline exceeded"));
    }

    #[tokio::test]
    async fn health_is_asked_by_grpc() {
        use tonic_health::server::health_reporter;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        let (reporter, service) = health_reporter();
        reporter.set_service_status("good", tonic_health::ServingStatus::Serving).await;
        reporter.set_service_status("bad", tonic_health::ServingStatus::NotServing).await;
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming);
        let ask = async {
            let of = |service| grpc("127.0.0.1", port, service, SECOND);
            assert_eq!((of("").await, of("good").await), (Ok(()), Ok(())));
            assert_eq!(of("bad").await.unwrap_err(), "service unhealthy (responded with \"NOT_SERVING\")");
            assert!(of("nobody").await.unwrap_err().starts_with("error: health rpc probe failed"));
        };
        tokio::select! {
            served = server => panic!("{served:?}"),
            () = ask => {}
        }
        assert!(grpc("127.0.0.1", port, "", SECOND).await.unwrap_err().contains("failed to connect"));
        let (answer, _) = ask_silent().await;
        assert_eq!(answer, Err("timeout: health rpc did not complete within 1s".to_owned()));
    }

    /// A server that says nothing.
    async fn ask_silent() -> (Result<(), String>, TcpListener) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = i32::from(listener.local_addr().unwrap().port());
        (grpc("127.0.0.1", port, "", SECOND).await, listener)
    }

    #[tokio::test]
    async fn a_closed_port_and_an_unknown_name_are_failures() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port, SECOND).await, Ok(()));
        drop(listener);
        assert!(tcp("127.0.0.1", port, SECOND).await.unwrap_err().contains("refused"));
        let named = IntOrString::String("nobody".to_owned());
        assert!(super::port(&Container::default(), &named).is_err());
    }

    /// Whatever a container answers, and wherever it breaks off: a code or an error, and not more of it than is wanted.
    #[test]
    fn fuzz_probe_answers() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        oarlock_fuzz::Target::new("probe_answers").run(|input| {
            let tasks = Tasks::new();
            let asked = request(&HTTPGetAction::default(), "/", "10.244.1.5:80").unwrap();
            let outcome = runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(64 << 10);
                let answer = async move {
                    // The client may have seen enough.
                    let _ = far.write_all(input).await;
                };
                tokio::time::timeout(Duration::from_secs(5), async {
                    tokio::join!(send(&tasks, near, asked), answer).0
                })
                .await
            });
            assert!(outcome.expect("in time").map_or(true, |code| (100..1000).contains(&code)));
        });
    }
}
