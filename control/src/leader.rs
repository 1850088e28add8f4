//! Who of several control planes on one store runs the controllers: the holder of a key that is bound to a lease.
//!
//! In: the store and what to do while leading. Out: a [`Fenced`] store for that time: each of its writes carries a compare on
//! the key's revision, so that a leader that was asleep cannot write after another has taken over. Never here: what is led.
//! The key lies under `/registry/`, as everything that moves the store's revision: caches wait for that revision.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use oarlock_daemon::Tasks;
use oarlock_store::{
    Compare, Error, LeaseId, ListOptions, Op, Outcome, Page, Record, Revision, Store, Watch,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The key that the leader holds; its value is the leader's identity.
pub const KEY: &str = "/registry/claims/leader";
/// A leader that dies without a word is replaced after this long (and the half second in which etcd looks at leases).
const LEASE: Duration = Duration::from_secs(3);
/// How often the lease is renewed, and for how long one renewal may take.
const RENEW: Duration = Duration::from_millis(800);
/// Without a renewal for this long, the leader stops by itself: before etcd gives the key away.
const DOUBT: Duration = Duration::from_millis(2_400);
/// Between attempts while the store is away.
const RETRY: Duration = Duration::from_millis(500);
/// Followers look at the key at least this often, whatever the watch says.
const LOOK: Duration = Duration::from_secs(5);
/// How long giving the lease back may hold up the end of the process.
const FAREWELL: Duration = Duration::from_secs(1);

/// Stands for election until `stop`; runs `lead` with a fenced store whenever elected, and drops it when that ends. The lease is kept by a
/// task of its own: however long `lead` is busy, it has not lost it.
pub async fn run<F>(
    store: Arc<dyn Store>,
    identity: &str,
    tasks: &Tasks,
    stop: CancellationToken,
    mut lead: impl FnMut(Arc<dyn Store>, CancellationToken) -> F,
) where
    F: Future<Output = ()>,
{
    while !stop.is_cancelled() {
        let term = tokio::select! {
            () = stop.cancelled() => return,
            term = elected(&*store, identity) => term,
        };
        match term {
            Ok((lease, revision)) => {
                tracing::info!(identity, revision = revision.0, "leading: the controllers run here");
                let fenced = Arc::new(Fenced { store: Arc::clone(&store), revision });
                let over = stop.child_token();
                let lost = keep(tasks, &store, lease, revision, &over);
                // Its first turn is before anything can be busy.
                tokio::task::yield_now().await;
                tokio::select! {
                    // First: whoever keeps the lease ends with it, too.
                    biased;
                    () = stop.cancelled() => {}
                    () = lead(fenced, over.clone()) => {}
                    why = lost => {
                        tracing::warn!(identity, why = why.unwrap_or("nobody keeps the lease"), "not leading any more");
                    }
                }
                over.cancel();
                // The key goes with the lease, and another control plane takes over at once.
                let _ = tokio::time::timeout(FAREWELL, store.revoke_lease(lease)).await;
            }
            Err(error) => {
                tracing::warn!(%error, "the election cannot be held yet; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Keeps the lease until `over`; tells why that cannot go on.
fn keep(
    tasks: &Tasks,
    store: &Arc<dyn Store>,
    lease: LeaseId,
    revision: Revision,
    over: &CancellationToken,
) -> oneshot::Receiver<&'static str> {
    let (lost, told) = oneshot::channel();
    let (store, over) = (Arc::clone(store), over.clone());
    tasks.job("leader/lease", async move {
        tokio::select! {
            () = over.cancelled() => {}
            why = hold(&*store, lease, revision) => {
                // Nobody waits for it: the term has just ended.
                let _ = lost.send(why);
            }
        }
    });
    told
}

/// Waits until the key is ours.
async fn elected(store: &dyn Store, identity: &str) -> Result<(LeaseId, Revision), Error> {
    loop {
        wait_until_free(store).await?;
        let lease = store.grant_lease(LEASE).await?;
        let put = Op::Put(KEY.to_owned(), Bytes::from(identity.to_owned()), Some(lease));
        match store.txn(vec![Compare::Absent(KEY.to_owned())], vec![put]).await {
            Ok(Outcome::Committed(revision)) => return Ok((lease, revision)),
            // Another was faster. When the answer was lost, the key may be ours: it goes with its lease.
            other => {
                let _ = tokio::time::timeout(FAREWELL, store.revoke_lease(lease)).await;
                other?;
            }
        }
    }
}

async fn wait_until_free(store: &dyn Store) -> Result<(), Error> {
    loop {
        let (present, revision) = store.get(KEY).await?;
        let Some(present) = present else { return Ok(()) };
        tracing::debug!(leader = %String::from_utf8_lossy(&present.value), "another control plane leads");
        let gone = async {
            let mut watch = store.watch(KEY, revision).await?;
            watch.next().await.transpose()
        };
        // Whatever happened to it, or when nothing did for a while: look again.
        if let Ok(seen) = tokio::time::timeout(LOOK, gone).await {
            seen?;
        }
    }
}

/// Keeps the lease alive as long as the key is ours; returns why that is over.
async fn hold(store: &dyn Store, lease: LeaseId, revision: Revision) -> &'static str {
    let mut renewed = Instant::now();
    loop {
        tokio::time::sleep(RENEW).await;
        // What counts is when the renewal was sent: the lease runs on at least from there.
        let sent = Instant::now();
        let renewal = async {
            store.keep_alive(lease).await?;
            Ok(store.get(KEY).await?.0)
        };
        match tokio::time::timeout_at(renewed + DOUBT, renewal).await {
            Ok(Ok(Some(key))) if key.modified == revision => renewed = sent,
            Ok(Ok(_)) => return "somebody took the key away",
            Ok(Err(Error::LeaseNotFound(_))) => return "the lease has ended",
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not renewed; trying again"),
            Err(_) => return "the store did not answer in time",
        }
        if renewed.elapsed() >= DOUBT {
            return "the lease was not renewed in time";
        }
    }
}

/// A store that takes writes only as long as the key has the revision with which its holder was elected.
struct Fenced {
    store: Arc<dyn Store>,
    revision: Revision,
}

#[async_trait]
impl Store for Fenced {
    async fn get(&self, key: &str) -> oarlock_store::Result<(Option<Record>, Revision)> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str, options: ListOptions) -> oarlock_store::Result<Page> {
        self.store.list(prefix, options).await
    }

    async fn txn(&self, mut compares: Vec<Compare>, ops: Vec<Op>) -> oarlock_store::Result<Outcome> {
        compares.push(Compare::ModifiedAt(KEY.to_owned(), self.revision));
        match self.store.txn(compares, ops).await? {
            Outcome::Conflict(mut present) => {
                let key = present.pop().flatten();
                if key.is_none_or(|key| key.modified != self.revision) {
                    let why = "another control plane leads by now; nothing was written";
                    return Err(Error::Unavailable(why.to_owned()));
                }
                Ok(Outcome::Conflict(present))
            }
            committed @ Outcome::Committed(_) => Ok(committed),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> oarlock_store::Result<Watch> {
        self.store.watch(prefix, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> oarlock_store::Result<LeaseId> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> oarlock_store::Result<()> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> oarlock_store::Result<()> {
        self.store.revoke_lease(lease).await
    }

    async fn compact(&self, revision: Revision) -> oarlock_store::Result<()> {
        self.store.compact(revision).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oarlock_store::{Embedded, Retention};
    use tokio::sync::mpsc;

    type Term = (&'static str, Arc<dyn Store>);

    fn stand(
        tasks: &Tasks,
        store: &Arc<dyn Store>,
        name: &'static str,
        terms: &mpsc::Sender<Term>,
    ) -> CancellationToken {
        let (stop, store, terms) = (tasks.token().child_token(), Arc::clone(store), terms.clone());
        let (of_run, jobs) = (stop.clone(), tasks.clone());
        // A job: it may end before the others.
        tasks.job(name, async move {
            run(store, name, &jobs, of_run, |fenced, over| {
                let terms = terms.clone();
                async move {
                    terms.send((name, fenced)).await.unwrap();
                    over.cancelled().await;
                }
            })
            .await;
        });
        stop
    }

    async fn write(store: &dyn Store, compares: Vec<Compare>) -> oarlock_store::Result<Outcome> {
        store.txn(compares, vec![Op::Put("/registry/x".to_owned(), Bytes::new(), None)]).await
    }

    #[tokio::test]
    async fn one_leads_another_follows_at_once_and_the_first_can_write_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
        let (tasks, (sender, mut terms)) = (Tasks::new(), mpsc::channel(4));
        let first = stand(&tasks, &store, "one", &sender);
        let (name, old) = terms.recv().await.unwrap();
        assert_eq!(name, "one");
        stand(&tasks, &store, "two", &sender);
        assert!(tokio::time::timeout(LEASE, terms.recv()).await.is_err(), "one at a time, past the lease");
        assert!(matches!(write(&*old, vec![]).await, Ok(Outcome::Committed(_))));
        let taken = vec![Compare::Absent("/registry/x".to_owned())];
        let Ok(Outcome::Conflict(present)) = write(&*old, taken).await else { panic!("a plain conflict") };
        assert_eq!(present.len(), 1, "callers see their own compares only");
        first.cancel();
        let next = tokio::time::timeout(Duration::from_secs(1), terms.recv()).await;
        let (name, new) = next.expect("a leader that goes hands over at once").unwrap();
        assert_eq!(name, "two");
        assert!(matches!(write(&*old, vec![]).await, Err(Error::Unavailable(_))));
        assert!(matches!(write(&*new, vec![]).await, Ok(Outcome::Committed(_))));
        tasks.shut_down();
        tasks.finish(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[expect(clippy::disallowed_methods, reason = "a thread is kept from its other work")]
    async fn who_leads_does_so_still_though_it_was_too_busy_to_look_up() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
        let (tasks, (sender, mut terms)) = (Tasks::new(), mpsc::channel(4));
        let (jobs, stop) = (tasks.clone(), tasks.token());
        tasks.spawn("busy", async move {
            run(store, "busy", &jobs, stop, |fenced, over| {
                let sender = sender.clone();
                async move {
                    std::thread::sleep(LEASE + Duration::from_secs(2));
                    sender.send(("busy", fenced)).await.unwrap();
                    over.cancelled().await;
                }
            })
            .await;
        });
        let (_, fenced) = tokio::time::timeout(LEASE * 4, terms.recv()).await.unwrap().unwrap();
        assert!(matches!(write(&*fenced, vec![]).await, Ok(Outcome::Committed(_))), "the same term");
        assert!(tokio::time::timeout(LEASE, terms.recv()).await.is_err(), "and no second one");
        tasks.shut_down();
        tasks.finish(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn a_leader_whose_key_is_taken_away_is_fenced_at_once_and_stands_again() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
        let (tasks, (sender, mut terms)) = (Tasks::new(), mpsc::channel(4));
        stand(&tasks, &store, "one", &sender);
        let (_, old) = terms.recv().await.unwrap();
        // As after a long sleep: the key is gone though somebody thinks to hold it.
        store.txn(vec![], vec![Op::Delete(KEY.to_owned())]).await.unwrap();
        assert!(matches!(write(&*old, vec![]).await, Err(Error::Unavailable(_))), "fenced at once");
        let (_, new) = tokio::time::timeout(Duration::from_secs(5), terms.recv()).await.unwrap().unwrap();
        assert!(matches!(write(&*new, vec![]).await, Ok(Outcome::Committed(_))));
        tasks.shut_down();
        tasks.finish(Duration::from_secs(5)).await.unwrap();
    }
}
