//! What a pod says of where it wants to be beside resources: near pods or apart from them, spread, on nodes of a kind.

use std::collections::BTreeSet;

use oarlock_api::node_selector::NodeSelector;
use oarlock_api::selector::{Operator, Requirement, Selector};
use serde_json::{Value, json};

/// The rules of a pod; most pods have none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Pods that must be in the same domain of each of these topologies: those that all of the terms select.
    pub affinity: Option<(Whom, Box<[Box<str>]>)>,
    /// Pods that must not be in the same domain.
    pub anti_affinity: Box<[Near]>,
    /// Pods that had better be in the same domain, or rather not (below zero).
    pub preferred: Box<[(i64, Near)]>,
    /// How evenly pods are to be spread over domains.
    pub spread: Box<[Spread]>,
    /// Nodes that had better be taken.
    pub nodes: Box<[(i64, NodeSelector)]>,
}

/// Some pods, and the topology in which near is the same domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Near {
    /// The pods.
    pub whom: Whom,
    /// The key of the nodes' label.
    pub topology: Box<str>,
}

/// Which pods are meant: those that every part selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whom {
    /// What all of this says, as text: equal for equal pods.
    pub id: Box<str>,
    parts: Box<[Part]>,
}

/// Pods by namespace and labels.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    names: BTreeSet<Box<str>>,
    /// Namespaces with these labels, too.
    namespaces: Option<Selector>,
    /// None selects nothing.
    selector: Option<Selector>,
}

/// `v1.TopologySpreadConstraint`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// How many pods more than in the emptiest domain there may be.
    pub max_skew: i64,
    /// The key of the nodes' label.
    pub topology: Box<str>,
    /// Whether a node that breaks it is out (DoNotSchedule), not only worse.
    pub is_hard: bool,
    /// The pods that are counted.
    pub whom: Whom,
    /// With fewer domains than this the emptiest counts as empty.
    pub min_domains: Option<i64>,
    /// Whether only nodes count that the pod's node affinity selects.
    pub honours_affinity: bool,
    /// Whether only nodes count whose taints the pod bears.
    pub honours_taints: bool,
}

impl Whom {
    fn of(parts: Vec<Part>) -> Self {
        let id: Vec<String> = parts.iter().map(Part::text).collect();
        Self { id: id.join(" & ").into(), parts: parts.into() }
    }

    /// The only namespaces where they can be; `None`: labels of namespaces decide.
    pub(crate) fn namespaces(&self) -> Option<&BTreeSet<Box<str>>> {
        self.parts.iter().find(|part| part.namespaces.is_none()).map(|part| &part.names)
    }

    /// Whether a pod is meant: its namespace with labels, its own labels.
    pub(crate) fn selects<'v>(
        &self,
        namespace: &str,
        of_namespace: impl Fn(&str) -> Option<&'v str>,
        label: impl Fn(&str) -> Option<&'v str>,
    ) -> bool {
        self.parts.iter().all(|part| {
            let there = part.names.contains(namespace)
                || part.namespaces.as_ref().is_some_and(|selector| selector.matches_with(&of_namespace));
            there && part.selector.as_ref().is_some_and(|selector| selector.matches_with(&label))
        })
    }
}

impl Part {
    fn text(&self) -> String {
        let names: Vec<&str> = self.names.iter().map(AsRef::as_ref).collect();
        let or = |selector: &Option<Selector>| {
            selector.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
        };
        format!("{}|{}|{}", names.join(","), or(&self.namespaces), or(&self.selector))
    }
}

