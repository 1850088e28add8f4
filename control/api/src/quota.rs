//! What objects use of a ResourceQuota, and whether there is room for one more. Pure; refusals are in upstream's words.
//!
//! Source: k8s.io/kubernetes/pkg/quota/v1/evaluator/core, k8s.io/apiserver/pkg/admission/plugin/resourcequota.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::catalogue::{Kind, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES};
use crate::limits::{self, Amounts, amounts};
use crate::meta;
use crate::quantity::{Format, Quantity};

/// Kinds of the core group that are counted under their bare name, too.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// What every container must state where a quota bounds it.
const STATED: &[&str] = &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
const BY_CLASS: &str = ".storageclass.storage.k8s.io/";

fn some(count: usize) -> Quantity {
    Quantity::units(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSI)
}

/// What an object uses, by the names under which quotas bound it.
#[must_use]
pub fn usage(kind: &Kind, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    used.insert(format!("count/{}", kind.qualified()), some(1));
    if *kind == PODS && ended(object) {
        return used;
    }
    if kind.group.is_empty() && COUNTED.contains(&kind.plural) {
        used.insert(kind.plural.to_owned(), some(1));
    }
    if *kind == PODS {
        let (mut requests, mut limits) = limits::whole(object);
        // Whatever runs the containers counts, too, and against a limit where there is one.
        let overhead = amounts(&object["spec"]["overhead"]);
        let of_limits = overhead.iter().filter(|(name, _)| limits.contains_key(*name));
        let of_limits = of_limits.map(|(name, amount)| (name.clone(), *amount)).collect();
        limits::add(&mut limits, of_limits);
        limits::add(&mut requests, overhead);
        used.extend(computed(&requests, &limits));
    } else if *kind == SERVICES {
        let (spec, ports) = (&object["spec"], object["spec"]["ports"].as_array().map_or(0, Vec::len));
        match spec["type"].as_str() {
            Some("NodePort") => drop(used.insert("services.nodeports".to_owned(), some(ports))),
            Some("LoadBalancer") => {
                used.insert("services.loadbalancers".to_owned(), some(1));
                if spec["allocateLoadBalancerNodePorts"] != false {
                    used.insert("services.nodeports".to_owned(), some(ports));
                }
            }
            _ => {}
        }
    } else if *kind == PERSISTENT_VOLUME_CLAIMS {
        let storage = amounts(&object["spec"]["resources"]["requests"]).remove("storage");
        let class = object["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty());
        if let Some(storage) = storage {
            used.insert("requests.storage".to_owned(), storage);
        }
        if let Some(class) = class {
            used.insert(format!("{class}{BY_CLASS}persistentvolumeclaims"), some(1));
            if let Some(storage) = storage {
                used.insert(format!("{class}{BY_CLASS}requests.storage"), storage);
            }
        }
    }
    used
}

/// Requests under both of their names, and limits.
fn computed(requests: &Amounts, limits: &Amounts) -> Amounts {
    let bare = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    let mut used = Amounts::new();
    for (name, amount) in requests {
        if bare(name) {
            used.insert(name.clone(), *amount);
        }
        used.insert(format!("requests.{name}"), *amount);
    }
    used.extend(limits.iter().map(|(name, amount)| (format!("limits.{name}"), *amount)));
    used
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Whether a quota is about an object: all of its scopes.
#[must_use]
pub fn concerns(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let spec = &quota["spec"];
    let named = spec["scopes"].as_array().into_iter().flatten();
    let mut named = named.map(|scope| (scope.as_str().unwrap_or(""), "Exists", &Value::Null));
    let chosen = spec["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    let mut chosen = chosen.map(|one| {
        (one["scopeName"].as_str().unwrap_or(""), one["operator"].as_str().unwrap_or(""), &one["values"])
    });
    let pods = *kind == PODS;
    let all =
        |(scope, operator, values): (&str, &str, &Value)| pods && in_scope(object, scope, operator, values);
    named.all(all) && chosen.all(all)
}

fn in_scope(pod: &Value, scope: &str, operator: &str, values: &Value) -> bool {
    let bounded = pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
    match scope {
        "Terminating" => bounded,
        "NotTerminating" => !bounded,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = pod["spec"]["priorityClassName"].as_str().unwrap_or("");
            let among = values.as_array().into_iter().flatten().any(|value| value == class);
            match operator {
                "In" => among,
                "NotIn" => !among,
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => looks_abroad(pod),
        _ => false,
    }
}

/// Whether a pod wants to be near pods of other namespaces, or far from them.
fn looks_abroad(pod: &Value) -> bool {
    let affinity = &pod["spec"]["affinity"];
    ["podAffinity", "podAntiAffinity"].iter().any(|field| {
        let list = |name: &str| affinity[*field][name].as_array().cloned().unwrap_or_default();
        let required = list("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = list("preferredDuringSchedulingIgnoredDuringExecution");
        let terms = required.into_iter().chain(preferred.iter().map(|one| one["podAffinityTerm"].clone()));
        terms.into_iter().any(|term| {
            term["namespaces"].as_array().is_some_and(|names| !names.is_empty())
                || term["namespaceSelector"].is_object()
        })
    })
}

/// Whether no container asks for processors or memory.
fn best_effort(pod: &Value) -> bool {
    let lists = ["containers", "initContainers"].into_iter();
    let mut containers = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    containers.all(|container| {
        let stated = |field: &str| {
            let amounts = amounts(&container["resources"][field]);
            ["cpu", "memory"].iter().any(|name| amounts.get(*name).is_some_and(|amount| !amount.is_zero()))
        };
        !stated("requests") && !stated("limits")
    })
}

/// What is used in all by objects that each use so much, as a quota's status: only what it bounds.
#[must_use]
pub fn status<'a>(quota: &Value, objects: impl Iterator<Item = &'a Amounts>) -> Value {
    let hard = quota["spec"]["hard"].clone();
    let bounds = amounts(&hard);
    let mut used: Amounts = bounds.keys().map(|name| (name.clone(), some(0))).collect();
    for one in objects {
        for (name, amount) in one {
            if let Some(sum) = used.get_mut(name) {
                *sum = if sum.is_zero() { *amount } else { sum.plus(amount) };
            }
        }
    }
    json!({"hard": hard, "used": written(&used)})
}

fn written(amounts: &Amounts) -> BTreeMap<&String, String> {
    amounts.iter().map(|(name, amount)| (name, amount.to_string())).collect()
}

/// What a change needs more of than was used before.
#[must_use]
pub fn added(kind: &Kind, old: Option<&Value>, new: &Value) -> Amounts {
    let before = old.map(|old| usage(kind, old)).unwrap_or_default();
    let more = usage(kind, new).into_iter().map(|(name, amount)| {
        let more = before.get(&name).map_or(amount, |before| amount.minus(before));
        (name, more)
    });
    more.filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).collect()
}

/// Charges a quota with what an object needs more: the quota's next status; `None` when it is not about that.
///
/// # Errors
/// Why there is no room, or what the object has to state first.
pub fn charge(quota: &Value, kind: &Kind, object: &Value, added: &Amounts) -> Result<Option<Value>, String> {
    let name = meta::name(quota);
    let bounds = amounts(&quota["status"]["hard"]);
    let wanted = amounts(&quota["spec"]["hard"]);
    if *kind == PODS {
        let missing = unstated(object, &wanted);
        if !missing.is_empty() {
            return Err(format!("failed quota: {name}: must specify {}", missing.join("; ")));
        }
    }
    let asked: Amounts =
        added.iter().filter(|(name, _)| wanted.contains_key(*name)).map(|(n, a)| (n.clone(), *a)).collect();
    if asked.is_empty() {
        return Ok(None);
    }
    let used = amounts(&quota["status"]["used"]);
    if asked.keys().any(|name| !used.contains_key(name) || !bounds.contains_key(name)) {
        let names: Vec<&str> = asked.keys().map(String::as_str).collect();
        return Err(format!("status unknown for quota: {name}, resources: {}", names.join(",")));
    }
    let mut next = used.clone();
    for (name, amount) in &asked {
        let before = used.get(name).copied().unwrap_or(*amount);
        next.insert(name.clone(), if before.is_zero() { *amount } else { before.plus(amount) });
    }
    let over: BTreeSet<&String> = asked.keys().filter(|name| next[*name] > bounds[*name]).collect();
    if !over.is_empty() {
        let shown = |of: &Amounts| {
            let shown: Vec<String> = over.iter().map(|name| format!("{name}={}", of[*name])).collect();
            shown.join(",")
        };
        let (asked, used, bounds) = (shown(&asked), shown(&used), shown(&bounds));
        return Err(format!("exceeded quota: {name}, requested: {asked}, used: {used}, limited: {bounds}"));
    }
    let mut status = quota["status"].clone();
    status["used"] = json!(written(&next));
    Ok(Some(status))
}

/// `limits.cpu for: a,b` for each amount that is bounded and that a container does not state.
fn unstated(pod: &Value, bounds: &Amounts) -> Vec<String> {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array().into_iter().flatten() {
            let of = &container["resources"];
            let stated = computed(&amounts(&of["requests"]), &amounts(&of["limits"]));
            for name in
                STATED.iter().filter(|name| bounds.contains_key(**name) && !stated.contains_key(**name))
            {
                missing.entry(name).or_default().insert(container["name"].as_str().unwrap_or(""));
            }
        }
    }
    let join = |names: &BTreeSet<&str>| names.iter().copied().collect::<Vec<_>>().join(",");
    missing.iter().map(|(name, containers)| format!("{name} for: {}", join(containers))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::{CONFIG_MAPS, DEPLOYMENTS};

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": resources}]}})
    }

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    fn names(amounts: &Amounts) -> Vec<String> {
        amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect()
    }

    #[test]
    fn objects_use_what_upstream_counts() {
        let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "1"}});
        assert_eq!(
            names(&usage(&PODS, &pod(resources))),
            [
                "count/pods=1",
                "cpu=100m",
                "limits.cpu=1",
                "memory=64Mi",
                "pods=1",
                "requests.cpu=100m",
                "requests.memory=64Mi"
            ]
        );
        let mut done = pod(json!({"requests": {"cpu": "1"}}));
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(names(&usage(&PODS, &done)), ["count/pods=1"]);
        assert_eq!(names(&usage(&DEPLOYMENTS, &json!({}))), ["count/deployments.apps=1"]);
        assert_eq!(names(&usage(&CONFIG_MAPS, &json!({}))), ["configmaps=1", "count/configmaps=1"]);
        let mut costly = pod(json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}));
        costly["spec"]["overhead"] = json!({"cpu": "50m", "memory": "1Mi"});
        let costs = names(&usage(&PODS, &costly));
        for cost in ["requests.cpu=150m", "limits.cpu=1050m", "requests.memory=1Mi"] {
            assert!(costs.iter().any(|one| one == cost), "{cost} in {costs:?}");
        }
        assert!(!costs.iter().any(|one| one.starts_with("limits.memory")), "{costs:?}");
        let service = json!({"spec": {"type": "LoadBalancer", "ports": [{}, {}]}});
        assert_eq!(
            names(&usage(&SERVICES, &service)),
            ["count/services=1", "services=1", "services.loadbalancers=1", "services.nodeports=2"]
        );
        let claim =
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(
            names(&usage(&PERSISTENT_VOLUME_CLAIMS, &claim)),
            [
                "count/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/persistentvolumeclaims=1",
                "fast.storageclass.storage.k8s.io/requests.storage=1Gi",
                "persistentvolumeclaims=1",
                "requests.storage=1Gi"
            ]
        );
    }

    #[test]
    fn refusals_are_in_upstreams_words() {
        let (small, none) = (pod(json!({"requests": {"cpu": "500m"}})), pod(json!({})));
        for (quota, pod, expected) in [
            (
                quota(json!({"pods": "1"}), json!({"pods": "1"})),
                &none,
                "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1",
            ),
            (
                quota(
                    json!({"pods": "1", "requests.cpu": "1"}),
                    json!({"pods": "1", "requests.cpu": "600m"}),
                ),
                &small,
                "exceeded quota: q, requested: pods=1,requests.cpu=500m, used: pods=1,requests.cpu=600m, limited: pods=1,requests.cpu=1",
            ),
            (
                quota(json!({"requests.cpu": "1", "limits.memory": "1Gi"}), json!({})),
                &none,
                "failed quota: q: must specify limits.memory for: a; requests.cpu for: a",
            ),
            (quota(json!({"pods": "1"}), json!({})), &none, "status unknown for quota: q, resources: pods"),
        ] {
            let added = added(&PODS, None, pod);
            assert_eq!(charge(&quota, &PODS, pod, &added), Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_charge_adds_and_what_is_not_bounded_is_not_counted() {
        let quota = quota(json!({"requests.cpu": "1"}), json!({"requests.cpu": "200m"}));
        let pod = pod(json!({"requests": {"cpu": "800m", "memory": "1Gi"}}));
        let status = charge(&quota, &PODS, &pod, &added(&PODS, None, &pod)).unwrap().unwrap();
        assert_eq!(status["used"], json!({"requests.cpu": "1"}));
        let map = json!({});
        assert_eq!(charge(&quota, &CONFIG_MAPS, &map, &added(&CONFIG_MAPS, None, &map)), Ok(None));
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{}]}});
        let more = added(&SERVICES, Some(&service("ClusterIP")), &service("NodePort"));
        assert_eq!(names(&more), ["services.nodeports=1"]);
        assert!(added(&SERVICES, Some(&service("NodePort")), &service("ClusterIP")).is_empty());
    }

    #[test]
    fn scopes_choose_pods() {
        let quota = |spec: Value| json!({"spec": spec});
        let abroad = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"namespaces": ["e"]}]}});
        let bounded = json!({"spec": {"affinity": abroad, "activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{}]}});
        let busy = pod(json!({"limits": {"cpu": "1"}}));
        for (spec, of_bounded, of_busy) in [
            (json!({"scopes": ["Terminating"]}), true, false),
            (json!({"scopes": ["NotTerminating"]}), false, true),
            (json!({"scopes": ["BestEffort"]}), true, false),
            (json!({"scopes": ["NotBestEffort"]}), false, true),
            (json!({"scopes": ["Terminating", "NotBestEffort"]}), false, false),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                true,
                false,
            ),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]}}),
                false,
                true,
            ),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), true, false),
            (json!({}), true, true),
        ] {
            let quota = quota(spec);
            assert_eq!(
                (concerns(&quota, &PODS, &bounded), concerns(&quota, &PODS, &busy)),
                (of_bounded, of_busy),
                "{quota}"
            );
        }
        assert!(!concerns(&quota(json!({"scopes": ["NotTerminating"]})), &CONFIG_MAPS, &json!({})));
    }

    #[test]
    fn a_status_shows_only_what_is_bounded() {
        let quota = json!({"spec": {"hard": {"pods": "5", "requests.memory": "1Gi"}}});
        let one = usage(&PODS, &pod(json!({"requests": {"memory": "64Mi"}})));
        let status = status(&quota, [&one, &one].into_iter());
        assert_eq!(status["used"], json!({"pods": "2", "requests.memory": "128Mi"}));
    }
}
