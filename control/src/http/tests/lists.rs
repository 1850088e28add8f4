//! Lists: pages, tokens, forms, deletes of collections.

use super::*;

#[tokio::test]
async fn pages_follow_each_other_without_gaps_whatever_namespaces_are_called() {
    let api = api().await;
    for namespace in ["a", "a-b"] {
        assert_eq!(api.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.code, 201);
        for name in ["x", "y"] {
            api.map(namespace, name, json!({"in": namespace})).await;
        }
    }
    let mut seen = Vec::new();
    let (mut token, mut left) = (String::new(), Vec::new());
    loop {
        let list = api.get(&format!("/api/v1/configmaps?limit=1&continue={token}")).await.json();
        let item = &list["items"][0]["metadata"];
        seen.push(format!("{}/{}", item["namespace"].as_str().unwrap(), item["name"].as_str().unwrap()));
        left.push(list["metadata"]["remainingItemCount"].as_u64().unwrap_or(0));
        match list["metadata"]["continue"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
        // What is created meanwhile belongs to no page of this list.
        api.map("a", &format!("z{}", seen.len()), json!({})).await;
    }
    assert_eq!(seen, ["a-b/x", "a-b/y", "a/x", "a/y"]);
    assert_eq!(left, [3, 2, 1, 0]);
    let selected = api.get("/api/v1/configmaps?limit=1&labelSelector=in%3Da").await.json();
    assert_eq!(selected["items"][0]["metadata"]["name"], "x");
    assert!(
        selected["metadata"].get("remainingItemCount").is_none()
            && selected["metadata"]["continue"].is_string()
    );
}

#[tokio::test]
async fn a_page_whose_history_is_gone_says_how_to_go_on() {
    let api = api().await;
    for name in ["x", "y", "z"] {
        api.map("d", name, json!({})).await;
    }
    let first = api.get(&format!("{MAPS}?limit=1")).await.json();
    api.map("d", "later", json!({})).await;
    api.fixture.compact().await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = api.get(&format!("{MAPS}?limit=9&continue={token}")).await;
    assert_eq!((expired.code, expired.json()["reason"].as_str()), (410, Some("Expired")));
    assert!(expired.message().starts_with("The provided continue parameter is too old"));
    let fresh = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let rest = api.get(&format!("{MAPS}?limit=9&continue={fresh}")).await.json();
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["y", "z"], "what comes after the first page, as of now");
    assert_eq!(api.get(&format!("{MAPS}?continue=junk")).await.code, 400);
}

#[tokio::test]
async fn lists_come_in_the_form_that_is_asked_for() {
    let api = api().await;
    api.map("d", "m", json!({})).await;
    let table = api.send("GET", MAPS, &[("accept", TABLE)], "").await.json();
    assert_eq!((&table["kind"], &table["rows"][0]["cells"][0]), (&json!("Table"), &json!("m")));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let whole =
        api.send("GET", &format!("{MAPS}?includeObject=Object"), &[("accept", TABLE)], "").await.json();
    assert_eq!(whole["rows"][0]["object"]["kind"], "ConfigMap");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let metadata = api.send("GET", MAPS, &[("accept", partial)], "").await.json();
    assert_eq!(
        (&metadata["kind"], &metadata["items"][0]["metadata"]["name"]),
        (&json!("PartialObjectMetadataList"), &json!("m"))
    );
    let none = api.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dother")).await.json();
    assert_eq!(none["items"], json!([]));
    let future = api.get(&format!("{MAPS}?resourceVersion=999999")).await;
    assert_eq!(
        (future.code, &future.json()["details"]["causes"][0]["reason"]),
        (504, &json!("ResourceVersionTooLarge"))
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let api = api().await;
    api.map("d", "m", json!({"a": "b"})).await;
    api.map("d", "n", json!({})).await;
    assert_eq!(api.send("DELETE", &format!("{MAPS}?labelSelector=a%3Db"), &[], "").await.code, 200);
    let list = api.get(MAPS).await.json();
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["items"][0]["metadata"]["name"]),
        (1, &json!("n"))
    );
}

#[tokio::test]
async fn rows_of_pods_that_are_done_say_so() {
    let api = api().await;
    for name in ["done", "runs"] {
        assert_eq!(api.post(PODS, pod(name)).await.code, 201);
    }
    let done = json!({"status": {"phase": "Succeeded"}});
    assert_eq!(api.patch(&format!("{PODS}/done/status"), "merge", done).await.code, 200);
    let table = api.send("GET", PODS, &[("accept", TABLE)], "").await.json();
    assert_eq!(table["rows"][0]["conditions"][0]["type"], "Completed");
    assert_eq!(table["rows"][1].get("conditions"), None);
}

#[tokio::test]
async fn long_lists_are_packed_in_every_form_short_ones_and_watches_are_not() {
    use std::io::Read as _;
    let api = api().await;
    let gzip = ("accept-encoding", "gzip");
    let (partial, objects) =
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/json");
    let rows = format!("{MAPS}?includeObject=Object");
    for (maps, is_packed) in [(1, false), (20, true)] {
        for number in 0..maps {
            let long = json!({"metadata": {"name": format!("m{maps}-{number}"), "annotations": {"long": "x".repeat(16 << 10)}}});
            assert_eq!(api.post(MAPS, long).await.code, 201);
        }
        for (path, form) in [(MAPS, objects), (MAPS, partial), (rows.as_str(), TABLE)] {
            let plain = api.send("GET", path, &[("accept", form)], "").await;
            let answer = api.send("GET", path, &[("accept", form), gzip], "").await;
            assert_eq!(answer.headers.contains_key("content-encoding"), is_packed, "{maps} {form}");
            let mut body = Vec::new();
            match is_packed {
                true => flate2::read::GzDecoder::new(&answer.body[..]).read_to_end(&mut body).unwrap(),
                false => (&answer.body[..]).read_to_end(&mut body).unwrap(),
            };
            assert!(body == plain.body, "{maps} {form}");
            assert!(!answer.headers.contains_key("content-length") && !plain.json().is_null());
        }
    }
    let mut watch = api.open("GET", &format!("{MAPS}?watch=true"), &[gzip], Bytes::new()).await;
    assert!(!watch.headers().contains_key("content-encoding") && !watch.headers().contains_key("vary"));
    let first = tokio::time::timeout(Duration::from_secs(5), watch.body_mut().frame()).await.unwrap();
    assert!(first.unwrap().unwrap().into_data().unwrap().starts_with(br#"{"type":"ADDED""#));
}
