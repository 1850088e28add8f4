//! Feeds of an API server that is not as it should be: old, forgetful, broken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use oarlock_daemon::Tasks;
use oarlock_daemon::plain_http::{self, Answer};
use serde_json::{Value, json};

use super::*;

/// A server that answers by path and the number of the request.
struct Server {
    tasks: Tasks,
    shared: Shared,
    _clients: watch::Sender<Client>,
}

impl Server {
    async fn start(answer: impl Fn(&str, usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tasks = Tasks::new();
        let asked = AtomicUsize::new(0);
        let respond = move |_: &Method, uri: &Uri| -> Answer {
            let (status, body) = answer(&uri.to_string(), asked.fetch_add(1, Ordering::Relaxed));
            plain_http::typed(StatusCode::from_u16(status).unwrap(), "application/json", body)
        };
        let serve = plain_http::serve(tasks.clone(), tasks.token(), listener, respond);
        tasks.spawn("server", serve);
        let client = Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        let (sender, clients) = watch::channel(client);
        let (desired, metrics, token) = (Arc::default(), Metrics::default(), tasks.token());
        Self { shared: Shared { desired, clients, metrics, token }, tasks, _clients: sender }
    }

    fn counted(&self, resource: &'static str, event: &'static str) -> u64 {
        self.shared.metrics.get_or_create(&Happened { resource, event }).get()
    }

    /// Waits until it is so.
    async fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect(what);
    }

    async fn end(self) {
        self.tasks.shut_down();
        self.tasks.finish(Duration::from_secs(5)).await.unwrap();
    }
}

fn refusal(code: u16, reason: &str) -> (u16, String) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    (code, status.to_string())
}

fn list(kind: &str, version: &str, items: &[Value]) -> (u16, String) {
    let list = json!({"kind": format!("{kind}List"), "apiVersion": version,
        "metadata": {"resourceVersion": "5"}, "items": items});
    (200, list.to_string())
}

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "d", "resourceVersion": "4"},
        "spec": {"clusterIP": "10.0.0.1", "aFieldOfTomorrow": {"odd": [1]}}})
}

fn names(shared: &Shared) -> Vec<String> {
    shared.desired.snapshot().0.services.keys().map(|(_, name)| name.clone()).collect()
}

#[tokio::test]
async fn a_server_without_v1_of_slices_is_asked_for_v1beta1() {
    let slice = json!({"apiVersion": "discovery.k8s.io/v1beta1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "d", "resourceVersion": "4"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "topology": {"kubernetes.io/hostname": "n1"}}]});
    let server = Server::start(move |path, _| {
        if path.starts_with("/apis/discovery.k8s.io/v1/") {
            return refusal(404, "NotFound");
        }
        assert!(path.contains("/v1beta1/endpointslices") && path.contains("service-proxy-name"), "{path}");
        match path.contains("watch=true") {
            true => (200, String::new()),
            false => list("EndpointSlice", "discovery.k8s.io/v1beta1", std::slice::from_ref(&slice)),
        }
    })
    .await;
    server.tasks.spawn("feed", endpoint_slices(server.shared.clone()));
    server.until("a list", |server| server.counted("endpointslices", "list") > 0).await;
    let (snapshot, _) = server.shared.desired.snapshot();
    let slice = &snapshot.endpoint_slices[&("d".to_owned(), "web-1".to_owned())];
    assert_eq!(slice.endpoints[0].node_name.as_deref(), Some("n1"));
    server.end().await;
}

/// Both ways of saying that a revision is forgotten: as an event of the watch, and as the answer to it.
#[tokio::test]
async fn a_server_that_has_forgotten_where_one_was_is_asked_for_everything_anew() {
    let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}});
    let server = Server::start(move |path, asked| match (path.contains("watch=true"), asked) {
        (false, 0) => list("Service", "v1", &[service("a"), service("b")]),
        (false, 1..=2) => list("Service", "v1", &[service("b")]),
        (false, _) => list("Service", "v1", &[service("c")]),
        (true, 1) => (200, format!("{gone}\n")),
        (true, _) => refusal(410, "Expired"),
    })
    .await;
    server.tasks.spawn("feed", services(server.shared.clone()));
    server.until("a third list", |server| names(&server.shared) == ["c"]).await;
    assert!(server.counted("services", "list") >= 3 && server.counted("services", "expired") >= 1);
    server.end().await;
}

#[tokio::test]
async fn what_is_known_stands_while_the_server_talks_nonsense() {
    let server = Server::start(|path, asked| match (path.contains("watch=true"), asked) {
        (false, 0) => refusal(500, "InternalError"),
        (false, _) => list("Service", "v1", &[service("a")]),
        (true, 2) => (200, "{\"type\": \"what\"\n<html>".to_owned()),
        (true, 3..=4) => refusal(403, "Forbidden"),
        (true, _) if asked < 7 => {
            let event = json!({"type": "ADDED", "object": service("z")});
            (200, format!("{event}\n"))
        }
        (true, _) => (200, String::new()),
    })
    .await;
    server.tasks.spawn("feed", services(server.shared.clone()));
    server.until("the list", |server| !names(&server.shared).is_empty()).await;
    server.until("the event", |server| names(&server.shared).contains(&"z".to_owned())).await;
    assert_eq!(names(&server.shared), ["a", "z"]);
    assert!(server.counted("services", "failure") >= 3);
    server.end().await;
}
