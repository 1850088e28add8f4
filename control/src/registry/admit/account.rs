//! The ServiceAccount of a pod: it must exist, and its token is mounted unless pod or account say not to.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/serviceaccount.

use std::time::Duration;

use oarlock_api::catalogue::{PODS, SERVICE_ACCOUNTS};
use oarlock_api::meta;
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::super::Registry;

const DEFAULT: &str = "default";
const PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access-";
/// A little over an hour, so that nobody takes it for an hour.
const LIFE: i64 = 3607;
/// A new namespace's account comes a moment after it.
const TRIES: usize = 10;
const BETWEEN: Duration = Duration::from_millis(150);

impl Registry {
    /// The account that a pod runs as.
    pub(super) async fn account_of(&self, namespace: &str, pod: &Value) -> Result<Value, Status> {
        let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or(DEFAULT);
        let tries = if name == DEFAULT { TRIES } else { 1 };
        for attempt in 1..=tries {
            if let Some(account) = self.cache.get(&SERVICE_ACCOUNTS, namespace, name) {
                return Ok(Value::clone(&account.value()));
            }
            match self.get(&SERVICE_ACCOUNTS, namespace, name).await {
                Err(status) if status.is("NotFound") && attempt < tries => tokio::time::sleep(BETWEEN).await,
                Err(status) if !status.is("NotFound") => return Err(status),
                Err(_) => {}
                found => return found,
            }
        }
        let why =
            format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found");
        Err(Status::forbidden(&PODS, meta::name(pod), &why))
    }
}

/// What a node runs for itself runs as nobody of the cluster.
pub(super) fn check_mirror(pod: &Value) -> Result<(), Status> {
    match static_pod::foreign(&pod["spec"]) {
        None => Ok(()),
        Some(what) => {
            let why = format!("a mirror pod may not reference {what}");
            Err(Status::forbidden(&PODS, meta::name(pod), &why))
        }
    }
}

/// A pod that names no Secrets for its images has those of its account.
pub(super) fn add_pull_secrets(account: &Value, pod: &mut Value) {
    let none = pod["spec"]["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
    if let (true, Some(secrets)) = (none, account["imagePullSecrets"].as_array().filter(|s| !s.is_empty())) {
        pod["spec"]["imagePullSecrets"] = json!(secrets);
    }
}

/// Gives every container the token, the cluster's CA and the namespace, where it has nothing at their place.
pub(super) fn mount_token(account: &Value, pod: &mut Value, seed: u64) {
    let wish = |object: &Value| object["automountServiceAccountToken"].as_bool();
    if !wish(&pod["spec"]).or(wish(account)).unwrap_or(true) {
        return;
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let own = volumes.filter_map(|volume| volume["name"].as_str()).find(|name| name.starts_with(VOLUME));
    let (name, there) = match own {
        Some(name) => (name.to_owned(), true),
        None => (meta::generate_name(VOLUME, seed), false),
    };
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        for container in pod["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            mounted |= mount(container, &name);
        }
    }
    if mounted && !there {
        push(&mut pod["spec"], "volumes", volume(&name));
    }
}

/// Whether the container had nothing there yet.
fn mount(container: &mut Value, volume: &str) -> bool {
    let mounts = container["volumeMounts"].as_array();
    if !container.is_object() || mounts.into_iter().flatten().any(|mount| mount["mountPath"] == PATH) {
        return false;
    }
    push(container, "volumeMounts", json!({"name": volume, "readOnly": true, "mountPath": PATH}));
    true
}

fn push(object: &mut Value, field: &str, value: Value) {
    if !object[field].is_array() {
        object[field] = json!([]);
    }
    object[field].as_array_mut().into_iter().for_each(|list| list.push(value.clone()));
}

fn volume(name: &str) -> Value {
    let namespace =
        json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    json!({"name": name, "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": LIFE, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ], "defaultMode": 0o644}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(account: Value, spec: Value) -> Value {
        let mut pod = json!({"spec": spec});
        mount_token(&account, &mut pod, 1);
        pod["spec"].clone()
    }

    #[test]
    fn every_container_gets_the_token_at_its_place() {
        let elsewhere = json!({"name": "b", "volumeMounts": [{"name": "own", "mountPath": PATH}]});
        let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}, elsewhere]});
        let spec = mounted(json!({}), spec);
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with(VOLUME) && name.len() == VOLUME.len() + 5, "{name}");
        let mount = json!([{"name": name, "readOnly": true, "mountPath": PATH}]);
        assert_eq!(
            (&spec["initContainers"][0]["volumeMounts"], &spec["containers"][0]["volumeMounts"]),
            (&mount, &mount)
        );
        assert_eq!(spec["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
        let again = mounted(json!({}), spec.clone());
        assert_eq!(again, spec, "once");
    }

    #[test]
    fn the_accounts_secrets_are_those_of_pods_that_name_none() {
        let account = json!({"imagePullSecrets": [{"name": "login"}]});
        let with = |spec: Value| {
            let mut pod = json!({"spec": spec});
            add_pull_secrets(&account, &mut pod);
            pod["spec"]["imagePullSecrets"].clone()
        };
        assert_eq!(with(json!({})), account["imagePullSecrets"]);
        assert_eq!(with(json!({"imagePullSecrets": [{"name": "own"}]})), json!([{"name": "own"}]));
    }

    #[test]
    fn pod_and_then_account_may_say_not_to() {
        let pod = |wish: Value| json!({"automountServiceAccountToken": wish, "containers": [{"name": "a"}]});
        let account = |wish: Value| json!({"automountServiceAccountToken": wish});
        for (account_says, pod_says, expected) in [
            (Value::Null, Value::Null, true),
            (json!(false), Value::Null, false),
            (json!(false), json!(true), true),
            (json!(true), json!(false), false),
        ] {
            let spec = mounted(account(account_says), pod(pod_says));
            assert_eq!(spec["volumes"].is_array(), expected, "{spec}");
        }
        let full = json!({"containers": [{"name": "a", "volumeMounts": [{"name": "x", "mountPath": PATH}]}]});
        assert!(mounted(json!({}), full)["volumes"].is_null(), "nobody needs it");
    }
}
