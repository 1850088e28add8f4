//! What this node should run: the objects that the control plane sent, typed, with a bell per topic.
//!
//! In: updates and deletes of one session. Out: shared snapshots. A new session starts over: what it does not send again
//! before its snapshot ends is gone, and until then nothing is taken away.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use oarlock_api::k8s::api::core::v1::{
    ConfigMap, Endpoints, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use oarlock_api::k8s::api::networking::v1::NetworkPolicy;
use oarlock_api::k8s::api::node::v1::RuntimeClass;
use oarlock_api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use oarlock_api::network_policy::{MEMBERS, Member};
use oarlock_api::pod_token::{PodToken, TOKENS};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::static_pods;

/// A namespaced name; the namespace is empty for nodes.
pub type Key = (String, String);

/// The objects of one kind. A copy shares what it has in common with the original.
pub type Objects<T> = OrdMap<Key, Arc<T>>;

/// Everything that was sent, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Pods bound to this node, and those of its own folder.
    pub pods: Objects<Pod>,
    /// Pods of the API that are not run: mirrors of those of the folder, and what else has the name of one.
    pub aside: Objects<Pod>,
    /// ConfigMaps that those pods use.
    pub config_maps: Objects<ConfigMap>,
    /// Secrets that those pods, or volumes of theirs, use.
    pub secrets: Objects<Secret>,
    /// Claims that those pods use.
    pub claims: Objects<PersistentVolumeClaim>,
    /// RuntimeClasses that those pods name.
    pub runtime_classes: Objects<RuntimeClass>,
    /// The volumes of those claims, and the directories that were provisioned on this node.
    pub persistent_volumes: Objects<PersistentVolume>,
    /// Endpoints that somebody wrote and those pods' volumes name.
    pub endpoints: Objects<Endpoints>,
    /// The tokens of those pods, by uid and what was asked for ([`oarlock_api::pod_token`]).
    pub pod_tokens: Objects<PodToken>,
    /// All Services.
    pub services: Objects<Service>,
    /// All EndpointSlices.
    pub endpoint_slices: Objects<EndpointSlice>,
    /// All Nodes.
    pub nodes: Objects<Node>,
    /// The NetworkPolicies of this node's namespaces.
    pub network_policies: Objects<NetworkPolicy>,
    /// The pods that those name, wherever they run: by group, then by namespace and name
    /// ([`oarlock_api::network_policy::MEMBERS`]).
    pub network_peers: Objects<Member>,
    /// The version of the session's last message that is in here; for acks.
    pub version: u64,
}

impl Snapshot {
    /// Puts what there is of a name where it belongs: in `pods` what is run, `aside` what the API has besides.
    fn place(&mut self, key: &Key, statics: &Objects<Pod>) {
        let present = self.pods.remove(key).filter(|pod| !static_pods::is_static(pod));
        let sent = self.aside.remove(key).or(present);
        let own = statics.get(key);
        match (own, sent) {
            (Some(own), sent) => {
                let of_own =
                    sent.as_ref().filter(|sent| static_pods::mirrored(sent) == own.metadata.uid.as_deref());
                // What was said of it, as of any other pod.
                let status = of_own.and_then(|mirror| mirror.status.clone());
                self.pods.insert(key.clone(), Arc::new(Pod { status, ..Pod::clone(own) }));
                self.aside.extend(sent.map(|sent| (key.clone(), sent)));
            }
            (None, Some(sent)) if static_pods::mirrored(&sent).is_some() => {
                drop(self.aside.insert(key.clone(), sent))
            }
            (None, Some(sent)) => drop(self.pods.insert(key.clone(), sent)),
            (None, None) => {}
        }
    }
}

/// A kind that comes by a list and a watch of its own, not with a session.
pub trait Watched: Sized + PartialEq {
    /// Its plural resource name.
    const RESOURCE: &'static str;

    /// Its table in a snapshot.
    fn table(snapshot: &mut Snapshot) -> &mut Objects<Self>;

    /// The object's metadata.
    fn metadata(&self) -> &ObjectMeta;

    /// The object's namespace and name.
    fn key(&self) -> Key {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        (text(&self.metadata().namespace), text(&self.metadata().name))
    }
}

macro_rules! watched {
    ($kind:ty, $resource:literal, $table:ident) => {
        impl Watched for $kind {
            const RESOURCE: &'static str = $resource;

            fn table(snapshot: &mut Snapshot) -> &mut Objects<Self> {
                &mut snapshot.$table
            }

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        }
    };
}

