//! Containers that are added to a pod that runs, to look into it (`kubectl debug`).

use serde_json::Value;

use super::{Errors, list, pod, pod_support, text};

/// What they may have (upstream's allowedEphemeralContainerFields).
const FIELDS: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// Nothing else of the pod changes; what was added stays as it is.
pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    let spec = &new["spec"];
    let (before, after) = (list(&old["spec"], "ephemeralContainers"), list(spec, "ephemeralContainers"));
    let names = |field: &str| list(spec, field).iter().map(|c| text(c, "name")).collect::<Vec<_>>();
    let others: Vec<&str> = [names("containers"), names("initContainers")].concat();
    let volumes = names("volumes");
    for (i, container) in after.iter().enumerate() {
        check(errors, &format!("spec.ephemeralContainers[{i}]"), container, &others, &volumes);
    }
    let named = after.iter().enumerate();
    let paths = named.map(|(i, c)| (format!("spec.ephemeralContainers[{i}].name"), text(c, "name")));
    let taken = others.iter().map(|name| ("spec.containers".to_owned(), *name));
    errors.unique(taken.chain(paths));
    pod_support::check(errors, "spec", spec);
    for container in before {
        let name = text(container, "name");
        let what = match after.iter().find(|c| text(c, "name") == name) {
            None => "removed",
            Some(now) if now != container => "changed",
            Some(_) => continue,
        };
        errors.forbidden(
            "spec.ephemeralContainers",
            format!("existing ephemeral containers {name:?} may not be {what}\n"),
        );
    }
}

fn check(errors: &mut Errors, path: &str, container: &Value, others: &[&str], volumes: &[&str]) {
    pod::check_container(errors, path, container, volumes);
    let target = text(container, "targetContainerName");
    if !target.is_empty() && !others.contains(&target) {
        errors.push(
            "FieldValueNotFound",
            format!("{path}.targetContainerName"),
            format!("Not found: {target:?}"),
        );
    }
    let given = container.as_object().into_iter().flatten();
    // The resources of an empty object are what clients send who know no better.
    let is_given = |value: &Value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
    for (field, _) in given.filter(|(field, value)| !FIELDS.contains(&field.as_str()) && is_given(value)) {
        errors.forbidden(format!("{path}.{field}"), "cannot be set for an Ephemeral Container");
    }
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"].into_iter().filter(|field| !text(mount, field).is_empty()) {
            let path = format!("{path}.volumeMounts[{i}].{field}");
            errors.forbidden(path, "cannot be set for an Ephemeral Container");
        }
    }
}
