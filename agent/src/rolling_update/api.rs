//! ReplicationControllers and their pods over the API server, with kubectl's own credentials.

use std::path::Path;

use anyhow::{Context as _, bail};
use http::Method;
use kube::Client;
use serde_json::{Value, json};

use crate::plugin;

/// The ReplicationControllers of a namespace.
pub(super) struct Api {
    client: Client,
    namespace: String,
}

impl Api {
    pub(super) async fn open(
        kubeconfig: Option<&Path>,
        context: Option<String>,
        namespace: Option<String>,
    ) -> anyhow::Result<Self> {
        let client = plugin::client(kubeconfig, context).await?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Self { client, namespace })
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// One controller, if it is there.
    pub(super) async fn find(&self, name: &str) -> anyhow::Result<Option<Value>> {
        self.send(Method::GET, &format!("replicationcontrollers/{name}"), None).await
    }

    /// One controller.
    pub(super) async fn get(&self, name: &str) -> anyhow::Result<Value> {
        self.find(name).await?.with_context(|| format!("replicationcontrollers \"{name}\" not found"))
    }

    pub(super) async fn create(&self, controller: &Value) -> anyhow::Result<Value> {
        let created = self.send(Method::POST, "replicationcontrollers", Some(controller)).await?;
        created.with_context(|| format!("the namespace \"{}\" is gone", self.namespace))
    }

    /// Changes a controller by a merge patch.
    pub(super) async fn patch(&self, name: &str, patch: &Value) -> anyhow::Result<Value> {
        let patched =
            self.send(Method::PATCH, &format!("replicationcontrollers/{name}"), Some(patch)).await?;
        patched.with_context(|| format!("replicationcontrollers \"{name}\" not found"))
    }

    /// Deletes a controller; its pods go with it, or stay without an owner.
    pub(super) async fn delete(&self, controller: &Value, keep_pods: bool) -> anyhow::Result<()> {
        let policy = if keep_pods { "Orphan" } else { "Background" };
        let name = super::name(controller);
        let options = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy,
            "preconditions": {"uid": controller["metadata"]["uid"]},
        });
        self.send(Method::DELETE, &format!("replicationcontrollers/{name}"), Some(&options)).await.map(drop)
    }

    /// The pods with all of these labels.
    pub(super) async fn pods(&self, labels: &Value) -> anyhow::Result<Vec<Value>> {
        let pairs = labels.as_object().into_iter().flatten();
        let selector: Vec<String> =
            pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("labelSelector", &selector.join(","))
            .finish();
        let list = self.send(Method::GET, &format!("pods?{query}"), None).await?.unwrap_or_default();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Changes a pod by a merge patch; one that is gone is left alone.
    pub(super) async fn patch_pod(&self, name: &str, patch: &Value) -> anyhow::Result<()> {
        self.send(Method::PATCH, &format!("pods/{name}"), Some(patch)).await.map(drop)
    }

    pub(super) async fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        self.send(Method::DELETE, &format!("pods/{name}"), None).await.map(drop)
    }

    /// What the API server answers; `None` when there is no such object.
    async fn send(&self, method: Method, rest: &str, body: Option<&Value>) -> anyhow::Result<Option<Value>> {
        let path = format!("/api/v1/namespaces/{}/{rest}", self.namespace);
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(&path).header("Content-Type", kind);
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        match self.client.request(request.body(body)?).await {
            Ok(answer) => Ok(Some(answer)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            // The sentence that is meant for people.
            Err(kube::Error::Api(status)) if !status.message.is_empty() => bail!(status.message.clone()),
            Err(error) => Err(error).with_context(|| format!("cannot reach {path}")),
        }
    }
}