watched!(Service, "services", services);
watched!(EndpointSlice, "endpointslices", endpoint_slices);
watched!(Node, "nodes", nodes);

/// What has to be listed before anything is known to be gone.
const WATCHED: [&str; 3] = [Service::RESOURCE, EndpointSlice::RESOURCE, Node::RESOURCE];

/// Who wants to hear of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Pods, ConfigMaps, Secrets, claims, volumes, their Endpoints and Services: what pods are made of.
    Pods,
    /// Services, EndpointSlices, Nodes and NetworkPolicies: what the dataplane is made of.
    Services,
    /// Nodes: what routes are made of.
    Nodes,
}

/// The object could not be used. The text names the object, never its content.
#[derive(Debug, thiserror::Error)]
pub enum BadObject {
    /// A kind that this agent does not know: the control plane is newer.
    #[error("resource {0:?} is not known to this agent; update the agent")]
    UnknownResource(String),
    /// The JSON does not fit the type. The parser's message may quote a value, so only its place is kept.
    #[error("{resource} {namespace}/{name} does not parse at line {line}, column {column}")]
    Malformed {
        /// Plural resource name.
        resource: String,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// Where in the JSON text.
        line: usize,
        /// Where in the JSON text.
        column: usize,
    },
}

/// The desired state of the node. Shared by reference.
#[derive(Debug)]
pub struct Desired {
    inner: Mutex<Inner>,
    pods: watch::Sender<u64>,
    services: watch::Sender<u64>,
    nodes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    present: Arc<Snapshot>,
    /// What the running snapshot of a new session has sent so far; `None` outside one.
    arriving: Option<Snapshot>,
    /// The pods of the node's own folder: they are among the present ones whatever the control plane sends.
    statics: Objects<Pod>,
    /// That folder was looked at, or there is none.
    knows_statics: bool,
    complete: bool,
    /// Kinds that a list was received of.
    listed: BTreeSet<&'static str>,
}

impl Default for Desired {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            pods: watch::Sender::new(0),
            services: watch::Sender::new(0),
            nodes: watch::Sender::new(0),
        }
    }
}

impl Desired {
    /// The present objects, and whether a whole snapshot was ever received: before that, absence means nothing.
    #[must_use]
    pub fn snapshot(&self) -> (Arc<Snapshot>, bool) {
        let inner = self.inner.lock();
        (Arc::clone(&inner.present), inner.complete)
    }

    /// Whether the pods of the node's own folder are known: before that, absence of pods means nothing.
    #[must_use]
    pub fn knows_static_pods(&self) -> bool {
        self.inner.lock().knows_statics
    }

    /// A bell that rings after changes of a topic; several changes may ring once.
    #[must_use]
    pub fn subscribe(&self, topic: Topic) -> watch::Receiver<u64> {
        match topic {
            Topic::Pods => self.pods.subscribe(),
            Topic::Services => self.services.subscribe(),
            Topic::Nodes => self.nodes.subscribe(),
        }
    }

    /// Everything up to this version of the session has been given to [`Self::update`] and its siblings.
    pub fn set_version(&self, version: u64) {
        self.with(|snapshot| snapshot.version = version);
    }

    /// A new session begins: collect its snapshot beside the present state.
    pub fn begin(&self) {
        self.inner.lock().arriving = Some(Snapshot::default());
    }

    /// The session's snapshot is whole: it becomes the present state.
    pub fn end_snapshot(&self) {
        {
            let mut inner = self.inner.lock();
            if let Some(mut arrived) = inner.arriving.take() {
                // Those of names of which nothing was sent.
                for key in inner.statics.keys() {
                    arrived.place(key, &inner.statics);
                }
                inner.present = Arc::new(arrived);
                inner.complete = true;
            }
        }
        self.ring_all();
    }

    /// The pods of the node's own folder are these now.
    pub fn set_static_pods(&self, pods: Objects<Pod>) {
        {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            inner.knows_statics = true;
            let before = std::mem::replace(&mut inner.statics, pods);
            let present = Arc::make_mut(&mut inner.present);
            for key in before.keys().chain(inner.statics.keys()) {
                present.place(key, &inner.statics);
            }
        }
        self.ring(Topic::Pods);
    }

    /// A pod of the API is there, or is there no more.
    fn sent_pod(&self, key: &Key, pod: Option<Pod>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let snapshot = inner.arriving.as_mut().unwrap_or_else(|| Arc::make_mut(&mut inner.present));
        snapshot.aside.remove(key);
        match pod {
            Some(pod) => drop(snapshot.pods.insert(key.clone(), Arc::new(pod))),
            None => drop(snapshot.pods.remove(key)),
        }
        snapshot.place(key, &inner.statics);
    }

