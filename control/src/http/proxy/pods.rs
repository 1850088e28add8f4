//! `pods/proxy` and `services/proxy`: a request handed on to a port of a pod, through the agent of its node.
//!
//! In: any method, path and body below `.../proxy`. Out: the pod's own answer. A Service's request goes to one of its ready
//! endpoints that is a pod; HTTPS towards pods is not spoken.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use oarlock_api::catalogue::{ENDPOINTS, Kind, PODS, SERVICES};
use oarlock_api::meta;
use oarlock_api::status::Status;
use rand::seq::IndexedRandom as _;
use serde_json::Value;

use crate::dial::{Connection, candidates, number, service_port};
use crate::http::resource;
use crate::http::respond::{self, Body};

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
    let host = format!("{}:{port}", pod["status"]["podIP"].as_str().unwrap_or(name));
    let outgoing = outgoing(request, path, &host)?;
    let connection = Connection::open(request.nodes, request.tasks, &pod, port).await?;
    let mut answer = ask(request, connection, outgoing).await?;
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

/// The port that is asked for, else the first that a container names, else that of HTTP.
fn pod_port(pod: &Value, asked: &str) -> Result<u16, Status> {
    if !asked.is_empty() {
        return number(asked).ok_or_else(|| Status::bad_request(format!("invalid port {asked:?}")));
    }
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.filter_map(|container| container["ports"][0]["containerPort"].as_u64());
    Ok(ports.next().and_then(|port| u16::try_from(port).ok()).unwrap_or(80))
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

/// Asks over a connection.
async fn ask(
    request: &resource::Request<'_>,
    connection: Connection,
    outgoing: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Status> {
    let (io, ending) = connection.split();
    let unreachable = |why: &str| Status::unavailable(format!("error trying to reach service: {why}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
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
            Err(unreachable(&ending.why(error).await))
        }
    }
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
    fn a_pods_port_is_the_one_that_is_asked_for_or_named_first() {
        let pod =
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 81}]}]}});
        assert_eq!((pod_port(&pod, "").unwrap(), pod_port(&pod, "82").unwrap()), (81, 82));
        assert!(pod_port(&pod, "http").is_err());
    }
}
