//! Answers in protobuf say what the JSON says: objects, lists, watches, parts and refusals.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use oarlock_api::catalogue::Catalogue;
use oarlock_api::schema::Schema;
use serde_json::{Value, json};

use super::*;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const AS_CLIENT_GO: (&str, &str) = ("accept", "application/vnd.kubernetes.protobuf,application/json");

/// What the JSON says when it is read as upstream reads it: nulls and zeros that say nothing are gone.
fn meant(mut value: Value) -> Value {
    let bytes = Schema::builtin().encode_body(&value).unwrap();
    value = Schema::builtin().decode_body(&bytes).unwrap().object;
    value
}

fn decoded(answer: &Answer) -> Value {
    assert_eq!(answer.headers["content-type"], PROTOBUF, "{:?}", answer.body);
    Schema::builtin().decode_body(&answer.body).unwrap().object
}

#[tokio::test]
async fn every_kind_of_list_and_its_objects_are_answered_in_both_codings() {
    let api = api().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (path, object) in [
        ("/api/v1/namespaces/d/pods", pod("p")),
        (
            "/api/v1/namespaces/d/services",
            json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80, "targetPort": "http"}]}}),
        ),
        ("/api/v1/namespaces/d/secrets", json!({"metadata": {"name": "s"}, "data": {"x": "AAEC"}})),
        (
            "/apis/apps/v1/namespaces/d/deployments",
            json!({"metadata": {"name": "x"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        ),
        (
            "/apis/autoscaling/v2/namespaces/d/horizontalpodautoscalers",
            json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}}}),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/d/leases",
            json!({"metadata": {"name": "l"},
            "spec": {"renewTime": "2026-01-02T03:04:05.000006Z"}}),
        ),
    ] {
        let made = api
            .send("POST", path, &[AS_CLIENT_GO, ("content-type", "application/json")], object.to_string())
            .await;
        assert_eq!(made.code, 201, "{path}");
        let name = decoded(&made)["metadata"]["name"].as_str().unwrap().to_owned();
        let one = format!("{path}/{name}");
        let json = api.get(&one).await.json();
        assert_eq!(decoded(&api.send("GET", &one, &[AS_CLIENT_GO], "").await), meant(json), "{one}");
    }
    let mut lists = 0;
    for kind in Catalogue::builtin().served().filter(|kind| kind.allows("list") && kind.allows("watch")) {
        let base = if kind.group.is_empty() {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let path = format!("{base}/{}", kind.plural);
        let json = api.get(&path).await.json();
        let list = decoded(&api.send("GET", &path, &[AS_CLIENT_GO], "").await);
        assert_eq!((&list["kind"], &list["metadata"]), (&json["kind"], &json["metadata"]), "{path}");
        let items = |list: &Value| list["items"].as_array().map_or(0, Vec::len);
        assert_eq!(items(&list), items(&json), "{path}");
        lists += 1;
    }
    assert!(lists > 30, "{lists}");
    let only = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let metadata = decoded(&api.send("GET", "/api/v1/namespaces/d/pods", &[("accept", &only)], "").await);
    assert_eq!(metadata["kind"], "PartialObjectMetadataList");
    assert_eq!(metadata["items"][0]["metadata"]["name"], "p");
    assert_eq!(metadata["items"][0].get("spec"), None);
}

#[tokio::test]
async fn long_lists_are_written_while_they_are_read() {
    let api = api().await;
    for number in 0..40 {
        let long = json!({"metadata": {"name": format!("m{number}"), "annotations": {"long": format!("{number}").repeat(8 << 10)}}});
        assert_eq!(api.post(MAPS, long).await.code, 201);
    }
    let whole = meant(api.get(MAPS).await.json());
    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    for accept in [PROTOBUF, partial.as_str()] {
        let mut answer = api.open("GET", MAPS, &[("accept", accept)], Bytes::new()).await;
        let length = answer.body().size_hint().exact().unwrap();
        let mut bytes = Vec::new();
        while let Some(frame) = answer.body_mut().frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(piece.len() < 96 << 10, "{} of {length} at once", piece.len());
            bytes.extend_from_slice(&piece);
        }
        assert_eq!(bytes.len() as u64, length);
        let list = Schema::builtin().decode_body(&bytes).unwrap().object;
        assert_eq!(list["metadata"], whole["metadata"]);
        let metadata = |list: &Value| -> Vec<Value> {
            list["items"].as_array().unwrap().iter().map(|item| item["metadata"].clone()).collect()
        };
        assert!(metadata(&list) == metadata(&whole), "{accept}");
    }
}

#[tokio::test]
async fn refusals_parts_and_deletes_are_answered_in_protobuf_and_tables_are_not() {
    let api = api().await;
    let missing = api.send("GET", &format!("{MAPS}/none"), &[AS_CLIENT_GO], "").await;
    let status = decoded(&missing);
    assert_eq!((missing.code, &status["reason"], &status["code"]), (404, &json!("NotFound"), &json!(404)));
    assert_eq!(status["details"], json!({"name": "none", "kind": "configmaps"}));
    api.map("d", "m", json!({})).await;
    let gone = decoded(&api.send("DELETE", &format!("{MAPS}/m"), &[AS_CLIENT_GO], "").await);
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review =
        api.send("POST", reviews, &[AS_CLIENT_GO, ("content-type", "application/json")], review).await;
    assert_eq!(decoded(&review)["kind"], "SelfSubjectAccessReview");
    let table = api
        .send("GET", MAPS, &[("accept", &format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io,{TABLE}"))], "")
        .await;
    assert_eq!(
        (table.headers["content-type"].as_bytes(), &table.json()["kind"]),
        (&b"application/json"[..], &json!("Table"))
    );
}

#[tokio::test]
async fn watches_in_protobuf_are_frames_of_events() {
    let api = api().await;
    api.map("d", "m", json!({"seen": "yes"})).await;
    let path = format!(
        "{MAPS}?watch=true&labelSelector=seen&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let mut watch = api.open("GET", &path, &[AS_CLIENT_GO], Bytes::new()).await;
    assert_eq!(watch.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
    let removed = api.send("DELETE", &format!("{MAPS}/m"), &[], "").await;
    assert_eq!(removed.code, 200);
    let schema = Schema::builtin();
    let message = schema.messages().find(|message| schema.message(*message).name == "WatchEvent").unwrap();
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    while events.len() < 3 {
        let frame = tokio::time::timeout(Duration::from_secs(5), watch.body_mut().frame()).await.unwrap();
        bytes.extend_from_slice(frame.unwrap().unwrap().data_ref().unwrap());
        while let Some(length) = bytes.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize) {
            let Some(event) = bytes.get(4..4 + length) else { break };
            events.push(schema.decode_protobuf(message, event).unwrap());
            bytes.drain(..4 + length);
        }
    }
    let kinds: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["ADDED", "BOOKMARK", "DELETED"]);
    assert_eq!(
        (&events[0]["object"]["kind"], &events[0]["object"]["metadata"]["name"]),
        (&json!("ConfigMap"), &json!("m"))
    );
    assert_eq!(events[1]["object"]["metadata"]["annotations"], json!({"k8s.io/initial-events-end": "true"}));
    // What is forgotten is said in the same coding.
    let refused =
        api.send("GET", &format!("{MAPS}?watch=true&resourceVersion=99999999"), &[AS_CLIENT_GO], "").await;
    assert_eq!(decoded(&refused)["reason"], "Timeout");
}
