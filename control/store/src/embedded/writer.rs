//! The one writer: a thread that takes everything that waits, applies it in order inside one file transaction, syncs once,
//! and only then answers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use redb::{Database, ReadableTable as _, WriteTransaction};
use tokio::sync::{Semaphore, oneshot};

use super::codec::{Change, decode_record, encode_change, encode_record};
use super::history::Shared;
use super::tables::{CURRENT, HISTORY, LEASE_KEYS, LEASES, NUMBERS, Start, event};
use super::{Retention, storage};
use crate::{Batch, Compare, Error, LeaseId, Op, Outcome, Record, Result, Revision};

/// Requests that may wait; more callers wait for a place.
const MAX_WAITING: usize = 4096;
/// Requests of one commit.
const MAX_GROUP: usize = 512;
/// How often leases and history are looked at.
const TICK: Duration = Duration::from_millis(250);

/// What the writer can be asked for.
#[derive(Debug)]
pub(super) enum Request {
    Txn { compares: Vec<Compare>, ops: Vec<Op>, answer: oneshot::Sender<Result<Outcome>> },
    Grant { ttl: Duration, answer: oneshot::Sender<Result<LeaseId>> },
    KeepAlive { lease: LeaseId, answer: oneshot::Sender<Result<()>> },
    Revoke { lease: LeaseId, answer: oneshot::Sender<Result<()>> },
    Compact { revision: Revision, answer: oneshot::Sender<Result<()>> },
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    places: Semaphore,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    closed: bool,
}

/// The handle to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        database: Arc<Database>,
        shared: Arc<Shared>,
        start: Start,
        retention: Retention,
    ) -> Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::default(),
            bell: Condvar::new(),
            places: Semaphore::new(MAX_WAITING),
        });
        let mut state = State::new(database, shared, start, retention);
        let shared_queue = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || state.run(&shared_queue))
            .map_err(storage)?;
        Ok(Self { queue, thread: Some(thread) })
    }

    pub(super) async fn submit(&self, request: Request) {
        if let Ok(place) = self.queue.places.acquire().await {
            place.forget();
            self.queue.waiting.lock().requests.push_back(request);
            self.queue.bell.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.waiting.lock().closed = true;
        self.queue.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by the hook; nothing else is left to do with it.
            let _ = thread.join();
        }
    }
}

struct State {
    database: Arc<Database>,
    shared: Arc<Shared>,
    retention: Retention,
    revision: Revision,
    compacted: Revision,
    last_lease: i64,
    leases: HashMap<i64, Lease>,
    /// When which revision was reached, for forgetting by age.
    marks: VecDeque<(Instant, Revision)>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
}

/// What a group of requests does to the state once it is committed, and the answers that then go out.
#[derive(Default)]
struct Effects {
    batches: Vec<Batch>,
    granted: Vec<(i64, Duration)>,
    kept: Vec<i64>,
    ended: Vec<i64>,
    compacted: Option<Revision>,
    answers: Vec<Box<dyn FnOnce(Option<Error>) + Send>>,
}

impl State {
    fn new(database: Arc<Database>, shared: Arc<Shared>, start: Start, retention: Retention) -> Self {
        let now = Instant::now();
        // As etcd does, a restart gives every lease its whole time again: its holder could not renew it meanwhile.
        let lease =
            |ttl: u64| Lease { ttl: Duration::from_millis(ttl), deadline: now + Duration::from_millis(ttl) };
        Self {
            database,
            shared,
            retention,
            revision: start.revision,
            compacted: start.compacted,
            last_lease: start.last_lease,
            leases: start.leases.into_iter().map(|(id, ttl)| (id, lease(ttl))).collect(),
            marks: VecDeque::from([(now, start.revision)]),
        }
    }

