//! What Kubernetes fills in when the user does not say it. On JSON, in place, idempotent.
//!
//! Source: k8s.io/kubernetes/pkg/apis/{core,apps,discovery}/v1/defaults.go.

mod autoscaling;
mod job;
mod limits;
mod pod;
mod service;
mod storage;

use serde_json::{Map, Value, json};

use crate::catalogue::{
    API_SERVICES, CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CRON_JOBS, CSI_DRIVERS, DAEMON_SETS, DEPLOYMENTS,
    ENDPOINT_SLICES, ENDPOINTS, HORIZONTAL_POD_AUTOSCALERS, INGRESS_CLASSES, JOBS, Kind, LIMIT_RANGES,
    NAMESPACES, NETWORK_POLICIES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, POD_TEMPLATES, PODS,
    PRIORITY_CLASSES, REPLICA_SETS, REPLICATION_CONTROLLERS, ROLE_BINDINGS, ROLES, SECRETS, SERVICES,
    STATEFUL_SETS, STORAGE_CLASSES,
};
use crate::meta::{map_at, map_of, name};

/// Fills in the defaults of an object of this kind.
pub fn apply(kind: &Kind, object: &mut Value) {
    let kind_is = |other: &'static Kind| *kind == *other;
    if kind_is(&PODS) {
        pod::pod(map_of(object));
    } else if kind_is(&SERVICES) {
        service::service(map_of(object));
    } else if kind_is(&PERSISTENT_VOLUME_CLAIMS) {
        storage::claim(map_of(object));
    } else if kind_is(&PERSISTENT_VOLUMES) {
        storage::volume(map_of(object));
    } else if kind_is(&STORAGE_CLASSES) {
        storage::class(map_of(object));
    } else if kind_is(&CSI_DRIVERS) {
        storage::driver(map_at(map_of(object), "spec"));
    } else if kind_is(&DEPLOYMENTS) {
        deployment(map_at(map_of(object), "spec"));
    } else if kind_is(&REPLICA_SETS) {
        replica_set(map_of(object));
    } else if kind_is(&REPLICATION_CONTROLLERS) {
        replication_controller(map_of(object));
    } else if kind_is(&DAEMON_SETS) {
        daemon_set(map_at(map_of(object), "spec"));
    } else if kind_is(&STATEFUL_SETS) {
        stateful_set(map_at(map_of(object), "spec"));
    } else if kind_is(&HORIZONTAL_POD_AUTOSCALERS) {
        autoscaling::autoscaler(map_at(map_of(object), "spec"));
    } else if kind_is(&API_SERVICES) {
        if let Some(service) = object.pointer_mut("/spec/service").and_then(Value::as_object_mut) {
            set(service, "port", json!(443));
        }
    } else if kind_is(&JOBS) {
        job::job(map_at(map_of(object), "spec"));
    } else if kind_is(&CRON_JOBS) {
        job::cron_job(map_at(map_of(object), "spec"));
    } else if kind_is(&POD_TEMPLATES) {
        template(map_of(object));
    } else if kind_is(&PRIORITY_CLASSES) {
        set(map_of(object), "preemptionPolicy", json!("PreemptLowerPriority"));
    } else if kind_is(&INGRESS_CLASSES) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters").and_then(Value::as_object_mut) {
            set(parameters, "scope", json!("Cluster"));
        }
    } else if kind_is(&LIMIT_RANGES) {
        limits::limit_range(map_at(map_of(object), "spec"));
    } else if kind_is(&NAMESPACES) {
        namespace(object);
    } else if kind_is(&SECRETS) {
        secret(map_of(object));
    } else if kind_is(&ENDPOINTS) {
        endpoints(object);
    } else if kind_is(&NETWORK_POLICIES) {
        network_policy(map_at(map_of(object), "spec"));
    } else if kind_is(&CLUSTER_ROLES) || kind_is(&ROLES) {
        // Upstream never leaves them out.
        set(map_of(object), "rules", Value::Null);
    } else if kind_is(&CLUSTER_ROLE_BINDINGS) || kind_is(&ROLE_BINDINGS) {
        role_binding(map_of(object));
    } else if kind_is(&ENDPOINT_SLICES) {
        for port in items(map_of(object), "ports") {
            set(port, "name", json!(""));
            set(port, "protocol", json!("TCP"));
        }
    }
}

/// Fills in what follows from the name and uid that a new object was given.
pub fn identify(kind: &Kind, object: &mut Value) {
    if *kind == JOBS {
        job::identify(object);
    }
}

/// Fills in the defaults of a Job's spec that is still a template.
pub fn job_spec(spec: &mut Value) {
    job::job(map_of(spec));
}

/// Sets a field that is absent or null.
fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value);
    }
}

/// The maps in a list; everything else in it is validation's business.
fn items<'v>(map: &'v mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'v mut Map<String, Value>> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// k8s.io/kubernetes/pkg/apis/rbac/v1/defaults.go
fn role_binding(object: &mut Map<String, Value>) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let unset =
        |map: &Map<String, Value>| map.get("apiGroup").and_then(Value::as_str).unwrap_or("").is_empty();
    for subject in items(object, "subjects").filter(|subject| unset(subject)) {
        let named = subject.get("kind").and_then(Value::as_str).unwrap_or("").to_owned();
        if named == "User" || named == "Group" {
            subject.insert("apiGroup".to_owned(), json!(GROUP));
        }
    }
    let role = map_at(object, "roleRef");
    if unset(role) {
        role.insert("apiGroup".to_owned(), json!(GROUP));
    }
}

