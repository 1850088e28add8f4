//! Defaults of pods and of pod templates.

use serde_json::{Map, Value, json};

use super::{items, set};
use crate::meta::map_at;

/// A pod: its spec, and requests that follow limits.
pub(super) fn pod(object: &mut Map<String, Value>) {
    // A mirror is what its node runs, as nobody of the cluster.
    let is_mirror =
        object.get("metadata").is_some_and(|m| m["annotations"][crate::static_pod::MIRROR].is_string());
    let pod_spec = map_at(object, "spec");
    spec(pod_spec);
    set(pod_spec, "enableServiceLinks", json!(true));
    if !is_mirror {
        set(pod_spec, "serviceAccountName", json!("default"));
        let account = pod_spec["serviceAccountName"].clone();
        set(pod_spec, "serviceAccount", account);
    }
    tolerations(pod_spec);
    let on_host = pod_spec.get("hostNetwork").is_some_and(|on| *on == true);
    for list in ["initContainers", "containers"] {
        for container in items(pod_spec, list) {
            requests_follow_limits(container);
            if on_host {
                host_ports(container);
            }
        }
    }
}

/// Where the network is the node's, what a container listens on is a port of the node. Of pods alone: templates stay as they are.
fn host_ports(container: &mut Map<String, Value>) {
    for port in items(container, "ports") {
        if port.get("hostPort").is_none_or(|number| number.is_null() || *number == 0)
            && let Some(number) = port.get("containerPort").cloned()
        {
            port.insert("hostPort".to_owned(), number);
        }
    }
}

/// What admission adds to every pod: five minutes on a node that is lost.
fn tolerations(spec: &mut Map<String, Value>) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = list.iter().any(|t| {
            (t["key"] == key || t["key"].as_str().is_none_or(str::is_empty))
                && (t["effect"] == "NoExecute" || t["effect"].as_str().is_none_or(str::is_empty))
        });
        if !covered {
            list.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}

/// A pod's spec, in a pod or in a template.
pub(super) fn spec(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", json!("default-scheduler"));
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for one in items(spec, list) {
            container(one);
        }
    }
    for volume in items(spec, "volumes") {
        self::volume(volume);
    }
}

fn container(container: &mut Map<String, Value>) {
    set(container, "resources", json!({}));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    let image = container.get("image").and_then(Value::as_str).unwrap_or("");
    let policy = if tag(image) == "latest" { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", json!(policy));
    for port in items(container, "ports") {
        set(port, "protocol", json!("TCP"));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            if let Some(grpc) = probe.get_mut("grpc").and_then(Value::as_object_mut) {
                set(grpc, "service", json!(""));
            }
            set(probe, "timeoutSeconds", json!(1));
            set(probe, "periodSeconds", json!(10));
            set(probe, "successThreshold", json!(1));
            set(probe, "failureThreshold", json!(3));
            http_get(probe);
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle").and_then(Value::as_object_mut) {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = lifecycle.get_mut(hook).and_then(Value::as_object_mut) {
                http_get(hook);
            }
        }
    }
    for variable in items(container, "env") {
        let source = variable.get_mut("valueFrom").and_then(|v| v.get_mut("fieldRef"));
        if let Some(field) = source.and_then(Value::as_object_mut) {
            set(field, "apiVersion", json!("v1"));
        }
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        set(get, "path", json!("/"));
        set(get, "scheme", json!("HTTP"));
    }
}

/// The tag of an image's name: `latest` when there is neither a tag nor a digest.
fn tag(image: &str) -> &str {
    if image.contains('@') {
        return "";
    }
    let last = image.rsplit('/').next().unwrap_or("");
    last.split_once(':').map_or("latest", |(_, tag)| tag)
}

fn requests_follow_limits(container: &mut Map<String, Value>) {
    let resources = map_at(container, "resources");
    let Some(limits) = resources.get("limits").and_then(Value::as_object).cloned() else { return };
    let requests = map_at(resources, "requests");
    for (name, limit) in limits {
        set(requests, &name, limit);
    }
}

fn volume(volume: &mut Map<String, Value>) {
    const SOURCES: [(&str, &str); 3] =
        [("secret", "defaultMode"), ("configMap", "defaultMode"), ("projected", "defaultMode")];
    for (source, field) in SOURCES.iter().chain(&[("downwardAPI", "defaultMode")]) {
        if let Some(source) = volume.get_mut(*source).and_then(Value::as_object_mut) {
            set(source, field, json!(0o644));
        }
    }
    if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
        for source in items(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                set(token, "expirationSeconds", json!(crate::pod_token::DEFAULT_LIFE));
            }
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        set(path, "type", json!(""));
    }
    super::storage::remote(volume);
    let template = volume.get_mut("ephemeral").and_then(|e| e.get_mut("volumeClaimTemplate"));
    if let Some(template) = template.and_then(Value::as_object_mut) {
        set(map_at(template, "metadata"), "creationTimestamp", Value::Null);
        super::storage::claim_spec(map_at(template, "spec"));
    }
    if volume.len() == 1 && volume.contains_key("name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        for (image, expected) in [
            ("nginx", "latest"),
            ("nginx:1.2", "1.2"),
            ("host:5000/a/b", "latest"),
            ("host:5000/a/b:c", "c"),
            ("a@sha256:00", ""),
            ("nginx:latest", "latest"),
        ] {
            assert_eq!(tag(image), expected, "{image}");
        }
    }

    #[test]
    fn a_pod_gets_its_tolerations_once_and_requests_from_limits() {
        let mut object =
            json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}});
        let map = object.as_object_mut().unwrap();
        pod(map);
        pod(map);
        assert_eq!(object["spec"]["tolerations"].as_array().unwrap().len(), 2);
        assert_eq!(object["spec"]["containers"][0]["resources"]["requests"], json!({"cpu": "1"}));
    }

    #[test]
    fn ports_of_a_pod_on_the_nodes_network_are_ports_of_the_node() {
        let with = |host: bool| {
            let ports = json!([{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}, {"containerPort": 82, "hostPort": 82}]);
            let mut object =
                json!({"spec": {"hostNetwork": host, "containers": [{"name": "c", "ports": ports}]}});
            pod(object.as_object_mut().unwrap());
            let ports = object["spec"]["containers"][0]["ports"].as_array().unwrap();
            ports.iter().map(|port| port["hostPort"].as_i64().unwrap_or(0)).collect::<Vec<_>>()
        };
        assert_eq!(with(true), [80, 81, 82]);
        assert_eq!(with(false), [0, 0, 82]);
    }
}
