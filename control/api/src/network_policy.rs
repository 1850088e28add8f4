//! What the control plane and agents both have to know of NetworkPolicies: which pods a peer names. The control plane finds
//! them, wherever they run, and tells their addresses to the nodes whose pods the policies may select.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::selector::{Selector, SelectorError};

/// The plural name under which members of groups travel to agents, one object each: its namespace is the group's
/// [`PodGroup::id`], its name `<namespace>/<pod>`, its content a [`Member`].
pub const MEMBERS: &str = "networkpeers";

/// The pods that a peer names.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PodGroup {
    /// The only namespace, where the peer selects none.
    namespace: Option<String>,
    namespaces: Option<LabelSelector>,
    pods: LabelSelector,
}

/// A pod of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its address of IPv6, where the cluster has dual stack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Its named ports: `<protocol>/<name>` to the number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, u16>,
}

impl Member {
    /// Its addresses.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.ip)).chain(self.ip6.map(IpAddr::V6))
    }
}

/// The key of a named port in [`Member::ports`].
#[must_use]
pub fn named_port(protocol: &str, name: &str) -> String {
    format!("{protocol}/{name}")
}

/// Whether pods belong to a group.
#[derive(Debug, Clone)]
pub struct Matcher {
    namespace: Option<String>,
    namespaces: Selector,
    pods: Selector,
}

impl Matcher {
    /// Whether a pod belongs: by its namespace, that one's labels and its own.
    pub fn matches<'n, 'l>(
        &self,
        namespace: &str,
        of_namespace: impl FnMut(&str) -> Option<&'n str>,
        of_pod: impl FnMut(&str) -> Option<&'l str>,
    ) -> bool {
        self.namespace.as_deref().is_none_or(|only| only == namespace)
            && self.pods.matches_with(of_pod)
            && self.namespaces.matches_with(of_namespace)
    }

    /// The only namespace whose pods may belong, where there is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }
}

impl PodGroup {
    /// Of a peer in a policy of this namespace; none where it names addresses.
    #[must_use]
    pub fn of(namespace: &str, peer: &NetworkPolicyPeer) -> Option<Self> {
        if peer.namespace_selector.is_none() && peer.pod_selector.is_none() {
            return None;
        }
        Some(Self {
            namespace: peer.namespace_selector.is_none().then(|| namespace.to_owned()),
            namespaces: peer.namespace_selector.clone(),
            pods: peer.pod_selector.clone().unwrap_or_default(),
        })
    }

    /// All pods of the cluster.
    #[must_use]
    pub fn everything() -> Self {
        Self { namespace: None, namespaces: Some(LabelSelector::default()), pods: LabelSelector::default() }
    }

    /// A name for it that differs from that of any other group.
    #[must_use]
    pub fn id(&self) -> String {
        // These types always serialize, their maps in order.
        let hash = Sha256::digest(serde_json::to_vec(self).unwrap_or_default());
        hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Finds its members.
    ///
    /// # Errors
    /// A selector that validation would have refused.
    pub fn matcher(&self) -> Result<Matcher, SelectorError> {
        Ok(Matcher {
            namespace: self.namespace.clone(),
            namespaces: selector(self.namespaces.as_ref())?,
            pods: selector(Some(&self.pods))?,
        })
    }
}

/// A label selector, to match with. None at all selects everything here.
///
/// # Errors
/// A requirement that validation would have refused.
pub fn selector(selector: Option<&LabelSelector>) -> Result<Selector, SelectorError> {
    let value = selector.map(|s| serde_json::to_value(s).unwrap_or_default());
    Ok(Selector::from_label_selector(value.as_ref())?.unwrap_or_default())
}

/// The groups that a policy names, by their ids.
#[must_use]
pub fn groups(policy: &NetworkPolicy) -> BTreeMap<String, PodGroup> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let Some(spec) = &policy.spec else { return BTreeMap::new() };
    let ingress = spec.ingress.iter().flatten().flat_map(|rule| rule.from.iter().flatten());
    let egress = spec.egress.iter().flatten().flat_map(|rule| rule.to.iter().flatten());
    let peers = ingress.chain(egress).filter_map(|peer| PodGroup::of(namespace, peer));
    // A named port is what each pod says it is: with nobody named that is everybody's.
    let open =
        spec.egress.iter().flatten().any(|rule| {
            rule.to.as_ref().is_none_or(Vec::is_empty) && rule.ports.iter().flatten().any(is_named)
        });
    peers.chain(open.then(PodGroup::everything)).map(|group| (group.id(), group)).collect()
}

