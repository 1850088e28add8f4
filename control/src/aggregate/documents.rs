//! What backends say that they serve: asked for from time to time and kept, so that discovery waits for nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oarlock_api::catalogue::API_SERVICES;
use oarlock_store::Revision;
use parking_lot::RwLock;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Aggregator, Backend, Refusal};
use crate::auth::{MASTERS, User};

/// How often a document is asked for anew, and what is fresh enough when something changes.
const AGAIN: Duration = Duration::from_secs(60);
const FRESH: Duration = Duration::from_secs(20);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a backend said.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// Its resources as aggregated discovery shows them.
    pub(crate) resources: Arc<Value>,
    /// Where its OpenAPI document of version 3 is, if it has one.
    pub(crate) open_api: Option<String>,
    /// Whether it has answered the last time, too.
    pub(crate) is_current: bool,
    at: Instant,
}

/// The documents, by the names of APIServices.
#[derive(Debug, Default)]
pub(super) struct Documents(RwLock<HashMap<String, Document>>);

/// Who asks for them: somebody who may.
fn aggregator() -> User {
    User::known("system:kube-aggregator", &[MASTERS.to_owned()])
}

impl Aggregator {
    /// What a backend said the last time.
    pub(crate) fn document(&self, backend: &Backend) -> Option<Document> {
        self.documents.0.read().get(&backend.name).cloned()
    }

