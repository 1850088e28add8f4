//! Whether APIServices are available: looked at by the control plane that leads, written into their conditions.
//!
//! In: changes of APIServices, of their Services and endpoints, and time. Out: the condition `Available`. What can be said without
//! asking is said by `oarlock_planner::aggregation`.
//!
//! Source: k8s.io/kube-aggregator/pkg/controllers/status.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use oarlock_api::aggregation::{self, Availability};
use oarlock_api::catalogue::{API_SERVICES, ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use oarlock_api::status::Status;
use oarlock_planner::aggregation::obstacle;
use oarlock_store::Revision;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Aggregator;
use crate::cache::{CacheWatch, Change};
use crate::registry::{Registry, Sub, WriteOptions};

/// How often somebody who is available is looked at, and the longest pause for who is not.
const AGAIN: Duration = Duration::from_secs(30);
/// The first pause for who is not.
const SOON: Duration = Duration::from_millis(500);
/// APIServices that are looked at at the same time.
const PARALLEL: usize = 16;
/// What labels slices with their Service.
const OF_SERVICE: &str = "kubernetes.io/service-name";

/// When an APIService is looked at next, and how often it has failed.
#[derive(Debug, Clone, Copy)]
struct Turn {
    at: Instant,
    failures: u32,
}

impl Turn {
    fn now() -> Self {
        Self { at: Instant::now(), failures: 0 }
    }

    fn after(self, is_available: bool) -> Self {
        if is_available {
            return Self { at: Instant::now() + AGAIN, failures: 0 };
        }
        let pause = SOON.saturating_mul(1 << self.failures.min(6)).min(AGAIN);
        Self { at: Instant::now() + pause, failures: self.failures + 1 }
    }
}

impl Aggregator {
    /// Looks at APIServices until `stop`.
    pub(crate) async fn check(&self, registry: &Registry, stop: &CancellationToken) {
        let work = async {
            self.cache.wait_for(Revision(1), Duration::MAX).await;
            loop {
                if let Ok(watch) = self.cache.watch(None, self.cache.revision()) {
                    self.follow(registry, watch).await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    /// Everything there is, then what changes, until too much has.
    async fn follow(&self, registry: &Registry, mut watch: CacheWatch) {
        let all = self.cache.list(&API_SERVICES, None).0;
        let mut turns: BTreeMap<String, Turn> =
            all.iter().map(|object| (object.key.name.clone(), Turn::now())).collect();
        loop {
            let next = turns.values().map(|turn| turn.at).min().unwrap_or_else(|| Instant::now() + AGAIN);
            tokio::select! {
                changes = watch.next() => {
                    let Ok(changes) = changes else { return };
                    for name in changes.iter().flat_map(|change| self.concerned(change)) {
                        turns.insert(name, Turn::now());
                    }
                }
                () = tokio::time::sleep_until(next) => self.turn(registry, &mut turns).await,
            }
        }
    }

    /// Whom a change is about.
    fn concerned(&self, change: &Change) -> Vec<String> {
        let object = change.object();
        let key = &object.key;
        if *key.kind == API_SERVICES {
            let same = matches!(change, Change::Put { new, old: Some(old) } if new.value()["spec"] == old.value()["spec"]);
            return if same { Vec::new() } else { vec![key.name.clone()] };
        }
        let service = if *key.kind == ENDPOINT_SLICES {
            object.label(OF_SERVICE).unwrap_or("")
        } else if *key.kind == SERVICES || *key.kind == ENDPOINTS {
            key.name.as_str()
        } else {
            return Vec::new();
        };
        let backends = self.backends().into_iter();
        let named = backends.filter(|b| b.service == service && b.namespace == key.namespace);
        named.map(|backend| backend.name.clone()).collect()
    }

    /// Looks at those whose turn it is.
    async fn turn(&self, registry: &Registry, turns: &mut BTreeMap<String, Turn>) {
        let now = Instant::now();
        let due: Vec<String> =
            turns.iter().filter(|(_, turn)| turn.at <= now).map(|(name, _)| name.clone()).collect();
        let looks = futures_util::stream::iter(due)
            .map(|name| async move { (self.see(registry, &name).await, name) })
            .buffer_unordered(PARALLEL);
        let looked: Vec<_> = looks.collect().await;
        for (outcome, name) in looked {
            match outcome {
                // Who answers here needs no second look.
                Ok(None) => drop(turns.remove(&name)),
                Ok(Some(is_available)) => {
                    turns.entry(name).and_modify(|turn| *turn = turn.after(is_available));
                }
                Err(status) => {
                    tracing::debug!(%status, name, "the condition of an APIService could not be written");
                    turns.entry(name).and_modify(|turn| *turn = turn.after(false));
                }
            }
        }
    }

    /// Looks at one and says what was found; whether it is available, if that can change by itself.
    async fn see(&self, registry: &Registry, name: &str) -> Result<Option<bool>, Status> {
        let Some(object) = self.cache.get(&API_SERVICES, "", name) else { return Ok(None) };
        let object = object.value();
        let found = self.availability(&object).await;
        let spec = &object["spec"];
        let change = |mut present: Value| {
            if present["spec"] == *spec
                && let Some(status) = found.status_of(&present, Timestamp::now())
            {
                present["status"] = status;
            }
            Ok(present)
        };
        if found.status_of(&object, Timestamp::now()).is_some() {
            tracing::info!(name, status = found.status, reason = found.reason, message = %found.message, "an APIService's availability changed");
            let options = WriteOptions::by("kube-apiserver");
            match registry.modify(&API_SERVICES, "", name, Sub::Status, &options, change).await {
                Err(status) if status.is("NotFound") => return Ok(None),
                other => drop(other?),
            }
        }
        Ok(aggregation::service(&object).map(|_| found.status == "True"))
    }

    async fn availability(&self, object: &Value) -> Availability {
        let Some(named) = aggregation::service(object) else { return Availability::local() };
        let text = |field: &str| named[field].as_str().unwrap_or("");
        let (namespace, name) = (text("namespace"), text("name"));
        let service = self.cache.get(&SERVICES, namespace, name).map(|service| service.value());
        let slices = self.cache.list(&ENDPOINT_SLICES, Some(namespace)).0;
        let slices: Vec<_> = slices
            .iter()
            .filter(|slice| slice.label(OF_SERVICE) == Some(name))
            .map(|slice| slice.value())
            .collect();
        if let Some(obstacle) = obstacle(object, service.as_deref(), &slices) {
            return obstacle;
        }
        let (group, version) = (
            object["spec"]["group"].as_str().unwrap_or(""),
            object["spec"]["version"].as_str().unwrap_or(""),
        );
        let Some(backend) = self.backend(group, version) else { return Availability::local() };
        match self.look(&backend).await {
            Ok(()) => Availability::passed(),
            Err(why) => Availability::failed("FailedDiscoveryCheck", why),
        }
    }
}
