//! What users do: Deployments made and rolled, pods of their own; and waiting until the nodes run what was asked for.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::agents::Fleet;
use crate::api::Api;

/// Without any progress for so long, something is broken.
const STALLED: Duration = Duration::from_secs(120);
/// Requests of a user at a time.
const AT_A_TIME: usize = 64;

pub(crate) struct Workloads<'a> {
    pub(crate) api: &'a Api,
    pub(crate) fleet: &'a Fleet,
}

/// A pod as the templates of Deployments have it.
pub(crate) fn template(app: &str, version: usize) -> Value {
    let container = json!({
        "name": "web", "image": format!("registry.example/web:{version}"),
        "env": [{"name": "VERSION", "value": version.to_string()}],
        "ports": [{"name": "http", "containerPort": 80}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    });
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [container]}})
}

impl Workloads<'_> {
    pub(crate) async fn name_space(&self, name: &str) {
        let path = format!("/api/v1/namespaces/{name}");
        if self.api.text(&path).await.contains("\"NotFound\"") {
            self.api.create("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
            // Pods need the account that a controller makes.
            let account = format!("{path}/serviceaccounts/default");
            let start = Instant::now();
            while self.api.text(&account).await.contains("\"NotFound\"") {
                assert!(start.elapsed() < STALLED, "{name} gets no account");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub(crate) async fn deploy(&self, namespace: &str, name: &str, replicas: usize) {
        let deployment = json!({"metadata": {"name": name}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, 1)}});
        self.api.create(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &deployment).await;
    }

    /// Another template, until the Deployment has nothing else and its status says so.
    pub(crate) async fn roll(&self, namespace: &str, name: &str, replicas: usize) {
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
        let present = self.api.get(&path).await;
        let generation = present["metadata"]["generation"].as_u64().unwrap_or(1);
        let version = usize::try_from(generation).unwrap_or(1) + 1;
        self.api.ask("PATCH", &path, &json!({"spec": {"template": template(name, version)}})).await;
        let (mut start, mut last) = (Instant::now(), Value::Null);
        loop {
            let status = self.api.get(&path).await["status"].take();
            let count = |field: &str| status[field].as_u64().unwrap_or(0);
            let wanted = replicas as u64;
            if count("observedGeneration") > generation
                && (count("updatedReplicas"), count("availableReplicas"), count("replicas"))
                    == (wanted, wanted, wanted)
            {
                return;
            }
            if status != last {
                (start, last) = (Instant::now(), status);
            }
            assert!(start.elapsed() < STALLED, "{name} is not rolled: {last}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Pods of nobody.
    pub(crate) async fn pods(&self, namespace: &str, app: &str, count: usize) {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let create = |index: usize| {
            let (mut pod, path) = (template(app, 1), &path);
            pod["metadata"]["name"] = format!("{app}-{index}").into();
            async move { self.api.create(path, &pod).await }
        };
        stream::iter(0..count).map(create).buffer_unordered(AT_A_TIME).collect::<Vec<()>>().await;
    }

    pub(crate) async fn remove_pods(&self, namespace: &str, app: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=app%3D{app}");
        self.api.ask("DELETE", &path, &Value::Null).await;
    }

    /// Until nodes have been told of so many pods since the beginning.
    pub(crate) async fn told(&self, count: usize) {
        self.until(&format!("{count} pods were told"), || self.fleet.told(), |told| told >= count).await;
    }

    /// Until so many pods run, no more and no less.
    pub(crate) async fn running(&self, count: usize) {
        self.until(&format!("{count} pods run"), || self.fleet.running(), |running| running == count).await;
    }

    /// Until so many pods run at least.
    pub(crate) async fn at_least(&self, count: usize) {
        self.until(&format!("{count} pods run"), || self.fleet.running(), |running| running >= count).await;
    }

    async fn until(&self, what: &str, now: impl Fn() -> usize, enough: impl Fn(usize) -> bool) {
        let (mut start, mut last) = (Instant::now(), usize::MAX);
        loop {
            let present = now();
            if enough(present) {
                return;
            }
            if present != last {
                (start, last) = (Instant::now(), present);
            }
            assert!(start.elapsed() < STALLED, "waited in vain until {what}: {present}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
