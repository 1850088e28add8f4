//! The default ClusterRoles and ClusterRoleBindings as data. What they allow is upstream's (Kubernetes 1.33): clients and charts
//! count on it. Roles of upstream's own controllers are left out: ours are no clients of the API.

use super::Rule;

/// A ClusterRole.
pub(super) struct Role {
    pub(super) name: &'static str,
    /// In which role this one is gathered.
    pub(super) to: &'static str,
    /// Whether its rules are those of the roles that are gathered in it.
    pub(super) gathers: bool,
    pub(super) rules: &'static [Row],
}

/// A ClusterRoleBinding with the name of its role.
pub(super) struct Binding {
    pub(super) role: &'static str,
    /// Kind and name; a ServiceAccount as namespace/name.
    pub(super) subjects: &'static [(&'static str, &'static str)],
}

/// A rule: words that are divided by spaces; groups by `|`, as the core group is the empty word. Resources that begin with a
/// slash are paths.
pub(super) struct Row {
    groups: &'static str,
    resources: &'static str,
    verbs: &'static str,
    names: &'static str,
}

impl Row {
    pub(super) fn rule(&self) -> Rule {
        let words = |text: &str| text.split_whitespace().map(Box::from).collect();
        let verbs = words(self.verbs);
        if self.resources.starts_with('/') || self.groups == URLS {
            return Rule { verbs, urls: words(self.resources), ..Rule::default() };
        }
        Rule {
            verbs,
            api_groups: self.groups.split('|').map(Box::from).collect(),
            resources: words(self.resources),
            resource_names: words(self.names),
            urls: Vec::new(),
        }
    }
}

/// In place of groups: the resources are paths.
const URLS: &str = "-";

const fn rule(groups: &'static str, resources: &'static str, verbs: &'static str) -> Row {
    Row { groups, resources, verbs, names: "" }
}

const fn named(row: Row, names: &'static str) -> Row {
    Row { names, ..row }
}

const fn urls(paths: &'static str) -> Row {
    rule(URLS, paths, "get")
}

const fn role(name: &'static str, rules: &'static [Row]) -> Role {
    Role { name, to: "", gathers: false, rules }
}

const fn gathering(name: &'static str, to: &'static str) -> Role {
    Role { name, to, gathers: true, rules: &[] }
}

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";
const EVENTS: Row = rule("|events.k8s.io", "events", "create patch update");
const SIGNERS: &str = "certificates.k8s.io";

