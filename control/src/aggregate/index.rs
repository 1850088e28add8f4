//! The APIServices that name a Service, by group and version. As fresh as the cache when it is asked: nobody waits for a task.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use oarlock_api::aggregation::{self, Priority};
use oarlock_api::catalogue::API_SERVICES;
use oarlock_daemon::pki::{CertifiedKey, Trust};
use parking_lot::RwLock;
use serde_json::Value;
use tokio_rustls::rustls::ClientConfig;

use crate::cache::{Cache, CacheWatch, Change};

/// Who answers for a group and version.
#[derive(Debug)]
pub(crate) struct Backend {
    /// The APIService's name.
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    /// Where discovery shows it.
    pub(crate) priority: Priority,
    /// The namespace of the Service.
    pub(crate) namespace: String,
    /// The name of the Service.
    pub(crate) service: String,
    pub(crate) port: u16,
    /// Whether the last look found somebody there.
    pub(crate) available: bool,
    /// Whom we believe to be it; or why nobody is.
    pub(super) tls: Result<Arc<ClientConfig>, String>,
    spec: Value,
}

impl Backend {
    /// What its certificate has to be for.
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// Host and port, for requests.
    pub(crate) fn authority(&self) -> Result<HeaderValue, String> {
        HeaderValue::from_str(&format!("{}:{}", self.host(), self.port)).map_err(|e| e.to_string())
    }

    /// Where its group and version are.
    pub(crate) fn path(&self) -> String {
        if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        }
    }

    fn read(object: &Value, front: &CertifiedKey, present: Option<&Self>) -> Option<Self> {
        let spec = &object["spec"];
        let named = aggregation::service(object)?;
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let number = |field: &str| spec[field].as_i64().unwrap_or(0);
        // What is the same keeps its sessions.
        let same = present.filter(|present| present.spec == *spec);
        Some(Self {
            name: oarlock_api::meta::name(object).to_owned(),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            priority: Priority { group: number("groupPriorityMinimum"), version: number("versionPriority") },
            namespace: text(&named["namespace"]),
            service: text(&named["name"]),
            port: named["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443),
            available: aggregation::is_available(object),
            tls: same.map_or_else(|| tls(spec, front), |same| same.tls.clone()),
            spec: spec.clone(),
        })
    }
}

fn tls(spec: &Value, front: &CertifiedKey) -> Result<Arc<ClientConfig>, String> {
    let bundle = spec["caBundle"].as_str().unwrap_or("");
    let bundle = STANDARD.decode(bundle).map_err(|e| format!("spec.caBundle: {e}"))?;
    let bundle = String::from_utf8(bundle).map_err(|e| format!("spec.caBundle: {e}"))?;
    let trust = match (spec["insecureSkipTLSVerify"] == true, bundle.is_empty()) {
        (true, _) => Trust::Anybody,
        (false, false) => Trust::Bundle(&bundle),
        (false, true) => Trust::System,
    };
    trust.client_config(Some(front)).map_err(|e| format!("spec.caBundle: {e}"))
}

/// All backends.
pub(super) struct Index {
    cache: Arc<Cache>,
    front: CertifiedKey,
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    /// By group, then by version.
    backends: BTreeMap<String, BTreeMap<String, Arc<Backend>>>,
    watch: Option<CacheWatch>,
}

impl Index {
    pub(super) fn new(cache: Arc<Cache>, front: CertifiedKey) -> Self {
        Self { cache, front, state: RwLock::default() }
    }

    pub(super) fn get(&self, group: &str, version: &str) -> Option<Arc<Backend>> {
        self.with(|state| state.backends.get(group)?.get(version).cloned())
    }

    pub(super) fn all(&self) -> Vec<Arc<Backend>> {
        self.with(|state| state.backends.values().flat_map(BTreeMap::values).cloned().collect())
    }

    fn with<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        let now = self.cache.revision();
        let state = self.state.read();
        if state.watch.as_ref().is_some_and(|watch| watch.seen() >= now) {
            return look(&state);
        }
        drop(state);
        let mut state = self.state.write();
        state.catch_up(&self.cache, &self.front);
        look(&state)
    }
}

impl State {
    fn catch_up(&mut self, cache: &Arc<Cache>, front: &CertifiedKey) {
        if let Some(watch) = &mut self.watch
            && let Ok(changes) = watch.poll(|kind| *kind == API_SERVICES)
        {
            return changes.iter().for_each(|change| self.apply(change, front));
        }
        // At first, and when so much has happened that the history is gone.
        self.backends.clear();
        self.watch = cache.watch(Some(&API_SERVICES), cache.revision()).ok();
        for object in cache.list(&API_SERVICES, None).0 {
            self.put(&object.value(), front);
        }
    }

    fn apply(&mut self, change: &Change, front: &CertifiedKey) {
        match change {
            Change::Put { new, .. } => self.put(&new.value(), front),
            Change::Delete { old, .. } => self.remove(&old.value()),
        }
    }

    fn put(&mut self, object: &Value, front: &CertifiedKey) {
        let (group, version) = place(object);
        let present = self.backends.get(&group).and_then(|versions| versions.get(&version));
        match Backend::read(object, front, present.map(AsRef::as_ref)) {
            Some(backend) => {
                self.backends.entry(group).or_default().insert(version, Arc::new(backend));
            }
            None => self.remove(object),
        }
    }

    fn remove(&mut self, object: &Value) {
        let (group, version) = place(object);
        if let Some(versions) = self.backends.get_mut(&group) {
            versions.remove(&version);
            if versions.is_empty() {
                self.backends.remove(&group);
            }
        }
    }
}

/// Group and version, out of the name: the spec may have changed.
fn place(object: &Value) -> (String, String) {
    let name = oarlock_api::meta::name(object);
    let (version, group) = name.split_once('.').unwrap_or((name, ""));
    (group.to_owned(), version.to_owned())
}
