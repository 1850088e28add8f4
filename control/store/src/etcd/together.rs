//! Writes that come at the same time, sent as one: a transaction of transactions, each with its own compares and its own outcome. etcd
//! writes one entry of its log for all, and says one answer; alone, each would cost as much as all together.
//!
//! In: transactions that do not depend on each other. Out: what each would have been told alone; those of one request share its revision.
//! A watch that breaks between two of them goes on after both: so go only keys of which whoever follows them can miss one.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use etcd_client::proto::{PbResponseOp, PbTxnOpResponse};
use etcd_client::{Txn, TxnOp};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Etcd, errors, outcome, revision_of, transaction};
use crate::{Compare, Error, LeaseId, Op, Outcome, Result, Revision};

/// What may go together.
#[derive(Debug, Clone)]
pub struct Together {
    /// How its keys begin.
    pub prefix: String,
    /// How long a write may wait for others to go with. None at all: it goes with what comes while earlier ones are under way.
    pub patience: Duration,
}

/// Requests under way at a time. What comes meanwhile waits and goes with the next: the busier, the more go together.
const REQUESTS: usize = 3;
/// Transactions in one request, and compares and changes in one of them: etcd takes 128 (`--max-txn-ops`) over both levels.
const TRANSACTIONS: usize = 60;
const PARTS: usize = 24;
/// Bytes of values in one request: etcd takes 1.5 MiB (`--max-request-bytes`).
const BYTES: usize = 512 << 10;

/// A transaction that waits for its turn.
#[derive(Debug)]
pub(super) struct Waiting {
    compares: Vec<Compare>,
    ops: Vec<Op>,
    bytes: usize,
    /// When it has to go.
    until: Instant,
    answer: oneshot::Sender<Result<Outcome>>,
}

/// How to hand over a transaction, while somebody takes them.
#[derive(Debug, Default)]
pub(super) struct Door(parking_lot::Mutex<Option<mpsc::UnboundedSender<Waiting>>>);

/// Closes the door again, whatever happens.
struct Open<'d>(&'d Door);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}

impl Etcd {
    /// Runs until dropped: from now on, writes below [`EtcdOptions::together`](super::EtcdOptions) that come at the same time are sent together.
    pub async fn write_together(&self) {
        let (sender, mut waiting) = mpsc::unbounded_channel();
        *self.together.0.lock() = Some(sender);
        let _open = Open(&self.together);
        let (mut under_way, mut line) = (FuturesUnordered::new(), Line::default());
        loop {
            while let Ok(next) = waiting.try_recv() {
                line.push(next);
            }
            let is_free = under_way.len() < REQUESTS;
            if is_free && line.is_due(Instant::now()) {
                under_way.push(self.send(line.take()));
                continue;
            }
            let due = async {
                match line.due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(()) = under_way.next(), if !under_way.is_empty() => {}
                Some(next) = waiting.recv() => line.push(next),
                () = due, if is_free => {}
            }
        }
    }

    /// Hands a transaction over, if somebody takes it; else gives it back.
    pub(super) async fn hand_over(
        &self,
        compares: Vec<Compare>,
        ops: Vec<Op>,
        bytes: usize,
    ) -> std::result::Result<Result<Outcome>, (Vec<Compare>, Vec<Op>)> {
        // One whose lease has ended is refused, and all that are with it.
        let patience = |op: &Op| {
            let is_bound = matches!(op, Op::Put(_, _, Some(_)));
            let ours = self.of_door.iter().find(|ours| op.key().starts_with(&ours.prefix));
            ours.filter(|_| !is_bound).map(|ours| ours.patience)
        };
        // As patient as the least of them; none where one of them has to go alone.
        let patience = ops.iter().map(patience).collect::<Option<Vec<_>>>().map(|all| all.into_iter().min());
        let small = compares.len() + ops.len() <= PARTS;
        let door = self.together.0.lock().clone();
        let (Some(door), Some(patience)) = (door.filter(|_| small), patience) else {
            return Err((compares, ops));
        };
        let until = Instant::now() + patience.unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        if let Err(refused) = door.send(Waiting { compares, ops, bytes, until, answer }) {
            return Err((refused.0.compares, refused.0.ops));
        }
        let ended = || Error::Unavailable(format!("etcd at {}: write: this process is ending", self.name));
        Ok(answered.await.unwrap_or_else(|_| Err(ended())))
    }

    async fn send(&self, mut batch: Vec<Waiting>) {
        let outcomes = if batch.len() == 1 {
            let only = batch.remove(0);
            let outcome = self.write(only.compares, only.ops, only.bytes).await;
            // Whoever asked may have gone.
            let _ = only.answer.send(outcome);
            return;
        } else {
            let parts =
                batch.iter_mut().map(|w| TxnOp::txn(transaction(&w.compares, std::mem::take(&mut w.ops))));
            let txn = Txn::new().and_then(parts.collect::<Vec<_>>());
            let mut kv = self.kv.clone();
            match self.call("write", kv.txn(txn)).await {
                Ok(response) => match revision_of(response.header()) {
                    Ok(revision) => parts_of(revision, response.0.responses, batch.len()),
                    Err(error) => Err(errors::Failure::Told(error)),
                },
                Err(failure) => Err(failure),
            }
        };
        match outcomes {
            Ok(outcomes) => {
                for (waiting, outcome) in batch.into_iter().zip(outcomes) {
                    let _ = waiting.answer.send(outcome);
                }
            }
            Err(failure) => {
                let text = failure.into_error(LeaseId(0), 0).to_string();
                for waiting in batch {
                    let _ = waiting.answer.send(Err(Error::Unavailable(text.clone())));
                }
            }
        }
    }
}

