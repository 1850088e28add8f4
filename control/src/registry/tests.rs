//! The verbs over a real embedded store.

mod evictions;
mod quota;
mod repair;
mod services;

use std::sync::Arc;
use std::time::Duration;

use oarlock_api::catalogue::{
    CONFIG_MAPS, Catalogue, DEPLOYMENTS, Kind, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PODS,
    REPLICA_SETS, SERVICE_ACCOUNTS, SERVICES, STORAGE_CLASSES,
};
use oarlock_api::status::Status;
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::Health;
use oarlock_store::{Embedded, Retention, Store};
use serde_json::{Value, json};

use super::{Binding, DeleteOptions, Deleted, Ranges, Registry, Sub, WriteOptions};
use crate::cache::Cache;
use crate::patch::Patch;

pub(crate) struct Fixture {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tasks: Tasks,
    _folder: tempfile::TempDir,
}

pub(crate) async fn fixture() -> Fixture {
    fixture_of(&["10.96.0.0/24"]).await
}

/// With these ranges of Services.
async fn fixture_of(services: &[&str]) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> =
        Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
    let cache = Cache::new(Arc::new(Catalogue::builtin()));
    let tasks = Tasks::new();
    tasks.spawn("cache", Arc::clone(&cache).run(Arc::clone(&store), Health::default(), tasks.token()));
    let ranges = Ranges {
        services: services.iter().map(|range| range.parse().unwrap()).collect(),
        node_ports: (30000, 30003),
        kubernetes_service: "10.96.0.1".parse().unwrap(),
    };
    let registry = Registry::new(store, cache, ranges);
    let fixture = Fixture { registry, tasks, _folder: folder };
    fixture.create(&NAMESPACES, "", json!({"metadata": {"name": "d"}})).await.unwrap();
    fixture.create(&SERVICE_ACCOUNTS, "d", json!({"metadata": {"name": "default"}})).await.unwrap();
    fixture
}

impl Fixture {
    /// Forgets all history before now.
    pub(crate) async fn compact(&self) {
        let (_, now) = self.registry.store.get("/registry/none").await.unwrap();
        self.registry.store.compact(now).await.unwrap();
    }

    async fn create(&self, kind: &'static Kind, namespace: &str, object: Value) -> Result<Value, Status> {
        self.registry.create(kind, namespace, object, &WriteOptions::default()).await
    }

    async fn patch(&self, kind: &'static Kind, name: &str, patch: Value) -> Result<Value, Status> {
        let patch = Patch::Merge(patch);
        self.registry.patch(kind, "d", name, Sub::Main, &patch, &WriteOptions::default()).await
    }