pub(super) static ROLES: &[Role] = &[
    role("cluster-admin", &[rule("*", "*", "*"), Row { verbs: "*", ..urls("*") }]),
    gathering("admin", ""),
    gathering("edit", "admin"),
    gathering("view", "edit"),
    Role {
        name: "system:aggregate-to-admin",
        to: "admin",
        gathers: false,
        rules: &[
            rule("authorization.k8s.io", "localsubjectaccessreviews", "create"),
            rule("rbac.authorization.k8s.io", "rolebindings roles", ALL),
        ],
    },
    Role {
        name: "system:aggregate-to-edit",
        to: "edit",
        gathers: false,
        rules: &[
            rule("", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", READ),
            rule("", "serviceaccounts", "impersonate"),
            rule("", "pods pods/attach pods/exec pods/portforward pods/proxy", WRITE),
            rule("", "pods/eviction", "create"),
            rule(
                "",
                "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
                 serviceaccounts services services/proxy",
                WRITE,
            ),
            rule("", "serviceaccounts/token", "create"),
            rule(
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
                 statefulsets/scale",
                WRITE,
            ),
            rule("autoscaling", "horizontalpodautoscalers", WRITE),
            rule("batch", "cronjobs jobs", WRITE),
            rule(
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets \
                 replicasets/scale replicationcontrollers/scale",
                WRITE,
            ),
            rule("policy", "poddisruptionbudgets", WRITE),
            rule("networking.k8s.io", "ingresses networkpolicies", WRITE),
            rule("coordination.k8s.io", "leases", ALL),
        ],
    },
    Role {
        name: "system:aggregate-to-view",
        to: "view",
        gathers: false,
        rules: &[
            rule(
                "",
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
                 replicationcontrollers/scale serviceaccounts services services/status",
                READ,
            ),
            rule(
                "",
                "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status \
                 resourcequotas resourcequotas/status",
                READ,
            ),
            rule("", "namespaces", READ),
            rule("discovery.k8s.io", "endpointslices", READ),
            rule(
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
                 replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
                READ,
            ),
            rule("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", READ),
            rule("batch", "cronjobs cronjobs/status jobs jobs/status", READ),
            rule(
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status \
                 networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
                READ,
            ),
            rule("policy", "poddisruptionbudgets poddisruptionbudgets/status", READ),
            rule("networking.k8s.io", "ingresses ingresses/status networkpolicies", READ),
        ],
    },
    role(
        "system:auth-delegator",
        &[
            rule("authentication.k8s.io", "tokenreviews", "create"),
            rule("authorization.k8s.io", "subjectaccessreviews", "create"),
        ],
    ),
    role(
        "system:basic-user",
        &[
            rule("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create"),
            rule("authentication.k8s.io", "selfsubjectreviews", "create"),
        ],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[rule(SIGNERS, "certificatesigningrequests/nodeclient", "create")],
    ),
    role(
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[rule(SIGNERS, "certificatesigningrequests/selfnodeclient", "create")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[named(rule(SIGNERS, "signers", "approve"), "kubernetes.io/kube-apiserver-client")],
    ),
    role(
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[named(rule(SIGNERS, "signers", "approve"), "kubernetes.io/kube-apiserver-client-kubelet")],
    ),
    role(
        "system:certificates.k8s.io:kubelet-serving-approver",
        &[named(rule(SIGNERS, "signers", "approve"), "kubernetes.io/kubelet-serving")],
    ),
    role(
        "system:certificates.k8s.io:legacy-unknown-approver",
        &[named(rule(SIGNERS, "signers", "approve"), "kubernetes.io/legacy-unknown")],
    ),
    role(
        "system:controller:horizontal-pod-autoscaler",
        &[
            rule("autoscaling", "horizontalpodautoscalers", READ),
            rule("autoscaling", "horizontalpodautoscalers/status", "update"),
            rule("*", "*/scale", "get update"),
            rule("", "pods", "list"),
            rule("metrics.k8s.io", "pods", "list"),
            rule("custom.metrics.k8s.io", "*", "get list"),
            rule("external.metrics.k8s.io", "*", "get list"),
            EVENTS,
        ],
    ),
    role(
        "system:discovery",
        &[urls("/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/")],
    ),
    role(
        "system:heapster",
        &[rule("", "events namespaces nodes pods", READ), rule("extensions", "deployments", READ)],
    ),
    role("system:kube-aggregator", &[rule("", "endpoints services", READ)]),
    role(
        "system:kube-controller-manager",
        &[
            EVENTS,
            rule("coordination.k8s.io", "leases", "create"),
            named(rule("coordination.k8s.io", "leases", "get update"), "kube-controller-manager"),
            rule("", "secrets serviceaccounts", "create"),
            rule("", "secrets", "delete"),
            rule("", "configmaps namespaces secrets serviceaccounts", "get"),
            rule("", "secrets serviceaccounts", "update"),
            rule("authentication.k8s.io", "tokenreviews", "create"),
            rule("authorization.k8s.io", "subjectaccessreviews", "create"),
            rule("*", "*", "list watch"),
            rule("", "serviceaccounts/token", "create"),
        ],
    ),
    Role {
        name: "system:aggregated-metrics-reader",
        to: "view",
        gathers: false,
        rules: &[rule("metrics.k8s.io", "nodes pods", READ)],
    },
    role("system:kube-dns", &[rule("", "endpoints services", "list watch")]),
    role(
        "system:kube-scheduler",
        &[
            EVENTS,
            rule("coordination.k8s.io", "leases", "create"),
            named(rule("coordination.k8s.io", "leases", "get update"), "kube-scheduler"),
            rule("", "nodes", READ),
            rule("", "pods", "delete get list watch"),
            rule("", "bindings pods/binding", "create"),
            rule("", "pods/status", "patch update"),
            rule("", "replicationcontrollers services", READ),
            rule("apps|extensions", "replicasets", READ),
            rule("apps", "statefulsets", READ),
            rule("policy", "poddisruptionbudgets", READ),
            rule("", "persistentvolumeclaims persistentvolumes", READ),
            rule("authentication.k8s.io", "tokenreviews", "create"),
            rule("authorization.k8s.io", "subjectaccessreviews", "create"),
            rule("storage.k8s.io", "csinodes", READ),
            rule("", "namespaces", READ),
            rule("storage.k8s.io", "csidrivers", READ),
            rule("storage.k8s.io", "csistoragecapacities", READ),
        ],
    ),
    role(
        "system:kubelet-api-admin",
        &[
            rule("", "nodes", READ),
            rule("", "nodes", "proxy"),
            rule("", "nodes/log nodes/metrics nodes/proxy nodes/stats", "*"),
        ],
    ),
    role(
        "system:monitoring",
        &[urls("/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    ),
    role("system:node", NODE),
    role("system:node-bootstrapper", &[rule(SIGNERS, "certificatesigningrequests", "create get list watch")]),
    role(
        "system:node-problem-detector",
        &[rule("", "nodes", "get"), rule("", "nodes/status", "patch"), EVENTS],
    ),
    role(
        "system:node-proxier",
        &[
            rule("", "endpoints services", "list watch"),
            rule("", "nodes", READ),
            EVENTS,
            rule("discovery.k8s.io", "endpointslices", "list watch"),
        ],
    ),
    role(
        "system:persistent-volume-provisioner",
        &[
            rule("", "persistentvolumes", "create delete get list watch"),
            rule("", "persistentvolumeclaims", "get list update watch"),
            rule("storage.k8s.io", "storageclasses", READ),
            rule("", "events", "watch"),
            EVENTS,
        ],
    ),
    role("system:public-info-viewer", &[urls("/healthz /livez /readyz /version /version/")]),
    role(
        "system:service-account-issuer-discovery",
        &[urls("/.well-known/openid-configuration /openid/v1/jwks")],
    ),
    role(
        "system:volume-scheduler",
        &[
            rule("", "persistentvolumes", "get list patch update watch"),
            rule("storage.k8s.io", "storageclasses", READ),
            rule("", "persistentvolumeclaims", "get list patch update watch"),
        ],
    ),
];

/// What a node may, as far as that does not depend on which node it is.
pub(super) const NODE: &[Row] = &[
    rule("authentication.k8s.io", "tokenreviews", "create"),
    rule("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", "create"),
    rule("", "services", READ),
    rule("", "nodes", "create get list watch"),
    rule("", "nodes/status", "patch update"),
    rule("", "nodes", "patch update"),
    rule("", "events", "create patch update"),
    rule("", "pods", READ),
    rule("", "pods", "create delete"),
    rule("", "pods/status", "patch update"),
    rule("", "pods/eviction", "create"),
    rule("", "configmaps secrets", READ),
    rule("", "persistentvolumeclaims persistentvolumes", "get"),
    rule("", "endpoints", "get"),
    rule(SIGNERS, "certificatesigningrequests", "create get list watch"),
    rule("coordination.k8s.io", "leases", "create delete get patch update"),
    rule("storage.k8s.io", "volumeattachments", "get"),
    rule("", "serviceaccounts/token", "create"),
    rule("", "persistentvolumeclaims/status", "get patch update"),
    rule("storage.k8s.io", "csidrivers", READ),
    rule("storage.k8s.io", "csinodes", "create delete get patch update"),
    rule("node.k8s.io", "runtimeclasses", READ),
];

pub(super) static BINDINGS: &[Binding] = &[
    Binding { role: "cluster-admin", subjects: &[("Group", "system:masters")] },
    Binding { role: "system:basic-user", subjects: &[("Group", "system:authenticated")] },
    Binding {
        role: "system:controller:horizontal-pod-autoscaler",
        subjects: &[("ServiceAccount", "kube-system/horizontal-pod-autoscaler")],
    },
    Binding { role: "system:discovery", subjects: &[("Group", "system:authenticated")] },
    Binding {
        role: "system:kube-controller-manager",
        subjects: &[("User", "system:kube-controller-manager")],
    },
    Binding { role: "system:kube-dns", subjects: &[("ServiceAccount", "kube-system/kube-dns")] },
    Binding { role: "system:kube-scheduler", subjects: &[("User", "system:kube-scheduler")] },
    Binding { role: "system:monitoring", subjects: &[("Group", "system:monitoring")] },
    // Nobody: what a node may is decided by which pods it has.
    Binding { role: "system:node", subjects: &[] },
    Binding { role: "system:node-proxier", subjects: &[("User", "system:kube-proxy")] },
    Binding {
        role: "system:public-info-viewer",
        subjects: &[("Group", "system:authenticated"), ("Group", "system:unauthenticated")],
    },
    Binding {
        role: "system:service-account-issuer-discovery",
        subjects: &[("Group", "system:serviceaccounts")],
    },
    Binding { role: "system:volume-scheduler", subjects: &[("User", "system:kube-scheduler")] },
];
