//! Server-side apply and the owners of fields, over HTTP.

use super::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/d/deployments";
const YAML: &str = "application/apply-patch+yaml";

fn config(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec})
}

fn web(replicas: i64) -> Value {
    config(
        "web",
        json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }),
    )
}

impl Api {
    async fn apply(&self, path: &str, query: &str, config: &Value) -> Answer {
        let yaml = serde_yaml::to_string(config).unwrap();
        self.send("PATCH", &format!("{path}?{query}"), &[("content-type", YAML)], yaml).await
    }

    async fn managers(&self, path: &str) -> Vec<String> {
        let object = self.get(path).await.json();
        let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or("").to_owned();
        let shown =
            |e: &Value| format!("{} {} {}", text(e, "operation"), text(e, "manager"), text(e, "subresource"));
        entries.iter().map(|entry| shown(entry).trim().to_owned()).collect()
    }
}

#[tokio::test]
async fn an_apply_creates_then_changes_then_conflicts_then_takes() {
    let api = api().await;
    let path = format!("{DEPLOYMENTS}/web");
    let made = api.apply(&path, "fieldManager=ci", &web(2)).await;
    assert_eq!((made.code, &made.json()["spec"]["strategy"]["type"]), (201, &json!("RollingUpdate")));
    let again = api.apply(&path, "fieldManager=ci", &web(2)).await;
    assert_eq!((again.code, again.json()), (200, made.json()), "nothing changes, not even a time");
    let dry = api.apply(&path, "fieldManager=ci&dryRun=All", &web(9)).await;
    assert_eq!((dry.code, &dry.json()["spec"]["replicas"]), (200, &json!(9)));
    assert_eq!(api.get(&path).await.json(), made.json(), "a dry run");
    let scaled = api.patch(&format!("{path}/scale"), "merge", json!({"spec": {"replicas": 5}})).await;
    assert_eq!(scaled.code, 200);
    assert_eq!(api.managers(&path).await, ["Apply ci", "Update unknown scale"]);
    let refused = api.apply(&path, "fieldManager=ci", &web(3)).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"unknown\" with subresource \"scale\" using apps/v1: .spec.replicas"
        )
    );
    assert_eq!(refused.json()["details"]["causes"][0]["field"], ".spec.replicas");
    let taken = api.apply(&path, "fieldManager=ci&force=true", &web(3)).await;
    assert_eq!((taken.code, &taken.json()["metadata"]["generation"]), (200, &json!(3)));
    assert_eq!(api.managers(&path).await, ["Apply ci"]);
    let mut fewer = web(3);
    fewer["spec"].as_object_mut().unwrap().shift_remove("replicas");
    let fewer = api.apply(&path, "fieldManager=ci", &fewer).await;
    assert_eq!(fewer.json()["spec"]["replicas"], 1, "what is given up has its default again");
}

#[tokio::test]
async fn every_write_says_whose_the_fields_are() {
    let api = api().await;
    let path = format!("{DEPLOYMENTS}/web");
    let agent = [("user-agent", "kubectl/v1.33 (linux/amd64)"), ("content-type", "application/json")];
    assert_eq!(api.send("POST", DEPLOYMENTS, &agent, web(1).to_string()).await.code, 201);
    assert_eq!(api.managers(&path).await, ["Update kubectl"]);
    let status = json!({"status": {"observedGeneration": 1}});
    let merge = [("content-type", "application/merge-patch+json")];
    let send = async |path: String, body: Value| api.send("PATCH", &path, &merge, body.to_string()).await;
    assert_eq!(send(format!("{path}/status?fieldManager=controller"), status).await.code, 200);
    assert_eq!(
        send(format!("{path}?fieldManager=editor"), json!({"spec": {"paused": true}})).await.code,
        200
    );
    let mut managers = api.managers(&path).await;
    managers.sort();
    assert_eq!(managers, ["Update controller status", "Update editor", "Update kubectl"]);
    let before = api.get(&path).await.json();
    assert_eq!(
        send(format!("{path}?fieldManager=other"), json!({"spec": {"paused": true}})).await.json(),
        before
    );
    // A client that does not know the list, and one that empties it, change nothing of it.
    for managed in [Value::Null, json!([])] {
        let mut whole = before.clone();
        whole["metadata"]["managedFields"] = managed;
        let put = api.send("PUT", &path, &agent, whole.to_string()).await;
        assert_eq!(put.json()["metadata"]["managedFields"], before["metadata"]["managedFields"]);
    }
    send(path.clone(), json!({"metadata": {"managedFields": [{}]}})).await;
    assert_eq!(api.managers(&path).await, [""; 0], "reset");
    send(path.clone(), json!({"spec": {"paused": false}})).await;
    assert_eq!(api.managers(&path).await, [""; 0], "and nobody is told apart any more");
    assert_eq!(api.apply(&path, "fieldManager=ci", &web(1)).await.code, 200);
    assert_eq!(api.managers(&path).await, ["Apply ci", "Update before-first-apply"]);
}

