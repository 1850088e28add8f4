//! Requests against the whole server but for its sockets, over a real embedded store.

use async_trait::async_trait;
use http_body_util::Full;
use oarlock_api::node::stream_open::Request;
use oarlock_daemon::mux::{STDOUT, Stream};
use serde_json::Value;

use super::*;
use crate::auth::TokenFile;
use crate::registry::tests::{Fixture, fixture};

mod access;
mod aggregated;
mod apply;
mod certificates;
mod fuzz;
mod kinds;
mod lists;
mod nodes;
mod protobuf;
mod requests;
mod security;
mod tokens;
mod versions;
mod watches;

/// A node that serves streams in memory.
struct OneNode(oarlock_daemon::mux::Mux);

#[async_trait]
impl NodeStreams for OneNode {
    async fn open(&self, node: &str, request: Request) -> Result<Stream, Status> {
        assert_eq!(node, "n1");
        self.0.open(request).await.ok_or_else(|| Status::unavailable("the node is away"))
    }
}

/// Logs are one line that says what was asked for.
fn one_line(tasks: &Tasks) -> OneNode {
    let (mux, mut opened) = oarlock_daemon::mux::local(tasks);
    tasks.job("one-line", async move {
        while let Some((stream, open)) = opened.recv().await {
            if let Some(Request::Look(look)) = &open.request {
                let said = format!("{} {}", look.path, look.query);
                stream.sender().send(STDOUT, said.into()).await.unwrap();
                stream.finish(0, "").await;
                continue;
            }
            let Some(Request::Log(request)) = open.request else { continue };
            let line = format!("{} {}\n", request.container, request.tail_lines.unwrap_or(-1));
            stream.sender().send(STDOUT, line.into()).await.unwrap();
            stream.finish(0, "").await;
        }
    });
    OneNode(mux)
}

struct Api {
    server: Server,
    /// Whom the certificate names.
    user: Option<User>,
    fixture: Fixture,
}

struct Answer {
    code: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }

    fn content_type(&self) -> &str {
        self.headers["content-type"].to_str().unwrap()
    }
}

async fn api() -> Api {
    api_with(front_proxy().0, one_line).await
}

/// What we show to others, and the authority that vouches for it.
fn front_proxy() -> (oarlock_daemon::pki::CertifiedKey, String) {
    let folder = tempfile::tempdir().unwrap();
    let ca = oarlock_daemon::pki::Ca::load_or_create_as(folder.path(), "front-proxy-ca").unwrap();
    let identity =
        oarlock_daemon::pki::Identity { user: "front-proxy-client".to_owned(), groups: Vec::new() };
    (ca.issue_client(&identity).unwrap(), ca.certificate_pem().to_owned())
}

/// With a node that serves streams in its own way.
async fn api_with(front: oarlock_daemon::pki::CertifiedKey, nodes: impl FnOnce(&Tasks) -> OneNode) -> Api {
    let fixture = fixture().await;
    let (mut metrics, requests) = (oarlock_daemon::metrics::registry(), Requests::default());
    requests.register(&mut metrics);
    let tokens = Arc::new(crate::auth::tokens::tests::tokens());
    let file = TokenFile::parse("filed,joe,7,\"staff\"").unwrap();
    let registry = Arc::clone(&fixture.registry);
    let nodes: Arc<dyn NodeStreams> = Arc::new(nodes(&fixture.tasks));
    let server = Server {
        aggregator: Aggregator::new(
            Arc::clone(registry.cache()),
            Arc::clone(&nodes),
            front,
            fixture.tasks.clone(),
        ),
        authenticator: Arc::new(Authenticator::new(registry, tokens, file)),
        authorizer: Arc::new(Authorizer::new(Arc::clone(fixture.registry.cache()))),
        registry: Arc::clone(&fixture.registry),
        nodes,
        usage: Arc::default(),
        health: Health::default(),
        metrics: Arc::new(metrics),
        requests,
        address: "127.0.0.1:6443".to_owned(),
        elected: true,
        documents: Documents::default(),
    };
    let user = Some(User::known("admin", &["system:masters".to_owned()]));
    Api { server, user, fixture }
}