    /// Asks a backend what it serves, and keeps it.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn look(&self, backend: &Backend) -> Result<(), String> {
        let user = aggregator();
        let path = backend.path();
        let (listed, index) = tokio::join!(
            self.ask(backend, &user, &path, PATIENCE),
            self.ask(backend, &user, "/openapi/v3", PATIENCE),
        );
        let mut documents = self.documents.0.write();
        let listed = listed.map_err(|refusal| {
            if let Some(known) = documents.get_mut(&backend.name) {
                known.is_current = false;
            }
            let url = format!("https://{}:{}{path}", backend.host(), backend.port);
            match refusal {
                Refusal::Answer(code, _) => {
                    format!("failing or missing response from {url}: bad status from {url}: {code}")
                }
                Refusal::Unreachable(why) => format!("failing or missing response from {url}: {why}"),
            }
        })?;
        let listed: Value = serde_json::from_slice(&listed).unwrap_or_default();
        let index: Value =
            index.ok().and_then(|index| serde_json::from_slice(&index).ok()).unwrap_or_default();
        let document = Document {
            resources: Arc::new(resources(&listed, &backend.group, &backend.version)),
            open_api: address(&index, &path),
            is_current: true,
            at: Instant::now(),
        };
        documents.insert(backend.name.clone(), document);
        Ok(())
    }

    /// Keeps the documents of whoever is available until `stop`.
    pub(crate) async fn keep_documents(&self, stop: CancellationToken) {
        let work = async {
            self.cache.wait_for(Revision(1), Duration::MAX).await;
            loop {
                let Ok(mut watch) = self.cache.watch(Some(&API_SERVICES), self.cache.revision()) else {
                    continue;
                };
                self.refresh().await;
                // Whether something changed, time went by, or too much has changed to be told: all is looked at.
                let _ = tokio::time::timeout(AGAIN, watch.next()).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    }

    async fn refresh(&self) {
        let backends = self.backends();
        self.documents.0.write().retain(|name, document| {
            let backend = backends.iter().find(|backend| backend.name == *name);
            document.is_current &= backend.is_some_and(|backend| backend.available);
            backend.is_some()
        });
        let is_due = |backend: &&Arc<Backend>| {
            let known = self.document(backend);
            backend.available && known.is_none_or(|known| !known.is_current || known.at.elapsed() > FRESH)
        };
        let mut looks: FuturesUnordered<_> =
            backends.iter().filter(is_due).map(|backend| self.look(backend)).collect();
        while let Some(looked) = looks.next().await {
            if let Err(why) = looked {
                tracing::debug!(why, "an aggregated API does not say what it serves");
            }
        }
    }
}

/// An APIResourceList as aggregated discovery has it: subresources below their resources.
fn resources(list: &Value, group: &str, version: &str) -> Value {
    let mut found: Vec<Value> = Vec::new();
    for entry in list["resources"].as_array().into_iter().flatten() {
        let text = |field: &str| entry[field].as_str().unwrap_or("");
        let or = |field: &str, otherwise: &str| match text(field) {
            "" => otherwise.to_owned(),
            given => given.to_owned(),
        };
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let kind =
            json!({"group": or("group", group), "version": or("version", version), "kind": text("kind")});
        let (name, below) = text("name").split_once('/').map_or((text("name"), None), |(n, b)| (n, Some(b)));
        let position = found.iter().position(|known| known["resource"] == name);
        let index = position.unwrap_or_else(|| {
            // What has parts need not be something itself, as metrics of pods; it comes later, or never.
            found.push(json!({
                "resource": name, "responseKind": {"group": "", "version": "", "kind": ""}, "scope": scope,
                "singularResource": "", "verbs": [],
            }));
            found.len() - 1
        });
        let Some(resource) = found.get_mut(index) else { continue };
        match below {
            None => {
                resource["responseKind"] = kind;
                resource["scope"] = json!(scope);
                resource["singularResource"] = json!(text("singularName"));
                resource["verbs"] = entry["verbs"].clone();
                for field in ["shortNames", "categories"] {
                    if entry[field].as_array().is_some_and(|words| !words.is_empty()) {
                        resource[field] = entry[field].clone();
                    }
                }
            }
            Some(below) => {
                let part = json!({"subresource": below, "responseKind": kind, "verbs": entry["verbs"]});
                match resource["subresources"].as_array_mut() {
                    Some(parts) => parts.push(part),
                    None => resource["subresources"] = json!([part]),
                }
            }
        }
    }
    Value::Array(found)
}

/// Where a backend's document of its group and version is: nowhere else than with us.
fn address(index: &Value, path: &str) -> Option<String> {
    let given = index["paths"][path.trim_start_matches('/')]["serverRelativeURL"].as_str()?;
    let own = format!("/openapi/v3{path}");
    let rest = given.strip_prefix(&own)?;
    (rest.is_empty() || rest.starts_with('?')).then(|| given.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_are_put_below_resources_that_may_be_none() {
        let list = json!({"resources": [
            {"name": "pods/rate", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]},
            {"name": "things", "singularName": "thing", "namespaced": false, "kind": "Thing", "verbs": ["list"],
             "shortNames": ["th"], "group": "other", "version": "v2"},
            {"name": "things/status", "namespaced": false, "kind": "Thing", "verbs": ["get"]}]});
        let found = resources(&list, "g", "v1");
        assert_eq!(
            found[0],
            json!({"resource": "pods", "responseKind": {"group": "", "version": "", "kind": ""}, "scope": "Namespaced",
                "singularResource": "", "verbs": [], "subresources": [{"subresource": "rate", "verbs": ["get"],
                "responseKind": {"group": "g", "version": "v1", "kind": "MetricValueList"}}]})
        );
        assert_eq!(
            (&found[1]["responseKind"]["group"], &found[1]["shortNames"], &found[1]["scope"]),
            (&json!("other"), &json!(["th"]), &json!("Cluster"))
        );
        assert_eq!(found[1]["subresources"][0]["subresource"], "status");
        assert_eq!(resources(&json!(null), "g", "v1"), json!([]));
    }

    #[test]
    fn documents_are_looked_for_where_they_are_asked_for() {
        let of =
            |url: &str| address(&json!({"paths": {"apis/g/v1": {"serverRelativeURL": url}}}), "/apis/g/v1");
        assert_eq!(of("/openapi/v3/apis/g/v1?hash=A").as_deref(), Some("/openapi/v3/apis/g/v1?hash=A"));
        for wrong in
            ["/openapi/v3/apis/g/v1beta1", "https://example.com/openapi/v3/apis/g/v1", "/api/v1/secrets"]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    /// What an API of somebody's says that it serves.
    #[test]
    fn fuzz_served_by_others() {
        oarlock_fuzz::Target::new("served_by_others").run(|input| {
            let value: Value = serde_json::from_slice(input).unwrap_or_default();
            let found = resources(&value, "g", "v1");
            let listed = value["resources"].as_array().map_or(0, Vec::len);
            assert!(found.as_array().is_some_and(|found| found.len() <= listed));
            let _ = address(&value, "/apis/g/v1");
        });
    }
}