    fn ring_all(&self) {
        for topic in [Topic::Pods, Topic::Services, Topic::Nodes] {
            self.ring(topic);
        }
    }

    /// An object was created or changed.
    ///
    /// # Errors
    /// An object that cannot be read; the one present before stays.
    pub fn update(&self, resource: &str, namespace: &str, name: &str, json: &[u8]) -> Result<(), BadObject> {
        let key = (namespace.to_owned(), name.to_owned());
        let parse = Parse { resource, namespace, name, json };
        match resource {
            "pods" => self.sent_pod(&key, Some(parse.object()?)),
            "configmaps" => self.put(|s| &mut s.config_maps, key, parse.object()?),
            "secrets" => self.put(|s| &mut s.secrets, key, parse.object()?),
            "persistentvolumeclaims" => self.put(|s| &mut s.claims, key, parse.object()?),
            "runtimeclasses" => self.put(|s| &mut s.runtime_classes, key, parse.object()?),
            "persistentvolumes" => self.put(|s| &mut s.persistent_volumes, key, parse.object()?),
            "endpoints" => self.put(|s| &mut s.endpoints, key, parse.object()?),
            TOKENS => self.put(|s| &mut s.pod_tokens, key, parse.object()?),
            "services" => self.put(|s| &mut s.services, key, parse.object()?),
            "endpointslices" => self.put(|s| &mut s.endpoint_slices, key, parse.object()?),
            "nodes" => self.put(|s| &mut s.nodes, key, parse.object()?),
            "networkpolicies" => self.put(|s| &mut s.network_policies, key, parse.object()?),
            MEMBERS => self.put(|s| &mut s.network_peers, key, parse.object()?),
            other => return Err(BadObject::UnknownResource(other.to_owned())),
        }
        self.changed(resource);
        Ok(())
    }

    /// An object is gone.
    ///
    /// # Errors
    /// A resource that this agent does not know.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> Result<(), BadObject> {
        let key = (namespace.to_owned(), name.to_owned());
        if resource == "pods" {
            self.sent_pod(&key, None);
            self.changed(resource);
            return Ok(());
        }
        self.with(|snapshot| {
            match resource {
                "configmaps" => drop(snapshot.config_maps.remove(&key)),
                "secrets" => drop(snapshot.secrets.remove(&key)),
                "persistentvolumeclaims" => drop(snapshot.claims.remove(&key)),
                "runtimeclasses" => drop(snapshot.runtime_classes.remove(&key)),
                "persistentvolumes" => drop(snapshot.persistent_volumes.remove(&key)),
                "endpoints" => drop(snapshot.endpoints.remove(&key)),
                TOKENS => drop(snapshot.pod_tokens.remove(&key)),
                "services" => drop(snapshot.services.remove(&key)),
                "endpointslices" => drop(snapshot.endpoint_slices.remove(&key)),
                "nodes" => drop(snapshot.nodes.remove(&key)),
                "networkpolicies" => drop(snapshot.network_policies.remove(&key)),
                MEMBERS => drop(snapshot.network_peers.remove(&key)),
                other => return Err(BadObject::UnknownResource(other.to_owned())),
            }
            Ok(())
        })?;
        self.changed(resource);
        Ok(())
    }

    /// A list of all objects of one kind. The whole is complete as soon as there was one of each kind that is watched.
    pub fn replace<T: Watched>(&self, listed: impl IntoIterator<Item = T>) {
        let completes = {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            let table = T::table(Arc::make_mut(&mut inner.present));
            // What is as it was stays the same object: who compares pointers sees that nothing happened to it.
            let fresh = listed.into_iter().map(|object| {
                let key = object.key();
                let old = table.remove(&key).filter(|old| **old == object);
                (key, old.unwrap_or_else(|| Arc::new(object)))
            });
            *table = fresh.collect();
            inner.listed.insert(T::RESOURCE);
            let completes = !inner.complete && WATCHED.iter().all(|resource| inner.listed.contains(resource));
            inner.complete |= completes;
            completes
        };
        if completes {
            self.ring_all();
        } else {
            self.changed(T::RESOURCE);
        }
    }

    /// A watched object was created or changed. One that is as it was rings no bell.
    pub fn set<T: Watched>(&self, object: T) {
        let key = object.key();
        let changes = {
            let mut inner = self.inner.lock();
            let table = T::table(Arc::make_mut(&mut inner.present));
            let changes = table.get(&key).is_none_or(|old| **old != object);
            if changes {
                table.insert(key, Arc::new(object));
            }
            changes
        };
        if changes {
            self.changed(T::RESOURCE);
        }
    }

    /// A watched object is gone.
    pub fn remove<T: Watched>(&self, key: &Key) {
        let was_there = {
            let mut inner = self.inner.lock();
            T::table(Arc::make_mut(&mut inner.present)).remove(key).is_some()
        };
        if was_there {
            self.changed(T::RESOURCE);
        }
    }

    fn put<T>(&self, table: impl FnOnce(&mut Snapshot) -> &mut Objects<T>, key: Key, object: T) {
        self.with(|snapshot| drop(table(snapshot).insert(key, Arc::new(object))));
    }

    /// Changes the snapshot that is arriving, else the present one. Readers keep the one that they hold.
    fn with<R>(&self, change: impl FnOnce(&mut Snapshot) -> R) -> R {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        match &mut inner.arriving {
            Some(arriving) => change(arriving),
            None => change(Arc::make_mut(&mut inner.present)),
        }
    }

    fn changed(&self, resource: &str) {
        if self.inner.lock().arriving.is_some() {
            return;
        }
        let topics: &[Topic] = match resource {
            "pods"
            | "configmaps"
            | "secrets"
            | "persistentvolumeclaims"
            | "persistentvolumes"
            | "runtimeclasses"
            | "endpoints"
            | TOKENS => &[Topic::Pods],
            "services" => &[Topic::Pods, Topic::Services],
            "endpointslices" | "networkpolicies" | MEMBERS => &[Topic::Services],
            "nodes" => &[Topic::Services, Topic::Nodes],
            _ => &[],
        };
        for topic in topics {
            self.ring(*topic);
        }
    }

    fn ring(&self, topic: Topic) {
        let bell = match topic {
            Topic::Pods => &self.pods,
            Topic::Services => &self.services,
            Topic::Nodes => &self.nodes,
        };
        bell.send_modify(|count| *count = count.wrapping_add(1));
    }
}

