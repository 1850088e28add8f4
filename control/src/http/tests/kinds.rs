//! Kinds that are little more than their rows.

use super::*;

#[tokio::test]
async fn components_are_asked_and_not_stored() {
    let api = api().await;
    let list = api.get("/api/v1/componentstatuses").await;
    assert_eq!((list.code, &list.json()["kind"]), (200, &json!("ComponentStatusList")));
    assert!(list.headers["warning"].to_str().unwrap().contains("deprecated in v1.19+"));
    let names: Vec<Value> = list.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let store = api.get("/api/v1/componentstatuses/etcd-0").await.json();
    assert_eq!(store["conditions"][0], json!({"type": "Healthy", "status": "True", "message": "ok"}));
    let scheduler = api.get("/api/v1/componentstatuses/scheduler").await.json();
    assert_eq!(scheduler["conditions"][0]["message"], "no control plane leads", "none does in this test");
    let table = api.send("GET", "/api/v1/componentstatuses", &[("accept", TABLE)], "").await.json();
    assert_eq!(
        (table["rows"].as_array().unwrap().len(), &table["rows"][1]["cells"][1]),
        (3, &json!("Healthy"))
    );
    let one = api.get("/api/v1/componentstatuses?fieldSelector=metadata.name%3Detcd-0").await.json();
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    for (method, path, code) in [
        ("GET", "/api/v1/componentstatuses/none", 404),
        ("POST", "/api/v1/componentstatuses", 405),
        ("DELETE", "/api/v1/componentstatuses/etcd-0", 405),
        ("GET", "/api/v1/componentstatuses?watch=1", 405),
    ] {
        assert_eq!(api.send(method, path, &[], "").await.code, code, "{method} {path}");
    }
}

#[tokio::test]
async fn an_ingress_without_a_class_gets_the_default_one() {
    let api = api().await;
    let ingress =
        |name: &str| json!({"metadata": {"name": name}, "spec": {"rules": [{"host": "example.com"}]}});
    let path = "/apis/networking.k8s.io/v1/namespaces/d/ingresses";
    let none = api.post(path, ingress("none")).await.json();
    assert!(none["spec"].get("ingressClassName").is_none());
    for (name, default) in [("a", "false"), ("b", "true")] {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default});
        let class = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"controller": "example.com/c"}});
        let made = api.post("/apis/networking.k8s.io/v1/ingressclasses", class).await;
        assert_eq!((made.code, &made.json()["metadata"]["generation"]), (201, &json!(1)));
    }
    api.fixture.registry.catch_up().await.unwrap();
    assert_eq!(api.post(path, ingress("one")).await.json()["spec"]["ingressClassName"], "b");
    let mut old = ingress("old");
    old["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "a"});
    assert!(api.post(path, old).await.json()["spec"].get("ingressClassName").is_none());
}