    async fn delete(&self, kind: &'static Kind, name: &str) -> Result<Deleted, Status> {
        self.registry.delete(kind, "d", name, &DeleteOptions::default()).await
    }
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn a_created_object_has_what_the_server_owns() {
    let f = fixture().await;
    let mut object = pod("p");
    object["status"] = json!({"phase": "Running"});
    object["metadata"]["uid"] = json!("mine");
    let created = f.create(&PODS, "d", object).await.unwrap();
    assert_eq!(created["status"], json!({"phase": "Pending"}), "status is the node's");
    assert_ne!(created["metadata"]["uid"], "mine");
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(f.registry.get(&PODS, "d", "p").await.unwrap(), created);
    let again = f.create(&PODS, "d", pod("p")).await.unwrap_err();
    assert_eq!((again.code, again.reason), (409, "AlreadyExists"));
}

#[tokio::test]
async fn a_namespace_must_exist_and_names_can_be_generated() {
    let f = fixture().await;
    assert_eq!(
        f.create(&PODS, "nowhere", pod("p")).await.unwrap_err().message,
        "namespaces \"nowhere\" not found"
    );
    let object =
        json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let created = f.create(&PODS, "d", object).await.unwrap();
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn an_outdated_version_conflicts_and_an_equal_write_changes_nothing() {
    let f = fixture().await;
    let created =
        f.create(&CONFIG_MAPS, "d", json!({"metadata": {"name": "c"}, "data": {"a": "1"}})).await.unwrap();
    let same = f
        .registry
        .update(&CONFIG_MAPS, "d", "c", Sub::Main, created.clone(), &WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(same["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let changed = f.patch(&CONFIG_MAPS, "c", json!({"data": {"a": "2"}})).await.unwrap();
    assert_ne!(changed["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let stale = f
        .registry
        .update(&CONFIG_MAPS, "d", "c", Sub::Main, created, &WriteOptions::default())
        .await
        .unwrap_err();
    assert_eq!((stale.code, stale.reason), (409, "Conflict"));
    assert!(stale.message.ends_with("please apply your changes to the latest version and try again"));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let f = fixture().await;
    f.create(&PODS, "d", pod("p")).await.unwrap();
    let status =
        json!({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"phase": "Running"}});
    let written =
        f.registry.update(&PODS, "d", "p", Sub::Status, status, &WriteOptions::default()).await.unwrap();
    assert_eq!(
        (&written["status"]["phase"], &written["metadata"]["generation"]),
        (&json!("Running"), &json!(1))
    );
    assert_eq!(written["spec"]["containers"][0]["image"], "i");
    let image = json!({"spec": {"containers": [{"name": "c", "image": "j"}]}, "status": {"phase": "Failed"}});
    let patch = Patch::Strategic(image);
    let written =
        f.registry.patch(&PODS, "d", "p", Sub::Main, &patch, &WriteOptions::default()).await.unwrap();
    assert_eq!(
        (&written["status"]["phase"], &written["metadata"]["generation"]),
        (&json!("Running"), &json!(2))
    );
}

#[tokio::test]
async fn labels_and_annotations_come_with_a_status_unless_the_kind_keeps_its_own() {
    let f = fixture().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template});
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u"}]);
    let patch = Patch::Merge(
        json!({"metadata": {"uid": null, "generation": 9, "labels": {"l": "1"}, "annotations": {"n": "1"},
        "ownerReferences": owner}}),
    );
    let service = json!({"metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}});
    for (kind, object, [label, annotation, owned]) in [
        (&SERVICES, service, [true; 3]),
        (&REPLICA_SETS, json!({"metadata": {"name": "x"}, "spec": spec}), [true; 3]),
        (&DEPLOYMENTS, json!({"metadata": {"name": "x"}, "spec": spec}), [false, true, true]),
        (&PODS, pod("x"), [true, true, false]),
    ] {
        let made = f.create(kind, "d", object).await.unwrap();
        let options = WriteOptions::default();
        let written = f.registry.patch(kind, "d", "x", Sub::Status, &patch, &options).await.unwrap();
        let (made, written) = (&made["metadata"], &written["metadata"]);
        assert_eq!(
            (&written["uid"], &written["generation"]),
            (&made["uid"], &made["generation"]),
            "{kind:?}"
        );
        let seen =
            [&written["labels"]["l"], &written["annotations"]["n"], &written["ownerReferences"][0]["name"]];
        assert_eq!(seen.map(|value| !value.is_null()), [label, annotation, owned], "{kind:?}");
    }
}

#[tokio::test]
async fn a_range_of_pod_addresses_is_one_nodes_until_it_goes() {
    let f = fixture().await;
    let node = |name: &str| json!({"metadata": {"name": name}, "spec": {"podCIDR": "10.244.7.0/24"}});
    f.create(&NODES, "", node("a")).await.unwrap();
    let taken = f.create(&NODES, "", node("b")).await.unwrap_err();
    assert!(
        taken.message.contains("spec.podCIDR: Invalid value: \"10.244.7.0/24\": another node"),
        "{taken}"
    );
    f.create(&NODES, "", json!({"metadata": {"name": "b"}})).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"podCIDR": "10.244.7.0/24"}}));
    let late =
        f.registry.patch(&NODES, "", "b", Sub::Main, &patch, &WriteOptions::default()).await.unwrap_err();
    assert!(late.is("Invalid"), "{late}");
    let second = json!({"podCIDR": "10.244.8.0/24", "podCIDRs": ["10.244.8.0/24", "10.244.7.0/24"]});
    let hidden = json!({"metadata": {"name": "c"}, "spec": second});
    assert!(f.create(&NODES, "", hidden).await.unwrap_err().is("Invalid"), "whichever of its ranges");
    f.registry.delete(&NODES, "", "a", &DeleteOptions::default()).await.unwrap();
    f.registry.patch(&NODES, "", "b", Sub::Main, &patch, &WriteOptions::default()).await.unwrap();
}

fn to(node: &str, uid: &str) -> Binding {
    Binding { node: node.to_owned(), uid: uid.to_owned(), ..Binding::default() }
}

#[tokio::test]
async fn a_scheduled_pod_ends_gracefully_and_others_at_once() {
    let f = fixture().await;
    f.create(&PODS, "d", pod("free")).await.unwrap();
    assert!(matches!(f.delete(&PODS, "free").await.unwrap(), Deleted::Gone(_)));
    let made = f.create(&PODS, "d", pod("bound")).await.unwrap();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    f.registry.bind("d", "bound", &to("n1", uid)).await.unwrap();
    assert_eq!(f.registry.bind("d", "bound", &to("n2", uid)).await.unwrap_err().code, 409);
    let Deleted::Terminating(ending) = f.delete(&PODS, "bound").await.unwrap() else { panic!("graceful") };
    assert_eq!(ending["metadata"]["deletionGracePeriodSeconds"], 30);
    let again = f.delete(&PODS, "bound").await.unwrap();
    assert!(matches!(again, Deleted::Terminating(_)));
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    assert!(matches!(f.registry.delete(&PODS, "d", "bound", &now).await.unwrap(), Deleted::Gone(_)));
    assert_eq!(f.registry.get(&PODS, "d", "bound").await.unwrap_err().reason, "NotFound");
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let f = fixture().await;
    let object = json!({"metadata": {"name": "c", "finalizers": ["example.com/a"]}});
    f.create(&CONFIG_MAPS, "d", object).await.unwrap();
    assert!(matches!(f.delete(&CONFIG_MAPS, "c").await.unwrap(), Deleted::Terminating(_)));
    f.patch(&CONFIG_MAPS, "c", json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert_eq!(f.registry.get(&CONFIG_MAPS, "d", "c").await.unwrap_err().reason, "NotFound");
}

#[tokio::test]
async fn a_namespace_ends_when_it_is_finalized_and_takes_nothing_new_before() {
    let f = fixture().await;
    let options = DeleteOptions::default();
    let Deleted::Terminating(ending) = f.registry.delete(&NAMESPACES, "", "d", &options).await.unwrap()
    else {
        panic!("held by its finalizer")
    };
    assert_eq!(ending["status"]["phase"], "Terminating");
    f.registry.catch_up().await.unwrap();
    let refused = f.create(&PODS, "d", pod("p")).await.unwrap_err();
    assert_eq!((refused.code, refused.reason), (403, "Forbidden"));
    let empty = json!({"metadata": {"name": "d"}, "spec": {"finalizers": []}});
    f.registry.update(&NAMESPACES, "", "d", Sub::Finalize, empty, &WriteOptions::default()).await.unwrap();
    assert_eq!(f.registry.get(&NAMESPACES, "", "d").await.unwrap_err().reason, "NotFound");
    let kept = f.registry.delete(&NAMESPACES, "", "default", &options).await.unwrap_err();
    assert_eq!(kept.code, 403);
}

#[tokio::test]
async fn scale_shows_and_sets_replicas() {
    let f = fixture().await;
    let object = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    f.create(&DEPLOYMENTS, "d", object).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scale = f
        .registry
        .patch(&DEPLOYMENTS, "d", "web", Sub::Scale, &patch, &WriteOptions::default())
        .await
        .unwrap();
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(5), &json!("a=b"))
    );
    let deployment = f.registry.get(&DEPLOYMENTS, "d", "web").await.unwrap();
    assert_eq!(
        (&deployment["spec"]["replicas"], &deployment["metadata"]["generation"]),
        (&json!(5), &json!(2))
    );
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let f = fixture().await;
    let dry = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let made = f.registry.create(&PODS, "d", pod("p"), &dry).await.unwrap();
    assert_eq!(made["spec"]["restartPolicy"], "Always", "defaults are shown");
    assert_eq!(f.registry.get(&PODS, "d", "p").await.unwrap_err().reason, "NotFound");
}

#[tokio::test]
async fn invalid_objects_and_wrong_names_are_refused() {
    let f = fixture().await;
    let bad = f.create(&NODES, "", json!({"metadata": {"name": "Not_A_Name"}})).await.unwrap_err();
    assert_eq!((bad.code, bad.reason), (422, "Invalid"));
    f.create(&PODS, "d", pod("p")).await.unwrap();
    let other =
        f.registry.update(&PODS, "d", "p", Sub::Main, pod("q"), &WriteOptions::default()).await.unwrap_err();
    assert_eq!(other.message, "the name of the object (q) does not match the name on the URL (p)");
    let uid = DeleteOptions { uid: Some("other".into()), ..DeleteOptions::default() };
    assert_eq!(f.registry.delete(&PODS, "d", "p", &uid).await.unwrap_err().reason, "Conflict");
}

#[tokio::test]
async fn concurrent_creators_never_share_an_address() {
    let f = fixture().await;
    let services: Vec<_> = (0..40)
        .map(|i| {
            let registry = Arc::clone(&f.registry);
            async move {
                let object =
                    json!({"metadata": {"name": format!("s{i}")}, "spec": {"ports": [{"port": 80}]}});
                registry.create(&SERVICES, "d", object, &WriteOptions::default()).await.unwrap()
            }
        })
        .collect();
    let made = tokio::time::timeout(Duration::from_secs(30), futures_util::future::join_all(services))
        .await
        .unwrap();
    let ips: std::collections::BTreeSet<String> =
        made.iter().map(|s| s["spec"]["clusterIP"].to_string()).collect();
    assert_eq!(ips.len(), 40);
}

#[tokio::test]
async fn a_create_never_outruns_the_end_of_its_namespace() {
    let f = fixture().await;
    f.registry.catch_up().await.unwrap();
    for round in 0..20 {
        let space = format!("s{round}");
        f.create(&NAMESPACES, "", json!({"metadata": {"name": &space}})).await.unwrap();
        let options = DeleteOptions::default();
        let (ended, made) = tokio::join!(
            f.registry.delete(&NAMESPACES, "", &space, &options),
            f.create(&CONFIG_MAPS, &space, json!({"metadata": {"name": "c"}})),
        );
        let Deleted::Terminating(ending) = ended.unwrap() else { panic!("held by its finalizer") };
        if let Ok(made) = made {
            let revision =
                |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
            assert!(revision(&made) < revision(&ending), "created in a namespace that ends");
        }
    }
}

#[tokio::test]
async fn a_service_without_an_address_of_its_own_gives_it_back() {
    let f = fixture().await;
    let object =
        json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}});
    f.create(&SERVICES, "d", object).await.unwrap();
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null}});
    let changed = f.patch(&SERVICES, "s", external).await.unwrap();
    assert!(changed["spec"].get("clusterIP").is_none(), "{changed}");
    let other =
        json!({"metadata": {"name": "t"}, "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}});
    f.create(&SERVICES, "d", other.clone()).await.unwrap();
    let again = f.create(&SERVICES, "d", other).await.unwrap_err();
    assert_eq!(again.reason, "AlreadyExists", "the name says more than the address");
}

#[tokio::test]
async fn a_pod_is_served_as_it_says_or_else_as_its_namespace_does() {
    let f = fixture().await;
    let pod = |name: &str, annotations: Value| {
        json!({"metadata": {"name": name, "annotations": annotations},
               "spec": {"containers": [{"name": "c", "image": "i"}]}})
    };
    let how = |pod: &Value| pod["metadata"]["annotations"]["dataplane.oarlock.io/socket-lb"].clone();
    let silent = f.create(&PODS, "d", pod("silent", Value::Null)).await.unwrap();
    assert_eq!(how(&silent), Value::Null);
    let of = |value: &str| json!({"dataplane.oarlock.io/socket-lb": value});
    let refused = f.create(&PODS, "d", pod("wrong", of("off"))).await.unwrap_err();
    assert!(refused.message.contains("metadata.annotations[dataplane.oarlock.io/socket-lb]"), "{refused}");
    let mesh = json!({"metadata": {"name": "mesh", "annotations": of("disabled")}});
    f.create(&NAMESPACES, "", mesh).await.unwrap();
    f.create(&SERVICE_ACCOUNTS, "mesh", json!({"metadata": {"name": "default"}})).await.unwrap();
    f.registry.catch_up().await.unwrap();
    let silent = f.create(&PODS, "mesh", pod("silent", Value::Null)).await.unwrap();
    assert_eq!(how(&silent), "disabled");
    let own = f.create(&PODS, "mesh", pod("own", of("enabled"))).await.unwrap();
    assert_eq!(how(&own), "enabled");
    let on_host = |name: &str, annotations: Value| {
        let mut pod = pod(name, annotations);
        pod["spec"]["hostNetwork"] = json!(true);
        pod
    };
    let silent = f.create(&PODS, "mesh", on_host("host", Value::Null)).await.unwrap();
    assert_eq!(how(&silent), Value::Null, "it has no link of its own");
    let refused = f.create(&PODS, "mesh", on_host("wrong", of("disabled"))).await.unwrap_err();
    assert!(refused.message.contains("may not be \"disabled\" when `hostNetwork` is true"), "{refused}");
}

#[tokio::test]
async fn claims_are_protected_and_get_the_default_class() {
    let f = fixture().await;
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "volumeName": null,
            "resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Bound"}})
    };
    let early = f.create(&PERSISTENT_VOLUME_CLAIMS, "d", claim("early")).await.unwrap();
    assert_eq!(early["spec"].get("storageClassName"), None, "there is no default class yet");
    f.create(&STORAGE_CLASSES, "", oarlock_api::storage::local_class()).await.unwrap();
    f.registry.catch_up().await.unwrap();
    let made = f.create(&PERSISTENT_VOLUME_CLAIMS, "d", claim("c")).await.unwrap();
    assert_eq!(made["spec"]["storageClassName"], "local");
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    assert_eq!(made["status"], json!({"phase": "Pending"}));
    let mut without = claim("without");
    without["spec"]["storageClassName"] = json!("");
    let without = f.create(&PERSISTENT_VOLUME_CLAIMS, "d", without).await.unwrap();
    assert_eq!(without["spec"]["storageClassName"], "", "no class is a choice, too");
    assert!(matches!(f.delete(&PERSISTENT_VOLUME_CLAIMS, "c").await.unwrap(), Deleted::Terminating(_)));
}

