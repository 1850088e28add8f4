//! Watches: etcd's responses cut and joined into one batch per revision. In: watch responses. Out: [`Batch`]es.
//!
//! etcd splits a large response into fragments at any event; the revision at the cut is held back until its rest is here.

use std::collections::VecDeque;
use std::time::Duration;

use etcd_client::EventType;
use etcd_client::proto::PbEvent;
use etcd_client::{WatchOptions, WatchStream};
use futures_util::{StreamExt as _, stream};

use super::list::after_prefix;
use super::{CONNECT, Etcd, TIMEOUT, errors, record, signed, unsigned};
use crate::{Batch, Error, Event, LeaseId, Result, Revision, Watch};

pub(super) async fn watch(etcd: &Etcd, prefix: &str, after: Revision) -> Result<Watch> {
    let current = etcd.revision().await?;
    if after > current {
        return Err(Error::FutureRevision { requested: after, current });
    }
    let stream = open(etcd, prefix, after).await?;
    let state = Reading {
        stream,
        joiner: Joiner::new(after),
        ready: VecDeque::new(),
        name: etcd.name.clone(),
        ended: false,
    };
    Ok(stream::unfold(state, |mut reading| async move {
        if reading.ended {
            return None;
        }
        let item = reading.next().await;
        reading.ended = item.is_err();
        Some((item, reading))
    })
    .boxed())
}

/// The oldest revision that can still be read: what etcd answers to a watch from the beginning.
pub(super) async fn oldest(etcd: &Etcd) -> Option<Revision> {
    let asking = async {
        let mut stream = open(etcd, "", Revision(1)).await.ok()?;
        while let Ok(Some(response)) = stream.message().await {
            if response.compact_revision() > 0 {
                return Some(Revision(unsigned(response.compact_revision())));
            }
            if !response.created() {
                return None;
            }
        }
        None
    };
    tokio::time::timeout(Duration::from_secs(2), asking).await.ok().flatten()
}

async fn open(etcd: &Etcd, prefix: &str, after: Revision) -> Result<WatchStream> {
    // From `after` itself, whose events are dropped: etcd then refuses exactly what was compacted. From the next one, it
    // would accept the revision of a compaction, whose deletions it has forgotten already.
    let options = WatchOptions::new()
        .with_range(after_prefix(prefix))
        .with_start_revision(signed(after).max(1))
        .with_prev_key()
        .with_fragment();
    let key = if prefix.is_empty() { "\0" } else { prefix };
    let mut client = etcd.watches.clone();
    let opening = client.watch(key, Some(options));
    match tokio::time::timeout(TIMEOUT.max(CONNECT), opening).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(errors::read(&etcd.name, "watch", &error).into_error(LeaseId(0), 0)),
        Err(_) => Err(Error::Unavailable(format!("etcd at {}: watch: no answer in {TIMEOUT:?}", etcd.name))),
    }
}

struct Reading {
    stream: WatchStream,
    joiner: Joiner,
    ready: VecDeque<Batch>,
    name: String,
    ended: bool,
}

impl Reading {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            let response = match self.stream.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Err(Error::Unavailable(format!("etcd at {} ended the watch", self.name))),
                Err(error) => return Err(errors::read(&self.name, "watch", &error).into_error(LeaseId(0), 0)),
            };
            if response.compact_revision() > 0 {
                let oldest = Revision(unsigned(response.compact_revision()));
                return Err(Error::Compacted { requested: self.joiner.seen, oldest });
            }
            if response.canceled() {
                let why = response.cancel_reason();
                return Err(Error::Unavailable(format!("etcd at {} cancelled the watch: {why}", self.name)));
            }
            let fragment = response.0.fragment;
            let mut events = Vec::with_capacity(response.0.events.len());
            for event in response.0.events {
                events.extend(translate(event, self.joiner.seen)?);
            }
            self.ready.extend(self.joiner.push(events, fragment)?);
        }
    }
}

