//! Reads what may tell why: the object, what is its own, what it stands on, and the events about those. Decides nothing.
//!
//! What may be missing (usage, a Lease, events that one may not read) is left out; only the object itself has to be there.

use jiff::Timestamp;
use oarlock_api::meta;
use serde_json::Value;

use super::told::{list, text};
use super::{Evidence, Subject, pod};
use crate::plugin::cluster::Cluster;

/// Pods in trouble about which events are read, of those of a Deployment or a Service.
const LOOKED_AT: usize = 20;

/// Everything about one object.
pub(super) async fn evidence(
    cluster: &Cluster,
    subject: Subject,
    name: &str,
    namespace: Option<&str>,
) -> anyhow::Result<Evidence> {
    let namespace = namespace.unwrap_or_else(|| cluster.default_namespace()).to_owned();
    let path = match subject {
        Subject::Pod => format!("/api/v1/namespaces/{namespace}/pods/{name}"),
        Subject::Deployment => format!("/apis/apps/v1/namespaces/{namespace}/deployments/{name}"),
        Subject::Service => format!("/api/v1/namespaces/{namespace}/services/{name}"),
        Subject::Node => format!("/api/v1/nodes/{name}"),
    };
    let object: Value = cluster.get(&path).await?;
    let mut evidence = Evidence { now: Timestamp::now(), object, ..Evidence::default() };
    let gathering = Gathering { cluster, namespace: &namespace };
    match subject {
        Subject::Pod => gathering.of_pod(&mut evidence).await,
        Subject::Deployment => gathering.of_deployment(&mut evidence).await,
        Subject::Service => gathering.of_service(&mut evidence).await,
        Subject::Node => gathering.of_node(&mut evidence, name).await,
    }
    let own = gathering.events(&evidence.object).await;
    evidence.events.extend(own);
    Ok(evidence)
}

struct Gathering<'c> {
    cluster: &'c Cluster,
    namespace: &'c str,
}

impl Gathering<'_> {
    /// The items of a list; none where it cannot be read.
    async fn items(&self, path: &str) -> Vec<Value> {
        let answer: anyhow::Result<Value> = self.cluster.get(path).await;
        let list = answer.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    async fn one(&self, path: &str) -> Option<Value> {
        self.cluster.get(path).await.ok()
    }

    async fn events(&self, object: &Value) -> Vec<Value> {
        let namespace = Some(meta::namespace(object)).filter(|namespace| !namespace.is_empty());
        let (namespace, uid) = (namespace.unwrap_or("default"), meta::uid(object));
        self.items(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}"))
            .await
    }

    async fn of_pod(&self, evidence: &mut Evidence) {
        let pod = evidence.object.clone();
        self.beside(evidence, &pod).await;
        let (namespace, name) = (self.namespace, meta::name(&pod));
        let usage = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}");
        evidence.usage.extend(self.one(&usage).await);
    }

    /// What a pod stands on: its node, its claims, and what is said about those.
    async fn beside(&self, evidence: &mut Evidence, pod: &Value) {
        let node = text(&pod["spec"]["nodeName"]);
        if !node.is_empty() && evidence.node(node).is_none() {
            evidence.nodes.extend(self.one(&format!("/api/v1/nodes/{node}")).await);
        }
        for volume in list(&pod["spec"]["volumes"]) {
            let own = format!("{}-{}", meta::name(pod), text(&volume["name"]));
            let name = volume["persistentVolumeClaim"]["claimName"].as_str();
            let Some(name) = name.or(volume["ephemeral"].is_object().then_some(&*own)) else { continue };
            let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims/{name}", self.namespace);
            if let Some(claim) = self.one(&path).await {
                let events = self.events(&claim).await;
                evidence.events.extend(events);
                evidence.claims.push(claim);
            }
        }
    }

    /// Events and surroundings of pods that are in trouble.
    async fn troubled(&self, evidence: &mut Evidence) {
        let troubled = evidence.pods.iter().filter(|one| !pod::is_well(one)).take(LOOKED_AT);
        for pod in troubled.cloned().collect::<Vec<_>>() {
            self.beside(evidence, &pod).await;
            let events = self.events(&pod).await;
            evidence.events.extend(events);
        }
    }

    async fn of_deployment(&self, evidence: &mut Evidence) {
        let namespace = self.namespace;
        let owner = meta::uid(&evidence.object).to_owned();
        let owned = |object: &Value, by: &[String]| {
            list(&object["metadata"]["ownerReferences"])
                .any(|owner| by.iter().any(|uid| owner["uid"] == **uid))
        };
        let sets = self.items(&format!("/apis/apps/v1/namespaces/{namespace}/replicasets")).await;
        evidence.replica_sets =
            sets.into_iter().filter(|set| owned(set, std::slice::from_ref(&owner))).collect();
        let uids: Vec<String> = evidence.replica_sets.iter().map(|set| meta::uid(set).to_owned()).collect();
        let pods = self.items(&format!("/api/v1/namespaces/{namespace}/pods")).await;
        evidence.pods = pods.into_iter().filter(|pod| owned(pod, &uids)).collect();
        for set in evidence.replica_sets.clone() {
            let events = self.events(&set).await;
            evidence.events.extend(events);
        }
        self.troubled(evidence).await;
    }

    async fn of_service(&self, evidence: &mut Evidence) {
        let (namespace, name) = (self.namespace, meta::name(&evidence.object).to_owned());
        let label = format!("labelSelector=kubernetes.io%2Fservice-name%3D{name}");
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?{label}");
        evidence.slices = self.items(&path).await;
        let pods = self.items(&format!("/api/v1/namespaces/{namespace}/pods")).await;
        let selector = evidence.object["spec"]["selector"].as_object().cloned().unwrap_or_default();
        let fits = |pod: &Value| {
            let labels = meta::labels(pod);
            selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        };
        let (meant, others): (Vec<Value>, Vec<Value>) = pods.into_iter().partition(fits);
        evidence.nodes = self.items("/api/v1/nodes").await;
        if meant.is_empty() {
            evidence.pods = others;
        } else {
            evidence.pods = meant;
            self.troubled(evidence).await;
        }
    }

    async fn of_node(&self, evidence: &mut Evidence, name: &str) {
        evidence.pods = self.items(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{name}")).await;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}");
        evidence.lease = self.one(&lease).await.unwrap_or_default();
        evidence.usage.extend(self.one(&format!("/apis/metrics.k8s.io/v1beta1/nodes/{name}")).await);
    }
}
