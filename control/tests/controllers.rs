//! The controllers with their real driver, registry, cache and store; the nodes are played by the test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests panic, as tests do")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oarlock_api::catalogue::{
    Catalogue, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, Kind, NAMESPACES, NODES, PODS, REPLICA_SETS,
    RESOURCE_QUOTAS, SERVICES,
};
use oarlock_control::cache::Cache;
use oarlock_control::metrics::Queues;
use oarlock_control::nodes::Events;
use oarlock_control::patch::Patch;
use oarlock_control::reconcile::{self, Standby};
use oarlock_control::registry::{DeleteOptions, Ranges, Registry, Sub, WriteOptions};
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::Health;
use oarlock_planner::Settings;
use oarlock_store::{Embedded, Retention, Store};
use serde_json::{Value, json};

struct Cluster {
    registry: Arc<Registry>,
    tasks: Tasks,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// A control plane with two nodes that say they are ready.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&path, Retention::default()).unwrap());
        let cache = Cache::new(Arc::new(Catalogue::builtin()));
        let tasks = Tasks::new();
        tasks.spawn("cache", Arc::clone(&cache).run(Arc::clone(&store), Health::default(), tasks.token()));
        let ranges = Ranges {
            services: vec!["10.96.0.0/24".parse().unwrap()],
            node_ports: (30000, 30100),
            kubernetes_service: "10.96.0.1".parse().unwrap(),
        };
        let registry = Registry::new(store, cache, ranges);
        let advertise = "10.0.0.1".parse().unwrap();
        let [api, dns] = ["10.96.0.1", "10.96.0.10"].map(|ip| ip.parse().unwrap());
        reconcile::bootstrap(&registry, advertise, 6443, api, &[dns]).await.unwrap();
        let settings = Settings { cluster_cidr: "10.244.0.0/16".parse().unwrap(), ca_pem: "ca".to_owned() };
        let events = Arc::new(Events::new(Arc::clone(&registry)));
        let (leading, jobs, stop) = (Arc::clone(&registry), tasks.clone(), tasks.token());
        let driver = async move {
            let (queues, standby) = (Queues::default(), Standby::default());
            reconcile::run(leading, events, settings, Arc::default(), (queues, jobs), &standby, stop).await;
        };
        tasks.spawn("controllers", driver);
        let cluster = Self { registry, tasks, _folder: folder };
        for name in ["n1", "n2"] {
            let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}]});
            cluster.create(&NODES, json!({"metadata": {"name": name}, "status": status})).await;
        }
        cluster.nodes_take_pods().await;
        cluster
    }

    /// Waits until both nodes have their range of addresses and no taint: before, all pods may go to one of them.
    async fn nodes_take_pods(&self) {
        for _ in 0..400 {
            let nodes = self.list(&NODES).await;
            let ready = |node: &&Value| {
                node["spec"]["podCIDR"].is_string()
                    && node["spec"]["taints"].as_array().is_none_or(Vec::is_empty)
            };
            if nodes.iter().filter(ready).count() == 2 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no node takes pods: {:#?}", self.list(&NODES).await);
    }

    async fn create(&self, kind: &'static Kind, object: Value) {
        let namespace = if kind.namespaced { "default" } else { "" };
        self.registry.create(kind, namespace, object, &WriteOptions::default()).await.unwrap();
    }

    async fn list(&self, kind: &'static Kind) -> Vec<Value> {
        let objects = self.registry.list(kind, Some("default").filter(|_| kind.namespaced)).await.unwrap();
        objects.iter().map(|object| Value::clone(&object.value())).collect()
    }

    async fn patch(&self, kind: &'static Kind, name: &str, sub: Sub, patch: Value) {
        let patch = Patch::Merge(patch);
        self.registry.patch(kind, "default", name, sub, &patch, &WriteOptions::default()).await.unwrap();
    }

    /// Plays the nodes: bound pods become ready, ending pods go.
    async fn play(&self) {
        for pod in self.list(&PODS).await {
            let name = pod["metadata"]["name"].as_str().unwrap();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                let _ = self.registry.delete(&PODS, "default", name, &now).await;
            } else if pod["spec"]["nodeName"].is_string() && pod["status"]["phase"] == "Pending" {
                let number = pod["metadata"]["uid"].as_str().unwrap().bytes().fold(0_u8, u8::wrapping_add);
                let status = json!({"phase": "Running", "podIP": format!("10.244.9.{number}"),
                    "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}]});
                let patch = Patch::Merge(json!({"status": status}));
                let _ = self
                    .registry
                    .patch(&PODS, "default", name, Sub::Status, &patch, &WriteOptions::default())
                    .await;
            }
        }
    }

    /// Plays until a deployment has come to rest with this many pods of an image.
    async fn settle(&self, image: &str, replicas: i64) {
        for _ in 0..400 {
            self.play().await;
            let deployment = self.registry.get(&DEPLOYMENTS, "default", "web").await.unwrap();
            let status = &deployment["status"];
            let pods = self.list(&PODS).await;
            let done = status["observedGeneration"] == deployment["metadata"]["generation"]
                && status["availableReplicas"].as_i64().unwrap_or(0) == replicas
                && i64::try_from(pods.len()).unwrap() == replicas
                && pods.iter().all(|p| p["spec"]["containers"][0]["image"] == image);
            if done {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("no rest: {:#?}", self.list(&DEPLOYMENTS).await);
    }

    async fn stop(self) {
        self.tasks.shut_down();
        self.tasks.finish(Duration::from_secs(5)).await.unwrap();
    }
}

fn deployment(replicas: i64) -> Value {
    json!({"metadata": {"name": "web"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_pods_on_both_nodes_and_endpoints_of_its_service() {
    let cluster = Cluster::start().await;
    cluster.create(&SERVICES, json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})).await;
    cluster.create(&DEPLOYMENTS, deployment(4)).await;
    cluster.settle("web:1", 4).await;
    let mut spread: BTreeMap<String, usize> = BTreeMap::new();
    for pod in cluster.list(&PODS).await {
        *spread.entry(pod["spec"]["nodeName"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!(spread, BTreeMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 2)]));
    let cidrs: Vec<Value> = cluster.list(&NODES).await.iter().map(|n| n["spec"]["podCIDR"].clone()).collect();
    assert!(cidrs.contains(&json!("10.244.0.0/24")) && cidrs.contains(&json!("10.244.1.0/24")), "{cidrs:?}");
    for _ in 0..200 {
        let endpoints = cluster.registry.get(&ENDPOINTS, "default", "web").await.unwrap_or_default();
        let slices = cluster.list(&ENDPOINT_SLICES).await;
        let of_web = slices.iter().find(|s| s["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        let ready = of_web.map_or(0, |s| s["endpoints"].as_array().map_or(0, Vec::len));
        let addresses = endpoints["subsets"][0]["addresses"].as_array().map_or(0, Vec::len);
        if (ready, addresses) == (4, 4) {
            return cluster.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no endpoints: {:#?}", cluster.list(&ENDPOINT_SLICES).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_rolls_out_scales_and_heals() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment(3)).await;
    cluster.settle("web:1", 3).await;
    let image = json!([{"name": "c", "image": "web:2"}]);
    cluster
        .patch(&DEPLOYMENTS, "web", Sub::Main, json!({"spec": {"template": {"spec": {"containers": image}}}}))
        .await;
    cluster.settle("web:2", 3).await;
    let sets = cluster.list(&REPLICA_SETS).await;
    assert_eq!(sets.len(), 2, "the old one stays for a rollback");
    cluster.patch(&DEPLOYMENTS, "web", Sub::Scale, json!({"spec": {"replicas": 5}})).await;
    cluster.settle("web:2", 5).await;
    let victim = cluster.list(&PODS).await[0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.registry.delete(&PODS, "default", &victim, &DeleteOptions::default()).await.unwrap();
    cluster.settle("web:2", 5).await;
    assert!(cluster.list(&PODS).await.iter().all(|p| p["metadata"]["name"] != victim.as_str()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_a_quota_forbids_are_a_condition_of_their_owners_until_they_are_made() {
    let cluster = Cluster::start().await;
    let quota = |pods: &str| json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": pods}}});
    cluster.create(&RESOURCE_QUOTAS, quota("1")).await;
    // Who counts is another part of the control plane.
    let counted = json!({"status": {"hard": {"pods": "1"}, "used": {"pods": "0"}}});
    cluster.patch(&RESOURCE_QUOTAS, "q", Sub::Status, counted).await;
    cluster.create(&DEPLOYMENTS, deployment(3)).await;
    let failure = async || {
        let objects = cluster.list(&REPLICA_SETS).await.into_iter().chain(cluster.list(&DEPLOYMENTS).await);
        let of = |object: Value| {
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.into_iter().find(|c| c["type"] == "ReplicaFailure")
        };
        objects.map(of).collect::<Vec<Option<Value>>>()
    };
    let mut said = Vec::new();
    for _ in 0..200 {
        said = failure().await;
        if said.iter().flatten().count() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    for condition in &said {
        let condition = condition.as_ref().unwrap();
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("True"), &json!("FailedCreate")));
        let message = condition["message"].as_str().unwrap();
        assert!(
            message.contains("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"),
            "{message}"
        );
    }
    assert_eq!(said.len(), 2);
    cluster.patch(&RESOURCE_QUOTAS, "q", Sub::Main, quota("3")).await;
    cluster.patch(&RESOURCE_QUOTAS, "q", Sub::Status, json!({"status": {"hard": {"pods": "3"}}})).await;
    cluster.settle("web:1", 3).await;
    for _ in 0..200 {
        said = failure().await;
        if said == [None, None] {
            return cluster.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("it is still said: {said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_take_their_dependents_along_and_namespaces_their_contents() {
    let cluster = Cluster::start().await;
    cluster.create(&DEPLOYMENTS, deployment(2)).await;
    cluster.settle("web:1", 2).await;
    cluster.registry.delete(&DEPLOYMENTS, "default", "web", &DeleteOptions::default()).await.unwrap();
    let mut left = usize::MAX;
    for _ in 0..200 {
        cluster.play().await;
        left = cluster.list(&REPLICA_SETS).await.len() + cluster.list(&PODS).await.len();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(left, 0, "ReplicaSets and pods without an owner");
    cluster.create(&NAMESPACES, json!({"metadata": {"name": "gone"}})).await;
    cluster.registry.delete(&NAMESPACES, "", "gone", &DeleteOptions::default()).await.unwrap();
    for _ in 0..200 {
        if cluster.registry.get(&NAMESPACES, "", "gone").await.is_err() {
            return cluster.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the namespace does not end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_nobody_carries_is_announced_once() {
    let cluster = Cluster::start().await;
    let ports = json!([{"port": 53, "protocol": "SCTP"}]);
    cluster
        .create(
            &SERVICES,
            json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}),
        )
        .await;
    let said = |events: Vec<Value>| {
        let ours = events.into_iter().filter(|event| event["reason"] == "ProtocolNotSupported");
        ours.map(|event| event["count"].as_i64().unwrap()).sum::<i64>()
    };
    for _ in 0..200 {
        if said(cluster.list(&EVENTS).await) > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    cluster.patch(&SERVICES, "web", Sub::Main, labels).await;
    // The controllers have looked at the change when the slice has the label.
    let mut seen = false;
    for _ in 0..200 {
        seen =
            cluster.list(&ENDPOINT_SLICES).await.iter().any(|slice| slice["metadata"]["labels"]["a"] == "b");
        if seen {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(seen, "the slice has its Service's labels");
    let service = cluster.registry.get(&SERVICES, "default", "web").await.unwrap();
    assert_eq!(service["status"]["conditions"][0]["reason"], "ProtocolNotSupported");
    assert_eq!(said(cluster.list(&EVENTS).await), 1);
    cluster.stop().await;
}
