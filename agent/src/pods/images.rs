//! The image of a container: is it here, must it be fetched, with kubelet's reasons and events.

use std::sync::Arc;
use std::time::Instant;

use oarlock_api::k8s::api::core::v1::{Container, Pod};

use super::worker::{Message, Worker};
use super::{Shared, report};
use crate::plan::credentials;
use crate::runtime::{Image, RuntimeError};

/// Starts to look for the image; the worker hears how it went.
pub(super) fn ensure(worker: &Worker, definition: &Container) {
    let (shared, pod) = (Arc::clone(&worker.shared), Arc::clone(&worker.pod));
    let definition = definition.clone();
    worker.job("pod/image", async move {
        let outcome = find(&shared, &pod, &definition).await;
        Message::Image { container: definition.name, outcome }
    });
}

async fn find(shared: &Shared, pod: &Pod, definition: &Container) -> Result<Image, (String, String)> {
    let name = definition.image.as_deref().unwrap_or_default();
    let event = |kind: &str, reason: &str, message: &str| {
        report::event(&shared.outbox, pod, Some(&definition.name), kind, reason, message);
    };
    let present =
        shared.runtime.image(name).await.map_err(|e| ("ImageInspectError".to_owned(), e.to_string()))?;
    let policy = definition.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(name));
    match (policy, present) {
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            event("Warning", "ErrImageNeverPull", &message);
            event("Warning", "Failed", "Error: ErrImageNeverPull");
            return Err(("ErrImageNeverPull".to_owned(), message));
        }
        ("Never" | "IfNotPresent", Some(image)) => {
            event("Normal", "Pulled", &format!("Container image \"{name}\" already present on machine"));
            return Ok(image);
        }
        _ => {}
    }
    event("Normal", "Pulling", &format!("Pulling image \"{name}\""));
    let begun = Instant::now();
    let failed = |cause: String| {
        event("Warning", "Failed", &format!("Failed to pull image \"{name}\": {cause}"));
        event("Warning", "Failed", "Error: ErrImagePull");
        ("ErrImagePull".to_owned(), cause)
    };
    if let Err(error) = pull(shared, pod, name).await {
        return Err(failed(error.to_string()));
    }
    match shared.runtime.image(name).await {
        Ok(Some(image)) => {
            let took = begun.elapsed().as_millis();
            event("Normal", "Pulled", &format!("Successfully pulled image \"{name}\" in {took}ms"));
            Ok(image)
        }
        Ok(None) => Err(failed("the image is not there after it was pulled".to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Fetches it as somebody whom the pod's Secrets name for the registry, one after the other; without any, as nobody.
async fn pull(shared: &Shared, pod: &Pod, name: &str) -> Result<(), RuntimeError> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let snapshot = shared.snapshot();
    let secrets: Vec<_> =
        named.filter_map(|one| snapshot.secrets.get(&(namespace.clone(), one.name.clone()))).collect();
    if secrets.is_empty() {
        return shared.runtime.pull(name, None).await;
    }
    let index = shared.runtime.version().await?.index;
    let known = credentials::of_image(name, &index, secrets.into_iter().map(|secret| &**secret));
    let mut outcome = None;
    for one in &known {
        match shared.runtime.pull(name, Some(one)).await {
            Ok(()) => return Ok(()),
            Err(error) => outcome = Some(error),
        }
    }
    match outcome {
        Some(error) => Err(error),
        None => shared.runtime.pull(name, None).await,
    }
}

/// `Always` for `latest`, as the API server defaults it.
fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}
