//! Any sequence of operations, on both backends, against a model in memory: one map per revision.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic, as tests do"
)]

#[path = "support/etcd.rs"]
#[expect(dead_code, reason = "only the crash tests kill it")]
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use oarlock_store::{Compare, Embedded, Event, ListOptions, Op, Outcome, Retention, Revision, Store};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// A write of the sequence; keys and values are small numbers.
#[derive(Debug, Clone)]
enum Write {
    Put(u8, u8),
    Delete(u8),
}

/// One transaction: compares on some keys, either right or (if the key's fate differs) wrong, and writes.
#[derive(Debug, Clone)]
struct Step {
    compares: Vec<(u8, bool)>,
    writes: Vec<Write>,
    page: usize,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = prop_oneof![
        3 => (0_u8..6, any::<u8>()).prop_map(|(key, value)| Write::Put(key, value)),
        1 => (0_u8..6).prop_map(Write::Delete),
    ];
    let compares = prop::collection::vec((0_u8..6, prop::bool::weighted(0.85)), 0..3);
    let step = (compares, prop::collection::vec(write, 0..4), 0_usize..4)
        .prop_map(|(compares, writes, page)| Step { compares, writes, page });
    prop::collection::vec(step, 1..30)
}

/// A value and the revisions that made it: (value, created, modified).
type Cell = (u8, u64, u64);
type State = BTreeMap<String, Cell>;

/// A change as a watcher tells it: revision, key, before, after.
type Change = (u64, String, Option<Cell>, Option<Cell>);

fn cell(record: &oarlock_store::Record) -> Cell {
    (record.value[0], record.created.0, record.modified.0)
}

async fn check(store: &dyn Store, root: &str, steps: Vec<Step>) {
    let start = store.get("/").await.unwrap().1;
    let mut state = State::new();
    let mut history: Vec<(u64, State)> = vec![(start.0, state.clone())];
    let mut changes: Vec<Change> = Vec::new();
    for step in steps {
        let key = |key: u8| format!("{root}{key}");
        let compare = |(number, right): &(u8, bool)| match (state.get(&key(*number)), right) {
            (Some(cell), true) => Compare::ModifiedAt(key(*number), Revision(cell.2)),
            (None, false) => Compare::ModifiedAt(key(*number), Revision(0)),
            (None, true) | (Some(_), false) => Compare::Absent(key(*number)),
        };
        let compares: Vec<Compare> = step.compares.iter().map(compare).collect();
        let holds = step.compares.iter().all(|(_, right)| *right);
        // A transaction names each key once: of several writes to one, the last.
        let mut writes = BTreeMap::new();
        for write in step.writes {
            let (number, value) = match write {
                Write::Put(number, value) => (number, Some(value)),
                Write::Delete(number) => (number, None),
            };
            writes.insert(key(number), value);
        }
        let op = |(key, value): (&String, &Option<u8>)| match value {
            Some(value) => Op::Put(key.clone(), Bytes::copy_from_slice(&[*value]), None),
            None => Op::Delete(key.clone()),
        };
        let last = history.last().unwrap().0;
        match store.txn(compares, writes.iter().map(op).collect()).await.unwrap() {
            Outcome::Conflict(present) => {
                assert!(!holds, "every compare held");
                let wanted: Vec<_> =
                    step.compares.iter().map(|(n, _)| state.get(&key(*n)).copied()).collect();
                assert_eq!(present.iter().map(|r| r.as_ref().map(cell)).collect::<Vec<_>>(), wanted);
            }
            Outcome::Committed(Revision(revision)) => {
                assert!(holds, "a compare did not hold");
                writes.retain(|key, value| value.is_some() || state.contains_key(key));
                assert_eq!(revision > last, !writes.is_empty(), "one revision per transaction that writes");
                for (key, value) in writes {
                    let before = state.get(&key).copied();
                    let after = value.map(|value| (value, before.map_or(revision, |b| b.1), revision));
                    match after {
                        Some(after) => state.insert(key.clone(), after),
                        None => state.remove(&key),
                    };
                    changes.push((revision, key, before, after));
                }
                if revision > last {
                    history.push((revision, state.clone()));
                }
            }
        }
        check_list(store, root, None, &state, step.page).await;
    }
    for (revision, state) in &history {
        check_list(store, root, Some(Revision(*revision)), state, 2).await;
    }
    for (after, _) in history.iter().step_by(5) {
        let wanted: Vec<_> = changes.iter().filter(|change| change.0 > *after).cloned().collect();
        assert_eq!(watched(store, root, Revision(*after), wanted.len()).await, wanted, "after {after}");
    }
}

/// Everything under the root, read in pages of a size (0: at once).
async fn check_list(store: &dyn Store, root: &str, at: Option<Revision>, state: &State, limit: usize) {
    let mut options = ListOptions { at, limit, ..ListOptions::default() };
    let mut seen: Vec<(String, Cell)> = Vec::new();
    loop {
        let page = store.list(root, options.clone()).await.unwrap();
        assert_eq!(page.count as usize, state.len() - seen.len());
        seen.extend(page.records.iter().map(|record| (record.key.clone(), cell(record))));
        assert_eq!(page.more, seen.len() < state.len());
        if !page.more {
            break;
        }
        options.at = Some(page.revision);
        options.start = seen.last().map(|(key, _)| format!("{key}\0"));
    }
    assert_eq!(seen.into_iter().collect::<State>(), *state);
}

async fn watched(store: &dyn Store, root: &str, after: Revision, count: usize) -> Vec<Change> {
    let mut watch = store.watch(root, after).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        let batch = batch.expect("a change in time").unwrap().unwrap();
        for event in batch.events {
            assert_eq!(event.revision(), batch.revision);
            let change = match &event {
                Event::Put { record, previous } => (previous.as_ref().map(cell), Some(cell(record))),
                Event::Delete { previous, .. } => (Some(cell(previous)), None),
            };
            seen.push((batch.revision.0, event.key().to_owned(), change.0, change.1));
        }
    }
    seen
}

/// Runs the sequences on one store, each below a root of its own.
fn run(runtime: &tokio::runtime::Runtime, store: &dyn Store, cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let number = std::sync::atomic::AtomicU32::new(0);
    let tried = runner.run(&steps(), |steps| {
        let root = format!("/{}/", number.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        runtime.block_on(check(store, &root, steps));
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn any_sequence_on_the_embedded_store_does_what_the_model_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = Embedded::open(&folder.path().join("store.redb"), Retention::default()).unwrap();
    run(&runtime(), &store, 24);
}

#[test]
fn any_sequence_on_etcd_does_what_the_model_does() {
    let runtime = runtime();
    let server = runtime.block_on(support::Server::start());
    let store = runtime.block_on(server.client());
    run(&runtime, &store, 24);
}
