//! kube-rs: typed, dynamic, its watchers, and a controller written with it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::Role;
use kube::api::{
    Api, DeleteParams, DynamicObject, EvictParams, GetParams, ListParams, Patch, PatchParams, PostParams,
    Preconditions, PropagationPolicy, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::core::response::Status;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, Config, Discovery, Resource, ResourceExt as _};
use serde_json::{Value, json};

const NAMESPACE: &str = "default";
const PATIENCE: Duration = Duration::from_secs(20);

/// A client as a kubeconfig makes it.
pub(super) async fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn map(name: &str, value: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": {"of": "kube"}}, "data": {"v": value}}))
}

fn pod_spec() -> Value {
    json!({"nodeSelector": {"no": "where"}, "containers": [{"name": "c", "image": "oarlock/pause:0.1.0"}]})
}

fn workload(name: &str, replicas: i32, more: &Value) -> Value {
    let labels = json!({"app": name});
    let mut spec = json!({"replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec()}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"metadata": {"name": name}, "spec": spec})
}

/// The Status of a refusal.
fn refused<T: Debug>(answer: kube::Result<T>, code: u16, reason: &str) -> Status {
    match answer {
        Err(kube::Error::Api(status)) => {
            assert_eq!((status.code, status.reason.as_str()), (code, reason), "{status:?}");
            *status
        }
        other => panic!("not refused with {code} {reason}: {other:?}"),
    }
}

/// What every kind can, in a namespace.
async fn lives<K>(client: &Client, value: Value)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Send + 'static,
    K: serde::de::DeserializeOwned + serde::Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let wanted: K = object(value);
    let (name, kind) = (wanted.name_any(), K::kind(&()).into_owned());
    let made = api.create(&PostParams::default(), &wanted).await.unwrap_or_else(|e| panic!("{kind}: {e:?}"));
    assert!(
        made.uid().is_some() && made.resource_version().is_some() && made.creation_timestamp().is_some(),
        "{kind}"
    );
    let exists = refused(api.create(&PostParams::default(), &wanted).await, 409, "AlreadyExists");
    assert!(exists.message.ends_with("already exists"), "{exists}");
    assert_eq!(api.get(&name).await.unwrap().uid(), made.uid());
    assert_eq!(api.get_with(&name, &GetParams::any()).await.unwrap().uid(), made.uid());
    assert_eq!(api.get_metadata(&name).await.unwrap().metadata.uid, made.uid());
    let listed = api.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await.unwrap();
    assert_eq!((listed.items.len(), listed.metadata.resource_version.is_some()), (1, true), "{kind}");
    let labels = json!({"metadata": {"labels": {"merged": "yes"}}});
    let merged = api.patch(&name, &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
    assert_eq!(merged.labels()["merged"], "yes");
    let mut again = api.get(&name).await.unwrap();
    again.annotations_mut().insert("replaced".to_owned(), "yes".to_owned());
    // Controllers may have written in between.
    again.meta_mut().resource_version = None;
    assert_eq!(
        api.replace(&name, &PostParams::default(), &again).await.unwrap().annotations()["replaced"],
        "yes"
    );
    let metadata = api.list_metadata(&ListParams::default().labels("merged=yes")).await.unwrap();
    assert_eq!(metadata.items.iter().map(|o| o.name_any()).collect::<Vec<_>>(), [name.as_str()]);
    let uid = made.uid().unwrap();
    let other = Preconditions { uid: Some("another".to_owned()), resource_version: None };
    refused(api.delete(&name, &DeleteParams::default().preconditions(other)).await, 409, "Conflict");
    let own = Preconditions { uid: Some(uid.clone()), resource_version: None };
    api.delete(&name, &DeleteParams::foreground().preconditions(own)).await.unwrap();
    let gone = await_condition(api.clone(), &name, conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{kind} stays")).unwrap();
    assert!(api.get_opt(&name).await.unwrap().is_none());
    assert!(refused(api.get(&name).await, 404, "NotFound").is_not_found());
}

pub(super) async fn objects_are_written_in_every_way(client: &Client) {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let job = json!({"suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": pod_spec()["containers"]}}});
    lives::<ConfigMap>(client, json!({"metadata": {"name": "k"}, "data": {"a": "1"}})).await;
    lives::<Secret>(client, json!({"metadata": {"name": "k"}, "stringData": {"a": "1"}})).await;
    lives::<Service>(client, json!({"metadata": {"name": "k"}, "spec": {"ports": [{"port": 80}]}})).await;
    lives::<ServiceAccount>(client, json!({"metadata": {"name": "k"}})).await;
    lives::<Pod>(client, json!({"metadata": {"name": "k"}, "spec": pod_spec()})).await;
    lives::<Deployment>(client, workload("k", 1, &json!({}))).await;
    lives::<StatefulSet>(client, workload("k", 0, &json!({"serviceName": "k"}))).await;
    lives::<Job>(client, json!({"metadata": {"name": "k"}, "spec": job})).await;
    lives::<CronJob>(
        client,
        json!({"metadata": {"name": "k"}, "spec": {"schedule": "@hourly", "jobTemplate": {"spec": job}}}),
    )
    .await;
    lives::<Ingress>(client, json!({"metadata": {"name": "k"}, "spec": {"defaultBackend": backend}})).await;
    lives::<NetworkPolicy>(client, json!({"metadata": {"name": "k"}, "spec": {"podSelector": {}}})).await;
    lives::<Role>(client, json!({"metadata": {"name": "k"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]})).await;
    lives::<PodDisruptionBudget>(
        client,
        json!({"metadata": {"name": "k"}, "spec": {"maxUnavailable": "50%"}}),
    )
    .await;
    let bad: Service = object(json!({"metadata": {"name": "k"}, "spec": {"ports": [{"port": 70000}]}}));
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let invalid = refused(services.create(&PostParams::default(), &bad).await, 422, "Invalid");
    assert_eq!(invalid.details.unwrap().causes[0].field, "spec.ports[0].port");
    let none: Api<ConfigMap> = Api::namespaced(client.clone(), "nowhere");
    refused(none.create(&PostParams::default(), &map("k", "1")).await, 404, "NotFound");
}

pub(super) async fn lists_come_in_pages(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    for number in 0..5 {
        maps.create(&PostParams::default(), &map(&format!("page{number}"), "1")).await.unwrap();
    }
    let (mut names, mut token, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let asked =
            ListParams { continue_token: token.clone(), ..ListParams::default().labels("of=kube").limit(2) };
        let page = maps.list(&asked).await.unwrap();
        names.extend(page.items.iter().map(|map| map.name_any()));
        pages += 1;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    assert_eq!((pages, names), (3, (0..5).map(|n| format!("page{n}")).collect::<Vec<_>>()));
    let bad = ListParams::default().continue_token("nonsense");
    refused(maps.list(&bad).await, 400, "BadRequest");
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=kube")).await.unwrap();
    assert!(maps.list(&ListParams::default().labels("of=kube")).await.unwrap().items.is_empty());
}

pub(super) async fn watchers_see_everything_and_resume(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let start = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    maps.create(&PostParams::default(), &map("seen", "1")).await.unwrap();
    let two = json!({"data": {"v": "2"}});
    let changed = maps.patch("seen", &PatchParams::default(), &Patch::Merge(&two)).await.unwrap();
    maps.delete("seen", &DeleteParams::default()).await.unwrap();
    let asked = WatchParams::default().labels("of=kube").timeout(1);
    for (from, wanted) in [(start, "adb"), (changed.resource_version().unwrap(), "db")] {
        let mut seen = String::new();
        let mut events = pin!(maps.watch(&asked, &from).await.unwrap());
        while let Some(event) = events.try_next().await.unwrap() {
            seen.push(match event {
                WatchEvent::Added(_) => 'a',
                WatchEvent::Modified(_) => 'm',
                WatchEvent::Deleted(_) => 'd',
                WatchEvent::Bookmark(_) => 'b',
                WatchEvent::Error(error) => panic!("{error:?}"),
            });
        }
        assert_eq!(seen.replace('m', ""), wanted, "and one change: {seen}");
    }
    // Its own state machine, over a list and over a watch that begins with one.
    for config in [watcher::Config::default().page_size(2), watcher::Config::default().streaming_lists()] {
        for number in 0..3 {
            maps.create(&PostParams::default(), &map(&format!("w{number}"), "1")).await.unwrap();
        }
        let mut events = pin!(watcher(maps.clone(), config.labels("of=kube")).applied_objects());
        let mut next =
            async || tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
        let mut first = BTreeSet::new();
        while first.len() < 3 {
            first.insert(next().await.name_any());
        }
        maps.patch("w1", &PatchParams::default(), &Patch::Merge(&two)).await.unwrap();
        let changed = next().await;
        assert_eq!((changed.name_any().as_str(), changed.data.unwrap()["v"].as_str()), ("w1", "2"));
        maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=kube"))
            .await
            .unwrap();
    }
}

pub(super) async fn applied_fields_have_owners(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let wanted = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned"}, "data": {"v": value}});
    let apply = async |manager: &str, value: &str, forced: bool| {
        let params = PatchParams { force: forced, ..PatchParams::apply(manager) };
        maps.patch("owned", &params, &Patch::Apply(wanted(value))).await
    };
    let made = apply("one", "1", false).await.unwrap();
    assert_eq!(made.managed_fields()[0].manager.as_deref(), Some("one"));
    let conflict = refused(apply("two", "2", false).await, 409, "Conflict");
    let cause = &conflict.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".data.v"));
    assert_eq!(apply("two", "2", true).await.unwrap().data.unwrap()["v"], "2");
    let strict = PatchParams::apply("one").validation_strict();
    let mut unknown = wanted("2");
    unknown["dta"] = json!({});
    refused(maps.patch("owned", &strict, &Patch::Apply(unknown)).await, 400, "BadRequest");
    let dry = PatchParams { dry_run: true, ..PatchParams::apply("two") };
    maps.patch("owned", &dry, &Patch::Apply(wanted("3"))).await.unwrap();
    assert_eq!(maps.get("owned").await.unwrap().data.unwrap()["v"], "2");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    deployments.create(&PostParams::default(), &object(workload("side", 0, &json!({})))).await.unwrap();
    let side = json!({"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "oarlock/pause:0.1.0"}]}}}});
    let both = deployments.patch("side", &PatchParams::default(), &Patch::Strategic(side)).await.unwrap();
    assert_eq!(both.spec.unwrap().template.spec.unwrap().containers.len(), 2);
    let restarted = deployments.restart("side").await.unwrap();
    assert!(
        restarted
            .spec
            .unwrap()
            .template
            .metadata
            .unwrap()
            .annotations
            .unwrap()
            .keys()
            .any(|key| key.ends_with("restartedAt"))
    );
    deployments.delete("side", &DeleteParams::default()).await.unwrap();
}

pub(super) async fn parts_of_objects_are_written_alone(client: &Client) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    deployments.create(&PostParams::default(), &object(workload("parts", 0, &json!({})))).await.unwrap();
    let mut scale = deployments.get_scale("parts").await.unwrap();
    assert_eq!(scale.status.as_ref().unwrap().selector.as_deref(), Some("app=parts"));
    scale.spec.as_mut().unwrap().replicas = Some(2);
    scale.metadata.resource_version = None;
    assert_eq!(
        deployments
            .replace_scale("parts", &PostParams::default(), &scale)
            .await
            .unwrap()
            .spec
            .unwrap()
            .replicas,
        Some(2)
    );
    let one = json!({"spec": {"replicas": 1}});
    let patched =
        deployments.patch_scale("parts", &PatchParams::default(), &Patch::Merge(&one)).await.unwrap();
    assert_eq!(patched.spec.unwrap().replicas, Some(1));
    let orphans =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    deployments.delete("parts", &orphans).await.unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.create(&PostParams::default(), &object(json!({"metadata": {"name": "kube"}}))).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let pod: Pod = object(json!({"metadata": {"name": "parts"}, "spec": pod_spec()}));
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let status = json!({"spec": {"nodeName": "n"}, "status": {"message": "mine"}});
    let written = pods.patch_status("parts", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(
        (written.status.unwrap().message.as_deref(), written.spec.unwrap().node_name),
        (Some("mine"), None)
    );
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "parts"}, "target": {"kind": "Node", "name": "kube"}});
    let bound: Status =
        pods.create_subresource("binding", "parts", &PostParams::default(), &binding).await.unwrap();
    assert!(bound.is_success(), "{bound:?}");
    let again =
        pods.create_subresource::<_, Status>("binding", "parts", &PostParams::default(), &binding).await;
    refused(again, 409, "Conflict");
    assert!(pods.evict("parts", &EvictParams::default()).await.unwrap().is_success());
    refused(pods.evict("nothing", &EvictParams::default()).await, 404, "NotFound");
    pods.delete("parts", &DeleteParams::default().grace_period(0)).await.unwrap();
    nodes.delete("kube", &DeleteParams::default()).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let request: TokenRequest = object(json!({"spec": {"audiences": [], "expirationSeconds": 600}}));
    let token = accounts.create_token_request("default", &PostParams::default(), &request).await.unwrap();
    assert_eq!(token.status.unwrap().token.split('.').count(), 3);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let made = namespaces
        .create(&PostParams::default(), &object(json!({"metadata": {"generateName": "kube-"}})))
        .await
        .unwrap();
    let name = made.name_any();
    namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
    let gone =
        await_condition(namespaces, &name, conditions::is_deleted(made.metadata.uid.as_deref().unwrap()));
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
}

