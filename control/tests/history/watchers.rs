//! Watches that break off, go on from where they were, or begin again from a version of before, and must tell the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::client::Client;
use super::{Log, MAPS, Run};

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
    let mut own = BTreeMap::new();
    loop {
        let is_back = which > 0 && random.random_bool(0.3);
        if is_back {
            told.compare(start, &own);
            let versions: Vec<u64> = own.keys().copied().collect();
            let back = random.random_range(0..=versions.len());
            seen = back.checked_sub(1).and_then(|index| versions.get(index)).copied().unwrap_or(start);
        }
        let leave = random.random_range(5..300);
        let ended = watch(&client, &mut seen, leave, &mut own, which == 0).await;
        if ended && run.is_over() {
            return told.compare(start, &own);
        }
    }
}

/// One watch until it breaks off, or `leave` changes; whether the mark came by.
async fn watch(client: &Client, seen: &mut u64, leave: usize, own: &mut Log, stays: bool) -> bool {
    let path = format!("{MAPS}?watch=1&resourceVersion={seen}");
    let Ok(mut lines) = client.try_watch(&path).await else {
        tokio::time::sleep(Duration::from_millis(30)).await;
        return false;
    };
    let (after, mut count, mut part) = (*seen, 0, BTreeMap::new());
    while let Some(line) = lines.next(Duration::from_secs(2)).await {
        let object = &line["object"];
        assert_ne!(line["type"], "ERROR", "a watch from {after}: {object}");
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(version > *seen, "{version} comes after {seen}");
        *seen = version;
        if name == "mark" {
            merge(own, after, part);
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
    merge(own, after, part);
    false
}

/// What a watch told again must be what it told before.
fn merge(own: &mut Log, after: u64, part: Log) {
    if let Some(last) = part.keys().next_back() {
        for (version, before) in own.range(after + 1..=*last) {
            assert_eq!(Some(before), part.get(version), "told once, and not again, from {after} to {last}");
        }
    }
    own.extend(part);
}
