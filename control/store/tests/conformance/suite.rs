//! The tests themselves: what every backend must do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use oarlock_store::{Batch, Compare, Error, Event, ListOptions, Op, Outcome, Record, Revision, Store, Watch};

type Shared = Arc<dyn Store>;

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.to_owned(), Bytes::copy_from_slice(value.as_bytes()), None)
}

async fn committed(store: &Shared, ops: Vec<Op>) -> Revision {
    match store.txn(vec![], ops).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict(_) => panic!("no compare, no conflict"),
    }
}

async fn next(watch: &mut Watch) -> Batch {
    tokio::time::timeout(Duration::from_secs(10), watch.next())
        .await
        .expect("a change in time")
        .unwrap()
        .unwrap()
}

fn text(record: &Record) -> String {
    format!("{}={}", record.key, String::from_utf8_lossy(&record.value))
}

fn said(batch: &Batch) -> Vec<String> {
    batch
        .events
        .iter()
        .map(|event| match event {
            Event::Put { record, previous: None } => format!("+{}", text(record)),
            Event::Put { record, previous: Some(p) } => format!("{} -> {}", text(p), text(record)),
            Event::Delete { previous, .. } => format!("-{}", text(previous)),
        })
        .collect()
}

async fn listed(store: &Shared, prefix: &str, at: Option<Revision>) -> Vec<String> {
    let page = store.list(prefix, ListOptions { at, ..ListOptions::default() }).await.unwrap();
    assert_eq!(page.count as usize, page.records.len());
    page.records.iter().map(text).collect()
}

pub(crate) async fn an_absent_key_is_none_at_the_present_revision(store: Shared) {
    let revision = committed(&store, vec![put("/a/x", "1")]).await;
    assert_eq!(store.get("/a/absent").await.unwrap(), (None, revision));
}

pub(crate) async fn a_created_key_reads_back_with_its_revisions(store: Shared) {
    let created = committed(&store, vec![put("/a/x", "1")]).await;
    let modified = committed(&store, vec![put("/a/x", "2")]).await;
    assert!(modified > created);
    let (record, revision) = store.get("/a/x").await.unwrap();
    let record = record.unwrap();
    assert_eq!((text(&record).as_str(), record.created, record.modified), ("/a/x=2", created, modified));
    assert_eq!(revision, modified);
}

pub(crate) async fn a_compare_that_fails_writes_nothing_and_shows_what_is_there(store: Shared) {
    let revision = committed(&store, vec![put("/a/x", "1")]).await;
    let absent = |key: &str| Compare::Absent(key.to_owned());
    let outcome = store.txn(vec![absent("/a/y"), absent("/a/x")], vec![put("/a/y", "1")]).await.unwrap();
    let Outcome::Conflict(present) = outcome else { panic!("a conflict") };
    assert_eq!(
        present.iter().map(|r| r.as_ref().map(text)).collect::<Vec<_>>(),
        [None, Some("/a/x=1".to_owned())]
    );
    assert_eq!(store.get("/a/y").await.unwrap(), (None, revision));

    let at = |revision| vec![Compare::ModifiedAt("/a/x".to_owned(), revision)];
    let stale = store.txn(at(Revision(revision.0 - 1)), vec![put("/a/x", "2")]).await.unwrap();
    assert!(matches!(stale, Outcome::Conflict(_)));
    let fresh = store.txn(at(revision), vec![put("/a/x", "2")]).await.unwrap();
    assert!(matches!(fresh, Outcome::Committed(r) if r > revision));
    let gone = store.txn(vec![Compare::ModifiedAt("/a/gone".to_owned(), revision)], vec![]).await.unwrap();
    assert!(matches!(gone, Outcome::Conflict(p) if p == [None]));
}

