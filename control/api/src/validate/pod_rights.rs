//! What a pod and its containers ask of the kernel: profiles, sysctls, namespaces, groups.

use serde_json::Value;

use super::{Errors, list, text};

/// How upstream writes what a sysctl's name is (SysctlContainSlashFmt).
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// The pod's own.
pub(super) fn check(errors: &mut Errors, path: &str, spec: &Value) {
    let context = &spec["securityContext"];
    let at = format!("{path}.securityContext");
    profiles(errors, &at, context);
    sysctls(errors, &format!("{at}.sysctls"), list(context, "sysctls"), spec);
    let optional = |field: &str| context.get(field).filter(|v| !v.is_null());
    if let Some(policy) = optional("fsGroupChangePolicy") {
        errors.one_of(&format!("{at}.fsGroupChangePolicy"), policy, &["OnRootMismatch", "Always"]);
    }
    if let Some(policy) = optional("supplementalGroupsPolicy") {
        errors.one_of(&format!("{at}.supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(format!("{path}.shareProcessNamespace"), true, why);
    }
    if let Some(os) = spec.get("os").filter(|os| !os.is_null()) {
        if text(os, "name").is_empty() {
            errors.required(format!("{path}.os.name"), "cannot be empty");
        } else {
            errors.one_of(&format!("{path}.os.name"), &os["name"], &["linux", "windows"]);
        }
    }
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        if let Err(why) = crate::meta::check_qualified_name(kind) {
            errors.invalid(format!("{path}.readinessGates[{i}].conditionType"), format!("{kind:?}"), why);
        }
    }
}

/// A container's own.
pub(super) fn container(errors: &mut Errors, path: &str, context: &Value) {
    profiles(errors, path, context);
    if let Some(mount) = context.get("procMount").filter(|v| !v.is_null()) {
        errors.one_of(&format!("{path}.procMount"), mount, &["Default", "Unmasked"]);
    }
}

fn profiles(errors: &mut Errors, path: &str, context: &Value) {
    for (field, name) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        let Some(profile) = context.get(field).filter(|v| !v.is_null()) else { continue };
        let path = format!("{path}.{field}");
        let file = text(profile, "localhostProfile");
        match text(profile, "type") {
            "" => errors.required(format!("{path}.type"), &format!("type is required when {field} is set")),
            "Localhost" if file.trim().is_empty() => {
                let why = format!("must be set when {name} type is Localhost");
                errors.required(format!("{path}.localhostProfile"), &why);
            }
            "Localhost" if name == "seccomp" => inside(errors, &format!("{path}.localhostProfile"), file),
            "Localhost" => {}
            "RuntimeDefault" | "Unconfined" if !file.is_empty() => {
                let why = format!("can only be set when {name} type is Localhost");
                errors.invalid(format!("{path}.localhostProfile"), format!("{file:?}"), why);
            }
            "RuntimeDefault" | "Unconfined" => {}
            _ => {
                let known = ["Localhost", "RuntimeDefault", "Unconfined"];
                errors.one_of(&format!("{path}.type"), &profile["type"], &known);
            }
        }
    }
}

fn sysctls(errors: &mut Errors, path: &str, sysctls: &[Value], spec: &Value) {
    for (i, sysctl) in sysctls.iter().enumerate() {
        let name = text(sysctl, "name");
        let at = format!("{path}[{i}].name");
        if name.is_empty() {
            errors.required(at, "");
        } else if name.len() > 253 || !is_sysctl(name) {
            let why = format!("must have at most 253 characters and match regex {SYSCTL}");
            errors.invalid(at, format!("{name:?}"), why);
        } else if let Some(field) = namespace_field(name).filter(|field| spec[*field] == true) {
            let why = format!("may not be specified when '{field}' is true");
            errors.invalid(at, format!("{name:?}"), why);
        }
    }
    let named = sysctls.iter().enumerate();
    errors.unique(named.map(|(i, sysctl)| (format!("{path}[{i}].name"), text(sysctl, "name"))));
}

/// What makes a parameter the whole node's: the field by which the pod has the node's namespace instead of its own.
fn namespace_field(name: &str) -> Option<&'static str> {
    let name = name.replace('/', ".");
    if name.starts_with("net.") {
        return Some("hostNetwork");
    }
    let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    (of_ipc || name == "kernel.sem").then_some("hostIPC")
}

/// Words of small letters, digits, and hyphens and underscores between them, with dots or slashes between.
fn is_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.split(['.', '/']).all(|word| {
        let word = word.as_bytes();
        word.first().is_some_and(|c| plain(*c))
            && word.last().is_some_and(|c| plain(*c))
            && word.iter().all(|c| plain(*c) || matches!(c, b'-' | b'_'))
    })
}

/// Mounts of a container: parts of volumes, and who sees mounts below them.
pub(super) fn mount(errors: &mut Errors, path: &str, mount: &Value, privileged: bool) {
    let (part, by_variables) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    inside(errors, &format!("{path}.subPath"), part);
    inside(errors, &format!("{path}.subPathExpr"), by_variables);
    if !part.is_empty() && !by_variables.is_empty() {
        let why = "subPathExpr and subPath are mutually exclusive";
        errors.invalid(format!("{path}.subPathExpr"), format!("{by_variables:?}"), why);
    }
    if let Some(propagation) = mount.get("mountPropagation").filter(|v| !v.is_null()) {
        let known = ["Bidirectional", "HostToContainer", "None"];
        errors.one_of(&format!("{path}.mountPropagation"), propagation, &known);
        if propagation == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(format!("{path}.mountPropagation"), why);
        }
    }
    if let Some(recursive) = mount.get("recursiveReadOnly").filter(|v| !v.is_null()) {
        let path = format!("{path}.recursiveReadOnly");
        errors.one_of(&path, recursive, &["Disabled", "Enabled", "IfPossible"]);
        if recursive != "Disabled" && mount["readOnly"] != true {
            errors.forbidden(path, "may only be specified when readOnly is true");
        }
    }
}

/// A path that stays where it begins (upstream's validateLocalDescendingPath).
fn inside(errors: &mut Errors, field: &str, path: &str) {
    if path.starts_with('/') {
        errors.invalid(field, format!("{path:?}"), "must be a relative path");
    }
    super::volumes::no_way_up(errors, field, path);
}
