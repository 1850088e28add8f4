//! APIs that a pod answers: over TLS, through the node's own streams.

use hyper::service::service_fn;
use oarlock_daemon::mux::{Piece, STDIN};
use oarlock_daemon::pki::{self, Ca};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const API_SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const METRICS: &str = "/apis/custom.metrics.k8s.io/v1beta2";
const NAME: &str = "v1beta2.custom.metrics.k8s.io";

/// A node with one pod that answers over TLS and insists on knowing who asks.
fn tls_pod(own: oarlock_daemon::pki::CertifiedKey, front_ca: String) -> impl FnOnce(&Tasks) -> OneNode {
    move |tasks| {
        let (mux, mut opened) = oarlock_daemon::mux::local(tasks);
        let tls = TlsAcceptor::from(pki::server_config(&own, &front_ca, &[b"http/1.1"]).unwrap());
        let spawner = tasks.clone();
        tasks.job("tls-pod", async move {
            while let Some((stream, open)) = opened.recv().await {
                let Some(Request::Dial(dial)) = open.request else { continue };
                assert_eq!((dial.pod.as_str(), dial.port), ("adapter", 6443));
                stream.receive().await.unwrap();
                let (near, far) = tokio::io::duplex(64 * 1024);
                spawner.job("tls-pod/bytes", bytes_of(stream, far));
                let (tls, tasks) = (tls.clone(), spawner.clone());
                spawner.job("tls-pod/connection", async move {
                    let Ok(io) = tls.accept(near).await else { return };
                    let front = io.get_ref().1.peer_certificates().and_then(|c| pki::peer_identity(&c[0]));
                    assert_eq!(front.unwrap().user, "front-proxy-client");
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(io), service_fn(|request| answer(request, &tasks)))
                        .with_upgrades();
                    let _ = served.await;
                });
            }
        });
        OneNode(mux)
    }
}

async fn bytes_of(stream: Stream, io: tokio::io::DuplexStream) {
    let (mut from, mut to) = tokio::io::split(io);
    let sender = stream.sender();
    let up = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            sender.send(STDOUT, Bytes::copy_from_slice(&buffer[..count])).await;
        }
    };
    let down = async {
        while let Some(Piece::Data(_, bytes)) = stream.read(&[STDIN]).await {
            to.write_all(&bytes).await.unwrap();
        }
    };
    tokio::join!(up, down);
}

/// Says who asked for what, or serves what every API server serves.
async fn answer(
    mut request: http::Request<Incoming>,
    tasks: &Tasks,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let said = match path.as_str() {
        METRICS => json!({"kind": "APIResourceList", "resources": [
            {"name": "pods/rate", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]}]}),
        "/openapi/v3" => json!({"paths": {"apis/custom.metrics.k8s.io/v1beta2":
            {"serverRelativeURL": "/openapi/v3/apis/custom.metrics.k8s.io/v1beta2?hash=H"}}}),
        path if path.ends_with("/pods/*/rate?labelSelector=app%3Dweb") => {
            let who = request.headers()["x-remote-user"].to_str().unwrap().to_owned();
            json!({"items": [{"describedObject": {"name": who}, "value": "1500m", "timestamp": "2026-01-01T00:00:00Z"}]})
        }
        path if path.ends_with("/broken") => {
            let status = json!({"kind": "Status", "message": "the backend of metrics is away"});
            let broken =
                Response::builder().status(500).body(Full::new(Bytes::from(status.to_string())).boxed());
            return Ok(broken.unwrap());
        }
        path if path.ends_with("moved") => {
            let moved = Response::builder().status(302).header("location", "https://elsewhere.example.com/");
            return Ok(moved.body(Full::new(Bytes::new()).boxed()).unwrap());
        }
        path if path.ends_with("upgrade") => {
            let upgraded = hyper::upgrade::on(&mut request);
            tasks.job("tls-pod/upgraded", async move {
                let mut io = TokioIo::new(upgraded.await.unwrap());
                let mut word = [0; 4];
                io.read_exact(&mut word).await.unwrap();
                io.write_all(&word).await.unwrap();
            });
            let switching = Response::builder().status(101).header("connection", "Upgrade");
            let switching = switching.header("upgrade", request.headers()["upgrade"].clone());
            return Ok(switching.body(Full::new(Bytes::new()).boxed()).unwrap());
        }
        _ => {
            let method = request.method().to_string();
            let headers: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
                .collect();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            json!({"path": path, "method": method, "headers": headers, "body": String::from_utf8_lossy(&body)})
        }
    };
    let made = Response::builder().header("content-type", "application/json").header("keep-alive", "5");
    Ok(made.body(Full::new(Bytes::from(said.to_string())).boxed()).unwrap())
}

