//! Keeping the cache equal to the store: list once, then follow; go on from there when the watch breaks, and list again when the store
//! has forgotten what came since.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use oarlock_daemon::admin::Health;
use oarlock_store::{Event, ListOptions, Record, Revision, Store};
use tokio_util::sync::CancellationToken;

use super::{Applied, Cache};

/// Everything that we keep in the store lies under this prefix.
pub const PREFIX: &str = "/registry/";
/// What is watched: all keys, also those of others in a shared etcd. They move the store's revision, for which consistent reads
/// wait; a watch over our own keys would not tell.
const WATCHED: &str = "";
/// Records fetched at once: a bound on memory, not on the list.
const PAGE: usize = 5_000;
const RETRY: Duration = Duration::from_millis(500);

impl Cache {
    /// Follows the store until the token is cancelled. The store being away is reported in `health` and retried for ever;
    /// reads go on with what is there.
    pub async fn run(self: Arc<Self>, store: Arc<dyn Store>, health: Health, token: CancellationToken) {
        health.set("store", Err("not listed yet".to_owned()));
        tokio::select! {
            () = token.cancelled() => {}
            () = self.follow_for_ever(&*store, &health) => {}
        }
    }

    async fn follow_for_ever(&self, store: &dyn Store, health: &Health) {
        let mut is_listed = false;
        loop {
            let Err(error) = self.follow(store, health, &mut is_listed).await;
            match &error {
                oarlock_store::Error::Unavailable(_) => {
                    tracing::warn!(%error, "the watch over the store broke; going on from where it was");
                }
                _ => {
                    tracing::warn!(%error, "the watch over the store broke; listing again");
                    is_listed = false;
                }
            }
            health.set("store", Err(error.to_string()));
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(
        &self,
        store: &dyn Store,
        health: &Health,
        is_listed: &mut bool,
    ) -> Result<std::convert::Infallible, oarlock_store::Error> {
        if !*is_listed {
            self.relist(store).await?;
            *is_listed = true;
        }
        let mut watch = store.watch(WATCHED, self.revision()).await?;
        health.set("store", Ok(()));
        while let Some(batch) = watch.next().await {
            let batch = batch?;
            let changes = batch.events.into_iter().map(applied).collect();
            self.apply(changes, batch.revision);
        }
        Err(oarlock_store::Error::Unavailable("the watch ended".to_owned()))
    }

    /// Lists everything at one revision and applies what differs.
    async fn relist(&self, store: &dyn Store) -> Result<(), oarlock_store::Error> {
        let was = self.revision();
        let is_first = was == Revision(0);
        if is_first {
            // What an attempt that broke off has left.
            let mut state = self.state.write();
            state.tables.clear();
            state.on_nodes.clear();
        }
        let mut records: Vec<Record> = Vec::new();
        let mut options = ListOptions { limit: PAGE, uncounted: true, ..ListOptions::default() };
        let revision = loop {
            let page = store.list(PREFIX, options.clone()).await?;
            options.at = Some(page.revision);
            options.start = page.records.last().map(|last| format!("{}\0", last.key));
            if is_first {
                // Nobody sees the cache before it has a revision: a large store is never in memory twice.
                self.state.write().fill(&self.catalogue, page.records, &mut self.samples.lock());
            } else {
                records.extend(page.records);
            }
            if !page.more {
                break page.revision;
            }
        };
        if revision < was {
            // A backup was restored.
            tracing::error!(was = was.0, is = revision.0, "the store's revision went back");
        }
        let changes = if is_first { Vec::new() } else { self.differences(records, revision) };
        self.replace(changes, revision);
        Ok(())
    }

    fn differences(&self, records: Vec<Record>, revision: Revision) -> Vec<Applied> {
        let state = self.state.read();
        let mut gone: std::collections::HashSet<String> = state
            .tables
            .iter()
            .flat_map(|(kind, table)| table.keys().map(|(namespace, name)| kind.key(namespace, name)))
            .collect();
        let mut changed = Vec::new();
        for record in records {
            gone.remove(&record.key);
            let present = self.catalogue.by_key(&record.key).and_then(|(kind, namespace, name)| {
                state.tables.get(kind)?.get(&(namespace.to_owned(), name.to_owned())).map(|o| o.revision)
            });
            if present != Some(record.modified) {
                changed.push(record);
            }
        }
        changed.sort_by_key(|record| record.modified);
        let mut gone: Vec<String> = gone.into_iter().collect();
        gone.sort();
        changed
            .into_iter()
            .map(Applied::Put)
            .chain(gone.into_iter().map(|key| Applied::Delete(key, revision)))
            .collect()
    }
}

fn applied(event: Event) -> Applied {
    match event {
        Event::Put { record, .. } => Applied::Put(record),
        Event::Delete { previous, revision } => Applied::Delete(previous.key, revision),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Change;
    use bytes::Bytes;
    use oarlock_api::catalogue::{CONFIG_MAPS, Catalogue, PODS};
    use oarlock_daemon::Tasks;
    use oarlock_store::{Embedded, Op, Retention};

    struct Fixture {
        store: Arc<dyn Store>,
        cache: Arc<Cache>,
        tasks: Tasks,
        _folder: tempfile::TempDir,
    }

    async fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
        let cache = Cache::new(Arc::new(Catalogue::builtin()));
        let tasks = Tasks::new();
        put(&*store, "first", "0").await;
        tasks.spawn("cache", Arc::clone(&cache).run(Arc::clone(&store), Health::default(), tasks.token()));
        assert!(cache.wait_for(Revision(2), Duration::from_secs(5)).await);
        Fixture { store, cache, tasks, _folder: folder }
    }

    async fn write(store: &dyn Store, op: Op) -> Revision {
        match store.txn(vec![], vec![op]).await.unwrap() {
            oarlock_store::Outcome::Committed(revision) => revision,
            oarlock_store::Outcome::Conflict(_) => panic!("no compare"),
        }
    }

    async fn put(store: &dyn Store, name: &str, value: &str) -> Revision {
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"v":"{value}"}}}}"#
        );
        write(store, Op::Put(CONFIG_MAPS.key("d", name), Bytes::from(text), None)).await
    }

    fn said(changes: &[Arc<Change>]) -> Vec<String> {
        let value = |o: &crate::cache::Object| o.value()["data"]["v"].as_str().unwrap().to_owned();
        changes
            .iter()
            .map(|change| match &**change {
                Change::Put { new, old: None } => format!("+{}={}", new.key.name, value(new)),
                Change::Put { new, old: Some(old) } => {
                    format!("{}: {} -> {}", new.key.name, value(old), value(new))
                }
                Change::Delete { old, .. } => format!("-{}", old.key.name),
            })
            .collect()
    }

    #[tokio::test]
    async fn the_cache_follows_the_store_and_watchers_see_every_change() {
        let f = fixture().await;
        let start = f.cache.revision();
        let mut watch = f.cache.watch(Some(&CONFIG_MAPS), start).unwrap();
        put(&*f.store, "a", "1").await;
        put(&*f.store, "a", "2").await;
        write(&*f.store, Op::Put("/registry/claims/x".into(), Bytes::from_static(b"y"), None)).await;
        let last = write(&*f.store, Op::Delete(CONFIG_MAPS.key("d", "first"))).await;
        assert!(f.cache.wait_for(last, Duration::from_secs(5)).await);
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(said(&watch.next().await.unwrap()));
        }
        assert_eq!(seen, ["+a=1", "a: 1 -> 2", "-first"]);
        assert_eq!(watch.seen(), last);
        let again = f.cache.watch(None, start).unwrap().next().await.unwrap();
        assert_eq!(said(&again), seen, "any kept revision can be watched from");
        let (objects, revision) = f.cache.list(&CONFIG_MAPS, Some("d"));
        assert_eq!((objects.len(), revision), (1, last));
        assert!(f.cache.watch(None, Revision(1)).is_err(), "what was there at start is no history");
        f.tasks.shut_down();
        f.tasks.finish(Duration::from_secs(5)).await.unwrap();
    }

    #[tokio::test]
    async fn pods_are_on_their_nodes_also_those_that_were_there_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&folder.path().join("s"), Retention::default()).unwrap();
        let pod = |name: &str, node: &str| {
            let text = format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{"nodeName":"{node}"}}}}"#
            );
            Op::Put(PODS.key("d", name), Bytes::from(text), None)
        };
        for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
            write(&store, pod(name, node)).await;
        }
        let cache = Cache::new(Arc::new(Catalogue::builtin()));
        cache.relist(&store).await.unwrap();
        let on = |node: &str| -> Vec<String> {
            let mut names: Vec<String> = cache.pods_on(node).iter().map(|pod| pod.key.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!((on("n1"), on("n2"), on("n3")), (vec!["a".into(), "c".into()], vec!["b".into()], vec![]));
        write(&store, Op::Delete(PODS.key("d", "a"))).await;
        write(&store, pod("d", "n3")).await;
        cache.relist(&store).await.unwrap();
        assert_eq!((on("n1"), on("n2"), on("n3")), (vec!["c".into()], vec!["b".into()], vec!["d".into()]));
    }

    #[test]
    fn of_pods_that_changed_last_the_value_is_held_and_of_others_not() {
        let cache = Cache::new(Arc::new(Catalogue::builtin()));
        let put = |kind: &oarlock_api::catalogue::Kind, name: &str, revision| {
            let value =
                format!(r#"{{"apiVersion":"v1","kind":"{}","metadata":{{"name":"{name}"}}}}"#, kind.kind);
            let (created, modified) = (Revision(1), Revision(revision));
            let record = Record { key: kind.key("d", name), value: value.into(), created, modified };
            cache.apply(vec![Applied::Put(record)], modified);
        };
        let held = |kind, name: &str| {
            let object = cache.get(kind, "d", name).unwrap();
            Arc::strong_count(&object.value()) > 1
        };
        put(&PODS, "first", 2);
        put(&CONFIG_MAPS, "map", 3);
        assert!(held(&PODS, "first") && !held(&CONFIG_MAPS, "map"));
        for number in 0..crate::cache::PARSED {
            put(&PODS, &format!("p{number}"), 4 + number as u64);
        }
        assert!(!held(&PODS, "first") && held(&PODS, "p0"), "as many as there is room for");
    }

    #[tokio::test]
    async fn what_happened_while_the_store_could_not_be_followed_is_told_as_it_happened() {
        let f = fixture().await;
        let mut watch = f.cache.watch(None, f.cache.revision()).unwrap();
        f.tasks.shut_down();
        f.tasks.finish(Duration::from_secs(5)).await.unwrap();
        put(&*f.store, "a", "1").await;
        let gone = write(&*f.store, Op::Delete(CONFIG_MAPS.key("d", "first"))).await;
        let last = put(&*f.store, "a", "2").await;
        let (health, mut is_listed) = (Health::default(), true);
        let following = f.cache.follow(&*f.store, &health, &mut is_listed);
        let seeing = async {
            let mut changes = Vec::new();
            while changes.len() < 3 {
                changes.extend(watch.next().await.unwrap());
            }
            changes
        };
        let changes = tokio::select! {
            changes = seeing => changes,
            ended = following => panic!("{ended:?}"),
        };
        assert_eq!(said(&changes), ["+a=1", "-first", "a: 1 -> 2"]);
        assert_eq!((changes[1].revision(), f.cache.revision()), (gone, last));
    }

    #[tokio::test]
    async fn after_a_list_watchers_list_again_and_see_what_is_there() {
        let f = fixture().await;
        let before = f.cache.revision();
        let (mut behind, mut waiting) =
            (f.cache.watch(None, before).unwrap(), f.cache.watch(None, before).unwrap());
        f.tasks.shut_down();
        f.tasks.finish(Duration::from_secs(5)).await.unwrap();
        put(&*f.store, "a", "1").await;
        write(&*f.store, Op::Delete(CONFIG_MAPS.key("d", "first"))).await;
        let last = put(&*f.store, "a", "2").await;
        let (told, listed) = tokio::join!(waiting.next(), f.cache.relist(&*f.store));
        listed.unwrap();
        let expired = crate::cache::Expired { asked: before, oldest: last };
        assert_eq!(behind.next().await.unwrap_err(), expired);
        assert_eq!(told.unwrap_err(), expired, "while it waited");
        assert_eq!(f.cache.watch(None, before).unwrap_err(), expired);
        let (objects, revision) = f.cache.list(&CONFIG_MAPS, None);
        let names: Vec<_> = objects.iter().map(|o| o.key.name.as_str()).collect();
        assert_eq!((names, revision), (vec!["a"], last));
        assert_eq!(objects[0].value()["data"]["v"], "2");
        let mut again = f.cache.watch(None, last).unwrap();
        assert!(again.poll(|_| true).unwrap().is_empty(), "differences are no history");
    }

    #[tokio::test]
    async fn a_store_that_went_back_in_time_is_listed_again_and_watchers_are_told() {
        let f = fixture().await;
        for _ in 0..5 {
            put(&*f.store, "a", "1").await;
        }
        let far = put(&*f.store, "a", "1").await;
        assert!(f.cache.wait_for(far, Duration::from_secs(5)).await);
        let mut watch = f.cache.watch(None, far).unwrap();
        f.tasks.shut_down();
        f.tasks.finish(Duration::from_secs(5)).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let backup: Arc<dyn Store> =
            Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
        let back = put(&*backup, "b", "1").await;
        let ended = f.cache.follow(&*backup, &Health::default(), &mut true).await;
        assert!(matches!(ended, Err(oarlock_store::Error::FutureRevision { .. })), "{ended:?}");
        f.cache.relist(&*backup).await.unwrap();
        assert_eq!(f.cache.revision(), back);
        let expired = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap();
        assert_eq!(expired.unwrap_err().asked, far);
        assert!(f.cache.get(&CONFIG_MAPS, "d", "a").is_none());
        assert!(f.cache.get(&CONFIG_MAPS, "d", "b").is_some());
    }
}
