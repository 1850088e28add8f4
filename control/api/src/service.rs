//! What the fields of a Service mean for each other: which type has what. Pure, on the JSON of `spec`.
//!
//! Source: k8s.io/kubernetes/pkg/api/service/util.go and pkg/registry/core/service/strategy.go.

use std::net::IpAddr;

use serde_json::Value;

/// The annotation that says how a backend is chosen for each connection: `round-robin`, which is the default, `random` or `maglev`.
pub const ALGORITHM: &str = "dataplane.oarlock.io/algorithm";
/// The annotation of a pod that says where its connections to Services are translated: `enabled`, at its sockets, which is the
/// default, or `disabled`, in its packets, for meshes that want to see the Service's address there. On a namespace: of its pods that say
/// nothing themselves.
pub const SOCKET_LB: &str = "dataplane.oarlock.io/socket-lb";
/// The longest time that `sessionAffinity: ClientIP` may remember, in seconds: a day.
pub const LONGEST_AFFINITY: i64 = 86_400;
/// How long it remembers unless told otherwise: three hours.
pub const DEFAULT_AFFINITY: i64 = 10_800;

/// The label of an Endpoints object that says who keeps it (KEP-4974). One that somebody else writes has none.
pub const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `IPv4`.
    V4,
    /// `IPv6`.
    V6,
}

impl Family {
    /// An address' family.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As the API names it, in `ipFamilies` and `addressType`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// By its name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.name() == name)
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// The type; ClusterIP when none is said.
#[must_use]
pub fn kind(spec: &Value) -> &str {
    spec["type"].as_str().filter(|t| !t.is_empty()).unwrap_or("ClusterIP")
}

/// Whether it has no virtual address: clients see its endpoints themselves.
#[must_use]
pub fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None"
}

/// Whether it names no pods: somebody else writes its endpoints.
#[must_use]
pub fn has_selector(spec: &Value) -> bool {
    spec["selector"].as_object().is_some_and(|selector| !selector.is_empty())
}

/// Whether clients outside the cluster can reach it.
#[must_use]
pub fn is_external(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

/// Whether every port of it is to have a port on every node.
#[must_use]
pub fn takes_node_ports(spec: &Value) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

/// Whether load balancers ask its nodes if they have endpoints.
#[must_use]
pub fn needs_health_check(spec: &Value) -> bool {
    kind(spec) == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Its virtual addresses, as text; none for headless ones.
pub fn cluster_ips(spec: &Value) -> impl Iterator<Item = &str> {
    let all = spec["clusterIPs"].as_array().filter(|ips| !ips.is_empty()).map(Vec::as_slice);
    let all = all.unwrap_or_else(|| std::slice::from_ref(&spec["clusterIP"]));
    all.iter().filter_map(Value::as_str).filter(|ip| !ip.is_empty() && *ip != "None")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_have_what_kubernetes_gives_them() {
        let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        assert!(is_external(&local) && takes_node_ports(&local) && needs_health_check(&local));
        let bare = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
        assert!(is_external(&bare) && !takes_node_ports(&bare) && !needs_health_check(&bare));
        assert!(is_external(&json!({"externalIPs": ["1.2.3.4"]})) && !is_external(&json!({})));
        let dual = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]});
        assert_eq!(cluster_ips(&dual).collect::<Vec<_>>(), ["10.0.0.1", "fd00::1"]);
        assert_eq!(cluster_ips(&json!({"clusterIP": "10.0.0.1"})).collect::<Vec<_>>(), ["10.0.0.1"]);
        assert_eq!(cluster_ips(&json!({"clusterIP": "None", "clusterIPs": ["None"]})).count(), 0);
    }
}
