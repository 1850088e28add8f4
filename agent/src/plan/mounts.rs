//! What is mounted in a container: volumes or parts of them, and the files that every container gets.

use oarlock_api::k8s::api::core::v1::{Container, PodSpec, VolumeMount};

use super::expand::expand;
use super::spec::Setting;
use crate::runtime::{Bind, Propagation};

/// The mounts of a container.
pub(super) fn mounts(
    spec: &PodSpec,
    definition: &Container,
    setting: &Setting<'_>,
) -> Result<Vec<Bind>, String> {
    let mut mounts = Vec::new();
    for (index, mount) in definition.volume_mounts.iter().flatten().enumerate() {
        let volume = || setting.volumes.get(&mount.name);
        let source =
            setting.sub_paths.get(&index).or_else(volume).ok_or_else(|| {
                format!("volume {:?} of mount {:?} not found", mount.name, mount.mount_path)
            })?;
        // "/" alone would be cut to nothing; Docker refuses it with its own words.
        let target = match mount.mount_path.trim_end_matches('/') {
            "" => "/",
            path => path,
        };
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let read_only = mount.read_only.unwrap_or(false) || is_read_only(spec, &mount.name);
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::None,
        };
        mounts.push(Bind { source: source.clone(), target, read_only, propagation });
    }
    let message = definition.termination_message_path.as_deref().filter(|p| !p.is_empty());
    for (source, target) in [
        (&setting.hosts_file, "/etc/hosts"),
        (&setting.resolv_file, "/etc/resolv.conf"),
        (&setting.termination_file, message.unwrap_or("/dev/termination-log")),
    ] {
        if !mounts.iter().any(|m| m.target == target) {
            mounts.push(Bind { source: source.clone(), target: target.to_owned(), ..Bind::default() });
        }
    }
    Ok(mounts)
}

/// Whether a volume is read-only however it is mounted.
fn is_read_only(spec: &PodSpec, volume: &str) -> bool {
    let found = spec.volumes.iter().flatten().find(|v| v.name == volume);
    found.and_then(|v| v.persistent_volume_claim.as_ref()?.read_only).unwrap_or(false)
}

/// The part of its volume that a mount shows; none: all of it. Variables are those of the container.
pub(crate) fn part(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let given = |value: &Option<String>| value.clone().filter(|v| !v.is_empty());
    let part = match (given(&mount.sub_path), given(&mount.sub_path_expr)) {
        (Some(part), _) => part,
        (None, None) => return Ok(None),
        (None, Some(text)) => {
            let missing = std::cell::Cell::new(None);
            let part = expand(&text, |name| {
                let value = env.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
                if value.is_none() {
                    missing.set(Some(name.to_owned()));
                }
                value
            });
            if let Some(name) = missing.take() {
                return Err(format!("missing value for {name:?}"));
            }
            part
        }
    };
    if part.starts_with('/') {
        return Err(format!("error SubPath `{part}` must not be an absolute path"));
    }
    if part.split('/').any(|word| word == "..") {
        return Err(format!("unable to use SubPath `{part}`: must not contain '..'"));
    }
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(mount: serde_json::Value) -> Result<Option<String>, String> {
        let mount: VolumeMount = serde_json::from_value(mount).unwrap();
        part(&mount, &[("POD".to_owned(), "web-0".to_owned()), ("BAD".to_owned(), "../x".to_owned())])
    }

    #[test]
    fn parts_are_named_by_variables_and_stay_inside() {
        let mount = |field: &str, value: &str| json!({"name": "v", "mountPath": "/d", field: value});
        assert_eq!(of(mount("subPath", "")), Ok(None));
        assert_eq!(of(mount("subPath", "a/$(POD)")), Ok(Some("a/$(POD)".to_owned())));
        assert_eq!(of(mount("subPathExpr", "a/$(POD)")), Ok(Some("a/web-0".to_owned())));
        assert_eq!(of(mount("subPathExpr", "$(NOBODY)")), Err("missing value for \"NOBODY\"".to_owned()));
        for value in ["$(BAD)", "/$(POD)"] {
            assert!(of(mount("subPathExpr", value)).is_err(), "{value}");
        }
    }
}