/// A cluster with an adapter that is ready, and an APIService that names it.
async fn with_adapter(change: impl FnOnce(&mut Value, &Ca)) -> Api {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::load_or_create(folder.path()).unwrap();
    let own = ca.issue_server("adapter", &["adapter.d.svc".to_owned()]).unwrap();
    let (front, front_ca) = front_proxy();
    let api = api_with(front, tls_pod(own, front_ca)).await;
    let mut object = json!({"metadata": {"name": NAME}, "spec": {"group": "custom.metrics.k8s.io", "version": "v1beta2",
        "groupPriorityMinimum": 100, "versionPriority": 200, "service": {"namespace": "d", "name": "adapter"}}});
    use base64::Engine as _;
    object["spec"]["caBundle"] =
        json!(base64::engine::general_purpose::STANDARD.encode(ca.certificate_pem()));
    change(&mut object, &ca);
    let made = api.post(API_SERVICES, object).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let mut adapter = pod("adapter");
    adapter["spec"]["nodeName"] = json!("n1");
    let ports = json!([{"name": "https", "port": 6443}]);
    for (path, object) in [
        (PODS, adapter),
        (
            "/api/v1/namespaces/d/services",
            json!({"metadata": {"name": "adapter"}, "spec": {"ports": [{"name": "https", "port": 443}]}}),
        ),
        (
            "/api/v1/namespaces/d/endpoints",
            json!({"metadata": {"name": "adapter"}, "subsets": [{"ports": ports,
            "addresses": [{"ip": "10.0.0.1", "targetRef": {"kind": "Pod", "name": "adapter"}}]}]}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/d/endpointslices",
            json!({"metadata": {"name": "adapter",
            "labels": {"kubernetes.io/service-name": "adapter"}}, "addressType": "IPv4", "ports": ports,
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]}),
        ),
    ] {
        let made = api.post(path, object).await;
        assert_eq!(made.code, 201, "{path}: {}", made.message());
    }
    let (checking, registry) = (Arc::clone(&api.server.aggregator), Arc::clone(&api.fixture.registry));
    let stop = api.fixture.tasks.token();
    api.fixture.tasks.job("checks", async move { checking.check(&registry, &stop).await });
    api
}

