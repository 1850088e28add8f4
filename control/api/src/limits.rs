//! What a LimitRange gives to new objects and asks of them. Pure; findings are in upstream's words.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/limitranger.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::meta;
use crate::quantity::Quantity;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Amounts by resource.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a map of quantities; what is none is left out.
#[must_use]
pub fn amounts(of: &Value) -> Amounts {
    let read = |(name, value): (&String, &Value)| Some((name.clone(), Quantity::read(value).ok()?));
    of.as_object().into_iter().flatten().filter_map(read).collect()
}

fn items<'v>(range: &'v Value, kind: &'v str) -> impl Iterator<Item = &'v Value> {
    let limits = range["spec"]["limits"].as_array().into_iter().flatten();
    limits.filter(move |limit| limit["type"] == kind)
}

/// Gives containers the requests and limits that they do not state, and says so in an annotation.
pub fn complete(range: &Value, pod: &mut Value) {
    let (mut limits, mut requests) = (Map::new(), Map::new());
    for limit in items(range, "Container") {
        for (to, from) in [(&mut limits, "default"), (&mut requests, "defaultRequest")] {
            to.extend(limit[from].as_object().cloned().unwrap_or_default());
        }
    }
    let mut said = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter(|container| container.is_object()) {
            let name = container["name"].as_str().unwrap_or("").to_owned();
            for (field, word, from) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = fill(container, field, from);
                if !set.is_empty() {
                    said.push(format!("{} {word} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let annotations = meta::map_at(meta::metadata_mut(pod), "annotations");
        annotations
            .insert(ANNOTATION.to_owned(), json!(format!("LimitRanger plugin set: {}", said.join("; "))));
    }
}

/// Adds what is not there; the names of what was added, sorted.
fn fill(container: &mut Value, field: &str, from: &Map<String, Value>) -> Vec<String> {
    let missing: Vec<(&String, &Value)> =
        from.iter().filter(|(name, _)| container["resources"][field].get(name.as_str()).is_none()).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let resources = meta::map_at(meta::map_of(container), "resources");
    let there = meta::map_at(resources, field);
    let mut names: Vec<String> = missing.iter().map(|(name, _)| (*name).clone()).collect();
    names.sort_unstable();
    there.extend(missing.into_iter().map(|(name, value)| (name.clone(), value.clone())));
    names
}

/// What is wrong with a pod.
#[must_use]
pub fn check_pod(range: &Value, pod: &Value) -> Vec<String> {
    let containers = |list: &str| pod["spec"][list].as_array().cloned().unwrap_or_default();
    let resources = |container: &Value| {
        let of = &container["resources"];
        (amounts(&of["requests"]), amounts(&of["limits"]))
    };
    let (main, init) = (containers("containers"), containers("initContainers"));
    let mut found = Vec::new();
    for limit in items(range, "Container") {
        for (requests, limits) in main.iter().chain(&init).map(resources) {
            found.extend(Constraint { kind: "Container", limit }.check(&requests, &limits));
        }
    }
    for limit in items(range, "Pod") {
        let (requests, limits) = whole(pod);
        found.extend(Constraint { kind: "Pod", limit }.check(&requests, &limits));
    }
    found
}

/// The requests and limits of a pod as a whole: the sum of its containers and sidecars, or what one of those before them needs
/// beside the sidecars that have been started by then.
#[must_use]
pub fn whole(pod: &Value) -> (Amounts, Amounts) {
    let of = |field: &str| {
        let list = |list: &str| pod["spec"][list].as_array().into_iter().flatten();
        let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
        for container in list("initContainers") {
            let mut needed = sidecars.clone();
            add(&mut needed, amounts(&container["resources"][field]));
            if container["restartPolicy"] == "Always" {
                sidecars.clone_from(&needed);
            }
            raise(&mut most, needed);
        }
        for container in list("containers") {
            add(&mut sidecars, amounts(&container["resources"][field]));
        }
        raise(&mut most, sidecars);
        most
    };
    (of("requests"), of("limits"))
}

pub(crate) fn add(sum: &mut Amounts, more: Amounts) {
    for (name, amount) in more {
        let total = sum.get(&name).map_or(amount, |before| before.plus(&amount));
        sum.insert(name, total);
    }
}

fn raise(most: &mut Amounts, other: Amounts) {
    for (name, amount) in other {
        let higher = most.get(&name).map_or(amount, |before| amount.max(*before));
        most.insert(name, higher);
    }
}

/// What is wrong with a claim for a volume.
#[must_use]
pub fn check_claim(range: &Value, claim: &Value) -> Vec<String> {
    let kind = "PersistentVolumeClaim";
    let requests = amounts(&claim["spec"]["resources"]["requests"]);
    let mut found = Vec::new();
    for limit in items(range, kind) {
        let constraint = Constraint { kind, limit };
        for (name, enforced) in amounts(&limit["min"]) {
            found.extend(constraint.at_least(&name, &enforced, &requests, &Amounts::new()));
        }
        for (name, enforced) in amounts(&limit["max"]) {
            found.extend(constraint.request_at_most(&name, &enforced, &requests));
        }
    }
    found
}

struct Constraint<'l> {
    kind: &'static str,
    limit: &'l Value,
}

impl Constraint<'_> {
    fn check(&self, requests: &Amounts, limits: &Amounts) -> Vec<String> {
        let mut found = Vec::new();
        for (name, enforced) in amounts(&self.limit["min"]) {
            found.extend(self.at_least(&name, &enforced, requests, limits));
        }
        for (name, enforced) in amounts(&self.limit["max"]) {
            found.extend(self.at_most(&name, &enforced, requests, limits));
        }
        for (name, enforced) in amounts(&self.limit["maxLimitRequestRatio"]) {
            found.extend(self.ratio(&name, &enforced, requests, limits));
        }
        found
    }

    fn at_least(
        &self,
        name: &str,
        enforced: &Quantity,
        requests: &Amounts,
        limits: &Amounts,
    ) -> Option<String> {
        let what = format!("minimum {name} usage per {} is {enforced}", self.kind);
        let Some(request) = requests.get(name) else {
            return Some(format!("{what}.  No request is specified"));
        };
        if request < enforced {
            return Some(format!("{what}, but request is {request}"));
        }
        let limit = limits.get(name).filter(|limit| *limit < enforced)?;
        Some(format!("{what}, but limit is {limit}"))
    }

    fn at_most(
        &self,
        name: &str,
        enforced: &Quantity,
        requests: &Amounts,
        limits: &Amounts,
    ) -> Option<String> {
        let what = format!("maximum {name} usage per {} is {enforced}", self.kind);
        let Some(limit) = limits.get(name) else {
            return Some(format!("{what}.  No limit is specified"));
        };
        if limit > enforced {
            return Some(format!("{what}, but limit is {limit}"));
        }
        let request = requests.get(name).filter(|request| *request > enforced)?;
        Some(format!("{what}, but request is {request}"))
    }

    fn request_at_most(&self, name: &str, enforced: &Quantity, requests: &Amounts) -> Option<String> {
        let what = format!("maximum {name} usage per {} is {enforced}", self.kind);
        let Some(request) = requests.get(name) else {
            return Some(format!("{what}.  No request is specified"));
        };
        (request > enforced).then(|| format!("{what}, but request is {request}"))
    }

    fn ratio(&self, name: &str, enforced: &Quantity, requests: &Amounts, limits: &Amounts) -> Option<String> {
        let what = format!("{name} max limit to request ratio per {} is {enforced}", self.kind);
        let some = |of: &Amounts| of.get(name).copied().filter(|amount| !amount.is_zero());
        let Some(request) = some(requests) else {
            return Some(format!("{what}, but no request is specified or request is 0"));
        };
        let Some(limit) = some(limits) else {
            return Some(format!("{what}, but no limit is specified or limit is 0"));
        };
        let ratio = limit.over(&request);
        (ratio > enforced.over(&Quantity::milli(1000)))
            .then(|| format!("{what}, but provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(limit: Value) -> Value {
        json!({"spec": {"limits": [limit]}})
    }

    fn pod(resources: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "resources": resources}]}})
    }

    #[test]
    fn sidecars_count_beside_what_comes_after_them() {
        let init = |cpu: &str, policy: Value| json!({"name": "i", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        let mut pod = pod(json!({"requests": {"cpu": "2"}}));
        let total = |pod: &Value| whole(pod).0["cpu"].to_string();
        pod["spec"]["initContainers"] = json!([init("3", Value::Null), init("1", json!("Always"))]);
        assert_eq!(total(&pod), "3", "the sidecar is not there yet: 2 + 1 are no more");
        pod["spec"]["initContainers"] = json!([init("1", json!("Always")), init("3", Value::Null)]);
        assert_eq!(total(&pod), "4");
        pod["spec"]["initContainers"] = json!([init("1", json!("Always")), init("500m", json!("Always"))]);
        assert_eq!(total(&pod), "3500m");
    }

    #[test]
    fn containers_get_what_they_do_not_state() {
        let range = range(
            json!({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}),
        );
        let mut with = pod(json!({"limits": {"cpu": "2"}}));
        with["spec"]["initContainers"] = json!([{"name": "i"}]);
        complete(&range, &mut with);
        assert_eq!(
            with["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m"}})
        );
        assert_eq!(
            with["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a; cpu request for init container i; \
             cpu, memory limit for init container i"
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let cpu = |request: &str, limit: &str| {
            let mut resources = json!({});
            for (field, amount) in [("requests", request), ("limits", limit)] {
                if !amount.is_empty() {
                    resources[field] = json!({"cpu": amount});
                }
            }
            pod(resources)
        };
        for (limit, pod, expected) in [
            (
                json!({"min": {"cpu": "1"}}),
                cpu("", ""),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                json!({"min": {"cpu": "1"}}),
                cpu("500m", ""),
                "minimum cpu usage per Container is 1, but request is 500m",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                cpu("", ""),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                json!({"max": {"cpu": "1"}}),
                cpu("1", "2"),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                cpu("", "1"),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                cpu("1", ""),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
            (
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                cpu("100m", "250m"),
                "cpu max limit to request ratio per Container is 2, but provided ratio is 2.500000",
            ),
        ] {
            let mut limit = limit;
            limit["type"] = json!("Container");
            assert_eq!(check_pod(&range(limit), &pod), [expected]);
        }
        let fits = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}});
        assert_eq!(check_pod(&range(fits), &cpu("1", "2")), Vec::<String>::new());
    }

    #[test]
    fn a_pod_is_the_sum_of_its_containers() {
        let limit = json!({"type": "Pod", "max": {"memory": "1Gi"}});
        let one = json!({"name": "a", "resources": {"limits": {"memory": "600Mi"}}});
        let pod = json!({"spec": {"containers": [one, one]}});
        assert_eq!(
            check_pod(&range(limit), &pod),
            ["maximum memory usage per Pod is 1Gi, but limit is 1200Mi"]
        );
    }

    #[test]
    fn a_claim_has_bounds_too() {
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let limit =
            json!({"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}});
        for (size, expected) in [
            ("500Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
        ] {
            assert_eq!(check_claim(&range(limit.clone()), &claim(size)), [expected]);
        }
        assert!(check_claim(&range(limit), &claim("1Gi")).is_empty());
    }
}
