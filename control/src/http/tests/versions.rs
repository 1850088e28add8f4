//! The same objects in several versions of their groups.

use super::*;

const OLD_JOBS: &str = "/apis/batch/v1beta1/namespaces/d/cronjobs";
const JOBS: &str = "/apis/batch/v1/namespaces/d/cronjobs";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/d/events";

fn cron_job(name: &str) -> Value {
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    json!({"metadata": {"name": name}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": {"spec": pod}}}}})
}

fn event(name: &str) -> Value {
    json!({
        "metadata": {"name": name}, "eventTime": "2026-11-27T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "namespace": "d", "name": name},
        "reportingController": "example.com/test", "reportingInstance": "one", "action": "Testing", "reason": "Test",
        "note": "seen", "type": "Normal",
    })
}

#[tokio::test]
async fn an_object_is_the_same_in_every_version() {
    let api = api().await;
    let made = api.post(OLD_JOBS, cron_job("a")).await;
    assert_eq!((made.code, &made.json()["apiVersion"]), (201, &json!("batch/v1beta1")));
    let warning = made.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - \"batch/v1beta1 CronJob is deprecated in v1.21+"), "{warning}");
    assert_eq!(api.get(JOBS).await.headers.get("warning"), None);
    let new = api.get(&format!("{JOBS}/a")).await.json();
    assert_eq!(
        (&new["apiVersion"], &new["spec"]["concurrencyPolicy"]),
        (&json!("batch/v1"), &json!("Allow"))
    );
    let patch = json!({"apiVersion": "batch/v1beta1", "spec": {"suspend": true}});
    let patched = api.patch(&format!("{OLD_JOBS}/a"), "merge", patch).await.json();
    assert_eq!(
        (&patched["apiVersion"], &patched["metadata"]["generation"]),
        (&json!("batch/v1beta1"), &json!(2))
    );
    let mut whole = api.get(&format!("{OLD_JOBS}/a")).await.json();
    whole["spec"]["suspend"] = json!(false);
    let json_type = [("content-type", "application/json")];
    let put = api.send("PUT", &format!("{OLD_JOBS}/a"), &json_type, whole.to_string()).await;
    assert_eq!((put.code, &put.json()["apiVersion"]), (200, &json!("batch/v1beta1")));
    let wrong = api.send("PUT", &format!("{JOBS}/a"), &json_type, whole.to_string()).await;
    assert_eq!(
        wrong.message(),
        "the API version in the data (batch/v1beta1) does not match the expected API version (batch/v1)"
    );
    let list = api.get(OLD_JOBS).await.json();
    assert_eq!(
        (&list["apiVersion"], &list["items"][0]["apiVersion"]),
        (&json!("batch/v1beta1"), &json!("batch/v1beta1"))
    );
    let table = api.send("GET", OLD_JOBS, &[("accept", TABLE)], "").await.json();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    let gone = api.send("DELETE", &format!("{OLD_JOBS}/a"), &[], "").await;
    assert_eq!((gone.code, api.get(&format!("{JOBS}/a")).await.code), (200, 404));
}

#[tokio::test]
async fn a_watch_shows_the_version_that_it_asks_for() {
    let api = api().await;
    assert_eq!(api.post(JOBS, cron_job("a")).await.code, 201);
    let watch = api.get(&format!("{OLD_JOBS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    let lines: Vec<Value> =
        watch.body.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert_eq!(lines.len(), 2, "the object and a bookmark");
    for line in lines {
        assert_eq!(line["object"]["apiVersion"], "batch/v1beta1", "{line}");
    }
}

#[tokio::test]
async fn events_of_both_groups_are_the_same_objects() {
    let api = api().await;
    let made = api.post(EVENTS, event("e")).await;
    assert_eq!((made.code, &made.json()["note"]), (201, &json!("seen")));
    let core = api.get("/api/v1/namespaces/d/events/e").await.json();
    assert_eq!((&core["message"], &core["involvedObject"]["name"]), (&json!("seen"), &json!("e")));
    assert_eq!(api.post(EVENTS, event("f")).await.code, 201);
    for (path, field, code, found) in [
        (EVENTS, "regarding.name%3De", 200, 1),
        (EVENTS, "involvedObject.name%3De", 400, 0),
        ("/api/v1/namespaces/d/events", "involvedObject.name%3De", 200, 1),
        ("/api/v1/namespaces/d/events", "regarding.name%3De", 400, 0),
    ] {
        let answer = api.get(&format!("{path}?fieldSelector={field}")).await;
        assert_eq!(answer.code, code, "{path} {field}");
        assert_eq!(answer.json()["items"].as_array().map_or(0, Vec::len), found, "{path} {field}");
    }
    let mut vague = event("g");
    vague.as_object_mut().unwrap().retain(|field, _| field != "eventTime" && field != "action");
    assert_eq!(
        api.post(EVENTS, vague).await.message(),
        "Event \"g\" is invalid: [eventTime: Required value, action: Required value]"
    );
}

#[tokio::test]
async fn discovery_prefers_the_stored_version_and_names_the_others() {
    let api = api().await;
    let batch = api.get("/apis/batch").await.json();
    assert_eq!(batch["preferredVersion"]["version"], "v1");
    assert_eq!(batch["versions"][1]["groupVersion"], "batch/v1beta1");
    let hash = |list: &Value| list["resources"][0]["storageVersionHash"].clone();
    let old = api.get("/apis/batch/v1beta1").await.json();
    assert_eq!(old["resources"].as_array().unwrap().len(), 2);
    assert_eq!(hash(&old), hash(&api.get("/apis/batch/v1").await.json()), "stored as the same");
    let v3 = api.get("/openapi/v3/apis/batch/v1beta1").await.json();
    assert!(v3["components"]["schemas"]["io.k8s.api.batch.v1beta1.CronJob"].is_object());
}