impl Api {
    async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Response<Body> {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).unwrap();
        self.server.answer(self.user.as_ref(), request, &self.fixture.tasks).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let response = self.open(method, path, headers, body.into()).await;
        let (head, body) = response.into_parts();
        let body = tokio::time::timeout(Duration::from_secs(20), body.collect()).await.unwrap().unwrap();
        Answer { code: head.status.as_u16(), headers: head.headers, body: body.to_bytes() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string()).await
    }

    async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        let content_type = format!("application/{kind}-patch+json");
        self.send("PATCH", path, &[("content-type", &content_type)], body.to_string()).await
    }

    async fn map(&self, namespace: &str, name: &str, labels: Value) {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let made = self.post(&path, json!({"metadata": {"name": name, "labels": labels}})).await;
        assert_eq!(made.code, 201, "{}", made.message());
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

const MAPS: &str = "/api/v1/namespaces/d/configmaps";
const PODS: &str = "/api/v1/namespaces/d/pods";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn requests_are_counted_by_what_is_served() {
    let api = api().await;
    api.get(MAPS).await;
    api.get(&format!("{MAPS}/none")).await;
    api.get("/apis/made.up/v1/things").await;
    let text = String::from_utf8(api.get("/metrics").await.body.into()).unwrap();
    let map = r#"group="",version="v1",resource="configmaps",subresource="""#;
    for line in [
        format!(r#"apiserver_request_total{{verb="LIST",{map},code="200"}} 1"#),
        format!(r#"apiserver_request_total{{verb="GET",{map},code="404"}} 1"#),
        r#"apiserver_request_total{verb="GET",group="",version="",resource="",subresource="",code="404"} 1"#
            .to_owned(),
        format!(r#"apiserver_request_duration_seconds_count{{verb="LIST",{map}}} 1"#),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("made.up"), "no label is a client's");
}

#[tokio::test]
async fn documents_are_served_and_everything_else_is_not_found() {
    let api = api().await;
    for path in [
        "/",
        "/api",
        "/apis",
        "/apis/apps",
        "/api/v1",
        "/apis/apps/v1",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/api/v1",
    ] {
        let answer = api.get(path).await;
        assert_eq!((answer.code, answer.content_type()), (200, "application/json"), "{path}");
        answer.json();
    }
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(api.get(path).await.body, "ok", "{path}");
    }
    let verbose = api.get("/readyz?verbose").await;
    assert!(verbose.body.ends_with(b"readyz check passed\n"), "{:?}", verbose.body);
    let unknown = api.get("/nothing").await;
    assert_eq!((unknown.code, &*unknown.body), (404, &b"404 page not found\n"[..]));
    let resource = api.get("/api/v1/namespaces/d/nothings").await;
    assert_eq!(
        (resource.code, resource.message().as_str()),
        (404, "the server could not find the requested resource")
    );
    assert_eq!(api.post("/version", json!({})).await.code, 405);
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = api.send("GET", "/apis", &[("accept", v2)], "").await;
    assert_eq!(
        (aggregated.content_type(), &aggregated.json()["kind"]),
        (v2, &json!("APIGroupDiscoveryList"))
    );
}

#[tokio::test]
async fn an_object_lives_through_every_verb() {
    let api = api().await;
    let one = format!("{MAPS}/m");
    let created = api.post(MAPS, json!({"metadata": {"name": "m"}, "data": {"a": "1"}})).await;
    assert_eq!((created.code, &created.json()["kind"]), (201, &json!("ConfigMap")));
    let again = api.post(MAPS, json!({"metadata": {"name": "m"}})).await;
    assert_eq!((again.code, again.message().as_str()), (409, "configmaps \"m\" already exists"));
    assert_eq!(api.get(&one).await.json(), created.json());
    for (kind, patch, data) in [
        ("merge", json!({"data": {"b": "2"}}), json!({"a": "1", "b": "2"})),
        ("json", json!([{"op": "remove", "path": "/data/a"}]), json!({"b": "2"})),
        ("strategic-merge", json!({"data": {"c": "3"}}), json!({"b": "2", "c": "3"})),
    ] {
        let patched = api.patch(&one, kind, patch).await;
        assert_eq!((patched.code, &patched.json()["data"]), (200, &data), "{kind}");
    }
    let stale = api.send("PUT", &one, &[], created.body.clone()).await;
    assert_eq!((stale.code, stale.json()["reason"].as_str()), (409, Some("Conflict")));
    let replaced = api
        .send("PUT", &one, &[("content-type", "application/yaml")], "metadata: {name: m}\ndata: {z: '1'}")
        .await;
    assert_eq!((replaced.code, &replaced.json()["data"]), (200, &json!({"z": "1"})));
    let gone = api.send("DELETE", &one, &[], "").await;
    assert_eq!(
        (gone.code, &gone.json()["status"], &gone.json()["details"]["kind"]),
        (200, &json!("Success"), &json!("configmaps"))
    );
    let missing = api.get(&one).await;
    assert_eq!((missing.code, missing.message().as_str()), (404, "configmaps \"m\" not found"));
}

#[tokio::test]
async fn a_dry_run_of_any_verb_changes_nothing() {
    let api = api().await;
    api.map("d", "m", json!({})).await;
    let one = format!("{MAPS}/m?dryRun=All");
    assert_eq!(api.post(&format!("{MAPS}?dryRun=All"), json!({"metadata": {"name": "n"}})).await.code, 201);
    assert_eq!(api.patch(&one, "merge", json!({"data": {"a": "1"}})).await.json()["data"]["a"], "1");
    assert_eq!(api.send("PUT", &one, &[], r#"{"metadata":{"name":"m"},"data":{"a":"1"}}"#).await.code, 200);
    assert_eq!(api.send("DELETE", &one, &[], "").await.code, 200);
    assert_eq!(api.send("DELETE", &format!("{MAPS}?dryRun=All"), &[], "").await.code, 200);
    let list = api.get(MAPS).await.json();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(list["items"][0].get("data").is_none());
}

#[tokio::test]
async fn what_cannot_be_read_or_answered_is_refused_before_anything_is_written() {
    let api = api().await;
    let body = r#"{"metadata":{"name":"m"}}"#;
    let html = api.send("POST", MAPS, &[("accept", "text/html")], body).await;
    assert_eq!(html.code, 406, "an answer that cannot be given");
    assert_eq!(api.send("POST", MAPS, &[("content-type", "text/html")], body).await.code, 415);
    assert_eq!(api.send("POST", MAPS, &[], "{").await.code, 400);
    assert_eq!(api.send("POST", MAPS, &[], vec![b' '; MAX_BODY + 1]).await.code, 413);
    assert_eq!(
        api.send("POST", MAPS, &[("content-type", "application/vnd.kubernetes.protobuf")], "junk").await.code,
        400
    );
    assert_eq!(api.patch(&format!("{MAPS}/m"), "apply", json!({})).await.code, 415);
    assert_eq!(api.post("/api/v1/configmaps", json!({"metadata": {"name": "m"}})).await.code, 405);
    assert_eq!(api.get(MAPS).await.json()["items"], json!([]));
}

#[tokio::test]
async fn unknown_fields_are_refused_warned_of_or_ignored_as_the_client_says() {
    let api = api().await;
    let post = |name: &str, how: &str| {
        let mut object = pod(name);
        object["spec"]["colour"] = json!("red");
        let path = format!("{PODS}?fieldValidation={how}");
        let api = &api;
        async move { api.post(&path, object).await }
    };
    let strict = post("a", "Strict").await;
    assert_eq!(strict.code, 400);
    assert!(
        strict.message().ends_with("strict decoding error: unknown field \"spec.colour\""),
        "{}",
        strict.message()
    );
    let warned = post("b", "Warn").await;
    assert_eq!(
        (warned.code, warned.headers["warning"].to_str().unwrap()),
        (201, "299 - \"unknown field \\\"spec.colour\\\"\"")
    );
    let ignored = post("c", "Ignore").await;
    assert!(ignored.code == 201 && !ignored.headers.contains_key("warning"));
    assert_eq!(post("e", "Loudly").await.code, 422);
}

#[tokio::test]
async fn a_nodes_dataplane_is_asked_through_the_nodes_own_session() {
    let api = api().await;
    let look = |path: &str| format!("/api/v1/nodes/n1/proxy/{path}");
    let asked = look("dataplane/trace?to=10.96.0.1%3A443&from=n");
    assert_eq!(api.get(&asked).await.code, 404, "there is no such node");
    assert_eq!(api.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.code, 201);
    let answer = api.get(&asked).await;
    assert_eq!((answer.code, answer.content_type()), (200, "application/json"));
    assert_eq!(&*answer.body, b"trace to=10.96.0.1%3A443&from=n");
    assert_eq!(api.get(&look("pods")).await.code, 404);
    assert_eq!(api.send("POST", &look("dataplane/trace"), &[], "").await.code, 405);
}

#[tokio::test]
async fn subresources_have_verbs_of_their_own() {
    let api = api().await;
    api.post(PODS, pod("p")).await;
    let one = |sub: &str| format!("{PODS}/p/{sub}");
    let status = api
        .patch(
            &one("status"),
            "strategic-merge",
            json!({"spec": {"nodeName": "x"}, "status": {"phase": "Running"}}),
        )
        .await
        .json();
    assert_eq!((&status["status"]["phase"], status["spec"].get("nodeName")), (&json!("Running"), None));
    let resized = api.patch(&one("resize"), "merge", json!({"spec": {}})).await;
    assert_eq!(
        (resized.code, resized.message().as_str()),
        (404, "the server could not find the requested resource")
    );
    let early = api.get(&one("log")).await;
    assert!(early.code == 400 || early.code == 200, "{}", early.message());
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(&one("binding"), binding.clone()).await.code, 201);
    assert_eq!(api.post(&one("binding"), binding).await.code, 409);
    let started = json!({"status": {"containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
    assert_eq!(api.patch(&one("status"), "merge", started).await.code, 200);
    let log = api.get(&one("log?tailLines=3")).await;
    assert_eq!((log.code, &*log.body), (200, &b"c 3\n"[..]));
    // As kubectl debug asks for it: nothing else of the pod changes by it.
    let added = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}});
    let patched = api.patch(&one("ephemeralcontainers"), "strategic-merge", added.clone()).await;
    assert_eq!(patched.code, 200, "{}", patched.message());
    let pod = patched.json();
    assert_eq!(
        pod["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File",
        "defaults are shown"
    );
    assert_eq!((pod["metadata"].get("labels"), &pod["metadata"]["generation"]), (None, &json!(2)));
    assert_eq!(api.get(&one("ephemeralcontainers")).await.json(), pod);
    let other = json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "j"}]}});
    let refused = api.patch(&one("ephemeralcontainers"), "strategic-merge", other).await;
    assert!(refused.code == 422 && refused.message().contains("may not be changed"), "{}", refused.message());
    let around = api
        .patch(
            &format!("{PODS}/p"),
            "strategic-merge",
            json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}}),
        )
        .await;
    assert_eq!(around.code, 422, "{}", around.message());
    assert_eq!(api.get(&one("log?container=d")).await.code, 400, "it has not started");
    assert_eq!(api.get(&one("scale")).await.code, 404);
    assert_eq!(api.get("/api/v1/nodes/none/status").await.code, 404);
}