pub(super) async fn kinds_are_discovered(client: &Client) {
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.trim_end_matches('+').parse::<u32>().unwrap() >= 33),
        ("1", true)
    );
    let plain = Discovery::new(client.clone()).run().await.unwrap();
    let aggregated = Discovery::new(client.clone()).run_aggregated().await.unwrap();
    let names = |found: &Discovery| {
        let groups = found.groups().flat_map(|group| {
            let resources = group.recommended_resources().into_iter();
            resources.map(|(resource, _)| format!("{} {}", resource.api_version, resource.kind))
        });
        groups.collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&plain), names(&aggregated), "in both forms");
    assert!(names(&plain).len() > 40, "{:?}", names(&plain));
    // Every kind that can be listed, without its types.
    for (resource, can) in aggregated.groups().flat_map(|group| group.recommended_resources()) {
        if can.supports_operation("list") {
            let all: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            all.list(&ListParams::default().limit(3)).await.unwrap_or_else(|e| panic!("{resource:?}: {e:?}"));
        }
    }
    let kind = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    let (resource, _) = aggregated.resolve_gvk(&kind).unwrap();
    let leases: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let lease = DynamicObject::new("free", &resource).data(json!({"spec": {"holderIdentity": "me"}}));
    let made = leases.create(&PostParams::default(), &lease).await.unwrap();
    assert_eq!(made.data["spec"], json!({"holderIdentity": "me"}));
    leases.delete("free", &DeleteParams::default()).await.unwrap();
}