pub(crate) async fn a_transaction_is_one_revision(store: Shared) {
    committed(&store, vec![put("/a/old", "1")]).await;
    let ops = vec![put("/a/x", "1"), put("/a/y", "1"), Op::Delete("/a/old".to_owned())];
    let revision = committed(&store, ops).await;
    let page = store.list("/a/", ListOptions::default()).await.unwrap();
    assert_eq!(page.revision, revision);
    assert!(page.records.iter().all(|r| r.modified == revision && r.created == revision));
    assert_eq!(page.records.len(), 2);
}

pub(crate) async fn deleting_an_absent_key_changes_nothing(store: Shared) {
    let revision = committed(&store, vec![put("/a/x", "1")]).await;
    assert_eq!(committed(&store, vec![Op::Delete("/a/absent".to_owned())]).await, revision);
}

pub(crate) async fn a_list_is_sorted_and_stays_under_its_prefix(store: Shared) {
    for key in ["/a/2", "/b/1", "/a/1", "/a0", "/a/10", "/aa/1"] {
        committed(&store, vec![put(key, "v")]).await;
    }
    assert_eq!(listed(&store, "/a/", None).await, ["/a/1=v", "/a/10=v", "/a/2=v"]);
    assert!(listed(&store, "/none/", None).await.is_empty());
}

pub(crate) async fn a_list_is_paged_at_one_revision(store: Shared) {
    for i in 0..10 {
        committed(&store, vec![put(&format!("/a/{i}"), "old")]).await;
    }
    let mut options = ListOptions { limit: 4, ..ListOptions::default() };
    let rough = store.list("/a/", ListOptions { uncounted: true, ..options.clone() }).await.unwrap();
    let first = store.list("/a/", options.clone()).await.unwrap();
    assert_eq!(
        (&rough.records, rough.more),
        (&first.records, true),
        "who does not ask how many gets as many"
    );
    let all = ListOptions { limit: 10, uncounted: true, ..ListOptions::default() };
    let all = store.list("/a/", all).await.unwrap();
    assert_eq!((all.records.len(), all.more), (10, false));
    assert_eq!((first.records.len(), first.more, first.count), (4, true, 10));
    committed(&store, vec![put("/a/5", "new"), Op::Delete("/a/6".to_owned()), put("/a/99", "new")]).await;
    let mut seen: Vec<String> = first.records.iter().map(text).collect();
    options.at = Some(first.revision);
    loop {
        options.start = seen.last().map(|last| format!("{}\0", last.split('=').next().unwrap()));
        let page = store.list("/a/", options.clone()).await.unwrap();
        assert_eq!(page.revision, first.revision);
        assert_eq!(page.count as usize, 10 - seen.len());
        seen.extend(page.records.iter().map(text));
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (0..10).map(|i| format!("/a/{i}=old")).collect::<Vec<_>>());
}

pub(crate) async fn a_list_at_an_older_revision_shows_the_past(store: Shared) {
    let mut history = vec![(committed(&store, vec![put("/b/noise", "1")]).await, BTreeMap::new())];
    let mut state: BTreeMap<String, String> = BTreeMap::new();
    for step in 0..40_u32 {
        let key = format!("/a/{}", step * 7 % 5);
        let ops = if step % 4 == 3 && state.remove(&key).is_some() {
            vec![Op::Delete(key)]
        } else {
            state.insert(key.clone(), step.to_string());
            vec![put(&key, &step.to_string())]
        };
        history.push((committed(&store, ops).await, state.clone()));
    }
    for (revision, state) in history {
        let wanted: Vec<String> = state.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(listed(&store, "/a/", Some(revision)).await, wanted, "at {revision:?}");
    }
}

pub(crate) async fn a_revision_in_the_future_is_refused(store: Shared) {
    let revision = committed(&store, vec![put("/a/x", "1")]).await;
    let future = Revision(revision.0 + 1000);
    let options = ListOptions { at: Some(future), ..ListOptions::default() };
    assert!(
        matches!(store.list("/a/", options).await, Err(Error::FutureRevision { requested, .. }) if requested == future)
    );
    assert!(matches!(store.watch("/a/", future).await.err(), Some(Error::FutureRevision { .. })));
}