#[tokio::test]
async fn names_in_paths_may_be_encoded() {
    let api = api().await;
    api.map("d", "m.n", json!({})).await;
    assert_eq!(api.get(&format!("{MAPS}/m%2En")).await.code, 200);
    assert_eq!(api.get(&format!("{MAPS}/%FF%FE")).await.code, 404);
}

#[tokio::test]
async fn evictions_of_both_versions_are_answered_as_upstream_answers_them() {
    let api = api().await;
    for (name, version) in [("a", "policy/v1"), ("b", "policy/v1beta1")] {
        assert_eq!(api.post(PODS, pod(name)).await.code, 201);
        let body =
            json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name, "namespace": "d"}});
        let done = api.post(&format!("{PODS}/{name}/eviction"), body).await;
        assert_eq!((done.code, &done.json()["status"]), (201, &json!("Success")), "{}", done.message());
        assert_eq!(api.get(&format!("{PODS}/{name}")).await.code, 404);
    }
    assert_eq!(api.post(PODS, pod("c")).await.code, 201);
    let wrong = api.post(&format!("{PODS}/c/eviction"), json!({"metadata": {"name": "d"}})).await;
    assert_eq!(
        (wrong.code, wrong.message().as_str()),
        (400, "name in URL does not match name in Eviction object")
    );
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "maxUnavailable": "120%",
        "unhealthyPodEvictionPolicy": "Never"}});
    let refused = api.post("/apis/policy/v1/namespaces/d/poddisruptionbudgets", budget).await;
    let causes = &refused.json()["details"]["causes"];
    let fields: Vec<&str> = causes.as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["spec", "spec.maxUnavailable", "spec.unhealthyPodEvictionPolicy"], "{causes}");
}

