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
