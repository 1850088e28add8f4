//! APIServices: who answers for which group and version, in which order discovery shows them, and whether they are available.
//!
//! Source: k8s.io/kube-aggregator/pkg/apis/apiregistration, k8s.io/kubernetes/pkg/controlplane/apiserver/aggregator.go.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::catalogue::Catalogue;
use crate::meta;

/// The group of APIServices, which nobody else can answer for.
pub const GROUP: &str = "apiregistration.k8s.io";
/// Says of an APIService that the control plane made it and sets it right when it starts.
pub const AUTO_MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// The group of what nodes and pods use: answered here, unless an APIService names a Service for it.
const RESOURCE_METRICS: &str = "metrics.k8s.io";
/// The priority of a group and a version that nobody has given one, as metrics-server has.
const LOWEST: Priority = Priority { group: 100, version: 100 };

/// Where a group and a version stand in discovery: higher ones come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    /// `spec.groupPriorityMinimum`
    pub group: i64,
    /// `spec.versionPriority`
    pub version: i64,
}

/// The groups that are answered here, and where upstream has them.
const GROUPS: &[(&str, i64)] = &[
    ("", 18_000),
    (GROUP, 17_900),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
];

/// The priority of a group and version that is answered here.
#[must_use]
pub fn priority(group: &str, version: &str) -> Priority {
    let Some((_, of_group)) = GROUPS.iter().find(|(known, _)| *known == group) else { return LOWEST };
    let of_version = match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("autoscaling", "v2beta2") => 1,
        ("discovery.k8s.io", "v1beta1") => 12,
        (_, "v1") => 15,
        _ => 9,
    };
    Priority { group: *of_group, version: of_version }
}

/// What an APIService is called: `v1.apps`, and `v1.` for the core group.
#[must_use]
pub fn name(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// The Service that an APIService names; `None` when the control plane answers itself.
#[must_use]
pub fn service(object: &Value) -> Option<&Value> {
    object["spec"].get("service").filter(|service| service.is_object())
}

/// The APIServices of everything that is answered here.
#[must_use]
pub fn local(catalogue: &Catalogue) -> Vec<Value> {
    let mut served: Vec<(&str, &str)> = catalogue
        .served()
        .map(|kind| (kind.group, kind.version))
        .filter(|(group, _)| *group != GROUP)
        .collect();
    served.sort_unstable();
    served.dedup();
    let object = |(group, version): (&str, &str)| {
        let Priority { group: of_group, version: of_version } = priority(group, version);
        let mut object = json!({
            "metadata": {"name": name(group, version)},
            "spec": {"version": version, "groupPriorityMinimum": of_group, "versionPriority": of_version},
        });
        if !group.is_empty() {
            object["spec"]["group"] = json!(group);
        }
        // Who brings a metrics-server of their own is not overruled at the next start.
        if group != RESOURCE_METRICS {
            object["metadata"]["labels"] = json!({AUTO_MANAGED: "onstart"});
        }
        object
    };
    served.into_iter().map(object).collect()
}

/// Whether an APIService is available, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Availability {
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

impl Availability {
    /// What is answered by the control plane itself.
    #[must_use]
    pub fn local() -> Self {
        let message = "Local APIServices are always available".to_owned();
        Self { status: "True", reason: "Local", message }
    }

    /// Whose Service has answered.
    #[must_use]
    pub fn passed() -> Self {
        Self { status: "True", reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// Whose Service cannot answer.
    #[must_use]
    pub fn failed(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    /// The status of an APIService with this condition; `None` when it has it already.
    #[must_use]
    pub fn status_of(&self, object: &Value, now: Timestamp) -> Option<Value> {
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let present = conditions.iter().find(|condition| condition["type"] == "Available");
        let same = present.filter(|present| present["status"] == self.status);
        let since =
            same.map_or_else(|| json!(meta::time(now)), |present| present["lastTransitionTime"].clone());
        let wanted = json!({
            "type": "Available", "status": self.status, "lastTransitionTime": since, "reason": self.reason,
            "message": self.message,
        });
        if present == Some(&wanted) {
            return None;
        }
        let mut status = object["status"].clone();
        if !status.is_object() {
            status = json!({});
        }
        let others = conditions.into_iter().filter(|condition| condition["type"] != "Available");
        status["conditions"] = others.chain([wanted]).collect();
        Some(status)
    }
}

/// Whether requests are handed on to an APIService's Service.
#[must_use]
pub fn is_available(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Available" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_served_is_registered_but_for_the_register() {
        let all = local(&Catalogue::builtin());
        let names: Vec<&str> = all.iter().map(meta::name).collect();
        for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.autoscaling", "v1beta1.metrics.k8s.io"] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(!names.contains(&"v1.apiregistration.k8s.io"));
        let find = |name: &str| all.iter().find(|object| meta::name(object) == name).unwrap();
        assert_eq!(
            find("v1.apps"),
            &json!({"metadata": {"name": "v1.apps", "labels": {AUTO_MANAGED: "onstart"}},
                "spec": {"version": "v1", "groupPriorityMinimum": 17_800, "versionPriority": 15, "group": "apps"}})
        );
        assert!(find("v1beta1.metrics.k8s.io")["metadata"].get("labels").is_none());
        for object in all {
            let group = object["spec"]["group"].as_str().unwrap_or("");
            let known = GROUPS.iter().any(|(known, _)| *known == group) || group == RESOURCE_METRICS;
            assert!(known, "{group} has no place in discovery");
            let mut whole = object.clone();
            crate::defaults::apply(&crate::catalogue::API_SERVICES, &mut whole);
            assert_eq!(crate::validate::create(&crate::catalogue::API_SERVICES, &whole), []);
        }
        assert!(priority("autoscaling", "v2") > priority("autoscaling", "v1"));
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut object = json!({"spec": {"service": {"name": "s"}}});
        let missing = Availability::failed("ServiceNotFound", "service/s in \"d\" is not present".to_owned());
        object["status"] = missing.status_of(&object, at(0)).unwrap();
        assert!(!is_available(&object) && missing.status_of(&object, at(9)).is_none());
        let other = Availability::failed("MissingEndpoints", "none".to_owned());
        object["status"] = other.status_of(&object, at(9)).unwrap();
        let condition = &object["status"]["conditions"][0];
        assert_eq!(
            (&condition["reason"], &condition["lastTransitionTime"]),
            (&json!("MissingEndpoints"), &json!("1970-01-01T00:00:00Z"))
        );
        object["status"] = Availability::passed().status_of(&object, at(9)).unwrap();
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "1970-01-01T00:00:09Z");
        assert!(is_available(&object) && object["status"]["conditions"].as_array().unwrap().len() == 1);
    }
}
