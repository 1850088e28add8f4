//! The kinds that are served: data, not code. One row a kind; whoever serves, stores, prints or checks an object starts
//! from its row.
//!
//! Rows are `&'static` so that they can be compared by address and kept in keys; kinds that arrive at run time (custom
//! resources, later) are leaked into the same shape.

use std::fmt;

/// Verbs of a resource that can do everything.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// Verbs of resources without deletecollection (namespaces), as upstream's discovery has them.
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];

/// The resources whose deletes answer what is gone, as upstream's OpenAPI documents have them.
const ANSWERED_WHEN_DELETED: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
];

/// The resources that a PUT creates where they are not there, as upstream's strategies have it.
const CREATED_BY_UPDATES: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("", "limitranges"),
    ("", "services"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
];

/// A subresource as discovery shows it.
#[derive(Debug)]
pub struct Subresource {
    /// The last path segment: `status`, `scale`, `log`.
    pub name: &'static str,
    /// The kind that it takes and answers.
    pub kind: &'static str,
    /// Group and version of that kind where they differ from the resource's.
    pub group_version: Option<(&'static str, &'static str)>,
    /// What may be done with it.
    pub verbs: &'static [&'static str],
}

/// A served kind.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The version that is served, and stored but for [`Kind::stored_as`].
    pub version: &'static str,
    /// CamelCase name of one object.
    pub kind: &'static str,
    /// Plural name in paths.
    pub plural: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// What kubectl may type instead.
    pub short_names: &'static [&'static str],
    /// Groups of kinds (`all`).
    pub categories: &'static [&'static str],
    /// What may be done.
    pub verbs: &'static [&'static str],
    /// What hangs below an object.
    pub subresources: &'static [Subresource],
    /// Whether `metadata.generation` counts changes of `spec`.
    pub has_generation: bool,
    /// Whose form is stored, where these are the same objects in another version (or group).
    pub stored_as: Option<&'static Kind>,
    /// What whoever asks for it is warned of.
    pub deprecated: Option<&'static str>,
}

impl Kind {
    /// `v1` or `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `deployments.apps`, or `pods` in the core group: how error messages name a resource.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The kind whose form is stored: nearly always this one.
    #[must_use]
    pub fn stored(&'static self) -> &'static Self {
        self.stored_as.unwrap_or(self)
    }

    /// Whether it is only asked and never kept, as access reviews.
    #[must_use]
    pub fn is_review(&self) -> bool {
        matches!(self.verbs, ["create"])
    }

    /// `DeploymentList`.
    #[must_use]
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The singular name: the kind in lower case.
    #[must_use]
    pub fn singular(&self) -> String {
        self.kind.to_lowercase()
    }

    /// Whether clients may do this.
    #[must_use]
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether a delete answers the object that is gone, as typed clients expect it; of other kinds it is a Status.
    #[must_use]
    pub fn answers_deleted(&self) -> bool {
        ANSWERED_WHEN_DELETED.contains(&(self.group, self.plural))
    }

    /// Whether an update of an object that is not there creates it.
    #[must_use]
    pub fn is_created_by_updates(&self) -> bool {
        CREATED_BY_UPDATES.contains(&(self.group, self.plural))
    }

    /// Whether objects have this subresource.
    #[must_use]
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s.name == name)
    }

    /// The prefix of all keys of this kind in the store, with a slash at its end.
    #[must_use]
    pub fn prefix(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group };
        format!("/registry/{group}/{}/", self.plural)
    }

    /// The store key of one object; `namespace` is empty for kinds of the cluster.
    #[must_use]
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let prefix = self.prefix();
        if self.namespaced { format!("{prefix}{namespace}/{name}") } else { format!("{prefix}{name}") }
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.qualified(), self.version)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        // What differs most times first, as this is asked many times for each change.
        std::ptr::eq(self, other)
            || (self.plural, self.group, self.version) == (other.plural, other.group, other.version)
    }
}

impl Eq for Kind {}

impl std::hash::Hash for Kind {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.group, self.plural).hash(state);
    }
}

const fn status(kind: &'static str) -> Subresource {
    Subresource { name: "status", kind, group_version: None, verbs: STATUS_VERBS }
}