/// A node and a pod on it that runs, both of which say what they use.
async fn measured(api: &Api) {
    let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}});
    assert_eq!(api.post("/api/v1/nodes", node).await.code, 201);
    let mut web = pod("web");
    web["metadata"]["labels"] = json!({"app": "web"});
    let uid = api.post(PODS, web).await.json()["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(api.post(PODS, pod("silent")).await.code, 201);
    for name in ["web", "silent"] {
        let running = json!({"status": {"phase": "Running"}});
        assert_eq!(api.patch(&format!("{PODS}/{name}/status"), "merge", running).await.code, 200);
    }
    let report = crate::usage::tests::report(&[("web", &uid, Some(250)), ("silent", "of another", Some(9))]);
    api.server.usage.take("n1", report, jiff::Timestamp::now());
}

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

#[tokio::test]
async fn what_nodes_and_pods_use_is_served_as_metrics_server_serves_it() {
    let api = api().await;
    measured(&api).await;
    let nodes = api.get(&format!("{METRICS}/nodes?labelSelector=zone%3Da")).await.json();
    assert_eq!(
        (&nodes["kind"], &nodes["apiVersion"]),
        (&json!("NodeMetricsList"), &json!("metrics.k8s.io/v1beta1"))
    );
    assert_eq!(nodes["items"][0]["usage"], json!({"cpu": "1500000000n", "memory": "2Mi"}));
    assert_eq!(nodes["items"][0]["window"], "10.25s");
    assert_eq!(nodes["items"][0]["metadata"]["labels"], json!({"zone": "a"}));
    assert_eq!(api.get(&format!("{METRICS}/nodes?labelSelector=zone%3Db")).await.json()["items"], json!([]));

    let all = api.get(&format!("{METRICS}/pods")).await.json();
    let names: Vec<&Value> =
        all["items"].as_array().unwrap().iter().map(|p| &p["metadata"]["name"]).collect();
    assert_eq!(names, ["web"], "of silent only a pod of the same name has reported");
    let one = api.get(&format!("{METRICS}/namespaces/d/pods/web")).await.json();
    assert_eq!(one["containers"], json!([{"name": "c", "usage": {"cpu": "250000000n", "memory": "2Mi"}}]));
    for query in ["labelSelector=app%3Dother", "fieldSelector=metadata.name%3Dother"] {
        let none = api.get(&format!("{METRICS}/namespaces/d/pods?{query}")).await.json();
        assert_eq!(none["items"], json!([]), "{query}");
    }
    let missing = api.get(&format!("{METRICS}/namespaces/d/pods/silent")).await;
    let said = "podmetrics.metrics.k8s.io \"d/silent\" not found";
    assert_eq!((missing.code, missing.message().as_str()), (404, said));
    assert_eq!(
        api.get(&format!("{METRICS}/nodes/n2")).await.message(),
        "nodemetrics.metrics.k8s.io \"n2\" not found"
    );
    assert_eq!(api.post(&format!("{METRICS}/namespaces/d/pods"), pod("x")).await.code, 405);
    assert_eq!(api.get(&format!("{METRICS}/pods?watch=true")).await.code, 405);

    let table = api.send("GET", &format!("{METRICS}/pods"), &[("accept", TABLE)], "").await.json();
    let columns: Vec<&Value> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(columns, ["Name", "cpu", "memory", "Window"]);
    assert_eq!(table["rows"][0]["cells"], json!(["web", "250m", "2Mi", "10.25s"]));

    // A report that is old says nothing of now.
    let old = jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_secs(62)).unwrap();
    let uid = api.get(&format!("{PODS}/web")).await.json()["metadata"]["uid"].as_str().unwrap().to_owned();
    api.server.usage.take("n1", crate::usage::tests::report(&[("web", &uid, Some(1))]), old);
    for what in ["nodes", "pods"] {
        assert_eq!(api.get(&format!("{METRICS}/{what}")).await.json()["items"], json!([]), "{what}");
    }
}

