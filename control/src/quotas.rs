//! Keeps the status of ResourceQuotas true: what is bounded, and what is used of it.
//!
//! In: changes of the cache, in order. Out: statuses, each written over the quota that it was computed from. As whoever takes from
//! a quota writes it, too, what was computed without them does not fit any more and is computed again.
//!
//! Source: k8s.io/kubernetes/pkg/controller/resourcequota.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use oarlock_api::catalogue::{EVENTS, Kind, PODS, RESOURCE_QUOTAS};
use oarlock_api::limits::Amounts;
use oarlock_api::quota;
use oarlock_api::status::Status;
use oarlock_store::Revision;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Change, Object};
use crate::registry::{Registry, Sub, WriteOptions};

/// How long after a failure everything is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// Follows quotas and what they bound until `stop`.
pub(crate) async fn run(registry: &Registry, stop: &CancellationToken) {
    let work = async {
        loop {
            if let Err(status) = follow(registry).await {
                tracing::debug!(%status, "quotas are looked at again");
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Everything there is, then what changes, until something fails.
async fn follow(registry: &Registry) -> Result<(), Status> {
    let cache = registry.cache();
    cache.wait_for(Revision(1), Duration::MAX).await;
    let mut watch = cache.watch(None, cache.revision()).map_err(Status::internal)?;
    let mut spaces = Spaces::default();
    // Quotas first: what they bound is read after them and shows at least what they were charged with.
    let mut dirty = BTreeSet::new();
    for quota in cache.list(&RESOURCE_QUOTAS, None).0 {
        dirty.insert(quota.key.namespace.clone());
        spaces.put_quota(cache, &quota);
    }
    loop {
        for namespace in std::mem::take(&mut dirty) {
            spaces.settle(registry, &namespace).await?;
        }
        for change in watch.next().await.map_err(Status::internal)? {
            if spaces.apply(cache, &change) {
                dirty.insert(change.object().key.namespace.clone());
            }
        }
    }
}

/// The namespaces that have quotas.
#[derive(Default)]
struct Spaces(HashMap<String, Space>);

#[derive(Default)]
struct Space {
    quotas: BTreeMap<String, Arc<Object>>,
    /// What each object uses, by the plural of its kind and its name.
    used: BTreeMap<(String, String), Used>,
}

struct Used {
    object: Arc<Object>,
    amounts: Amounts,
}

fn counts(kind: &Kind) -> bool {
    kind.namespaced && *kind != EVENTS
}

impl Spaces {
    fn put_quota(&mut self, cache: &Cache, quota: &Arc<Object>) {
        let namespace = &quota.key.namespace;
        let fresh = !self.0.contains_key(namespace);
        let space = self.0.entry(namespace.clone()).or_default();
        space.quotas.insert(quota.key.name.clone(), Arc::clone(quota));
        if fresh {
            for kind in cache.catalogue().kinds().iter().copied().filter(|kind| counts(kind)) {
                cache.list(kind, Some(namespace)).0.into_iter().for_each(|object| space.put(object));
            }
        }
    }

    /// Takes a change over; whether a quota may have to know.
    fn apply(&mut self, cache: &Cache, change: &Change) -> bool {
        let object = change.object();
        let key = &object.key;
        if *key.kind == RESOURCE_QUOTAS && matches!(change, Change::Put { .. }) {
            self.put_quota(cache, object);
        }
        let Some(space) = self.0.get_mut(&key.namespace).filter(|_| counts(key.kind)) else { return false };
        match change {
            Change::Put { new, .. } => space.put(Arc::clone(new)),
            Change::Delete { old, .. } => space.delete(old),
        }
        if space.quotas.is_empty() {
            self.0.remove(&key.namespace);
            return false;
        }
        true
    }

    /// Writes the statuses of a namespace that are not true.
    async fn settle(&self, registry: &Registry, namespace: &str) -> Result<(), Status> {
        let Some(space) = self.0.get(namespace) else { return Ok(()) };
        for (name, quota) in &space.quotas {
            let value = quota.value();
            let status = space.status(&value);
            if value["status"] == status {
                continue;
            }
            let metadata = json!({"uid": &*quota.uid, "resourceVersion": quota.revision.0.to_string()});
            // As a whole: a merge would keep what is not bounded any more.
            let patch = |mut present: Value| {
                present["metadata"]["resourceVersion"] = metadata["resourceVersion"].clone();
                present["status"] = status.clone();
                Ok(present)
            };
            let options = WriteOptions::default();
            match registry.modify(&RESOURCE_QUOTAS, namespace, name, Sub::Status, &options, patch).await {
                // It has changed: that change comes by, too.
                Err(status) if status.is("Conflict") || status.is("NotFound") => {}
                other => drop(other?),
            }
        }
        Ok(())
    }
}

impl Space {
    fn put(&mut self, object: Arc<Object>) {
        let amounts = quota::usage(object.key.kind, &object.value());
        let key = (object.key.kind.qualified(), object.key.name.clone());
        self.used.insert(key, Used { object, amounts });
    }

    fn delete(&mut self, object: &Object) {
        self.used.remove(&(object.key.kind.qualified(), object.key.name.clone()));
        if *object.key.kind == RESOURCE_QUOTAS {
            self.quotas.remove(&object.key.name);
        }
    }

    fn status(&self, quota: &Value) -> Value {
        let spec = &quota["spec"];
        let scoped = ["scopes", "scopeSelector"].iter().any(|field| !spec[*field].is_null());
        let within = |used: &&Used| {
            !scoped
                || *used.object.key.kind == PODS
                    && quota::concerns(quota, used.object.key.kind, &used.object.value())
        };
        quota::status(quota, self.used.values().filter(within).map(|used| &used.amounts))
    }
}
