//! Who a container runs as and what the kernel lets it do; pods that this node cannot take for that.
//!
//! Source: kubelet's pkg/kubelet/kuberuntime/security_context.go, pkg/kubelet/sysctl, and its admit handlers.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use oarlock_api::k8s::api::core::v1::{Container, Pod, PodSpec};

use super::memory::PodEnd;
use crate::runtime::{Image, Seccomp};

/// Parameters that belong to the pod alone and cannot hurt others.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Which system calls a container may make; a profile is a file below the node's folder of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As the runtime has it.
    Known(Seccomp),
    /// A file, by its path in the folder.
    File(PathBuf),
}

/// The container's own profile, else the pod's. Without any: the runtime's, as of a kubelet with `--seccomp-default`.
pub(crate) fn seccomp(spec: &PodSpec, container: &Container) -> Result<Profile, String> {
    let own = container.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let of_pod = spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let Some(profile) = own.or(of_pod) else { return Ok(Profile::Known(Seccomp::RuntimeDefault)) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Profile::Known(Seccomp::Unconfined)),
        "Localhost" => {
            let file = PathBuf::from(profile.localhost_profile.as_deref().unwrap_or_default());
            // The API server refuses such paths; whoever wrote this one did not ask it.
            let stays = file.components().all(|part| matches!(part, Component::Normal(_)));
            if stays && file != Path::new("") {
                Ok(Profile::File(file))
            } else {
                Err(format!("invalid localhostProfile: {}", file.display()))
            }
        }
        _ => Ok(Profile::Known(Seccomp::RuntimeDefault)),
    }
}

/// The AppArmor profile in the runtime's words; none: its own.
pub(crate) fn apparmor(spec: &PodSpec, container: &Container) -> Option<String> {
    let own = container.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
    let profile = own.or(spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref()))?;
    match profile.type_.as_str() {
        "Unconfined" => Some("unconfined".to_owned()),
        "Localhost" => profile.localhost_profile.clone(),
        _ => None,
    }
}

/// Parts of the SELinux label in the runtime's words.
pub(crate) fn selinux(spec: &PodSpec, container: &Container) -> Vec<String> {
    let own = container.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref());
    let Some(options) = own.or(spec.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref()))
    else {
        return Vec::new();
    };
    let parts = [
        ("user", &options.user),
        ("role", &options.role),
        ("type", &options.type_),
        ("level", &options.level),
    ];
    let given = parts.iter().filter_map(|(part, value)| {
        value.as_ref().filter(|v| !v.is_empty()).map(|value| format!("{part}:{value}"))
    });
    given.collect()
}

/// kubelet's `verifyRunAsNonRoot`: why a container that must not be root's might be.
pub(crate) fn check_non_root(pod: &Pod, container: &Container, image: &Image) -> Result<(), String> {
    let (own, of_pod) = (
        container.security_context.as_ref(),
        pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()),
    );
    let wanted = own.and_then(|s| s.run_as_non_root).or(of_pod.and_then(|s| s.run_as_non_root));
    if wanted != Some(true) {
        return Ok(());
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
    let whose = format!("(pod: \"{name}_{namespace}({uid})\", container: {})", container.name);
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let of_image = image.user.split(':').next().unwrap_or_default();
    match (user, of_image) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {whose}")),
        (Some(_), _) => Ok(()),
        (None, "" | "0") => Err(format!("container has runAsNonRoot and image will run as root {whose}")),
        (None, user) if user.parse::<u32>().is_ok() => Ok(()),
        (None, user) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {whose}"
        )),
    }
}

/// The pod's kernel parameters, with dots.
pub(crate) fn sysctls(spec: &PodSpec) -> BTreeMap<String, String> {
    let given = spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    given.map(|sysctl| (dotted(&sysctl.name), sysctl.value.clone())).collect()
}

/// `net/ipv4/conf/eth0.100/mtu` and `net.ipv4.conf.eth0/100.mtu` are the same: the first separator says which is which (sysctl(8)).
fn dotted(name: &str) -> String {
    if name.find(['.', '/']).and_then(|at| name.as_bytes().get(at)) != Some(&b'/') {
        return name.to_owned();
    }
    let swapped = name.chars().map(|c| match c {
        '/' => '.',
        '.' => '/',
        other => other,
    });
    swapped.collect()
}