#[tokio::test]
async fn the_group_of_metrics_is_discovered() {
    let api = api().await;
    let groups = api.get("/apis").await.json();
    let group =
        groups["groups"].as_array().unwrap().iter().find(|g| g["name"] == "metrics.k8s.io").unwrap().clone();
    assert_eq!(group["preferredVersion"]["groupVersion"], "metrics.k8s.io/v1beta1");
    let resources = api.get(METRICS).await.json()["resources"].clone();
    let kinds: Vec<&Value> = resources.as_array().unwrap().iter().map(|r| &r["kind"]).collect();
    assert_eq!(kinds, ["NodeMetrics", "PodMetrics"]);
    assert!(resources.as_array().unwrap().iter().all(|r| r["verbs"] == json!(["get", "list"])));
}

#[tokio::test]
async fn nodes_answer_as_kubelets_what_is_used_on_them() {
    let api = api().await;
    measured(&api).await;
    let summary = api.get("/api/v1/nodes/n1/proxy/stats/summary").await.json();
    assert_eq!(summary["node"]["cpu"]["usageNanoCores"], 1_500_000_000);
    assert_eq!(summary["node"]["fs"]["inodesUsed"], 2);
    let pod = &summary["pods"][0];
    assert_eq!((&pod["podRef"]["name"], &pod["network"]["txBytes"]), (&json!("web"), &json!(9)));
    assert_eq!(pod["containers"][0]["memory"]["workingSetBytes"], 2 << 20);
    let text = api.get("/api/v1/nodes/n1/proxy/metrics/resource").await;
    let text = String::from_utf8(text.body.into()).unwrap();
    for line in [
        "container_cpu_usage_seconds_total{container=\"c\",namespace=\"d\",pod=\"web\"} 5 1767225610500",
        "node_memory_working_set_bytes 2097152 1767225610500",
        "pod_memory_working_set_bytes{namespace=\"d\",pod=\"web\"} 2097152 1767225610500",
        "resource_scrape_error 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    assert_eq!(api.get("/api/v1/nodes/n2/proxy/stats/summary").await.code, 404);
    assert_eq!(api.post("/api/v1/nodes", json!({"metadata": {"name": "n2"}})).await.code, 201);
    assert_eq!(api.get("/api/v1/nodes/n2/proxy/stats/summary").await.code, 503);
}

#[tokio::test]
async fn an_autoscaler_of_old_is_shown_in_every_version() {
    let api = api().await;
    let of = |version: &str| format!("/apis/autoscaling/{version}/namespaces/d/horizontalpodautoscalers");
    let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
    let spec = json!({"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 10, "targetCPUUtilizationPercentage": 90});
    let made = api.post(&of("v1"), json!({"metadata": {"name": "web"}, "spec": spec})).await;
    assert_eq!((made.code, &made.json()["spec"]), (201, &spec), "{}", made.message());
    for version in ["v2", "v2beta2"] {
        let shown = api.get(&format!("{}/web", of(version))).await.json();
        let target = json!({"type": "Utilization", "averageUtilization": 90});
        assert_eq!(shown["apiVersion"], format!("autoscaling/{version}"));
        assert_eq!(
            shown["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
        );
    }
    let table = api.send("GET", &of("v2"), &[("accept", TABLE)], "").await.json();
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[..6], ["web", "Deployment/web", "cpu: <unknown>/90%", "1", "10", "0"].map(|s| json!(s)));
    let plain = api
        .post(
            &of("v1"),
            json!({"metadata": {"name": "b"}, "spec": {"scaleTargetRef": reference, "maxReplicas": 2}}),
        )
        .await;
    assert_eq!(plain.json()["spec"]["targetCPUUtilizationPercentage"], 80, "nothing said means this");
    let wrong = api.post(&of("v2"), json!({"metadata": {"name": "c"}, "spec": {"maxReplicas": 0}})).await;
    assert_eq!(wrong.code, 422, "{}", wrong.message());
}