/// A connection to a pod: no object, but a protocol that the request is upgraded to.
const fn connect(name: &'static str, kind: &'static str) -> Subresource {
    Subresource { name, kind, group_version: None, verbs: &["create", "get"] }
}

/// Requests that are handed on, whatever they are.
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

const SCALE: Subresource = Subresource {
    name: "scale",
    kind: "Scale",
    group_version: Some(("autoscaling", "v1")),
    verbs: STATUS_VERBS,
};

/// Accepted in version v1beta1, too.
const EVICTION: Subresource = Subresource {
    name: "eviction",
    kind: "Eviction",
    group_version: Some(("policy", "v1")),
    verbs: &["create"],
};

const fn core(kind: &'static str, plural: &'static str, short_names: &'static [&'static str]) -> Kind {
    Kind {
        group: "",
        version: "v1",
        kind,
        plural,
        namespaced: true,
        short_names,
        categories: &[],
        verbs: ALL_VERBS,
        subresources: &[],
        has_generation: false,
        stored_as: None,
        deprecated: None,
    }
}

/// core/v1 Namespace.
pub static NAMESPACES: Kind = Kind {
    namespaced: false,
    verbs: NO_COLLECTION,
    subresources: &[
        Subresource { name: "finalize", kind: "Namespace", group_version: None, verbs: &["update"] },
        status("Namespace"),
    ],
    ..core("Namespace", "namespaces", &["ns"])
};
/// core/v1 Node.
pub static NODES: Kind =
    Kind { namespaced: false, subresources: &[status("Node")], ..core("Node", "nodes", &["no"]) };
/// core/v1 PersistentVolumeClaim.
pub static PERSISTENT_VOLUME_CLAIMS: Kind = Kind {
    subresources: &[status("PersistentVolumeClaim")],
    ..core("PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"])
};
/// core/v1 PersistentVolume.
pub static PERSISTENT_VOLUMES: Kind = Kind {
    namespaced: false,
    subresources: &[status("PersistentVolume")],
    ..core("PersistentVolume", "persistentvolumes", &["pv"])
};
/// core/v1 Pod.
pub static PODS: Kind = Kind {
    categories: &["all"],
    subresources: &[
        connect("attach", "PodAttachOptions"),
        Subresource { name: "binding", kind: "Binding", group_version: None, verbs: &["create"] },
        Subresource {
            name: "ephemeralcontainers",
            kind: "Pod",
            group_version: None,
            verbs: &["get", "patch", "update"],
        },
        EVICTION,
        connect("exec", "PodExecOptions"),
        Subresource { name: "log", kind: "Pod", group_version: None, verbs: &["get"] },
        connect("portforward", "PodPortForwardOptions"),
        Subresource { verbs: PROXY_VERBS, ..connect("proxy", "PodProxyOptions") },
        status("Pod"),
    ],
    has_generation: true,
    ..core("Pod", "pods", &["po"])
};
/// core/v1 ReplicationController.
pub static REPLICATION_CONTROLLERS: Kind = Kind {
    categories: &["all"],
    subresources: &[SCALE, status("ReplicationController")],
    has_generation: true,
    ..core("ReplicationController", "replicationcontrollers", &["rc"])
};
/// core/v1 Service.
pub static SERVICES: Kind = Kind {
    categories: &["all"],
    subresources: &[
        Subresource { verbs: PROXY_VERBS, ..connect("proxy", "ServiceProxyOptions") },
        status("Service"),
    ],
    ..core("Service", "services", &["svc"])
};
/// core/v1 Endpoints.
pub static ENDPOINTS: Kind = core("Endpoints", "endpoints", &["ep"]);
/// core/v1 ConfigMap.
pub static CONFIG_MAPS: Kind = core("ConfigMap", "configmaps", &["cm"]);
/// core/v1 Secret.
pub static SECRETS: Kind = core("Secret", "secrets", &[]);
/// core/v1 Event.
pub static EVENTS: Kind = core("Event", "events", &["ev"]);
/// core/v1 PodTemplate.
pub static POD_TEMPLATES: Kind = Kind { has_generation: true, ..core("PodTemplate", "podtemplates", &[]) };
/// core/v1 ComponentStatus: not stored, but asked for.
pub static COMPONENT_STATUSES: Kind = Kind {
    namespaced: false,
    verbs: &["get", "list"],
    deprecated: Some("v1 ComponentStatus is deprecated in v1.19+"),
    ..core("ComponentStatus", "componentstatuses", &["cs"])
};
/// core/v1 LimitRange.
pub static LIMIT_RANGES: Kind = core("LimitRange", "limitranges", &["limits"]);
/// core/v1 ResourceQuota.
pub static RESOURCE_QUOTAS: Kind =
    Kind { subresources: &[status("ResourceQuota")], ..core("ResourceQuota", "resourcequotas", &["quota"]) };