pub(crate) async fn a_watch_sees_every_change_once_in_order(store: Shared) {
    let start = committed(&store, vec![put("/a/before", "1")]).await;
    let mut watch = store.watch("/a/", start).await.unwrap();
    committed(&store, vec![put("/a/x", "1")]).await;
    committed(&store, vec![put("/a/x", "2")]).await;
    let last = committed(&store, vec![Op::Delete("/a/x".to_owned())]).await;
    assert_eq!(said(&next(&mut watch).await), ["+/a/x=1"]);
    assert_eq!(said(&next(&mut watch).await), ["/a/x=1 -> /a/x=2"]);
    let batch = next(&mut watch).await;
    assert_eq!(said(&batch), ["-/a/x=2"]);
    assert_eq!((batch.revision, batch.events[0].revision()), (last, last));
}

pub(crate) async fn a_watch_starts_anywhere_in_history(store: Shared) {
    let mut revisions = vec![committed(&store, vec![put("/a/0", "v")]).await];
    for i in 1..30 {
        revisions.push(committed(&store, vec![put(&format!("/a/{i}"), "v")]).await);
    }
    for (i, after) in revisions.iter().enumerate().take(29).step_by(7) {
        let mut watch = store.watch("/a/", *after).await.unwrap();
        for expected in i + 1..30 {
            assert_eq!(said(&next(&mut watch).await), [format!("+/a/{expected}=v")]);
        }
    }
}

pub(crate) async fn a_watch_batches_a_transaction_as_one(store: Shared) {
    let start = committed(&store, vec![put("/a/old", "1")]).await;
    let mut watch = store.watch("/", start).await.unwrap();
    committed(&store, vec![put("/b/y", "1"), put("/a/x", "1"), Op::Delete("/a/old".to_owned())]).await;
    let mut seen = said(&next(&mut watch).await);
    seen.sort();
    assert_eq!(seen, ["+/a/x=1", "+/b/y=1", "-/a/old=1"]);
}

pub(crate) async fn a_watch_narrows_to_its_prefix(store: Shared) {
    let start = committed(&store, vec![put("/b/y", "1")]).await;
    let mut watch = store.watch("/a/", start).await.unwrap();
    committed(&store, vec![put("/b/y", "2")]).await;
    committed(&store, vec![put("/b/y", "3"), put("/a/x", "1")]).await;
    assert_eq!(said(&next(&mut watch).await), ["+/a/x=1"]);
}

pub(crate) async fn history_that_was_compacted_is_refused(store: Shared) {
    let old = committed(&store, vec![put("/a/x", "1")]).await;
    let cut = committed(&store, vec![put("/a/x", "2")]).await;
    let last = committed(&store, vec![put("/a/x", "3")]).await;
    store.compact(cut).await.unwrap();
    assert_eq!(listed(&store, "/a/", None).await, ["/a/x=3"], "the present stays");
    assert_eq!(listed(&store, "/a/", Some(cut)).await, ["/a/x=2"], "the cut itself can be read");
    let options = ListOptions { at: Some(old), ..ListOptions::default() };
    assert!(matches!(store.list("/a/", options).await, Err(Error::Compacted { .. })));
    let refused = match store.watch("/a/", old).await {
        Err(error) => error,
        Ok(mut watch) => {
            tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap_err()
        }
    };
    assert!(matches!(refused, Error::Compacted { .. }), "{refused}");
    let mut watch = store.watch("/a/", cut).await.unwrap();
    assert_eq!(next(&mut watch).await.revision, last);
}

async fn increment(store: &Shared, key: &str) {
    loop {
        let (record, _) = store.get(key).await.unwrap();
        let record = record.unwrap();
        let value: u32 = String::from_utf8_lossy(&record.value).parse().unwrap();
        let compare = Compare::ModifiedAt(key.to_owned(), record.modified);
        match store.txn(vec![compare], vec![put(key, &(value + 1).to_string())]).await.unwrap() {
            Outcome::Committed(_) => return,
            Outcome::Conflict(_) => {}
        }
    }
}

