//! What a worker says to the control plane: statuses, events, and that nothing is left.

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use oarlock_api::k8s::api::core::v1::{Pod, PodStatus};
use oarlock_api::node::EventReport;
use serde_json::json;

use crate::outbox::Outbox;

/// Says a status; the outbox drops one that was said before.
pub(super) fn status(outbox: &Outbox, pod: &Pod, status: &PodStatus) {
    let (namespace, name, uid) = names(pod);
    match serde_json::to_vec(status) {
        Ok(json) => outbox.pod_status(&namespace, &name, &uid, Bytes::from(json)),
        Err(error) => tracing::error!(pod = %name, %error, "status cannot be encoded"),
    }
}

/// Says that nothing is left of the pod.
pub(super) fn gone(outbox: &Outbox, pod: &Pod) {
    let (namespace, name, uid) = names(pod);
    outbox.pod_gone(&namespace, &name, &uid);
}

/// Says an event, of a container or of the whole pod.
pub(super) fn event(
    outbox: &Outbox,
    pod: &Pod,
    container: Option<&str>,
    kind: &str,
    reason: &str,
    message: &str,
) {
    let (namespace, name, uid) = names(pod);
    if name.is_empty() {
        return;
    }
    let mut object = json!({
        "kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": name, "uid": uid,
    });
    if let (Some(container), Some(object)) = (container, object.as_object_mut()) {
        let inits = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref());
        let is_init = inits.is_some_and(|i| i.iter().any(|c| c.name == container));
        let field = if is_init { "spec.initContainers" } else { "spec.containers" };
        object.insert("fieldPath".to_owned(), json!(format!("{field}{{{container}}}")));
    }
    tracing::info!(pod = %format!("{namespace}/{name}"), reason, message, "event");
    outbox.event(EventReport {
        involved_object: object.to_string().into_bytes().into(),
        r#type: kind.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        component: "kubelet".to_owned(),
    });
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.ends_with(&said) {
            let _ = write!(text, ": {said}");
        }
        cause = next.source();
    }
    text
}

fn names(pod: &Pod) -> (String, String, String) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    (text(&meta.namespace), text(&meta.name), text(&meta.uid))
}
