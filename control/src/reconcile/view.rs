//! What the controllers see, kept up to date by those who do not lead, too: who begins to lead goes on from there at once, however large
//! the cluster is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oarlock_planner::World;
use oarlock_store::Revision;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, CacheWatch, Change, Expired};

/// How long one looks for the first list at a time.
const FIRST_LIST: Duration = Duration::from_secs(60);

/// The world up to a revision, and the changes from there.
#[derive(Debug)]
pub(super) struct View {
    pub(super) world: World,
    pub(super) watch: CacheWatch,
}

impl View {
    /// Reads everything, which takes seconds in a large cluster: beside what else is done.
    pub(super) async fn load(cache: &Arc<Cache>) -> Result<Self, Expired> {
        while !cache.wait_for(Revision(1), FIRST_LIST).await {}
        let reading = Arc::clone(cache);
        match tokio::task::spawn_blocking(move || Self::read(&reading)).await {
            Ok(read) => read,
            // What it cannot read it could not read a second time: the process ends, as for any task that it needs.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        }
    }

    fn read(cache: &Arc<Cache>) -> Result<Self, Expired> {
        let start = Instant::now();
        let watch = cache.watch(None, cache.revision())?;
        let (mut world, mut count) = (World::default(), 0);
        for kind in cache.catalogue().kinds() {
            for object in cache.list(kind, None).0 {
                let key = &object.key;
                world.put(kind, &key.namespace, &key.name, &object.value(), object.revision.0);
                count += 1;
            }
        }
        tracing::info!(objects = count, took = ?start.elapsed(), "the controllers' view is loaded");
        Ok(Self { world, watch })
    }

    /// Takes changes over until the watch falls behind.
    async fn follow(&mut self) -> Expired {
        loop {
            match self.watch.next().await {
                Ok(changes) => changes.iter().for_each(|change| see(&mut self.world, change)),
                Err(expired) => return expired,
            }
        }
    }
}

/// Takes one change over.
pub(super) fn see(world: &mut World, change: &Change) {
    let key = &change.object().key;
    let (kind, namespace, name) = (key.kind, &key.namespace, &key.name);
    match change {
        Change::Put { new, .. } => world.put(kind, namespace, name, &new.value(), new.revision.0),
        Change::Delete { revision, .. } => world.delete(kind, namespace, name, revision.0),
    }
}

/// A view that is kept while nobody needs it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Standby(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Held by whoever follows, and by whoever leads as long as that is so: the view is in memory once.
    view: Arc<Mutex<Option<View>>>,
    wanted: Notify,
}

impl Standby {
    /// Keeps a view whenever nobody has taken it, until `stop` is cancelled.
    pub async fn keep(self, cache: Arc<Cache>, stop: CancellationToken) {
        let keeping = async {
            loop {
                let mut kept = self.0.view.lock().await;
                let view = match kept.take() {
                    Some(view) => Ok(view),
                    None => View::load(&cache).await,
                };
                let mut view = match view {
                    Ok(view) => view,
                    Err(expired) => {
                        tracing::debug!(%expired, "the view is loaded again");
                        continue;
                    }
                };
                tokio::select! {
                    expired = view.follow() => tracing::debug!(%expired, "the view is loaded again"),
                    // Whoever wants it waits in line before us.
                    () = self.0.wanted.notified() => *kept = Some(view),
                }
            }
        };
        tokio::select! {
            () = keeping => {}
            () = stop.cancelled() => {}
        }
    }

    /// Takes the view, if one is kept. While the guard is held, none is.
    pub(super) async fn take(&self) -> OwnedMutexGuard<Option<View>> {
        let taking = Arc::clone(&self.0.view).lock_owned();
        tokio::pin!(taking);
        // First in line, then tell: else whoever keeps it would have it again.
        if let std::task::Poll::Ready(kept) = futures_util::poll!(&mut taking) {
            return kept;
        }
        self.0.wanted.notify_one();
        taking.await
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oarlock_api::catalogue::{CONFIG_MAPS, Catalogue};
    use oarlock_daemon::Tasks;
    use oarlock_daemon::admin::Health;
    use oarlock_store::{Embedded, Op, Outcome, Retention, Store};

    use super::*;

    async fn put(store: &dyn Store, name: &str) -> Revision {
        let text = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
        let put = Op::Put(CONFIG_MAPS.key("d", name), Bytes::from(text), None);
        match store.txn(vec![], vec![put]).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict(_) => panic!("no compare"),
        }
    }

    #[tokio::test]
    async fn who_begins_to_lead_is_handed_what_was_kept_and_it_is_kept_again_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
        let cache = Cache::new(Arc::new(Catalogue::builtin()));
        let (tasks, standby) = (Tasks::new(), Standby::default());
        tasks.spawn("cache", Arc::clone(&cache).run(Arc::clone(&store), Health::default(), tasks.token()));
        tasks.spawn("standby", standby.clone().keep(Arc::clone(&cache), tasks.token()));
        put(&*store, "first").await;
        for round in 0..3 {
            let last = put(&*store, &format!("then{round}")).await;
            assert!(cache.wait_for(last, Duration::from_secs(5)).await);
            let mut kept = tokio::time::timeout(Duration::from_secs(5), standby.take()).await.unwrap();
            let Some(mut view) = kept.take() else {
                // Nobody had begun to keep it.
                assert_eq!(round, 0);
                continue;
            };
            // What was not taken over yet is still to come.
            for change in view.watch.poll(|_| true).unwrap() {
                see(&mut view.world, &change);
            }
            let key = ("d".to_owned(), format!("then{round}"));
            assert!(view.world.get(&CONFIG_MAPS, &key).is_some(), "round {round}");
            assert_eq!(view.world.revision(), last.0);
            drop(kept);
            tokio::task::yield_now().await;
        }
        tasks.shut_down();
        tasks.finish(Duration::from_secs(5)).await.unwrap();
    }
}
