//! Rights of containers that the node has to see to: users that must not be root, and calls of the kernel.
//!
//! Source: k8s.io/kubernetes/pkg/kubelet/kuberuntime (verifyRunAsNonRoot).

use oarlock_api::k8s::api::core::v1::{Container, Pod, PodSpec};

use crate::runtime::Image;

/// Refuses a container that would run as root, or as nobody knows whom, though it must not.
pub(super) fn check_user(
    pod: &Pod,
    spec: &PodSpec,
    definition: &Container,
    image: &Image,
) -> Result<(), String> {
    let (own, of_pod) = (definition.security_context.as_ref(), spec.security_context.as_ref());
    let must = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    if must != Some(true) {
        return Ok(());
    }
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let of_image = image.user.split(':').next().unwrap_or("");
    let why = match (user, of_image.parse::<i64>()) {
        (Some(0), _) => "container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, Ok(0)) => "container has runAsNonRoot and image will run as root".to_owned(),
        (None, Ok(_)) => return Ok(()),
        (None, Err(_)) if of_image.is_empty() => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        (None, Err(_)) => format!(
            "container has runAsNonRoot and image has non-numeric user ({of_image}), cannot verify user is non-root"
        ),
    };
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let shown = format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid));
    Err(format!("{why} (pod: {shown:?}, container: {})", definition.name))
}

/// Whether the container is to go without Docker's filter of system calls; it has that when nothing is said.
pub(super) fn is_unconfined(spec: &PodSpec, definition: &Container) -> bool {
    let own = definition.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let of_pod = spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    own.or(of_pod).is_some_and(|profile| profile.type_ == "Unconfined")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(of_pod: Value, own: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u1"},
            "spec": {"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}}))
        .unwrap()
    }

    fn refusal(of_pod: Value, own: Value, user: &str) -> Option<String> {
        let pod = pod(of_pod, own);
        let spec = pod.spec.as_ref().unwrap();
        let image = Image { id: String::new(), user: user.to_owned() };
        check_user(&pod, spec, &spec.containers[0], &image).err()
    }

    #[test]
    fn who_must_not_be_root_is_not() {
        let must = || json!({"runAsNonRoot": true});
        let shown = "(pod: \"p_d(u1)\", container: c)";
        for (of_pod, own, user, said) in [
            (json!({}), json!({}), "", None),
            (must(), json!({"runAsNonRoot": false}), "", None),
            (must(), json!({}), "1000", None),
            (must(), json!({}), "1000:0", None),
            (must(), json!({"runAsUser": 7}), "", None),
            (must(), json!({}), "", Some("container has runAsNonRoot and image will run as root")),
            (json!({}), must(), "0:5", Some("container has runAsNonRoot and image will run as root")),
            (must(), json!({"runAsUser": 0}), "7", Some("container's runAsUser breaks non-root policy")),
            (
                must(),
                json!({}),
                "www:www",
                Some(
                    "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root",
                ),
            ),
        ] {
            assert_eq!(refusal(of_pod, own, user), said.map(|said| format!("{said} {shown}")));
        }
    }

    #[test]
    fn the_containers_own_profile_comes_first() {
        let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
        for (of_pod, own, expected) in [
            (json!({}), json!({}), false),
            (profile("Unconfined"), json!({}), true),
            (profile("Unconfined"), profile("RuntimeDefault"), false),
            (profile("RuntimeDefault"), profile("Unconfined"), true),
        ] {
            let pod = pod(of_pod, own);
            let spec = pod.spec.as_ref().unwrap();
            assert_eq!(is_unconfined(spec, &spec.containers[0]), expected);
        }
    }
}