#[tokio::test]
async fn subresources_are_applied_apart() {
    let api = api().await;
    let path = format!("{DEPLOYMENTS}/web");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}, "spec": {"replicas": 4}});
    assert_eq!(
        api.apply(&format!("{path}/scale"), "fieldManager=hpa", &scale).await.code,
        404,
        "it creates nothing"
    );
    assert_eq!(api.apply(&path, "fieldManager=ci", &web(1)).await.code, 201);
    assert_eq!(api.apply(&format!("{path}/scale"), "fieldManager=hpa", &scale).await.code, 409);
    let scaled = api.apply(&format!("{path}/scale"), "fieldManager=hpa&force=1", &scale).await;
    assert_eq!((&scaled.json()["kind"], &scaled.json()["spec"]["replicas"]), (&json!("Scale"), &json!(4)));
    let mut status = config("web", json!({"replicas": 7}));
    status["status"] =
        json!({"observedGeneration": 2, "conditions": [{"type": "Available", "status": "True"}]});
    let answer = api.apply(&format!("{path}/status"), "fieldManager=me", &status).await;
    assert_eq!((answer.code, &answer.json()["spec"]["replicas"]), (200, &json!(4)));
    assert_eq!(answer.json()["status"]["conditions"][0]["type"], "Available");
    let mut managers = api.managers(&path).await;
    managers.sort();
    assert_eq!(managers, ["Apply ci", "Apply hpa scale", "Apply me status"]);
}

#[tokio::test]
async fn what_is_no_apply_is_refused_in_upstreams_words() {
    let api = api().await;
    let path = format!("{DEPLOYMENTS}/web");
    let mut managed = web(1);
    managed["metadata"]["managedFields"] = json!([{}]);
    let mut elsewhere = web(1);
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut uid = web(1);
    uid["metadata"]["uid"] = json!("u");
    let mut unknown = web(1);
    unknown["spec"]["foo"] = json!(1);
    for (query, config, code, message) in [
        (
            "",
            &web(1),
            422,
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        ("fieldManager=ci", &managed, 400, "metadata.managedFields must be nil"),
        (
            "fieldManager=ci",
            &config("other", json!({})),
            400,
            "the name of the object (other) does not match the name on the URL (web)",
        ),
        (
            "fieldManager=ci",
            &elsewhere,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        ("fieldManager=ci", &json!("text"), 400, "the body of the request is not an object"),
        (
            "fieldManager=ci",
            &uid,
            409,
            "Operation cannot be fulfilled on deployments.apps \"web\": uid mismatch: the provided object specified uid u, \
             and no existing object was found",
        ),
        (
            "fieldManager=ci",
            &unknown,
            400,
            "failed to create typed patch object (deployments; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema",
        ),
    ] {
        let answer = api.apply(&path, query, config).await;
        assert_eq!((answer.code, answer.message().as_str()), (code, message));
    }
    let long = "m".repeat(129);
    assert_eq!(api.apply(&path, &format!("fieldManager={long}"), &web(1)).await.code, 422);
    assert_eq!(api.patch(&format!("{path}?force=true"), "merge", json!({})).await.code, 422);
    assert_eq!(api.apply(&path, "fieldManager=ci", &web(1)).await.code, 201);
    let mut stale = web(2);
    stale["metadata"]["resourceVersion"] = json!("1");
    assert_eq!(api.apply(&path, "fieldManager=ci", &stale).await.code, 409);
}
