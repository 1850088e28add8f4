//! Slim views: what controllers and the scheduler need of a pod and of a node, a few hundred bytes each.

mod requests;

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;

use jiff::Timestamp;
use oarlock_api::catalogue;
use oarlock_api::meta;
use oarlock_api::node_selector::NodeSelector;
use oarlock_api::quantity::Quantity;
use oarlock_api::storage;
use serde_json::Value;

use super::rules::Rules;
use requests::Requests;

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodView {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`.
    pub labels: Arc<BTreeMap<Box<str>, Box<str>>>,
    /// The uid of the owner that controls it.
    pub controller: Option<Box<str>>,
    /// The uids of all owners.
    pub owners: Vec<Box<str>>,
    /// `metadata.ownerReferences`, unless it is what controllers write: one controller of a known kind that the pod blocks.
    pub references: Option<Arc<Value>>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<Box<str>>,
    /// `spec.nodeName`.
    pub node: Option<Box<str>>,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<Box<str>, Box<str>>,
    /// Required node affinity.
    pub node_affinity: Option<Box<NodeSelector>>,
    /// Where it wants to be beside that.
    pub rules: Option<Arc<Rules>>,
    /// `spec.tolerations`.
    pub tolerations: Arc<[Toleration]>,
    /// `spec.schedulerName`.
    pub scheduler: Box<str>,
    /// `spec.priority`.
    pub priority: i64,
    /// Whether others may have to go for it: `spec.preemptionPolicy`.
    pub preempts: bool,
    /// Whether `spec.schedulingGates` hold it back.
    pub gated: bool,
    /// `status.nominatedNodeName`: where it is to go when others have gone.
    pub nominated: Option<Box<str>>,
    /// The images of its containers, as long as it has no node.
    pub images: Box<[Box<str>]>,
    /// Requested CPU in thousandths of a core.
    pub cpu_milli: i64,
    /// Requested memory in bytes.
    pub memory: i64,
    /// Requested ephemeral storage in bytes.
    pub storage: i64,
    /// What it asks for of other resources.
    pub extended: Box<[(Box<str>, i64)]>,
    /// CPU and memory, where a container that asks for nothing counts as a little: upstream's NonZeroRequested.
    pub weighed: [i64; 2],
    /// Named container ports: (name, protocol, number).
    pub ports: Vec<(Box<str>, Box<str>, u16)>,
    /// What it asks for of its node's ports.
    pub host_ports: Box<[HostPort]>,
    /// The claims of its volumes.
    pub claims: Box<[Box<str>]>,
    /// Its ephemeral volumes, whose claims are made for it.
    pub ephemeral: Option<Arc<Value>>,
    /// `spec.hostname`, for records of headless Services.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain`: the Service whose records name it.
    pub subdomain: Option<Box<str>>,
    /// `status.phase`.
    pub phase: Box<str>,
    /// `status.podIPs`, or `status.podIP` alone.
    pub ips: Vec<Box<str>>,
    /// Whether the Ready condition is true.
    pub ready: bool,
    /// When the Ready condition last changed.
    pub ready_since: Option<Timestamp>,
    /// `status.startTime`.
    pub started: Option<Timestamp>,
    /// What each container asks for.
    pub requests: Box<[ContainerRequests]>,
    /// Sum of restarts.
    pub restarts: i64,
    /// The index of a pod of an indexed Job.
    pub index: Option<i64>,
    /// How it ended; `None` while it has not.
    pub end: Option<Box<End>>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp`.
    pub deletion: Option<Timestamp>,
    /// Whether its node has let it go: only finalizers hold it.
    pub released: bool,
    /// The message of a PodScheduled=False condition.
    pub unschedulable: Option<Box<str>>,
    /// The revision that wrote it.
    pub revision: u64,
}

/// What a container asks for, where it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRequests {
    /// Its name.
    pub name: Box<str>,
    /// Thousandths of a core.
    pub cpu_milli: Option<i64>,
    /// Bytes.
    pub memory: Option<i64>,
}

/// `v1.Toleration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    key: Box<str>,
    exists: bool,
    value: Box<str>,
    effect: Box<str>,
    /// For how long a NoExecute taint is borne; `None` is for ever.
    pub seconds: Option<i64>,
}

/// `v1.Taint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    /// The key.
    pub key: Box<str>,
    /// The value.
    pub value: Box<str>,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: Box<str>,
    /// When a NoExecute taint was added.
    pub added: Option<Timestamp>,
}

