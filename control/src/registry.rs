//! The verbs of the API without HTTP: used alike by the HTTP server, the reconciler and the agents' sessions.
//!
//! In: JSON objects and options. Out: JSON objects with their resourceVersion, or a Kubernetes [`Status`]. Every write is a
//! compare-and-swap on what was read; nothing is ever written unconditionally.

mod admit;
mod bind;
mod claims;
mod components;
mod delete;
mod ensure;
mod evict;
mod freshness;
mod owners;
mod past;
mod prepare;
mod quota;
mod repair;
mod scale;
mod services;
mod write;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use oarlock_api::catalogue::Kind;
use oarlock_api::meta;
use oarlock_api::status::Status;
use oarlock_store::{ListOptions, Record, Revision, Store};
use serde_json::{Value, json};

use crate::cache::{Cache, Object, ObjectKey};
use crate::patch::Patch;

pub use admit::may_warn;
pub use bind::Binding;
pub use delete::{DeleteOptions, Deleted};
pub use repair::{GRACE, Notice, Repaired, Suspects};

/// How long a request waits for the store or for the cache to catch up with it.
const BOUND: Duration = Duration::from_secs(10);
/// How long a revision that is ahead of the cache may be on its way, as upstream waits.
const FUTURE_BOUND: Duration = Duration::from_secs(3);
/// How often a write without a version of its own is tried again when others write, too.
const ATTEMPTS: usize = 16;

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sub {
    /// The object but for its status.
    Main,
    /// `/status`: the status alone.
    Status,
    /// `/scale`: the number of replicas, as autoscaling/v1 Scale.
    Scale,
    /// `/finalize` of namespaces: `spec.finalizers` alone.
    Finalize,
    /// `/ephemeralcontainers` of pods: `spec.ephemeralContainers` alone, to which one may add.
    Ephemeral,
    /// `/approval` of CertificateSigningRequests: the conditions alone.
    Approval,
}

impl Sub {
    /// Its name in paths; empty for the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Finalize => "finalize",
            Self::Ephemeral => "ephemeralcontainers",
            Self::Approval => "approval",
        }
    }
}

/// Options of creates, updates and patches.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Do everything but write (`dryRun=All`).
    pub dry_run: bool,
    /// Whose the fields are that change. Without one, nobody is told of.
    pub manager: Option<Manager>,
    /// Whether a change may begin with what the cache has: it is made again on what the store has when that is not the present, or
    /// when nothing would be written. For writes of the control plane's own, which are many.
    pub from_cache: bool,
}

/// A field manager.
#[derive(Debug, Clone)]
pub struct Manager {
    /// Its name.
    pub name: String,
    /// The version that it writes in; the stored one without.
    pub version: Option<&'static Kind>,
    /// It has laid a configuration over the object: the owners are in it already.
    pub applies: bool,
}

impl WriteOptions {
    /// Writes of one manager, in the stored version.
    #[must_use]
    pub fn by(name: &str) -> Self {
        let manager = Manager { name: name.to_owned(), version: None, applies: false };
        Self { manager: Some(manager), ..Self::default() }
    }

    /// The same, begun with what the cache has.
    #[must_use]
    pub fn from_cache(mut self) -> Self {
        self.from_cache = true;
        self
    }

    fn applies(&self) -> bool {
        self.manager.as_ref().is_some_and(|manager| manager.applies)
    }
}

/// What the registry allocates from.
#[derive(Debug, Clone)]
pub struct Ranges {
    /// `--service-cluster-ip-range`: one range of a family, or one of each; the first is the cluster's primary family.
    pub services: Vec<IpNet>,
    /// `--service-node-port-range`, both ends included.
    pub node_ports: (u16, u16),
    /// The address of the API server itself as pods see it: the first of the service range.
    pub kubernetes_service: IpAddr,
}

/// The verbs. Shared by reference.
pub struct Registry {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    ranges: Ranges,
    /// Whose turn it is where there are quotas.
    turns: Arc<quota::Turns>,
    /// How far the store is.
    gauge: Arc<freshness::Gauge>,
}

/// A part of an older list.
#[derive(Debug)]
pub struct Part {
    /// The objects, sorted by key.
    pub objects: Vec<Object>,
    /// How many come after them.
    pub remaining: u64,
}

/// An object as it was read, with what a compare-and-swap needs.
struct Present {
    record: Record,
    value: Value,
}

