//! The objects that a pod's spec names, and those that the volumes of its claims name: what its node needs beside the pod.

use std::collections::BTreeSet;

use oarlock_api::catalogue::{
    CONFIG_MAPS, ENDPOINTS, Kind, PERSISTENT_VOLUME_CLAIMS, RUNTIME_CLASSES, SECRETS,
};
use oarlock_api::service::ENDPOINTS_MANAGED_BY;
use oarlock_api::{meta, storage};
use serde_json::Value;

use crate::cache::Object;

/// A kind of object that pods name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    ConfigMap,
    Secret,
    Claim,
    RuntimeClass,
    /// The servers of a glusterfs volume, as somebody wrote them.
    Endpoints,
}

impl Named {
    pub(crate) fn kind(self) -> &'static Kind {
        match self {
            Self::ConfigMap => &CONFIG_MAPS,
            Self::Secret => &SECRETS,
            Self::Claim => &PERSISTENT_VOLUME_CLAIMS,
            Self::RuntimeClass => &RUNTIME_CLASSES,
            Self::Endpoints => &ENDPOINTS,
        }
    }

    pub(super) fn of(kind: &Kind) -> Option<Self> {
        let all = [Self::ConfigMap, Self::Secret, Self::Claim, Self::RuntimeClass, Self::Endpoints];
        all.into_iter().find(|named| *named.kind() == *kind)
    }
}

/// An object that a pod needs: its kind, namespace and name.
pub(crate) type Reference = (Named, String, String);

/// Whether an Endpoints object is kept by the control plane. Nodes have the same as slices, and every change of a Service's pods would
/// be told to all of them once more.
pub(super) fn is_kept(endpoints: &Object) -> bool {
    endpoints.label(ENDPOINTS_MANAGED_BY).is_some()
}

/// What the source of a PersistentVolume names: in the namespace of its claim, unless it says another.
pub(crate) fn of_volume(volume: &Value) -> BTreeSet<Reference> {
    let namespace = volume["spec"]["claimRef"]["namespace"].as_str().unwrap_or_default();
    of_source(namespace, &volume["spec"]).collect()
}

/// What a volume that another machine has names.
fn of_source(namespace: &str, volume: &Value) -> impl Iterator<Item = Reference> {
    let gluster = &volume["glusterfs"];
    let secret = |of: &'static str| {
        let named = &volume[of]["secretRef"];
        (Named::Secret, &named["namespace"], &named["name"])
    };
    let all = [
        (Named::Endpoints, &gluster["endpointsNamespace"], &gluster["endpoints"]),
        secret("iscsi"),
        secret("rbd"),
    ];
    all.into_iter().filter_map(|(named, place, name)| {
        let name = name.as_str().filter(|name| !name.is_empty())?;
        let place = place.as_str().filter(|place| !place.is_empty()).unwrap_or(namespace);
        Some((named, place.to_owned(), name.to_owned()))
    })
}

/// The ConfigMaps, Secrets, claims and Endpoints that a pod's spec names, and its RuntimeClass.
pub(crate) fn of(namespace: &str, pod: &Value) -> BTreeSet<Reference> {
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
    found.extend(list(&spec["volumes"]).iter().flat_map(|volume| of_source(namespace, volume)));
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
                        {"name": "i", "persistentVolumeClaim": {"claimName": "i"}},
                        {"name": "j", "glusterfs": {"endpoints": "j", "path": "v"}},
                        {"name": "k", "rbd": {"secretRef": {"name": "k"}}}],
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
                "secrets k",
                "persistentvolumeclaims i",
                "runtimeclasses j",
                "endpoints j"
            ]
        );
    }

    #[test]
    fn a_volume_names_objects_of_its_claims_namespace_or_of_another() {
        let of = |source: Value| {
            let mut volume = json!({"spec": {"claimRef": {"namespace": "d", "name": "c"}}});
            let spec = volume["spec"].as_object_mut().unwrap();
            spec.extend(source.as_object().unwrap().clone());
            of_volume(&volume).into_iter().collect::<Vec<_>>()
        };
        let named = |named, place: &str, name: &str| vec![(named, place.to_owned(), name.to_owned())];
        let gluster = json!({"glusterfs": {"endpoints": "e", "path": "v"}});
        assert_eq!(of(gluster), named(Named::Endpoints, "d", "e"));
        let gluster = json!({"glusterfs": {"endpoints": "e", "endpointsNamespace": "o", "path": "v"}});
        assert_eq!(of(gluster), named(Named::Endpoints, "o", "e"));
        assert_eq!(of(json!({"iscsi": {"secretRef": {"name": "s"}}})), named(Named::Secret, "d", "s"));
        let rbd = json!({"rbd": {"secretRef": {"name": "s", "namespace": "o"}}});
        assert_eq!(of(rbd), named(Named::Secret, "o", "s"));
        assert_eq!(of(json!({"nfs": {"server": "s", "path": "/"}})), []);
    }
}