impl Toleration {
    /// Whether it bears a taint.
    #[must_use]
    pub fn bears(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || self.value == taint.value)
    }
}

fn text(value: &Value) -> Box<str> {
    value.as_str().unwrap_or("").into()
}

fn non_empty(value: &Value) -> Option<Box<str>> {
    value.as_str().filter(|t| !t.is_empty()).map(Box::from)
}

fn map(value: &Value) -> BTreeMap<Box<str>, Box<str>> {
    value.as_object().into_iter().flatten().map(|(k, v)| (k.as_str().into(), text(v))).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn time(value: &Value) -> Option<Timestamp> {
    meta::parse_time(value.as_str()?)
}

/// A quantity of a resource list; what does not parse counts nothing (validation has refused it long before).
fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::from_str(value.as_str()?).ok()
}

/// The annotation with the index of a pod of an indexed Job.
pub(crate) const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";

/// How a pod ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// When its last container ended, or what is known instead.
    pub at: Option<Timestamp>,
    /// Containers by name with their exit codes.
    pub exits: Box<[(Box<str>, i64)]>,
    /// Conditions: type and status.
    pub conditions: Box<[(Box<str>, Box<str>)]>,
}

impl End {
    fn read(pod: &Value) -> Self {
        let status = &pod["status"];
        let all = ["initContainerStatuses", "containerStatuses"].map(|field| list(&status[field]));
        let ended = || {
            all.into_iter().flatten().filter_map(|s| s["state"].get("terminated").map(|t| (&s["name"], t)))
        };
        let last = ended().filter_map(|(_, terminated)| time(&terminated["finishedAt"])).max();
        let ready = list(&status["conditions"]).iter().find(|c| c["type"] == "Ready");
        Self {
            at: last
                .or_else(|| time(&pod["metadata"]["deletionTimestamp"]))
                .or_else(|| time(&ready?["lastTransitionTime"])),
            exits: ended().filter_map(|(name, t)| Some((text(name), t["exitCode"].as_i64()?))).collect(),
            conditions: list(&status["conditions"])
                .iter()
                .map(|c| (text(&c["type"]), text(&c["status"])))
                .collect(),
        }
    }
}

impl PodView {
    /// Reads a pod.
    #[must_use]
    pub fn read(pod: &Value, revision: u64) -> Self {
        let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
        let condition = |kind: &str| list(&status["conditions"]).iter().find(|c| c["type"] == kind);
        let ready = condition("Ready");
        let scheduled = condition("PodScheduled").filter(|c| c["status"] == "False");
        let requests = Requests::read(spec);
        Self {
            uid: text(&metadata["uid"]),
            labels: Arc::new(map(&metadata["labels"])),
            controller: meta::controller_of(pod).and_then(|o| non_empty(&o["uid"])),
            owners: meta::owner_references(pod).iter().filter_map(|o| non_empty(&o["uid"])).collect(),
            references: unusual_references(pod),
            finalizers: meta::finalizers(pod).map(Box::from).collect(),
            node: non_empty(&spec["nodeName"]),
            node_selector: map(&spec["nodeSelector"]),
            node_affinity: node_affinity(spec).map(Box::new),
            rules: Rules::read(pod).map(Arc::new),
            tolerations: list(&spec["tolerations"]).iter().map(toleration).collect(),
            scheduler: text(&spec["schedulerName"]),
            priority: spec["priority"].as_i64().unwrap_or(0),
            preempts: spec["preemptionPolicy"] != "Never",
            gated: !list(&spec["schedulingGates"]).is_empty(),
            nominated: non_empty(&status["nominatedNodeName"]),
            images: images(spec),
            cpu_milli: requests.cpu_milli,
            memory: requests.memory,
            storage: requests.storage,
            extended: requests.extended,
            weighed: requests.weighed,
            ports: named_ports(spec),
            host_ports: host_ports(spec),
            claims: claims(pod),
            ephemeral: ephemeral(spec),
            hostname: non_empty(&spec["hostname"]),
            subdomain: non_empty(&spec["subdomain"]),
            phase: text(&status["phase"]),
            ips: addresses(status),
            ready: ready.is_some_and(|c| c["status"] == "True"),
            ready_since: ready.and_then(|c| time(&c["lastTransitionTime"])),
            started: time(&status["startTime"]),
            requests: container_requests(spec),
            restarts: list(&status["containerStatuses"])
                .iter()
                .filter_map(|s| s["restartCount"].as_i64())
                .sum(),
            index: meta::annotation(pod, INDEX_ANNOTATION).and_then(|text| text.parse().ok()),
            end: matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"))
                .then(|| Box::new(End::read(pod))),
            created: time(&metadata["creationTimestamp"]),
            deletion: time(&metadata["deletionTimestamp"]),
            released: !metadata["deletionTimestamp"].is_null() && metadata["deletionGracePeriodSeconds"] == 0,
            unschedulable: scheduled.map(|c| text(&c["message"])),
            revision,
        }
    }

