//! What every cluster has of this from its first moment: APIServices of what the control plane answers itself, and by what others know
//! who asks them.
//!
//! Source: k8s.io/kube-aggregator/pkg/controllers/autoregister, k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy.

use oarlock_api::aggregation::{self, AUTO_MANAGED};
use oarlock_api::catalogue::{API_SERVICES, ROLE_BINDINGS, ROLES};
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::identity::publish;
use crate::registry::{DeleteOptions, Registry, Sub, WriteOptions};

/// Who may read by what others know us: to be bound to the accounts of those who answer.
const READER: &str = "extension-apiserver-authentication-reader";

/// Makes all of it, and sets right what is there. Repeated at every start.
///
/// # Errors
/// The store is away.
pub(crate) async fn bootstrap(registry: &Registry, client_ca: &str, front_ca: &str) -> Result<(), Status> {
    publish(registry, client_ca, front_ca).await?;
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    let annotations = json!({"rbac.authorization.kubernetes.io/autoupdate": "true"});
    let role = json!({
        "metadata": {"name": READER, "labels": labels, "annotations": annotations},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"],
            "resourceNames": ["extension-apiserver-authentication"]}],
    });
    let user = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
    let binding = json!({
        "metadata": {"name": format!("system::{READER}"), "labels": labels, "annotations": annotations},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": READER},
        "subjects": [user("system:kube-controller-manager"), user("system:kube-scheduler")],
    });
    for (kind, object) in [(&ROLES, role), (&ROLE_BINDINGS, binding)] {
        registry.ensure(kind, "kube-system", object).await?;
    }
    register(registry).await
}

/// The APIServices of what is answered here: those that we manage are set right, those of older versions go.
async fn register(registry: &Registry) -> Result<(), Status> {
    let wanted = aggregation::local(registry.cache().catalogue());
    for object in &wanted {
        registry.ensure(&API_SERVICES, "", object.clone()).await?;
    }
    registry.catch_up().await?;
    for present in registry.cache().list(&API_SERVICES, None).0 {
        if present.label(AUTO_MANAGED) != Some("onstart") {
            continue;
        }
        let name = &present.key.name;
        match wanted.iter().find(|object| meta::name(object) == name) {
            None => drop(registry.delete(&API_SERVICES, "", name, &DeleteOptions::default()).await?),
            Some(object) if object["spec"] != present.value()["spec"] => {
                let reset = |mut present: Value| {
                    present["spec"] = object["spec"].clone();
                    Ok(present)
                };
                let options = WriteOptions::default();
                registry.modify(&API_SERVICES, "", name, Sub::Main, &options, reset).await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::fixture;

    #[tokio::test]
    async fn what_we_manage_is_set_right_and_what_others_bring_stays() {
        let fixture = fixture().await;
        let registry = &fixture.registry;
        let made = json!({"metadata": {"name": "kube-system"}});
        let options = WriteOptions::default();
        registry.create(&oarlock_api::catalogue::NAMESPACES, "", made, &options).await.unwrap();
        let service = json!({"namespace": "d", "name": "metrics-server", "port": 443});
        let spec = |group: &str, version: &str| json!({"group": group, "version": version, "groupPriorityMinimum": 7, "versionPriority": 7});
        let mut brought = json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": spec("metrics.k8s.io", "v1beta1")});
        brought["spec"]["service"] = service;
        let old = json!({"metadata": {"name": "v1alpha1.apps", "labels": {AUTO_MANAGED: "onstart"}}, "spec": spec("apps", "v1alpha1")});
        let changed = json!({"metadata": {"name": "v1.apps", "labels": {AUTO_MANAGED: "onstart"}}, "spec": spec("apps", "v1")});
        for object in [brought, old, changed] {
            registry.create(&API_SERVICES, "", object, &options).await.unwrap();
        }
        for _ in 0..2 {
            bootstrap(registry, "clients", "front").await.unwrap();
        }
        let get = |name: &'static str| registry.get(&API_SERVICES, "", name);
        assert_eq!(get("v1.apps").await.unwrap()["spec"]["groupPriorityMinimum"], 17_800);
        assert!(get("v1alpha1.apps").await.unwrap_err().is("NotFound"));
        assert_eq!(get("v1beta1.metrics.k8s.io").await.unwrap()["spec"]["service"]["name"], "metrics-server");
        let batch = get("v1.batch").await.unwrap();
        assert_eq!(batch["status"]["conditions"][0]["reason"], "Local");
        assert!(registry.get(&ROLES, "kube-system", READER).await.is_ok());
    }
}