/// A controller that keeps a Secret for each ConfigMap of a label, and says so in an event.
pub(super) async fn a_controller_of_somebody_elses_works(client: &Client) {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let recorder =
        Recorder::new(client.clone(), Reporter { controller: "example.com/keeper".into(), instance: None });
    let context = Arc::new((client.clone(), recorder));
    let controller = Controller::new(maps.clone(), watcher::Config::default().labels("of=kube"))
        .owns(secrets.clone(), watcher::Config::default())
        .run(keep, |_, error: &kube::Error, _| panic!("{error:?}"), context)
        .for_each(|_| std::future::ready(()));
    let check = async {
        maps.create(&PostParams::default(), &map("kept", "1")).await.unwrap();
        let there = |secret: Option<&Secret>| secret.is_some();
        await_condition(secrets.clone(), "kept", there).await.unwrap();
        let uid = secrets.get("kept").await.unwrap().uid().unwrap();
        secrets.delete("kept", &DeleteParams::default()).await.unwrap();
        await_condition(secrets.clone(), "kept", conditions::is_deleted(&uid)).await.unwrap();
        // It is made again, and goes with its owner.
        await_condition(secrets.clone(), "kept", there).await.unwrap();
        let uid = secrets.get("kept").await.unwrap().uid().unwrap();
        maps.delete("kept", &DeleteParams::default()).await.unwrap();
        await_condition(secrets.clone(), "kept", conditions::is_deleted(&uid)).await.unwrap();
    };
    tokio::select! {
        () = controller => panic!("the controller ends"),
        done = tokio::time::timeout(PATIENCE * 2, check) => done.unwrap(),
    }
    let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(client.clone(), NAMESPACE);
    let said = events.list(&ListParams::default().fields("reason=Kept")).await.unwrap().items;
    assert!(
        said.iter().all(|event| event.regarding.as_ref().unwrap().name.as_deref() == Some("kept"))
            && !said.is_empty()
    );
    assert!(
        said.iter().any(|event| event.series.as_ref().is_some_and(|series| series.count > 1)),
        "{said:?}"
    );
}

async fn keep(map: Arc<ConfigMap>, context: Arc<(Client, Recorder)>) -> kube::Result<Action> {
    let (client, recorder) = &*context;
    if map.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let owner = map.controller_owner_ref(&()).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": map.name_any(), "ownerReferences": [owner]}});
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets.patch(&map.name_any(), &PatchParams::apply("keeper").force(), &Patch::Apply(secret)).await?;
    let event = Event {
        type_: EventType::Normal,
        reason: "Kept".into(),
        note: Some("here".into()),
        action: "Keep".into(),
        secondary: None,
    };
    recorder.publish(&event, &map.object_ref(&())).await?;
    Ok(Action::requeue(Duration::from_secs(300)))
}