    /// The node that it has, or the only one that it may get.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        self.node.as_deref().or_else(|| self.node_affinity.as_ref()?.only_node())
    }

    /// Whether it bears a taint.
    #[must_use]
    pub fn bears(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.bears(taint))
    }

    /// Whether it is being deleted.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.deletion.is_some()
    }

    /// Whether it has come to its end: it holds no resources and is no replica.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(&*self.phase, "Succeeded" | "Failed")
    }

    /// Whether it counts as a replica.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.has_ended() && !self.is_terminating()
    }

    /// Whether it has been ready for `seconds`.
    #[must_use]
    pub fn is_available(&self, seconds: i64, now: Timestamp) -> bool {
        self.ready
            && (seconds == 0 || self.ready_since.is_some_and(|t| now.as_second() - t.as_second() >= seconds))
    }

    /// One label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(AsRef::as_ref)
    }
}

/// Whether the kind of an owner is one that is kept here.
pub(crate) fn is_known(reference: &Value) -> bool {
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or("");
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    catalogue::builtin(group, version, text("kind")).is_some()
}

fn unusual_references(pod: &Value) -> Option<Arc<Value>> {
    let usual = |reference: &Value| {
        reference["controller"] == true && reference["blockOwnerDeletion"] == true && is_known(reference)
    };
    match meta::owner_references(pod) {
        [] => None,
        [only] if usual(only) => None,
        all => Some(Arc::new(Value::from(all))),
    }
}

fn node_affinity(spec: &Value) -> Option<NodeSelector> {
    let affinity = &spec["affinity"]["nodeAffinity"];
    let required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution").filter(|r| !r.is_null())?;
    NodeSelector::parse(required).ok()
}

fn toleration(value: &Value) -> Toleration {
    Toleration {
        key: text(&value["key"]),
        exists: value["operator"] == "Exists",
        value: text(&value["value"]),
        effect: text(&value["effect"]),
        seconds: value["tolerationSeconds"].as_i64(),
    }
}

/// Only who is still to be given a node is asked for its images.
fn images(spec: &Value) -> Box<[Box<str>]> {
    if non_empty(&spec["nodeName"]).is_some() {
        return Box::default();
    }
    list(&spec["containers"]).iter().filter_map(|c| non_empty(&c["image"])).collect()
}

fn ranges(spec: &Value) -> Vec<Box<str>> {
    let all: Vec<Box<str>> = list(&spec["podCIDRs"]).iter().filter_map(non_empty).collect();
    if all.is_empty() { non_empty(&spec["podCIDR"]).into_iter().collect() } else { all }
}

fn container_requests(spec: &Value) -> Box<[ContainerRequests]> {
    let of = |container: &Value| {
        let asked = |resource: &str| quantity(&container["resources"]["requests"][resource]);
        ContainerRequests {
            name: text(&container["name"]),
            cpu_milli: asked("cpu").map(|cpu| cpu.milli_value()),
            memory: asked("memory").map(|memory| memory.value()),
        }
    };
    list(&spec["containers"]).iter().map(of).collect()
}

fn addresses(status: &Value) -> Vec<Box<str>> {
    let all: Vec<Box<str>> = list(&status["podIPs"]).iter().filter_map(|ip| non_empty(&ip["ip"])).collect();
    if all.is_empty() { non_empty(&status["podIP"]).into_iter().collect() } else { all }
}

fn host_ports(spec: &Value) -> Box<[HostPort]> {
    let ports = list(&spec["containers"]).iter().flat_map(|c| list(&c["ports"]));
    let asked = ports.filter_map(|p| {
        let number = u16::try_from(p["hostPort"].as_u64()?).ok().filter(|number| *number != 0)?;
        // As upstream's DefaultBindAllHostIP.
        let ip = non_empty(&p["hostIP"]).filter(|ip| &**ip != "0.0.0.0");
        Some(HostPort { ip, protocol: p["protocol"].as_str().unwrap_or("TCP").into(), number })
    });
    asked.collect()
}