impl Registry {
    /// The verbs over a store and the cache that follows it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, ranges: Ranges) -> Arc<Self> {
        Arc::new(Self { store, cache, ranges, turns: Arc::default(), gauge: Arc::default() })
    }

    /// The same verbs on another door to the same store, as a leader's.
    #[must_use]
    pub fn on(&self, store: Arc<dyn Store>) -> Self {
        let (cache, turns) = (Arc::clone(&self.cache), Arc::clone(&self.turns));
        Self { store, cache, ranges: self.ranges.clone(), turns, gauge: Arc::clone(&self.gauge) }
    }

    /// The cache, for lists and watches.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Waits until the cache was filled once: before that it would show an empty cluster.
    ///
    /// # Errors
    /// The store has not been read in time.
    pub async fn filled(&self) -> Result<(), Status> {
        if self.cache.wait_for(Revision(1), BOUND).await {
            Ok(())
        } else {
            Err(Status::unavailable("the watch cache has not been filled from the store yet; try again"))
        }
    }

    /// Waits until the cache shows a revision that a client has seen.
    ///
    /// # Errors
    /// A revision that has not happened.
    pub async fn reach(&self, revision: Revision) -> Result<(), Status> {
        self.filled().await?;
        if self.cache.wait_for(revision, FUTURE_BOUND).await {
            return Ok(());
        }
        Err(Status::future_version(revision.0, self.cache.revision().0))
    }

    /// A part of a list as it was at a revision, read from the store.
    ///
    /// # Errors
    /// `Expired` when that history is gone.
    pub async fn list_at(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        revision: Revision,
        start: Option<String>,
        limit: usize,
    ) -> Result<Part, Status> {
        let prefix = match namespace {
            Some(namespace) if kind.namespaced => format!("{}{namespace}/", kind.prefix()),
            _ => kind.prefix(),
        };
        let options = ListOptions { at: Some(revision), start, limit, uncounted: false };
        let page = bounded(self.store.list(&prefix, options)).await?;
        let remaining = page.count.saturating_sub(page.records.len() as u64);
        let objects = page.records.iter().filter_map(|record| {
            let (kind, namespace, name) = self.cache.catalogue().by_key(&record.key)?;
            Object::decode(ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() }, record)
                .ok()
        });
        Ok(Part { objects: objects.collect(), remaining })
    }

    /// One object.
    ///
    /// # Errors
    /// `NotFound`, or the store is away.
    pub async fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, Status> {
        Ok(self.read(kind, namespace, name).await?.value)
    }

    /// The Scale of one object.
    ///
    /// # Errors
    /// `NotFound`, a kind that has no replicas, or the store is away.
    pub async fn scale(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Value, Status> {
        scale::view(kind, &self.read(kind, namespace, name).await?.value)
    }

    /// All objects of a kind (of one namespace), as of now.
    ///
    /// # Errors
    /// The store is away.
    pub async fn list(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<Object>>, Status> {
        self.catch_up().await?;
        Ok(self.cache.list(kind, namespace).0)
    }

    /// Changes an object by a patch.
    ///
    /// # Errors
    /// What the patch engine, validation or the store say.
    pub async fn patch(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: Sub,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        self.modify(kind, namespace, name, sub, options, |present| patch.apply(kind, sub, present)).await
    }

    /// Reads, changes and writes an object, again as long as others write in between. The change sees the whole object
    /// (for [`Sub::Scale`]: the Scale, unless the manager applies) and returns what it should be.
    ///
    /// # Errors
    /// What the change, validation or the store say.
    pub async fn modify(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: Sub,
        options: &WriteOptions,
        mut change: impl FnMut(Value) -> Result<Value, Status>,
    ) -> Result<Value, Status> {
        let cached = options.from_cache && !options.dry_run;
        if let Some(present) = cached.then(|| self.cached(kind, namespace, name)).flatten() {
            let read = present.record.modified;
            let wanted = self.wanted(kind, name, sub, options, &present, &mut change);
            // A refusal may be due to what the cache does not know yet, and so may that nothing has to be done.
            if let Ok(wanted) = wanted
                && let Ok(Some(written)) = self.write_over(kind, present, sub, wanted, options, 0).await
                && meta::resource_version(&written) != read.0.to_string()
            {
                return Ok(written);
            }
        }
        for attempt in 0..ATTEMPTS {
            let present = self.read(kind, namespace, name).await?;
            let wanted = self.wanted(kind, name, sub, options, &present, &mut change)?;
            match self.write_over(kind, present, sub, wanted, options, attempt).await? {
                Some(written) => return Ok(written),
                // What it has to pick may be somebody else's by now.
                None if *kind == oarlock_api::catalogue::SERVICES => self.catch_up().await?,
                None => tokio::task::yield_now().await,
            }
        }
        Err(Status::modified(kind, name))
    }

    /// What a change makes of the present object.
    #[expect(clippy::unused_self, reason = "reads better beside what it is a part of")]
    fn wanted(
        &self,
        kind: &'static Kind,
        name: &str,
        sub: Sub,
        options: &WriteOptions,
        present: &Present,
        change: &mut impl FnMut(Value) -> Result<Value, Status>,
    ) -> Result<Value, Status> {
        let view = match sub {
            Sub::Scale if !options.applies() => scale::view(kind, &present.value)?,
            _ => present.value.clone(),
        };
        let version = meta::resource_version(&view).to_owned();
        let wanted = change(view)?;
        let asked = meta::resource_version(&wanted);
        if !asked.is_empty() && asked != version {
            return Err(Status::modified(kind, name));
        }
        Ok(wanted)
    }

    /// Replaces an object (`PUT`). A resourceVersion in it must be the present one; without one it is unconditional.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `Invalid`, or the store is away.
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: Sub,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        self.replace(kind, namespace, name, sub, object, options, |_, _| Ok(())).await
    }

    /// The same, if `allow` lets the new object take the place of the present one.
    ///
    /// # Errors
    /// What `allow` says, too.
    #[expect(clippy::too_many_arguments, reason = "those of update, and a question")]
    pub async fn replace(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        sub: Sub,
        object: Value,
        options: &WriteOptions,
        mut allow: impl FnMut(&Value, &Value) -> Result<(), Status>,
    ) -> Result<Value, Status> {
        let body_name = meta::name(&object);
        if body_name != name {
            return Err(Status::bad_request(format!(
                "the name of the object ({body_name}) does not match the name on the URL ({name})"
            )));
        }
        let change = |present: Value| allow(&present, &object).map(|()| object.clone());
        self.modify(kind, namespace, name, sub, options, change).await
    }

    /// An object as the cache has it: perhaps not the present one, which a compare-and-swap finds out.
    fn cached(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Present> {
        let object = self.cache.get(kind, namespace, name)?;
        let value = Value::clone(&object.value());
        let (key, modified) = (kind.key(namespace, name), object.revision);
        // When it was created is not known here and asked by nobody.
        let record = Record { key, value: write::encode(&value), created: modified, modified };
        Some(Present { record, value })
    }

    async fn read(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Present, Status> {
        let (record, _) = bounded(self.store.get(&kind.key(namespace, name))).await?;
        let record = record.ok_or_else(|| Status::not_found(kind, name))?;
        let mut value: Value = serde_json::from_slice(&record.value)
            .map_err(|e| Status::internal(format!("{} in the store does not parse: {e}", record.key)))?;
        set_version(&mut value, record.modified.0);
        Ok(Present { record, value })
    }
}

fn set_version(value: &mut Value, revision: u64) {
    meta::metadata_mut(value).insert("resourceVersion".to_owned(), json!(revision.to_string()));
}

/// A call of the store that does not hang and whose failure is a Status.
async fn bounded<T>(call: impl Future<Output = oarlock_store::Result<T>>) -> Result<T, Status> {
    let start = tokio::time::Instant::now();
    match tokio::time::timeout(BOUND, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(oarlock_store::Error::Unavailable(why))) if start.elapsed() > BOUND / 2 => {
            Err(too_late(&why.to_string()))
        }
        Ok(Err(error)) => Err(store_status(error)),
        Err(_) => Err(too_late(&format!("no answer in {BOUND:?}"))),
    }
}

fn too_late(why: &str) -> Status {
    Status::timeout(format!(
        "Timeout: request did not complete within requested timeout: the store does not answer ({why}); a write may have \
         happened or not"
    ))
}

/// A store's failure in the API's terms.
pub(crate) fn store_status(error: oarlock_store::Error) -> Status {
    use oarlock_store::Error;
    match error {
        Error::Compacted { .. } => {
            Status::expired("The provided resource version is too old and has expired.")
        }
        Error::FutureRevision { requested, current } => Status::future_version(requested.0, current.0),
        Error::TooLarge { limit, .. } => Status::too_large(limit),
        Error::Unavailable(why) => Status::unavailable(format!("the store is unavailable: {why}")),
        other @ (Error::LeaseNotFound(_) | Error::Corrupt(_)) => Status::internal(other),
    }
}

#[cfg(test)]
pub(crate) mod tests;
