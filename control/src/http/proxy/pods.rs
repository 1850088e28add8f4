//! `pods/proxy` and `services/proxy`: a request handed on to a port of a pod, through the agent of its node.
//!
//! In: any method, path and body below `.../proxy`. Out: the pod's own answer. A Service's request goes to one of its ready
//! endpoints that is a pod; HTTPS towards pods is not spoken.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use oarlock_api::catalogue::{ENDPOINTS, Kind, PODS, SERVICES};
use oarlock_api::meta;
use oarlock_api::node::DialRequest;
use oarlock_api::node::stream_open;
use oarlock_api::status::Status;
use oarlock_daemon::mux::{Piece, STDIN, STDOUT, Stream};
use rand::seq::IndexedRandom as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use crate::http::resource;
use crate::http::respond::{self, Body};
use crate::http::streams;

/// Bytes between a connection's two ends.
const BUFFER: usize = 64 * 1024;
/// Headers that are about one connection only (RFC 9110, section 7.6.1), and who asked.
const OWN: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "authorization",
];

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Name<'n> {
    name: &'n str,
    /// Empty for the default.
    port: &'n str,
}

impl<'n> Name<'n> {
    fn parse(text: &'n str) -> Result<Self, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            [name] if !name.is_empty() => Ok(Self { name, port: "" }),
            [name, port] | ["http" | "", name, port] if !name.is_empty() => Ok(Self { name, port }),
            ["https", ..] => Err(Status::not_implemented(
                "requests by HTTPS to pods are not supported by this version of Oarlock",
            )),
            _ => Err(Status::bad_request(format!(
                "invalid proxy request {text:?}: it is [scheme:]name[:port]"
            ))),
        }
    }
}

/// Answers a request below `.../<name>/proxy`.
pub(in crate::http) async fn answer(
    request: &resource::Request<'_>,
    kind: &'static Kind,
    namespace: &str,
    name: &str,
) -> Result<Response<Body>, Status> {
    let uri = &request.head.uri;
    let (before, path) = below(uri.path());
    if path.is_empty() {
        let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        return moved(&format!("{before}/{query}"));
    }
    let Name { name, port } = Name::parse(name)?;
    let object = request.registry.get(kind, namespace, name).await?;
    let (pod, port) = if *kind == SERVICES {
        endpoint(request, &object, port).await?
    } else {
        let port = pod_port(&object, port)?;
        (object, port)
    };
    let node = streams::node_of(&pod)?;
    let target = DialRequest {
        namespace: namespace.to_owned(),
        pod: meta::name(&pod).to_owned(),
        uid: meta::uid(&pod).to_owned(),
        port: port.into(),
    };
    let host = format!("{}:{port}", pod["status"]["podIP"].as_str().unwrap_or(name));
    let stream = request.nodes.open(node, stream_open::Request::Dial(target)).await?;
    let outgoing = outgoing(request, path, &host)?;
    let mut answer = ask(request, stream, outgoing).await?;
    for name in OWN {
        answer.headers_mut().remove(name);
    }
    let moved = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
    if let Some(to) = moved.filter(|to| to.starts_with('/') && !to.starts_with("//")) {
        let to = HeaderValue::from_str(&format!("{before}{to}")).map_err(Status::internal)?;
        answer.headers_mut().insert(header::LOCATION, to);
    }
    Ok(answer.map(respond::pieces))
}

/// The part of a path up to `proxy`, and what is below it, as it was sent.
fn below(path: &str) -> (&str, &str) {
    let segments = path.split('/').position(|segment| segment == "proxy").unwrap_or(usize::MAX);
    let namespaced = path.split('/').nth(3) == Some("namespaces");
    // /api/v1/namespaces/NAMESPACE/PLURAL/NAME/proxy, whatever the names are.
    let wanted = if namespaced { 7 } else { segments };
    let end = path.match_indices('/').nth(wanted).map_or(path.len(), |(at, _)| at);
    path.split_at(end)
}

fn moved(to: &str) -> Result<Response<Body>, Status> {
    let mut response = respond::text(StatusCode::MOVED_PERMANENTLY, "");
    let to = HeaderValue::from_str(to).map_err(Status::internal)?;
    response.headers_mut().insert(header::LOCATION, to);
    Ok(response)
}