/// The claims that its volumes name, and those that are made for its ephemeral ones.
fn claims(pod: &Value) -> Box<[Box<str>]> {
    let volumes = list(&pod["spec"]["volumes"]).iter();
    volumes.filter_map(|v| Some(storage::claim_of(meta::name(pod), v)?.into_boxed_str())).collect()
}

fn ephemeral(spec: &Value) -> Option<Arc<Value>> {
    let volumes: Vec<Value> =
        list(&spec["volumes"]).iter().filter(|volume| volume["ephemeral"].is_object()).cloned().collect();
    (!volumes.is_empty()).then(|| Arc::new(Value::from(volumes)))
}

fn named_ports(spec: &Value) -> Vec<(Box<str>, Box<str>, u16)> {
    let ports = list(&spec["containers"]).iter().flat_map(|c| list(&c["ports"]));
    let named = ports.filter_map(|p| {
        let protocol = p["protocol"].as_str().unwrap_or("TCP").into();
        Some((non_empty(&p["name"])?, protocol, u16::try_from(p["containerPort"].as_u64()?).ok()?))
    });
    named.collect()
}

/// `hostPort` of a container: a port of the node that only one pod can have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// `hostIP`; none: all addresses of the node.
    pub ip: Option<Box<str>>,
    /// `protocol`.
    pub protocol: Box<str>,
    /// The port on the node.
    pub number: u16,
}

impl HostPort {
    /// Whether a node cannot give both (upstream's HostPortInfo.CheckConflict).
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let same = self.number == other.number && self.protocol == other.protocol;
        same && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `spec.podCIDRs`, or `spec.podCIDR` alone.
    pub pod_cidrs: Vec<Box<str>>,
    /// Allocatable CPU in thousandths of a core.
    pub cpu_milli: i64,
    /// Allocatable memory in bytes.
    pub memory: i64,
    /// Allocatable ephemeral storage in bytes.
    pub storage: i64,
    /// How many pods it takes.
    pub max_pods: i64,
    /// What it has of other resources.
    pub extended: Box<[(Box<str>, i64)]>,
    /// The status of the Ready condition: True, False, Unknown, or empty.
    pub ready: Box<str>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// Whether its last change brought it, or moved it to another zone: endpoints on it have to be looked at.
    pub moved: bool,
    /// Whether its last change brought it, or altered anything that decides which pods may go there.
    pub opened: bool,
}

impl NodeView {
    /// The zone where it stands.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.labels.get("topology.kubernetes.io/zone").map(AsRef::as_ref).filter(|zone| !zone.is_empty())
    }

    /// Reads a node.
    #[must_use]
    pub fn read(node: &Value) -> Self {
        let allocatable = &node["status"]["allocatable"];
        let amount = |resource: &str| quantity(&allocatable[resource]).unwrap_or(Quantity::milli(0));
        let ready = list(&node["status"]["conditions"]).iter().find(|c| c["type"] == "Ready");
        let taint = |t: &Value| Taint {
            key: text(&t["key"]),
            value: text(&t["value"]),
            effect: text(&t["effect"]),
            added: time(&t["timeAdded"]),
        };
        Self {
            name: text(&node["metadata"]["name"]),
            uid: text(&node["metadata"]["uid"]),
            labels: map(&node["metadata"]["labels"]),
            taints: list(&node["spec"]["taints"]).iter().map(taint).collect(),
            unschedulable: node["spec"]["unschedulable"] == true,
            pod_cidrs: ranges(&node["spec"]),
            cpu_milli: amount("cpu").milli_value(),
            memory: amount("memory").value(),
            storage: amount("ephemeral-storage").value(),
            max_pods: amount("pods").value(),
            extended: requests::others(allocatable),
            ready: ready.map_or_else(|| "".into(), |c| text(&c["status"])),
            created: time(&node["metadata"]["creationTimestamp"]),
            moved: true,
            opened: true,
        }
    }

    /// Whether pods meet the same here as there.
    #[must_use]
    pub fn offers_the_same(&self, other: &Self) -> bool {
        let amounts = |node: &Self| (node.cpu_milli, node.memory, node.storage, node.max_pods);
        amounts(self) == amounts(other)
            && self.extended == other.extended
            && (self.unschedulable, &self.ready, self.pod_cidrs.is_empty())
                == (other.unschedulable, &other.ready, other.pod_cidrs.is_empty())
            && self.taints == other.taints
            && self.labels == other.labels
    }
}
