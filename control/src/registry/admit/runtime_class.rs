//! What the RuntimeClass of a pod makes of it: what running it costs beside its containers, and where it can run.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/runtimeclass.

use std::sync::Arc;

use oarlock_api::catalogue::{PODS, RUNTIME_CLASSES};
use oarlock_api::limits::amounts;
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::super::Registry;

impl Registry {
    /// Completes a new pod by its RuntimeClass, or refuses it.
    pub(super) async fn classify(&self, pod: &mut Value) -> Result<(), Status> {
        let name = pod["spec"]["runtimeClassName"].as_str().unwrap_or("").to_owned();
        let forbidden = |pod: &Value, why: &str| Status::forbidden(&PODS, meta::name(pod), why);
        let class = if name.is_empty() {
            None
        } else {
            // The cache may be behind: only the store knows that there is none.
            match self.cache.get(&RUNTIME_CLASSES, "", &name) {
                Some(class) => Some(class.value()),
                None => match self.get(&RUNTIME_CLASSES, "", &name).await {
                    Ok(class) => Some(Arc::new(class)),
                    Err(status) if status.is("NotFound") => {
                        return Err(forbidden(
                            pod,
                            &format!("pod rejected: RuntimeClass {name:?} not found"),
                        ));
                    }
                    Err(status) => return Err(status),
                },
            }
        };
        complete(&mut pod["spec"], class.as_deref()).map_err(|why| forbidden(pod, &why))
    }
}

fn complete(spec: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let stated = spec["overhead"].as_object().is_some_and(|overhead| !overhead.is_empty());
    let fixed = class.map_or(&Value::Null, |class| &class["overhead"]["podFixed"]);
    if stated && fixed.is_null() {
        return Err(
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned()
        );
    }
    if !fixed.is_null() {
        if stated && amounts(&spec["overhead"]) != amounts(fixed) {
            return Err(
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned()
            );
        }
        spec["overhead"] = fixed.clone();
    }
    let Some(scheduling) =
        class.map(|class| &class["scheduling"]).filter(|scheduling| scheduling.is_object())
    else {
        return Ok(());
    };
    for (label, value) in scheduling["nodeSelector"].as_object().into_iter().flatten() {
        let own = spec["nodeSelector"].get(label).filter(|own| *own != value);
        if let Some(own) = own {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {}; pod.spec.nodeSelector[{label}] = {}",
                text(value),
                text(own)
            ));
        }
        meta::map_at(meta::map_of(spec), "nodeSelector").insert(label.clone(), value.clone());
    }
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for toleration in scheduling["tolerations"].as_array().into_iter().flatten() {
        if !tolerations.contains(toleration) {
            tolerations.push(toleration.clone());
        }
    }
    if !tolerations.is_empty() {
        spec["tolerations"] = json!(tolerations);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_says_what_a_pod_costs_and_where_it_runs() {
        let bears = json!({"key": "sandboxed", "operator": "Exists"});
        let class = json!({"handler": "h", "overhead": {"podFixed": {"cpu": "250m"}},
            "scheduling": {"nodeSelector": {"sandbox": "yes"}, "tolerations": [bears]}});
        let done = |mut spec: Value, class: Option<&Value>| complete(&mut spec, class).map(|()| spec);
        let whole =
            json!({"overhead": {"cpu": "250m"}, "nodeSelector": {"sandbox": "yes"}, "tolerations": [bears]});
        assert_eq!(done(json!({}), Some(&class)), Ok(whole.clone()));
        assert_eq!(done(whole.clone(), Some(&class)), Ok(whole), "what it has already stays");
        assert!(done(json!({"overhead": {"cpu": "0.25"}}), Some(&class)).is_ok(), "it is the same amount");
        assert_eq!(done(json!({"a": 1}), None), Ok(json!({"a": 1})));
        assert_eq!(done(json!({}), Some(&json!({"handler": "h"}))), Ok(json!({})));
        for (spec, class, expected) in [
            (json!({"overhead": {"cpu": "1"}}), Some(&class), "pod rejected: Pod's Overhead doesn't match"),
            (json!({"overhead": {"cpu": "1"}}), None, "pod rejected: Pod Overhead set without"),
            (
                json!({"nodeSelector": {"sandbox": "no"}}),
                Some(&class),
                "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no",
            ),
        ] {
            let why = done(spec, class).unwrap_err();
            assert!(why.starts_with(expected), "{why}");
        }
    }
}