/// core/v1 ServiceAccount.
pub static SERVICE_ACCOUNTS: Kind = Kind {
    subresources: &[Subresource {
        name: "token",
        kind: "TokenRequest",
        group_version: Some(("authentication.k8s.io", "v1")),
        verbs: &["create"],
    }],
    ..core("ServiceAccount", "serviceaccounts", &["sa"])
};
/// apps/v1 Deployment.
pub static DEPLOYMENTS: Kind = Kind {
    group: "apps",
    categories: &["all"],
    subresources: &[SCALE, status("Deployment")],
    has_generation: true,
    ..core("Deployment", "deployments", &["deploy"])
};
/// apps/v1 ReplicaSet.
pub static REPLICA_SETS: Kind = Kind {
    group: "apps",
    categories: &["all"],
    subresources: &[SCALE, status("ReplicaSet")],
    has_generation: true,
    ..core("ReplicaSet", "replicasets", &["rs"])
};
/// apps/v1 ControllerRevision.
pub static CONTROLLER_REVISIONS: Kind =
    Kind { group: "apps", ..core("ControllerRevision", "controllerrevisions", &[]) };
/// apps/v1 DaemonSet.
pub static DAEMON_SETS: Kind = Kind {
    group: "apps",
    categories: &["all"],
    subresources: &[status("DaemonSet")],
    has_generation: true,
    ..core("DaemonSet", "daemonsets", &["ds"])
};
/// apps/v1 StatefulSet.
pub static STATEFUL_SETS: Kind = Kind {
    group: "apps",
    categories: &["all"],
    subresources: &[SCALE, status("StatefulSet")],
    has_generation: true,
    ..core("StatefulSet", "statefulsets", &["sts"])
};
/// apiextensions.k8s.io/v1 CustomResourceDefinition. There are none and none can be made yet; kubectl lists them to tell a
/// kind that is not known from one that was defined.
pub static CUSTOM_RESOURCE_DEFINITIONS: Kind = Kind {
    group: "apiextensions.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    verbs: &["get", "list", "watch"],
    ..core("CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"])
};
/// apiregistration.k8s.io/v1 APIService: who answers for a group and version.
pub static API_SERVICES: Kind = Kind {
    group: "apiregistration.k8s.io",
    namespaced: false,
    categories: &["api-extensions"],
    subresources: &[status("APIService")],
    ..core("APIService", "apiservices", &[])
};
const AUTOSCALER_STATUS: &[Subresource] = &[status("HorizontalPodAutoscaler")];

const fn autoscaler(version: &'static str) -> Kind {
    Kind {
        group: "autoscaling",
        version,
        categories: &["all"],
        subresources: AUTOSCALER_STATUS,
        ..core("HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"])
    }
}

/// autoscaling/v2 HorizontalPodAutoscaler.
pub static HORIZONTAL_POD_AUTOSCALERS: Kind = autoscaler("v2");
/// autoscaling/v1 HorizontalPodAutoscaler, which `kubectl autoscale` of old creates.
pub static HORIZONTAL_POD_AUTOSCALERS_V1: Kind =
    Kind { stored_as: Some(&HORIZONTAL_POD_AUTOSCALERS), ..autoscaler("v1") };
/// autoscaling/v2beta2 HorizontalPodAutoscaler, which kubectl 1.20 describes: the fields are those of version 2.
pub static HORIZONTAL_POD_AUTOSCALERS_V2BETA2: Kind =
    Kind { stored_as: Some(&HORIZONTAL_POD_AUTOSCALERS), ..autoscaler("v2beta2") };