#[tokio::test]
async fn a_templates_generation_counts_its_changes() {
    let api = api().await;
    let path = "/api/v1/namespaces/d/podtemplates";
    let template = json!({"metadata": {"name": "t"}, "template": {"spec": pod("p")["spec"].clone()}});
    let made = api.post(path, template).await.json();
    assert_eq!(
        (&made["metadata"]["generation"], &made["template"]["spec"]["restartPolicy"]),
        (&json!(1), &json!("Always"))
    );
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let same = api.patch(&format!("{path}/t"), "merge", labels).await.json();
    assert_eq!(same["metadata"]["generation"], 1);
    let image = json!({"template": {"spec": {"containers": [{"name": "c", "image": "other"}]}}});
    let changed = api.patch(&format!("{path}/t"), "strategic-merge", image).await.json();
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn documents_are_sent_once_to_who_keeps_them() {
    let api = api().await;
    for path in ["/api", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3", "/openapi/v3/apis/apps/v1"] {
        let first = api.get(path).await;
        let tag = first.headers["etag"].to_str().unwrap();
        assert_eq!(
            (first.code, &first.headers["vary"]),
            (200, &"Accept".parse::<HeaderValue>().unwrap()),
            "{path}"
        );
        let again = api.send("GET", path, &[("if-none-match", tag)], "").await;
        assert_eq!(
            (again.code, again.body.len(), &again.headers["etag"]),
            (304, 0, &first.headers["etag"]),
            "{path}"
        );
        let other = api.send("GET", path, &[("if-none-match", "\"00\"")], "").await;
        assert_eq!((other.code, &other.body), (200, &first.body), "{path}");
    }
    let paths = api.get("/").await.json();
    for path in ["/apis/batch", "/apis/batch/v1beta1", "/openapi/v3"] {
        assert!(paths["paths"].as_array().unwrap().contains(&json!(path)), "{path}");
    }
}

#[tokio::test]
async fn a_document_is_asked_for_by_its_hash_once() {
    let api = api().await;
    let index = api.get("/openapi/v3").await.json();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let found = api.get(&url).await;
    assert_eq!(
        (found.code, &found.headers["cache-control"]),
        (200, &HeaderValue::from_static("public, immutable"))
    );
    assert!(
        found.headers["expires"].to_str().unwrap().ends_with(" GMT") && found.headers.contains_key("etag")
    );
    let plain = api.get("/openapi/v3/apis/apps/v1").await;
    assert_eq!(
        (&plain.body, &plain.headers["cache-control"]),
        (&found.body, &HeaderValue::from_static("no-cache, private"))
    );
    let old = api.get("/openapi/v3/apis/apps/v1?hash=00").await;
    assert_eq!((old.code, &old.headers["location"]), (301, &HeaderValue::from_str(&url).unwrap()));
    assert_eq!(api.get("/openapi/v3/apis/apps/v9?hash=00").await.code, 404);
    // That of the core group is large enough to be packed.
    let url = "/openapi/v3/api/v1";
    let found = api.get(url).await;
    assert!(found.headers.get("content-encoding").is_none());
    let packed = api.send("GET", url, &[("accept-encoding", "gzip")], "").await;
    assert_eq!((packed.code, &packed.headers["content-encoding"]), (200, &HeaderValue::from_static("gzip")));
    assert!(packed.body.len() < found.body.len() / 4, "{} of {}", packed.body.len(), found.body.len());
    let kept = [("accept-encoding", "gzip"), ("if-none-match", packed.headers["etag"].to_str().unwrap())];
    assert_eq!(api.send("GET", url, &kept, "").await.code, 304);
}

#[tokio::test]
async fn a_patch_that_says_something_twice_is_refused_or_warned_of() {
    let api = api().await;
    api.map("d", "m", json!({})).await;
    let twice = r#"{"data":{"a":"1","a":"2"}}"#;
    let merge = [("content-type", "application/merge-patch+json")];
    let strict = api.send("PATCH", &format!("{MAPS}/m?fieldValidation=Strict"), &merge, twice).await;
    assert_eq!(
        (strict.code, strict.message().as_str()),
        (
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"data.a\""
        )
    );
    let warned = api.send("PATCH", &format!("{MAPS}/m"), &merge, twice).await;
    assert_eq!((warned.code, &warned.json()["data"]["a"]), (200, &json!("2")));
    assert!(warned.headers["warning"].to_str().unwrap().contains("duplicate field"), "{:?}", warned.headers);
    let ignored = api.send("PATCH", &format!("{MAPS}/m?fieldValidation=Ignore"), &merge, twice).await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (200, None));
}

