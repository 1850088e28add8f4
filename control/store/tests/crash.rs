//! Killed at any moment, a store keeps what it acknowledged: SIGKILL to the process that holds the embedded store, and to
//! etcd, then a look at what is left. The writing process is this test's own binary, called for one test with a folder.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic, as tests do"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a child is told by its environment; concurrent clients are plain tasks"
)]

#[path = "support/etcd.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use oarlock_store::{Embedded, Error, ListOptions, Op, Outcome, Retention, Revision, Store};
use rand::Rng as _;

const FOLDER: &str = "OARLOCK_CRASH_TEST_FOLDER";
const ROUNDS: u32 = 8;

/// What was acknowledged: per writer the last number, and the newest revision of all.
#[derive(Default)]
struct Acknowledged {
    last: BTreeMap<String, u64>,
    revision: u64,
}

impl Acknowledged {
    fn note(&mut self, writer: &str, number: u64, revision: u64) {
        self.last.insert(writer.to_owned(), number);
        self.revision = self.revision.max(revision);
    }
}

/// Writes `/<writer>/a` and `/<writer>/b` = number, together.
async fn write(store: &dyn Store, writer: &str, number: u64) -> Result<Revision, Error> {
    let value = Bytes::from(number.to_string());
    let put = |key: &str| Op::Put(format!("/{writer}/{key}"), value.clone(), None);
    match store.txn(vec![], vec![put("a"), put("b")]).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict(_) => panic!("no compare, no conflict"),
    }
}

async fn number(store: &dyn Store, key: String) -> u64 {
    let record = store.get(&key).await.unwrap().0;
    record.map_or(0, |record| String::from_utf8_lossy(&record.value).parse().unwrap())
}

/// Nothing acknowledged is lost, no transaction is there in part, and the revision has not gone back.
async fn look(store: &dyn Store, acknowledged: &Acknowledged) -> Revision {
    for (writer, last) in &acknowledged.last {
        let (a, b) =
            (number(store, format!("/{writer}/a")).await, number(store, format!("/{writer}/b")).await);
        assert_eq!(a, b, "a transaction is whole or not there");
        assert!(a >= *last, "writer {writer}: {last} was acknowledged, {a} is there");
    }
    let page = store.list("/", ListOptions::default()).await.unwrap();
    assert!(page.revision.0 >= acknowledged.revision, "revisions never go back");
    page.revision
}

/// The child: inert unless a folder is given. Four writers, each acknowledged on a line of its own.
#[test]
fn a_child_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = std::sync::Arc::new(open(Path::new(&folder)));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = std::sync::Arc::clone(&store);
                tokio::spawn(async move {
                    let writer = writer.to_string();
                    let first = number(&*store, format!("/{writer}/a")).await + 1;
                    for next in first.. {
                        let revision = write(&*store, &writer, next).await.unwrap();
                        println!("ack {writer} {next} {}", revision.0);
                        std::io::stdout().flush().unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn open(folder: &Path) -> Embedded {
    Embedded::open(&folder.join("store.redb"), Retention { age: Duration::from_secs(1), revisions: 200 })
        .unwrap()
}

/// Runs the child for a random while; takes what it acknowledged until its end.
fn run_and_kill(folder: &Path, acknowledged: &mut Acknowledged) -> usize {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["a_child_writes_until_it_is_killed", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let kill_after = rand::rng().random_range(1..150);
    let mut taken = 0;
    for line in output.lines() {
        // A last line may be cut; only whole ones count.
        let line = line.unwrap_or_default();
        let words: Vec<&str> = line.split(' ').collect();
        if let [.., "ack", writer, number, revision] = words.as_slice() {
            acknowledged.note(writer, number.parse().unwrap(), revision.parse().unwrap());
            taken += 1;
            if taken == kill_after {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    taken
}

#[tokio::test]
async fn the_embedded_store_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for _ in 0..ROUNDS {
        let taken = run_and_kill(folder.path(), &mut acknowledged);
        assert!(taken > 0, "the child wrote before it died");
        let store = open(folder.path());
        let before = look(&store, &acknowledged).await;
        let after =
            write(&store, "0", acknowledged.last.get("0").copied().unwrap_or(0) + 1_000_000).await.unwrap();
        assert!(after > before, "revisions go on from where they were");
        acknowledged.note("0", acknowledged.last.get("0").copied().unwrap_or(0) + 1_000_000, after.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_what_it_acknowledged_and_the_client_finds_it_again() {
    let mut server = support::Server::start().await;
    let store = server.client().await;
    let (mut acknowledged, mut next) = (Acknowledged::default(), 1);
    for _ in 0..4 {
        let killing = tokio::time::Instant::now() + Duration::from_millis(rand::rng().random_range(20..300));
        let writing = async {
            // The write under way at the end may be refused, or its fate unknown; never is it wrong.
            loop {
                match write(&store, "0", next).await {
                    Ok(revision) => acknowledged.note("0", next, revision.0),
                    Err(Error::Unavailable(_)) => return,
                    Err(other) => panic!("{other}"),
                }
                next += 1;
            }
        };
        let killing = async {
            tokio::time::sleep_until(killing).await;
            server.kill();
        };
        tokio::join!(writing, killing);
        assert!(matches!(write(&store, "0", next).await, Err(Error::Unavailable(_))), "away is away");
        server.restart().await;
        look(&store, &acknowledged).await;
        next += 1;
    }
    assert!(acknowledged.revision > 4);
}
