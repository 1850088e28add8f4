//! How much of the node's disk a pod may use: emptyDir volumes with a size, containers and pods with a limit of `ephemeral-storage`. Pure.
//!
//! Source: kubelet's pkg/kubelet/eviction/eviction_manager.go, `localStorageEviction`.

use oarlock_api::k8s::api::core::v1::{Container, PodSpec};
use oarlock_api::quantity::Quantity;

/// What a pod may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of emptyDir volumes, by name.
    pub(crate) volumes: Vec<(String, Quantity)>,
    /// Of containers, by name: what they write beside volumes, and their logs.
    pub(crate) containers: Vec<(String, Quantity)>,
    /// Of all of it together.
    pub(crate) pod: Option<Quantity>,
}

/// What it uses, in bytes, by the same names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Of emptyDir volumes on disk.
    pub(crate) volumes: Vec<(String, i64)>,
    /// Of containers that run.
    pub(crate) containers: Vec<(String, i64)>,
}

impl Limits {
    /// Those of a pod; none: nobody has to look.
    pub(crate) fn of(spec: &PodSpec) -> Option<Self> {
        let limit = |container: &Container| {
            let limits = container.resources.as_ref()?.limits.as_ref()?;
            limits.get("ephemeral-storage")?.0.parse::<Quantity>().ok()
        };
        let volumes = spec.volumes.iter().flatten().filter_map(|volume| {
            let source = volume.empty_dir.as_ref().filter(|e| e.medium.as_deref() != Some("Memory"))?;
            let size = source.size_limit.as_ref()?.0.parse::<Quantity>().ok()?;
            (!size.is_zero()).then(|| (volume.name.clone(), size))
        });
        let containers = spec.containers.iter().filter_map(|c| Some((c.name.clone(), limit(c)?)));
        let (volumes, containers): (Vec<_>, Vec<_>) = (volumes.collect(), containers.collect());
        let pod = containers.iter().map(|(_, limit)| *limit).reduce(|sum, limit| sum.plus(&limit));
        (!volumes.is_empty() || pod.is_some()).then_some(Self { volumes, containers, pod })
    }

    /// Why the pod has to go, if it has.
    pub(crate) fn broken_by(&self, used: &Used) -> Option<String> {
        let of = |list: &[(String, i64)], name: &str| {
            list.iter().find(|(n, _)| n == name).map_or(0, |(_, bytes)| *bytes)
        };
        for (name, limit) in &self.volumes {
            if of(&used.volumes, name) > limit.value() {
                return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit \"{limit}\". "));
            }
        }
        let total = used.volumes.iter().chain(&used.containers).map(|(_, bytes)| *bytes).sum::<i64>();
        if let Some(limit) = self.pod.filter(|limit| total > limit.value()) {
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
        for (name, limit) in &self.containers {
            if of(&used.containers, name) > limit.value() {
                return Some(format!(
                    "Container {name} exceeded its local ephemeral storage limit \"{limit}\". "
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_over_its_limit_is_named() {
        let limits = |bytes: &str| json!({"limits": {"ephemeral-storage": bytes}});
        let spec: PodSpec = serde_json::from_value(json!({
            "volumes": [{"name": "small", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "free", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
            "containers": [{"name": "a", "resources": limits("2Mi")}, {"name": "b", "resources": limits("3Mi")}]}))
        .unwrap();
        let limits = Limits::of(&spec).unwrap();
        assert_eq!(limits.volumes.len(), 1);
        let broken = |small: i64, free: i64, a: i64, b: i64| {
            let named =
                |pairs: [(&str, i64); 2]| pairs.map(|(name, mi)| (name.to_owned(), mi << 20)).to_vec();
            let used = Used {
                volumes: named([("small", small), ("free", free)]),
                containers: named([("a", a), ("b", b)]),
            };
            limits.broken_by(&used)
        };
        assert_eq!(broken(1, 0, 2, 2), None);
        let message = "Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". ";
        assert_eq!(broken(2, 0, 0, 0).as_deref(), Some(message));
        let message = "Container a exceeded its local ephemeral storage limit \"2Mi\". ";
        assert_eq!(broken(0, 0, 3, 0).as_deref(), Some(message));
        let message = "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ";
        assert_eq!(broken(0, 6, 0, 0).as_deref(), Some(message));
        let free: PodSpec = serde_json::from_value(json!({"containers": [{"name": "c"}]})).unwrap();
        assert_eq!(Limits::of(&free), None);
    }
}