fn network_policy(spec: &mut Map<String, Value>) {
    for rules in ["ingress", "egress"] {
        for rule in items(spec, rules) {
            items(rule, "ports").for_each(|port| set(port, "protocol", json!("TCP")));
        }
    }
    // Whoever writes rules for what goes means them (k8s.io/kubernetes/pkg/apis/networking/v1/defaults.go).
    let goes = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let types = if goes { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        spec.insert("policyTypes".to_owned(), types);
    }
}

fn deployment(spec: &mut Map<String, Value>) {
    set(spec, "replicas", json!(1));
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "progressDeadlineSeconds", json!(600));
    let strategy = map_at(spec, "strategy");
    set(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        let rolling = map_at(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", json!("25%"));
        set(rolling, "maxSurge", json!("25%"));
    }
    template(spec);
}

fn replica_set(object: &mut Map<String, Value>) {
    let spec = map_at(object, "spec");
    set(spec, "replicas", json!(1));
    template(spec);
}

/// The template's labels stand for what is not said.
fn replication_controller(object: &mut Map<String, Value>) {
    let empty = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(Map::is_empty);
    let spec = map_at(object, "spec");
    set(spec, "replicas", json!(1));
    template(spec);
    let labels = spec.get("template").and_then(|t| t["metadata"].get("labels")).cloned();
    let Some(labels) = labels.filter(|labels| !empty(Some(labels))) else { return };
    if empty(spec.get("selector")) {
        spec.insert("selector".to_owned(), labels.clone());
    }
    let metadata = map_at(object, "metadata");
    if empty(metadata.get("labels")) {
        metadata.insert("labels".to_owned(), labels);
    }
}

fn daemon_set(spec: &mut Map<String, Value>) {
    set(spec, "revisionHistoryLimit", json!(10));
    let strategy = map_at(spec, "updateStrategy");
    set(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        let rolling = map_at(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", json!(1));
        set(rolling, "maxSurge", json!(0));
    }
    template(spec);
}

fn stateful_set(spec: &mut Map<String, Value>) {
    set(spec, "replicas", json!(1));
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "podManagementPolicy", json!("OrderedReady"));
    let strategy = map_at(spec, "updateStrategy");
    if strategy.get("type").is_none_or(Value::is_null) {
        strategy.insert("type".to_owned(), json!("RollingUpdate"));
        map_at(strategy, "rollingUpdate");
    }
    if strategy["type"] == "RollingUpdate"
        && let Some(rolling) = strategy.get_mut("rollingUpdate").and_then(Value::as_object_mut)
    {
        set(rolling, "partition", json!(0));
    }
    let retention = map_at(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", json!("Retain"));
    set(retention, "whenScaled", json!("Retain"));
    for claim in items(spec, "volumeClaimTemplates") {
        set(claim, "apiVersion", json!("v1"));
        set(claim, "kind", json!("PersistentVolumeClaim"));
        set(map_at(claim, "metadata"), "creationTimestamp", Value::Null);
        storage::claim(claim);
    }
    template(spec);
}

fn template(spec: &mut Map<String, Value>) {
    if let Some(template) = spec.get_mut("template").and_then(Value::as_object_mut) {
        let metadata = map_at(template, "metadata");
        set(metadata, "creationTimestamp", Value::Null);
        pod::spec(map_at(template, "spec"));
    }
}

fn namespace(object: &mut Value) {
    let name = name(object).to_owned();
    let object = map_of(object);
    let spec = map_at(object, "spec");
    if !spec.contains_key("finalizers") {
        spec.insert("finalizers".to_owned(), json!(["kubernetes"]));
    }
    if !name.is_empty() {
        map_at(map_at(object, "metadata"), "labels")
            .insert("kubernetes.io/metadata.name".to_owned(), json!(name));
    }
}

fn secret(object: &mut Map<String, Value>) {
    use base64::Engine as _;
    set(object, "type", json!("Opaque"));
    // stringData is written only: it ends in data.
    if let Some(Value::Object(strings)) = object.shift_remove("stringData") {
        let data = map_at(object, "data");
        for (key, value) in strings {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or(""));
            data.insert(key, json!(encoded));
        }
    }
}

fn endpoints(object: &mut Value) {
    for subset in items(map_of(object), "subsets") {
        for port in items(subset, "ports") {
            set(port, "protocol", json!("TCP"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::KINDS;

    #[test]
    fn defaults_are_idempotent_for_every_kind() {
        let object = json!({
            "metadata": {"name": "a"},
            "stringData": {"k": "v"},
            "spec": {"ports": [{"port": 80}], "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}},
                     "containers": [{"name": "c", "image": "i:1", "ports": [{"containerPort": 80}]}]},
        });
        for kind in KINDS {
            let mut once = object.clone();
            apply(kind, &mut once);
            let mut twice = once.clone();
            apply(kind, &mut twice);
            assert_eq!(once, twice, "{kind:?}");
        }
    }

    #[test]
    fn a_deployment_is_what_kube_apiserver_would_write() {
        let mut object =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "nginx"}]}}}});
        apply(&DEPLOYMENTS, &mut object);
        let spec = &object["spec"];
        assert_eq!(spec["replicas"], 1);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        let container = &spec["template"]["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always", "no tag means latest");
        assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    }

    #[test]
    fn secrets_keep_string_data_as_data_only() {
        let mut object = json!({"stringData": {"k": "v"}, "data": {"k": "b2xk"}});
        apply(&SECRETS, &mut object);
        assert_eq!(object, json!({"data": {"k": "dg=="}, "type": "Opaque"}));
    }
}