/// batch/v1 CronJob.
pub static CRON_JOBS: Kind = Kind {
    group: "batch",
    categories: &["all"],
    subresources: &[status("CronJob")],
    has_generation: true,
    ..core("CronJob", "cronjobs", &["cj"])
};
/// batch/v1beta1 CronJob, which kubectl 1.20 creates.
pub static CRON_JOBS_V1BETA1: Kind = Kind {
    group: "batch",
    version: "v1beta1",
    categories: &["all"],
    subresources: &[status("CronJob")],
    has_generation: true,
    stored_as: Some(&CRON_JOBS),
    deprecated: Some(
        "batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use batch/v1 CronJob",
    ),
    ..core("CronJob", "cronjobs", &["cj"])
};
/// batch/v1 Job.
pub static JOBS: Kind = Kind {
    group: "batch",
    categories: &["all"],
    subresources: &[status("Job")],
    has_generation: true,
    ..core("Job", "jobs", &[])
};
/// certificates.k8s.io/v1 CertificateSigningRequest.
pub static CERTIFICATE_SIGNING_REQUESTS: Kind = Kind {
    group: "certificates.k8s.io",
    namespaced: false,
    subresources: &[
        Subresource {
            name: "approval",
            kind: "CertificateSigningRequest",
            group_version: None,
            verbs: STATUS_VERBS,
        },
        status("CertificateSigningRequest"),
    ],
    ..core("CertificateSigningRequest", "certificatesigningrequests", &["csr"])
};
/// coordination.k8s.io/v1 Lease.
pub static LEASES: Kind = Kind { group: "coordination.k8s.io", ..core("Lease", "leases", &[]) };
/// discovery.k8s.io/v1 EndpointSlice.
pub static ENDPOINT_SLICES: Kind =
    Kind { group: "discovery.k8s.io", has_generation: true, ..core("EndpointSlice", "endpointslices", &[]) };
/// discovery.k8s.io/v1beta1 EndpointSlice.
pub static ENDPOINT_SLICES_V1BETA1: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1beta1",
    has_generation: true,
    stored_as: Some(&ENDPOINT_SLICES),
    deprecated: Some(
        "discovery.k8s.io/v1beta1 EndpointSlice is deprecated in v1.21+, unavailable in v1.25+; use discovery.k8s.io/v1 \
         EndpointSlice",
    ),
    ..core("EndpointSlice", "endpointslices", &[])
};
/// events.k8s.io/v1 Event: the same objects as those of the core group.
pub static EVENTS_V1: Kind =
    Kind { group: "events.k8s.io", stored_as: Some(&EVENTS), ..core("Event", "events", &["ev"]) };
/// networking.k8s.io/v1 NetworkPolicy.
pub static NETWORK_POLICIES: Kind = Kind {
    group: "networking.k8s.io",
    has_generation: true,
    ..core("NetworkPolicy", "networkpolicies", &["netpol"])
};

/// policy/v1 PodDisruptionBudget.
pub static POD_DISRUPTION_BUDGETS: Kind = Kind {
    group: "policy",
    subresources: &[status("PodDisruptionBudget")],
    has_generation: true,
    ..core("PodDisruptionBudget", "poddisruptionbudgets", &["pdb"])
};

/// policy/v1beta1 PodDisruptionBudget, which kubectl 1.20 creates.
pub static POD_DISRUPTION_BUDGETS_V1BETA1: Kind = Kind {
    group: "policy",
    version: "v1beta1",
    subresources: &[status("PodDisruptionBudget")],
    has_generation: true,
    stored_as: Some(&POD_DISRUPTION_BUDGETS),
    ..core("PodDisruptionBudget", "poddisruptionbudgets", &["pdb"])
};

/// networking.k8s.io/v1 IngressClass.
pub static INGRESS_CLASSES: Kind = Kind {
    group: "networking.k8s.io",
    namespaced: false,
    has_generation: true,
    ..core("IngressClass", "ingressclasses", &[])
};
/// networking.k8s.io/v1 Ingress.
pub static INGRESSES: Kind = Kind {
    group: "networking.k8s.io",
    subresources: &[status("Ingress")],
    has_generation: true,
    ..core("Ingress", "ingresses", &["ing"])
};
/// node.k8s.io/v1 RuntimeClass.
pub static RUNTIME_CLASSES: Kind =
    Kind { group: "node.k8s.io", namespaced: false, ..core("RuntimeClass", "runtimeclasses", &[]) };