pub(crate) async fn concurrent_counters_lose_no_increment(store: Shared) {
    committed(&store, vec![put("/a/counter", "0")]).await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for _ in 0..25 {
                    increment(&store, "/a/counter").await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(listed(&store, "/a/", None).await, ["/a/counter=200"]);
}

async fn put_with_lease(store: &Shared, key: &str, ttl: Duration) -> oarlock_store::LeaseId {
    let lease = store.grant_lease(ttl).await.unwrap();
    let op = Op::Put(key.to_owned(), Bytes::from_static(b"v"), Some(lease));
    committed(store, vec![op]).await;
    lease
}

async fn wait_until_gone(store: &Shared, key: &str, bound: Duration) {
    let gone = async {
        while store.get(key).await.unwrap().0.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(bound, gone).await.expect("the key ends with its lease");
}

pub(crate) async fn keys_of_a_lease_end_with_it(store: Shared) {
    let revoked = put_with_lease(&store, "/a/revoked", Duration::from_secs(60)).await;
    store.revoke_lease(revoked).await.unwrap();
    assert!(store.get("/a/revoked").await.unwrap().0.is_none());
    assert!(matches!(store.keep_alive(revoked).await, Err(Error::LeaseNotFound(l)) if l == revoked));
    let op = Op::Put("/a/late".to_owned(), Bytes::from_static(b"v"), Some(revoked));
    assert!(matches!(store.txn(vec![], vec![op]).await, Err(Error::LeaseNotFound(_))));

    put_with_lease(&store, "/a/expires", Duration::from_secs(1)).await;
    put_with_lease(&store, "/a/detached", Duration::from_secs(1)).await;
    committed(&store, vec![put("/a/detached", "free")]).await;
    wait_until_gone(&store, "/a/expires", Duration::from_secs(10)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        listed(&store, "/a/", None).await,
        ["/a/detached=free"],
        "a write without the lease frees the key"
    );
}

pub(crate) async fn a_lease_that_is_kept_alive_lives_on(store: Shared) {
    let lease = put_with_lease(&store, "/a/x", Duration::from_secs(2)).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert!(store.get("/a/x").await.unwrap().0.is_some());
}

pub(crate) async fn a_value_that_is_too_large_is_refused(store: Shared) {
    let op = Op::Put("/a/x".to_owned(), Bytes::from(vec![b'x'; 2 << 20]), None);
    assert!(matches!(store.txn(vec![], vec![op]).await, Err(Error::TooLarge { .. })));
    assert!(store.get("/a/x").await.unwrap().0.is_none());
}

pub(crate) async fn watchers_under_concurrent_writers_miss_nothing(store: Shared) {
    let start = committed(&store, vec![put("/a/start", "v")]).await;
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for i in 0..100 {
                    committed(&store, vec![put(&format!("/a/{w}"), &i.to_string())]).await;
                }
            })
        })
        .collect();
    let mut watches = Vec::new();
    for _ in 0..3 {
        let mut watch = store.watch("/a/", start).await.unwrap();
        watches.push(tokio::spawn(async move {
            let (mut last, mut seen) = (start, BTreeMap::<String, u32>::new());
            let mut events = 0;
            while events < 400 {
                let batch = next(&mut watch).await;
                assert!(batch.revision > last, "revisions grow");
                (last, events) = (batch.revision, events + batch.events.len());
                for event in &batch.events {
                    let Event::Put { record, .. } = event else { panic!("only puts") };
                    let value: u32 = String::from_utf8_lossy(&record.value).parse().unwrap();
                    let before = seen.insert(record.key.clone(), value);
                    assert_eq!(value, before.map_or(0, |b| b + 1), "{} without gap or duplicate", record.key);
                }
            }
            seen
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for watch in watches {
        assert!(watch.await.unwrap().values().all(|last| *last == 99));
    }
}