#[tokio::test]
async fn a_page_takes_its_version_from_its_token_alone() {
    let api = api().await;
    for name in ["a", "b"] {
        api.map("d", name, json!({})).await;
    }
    let first = api.get(&format!("{MAPS}?limit=1")).await.json();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let both = api.get(&format!("{MAPS}?limit=1&resourceVersion=5&continue={token}")).await;
    assert_eq!(
        (both.code, both.message().as_str()),
        (400, "specifying resource version is not allowed when using continue")
    );
    let jobs = api.get("/apis/batch/v1/jobs?fieldSelector=status.successful%3D1").await;
    assert_eq!((jobs.code, jobs.json()["items"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test]
async fn a_binding_puts_a_pod_on_a_node() {
    let api = api().await;
    let (pods, bindings) = ("/api/v1/namespaces/d/pods", "/api/v1/namespaces/d/bindings");
    for name in ["a", "b", "c"] {
        let pod = json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(api.post(pods, pod).await.code, 201);
    }
    let binding = |name: &str, kind: &str, node: &str| json!({"metadata": {"name": name}, "target": {"kind": kind, "name": node}});
    let node = |pod: &'static str| {
        let api = &api;
        async move { api.get(&format!("{pods}/{pod}")).await.json()["spec"]["nodeName"].clone() }
    };
    for (path, body, code, said) in [
        (bindings.to_owned(), binding("", "Node", "n1"), 422, "metadata.name: Required value"),
        (bindings.to_owned(), binding("a", "Pod", "n1"), 422, "target.kind: Unsupported value: \"Pod\""),
        (bindings.to_owned(), binding("a", "Node", ""), 422, "target.name: Required value"),
        (bindings.to_owned(), binding("none", "Node", "n1"), 404, "pods \"none\" not found"),
        (format!("{pods}/b/binding"), binding("a", "", "n1"), 400, "does not match name in Binding object"),
        (format!("{bindings}?dryRun=All"), binding("a", "Node", "n1"), 201, ""),
    ] {
        let answer = api.post(&path, body).await;
        assert!(answer.code == code && answer.message().contains(said), "{path}: {}", answer.message());
    }
    assert_eq!(node("a").await, Value::Null, "nothing is done by a dry run");
    assert_eq!(api.post(bindings, binding("a", "Node", "n1")).await.code, 201);
    assert_eq!(api.post(&format!("{pods}/b/binding"), binding("b", "", "n2")).await.code, 201);
    assert_eq!((node("a").await, node("b").await), (json!("n1"), json!("n2")));
    let again = api.post(bindings, binding("a", "Node", "n2")).await;
    let why = "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\"";
    assert_eq!((again.code, again.message().as_str()), (409, why));
    let details = json!({"name": "a", "kind": "pods/binding"});
    assert_eq!(again.json()["details"], details);
    // A pod of that name is not always the one that is meant; what the binding says of it is kept.
    let mut other = binding("c", "Node", "n1");
    other["metadata"]["uid"] = json!("another");
    let another = api.post(bindings, other.clone()).await;
    assert!(another.code == 409 && another.message().contains("UID in precondition: another"));
    let present = api.get(&format!("{pods}/c")).await.json();
    other["metadata"]["uid"] = present["metadata"]["uid"].clone();
    other["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(api.post(bindings, other.clone()).await.code, 409);
    other["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"].clone();
    other["metadata"]["annotations"] = json!({"why": "here"});
    assert_eq!(api.post(bindings, other).await.code, 201);
    assert_eq!(api.get(&format!("{pods}/c")).await.json()["metadata"]["annotations"], json!({"why": "here"}));
    for method in ["GET", "DELETE"] {
        assert_eq!(api.send(method, bindings, &[], "").await.code, 405);
    }
}

#[tokio::test]
async fn deletes_answer_what_typed_clients_expect() {
    let api = api().await;
    let service = json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}});
    let base = "/api/v1/namespaces/d";
    for (path, body, kind) in [
        (format!("{base}/services"), service, "Service"),
        (format!("{base}/serviceaccounts"), json!({"metadata": {"name": "x"}}), "ServiceAccount"),
        (format!("{base}/configmaps"), json!({"metadata": {"name": "x"}}), "Status"),
        (format!("{base}/secrets"), json!({"metadata": {"name": "x"}}), "Status"),
    ] {
        assert_eq!(api.post(&path, body).await.code, 201, "{path}");
        let never = format!("{path}/x?propagationPolicy=Sometimes");
        let refused = api.send("DELETE", &never, &[], "").await;
        assert_eq!(
            (refused.code, refused.json()["details"]["causes"][0]["field"].as_str()),
            (422, Some("propagationPolicy"))
        );
        let both = r#"{"orphanDependents": true, "propagationPolicy": "Orphan"}"#;
        assert_eq!(api.send("DELETE", &format!("{path}/x"), &[], both).await.code, 422);
        let dry = api.send("DELETE", &format!("{path}/x?dryRun=All"), &[], "").await;
        assert_eq!((dry.code, dry.json()["kind"].as_str()), (200, Some(kind)), "{path}");
        let gone = api.send("DELETE", &format!("{path}/x"), &[], "").await;
        assert_eq!((gone.code, gone.json()["kind"].as_str()), (200, Some(kind)), "{path}");
    }
}

#[tokio::test]
async fn a_review_is_no_table() {
    let api = api().await;
    let review = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/"}}}).to_string();
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let json = ("content-type", "application/json");
    let refused = api.send("POST", reviews, &[("accept", table), json], review.clone()).await;
    assert_eq!((refused.code, &refused.json()["reason"]), (406, &json!("NotAcceptable")));
    assert_eq!(api.send("POST", reviews, &[json], review).await.code, 201);
}

#[tokio::test]
async fn an_update_creates_what_upstream_has_it_create() {
    let api = api().await;
    let put = async |path: &str, body: Value| {
        api.send("PUT", path, &[("content-type", "application/json")], body.to_string()).await
    };
    let leases = "/apis/coordination.k8s.io/v1/namespaces/d/leases";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "a"}});
    let made = put(&format!("{leases}/l"), lease.clone()).await;
    assert_eq!((made.code, &made.json()["spec"]["holderIdentity"]), (201, &json!("a")));
    assert_eq!(put(&format!("{leases}/l"), lease).await.code, 200);
    let seen = json!({"metadata": {"name": "m", "resourceVersion": "7"}});
    assert_eq!(put(&format!("{leases}/m"), seen).await.code, 404, "that one is gone");
    assert_eq!(put(&format!("{MAPS}/m"), json!({"metadata": {"name": "m"}})).await.code, 404);
    let bad = put("/api/v1/namespaces/d/services/s", json!({"metadata": {"name": "s"}, "spec": {}})).await;
    assert_eq!(bad.code, 422, "it is checked as one that is posted");
}

#[tokio::test]
async fn services_are_deleted_as_a_collection() {
    let api = api().await;
    let services = "/api/v1/namespaces/d/services";
    for name in ["a", "b"] {
        let service =
            json!({"metadata": {"name": name, "labels": {"l": name}}, "spec": {"ports": [{"port": 80}]}});
        assert_eq!(api.post(services, service).await.code, 201);
    }
    assert_eq!(api.send("DELETE", &format!("{services}?labelSelector=l%3Da"), &[], "").await.code, 200);
    let left = api.get(services).await.json();
    assert_eq!(
        (left["items"].as_array().unwrap().len(), &left["items"][0]["metadata"]["name"]),
        (1, &json!("b"))
    );
}