/// scheduling.k8s.io/v1 PriorityClass.
pub static PRIORITY_CLASSES: Kind = Kind {
    group: "scheduling.k8s.io",
    namespaced: false,
    has_generation: true,
    ..core("PriorityClass", "priorityclasses", &["pc"])
};

const fn rbac(kind: &'static str, plural: &'static str) -> Kind {
    Kind { group: "rbac.authorization.k8s.io", ..core(kind, plural, &[]) }
}

/// rbac.authorization.k8s.io/v1 ClusterRoleBinding.
pub static CLUSTER_ROLE_BINDINGS: Kind =
    Kind { namespaced: false, ..rbac("ClusterRoleBinding", "clusterrolebindings") };
/// rbac.authorization.k8s.io/v1 ClusterRole.
pub static CLUSTER_ROLES: Kind = Kind { namespaced: false, ..rbac("ClusterRole", "clusterroles") };
/// rbac.authorization.k8s.io/v1 RoleBinding.
pub static ROLE_BINDINGS: Kind = rbac("RoleBinding", "rolebindings");
/// rbac.authorization.k8s.io/v1 Role.
pub static ROLES: Kind = rbac("Role", "roles");

const fn storage(kind: &'static str, plural: &'static str, short_names: &'static [&'static str]) -> Kind {
    Kind { group: "storage.k8s.io", namespaced: false, ..core(kind, plural, short_names) }
}

/// storage.k8s.io/v1 CSIDriver: what a driver of volumes says of itself.
pub static CSI_DRIVERS: Kind = storage("CSIDriver", "csidrivers", &[]);
/// storage.k8s.io/v1 CSINode: which drivers a node has.
pub static CSI_NODES: Kind = storage("CSINode", "csinodes", &[]);
/// storage.k8s.io/v1 CSIStorageCapacity: how much a driver has left.
pub static CSI_STORAGE_CAPACITIES: Kind =
    Kind { namespaced: true, ..storage("CSIStorageCapacity", "csistoragecapacities", &[]) };
/// storage.k8s.io/v1 StorageClass.
pub static STORAGE_CLASSES: Kind = storage("StorageClass", "storageclasses", &["sc"]);
/// storage.k8s.io/v1 VolumeAttachment: a volume that a driver is to bring to a node.
pub static VOLUME_ATTACHMENTS: Kind = Kind {
    subresources: &[status("VolumeAttachment")],
    ..storage("VolumeAttachment", "volumeattachments", &[])
};

