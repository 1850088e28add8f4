//! Watches: what they show, how they begin and end.

use super::*;

/// The events of a watch, one by one.
struct Lines(Body);

impl Lines {
    async fn next(&mut self) -> (String, Value) {
        let frame = tokio::time::timeout(Duration::from_secs(10), self.0.frame()).await.unwrap();
        let line = frame.expect("the watch goes on").unwrap().into_data().unwrap();
        assert_eq!(line.last(), Some(&b'\n'));
        let mut event: Value = serde_json::from_slice(&line).unwrap();
        (event["type"].as_str().unwrap().to_owned(), event["object"].take())
    }
}

impl Api {
    async fn watch(&self, path: &str, accept: &str) -> Lines {
        let response = self.open("GET", path, &[("accept", accept)], Bytes::new()).await;
        assert_eq!(response.status(), 200, "{path}");
        Lines(response.into_body())
    }
}

#[tokio::test]
async fn a_watch_shows_what_enters_and_leaves_its_selector() {
    let api = api().await;
    api.map("d", "there", json!({"a": "b"})).await;
    let mut lines = api.watch(&format!("{MAPS}?watch=1&labelSelector=a%3Db"), "application/json").await;
    let kind_and_name =
        |(kind, object): (String, Value)| (kind, object["metadata"]["name"].as_str().unwrap().to_owned());
    assert_eq!(kind_and_name(lines.next().await), ("ADDED".into(), "there".into()));
    api.map("d", "other", json!({})).await;
    let other = format!("{MAPS}/other");
    api.patch(&other, "merge", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(kind_and_name(lines.next().await), ("ADDED".into(), "other".into()));
    api.patch(&other, "merge", json!({"data": {"x": "y"}})).await;
    assert_eq!(kind_and_name(lines.next().await), ("MODIFIED".into(), "other".into()));
    let left = api.patch(&other, "merge", json!({"metadata": {"labels": null}})).await.json();
    let (kind, object) = lines.next().await;
    assert_eq!(
        (kind.as_str(), &object["metadata"]["resourceVersion"]),
        ("DELETED", &left["metadata"]["resourceVersion"])
    );
    api.send("DELETE", &format!("{MAPS}/there"), &[], "").await;
    assert_eq!(kind_and_name(lines.next().await), ("DELETED".into(), "there".into()));
}

#[tokio::test]
async fn a_watch_can_begin_with_a_list_and_speak_tables() {
    let api = api().await;
    api.map("d", "m", json!({})).await;
    let streaming = format!(
        "{MAPS}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut lines = api.watch(&streaming, "application/json").await;
    assert_eq!(lines.next().await.0, "ADDED");
    let (kind, end) = lines.next().await;
    assert_eq!(
        (kind.as_str(), &end["metadata"]["annotations"]["k8s.io/initial-events-end"]),
        ("BOOKMARK", &json!("true"))
    );
    let mut lines = api.watch(&format!("{MAPS}?watch=1"), TABLE).await;
    let (_, first) = lines.next().await;
    api.map("d", "n", json!({})).await;
    let (_, second) = lines.next().await;
    assert!(!first["columnDefinitions"].as_array().unwrap().is_empty());
    assert_eq!((&second["columnDefinitions"], &second["rows"][0]["cells"][0]), (&json!([]), &json!("n")));
    let now = format!("{MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut lines = api.watch(&now, "application/json").await;
    api.map("d", "o", json!({})).await;
    assert_eq!(lines.next().await.1["metadata"]["name"], "o");
    let ended = api.get(&format!("{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    assert!(
        ended.body.split(|b| *b == b'\n').any(|l| l.starts_with(b"{\"type\":\"BOOKMARK\"")),
        "a bookmark at the end"
    );
    for bad in [
        "resourceVersionMatch=Exact",
        "sendInitialEvents=true",
        "sendInitialEvents=true&resourceVersionMatch=Exact",
    ] {
        assert_eq!(api.get(&format!("{MAPS}?watch=1&{bad}")).await.code, 422, "{bad}");
    }
    assert_eq!(api.get(&format!("{MAPS}?sendInitialEvents=true")).await.code, 422);
}