#[tokio::test]
async fn what_begins_with_an_outdated_cache_ends_with_what_the_store_has() {
    let f = fixture().await;
    f.create(&CONFIG_MAPS, "d", json!({"metadata": {"name": "a"}, "data": {"v": "1"}})).await.unwrap();
    f.create(&PODS, "d", pod("p")).await.unwrap();
    f.registry.catch_up().await.unwrap();
    f.tasks.shut_down();
    f.tasks.finish(Duration::from_secs(5)).await.unwrap();
    // From here on the cache knows nothing new.
    f.patch(&CONFIG_MAPS, "a", json!({"data": {"v": "2"}})).await.unwrap();
    let options = WriteOptions::default().from_cache();
    let set = async |from: &str, to: &str| {
        let (from, to) = (json!(from), json!(to));
        let change = |mut present: Value| {
            if present["data"]["v"] != from {
                return Err(Status::bad_request("another value"));
            }
            present["data"]["v"] = to.clone();
            Ok(present)
        };
        let changed = f.registry.modify(&CONFIG_MAPS, "d", "a", Sub::Main, &options, change).await;
        changed.map(|object| object["data"]["v"].clone())
    };
    assert_eq!(set("1", "3").await.unwrap_err().message, "another value", "only the cache has 1");
    assert_eq!(set("2", "1").await.unwrap(), "1", "the cache refuses, the store does not");
    let same = |present: Value| Ok(json!({"metadata": present["metadata"], "data": {"v": "1"}}));
    let written = f.registry.modify(&CONFIG_MAPS, "d", "a", Sub::Main, &options, same).await.unwrap();
    assert_eq!(
        written,
        f.registry.get(&CONFIG_MAPS, "d", "a").await.unwrap(),
        "the store's, not the cache's"
    );
    f.registry.bind("d", "p", &to("n1", "")).await.unwrap();
    let again = f.registry.bind("d", "p", &to("n2", "")).await.unwrap_err();
    assert!(again.message.contains("already assigned to node \"n1\""), "{again}");
}
