//! What this node should run: the objects that the control plane sent, typed, with a bell per topic.
//!
//! In: updates and deletes of one session. Out: shared snapshots. A new session starts over: what it does not send again
//! before its snapshot ends is gone, and until then nothing is taken away.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_api::k8s::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// A namespaced name; the namespace is empty for nodes.
pub type Key = (String, String);

/// The objects of one kind.
pub type Objects<T> = BTreeMap<Key, Arc<T>>;

/// Everything that was sent, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Pods bound to this node.
    pub pods: Objects<Pod>,
    /// ConfigMaps that those pods use.
    pub config_maps: Objects<ConfigMap>,
    /// Secrets that those pods use.
    pub secrets: Objects<Secret>,
    /// All Services.
    pub services: Objects<Service>,
    /// All EndpointSlices.
    pub endpoint_slices: Objects<EndpointSlice>,
    /// All Nodes.
    pub nodes: Objects<Node>,
    /// The version of the session's last message that is in here; for acks.
    pub version: u64,
}

/// Who wants to hear of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Pods, ConfigMaps, Secrets and Services: what pods are made of.
    Pods,
    /// Services, EndpointSlices and Nodes: what the dataplane is made of.
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
    complete: bool,
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
            if let Some(arrived) = inner.arriving.take() {
                inner.present = Arc::new(arrived);
                inner.complete = true;
            }
        }
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
            "pods" => self.put(|s| &mut s.pods, key, parse.object()?),
            "configmaps" => self.put(|s| &mut s.config_maps, key, parse.object()?),
            "secrets" => self.put(|s| &mut s.secrets, key, parse.object()?),
            "services" => self.put(|s| &mut s.services, key, parse.object()?),
            "endpointslices" => self.put(|s| &mut s.endpoint_slices, key, parse.object()?),
            "nodes" => self.put(|s| &mut s.nodes, key, parse.object()?),
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
        self.with(|snapshot| {
            match resource {
                "pods" => drop(snapshot.pods.remove(&key)),
                "configmaps" => drop(snapshot.config_maps.remove(&key)),
                "secrets" => drop(snapshot.secrets.remove(&key)),
                "services" => drop(snapshot.services.remove(&key)),
                "endpointslices" => drop(snapshot.endpoint_slices.remove(&key)),
                "nodes" => drop(snapshot.nodes.remove(&key)),
                other => return Err(BadObject::UnknownResource(other.to_owned())),
            }
            Ok(())
        })?;
        self.changed(resource);
        Ok(())
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
            "pods" | "configmaps" | "secrets" => &[Topic::Pods],
            "services" => &[Topic::Pods, Topic::Services],
            "endpointslices" => &[Topic::Services],
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
