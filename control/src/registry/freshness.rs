//! How far the store is, asked once for everybody who waits: of many reads at the same time each must see what was written before it
//! began, and one question that is asked after the last of them came answers all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oarlock_api::catalogue::Kind;
use oarlock_api::status::Status;
use oarlock_store::Revision;

use super::{BOUND, Registry, bounded};
use crate::cache::{Object, ObjectKey};

/// How long a read of one object waits for the cache before it asks the store for the object itself.
const CACHE_BOUND: Duration = Duration::from_millis(500);

/// The questions and the last answer.
#[derive(Debug, Default)]
pub(super) struct Gauge {
    /// How many questions have been asked.
    asked: AtomicU64,
    /// The number of the last question that was answered, and its answer. Whoever holds this asks.
    answered: tokio::sync::Mutex<(u64, Revision)>,
}

impl Gauge {
    /// A revision that the store had after this was called. `ask` is called when no question of others will do.
    async fn read(
        &self,
        ask: impl Future<Output = oarlock_store::Result<Revision>>,
    ) -> oarlock_store::Result<Revision> {
        // Whatever is under way now may have been answered before we came.
        let before = self.asked.load(Ordering::SeqCst);
        let mut answered = self.answered.lock().await;
        if answered.0 > before {
            return Ok(answered.1);
        }
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let revision = ask.await?;
        *answered = (number, revision);
        Ok(revision)
    }
}

impl Registry {
    /// The store's present revision.
    async fn present(&self) -> Result<Revision, Status> {
        // Any key does: the answer's revision is what matters.
        let ask = async { self.store.get(crate::cache::PREFIX).await.map(|(_, revision)| revision) };
        bounded(self.gauge.read(ask)).await
    }

    /// The store's present revision, reached by the cache, too: what a consistent list shows at least.
    ///
    /// # Errors
    /// The store is away, or the cache does not catch up in time.
    pub async fn catch_up(&self) -> Result<(), Status> {
        let revision = self.present().await?;
        if self.cache.wait_for(revision, BOUND).await {
            Ok(())
        } else {
            Err(Status::timeout("the watch cache does not catch up with the store; try again"))
        }
    }

    /// One object as it is now, encoded. It comes from the cache where that is as fresh as the store.
    ///
    /// # Errors
    /// `NotFound`, or the store is away.
    pub async fn find(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Status> {
        let revision = self.present().await?;
        if self.cache.wait_for(revision, CACHE_BOUND).await
            && let Some(object) = self.cache.get(kind, namespace, name)
        {
            return Ok(object);
        }
        // The cache is behind, or leaves out what does not parse: the store knows.
        let record = self.read(kind, namespace, name).await?.record;
        let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let object = Object::decode(key, &record)
            .map_err(|e| Status::internal(format!("{} in the store does not parse: {e}", record.key)))?;
        Ok(Arc::new(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_question_that_was_asked_before_is_no_answer_and_one_after_answers_all_who_wait() {
        let gauge = Arc::new(Gauge::default());
        let (answer, coming) = oneshot::channel();
        let first = {
            let gauge = Arc::clone(&gauge);
            async move { gauge.read(async { Ok(coming.await.unwrap()) }).await.unwrap() }
        };
        let late = |value: u64| {
            let gauge = Arc::clone(&gauge);
            async move { gauge.read(async { Ok(Revision(value)) }).await.unwrap() }
        };
        let ((one, two), three, ()) = tokio::join!(
            async {
                let one = first.await;
                (one, late(9).await)
            },
            async {
                tokio::task::yield_now().await;
                tokio::join!(late(7), late(8))
            },
            async {
                for _ in 0..5 {
                    tokio::task::yield_now().await;
                }
                answer.send(Revision(3)).unwrap();
            }
        );
        assert_eq!(one, Revision(3), "who asked is told");
        assert_eq!(
            three,
            (Revision(7), Revision(7)),
            "who came later is not told that, but one answer does for both"
        );
        assert!(two == Revision(9) || two == Revision(7), "{two:?}");
    }

    #[tokio::test]
    async fn a_failure_is_nobody_elses() {
        let gauge = Gauge::default();
        let failing = async { Err(oarlock_store::Error::Unavailable("away".to_owned())) };
        assert!(gauge.read(failing).await.is_err());
        assert_eq!(gauge.read(async { Ok(Revision(4)) }).await.unwrap(), Revision(4));
    }
}