impl Rules {
    /// Reads a pod's rules; `None` when it has none. What cannot be read was refused long before and says nothing here.
    pub(crate) fn read(pod: &Value) -> Option<Self> {
        let affinity = &pod["spec"]["affinity"];
        let spread = list(&pod["spec"]["topologySpreadConstraints"]);
        if spread.is_empty() && affinity.as_object().is_none_or(serde_json::Map::is_empty) {
            return None;
        }
        let (near, apart) = (&affinity["podAffinity"], &affinity["podAntiAffinity"]);
        let required = |of: &Value| -> Vec<Near> {
            list(&of["requiredDuringSchedulingIgnoredDuringExecution"])
                .iter()
                .map(|term| Near::read(pod, term))
                .collect()
        };
        let preferred = |of: &Value, sign: i64| -> Vec<(i64, Near)> {
            let terms = list(&of["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
            let weighed = terms
                .map(|t| (sign * t["weight"].as_i64().unwrap_or(0), Near::read(pod, &t["podAffinityTerm"])));
            weighed.filter(|(weight, _)| *weight != 0).collect()
        };
        let wanted = required(near);
        let rules = Self {
            affinity: (!wanted.is_empty()).then(|| {
                let parts = wanted.iter().flat_map(|near| near.whom.parts.iter().cloned()).collect();
                (Whom::of(parts), wanted.into_iter().map(|near| near.topology).collect())
            }),
            anti_affinity: required(apart).into(),
            preferred: [preferred(near, 1), preferred(apart, -1)].concat().into(),
            spread: spread.iter().map(|constraint| Spread::read(pod, constraint)).collect(),
            nodes: preferred_nodes(&affinity["nodeAffinity"]).into(),
        };
        (rules != Self::default()).then_some(rules)
    }

    /// All pods that are meant by a rule.
    pub(crate) fn whoms(&self) -> impl Iterator<Item = &Whom> {
        let near = self.affinity.iter().map(|(whom, _)| whom);
        let apart = self.anti_affinity.iter().map(|near| &near.whom);
        let preferred = self.preferred.iter().map(|(_, near)| &near.whom);
        near.chain(apart).chain(preferred).chain(self.spread.iter().map(|spread| &spread.whom))
    }

    /// All topologies that a rule is about.
    pub(crate) fn topologies(&self) -> impl Iterator<Item = &str> {
        let near = self.affinity.iter().flat_map(|(_, topologies)| topologies.iter());
        let apart = self.anti_affinity.iter().map(|near| &near.topology);
        let preferred = self.preferred.iter().map(|(_, near)| &near.topology);
        let spread = self.spread.iter().map(|spread| &spread.topology);
        near.chain(apart).chain(preferred).chain(spread).map(AsRef::as_ref)
    }
}

impl Near {
    fn read(pod: &Value, term: &Value) -> Self {
        let own = || pod["metadata"]["namespace"].as_str().unwrap_or("").into();
        let mut names: BTreeSet<Box<str>> =
            list(&term["namespaces"]).iter().filter_map(Value::as_str).map(Box::from).collect();
        let by_labels = term.get("namespaceSelector").filter(|selector| !selector.is_null());
        if names.is_empty() && by_labels.is_none() {
            names.insert(own());
        }
        let namespaces = Selector::from_label_selector(by_labels).unwrap_or(None);
        let selector = Selector::from_label_selector(term.get("labelSelector")).unwrap_or(None);
        let selector = selector.map(|s| narrowed(s, pod, &term["matchLabelKeys"], Operator::In));
        let selector = selector.map(|s| narrowed(s, pod, &term["mismatchLabelKeys"], Operator::NotIn));
        Self {
            whom: Whom::of(vec![Part { names, namespaces, selector }]),
            topology: term["topologyKey"].as_str().unwrap_or("").into(),
        }
    }
}

impl Spread {
    fn read(pod: &Value, constraint: &Value) -> Self {
        let own = pod["metadata"]["namespace"].as_str().unwrap_or("");
        let selector = Selector::from_label_selector(constraint.get("labelSelector")).unwrap_or(None);
        let selector = selector.map(|s| narrowed(s, pod, &constraint["matchLabelKeys"], Operator::In));
        let part = Part { names: BTreeSet::from([own.into()]), namespaces: None, selector };
        Self {
            max_skew: constraint["maxSkew"].as_i64().unwrap_or(1),
            topology: constraint["topologyKey"].as_str().unwrap_or("").into(),
            is_hard: constraint["whenUnsatisfiable"] != "ScheduleAnyway",
            whom: Whom::of(vec![part]),
            min_domains: constraint["minDomains"].as_i64(),
            honours_affinity: constraint["nodeAffinityPolicy"] != "Ignore",
            honours_taints: constraint["nodeTaintsPolicy"] == "Honor",
        }
    }
}

/// The selector, narrowed to the values that the pod itself has for these keys.
fn narrowed(selector: Selector, pod: &Value, keys: &Value, operator: Operator) -> Selector {
    let own = &pod["metadata"]["labels"];
    let wanted = list(keys)
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|key| Requirement::new(key, operator, vec![own[key].as_str()?.to_owned()]).ok());
    selector.and(wanted)
}

fn preferred_nodes(affinity: &Value) -> Vec<(i64, NodeSelector)> {
    let terms = list(&affinity["preferredDuringSchedulingIgnoredDuringExecution"]).iter();
    let read = terms.filter_map(|term| {
        let selector = NodeSelector::parse(&json!({"nodeSelectorTerms": [term["preference"]]})).ok()?;
        Some((term["weight"].as_i64()?, selector))
    });
    read.collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