/// Whether a port is a name.
#[must_use]
pub fn is_named(port: &NetworkPolicyPort) -> bool {
    matches!(port.port, Some(IntOrString::String(_)))
}

/// Whether a policy isolates the pods that it selects, for what comes and for what goes.
#[must_use]
pub fn isolates(policy: &NetworkPolicy) -> (bool, bool) {
    let Some(spec) = &policy.spec else { return (false, false) };
    match spec.policy_types.as_deref() {
        None | Some([]) => (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
        Some(types) => (types.iter().any(|t| t == "Ingress"), types.iter().any(|t| t == "Egress")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(spec: serde_json::Value) -> NetworkPolicy {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec})).unwrap()
    }

    #[test]
    fn peers_name_pods_of_their_own_namespace_unless_they_select_others() {
        let policy = policy(json!({"podSelector": {}, "ingress": [{"from": [
            {"podSelector": {"matchLabels": {"app": "web"}}},
            {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "web"}}},
            {"namespaceSelector": {}},
            {"ipBlock": {"cidr": "10.0.0.0/8"}},
        ]}]}));
        let peers = policy.spec.as_ref().unwrap().ingress.as_ref().unwrap()[0].from.as_ref().unwrap();
        let matches = |peer: usize, namespace: &str, of_namespace: &[(&str, &str)], app: &str| {
            let matcher = PodGroup::of("shop", &peers[peer]).unwrap().matcher().unwrap();
            let of_namespace = |key: &str| of_namespace.iter().find(|(k, _)| *k == key).map(|(_, v)| *v);
            matcher.matches(namespace, of_namespace, |key| (key == "app").then_some(app))
        };
        assert!(
            matches(0, "shop", &[], "web") && !matches(0, "shop", &[], "db") && !matches(0, "b", &[], "web")
        );
        assert!(matches(1, "b", &[("team", "a")], "web") && !matches(1, "b", &[("team", "b")], "web"));
        assert!(!matches(1, "shop", &[], "web") && matches(2, "anything", &[], "db"));
        assert_eq!(PodGroup::of("shop", &peers[3]), None);
        assert_eq!(groups(&policy).len(), 3);
    }

    #[test]
    fn the_same_group_of_two_policies_has_one_id() {
        let rule = json!({"from": [{"podSelector": {"matchLabels": {"app": "web", "b": "c"}}}]});
        let (a, b) = (
            policy(json!({"podSelector": {}, "ingress": [rule]})),
            json!({"podSelector": {"matchLabels": {"x": "y"}},
            "egress": [{"to": [{"podSelector": {"matchLabels": {"b": "c", "app": "web"}}}]}]}),
        );
        assert_eq!(groups(&a), groups(&policy(b)));
    }

    #[test]
    fn a_named_port_of_nobody_in_particular_asks_everybody() {
        let named = policy(json!({"podSelector": {}, "egress": [{"ports": [{"port": "http"}]}]}));
        assert_eq!(groups(&named).into_values().collect::<Vec<_>>(), [PodGroup::everything()]);
        let number = policy(json!({"podSelector": {}, "egress": [{"ports": [{"port": 80}]}]}));
        assert!(groups(&number).is_empty());
    }

    #[test]
    fn policies_isolate_as_their_types_say_or_else_as_their_rules_do() {
        let types = |spec| isolates(&policy(spec));
        assert_eq!(types(json!({"podSelector": {}})), (true, false));
        assert_eq!(types(json!({"podSelector": {}, "egress": [{}]})), (true, true));
        assert_eq!(types(json!({"podSelector": {}, "policyTypes": ["Egress"]})), (false, true));
    }
}
