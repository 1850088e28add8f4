//! The checks, one function each: what a pod has that a level forbids.
//!
//! Source: k8s.io/pod-security-admission/policy, release 1.33.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Level;

/// Something that is forbidden.
pub(super) struct Finding {
    /// In a word.
    pub(super) reason: String,
    /// Where, and what to do.
    pub(super) detail: String,
}

/// What is looked at.
struct Pod<'v> {
    version: u32,
    annotations: &'v Value,
    spec: &'v Value,
}

type Check = fn(&Pod<'_>) -> Option<Finding>;

/// The checks of the baseline, each with the version from which restricted has a stricter one.
const BASELINE: [(Check, Option<u32>); 11] = [
    (app_armor, None),
    (capabilities, Some(22)),
    (host_namespaces, None),
    (host_paths, Some(0)),
    (host_ports, None),
    (privileged, None),
    (proc_mount, None),
    (se_linux, None),
    (seccomp, Some(19)),
    (sysctls, None),
    (host_process, None),
];
/// The checks of restricted, each with the version from which it counts.
const RESTRICTED: [(Check, u32); 6] = [
    (escalation, 8),
    (all_capabilities, 22),
    (volume_types, 0),
    (non_root, 0),
    (root_user, 23),
    (seccomp_required, 19),
];
/// From here on what Windows does not know is not asked of its pods.
const WINDOWS: u32 = 25;

/// The findings, in upstream's order.
pub(super) fn all(level: Level, version: u32, metadata: &Value, spec: &Value) -> Vec<Finding> {
    let pod = Pod { version, annotations: &metadata["annotations"], spec };
    let strict = level == Level::Restricted;
    if level == Level::Privileged {
        return Vec::new();
    }
    let replaced = |from: Option<u32>| strict && from.is_some_and(|from| version >= from);
    let baseline = BASELINE.iter().filter(|(_, from)| !replaced(*from)).map(|(check, _)| check);
    let restricted = RESTRICTED.iter().filter(|(_, from)| strict && version >= *from).map(|(check, _)| check);
    baseline.chain(restricted).filter_map(|check| check(&pod)).collect()
}

impl<'v> Pod<'v> {
    fn containers(&self) -> impl Iterator<Item = &'v Value> + use<'v> {
        let lists = ["initContainers", "containers", "ephemeralContainers"].map(|list| &self.spec[list]);
        lists.into_iter().filter_map(Value::as_array).flatten()
    }

    /// The names of the containers of which something is so.
    fn those(&self, is: impl FnMut(&&'v Value) -> bool) -> Vec<&'v str> {
        self.containers().filter(is).map(name).collect()
    }

    fn volumes(&self) -> impl Iterator<Item = &'v Value> + use<'v> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }

    /// `pod and container "c"`: who sets something that is bad.
    fn setters(&self, bad: impl Fn(&'v Value) -> bool) -> Option<String> {
        let mut setters = Vec::new();
        if bad(&self.spec["securityContext"]) {
            setters.push("pod".to_owned());
        }
        let containers = self.those(|container| bad(&container["securityContext"]));
        if !containers.is_empty() {
            setters.push(plural("container", &containers));
        }
        (!setters.is_empty()).then(|| setters.join(" and "))
    }

    fn is_windows(&self) -> bool {
        self.version >= WINDOWS && self.spec["os"]["name"] == "windows"
    }
}

fn name(of: &Value) -> &str {
    of["name"].as_str().unwrap_or("")
}

fn finding(reason: &str, detail: String) -> Option<Finding> {
    Some(Finding { reason: reason.to_owned(), detail })
}

/// In quotes, and as they are: upstream escapes nothing here.
fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("\"{}\"", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `containers "a", "b"`.
fn plural(noun: &str, names: &[&str]) -> String {
    format!("{} {}", counted(noun, names.len()), quoted(names))
}

fn counted(noun: &str, n: usize) -> String {
    if n == 1 { noun.to_owned() } else { format!("{noun}s") }
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn app_armor(pod: &Pod<'_>) -> Option<Finding> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |profile: &str| {
        profile.is_empty() || profile == "runtime/default" || profile.starts_with("localhost/")
    };
    let bad = |context: &Value| {
        let profile = context["appArmorProfile"]["type"].as_str().filter(|profile| !is_confined(profile));
        profile.map(str::to_owned)
    };
    let own = pod.containers().filter_map(|container| bad(&container["securityContext"]));
    let fields: BTreeSet<String> = bad(&pod.spec["securityContext"]).into_iter().chain(own).collect();
    let all = pod.annotations.as_object().into_iter().flatten();
    let annotations: BTreeSet<String> = all
        .filter(|(key, _)| key.starts_with(ANNOTATION))
        .filter_map(|(key, value)| value.as_str().filter(|v| !allowed(v)).map(|v| format!("{key}={v:?}")))
        .collect();
    let mut who: Vec<String> = pod.setters(|context| bad(context).is_some()).into_iter().collect();
    if !annotations.is_empty() {
        who.push(counted("annotation", annotations.len()));
    }
    if who.is_empty() {
        return None;
    }
    let reason = counted("forbidden AppArmor profile", fields.len() + annotations.len());
    let what = quoted(fields.iter().chain(&annotations));
    finding(&reason, format!("{} must not set AppArmor profile type to {what}", who.join(" and ")))
}

/// Containers that add capabilities beyond `allowed`, and those.
fn added<'v>(pod: &Pod<'v>, allowed: &[&str]) -> (Vec<&'v str>, BTreeSet<&'v str>) {
    let bad = |container: &&'v Value| -> Vec<&'v str> {
        texts(&container["securityContext"]["capabilities"]["add"])
            .filter(|capability| !allowed.contains(capability))
            .collect()
    };
    let all = pod.containers().flat_map(|container| bad(&container)).collect();
    (pod.those(|container| !bad(container).is_empty()), all)
}

fn capabilities(pod: &Pod<'_>) -> Option<Finding> {
    const DEFAULT: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let (who, what) = added(pod, &DEFAULT);
    let said = || {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            plural("container", &who),
            quoted(&what)
        )
    };
    if who.is_empty() { None } else { finding("non-default capabilities", said()) }
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Finding> {
    let used = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[field] == true);
    let used: Vec<String> = used.map(|field| format!("{field}=true")).collect();
    if used.is_empty() { None } else { finding("host namespaces", used.join(", ")) }
}

fn host_paths(pod: &Pod<'_>) -> Option<Finding> {
    let bad: Vec<&str> = pod.volumes().filter(|volume| !volume["hostPath"].is_null()).map(name).collect();
    if bad.is_empty() { None } else { finding("hostPath volumes", plural("volume", &bad)) }
}

fn host_ports(pod: &Pod<'_>) -> Option<Finding> {
    let ports = |container: &Value| -> BTreeSet<String> {
        let ports = container["ports"].as_array().into_iter().flatten();
        ports.filter_map(|p| p["hostPort"].as_i64()).filter(|p| *p != 0).map(|p| p.to_string()).collect()
    };
    let who = pod.those(|container| !ports(container).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    if who.is_empty() {
        return None;
    }
    let uses = if who.len() == 1 { "uses" } else { "use" };
    let what = all.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    finding(
        "hostPort",
        format!("{} {uses} {} {what}", plural("container", &who), counted("hostPort", all.len())),
    )
}

fn privileged(pod: &Pod<'_>) -> Option<Finding> {
    let who = pod.those(|container| container["securityContext"]["privileged"] == true);
    let said = || format!("{} must not set securityContext.privileged=true", plural("container", &who));
    if who.is_empty() { None } else { finding("privileged", said()) }
}

fn proc_mount(pod: &Pod<'_>) -> Option<Finding> {
    let mount = |container: &&Value| {
        let mount = container["securityContext"]["procMount"].as_str();
        mount.filter(|mount| *mount != "Default").map(str::to_owned)
    };
    let who = pod.those(|container| mount(container).is_some());
    let what: BTreeSet<String> = pod.containers().filter_map(|container| mount(&container)).collect();
    let said = || {
        format!("{} must not set securityContext.procMount to {}", plural("container", &who), quoted(&what))
    };
    if who.is_empty() { None } else { finding("procMount", said()) }
}

fn se_linux(pod: &Pod<'_>) -> Option<Finding> {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let text =
        |context: &Value, field: &str| context["seLinuxOptions"][field].as_str().unwrap_or("").to_owned();
    let bad_type = |context: &Value| {
        let kind = text(context, "type");
        // The last type came with 1.31.
        let known = TYPES.iter().take(if pod.version >= 31 { 5 } else { 4 });
        (!known.into_iter().any(|known| *known == kind)).then_some(kind)
    };
    let set = |context: &Value, field: &str| !text(context, field).is_empty();
    let who =
        pod.setters(|context| bad_type(context).is_some() || set(context, "user") || set(context, "role"))?;
    let contexts = || {
        let own = pod.containers().map(|container| &container["securityContext"]);
        std::iter::once(&pod.spec["securityContext"]).chain(own)
    };
    let types: BTreeSet<String> = contexts().filter_map(bad_type).collect();
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", counted("type", types.len()), quoted(&types)));
    }
    for field in ["user", "role"] {
        if contexts().any(|context| set(context, field)) {
            what.push(format!("{field} may not be set"));
        }
    }
    finding(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

/// The profile of a context, where it has one.
fn profile(context: &Value) -> Option<&str> {
    context["seccompProfile"].is_object().then(|| context["seccompProfile"]["type"].as_str().unwrap_or(""))
}

fn is_confined(profile: &str) -> bool {
    matches!(profile, "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Pod<'_>) -> Option<Finding> {
    if pod.version < 19 {
        return seccomp_annotations(pod);
    }
    let bad = |context: &Value| profile(context).filter(|profile| !is_confined(profile)).map(str::to_owned);
    let who = pod.setters(|context| bad(context).is_some())?;
    let own = pod.containers().filter_map(|container| bad(&container["securityContext"]));
    let what: BTreeSet<String> = bad(&pod.spec["securityContext"]).into_iter().chain(own).collect();
    finding(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&what)),
    )
}

/// As profiles were said before they had a field.
fn seccomp_annotations(pod: &Pod<'_>) -> Option<Finding> {
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let own = pod.containers().map(|container| format!("{OF_CONTAINER}{}", name(container)));
    let keys = std::iter::once(OF_POD.to_owned()).chain(own);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = pod.annotations[&key].as_str().filter(|value| !allowed(value))?;
            Some(format!("{key}={value:?}"))
        })
        .collect();
    let said = || {
        let all: Vec<&str> = bad.iter().map(String::as_str).collect();
        format!("forbidden {} {}", counted("annotation", bad.len()), all.join(", "))
    };
    if bad.is_empty() { None } else { finding("seccompProfile", said()) }
}

fn sysctls(pod: &Pod<'_>) -> Option<Finding> {
    /// Each with the version from which it is allowed.
    const SAFE: [(&str, u32); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let all = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten().map(name);
    let safe = |name: &str| SAFE.iter().any(|(known, from)| *known == name && pod.version >= *from);
    let bad: Vec<&str> = all.filter(|name| !safe(name)).collect();
    if bad.is_empty() { None } else { finding("forbidden sysctls", bad.join(", ")) }
}

fn host_process(pod: &Pod<'_>) -> Option<Finding> {
    let who = pod.setters(|context| context["windowsOptions"]["hostProcess"] == true)?;
    finding("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn escalation(pod: &Pod<'_>) -> Option<Finding> {
    let who = pod.those(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    let said =
        || format!("{} must set securityContext.allowPrivilegeEscalation=false", plural("container", &who));
    if who.is_empty() || pod.is_windows() {
        None
    } else {
        finding("allowPrivilegeEscalation != false", said())
    }
}

fn all_capabilities(pod: &Pod<'_>) -> Option<Finding> {
    let drops = |container: &&Value| {
        texts(&container["securityContext"]["capabilities"]["drop"]).any(|capability| capability == "ALL")
    };
    let keep = pod.those(|container| !drops(container));
    let (who, what) = added(pod, &["NET_BIND_SERVICE"]);
    let mut said = Vec::new();
    if !keep.is_empty() {
        let containers = plural("container", &keep);
        said.push(format!("{containers} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !who.is_empty() {
        let containers = plural("container", &who);
        said.push(format!(
            "{containers} must not include {} in securityContext.capabilities.add",
            quoted(&what)
        ));
    }
    if said.is_empty() || pod.is_windows() {
        None
    } else {
        finding("unrestricted capabilities", said.join("; "))
    }
}

fn volume_types(pod: &Pod<'_>) -> Option<Finding> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut types, mut bad) = (BTreeSet::new(), Vec::new());
    for volume in pod.volumes().filter(|volume| ALLOWED.iter().all(|kind| volume[kind].is_null())) {
        bad.push(name(volume));
        let mut of = volume.as_object().into_iter().flatten();
        let kind = of.find(|(field, value)| *field != "name" && !value.is_null());
        types.insert(kind.map_or("unknown", |(kind, _)| kind));
    }
    if bad.is_empty() {
        return None;
    }
    let (uses, kinds) =
        (if bad.len() == 1 { "uses" } else { "use" }, counted("restricted volume type", types.len()));
    finding("restricted volume types", format!("{} {uses} {kinds} {}", plural("volume", &bad), quoted(types)))
}

fn non_root(pod: &Pod<'_>) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    if let Some(who) = pod.setters(|context| context["runAsNonRoot"] == false) {
        return finding(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if pod.spec["securityContext"]["runAsNonRoot"] == true {
        return None;
    }
    let who = pod.those(|container| container["securityContext"]["runAsNonRoot"].is_null());
    let said = || format!("pod or {} must set securityContext.runAsNonRoot=true", plural("container", &who));
    if who.is_empty() { None } else { finding(REASON, said()) }
}

fn root_user(pod: &Pod<'_>) -> Option<Finding> {
    let who = pod.setters(|context| context["runAsUser"] == 0)?;
    finding("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp_required(pod: &Pod<'_>) -> Option<Finding> {
    if pod.is_windows() {
        return None;
    }
    if let Some(bad) = seccomp(pod) {
        return Some(bad);
    }
    if profile(&pod.spec["securityContext"]).is_some() {
        return None;
    }
    let who = pod.those(|container| profile(&container["securityContext"]).is_none());
    let said = || {
        let who = plural("container", &who);
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        )
    };
    if who.is_empty() { None } else { finding("seccompProfile", said()) }
}
