//! Watches that break off, go on from where they were, or begin again from a version of before, and must tell the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::client::Client;
use super::{Log, MAPS, Run};

/// History is kept for five minutes. Of what was told less long ago, none may be gone.
const KEPT: Duration = Duration::from_secs(240);
/// Nor of so many changes of late, however fast they came.
const MOST: usize = 10_000;

/// What all watches told together: version -> name and value.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Log>>);

impl Told {
    /// Everything, once all watches have ended.
    pub(crate) fn log(&self) -> Log {
        self.0.lock().clone()
    }

    /// What one watch told from one version to another must be what all tell: no gap, nothing twice.
    fn compare(&self, after: u64, told: &Log) {
        let Some(last) = told.keys().next_back() else { return };
        let mut all = self.0.lock();
        let known: Vec<u64> = all.range(after + 1..=*last).map(|(version, _)| *version).collect();
        for version in known {
            assert!(told.contains_key(&version), "a watch from {after} to {last} leaves out {version}");
        }
        for (version, change) in told {
            let known = all.entry(*version).or_insert_with(|| change.clone());
            assert_eq!(known, change, "two watches tell different things of {version}");
        }
    }
}

/// What one watcher was told: where it began, everything since, and when it heard of it.
struct Own {
    start: u64,
    began: Instant,
    log: Log,
    heard: BTreeMap<u64, Instant>,
}

impl Own {
    /// The newest version that it knows.
    fn newest(&self) -> u64 {
        self.log.keys().next_back().copied().unwrap_or(self.start)
    }

    /// One of before.
    fn back(&self, random: &mut StdRng) -> u64 {
        let back = random.random_range(0..=self.log.len());
        back.checked_sub(1).and_then(|index| self.log.keys().nth(index)).copied().unwrap_or(self.start)
    }

    /// Whether the history after a version may be gone by now.
    fn may_be_gone(&self, version: u64) -> bool {
        let heard = self.heard.get(&version).copied().unwrap_or(self.began);
        heard.elapsed() > KEPT || self.log.range(version..).count() > MOST
    }

    /// What a watch told again must be what it told before.
    fn merge(&mut self, after: u64, part: Log) {
        if let Some(last) = part.keys().next_back() {
            for (version, before) in self.log.range(after + 1..=*last) {
                assert_eq!(
                    Some(before),
                    part.get(version),
                    "told once, and not again, from {after} to {last}"
                );
            }
        }
        for version in part.keys() {
            self.heard.entry(*version).or_insert_with(Instant::now);
        }
        self.log.extend(part);
    }
}

/// Watches until the mark comes by after it is over. The first goes on from where it was, which nobody else's reading can hide; the
/// others go back now and then.
pub(crate) async fn follow(
    client: Client,
    start: u64,
    which: usize,
    mut random: StdRng,
    told: Told,
    run: Arc<Run>,
) {
    let mut seen = start;
    let mut own = Own { start, began: Instant::now(), log: Log::new(), heard: BTreeMap::new() };
    loop {
        let is_back = which > 0 && random.random_bool(0.3);
        if is_back {
            told.compare(start, &own.log);
            seen = own.back(&mut random);
        }
        let leave = random.random_range(5..300);
        let ended = watch(&client, &mut seen, leave, &mut own, which == 0).await;
        if ended && run.is_over() {
            return told.compare(start, &own.log);
        }
    }
}

/// One watch until it breaks off, or `leave` changes; whether the mark came by. Whoever goes back too far is told so, and goes on from
/// the newest that it knows.
async fn watch(client: &Client, seen: &mut u64, leave: usize, own: &mut Own, stays: bool) -> bool {
    let path = format!("{MAPS}?watch=1&resourceVersion={seen}");
    let Ok(mut lines) = client.try_watch(&path).await else {
        tokio::time::sleep(Duration::from_millis(30)).await;
        return false;
    };
    let (after, mut count, mut part) = (*seen, 0, BTreeMap::new());
    while let Some(line) = lines.next(Duration::from_secs(2)).await {
        let object = &line["object"];
        if line["type"] == "ERROR" {
            let gone = object["code"] == 410 && part.is_empty() && !stays && own.may_be_gone(after);
            assert!(gone, "a watch from {after}, the newest is {}: {object}", own.newest());
            *seen = own.newest();
            return false;
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > *seen, "{version} comes after {seen}");
        *seen = version;
        if name == "mark" {
            own.merge(after, part);
            return true;
        }
        let Some(value) = object["data"]["v"].as_str() else { continue };
        let value = (line["type"] != "DELETED").then(|| value.to_owned());
        part.insert(version, (name, value));
        count += 1;
        if count == leave && !stays {
            break;
        }
    }
    own.merge(after, part);
    false
}