/// Waits until the condition says so, and returns what it says.
async fn available(api: &Api, status: &str) -> Value {
    for _ in 0..200 {
        let found = api.get(&format!("{API_SERVICES}/{NAME}")).await.json();
        let condition = found["status"]["conditions"][0].clone();
        if condition["status"] == status {
            return condition;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{NAME} does not become {status}: {}", api.get(&format!("{API_SERVICES}/{NAME}")).await.json());
}

#[tokio::test]
async fn a_request_is_handed_on_in_the_name_of_who_asks() {
    let mut api = with_adapter(|_, _| {}).await;
    assert_eq!(available(&api, "True").await["reason"], "Passed");
    let mut jane = User::known("jane", &["staff".to_owned()]);
    jane.extra.insert("example.com/Scopes".to_owned(), vec!["view".to_owned()]);
    let admin = api.user.replace(jane);
    let path = format!("{METRICS}/namespaces/d/pods/%2A/rate?labelSelector=app%3Dweb");
    let refused = api.get(&path).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "pods.custom.metrics.k8s.io \"*\" is forbidden: User \"jane\" cannot get resource \"pods/rate\" in API group \
          \"custom.metrics.k8s.io\" in the namespace \"d\""
        )
    );
    api.user = admin;
    let rules = json!([{"apiGroups": ["custom.metrics.k8s.io"], "resources": ["*"], "verbs": ["*"]}]);
    api.post(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        json!({"metadata": {"name": "m"}, "rules": rules}),
    )
    .await;
    let binding = json!({"metadata": {"name": "m"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "m"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    // The master acts as jane, and says what a client may not say.
    let headers = [
        ("impersonate-user", "jane"),
        ("impersonate-extra-example.com%2fscopes", "view"),
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
        ("authorization", "Bearer secret"),
        ("connection", "x-own"),
        ("x-own", "1"),
        ("accept", "application/json"),
    ];
    let answer = api.send("PATCH", &path, &headers, "a body").await;
    assert_eq!((answer.code, answer.headers.get("keep-alive")), (200, None), "{:?}", answer.body);
    let said = answer.json();
    assert_eq!(
        (&said["path"], &said["method"], &said["body"]),
        (&json!(path), &json!("PATCH"), &json!("a body"))
    );
    let mut told: Vec<&str> =
        said["headers"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "accept: application/json",
            "content-length: 6",
            "host: adapter.d.svc:443",
            "x-remote-extra-example.com%2fscopes: view",
            "x-remote-group: system:authenticated",
            "x-remote-user: jane",
        ]
    );
    assert_eq!(
        api.get(&format!("{METRICS}/namespaces/d/things/t/connect/on/and/on")).await.json()["method"],
        "GET"
    );
    let moved = api.get(&format!("{METRICS}/moved")).await;
    assert_eq!(moved.code, 502, "{:?}", moved.body);
}

#[tokio::test]
async fn discovery_shows_what_others_serve() {
    let api = with_adapter(|_, _| {}).await;
    available(&api, "True").await;
    let groups = api.get("/apis").await.json();
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!(&names[..3], ["apiregistration.k8s.io", "apps", "events.k8s.io"]);
    assert!(names.contains(&"custom.metrics.k8s.io"), "{names:?}");
    let group = api.get("/apis/custom.metrics.k8s.io").await.json();
    assert_eq!(group["preferredVersion"]["groupVersion"], "custom.metrics.k8s.io/v1beta2");
    assert_eq!(api.get(METRICS).await.json()["resources"][0]["name"], "pods/rate");
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let found = |all: &Value| {
        let items = all["items"].as_array().unwrap().iter();
        items.clone().find(|g| g["metadata"]["name"] == "custom.metrics.k8s.io").unwrap()["versions"][0]
            .clone()
    };
    let version = found(&api.send("GET", "/apis", &[("accept", v2)], "").await.json());
    assert_eq!(
        (&version["freshness"], &version["resources"][0]["subresources"][0]["subresource"]),
        (&json!("Current"), &json!("rate"))
    );
    let index = api.get("/openapi/v3").await.json();
    let address = &index["paths"]["apis/custom.metrics.k8s.io/v1beta2"]["serverRelativeURL"];
    assert_eq!(address, "/openapi/v3/apis/custom.metrics.k8s.io/v1beta2?hash=H");
    assert_eq!(api.get(address.as_str().unwrap()).await.json()["path"], *address);
    assert!(index["paths"]["apis/apps/v1"].is_object());
    let table = api.send("GET", API_SERVICES, &[("accept", TABLE)], "").await.json();
    assert_eq!(table["rows"][0]["cells"][1], "d/adapter");
    assert_eq!(api.send("DELETE", &format!("{API_SERVICES}/{NAME}"), &[], "").await.code, 200);
    api.fixture.registry.catch_up().await.unwrap();
    assert_eq!(api.get(&format!("{METRICS}/namespaces/d/pods/p/rate")).await.code, 404);
    assert_eq!(api.get("/apis/custom.metrics.k8s.io").await.code, 404);
}

#[tokio::test]
async fn who_is_not_there_or_not_who_they_should_be_is_not_asked() {
    let strange = |object: &mut Value, _: &Ca| {
        let folder = tempfile::tempdir().unwrap();
        let other = Ca::load_or_create(folder.path()).unwrap();
        use base64::Engine as _;
        object["spec"]["caBundle"] =
            json!(base64::engine::general_purpose::STANDARD.encode(other.certificate_pem()));
    };
    let api = with_adapter(strange).await;
    let condition = available(&api, "False").await;
    let message = condition["message"].as_str().unwrap();
    assert_eq!(condition["reason"], "FailedDiscoveryCheck");
    let url = "https://adapter.d.svc:443/apis/custom.metrics.k8s.io/v1beta2";
    assert!(message.starts_with(&format!("failing or missing response from {url}: ")), "{message}");
    assert!(message.contains("invalid peer certificate"), "{message}");
    let answer = api.get(&format!("{METRICS}/namespaces/d/pods/p/rate")).await;
    assert_eq!((answer.code, &*answer.body), (503, &b"service unavailable\n"[..]));
    // Who does not mind whom they talk to says so.
    let trusting = json!({"spec": {"caBundle": null, "insecureSkipTLSVerify": true}});
    assert_eq!(api.patch(&format!("{API_SERVICES}/{NAME}"), "merge", trusting).await.code, 200);
    available(&api, "True").await;
    assert_eq!(api.get(&format!("{METRICS}/namespaces/d/pods/p/rate")).await.code, 200);
    assert_eq!(api.send("DELETE", "/api/v1/namespaces/d/services/adapter", &[], "").await.code, 200);
    let condition = available(&api, "False").await;
    assert_eq!(condition["message"], "service/adapter in \"d\" is not present");
    // Who answers here is there at once.
    let local = json!({"spec": {"service": null, "insecureSkipTLSVerify": false}});
    assert_eq!(api.patch(&format!("{API_SERVICES}/{NAME}"), "merge", local).await.code, 200);
    assert_eq!(available(&api, "True").await["reason"], "Local");
}

#[tokio::test]
async fn autoscalers_ask_in_the_name_of_their_controller() {
    use oarlock_planner::{MetricsApi, Query};
    let api = with_adapter(|_, _| {}).await;
    available(&api, "True").await;
    let query = |api: MetricsApi, path: &[&str], selector: &str| Query {
        api,
        path: path.iter().map(|&segment| segment.to_owned()).collect(),
        parameters: vec![("labelSelector", selector.to_owned())],
        about: "x".to_owned(),
    };
    let queries = vec![
        query(MetricsApi::Custom, &["namespaces", "d", "pods", "*", "rate"], "app=web"),
        query(MetricsApi::Custom, &["namespaces", "d", "broken"], ""),
        query(MetricsApi::Custom, &["moved"], ""),
        query(MetricsApi::External, &["namespaces", "d", "depth"], ""),
    ];
    let answers = api.server.aggregator.measure(queries.clone()).await;
    assert!(answers.iter().map(|(query, _)| query).eq(&queries), "in the order in which they were asked");
    let sample = &answers[0].1.as_ref().unwrap()[0];
    let controller = "system:serviceaccount:kube-system:horizontal-pod-autoscaler";
    assert_eq!((sample.object.as_str(), sample.value), (controller, 1500));
    let why = |index: usize| answers[index].1.as_ref().unwrap_err().as_str();
    assert_eq!(why(1), "the backend of metrics is away");
    assert_eq!(
        why(2),
        "the server responded with the status code 302 but did not return more information (get x)"
    );
    assert_eq!(why(3), "no external metrics API (external.metrics.k8s.io) registered");
}

#[tokio::test]
async fn both_sides_go_over_to_another_protocol() {
    let api = with_adapter(|_, _| {}).await;
    available(&api, "True").await;
    let Api { server, user, fixture } = api;
    let (near, far) = tokio::io::duplex(4096);
    let (server, tasks) = (Arc::new(server), fixture.tasks.clone());
    fixture.tasks.job("client", async move {
        let service = service_fn(|request: http::Request<Incoming>| {
            let (server, user, tasks) = (Arc::clone(&server), user.clone(), tasks.clone());
            async move { Ok::<_, Infallible>(server.answer(user.as_ref(), request, &tasks).await) }
        });
        let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
        let _ = served.with_upgrades().await;
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
    fixture.tasks.job("connection", async move { drop(connection.with_upgrades().await) });
    let request = http::Request::get(format!("{METRICS}/namespaces/d/things/t/upgrade"))
        .header("host", "here")
        .header("connection", "Upgrade")
        .header("upgrade", "echo/1");
    let mut answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["upgrade"].to_str().unwrap()), (101, "echo/1"));
    let mut io = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
    io.write_all(b"echo").await.unwrap();
    let mut word = [0; 4];
    io.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"echo");
}
