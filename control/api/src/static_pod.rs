//! Static pods: those that a node has from a folder of its own, and their mirrors in the API.
//!
//! A node knows such a pod by a uid of its own, which its mirror has in annotations. Nobody's Secrets are a static pod's: it comes
//! from no namespace's owner.
//!
//! Source: k8s.io/kubernetes/pkg/kubelet/{types,config,pod} and plugin/pkg/admission/{serviceaccount,noderestriction}.

use serde_json::{Value, json};

use crate::meta;

/// The annotation that makes a pod a mirror: the hash of the static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation with that hash, in the static pod as well.
pub const HASH: &str = "kubernetes.io/config.hash";
/// The annotation that says where a node has a pod from.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// The value of [`SOURCE`] of static pods.
pub const FILE: &str = "file";

/// The hash of the static pod that a pod mirrors.
#[must_use]
pub fn mirrored(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][MIRROR].as_str()
}

/// By which uid its node knows a pod.
#[must_use]
pub fn uid_on_node(pod: &Value) -> &str {
    mirrored(pod).unwrap_or_else(|| meta::uid(pod))
}

/// What a static pod names that is in the API, which it may not.
#[must_use]
pub fn foreign(spec: &Value) -> Option<&'static str> {
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Some("service accounts");
    }
    let has = |object: &Value, field: &str| object.get(field).is_some_and(|value| !value.is_null());
    let list = |object: &Value, field: &str| object[field].as_array().cloned().unwrap_or_default();
    if !list(spec, "imagePullSecrets").is_empty() {
        return Some("secrets");
    }
    // Whichever kind of volume it is.
    let names_secret = |source: &Value| {
        let fields = ["secretRef", "secretName", "nodePublishSecretRef"];
        fields.iter().any(|field| has(source, field))
    };
    for volume in list(spec, "volumes") {
        if volume.as_object().into_iter().flatten().any(|(_, source)| names_secret(source)) {
            return Some("secrets");
        }
        let sources = list(&volume["projected"], "sources");
        let any = |field: &str| has(&volume, field) || sources.iter().any(|source| has(source, field));
        for (field, what) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims"),
            ("serviceAccountToken", "service accounts"),
        ] {
            if any(field) {
                return Some(what);
            }
        }
    }
    let containers = ["initContainers", "containers"].into_iter().flat_map(|field| list(spec, field));
    for container in containers {
        let env = list(&container, "env").into_iter().map(|variable| variable["valueFrom"].clone());
        for source in env.chain(list(&container, "envFrom")) {
            if has(&source, "secretKeyRef") || has(&source, "secretRef") {
                return Some("secrets");
            }
            if has(&source, "configMapKeyRef") || has(&source, "configMapRef") {
                return Some("configmaps");
            }
        }
    }
    None
}

/// Makes what a file of a node says its static pod's mirror: named after the node, bound to it, bearing what befalls it.
///
/// # Errors
/// What it has not, or may not have.
pub fn mirror(mut pod: Value, node: &str, hash: &str) -> Result<Value, String> {
    let said = |field: &str| pod[field].as_str().unwrap_or_default().to_owned();
    if (said("apiVersion"), said("kind")) != ("v1".to_owned(), "Pod".to_owned()) {
        return Err("it is no Pod of v1".to_owned());
    }
    if let Some(what) = foreign(&pod["spec"]) {
        return Err(format!("a static pod may not reference {what}"));
    }
    let name = meta::name(&pod).to_owned();
    if name.is_empty() {
        return Err("metadata.name: Required value".to_owned());
    }
    let metadata = meta::metadata_mut(&mut pod);
    metadata.insert("name".to_owned(), json!(format!("{name}-{node}").to_lowercase()));
    let namespace = metadata.get("namespace").and_then(Value::as_str).filter(|said| !said.is_empty());
    let namespace = json!(namespace.unwrap_or("default"));
    metadata.insert("namespace".to_owned(), namespace);
    metadata.insert("uid".to_owned(), json!(hash));
    let annotations = meta::map_at(metadata, "annotations");
    for (annotation, value) in [(MIRROR, hash), (HASH, hash), (SOURCE, FILE)] {
        annotations.insert(annotation.to_owned(), json!(value));
    }
    let spec = meta::map_at(meta::map_of(&mut pod), "spec");
    spec.insert("nodeName".to_owned(), json!(node));
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(tolerations) = tolerations.as_array_mut() {
        tolerations.push(json!({"operator": "Exists", "effect": "NoExecute"}));
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_is_named_after_its_node_and_known_there_by_its_hash() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": []}});
        let made = mirror(pod.clone(), "Node1", "abc").unwrap();
        assert_eq!((meta::name(&made), meta::namespace(&made)), ("web-node1", "default"));
        assert_eq!((mirrored(&made), uid_on_node(&made)), (Some("abc"), "abc"));
        assert_eq!(made["spec"]["nodeName"], "Node1");
        assert_eq!(uid_on_node(&json!({"metadata": {"uid": "u"}})), "u");
        assert_eq!(mirror(json!({"kind": "Pod"}), "n", "h").unwrap_err(), "it is no Pod of v1");
    }

    #[test]
    fn nothing_of_the_api_is_a_static_pods() {
        let env = |source: Value| json!({"containers": [{"env": [{"name": "A", "valueFrom": source}]}]});
        for (spec, expected) in [
            (json!({"volumes": [{"name": "v", "emptyDir": {}}]}), None),
            (env(json!({"fieldRef": {"fieldPath": "metadata.name"}})), None),
            (json!({"serviceAccountName": "default"}), Some("service accounts")),
            (json!({"imagePullSecrets": [{"name": "s"}]}), Some("secrets")),
            (json!({"volumes": [{"projected": {"sources": [{"configMap": {}}]}}]}), Some("configmaps")),
            (json!({"volumes": [{"persistentVolumeClaim": {}}]}), Some("persistentvolumeclaims")),
            (json!({"volumes": [{"name": "v", "iscsi": {"secretRef": {"name": "s"}}}]}), Some("secrets")),
            (
                json!({"volumes": [{"projected": {"sources": [{"serviceAccountToken": {}}]}}]}),
                Some("service accounts"),
            ),
            (env(json!({"secretKeyRef": {"name": "s"}})), Some("secrets")),
            (json!({"initContainers": [{"envFrom": [{"configMapRef": {}}]}]}), Some("configmaps")),
        ] {
            assert_eq!(foreign(&spec), expected, "{spec}");
        }
    }
}
