//! The objects that a pod's spec names: what its node needs beside the pod.

use std::collections::BTreeSet;

use oarlock_api::catalogue::{CONFIG_MAPS, Kind, PERSISTENT_VOLUME_CLAIMS, RUNTIME_CLASSES, SECRETS};
use oarlock_api::{meta, storage};
use serde_json::Value;

/// A kind of object that pods name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    ConfigMap,
    Secret,
    Claim,
    RuntimeClass,
}

impl Named {
    pub(super) fn kind(self) -> &'static Kind {
        match self {
            Self::ConfigMap => &CONFIG_MAPS,
            Self::Secret => &SECRETS,
            Self::Claim => &PERSISTENT_VOLUME_CLAIMS,
            Self::RuntimeClass => &RUNTIME_CLASSES,
        }
    }

    pub(super) fn of(kind: &Kind) -> Option<Self> {
        [Self::ConfigMap, Self::Secret, Self::Claim, Self::RuntimeClass]
            .into_iter()
            .find(|named| *named.kind() == *kind)
    }
}

/// An object that a pod needs: its kind, namespace and name.
pub(super) type Reference = (Named, String, String);

/// The ConfigMaps, Secrets and claims that a pod's spec names, and its RuntimeClass.
pub(super) fn of(namespace: &str, pod: &Value) -> BTreeSet<Reference> {
    let mut found = BTreeSet::new();
    let mut add = |named: Named, name: &Value| {
        if let Some(name) = name.as_str().filter(|n| !n.is_empty()) {
            let namespace = if named.kind().namespaced { namespace } else { "" };
            found.insert((named, namespace.to_owned(), name.to_owned()));
        }
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let spec = &pod["spec"];
    add(Named::RuntimeClass, &spec["runtimeClassName"]);
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    for container in lists.iter().flat_map(|containers| list(&spec[*containers])) {
        for variable in list(&container["env"]) {
            add(Named::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            add(Named::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
        }
        for source in list(&container["envFrom"]) {
            add(Named::ConfigMap, &source["configMapRef"]["name"]);
            add(Named::Secret, &source["secretRef"]["name"]);
        }
    }
    for secret in list(&spec["imagePullSecrets"]) {
        add(Named::Secret, &secret["name"]);
    }
    for volume in list(&spec["volumes"]) {
        add(Named::ConfigMap, &volume["configMap"]["name"]);
        add(Named::Secret, &volume["secret"]["secretName"]);
        for source in list(&volume["projected"]["sources"]) {
            add(Named::ConfigMap, &source["configMap"]["name"]);
            add(Named::Secret, &source["secret"]["name"]);
        }
        if let Some(claim) = storage::claim_of(meta::name(pod), &volume) {
            add(Named::Claim, &Value::from(claim));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_place_that_names_an_object_is_found() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"runtimeClassName": "j",
            "containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "a"}}}, {"valueFrom": {"secretKeyRef": {"name": "b"}}}],
                            "envFrom": [{"secretRef": {"name": "c"}}]}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "d"}}]}],
            "volumes": [{"configMap": {"name": "e"}}, {"secret": {"secretName": "f"}},
                        {"projected": {"sources": [{"secret": {"name": "g"}}, {"configMap": {"name": "h"}}]}},
                        {"name": "i", "persistentVolumeClaim": {"claimName": "i"}}],
        }});
        let names: Vec<String> = of("d", &pod)
            .into_iter()
            .map(|(named, namespace, name)| {
                assert_eq!(named.kind().namespaced, namespace == "d");
                format!("{} {name}", named.kind().plural)
            })
            .collect();
        assert_eq!(
            names,
            [
                "configmaps a",
                "configmaps d",
                "configmaps e",
                "configmaps h",
                "secrets b",
                "secrets c",
                "secrets f",
                "secrets g",
                "persistentvolumeclaims i",
                "runtimeclasses j"
            ]
        );
    }
}