/// A question that is answered at once.
const fn review(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, namespaced: false, verbs: &["create"], ..core(kind, plural, &[]) }
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// authentication.k8s.io/v1 SelfSubjectReview: who am I?
pub static SELF_SUBJECT_REVIEWS: Kind = review(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews");
/// authentication.k8s.io/v1 TokenReview: whose token is this?
pub static TOKEN_REVIEWS: Kind = review(AUTHENTICATION, "TokenReview", "tokenreviews");
/// authorization.k8s.io/v1 LocalSubjectAccessReview: may they, in this namespace?
pub static LOCAL_SUBJECT_ACCESS_REVIEWS: Kind = Kind {
    namespaced: true,
    ..review(AUTHORIZATION, "LocalSubjectAccessReview", "localsubjectaccessreviews")
};
/// authorization.k8s.io/v1 SelfSubjectAccessReview: may I?
pub static SELF_SUBJECT_ACCESS_REVIEWS: Kind =
    review(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews");
/// authorization.k8s.io/v1 SelfSubjectRulesReview: what may I?
pub static SELF_SUBJECT_RULES_REVIEWS: Kind =
    review(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews");
/// authorization.k8s.io/v1 SubjectAccessReview: may they?
pub static SUBJECT_ACCESS_REVIEWS: Kind =
    review(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews");

/// core/v1 Binding: puts a pod on a node; the same as its subresource.
pub static BINDINGS: Kind = Kind { verbs: &["create"], ..core("Binding", "bindings", &[]) };

/// The kinds that are asked and never kept.
pub static REVIEWS: &[&Kind] = &[
    &BINDINGS,
    &SELF_SUBJECT_REVIEWS,
    &TOKEN_REVIEWS,
    &LOCAL_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_ACCESS_REVIEWS,
    &SELF_SUBJECT_RULES_REVIEWS,
    &SUBJECT_ACCESS_REVIEWS,
];

const fn metrics(kind: &'static str, plural: &'static str) -> Kind {
    Kind { group: "metrics.k8s.io", version: "v1beta1", verbs: &["get", "list"], ..core(kind, plural, &[]) }
}

/// metrics.k8s.io/v1beta1 NodeMetrics.
pub static NODE_METRICS: Kind = Kind { namespaced: false, ..metrics("NodeMetrics", "nodes") };
/// metrics.k8s.io/v1beta1 PodMetrics.
pub static POD_METRICS: Kind = metrics("PodMetrics", "pods");

/// Every built-in kind in the form that is stored, in the order of discovery: core first, then groups by name.
pub static KINDS: &[&Kind] = &[
    &COMPONENT_STATUSES,
    &CONFIG_MAPS,
    &ENDPOINTS,
    &EVENTS,
    &LIMIT_RANGES,
    &NAMESPACES,
    &NODES,
    &PERSISTENT_VOLUME_CLAIMS,
    &PERSISTENT_VOLUMES,
    &POD_TEMPLATES,
    &PODS,
    &REPLICATION_CONTROLLERS,
    &RESOURCE_QUOTAS,
    &SECRETS,
    &SERVICE_ACCOUNTS,
    &SERVICES,
    &CUSTOM_RESOURCE_DEFINITIONS,
    &API_SERVICES,
    &CONTROLLER_REVISIONS,
    &DAEMON_SETS,
    &DEPLOYMENTS,
    &REPLICA_SETS,
    &STATEFUL_SETS,
    &HORIZONTAL_POD_AUTOSCALERS,
    &CRON_JOBS,
    &JOBS,
    &CERTIFICATE_SIGNING_REQUESTS,
    &LEASES,
    &ENDPOINT_SLICES,
    &INGRESS_CLASSES,
    &INGRESSES,
    &NETWORK_POLICIES,
    &RUNTIME_CLASSES,
    &POD_DISRUPTION_BUDGETS,
    &CLUSTER_ROLE_BINDINGS,
    &CLUSTER_ROLES,
    &ROLE_BINDINGS,
    &ROLES,
    &PRIORITY_CLASSES,
    &CSI_DRIVERS,
    &CSI_NODES,
    &CSI_STORAGE_CAPACITIES,
    &STORAGE_CLASSES,
    &VOLUME_ATTACHMENTS,
];

/// Other versions of built-in kinds. What they show is converted from the stored form, and into it
/// ([`crate::convert`]); a group prefers the version of [`KINDS`].
pub static VERSIONS: &[&Kind] = &[
    &HORIZONTAL_POD_AUTOSCALERS_V1,
    &HORIZONTAL_POD_AUTOSCALERS_V2BETA2,
    &CRON_JOBS_V1BETA1,
    &ENDPOINT_SLICES_V1BETA1,
    &EVENTS_V1,
    &POD_DISRUPTION_BUDGETS_V1BETA1,
];

/// Kinds that are stored nowhere: what is answered is made for each request.
pub static COMPUTED: &[&Kind] = &[&NODE_METRICS, &POD_METRICS];

/// The built-in kind of an object's group, version and kind, in the form that is stored.
#[must_use]
pub fn builtin(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    let mut served = KINDS.iter().chain(VERSIONS).copied();
    served.find(|k| k.kind == kind && k.group == group && k.version == version).map(Kind::stored)
}

/// The kinds that one server knows. Today the built-in ones; kinds added at run time come in here.
#[derive(Debug, Clone)]
pub struct Catalogue {
    kinds: Vec<&'static Kind>,
    /// What is served and not kept: other versions, and reviews.
    others: Vec<&'static Kind>,
}

impl Catalogue {
    /// All built-in kinds.
    #[must_use]
    pub fn builtin() -> Self {
        Self { kinds: KINDS.to_vec(), others: [VERSIONS, REVIEWS].concat() }
    }

    /// All kinds in the form that is stored, in the order of discovery.
    #[must_use]
    pub fn kinds(&self) -> &[&'static Kind] {
        &self.kinds
    }

    /// All kinds in every version that is served, the stored ones first, and those that are never kept.
    pub fn served(&self) -> impl Iterator<Item = &'static Kind> {
        self.kinds.iter().chain(&self.others).chain(COMPUTED).copied()
    }

    /// The kind of a path `/apis/<group>/<version>/.../<plural>`.
    #[must_use]
    pub fn by_plural(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.served().find(|k| k.plural == plural && k.group == group && k.version == version)
    }

    /// The kind of an object's `apiVersion` and `kind`.
    #[must_use]
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&'static Kind> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.served().find(|k| k.kind == kind && k.group == group && k.version == version)
    }

    /// The kind and the namespace and name of a store key; `None` for keys that are no objects of known kinds.
    #[must_use]
    pub fn by_key<'k>(&self, key: &'k str) -> Option<(&'static Kind, &'k str, &'k str)> {
        let mut parts = key.strip_prefix("/registry/")?.splitn(4, '/');
        let (group, plural, third, fourth) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
        let group = if group == "core" { "" } else { group };
        let kind = self.kinds.iter().copied().find(|k| k.plural == plural && k.group == group)?;
        match (kind.namespaced, fourth) {
            (true, Some(name)) => Some((kind, third, name)),
            (false, None) => Some((kind, "", third)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Recorded from kube-apiserver 1.20.2; `written.json` is written after upstream's registry sources (v1.33).
    #[test]
    fn discovery_reads_as_that_of_kube_apiserver() {
        let mut recorded: Value = serde_json::from_str(include_str!("catalogue/recorded.json")).unwrap();
        let written: Value = serde_json::from_str(include_str!("catalogue/written.json")).unwrap();
        recorded.as_object_mut().unwrap().extend(written.as_object().unwrap().clone());
        for kind in KINDS.iter().chain(VERSIONS).chain(REVIEWS) {
            let theirs = &recorded[kind.qualified()];
            let lists = |field: &str| theirs.get(field).cloned().unwrap_or_else(|| json!([]));
            assert_eq!(theirs["kind"], kind.kind);
            assert_eq!(theirs["namespaced"], kind.namespaced, "{kind:?}");
            let verbs = lists("verbs");
            if *kind == &CUSTOM_RESOURCE_DEFINITIONS {
                assert!(kind.verbs.iter().all(|verb| verbs.as_array().unwrap().contains(&json!(verb))));
            } else {
                assert_eq!(verbs, json!(kind.verbs), "{kind:?}");
            }
            assert_eq!(lists("shortNames"), json!(kind.short_names), "{kind:?}");
            assert_eq!(lists("categories"), json!(kind.categories), "{kind:?}");
            for sub in kind.subresources {
                let theirs = &recorded[format!("{}/{}", kind.qualified(), sub.name)];
                assert_eq!(theirs["kind"], sub.kind, "{kind:?}/{}", sub.name);
                assert_eq!(theirs["verbs"], json!(sub.verbs), "{kind:?}/{}", sub.name);
                let group_version = theirs["group"].as_str().zip(theirs["version"].as_str());
                assert_eq!(group_version, sub.group_version, "{kind:?}/{}", sub.name);
            }
        }
    }

    #[test]
    fn a_key_leads_back_to_its_kind() {
        let catalogue = Catalogue::builtin();
        for kind in catalogue.kinds() {
            let namespace = if kind.namespaced { "ns" } else { "" };
            let key = kind.key(namespace, "a.b");
            assert_eq!(catalogue.by_key(&key), Some((*kind, namespace, "a.b")), "{key}");
            assert_eq!(catalogue.by_kind(&kind.api_version(), kind.kind), Some(*kind));
            assert_eq!(catalogue.by_plural(kind.group, kind.version, kind.plural), Some(*kind));
        }
        for version in VERSIONS {
            assert_eq!(catalogue.by_plural(version.group, version.version, version.plural), Some(*version));
            let stored = catalogue.by_key(&version.stored().key("ns", "a")).map(|found| found.0);
            assert_eq!(stored, Some(version.stored()), "{version:?} is kept as what it is stored as");
            assert_eq!(builtin(version.group, version.version, version.kind), stored);
        }
        for foreign in
            ["/registry/core/pods/only-namespace", "/claims/nodeports/1/TCP", "/registry/x/y/z", ""]
        {
            assert_eq!(catalogue.by_key(foreign), None, "{foreign}");
        }
    }
}