/// What of a pod this node does not take, as kubelet refuses it. `has_apparmor`: the kernel of this host enforces profiles.
pub(crate) fn refusal(spec: &PodSpec, has_apparmor: bool) -> Option<PodEnd> {
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        let why = "Failed to admit pod as the OS field doesn't match node OS";
        return Some(PodEnd::rejected("PodOSNotSupported", why.to_owned()));
    }
    if let Some(name) = sysctls(spec).keys().find(|name| !SAFE_SYSCTLS.contains(&name.as_str())) {
        let why = format!("forbidden sysctl: {name:?} not allowlisted");
        return Some(PodEnd::rejected("SysctlForbidden", why));
    }
    let asks = |container: &Container| {
        let own = container.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
        let of_pod = spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref());
        own.or(of_pod).is_some_and(|profile| profile.type_ != "Unconfined")
    };
    if !has_apparmor && spec.init_containers.iter().flatten().chain(&spec.containers).any(asks) {
        let why = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return Some(PodEnd::rejected("AppArmor", why.to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    fn spec(spec: serde_json::Value) -> PodSpec {
        pod(spec).spec.unwrap()
    }

    #[test]
    fn who_must_not_be_root_is_not() {
        for (of_pod, own, image, expected) in [
            (json!({}), json!({}), "", None),
            (json!({"runAsNonRoot": true}), json!({}), "1000:0", None),
            (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), "", None),
            (json!({"runAsNonRoot": true, "runAsUser": 5}), json!({}), "", None),
            (json!({"runAsNonRoot": true}), json!({}), "", Some("image will run as root")),
            (json!({"runAsNonRoot": true}), json!({}), "0:5", Some("image will run as root")),
            (json!({"runAsNonRoot": true}), json!({}), "app", Some("non-numeric user (app)")),
            (json!({"runAsUser": 0}), json!({"runAsNonRoot": true}), "7", Some("runAsUser breaks")),
            (json!({"runAsUser": 0, "runAsNonRoot": true}), json!({"runAsUser": 7}), "", None),
        ] {
            let pod = pod(
                json!({"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}),
            );
            let container = &pod.spec.as_ref().unwrap().containers[0];
            let image = Image { user: image.to_owned(), ..Image::default() };
            match (check_non_root(&pod, container, &image), expected) {
                (Ok(()), None) => {}
                (Err(why), Some(part))
                    if why.contains(part) && why.ends_with("(pod: \"p_n(u)\", container: c)") => {}
                (other, _) => panic!("{other:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn profiles_are_the_containers_own_else_the_pods() {
        let profile = |kind: &str| {
            json!({"seccompProfile": {"type": kind, "localhostProfile": "a/b.json"},
            "appArmorProfile": {"type": kind, "localhostProfile": "strict"}})
        };
        for (of_pod, own, seccomp_is, apparmor_is) in [
            (json!({}), json!({}), Profile::Known(Seccomp::RuntimeDefault), None),
            (profile("Unconfined"), json!({}), Profile::Known(Seccomp::Unconfined), Some("unconfined")),
            (profile("Unconfined"), profile("RuntimeDefault"), Profile::Known(Seccomp::RuntimeDefault), None),
            (
                profile("RuntimeDefault"),
                profile("Localhost"),
                Profile::File("a/b.json".into()),
                Some("strict"),
            ),
        ] {
            let spec = spec(
                json!({"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]}),
            );
            assert_eq!(seccomp(&spec, &spec.containers[0]), Ok(seccomp_is));
            assert_eq!(apparmor(&spec, &spec.containers[0]).as_deref(), apparmor_is);
        }
        let bad = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../etc/shadow"}});
        let spec = spec(json!({"securityContext": bad, "containers": [{"name": "c"}]}));
        assert!(seccomp(&spec, &spec.containers[0]).is_err());
    }

    #[test]
    fn a_node_takes_only_what_it_can_honour() {
        let refused = |context: serde_json::Value, apparmor| {
            let spec = spec(json!({"securityContext": context, "containers": [{"name": "c"}]}));
            refusal(&spec, apparmor).map(|end| end.reason)
        };
        let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
        assert_eq!(refused(sysctl("net/ipv4/tcp_syncookies"), false), None);
        assert_eq!(refused(sysctl("kernel.msgmax"), false).as_deref(), Some("SysctlForbidden"));
        let apparmor = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
        assert_eq!(refused(apparmor.clone(), true), None);
        assert_eq!(refused(apparmor, false).as_deref(), Some("AppArmor"));
        let windows = spec(json!({"os": {"name": "windows"}, "containers": []}));
        assert_eq!(refusal(&windows, true).map(|end| end.reason).as_deref(), Some("PodOSNotSupported"));
    }

    #[test]
    fn names_of_sysctls_have_two_spellings() {
        assert_eq!(dotted("net/ipv4/conf/eth0.100/mtu"), "net.ipv4.conf.eth0/100.mtu");
        assert_eq!(dotted("net.ipv4.conf.eth0/100.mtu"), "net.ipv4.conf.eth0/100.mtu");
        assert_eq!(dotted("plain"), "plain");
    }
}