/// Who waits, in the order in which they came.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// When the first of them has to go.
    due: Option<Instant>,
}

impl Line {
    fn push(&mut self, next: Waiting) {
        self.due = Some(self.due.map_or(next.until, |due| due.min(next.until)));
        self.waiting.push_back(next);
    }

    /// Whether somebody has to go, or a request is full.
    fn is_due(&self, now: Instant) -> bool {
        self.waiting.len() >= TRANSACTIONS || self.due.is_some_and(|due| due <= now)
    }

    /// Who may go with the first, up to the first who may not: at least one, unless the line is empty.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut keys, mut bytes, mut batch) = (Keys::default(), 0, Vec::new());
        while batch.len() < TRANSACTIONS
            && let Some(next) = self.waiting.front()
        {
            bytes += next.bytes;
            if !batch.is_empty() && bytes > BYTES || !keys.take(next) {
                break;
            }
            batch.extend(self.waiting.pop_front());
        }
        self.due = self.waiting.iter().map(|waiting| waiting.until).min();
        batch
    }
}

/// What the transactions of a request look at and write.
#[derive(Default)]
struct Keys {
    compared: HashSet<String>,
    written: HashSet<String>,
}

impl Keys {
    /// Takes a transaction in, unless it meets another: etcd compares for all before it writes for any, so that one would not see
    /// what the other did.
    fn take(&mut self, waiting: &Waiting) -> bool {
        let compared = || waiting.compares.iter().map(Compare::key);
        let written = || waiting.ops.iter().map(Op::key);
        let meets = compared().any(|key| self.written.contains(key))
            || written().any(|key| self.written.contains(key) || self.compared.contains(key));
        if !meets {
            self.compared.extend(compared().map(str::to_owned));
            self.written.extend(written().map(str::to_owned));
        }
        !meets
    }
}

/// The outcome of each part.
fn parts_of(
    revision: Revision,
    responses: Vec<PbResponseOp>,
    count: usize,
) -> std::result::Result<Vec<Result<Outcome>>, errors::Failure> {
    let part = |part: PbResponseOp| match part.response {
        Some(PbTxnOpResponse::ResponseTxn(part)) => outcome(part.succeeded, revision, part.responses),
        _ => Err(Error::Corrupt("etcd answered a transaction with something else".to_owned())),
    };
    let parts: Vec<Result<Outcome>> = responses.into_iter().map(part).collect();
    if parts.len() == count {
        Ok(parts)
    } else {
        let text = format!("etcd answered {} of {count} transactions", parts.len());
        Err(errors::Failure::Told(Error::Corrupt(text)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn waiting(compared: &[&str], written: &[&str]) -> Waiting {
        patient(compared, written, Instant::now())
    }

    fn patient(compared: &[&str], written: &[&str], until: Instant) -> Waiting {
        Waiting {
            until,
            compares: compared
                .iter()
                .map(|key| Compare::ModifiedAt((*key).to_owned(), Revision(1)))
                .collect(),
            ops: written.iter().map(|key| Op::Put((*key).to_owned(), Bytes::new(), None)).collect(),
            bytes: 0,
            answer: oneshot::channel().0,
        }
    }

    fn first_keys(batch: &[Waiting]) -> Vec<&str> {
        batch.iter().map(|waiting| waiting.ops[0].key()).collect()
    }

    #[test]
    fn who_is_patient_waits_for_others_and_goes_with_the_first_that_is_not() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut line = Line::default();
        assert!(!line.is_due(now));
        line.push(patient(&[], &["a"], now + second));
        line.push(patient(&[], &["b"], now + second * 2));
        assert!(!line.is_due(now));
        assert!(line.is_due(now + second), "patience ends");
        line.push(patient(&[], &["c"], now));
        assert!(line.is_due(now));
        assert_eq!(first_keys(&line.take()), ["a", "b", "c"]);
        assert!(!line.is_due(now + second * 9), "nobody is left");
        for number in 0..TRANSACTIONS {
            assert!(!line.is_due(now));
            line.push(patient(&[], &[&number.to_string()], now + second));
        }
        assert!(line.is_due(now), "a request is full");
    }

    #[test]
    fn who_may_not_go_with_those_before_is_the_next_first() {
        let now = Instant::now();
        let mut line = Line::default();
        for (key, bytes) in [("a", 1), ("b", 1), ("a", 1), ("c", BYTES), ("d", 1)] {
            line.push(Waiting { bytes, ..waiting(&[], &[key]) });
        }
        let batches: Vec<Vec<String>> = std::iter::from_fn(|| {
            let batch = line.take();
            (!batch.is_empty()).then(|| first_keys(&batch).into_iter().map(str::to_owned).collect())
        })
        .collect();
        assert_eq!(batches, [vec!["a", "b"], vec!["a"], vec!["c"], vec!["d"]]);
        line.push(Waiting { bytes: BYTES * 2, ..patient(&[], &["large"], now) });
        assert_eq!(first_keys(&line.take()), ["large"], "etcd says what it thinks of it");
    }

    #[test]
    fn only_what_would_come_to_the_same_alone_goes_together() {
        let mut keys = Keys::default();
        assert!(keys.take(&waiting(&["namespace", "a"], &["a"])));
        assert!(keys.take(&waiting(&["namespace", "b"], &["b"])), "both look at a third");
        assert!(!keys.take(&waiting(&["a"], &["c"])), "it would not see the other's a");
        assert!(!keys.take(&waiting(&["c"], &["namespace"])), "the others would have had to see it");
        assert!(!keys.take(&waiting(&[], &["b"])), "a key is written once");
        assert!(keys.take(&waiting(&["c"], &["c"])));
    }
}
