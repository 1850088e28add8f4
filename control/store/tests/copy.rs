//! A store becomes like another, in both directions, while the other is written to.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic, as tests do"
)]
#![expect(clippy::disallowed_methods, reason = "a test's concurrent clients are plain tasks")]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "only the crash tests kill it")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use oarlock_store::{Copy, Embedded, Error, ListOptions, Op, Retention, Revision, Store};

const PREFIX: &str = "/registry/";
const LEADER: &str = "/registry/claims/leader";

async fn all(store: &Arc<dyn Store>) -> BTreeMap<String, Bytes> {
    let page = store.list(PREFIX, ListOptions::default()).await.unwrap();
    page.records.into_iter().map(|record| (record.key, record.value)).collect()
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) {
    let op = Op::Put(format!("{PREFIX}{key}"), Bytes::from(value.to_owned()), None);
    store.txn(Vec::new(), vec![op]).await.unwrap();
}

async fn becomes_like(from: Arc<dyn Store>, to: Arc<dyn Store>) {
    for i in 0..1200 {
        put(&from, &format!("core/pods/d/p{i:04}"), "1").await;
    }
    put(&from, "core/secrets/d/large", &"x".repeat(1_000_000)).await;
    put(&from, "core/secrets/d/larger", &"y".repeat(1_000_000)).await;
    put(&from, "claims/leader", "somebody").await;
    put(&to, "core/pods/d/p0007", "an older one").await;
    put(&to, "core/pods/d/stranger", "1").await;
    let copy = Arc::new(Copy::new(Arc::clone(&from), Arc::clone(&to), PREFIX, &[LEADER]));
    let (_, before) = from.get(PREFIX).await.unwrap();
    let writing = tokio::spawn({
        let from = Arc::clone(&from);
        async move {
            for i in 0..300 {
                put(&from, &format!("core/pods/d/p{:04}", i * 3), "2").await;
                put(&from, &format!("apps/deployments/d/w{i}"), "new").await;
                let gone = format!("{PREFIX}core/pods/d/p{:04}", i * 3 + 1);
                from.txn(Vec::new(), vec![Op::Delete(gone)]).await.unwrap();
            }
        }
    });
    assert!(copy.pass().await.unwrap() >= 1200);
    let following = tokio::spawn({
        let copy = Arc::clone(&copy);
        async move { copy.follow(before, |_| {}).await }
    });
    writing.await.unwrap();
    let mut wanted = all(&from).await;
    wanted.remove(LEADER);
    for _ in 0..400 {
        if all(&to).await == wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    following.abort();
    assert_eq!(copy.pass().await.unwrap(), 0, "what is followed needs no further pass");
    assert!(all(&to).await == wanted, "every key and every value");

    let (_, theirs) = from.get(PREFIX).await.unwrap();
    let reached = copy.outrun().await.unwrap();
    assert!(reached > theirs, "{reached:?} {theirs:?}");
    assert!(all(&to).await == wanted);
    let old =
        to.list(PREFIX, ListOptions { at: Some(Revision(theirs.0 - 1)), ..ListOptions::default() }).await;
    assert!(matches!(old, Err(Error::Compacted { .. })), "a revision of the source is gone");
}

fn embedded(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    Arc::new(Embedded::open(&folder.path().join("store.redb"), Retention::default()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_becomes_like_the_embedded_store() {
    let (server, folder) = (support::Server::start().await, tempfile::tempdir().unwrap());
    becomes_like(embedded(&folder), Arc::new(server.client().await)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_becomes_like_etcd() {
    let (server, folder) = (support::Server::start().await, tempfile::tempdir().unwrap());
    becomes_like(Arc::new(server.client().await), embedded(&folder)).await;
}