fn number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|port| *port > 0)
}

/// The port that is asked for, else the first that a container names, else that of HTTP.
fn pod_port(pod: &Value, asked: &str) -> Result<u16, Status> {
    if !asked.is_empty() {
        return number(asked).ok_or_else(|| Status::bad_request(format!("invalid port {asked:?}")));
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
    Ok(ports.next().and_then(|port| u16::try_from(port).ok()).unwrap_or(80))
}

/// The name of the port that is asked for by name or number; the only one when none is.
fn service_port(service: &Value, asked: &str) -> Result<String, Status> {
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

/// One of a Service's ready pods, and its port.
async fn endpoint(
    request: &resource::Request<'_>,
    service: &Value,
    port: &str,
) -> Result<(Value, u16), Status> {
    let (namespace, name) = (meta::namespace(service), meta::name(service));
    let port = service_port(service, port)?;
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let endpoints = request.registry.get(&ENDPOINTS, namespace, name).await.map_err(|_| none())?;
    let (pod, number) = candidates(&endpoints, &port).choose(&mut rand::rng()).cloned().ok_or_else(none)?;
    let pod = request.registry.get(&PODS, namespace, &pod).await?;
    Ok((pod, number))
}

fn candidates(endpoints: &Value, port: &str) -> Vec<(String, u16)> {
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

fn outgoing(request: &resource::Request<'_>, path: &str, host: &str) -> Result<Request<Full<Bytes>>, Status> {
    let uri = &request.head.uri;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let to: Uri =
        format!("{path}{query}").parse().map_err(|e| Status::bad_request(format!("{path}: {e}")))?;
    let mut headers: HeaderMap = request.head.headers.clone();
    for name in OWN {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::HOST, HeaderValue::from_str(host).map_err(Status::internal)?);
    let mut outgoing = Request::new(Full::new(request.body.clone()));
    (*outgoing.method_mut(), *outgoing.uri_mut(), *outgoing.headers_mut()) =
        (request.method.clone(), to, headers);
    Ok(outgoing)
}

/// Asks over a stream.
async fn ask(
    request: &resource::Request<'_>,
    stream: Stream,
    outgoing: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Status> {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (why, broken) = tokio::sync::oneshot::channel();
    request.tasks.job("http/proxy", async move {
        // Nobody asks for it when the answer has come.
        let _ = why.send(carry(&stream, far).await);
    });
    let unreachable = |why: &str| Status::unavailable(format!("error trying to reach service: {why}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near))
        .await
        .map_err(|e| unreachable(&e.to_string()))?;
    request.tasks.job("http/proxy", async move {
        // How it ends is what the request says.
        let _ = connection.await;
    });
    match sender.send_request(outgoing).await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            drop(sender);
            let why = broken.await.ok().filter(|why| !why.is_empty());
            Err(unreachable(&why.unwrap_or_else(|| error.to_string())))
        }
    }
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
    fn names_may_have_a_scheme_and_a_port() {
        for (text, name, port) in [
            ("web", "web", ""),
            ("web:80", "web", "80"),
            ("http:web:http", "web", "http"),
            ("http:web:", "web", ""),
        ] {
            assert_eq!(Name::parse(text).unwrap(), Name { name, port });
        }
        assert_eq!(Name::parse("https:web:443").unwrap_err().code, 501);
        for wrong in ["", ":80", "ftp:web:21", "a:b:c:d"] {
            assert_eq!(Name::parse(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }

    #[test]
    fn what_is_below_is_handed_on_as_it_was_sent() {
        let web = "/api/v1/namespaces/d/pods/web:80/proxy";
        assert_eq!(below(&format!("{web}/a%2Fb//c")), (web, "/a%2Fb//c"));
        assert_eq!(below(web), (web, ""));
        let own = "/api/v1/namespaces/proxy/services/proxy/proxy";
        assert_eq!(below(&format!("{own}/proxy/")), (own, "/proxy/"));
    }

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
        let pod =
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 81}]}]}});
        assert_eq!((pod_port(&pod, "").unwrap(), pod_port(&pod, "82").unwrap()), (81, 82));
        assert!(pod_port(&pod, "http").is_err());
    }
}