/// An event in our words; `None` for one at or before `seen`, of which etcd may not know the previous record any more.
fn translate(event: PbEvent, seen: Revision) -> Result<Option<Event>> {
    let kind = event.r#type();
    let Some(kv) = event.kv else {
        return Err(Error::Corrupt("etcd told of a change without its key".to_owned()));
    };
    let revision = Revision(unsigned(kv.mod_revision));
    if revision <= seen {
        return Ok(None);
    }
    let created = kv.create_revision == kv.mod_revision;
    // etcd leaves the previous record out when a compaction took it between the change and its telling.
    let lost = Error::Compacted { requested: seen, oldest: revision };
    let previous = event.prev_kv.map(record).transpose()?;
    Ok(Some(match (kind, previous) {
        (EventType::Put, None) if !created => return Err(lost),
        (EventType::Put, previous) => Event::Put { record: record(kv)?, previous },
        (EventType::Delete, None) => return Err(lost),
        (EventType::Delete, Some(previous)) => Event::Delete { previous, revision },
    }))
}

/// Joins events into batches of one revision each.
#[derive(Debug)]
struct Joiner {
    seen: Revision,
    held: Vec<Event>,
}

impl Joiner {
    fn new(seen: Revision) -> Self {
        Self { seen, held: Vec::new() }
    }

    /// Takes the events of a response; `fragment` says that more of the same response follows.
    fn push(&mut self, events: Vec<Event>, fragment: bool) -> Result<Vec<Batch>> {
        let mut ready = Vec::new();
        for event in events {
            let revision = event.revision();
            let held = self.held.first().map(Event::revision);
            if revision <= self.seen || held.is_some_and(|held| revision < held) {
                return Err(Error::Unavailable(format!(
                    "etcd told of revision {} after revision {}: the watch starts anew",
                    revision.0, self.seen.0
                )));
            }
            if held.is_some_and(|held| held < revision) {
                ready.extend(self.flush());
            }
            self.held.push(event);
        }
        if !fragment {
            ready.extend(self.flush());
        }
        Ok(ready)
    }

    fn flush(&mut self) -> Option<Batch> {
        let revision = self.held.first()?.revision();
        let mut events = std::mem::take(&mut self.held);
        events.sort_by(|a, b| a.key().cmp(b.key()));
        self.seen = revision;
        Some(Batch { revision, events })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::Record;

    fn event(revision: u64, key: &str) -> Event {
        let at = Revision(revision);
        let record = Record { key: key.to_owned(), value: Bytes::new(), created: at, modified: at };
        Event::Put { record, previous: None }
    }

    proptest! {
        #[test]
        fn however_responses_are_cut_a_revision_is_one_batch(
            sizes in prop::collection::vec(1_usize..5, 1..20),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let all: Vec<Event> = sizes
                .iter()
                .enumerate()
                .flat_map(|(i, size)| (0..*size).map(move |k| event(i as u64 + 2, &k.to_string())))
                .collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            cuts.sort_unstable();
            cuts.push(all.len());
            let (mut joiner, mut from, mut got) = (Joiner::new(Revision(1)), 0, Vec::new());
            for (i, cut) in cuts.iter().enumerate() {
                got.extend(joiner.push(all[from..*cut].to_vec(), i + 1 < cuts.len()).unwrap());
                from = *cut;
            }
            prop_assert_eq!(got.iter().map(|b| b.events.len()).collect::<Vec<_>>(), sizes);
            prop_assert!(got.iter().zip(2..).all(|(batch, revision)| batch.revision == Revision(revision)));
        }
    }

    #[test]
    fn a_response_from_the_past_ends_the_watch() {
        let mut joiner = Joiner::new(Revision(5));
        assert!(joiner.push(vec![event(5, "a")], false).is_err());
        assert_eq!(joiner.push(vec![event(6, "a")], false).unwrap().len(), 1);
        assert!(joiner.push(vec![event(6, "b")], false).is_err());
    }
}