struct Parse<'a> {
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
    json: &'a [u8],
}

impl Parse<'_> {
    fn object<T: DeserializeOwned>(&self) -> Result<T, BadObject> {
        serde_json::from_slice(self.json).map_err(|e| BadObject::Malformed {
            resource: self.resource.to_owned(),
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            line: e.line(),
            column: e.column(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Vec<u8> {
        format!(r#"{{"metadata":{{"name":"{name}","namespace":"d"}},"spec":{{"containers":[]}}}}"#)
            .into_bytes()
    }

    fn names(desired: &Desired) -> Vec<String> {
        desired.snapshot().0.pods.keys().map(|(_, name)| name.clone()).collect()
    }

    #[test]
    fn a_new_session_takes_nothing_away_before_its_snapshot_is_whole() {
        let desired = Desired::default();
        desired.begin();
        desired.update("pods", "d", "a", &pod("a")).unwrap();
        assert!(!desired.snapshot().1, "nothing is complete yet");
        desired.end_snapshot();
        assert_eq!(names(&desired), ["a"]);

        desired.begin();
        desired.update("pods", "d", "b", &pod("b")).unwrap();
        assert_eq!(names(&desired), ["a"], "the session broke here: the old state stands");
        desired.begin();
        desired.update("pods", "d", "c", &pod("c")).unwrap();
        desired.end_snapshot();
        assert_eq!(names(&desired), ["c"]);
    }

    #[test]
    fn pods_of_the_nodes_own_folder_stay_whatever_is_sent_and_their_mirrors_are_apart() {
        let desired = Desired::default();
        let key = || ("d".to_owned(), "s".to_owned());
        let own: Pod =
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "d", "uid": "abc",
            "annotations": {"kubernetes.io/config.hash": "abc"}}}))
            .unwrap();
        let mirror = json!({"metadata": {"name": "s", "annotations": {"kubernetes.io/config.mirror": "abc"}},
            "status": {"phase": "Running"}});
        let present = || desired.snapshot().0;
        let is_own = || static_pods::is_static(&present().pods[&key()]);
        let phase = || present().pods[&key()].status.as_ref().and_then(|status| status.phase.clone());
        assert!(!desired.knows_static_pods());
        desired.set_static_pods(Objects::unit(key(), Arc::new(own.clone())));
        assert!(desired.knows_static_pods());
        assert_eq!(names(&desired), ["s"], "before there is a control plane");
        desired.begin();
        desired.update("pods", "d", "s", mirror.to_string().as_bytes()).unwrap();
        desired.update("pods", "d", "a", &pod("a")).unwrap();
        desired.end_snapshot();
        assert_eq!(names(&desired), ["a", "s"]);
        assert!(is_own() && present().aside.len() == 1);
        assert_eq!(phase().as_deref(), Some("Running"), "it has the status of its mirror");
        desired.begin();
        desired.end_snapshot();
        assert!(is_own() && phase().is_none() && present().aside.is_empty(), "a session that knows of none");

        desired.update("pods", "d", "s", &pod("s")).unwrap();
        assert!(
            is_own() && phase().is_none() && present().aside.len() == 1,
            "somebody's of the same name waits"
        );
        desired.set_static_pods(Objects::new());
        assert!(!is_own() && present().aside.is_empty(), "and has its turn");
        desired.set_static_pods(Objects::unit(key(), Arc::new(own)));
        assert!(is_own() && present().aside.len() == 1);
        desired.delete("pods", "d", "s").unwrap();
        assert!(is_own() && present().aside.is_empty());
        desired.set_static_pods(Objects::new());
        assert!(present().pods.is_empty(), "{:?}", names(&desired));

        desired.update("pods", "d", "s", mirror.to_string().as_bytes()).unwrap();
        assert!(present().pods.is_empty() && present().aside.len() == 1, "a mirror of nothing is not run");
        desired.update("pods", "d", "s", &pod("s")).unwrap();
        assert!(names(&desired) == ["s"] && present().aside.is_empty(), "another one came in its place");
    }

    #[test]
    fn bells_ring_for_their_topic_only() {
        let desired = Desired::default();
        let (pods, services) = (desired.subscribe(Topic::Pods), desired.subscribe(Topic::Services));
        desired
            .update("endpointslices", "d", "s", br#"{"metadata":{},"addressType":"IPv4","endpoints":[]}"#)
            .unwrap();
        assert!(services.has_changed().unwrap() && !pods.has_changed().unwrap());
        desired.delete("pods", "d", "nobody").unwrap();
        assert!(pods.has_changed().unwrap());
    }

    fn service(name: &str, cluster_ip: &str) -> Service {
        let mut service = Service::default();
        service.metadata.name = Some(name.to_owned());
        service.metadata.namespace = Some("d".to_owned());
        service.spec.get_or_insert_default().cluster_ip = Some(cluster_ip.to_owned());
        service
    }

    #[test]
    fn lists_are_complete_when_each_watched_kind_had_one_and_keep_what_is_as_it_was() {
        let desired = Desired::default();
        desired.replace([service("a", "10.0.0.1"), service("b", "10.0.0.2")]);
        desired.replace(Vec::<EndpointSlice>::new());
        assert!(!desired.snapshot().1, "no list of Nodes yet");
        let bell = desired.subscribe(Topic::Services);
        desired.replace(Vec::<Node>::new());
        let (before, complete) = desired.snapshot();
        assert!(complete && bell.has_changed().unwrap());

        desired.replace([service("a", "10.0.0.1"), service("c", "10.0.0.3")]);
        let (after, _) = desired.snapshot();
        let key = |name: &str| ("d".to_owned(), name.to_owned());
        assert!(Arc::ptr_eq(&before.services[&key("a")], &after.services[&key("a")]));
        assert_eq!(after.services.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(before.services.len(), 2, "who holds a snapshot keeps it");
    }

    #[test]
    fn a_watched_object_that_is_as_it_was_rings_no_bell() {
        let desired = Desired::default();
        desired.set(service("a", "10.0.0.1"));
        let mut bell = desired.subscribe(Topic::Services);
        desired.set(service("a", "10.0.0.1"));
        desired.remove::<Service>(&("d".to_owned(), "nobody".to_owned()));
        assert!(!bell.has_changed().unwrap());
        desired.set(service("a", "10.0.0.9"));
        assert!(bell.has_changed().unwrap());
        bell.mark_unchanged();
        desired.remove::<Service>(&("d".to_owned(), "a".to_owned()));
        assert!(bell.has_changed().unwrap() && desired.snapshot().0.services.is_empty());
    }

    #[test]
    fn a_malformed_secret_is_named_without_its_content() {
        let desired = Desired::default();
        let error = desired
            .update("secrets", "d", "s", br#"{"data":{"password":"hunter2"}}"#)
            .unwrap_err()
            .to_string();
        assert!(error.contains("secrets d/s") && !error.contains("hunter2"), "{error}");
        assert!(desired.update("widgets", "d", "w", b"{}").is_err());
    }
}