    fn run(&mut self, queue: &Queue) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            let group = {
                let mut waiting = queue.waiting.lock();
                while waiting.requests.is_empty() && !waiting.closed {
                    if queue.bell.wait_until(&mut waiting, next_tick).timed_out() {
                        break;
                    }
                }
                if waiting.closed && waiting.requests.is_empty() {
                    return;
                }
                let count = waiting.requests.len().min(MAX_GROUP);
                waiting.requests.drain(..count).collect::<Vec<_>>()
            };
            queue.places.add_permits(group.len());
            if !group.is_empty() {
                self.commit(group);
            }
            if Instant::now() >= next_tick {
                self.tick();
                next_tick = Instant::now() + TICK;
            }
        }
    }

    fn commit(&mut self, group: Vec<Request>) {
        let (revision, last_lease) = (self.revision, self.last_lease);
        let mut effects = Effects::default();
        let done = self.apply(group, &mut effects);
        let answers = std::mem::take(&mut effects.answers);
        let error = match done {
            Ok(()) => {
                self.settle(effects);
                None
            }
            Err(error) => {
                tracing::error!(%error, "a commit of the store failed; nothing of it happened");
                (self.revision, self.last_lease) = (revision, last_lease);
                Some(error.to_string())
            }
        };
        for answer in answers {
            answer(error.clone().map(Error::Unavailable));
        }
    }

    fn apply(&mut self, group: Vec<Request>, effects: &mut Effects) -> Result<()> {
        // The answers are collected even when the file fails, so that every caller hears of it.
        let txn = self.database.begin_write().map_err(storage);
        let mut failure = txn.as_ref().err().map(|e| Error::Unavailable(e.to_string()));
        for request in group {
            let txn = txn.as_ref().ok().filter(|_| failure.is_none());
            if let Err(error) = self.apply_one(txn, request, effects) {
                failure.get_or_insert(error);
            }
        }
        let txn = txn?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        write_number(&txn, "revision", self.revision.0)?;
        txn.commit().map_err(storage)
    }

    /// Applies one request. An error means that the file failed; a request that is refused is an answer.
    fn apply_one(
        &mut self,
        txn: Option<&WriteTransaction>,
        request: Request,
        effects: &mut Effects,
    ) -> Result<()> {
        let away = || Error::Unavailable("the store's file".to_owned());
        match request {
            Request::Txn { compares, ops, answer } => {
                let done = txn.ok_or_else(away).and_then(|txn| self.transact(txn, &compares, ops, effects));
                conclude(effects, answer, done)
            }
            Request::Grant { ttl, answer } => {
                let done = txn.ok_or_else(away).and_then(|txn| self.grant(txn, ttl, effects));
                conclude(effects, answer, done.map(Ok))
            }
            Request::KeepAlive { lease, answer } => {
                let known = self.leases.contains_key(&lease.0) && !effects.ended.contains(&lease.0);
                effects.kept.extend(known.then_some(lease.0));
                conclude(effects, answer, Ok(if known { Ok(()) } else { Err(Error::LeaseNotFound(lease)) }))
            }
            Request::Revoke { lease, answer } => {
                let known = self.leases.contains_key(&lease.0) && !effects.ended.contains(&lease.0);
                let done = if known {
                    txn.ok_or_else(away).and_then(|txn| self.revoke(txn, lease.0, effects)).map(Ok)
                } else {
                    Ok(Err(Error::LeaseNotFound(lease)))
                };
                conclude(effects, answer, done)
            }
            Request::Compact { revision, answer } => {
                let done = if revision > self.revision {
                    Ok(Err(Error::FutureRevision { requested: revision, current: self.revision }))
                } else {
                    txn.ok_or_else(away).and_then(|txn| self.compact(txn, revision, effects)).map(Ok)
                };
                conclude(effects, answer, done)
            }
        }
    }

    fn transact(
        &mut self,
        txn: &WriteTransaction,
        compares: &[Compare],
        ops: Vec<Op>,
        effects: &mut Effects,
    ) -> Result<Result<Outcome>> {
        let mut present = Vec::with_capacity(compares.len());
        let mut holds = true;
        {
            let current = txn.open_table(CURRENT).map_err(storage)?;
            for compare in compares {
                let (Compare::Absent(key) | Compare::ModifiedAt(key, _)) = compare;
                let record = match current.get(key.as_str()).map_err(storage)? {
                    Some(bytes) => Some(decode_record(key, bytes.value())?.0),
                    None => None,
                };
                holds &= match compare {
                    Compare::Absent(_) => record.is_none(),
                    Compare::ModifiedAt(_, revision) => {
                        record.as_ref().is_some_and(|r| r.modified == *revision)
                    }
                };
                present.push(record);
            }
        }
        if !holds {
            return Ok(Ok(Outcome::Conflict(present)));
        }
        let mut writes: BTreeMap<String, Option<(Bytes, i64)>> = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(key, value, lease) => {
                    let id = lease.map_or(0, |l| l.0);
                    let granted = effects.granted.iter().any(|(g, _)| *g == id);
                    if let Some(lease) = lease
                        && (!(self.leases.contains_key(&id) || granted) || effects.ended.contains(&id))
                    {
                        return Ok(Err(Error::LeaseNotFound(lease)));
                    }
                    writes.insert(key, Some((value, id)));
                }
                Op::Delete(key) => {
                    writes.insert(key, None);
                }
            }
        }
        self.write(txn, writes, effects)?;
        Ok(Ok(Outcome::Committed(self.revision)))
    }

    /// Writes keys as one revision; without any effective write the revision stays.
    fn write(
        &mut self,
        txn: &WriteTransaction,
        writes: BTreeMap<String, Option<(Bytes, i64)>>,
        effects: &mut Effects,
    ) -> Result<()> {
        let revision = Revision(self.revision.0 + 1);
        let mut events = Vec::with_capacity(writes.len());
        {
            let mut current = txn.open_table(CURRENT).map_err(storage)?;
            let mut history = txn.open_table(HISTORY).map_err(storage)?;
            let mut lease_keys = txn.open_table(LEASE_KEYS).map_err(storage)?;
            for (key, write) in writes {
                let before = match current.get(key.as_str()).map_err(storage)? {
                    Some(bytes) => Some(decode_record(&key, bytes.value())?),
                    None => None,
                };
                if let Some((_, lease @ 1..)) = &before {
                    lease_keys.remove((*lease, key.as_str())).map_err(storage)?;
                }
                let before = before.map(|(record, _)| record);
                let after = write.map(|(value, lease)| {
                    let created = before.as_ref().map_or(revision, |b| b.created);
                    (Record { key: key.clone(), value, created, modified: revision }, lease)
                });
                match &after {
                    Some((record, lease)) => {
                        let bytes = encode_record(record, *lease);
                        current.insert(key.as_str(), bytes.as_slice()).map_err(storage)?;
                        if *lease != 0 {
                            lease_keys.insert((*lease, key.as_str()), ()).map_err(storage)?;
                        }
                    }
                    None if before.is_none() => continue,
                    None => drop(current.remove(key.as_str()).map_err(storage)?),
                }
                let change = Change { before, after: after.map(|(record, _)| record) };
                history
                    .insert((revision.0, key.as_str()), encode_change(&change).as_slice())
                    .map_err(storage)?;
                events.extend(event(revision, change));
            }
        }
        if !events.is_empty() {
            self.revision = revision;
            effects.batches.push(Batch { revision, events });
        }
        Ok(())
    }

    fn grant(&mut self, txn: &WriteTransaction, ttl: Duration, effects: &mut Effects) -> Result<LeaseId> {
        self.last_lease += 1;
        let id = self.last_lease;
        write_number(txn, "lease", u64::try_from(id).unwrap_or(0))?;
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        txn.open_table(LEASES).map_err(storage)?.insert(id, millis).map_err(storage)?;
        effects.granted.push((id, ttl));
        Ok(LeaseId(id))
    }

    fn revoke(&mut self, txn: &WriteTransaction, lease: i64, effects: &mut Effects) -> Result<()> {
        let keys: Vec<String> = {
            let lease_keys = txn.open_table(LEASE_KEYS).map_err(storage)?;
            let range = lease_keys.range((lease, "")..(lease.saturating_add(1), "")).map_err(storage)?;
            range
                .map(|entry| entry.map(|(key, _)| key.value().1.to_owned()).map_err(storage))
                .collect::<Result<_>>()?
        };
        self.write(txn, keys.into_iter().map(|key| (key, None)).collect(), effects)?;
        txn.open_table(LEASES).map_err(storage)?.remove(lease).map_err(storage)?;
        effects.ended.push(lease);
        Ok(())
    }

    fn compact(&mut self, txn: &WriteTransaction, revision: Revision, effects: &mut Effects) -> Result<()> {
        if revision <= self.compacted.max(effects.compacted.unwrap_or_default()) {
            return Ok(());
        }
        let mut history = txn.open_table(HISTORY).map_err(storage)?;
        history.retain_in((0, "")..(revision.0 + 1, ""), |_, _| false).map_err(storage)?;
        write_number(txn, "compacted", revision.0)?;
        effects.compacted = Some(revision);
        Ok(())
    }

    /// The commit is durable: memory follows.
    fn settle(&mut self, effects: Effects) {
        let now = Instant::now();
        for (id, ttl) in effects.granted {
            self.leases.insert(id, Lease { ttl, deadline: now + ttl });
        }
        for id in effects.kept {
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.deadline = now + lease.ttl;
            }
        }
        for id in effects.ended {
            self.leases.remove(&id);
        }
        if let Some(compacted) = effects.compacted {
            self.compacted = compacted;
            self.shared.compacted(compacted);
        }
        self.shared.publish(effects.batches, self.revision);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let ended: Vec<i64> =
            self.leases.iter().filter(|(_, l)| l.deadline <= now).map(|(id, _)| *id).collect();
        let mut group: Vec<Request> = ended
            .into_iter()
            .map(|id| Request::Revoke { lease: LeaseId(id), answer: oneshot::channel().0 })
            .collect();
        if self.marks.back().is_none_or(|(_, last)| *last != self.revision) {
            self.marks.push_back((now, self.revision));
        }
        let mut forget = self.revision.0.saturating_sub(self.retention.revisions);
        while self.marks.len() > 1 && now.duration_since(self.marks[0].0) > self.retention.age {
            if let Some((_, revision)) = self.marks.pop_front() {
                forget = forget.max(revision.0);
            }
        }
        // Forgetting in steps keeps the commits that do it rare.
        if forget > self.compacted.0 + self.retention.revisions / 100 {
            group.push(Request::Compact { revision: Revision(forget), answer: oneshot::channel().0 });
        }
        if !group.is_empty() {
            self.commit(group);
        }
    }
}

fn write_number(txn: &WriteTransaction, name: &str, value: u64) -> Result<()> {
    txn.open_table(NUMBERS).map_err(storage)?.insert(name, value).map_err(storage)?;
    Ok(())
}

/// Keeps the answer until the commit is known. The outer error is the file's, the inner one the request's own.
fn conclude<T: Send + 'static>(
    effects: &mut Effects,
    answer: oneshot::Sender<Result<T>>,
    done: Result<Result<T>>,
) -> Result<()> {
    let (done, outcome) = match done {
        Ok(outcome) => (Ok(()), outcome),
        Err(error) => (Err(Error::Unavailable(error.to_string())), Err(error)),
    };
    effects.answers.push(Box::new(move |failure| {
        // The caller may have gone; its write stands all the same.
        let _ = answer.send(failure.map_or(outcome, Err));
    }));
    done
}
