//! From the definition of a container to what the runtime is to create: names, labels, limits, rights, mounts.

use std::collections::BTreeMap;

use oarlock_api::k8s::api::core::v1::{Container, Pod, PodSpec};
use oarlock_api::quantity::Quantity;

use super::expand::expand;
use super::files::ClusterDns;
use super::mounts::mounts;
use super::{security, spec_hash};
use crate::runtime::{ContainerSpec, Image, Processes, Resources, SANDBOX_NAME, Seccomp, label};

/// What a container needs beside its definition.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) attempt: u32,
    pub(crate) backoff: u64,
    pub(crate) sandbox: &'a str,
    /// What runs the sandbox, if not the default.
    pub(crate) runtime: Option<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) image: &'a Image,
    /// Host paths of volumes by volume name.
    pub(crate) volumes: &'a BTreeMap<String, String>,
    /// Host paths of parts of volumes, by the index of the mount.
    pub(crate) sub_paths: BTreeMap<usize, String>,
    pub(crate) seccomp: Seccomp,
    /// The id of the container whose processes it sees, if that is not what the pod says.
    pub(crate) processes_of: Option<String>,
    /// Host paths of the managed files.
    pub(crate) hosts_file: String,
    pub(crate) resolv_file: String,
    pub(crate) termination_file: String,
    pub(crate) cgroup_parent: String,
    /// Whether scores below zero can be given to processes here.
    pub(crate) may_lower_oom_score: bool,
    /// The node's memory, for the out-of-memory score.
    pub(crate) memory: i64,
}

/// The sandbox of a pod.
pub(crate) fn sandbox(
    pod: &Pod,
    image: &str,
    attempt: u32,
    cgroup_parent: String,
    may_lower: bool,
    dns: &ClusterDns,
    runtime: Option<String>,
) -> Result<ContainerSpec, String> {
    let score = if may_lower { -998 } else { 0 };
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut labels = labels(pod, SANDBOX_NAME, attempt);
    labels.extend(runtime.iter().map(|name| (label::RUNTIME.to_owned(), name.clone())));
    Ok(ContainerSpec {
        name: container_name(pod, SANDBOX_NAME, attempt),
        labels,
        runtime,
        image: image.to_owned(),
        host_network: on_host(pod),
        hostname: if on_host(pod) { None } else { Some(node_name(pod, dns)?) },
        cgroup_parent,
        resources: Resources { cpu_shares: Some(2), oom_score_adj: Some(score), ..Resources::default() },
        sysctls: security::sysctls(spec),
        pid: if spec.host_pid == Some(true) { Processes::Host } else { Processes::Own },
        host_ipc: spec.host_ipc.unwrap_or(false),
        ..ContainerSpec::default()
    })
}

/// A container of a pod.
pub(crate) fn container(
    pod: &Pod,
    definition: &Container,
    setting: Setting<'_>,
) -> Result<ContainerSpec, String> {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let look_up = |name: &str| setting.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expanded = |words: &Option<Vec<String>>| {
        let words = words.as_ref().filter(|w| !w.is_empty())?;
        Some(words.iter().map(|word| expand(word, look_up)).collect::<Vec<_>>())
    };
    let mut labels = labels(pod, &definition.name, setting.attempt);
    labels.insert(label::HASH.to_owned(), spec_hash(definition));
    labels.insert(label::SANDBOX.to_owned(), setting.sandbox.to_owned());
    labels.insert(label::BACKOFF.to_owned(), setting.backoff.to_string());
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    labels.insert(label::GRACE.to_owned(), grace.to_string());
    security::check_non_root(pod, definition, setting.image)?;
    let security = definition.security_context.as_ref();
    let capabilities = security.and_then(|s| s.capabilities.as_ref());
    let plain = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    Ok(ContainerSpec {
        name: container_name(pod, &definition.name, setting.attempt),
        labels,
        image: definition.image.clone().unwrap_or_default(),
        entrypoint: expanded(&definition.command),
        cmd: expanded(&definition.args),
        env: setting.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        working_dir: definition.working_dir.clone().filter(|d| !d.is_empty()),
        user: user(spec, definition, setting.image),
        groups: groups(spec),
        mounts: mounts(spec, definition, &setting)?,
        host_network: on_host(pod),
        hostname: None,
        join: Some(setting.sandbox.to_owned()),
        runtime: setting.runtime.clone(),
        stop_signal: definition.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        resources: resources(spec, definition, &setting),
        privileged: security.and_then(|s| s.privileged).unwrap_or(false),
        cap_add: plain(capabilities.and_then(|c| c.add.as_ref())),
        cap_drop: plain(capabilities.and_then(|c| c.drop.as_ref())),
        no_new_privileges: security.and_then(|s| s.allow_privilege_escalation) == Some(false),
        seccomp: setting.seccomp,
        apparmor: security::apparmor(spec, definition),
        selinux: security::selinux(spec, definition),
        sysctls: BTreeMap::new(),
        pid: match (setting.processes_of, spec.host_pid, spec.share_process_namespace) {
            (_, Some(true), _) => Processes::Host,
            (_, _, Some(true)) => Processes::Pod,
            (Some(id), ..) => Processes::Container(id),
            _ => Processes::Own,
        },
        host_ipc: spec.host_ipc.unwrap_or(false),
        read_only_root: security.and_then(|s| s.read_only_root_filesystem).unwrap_or(false),
        tty: definition.tty.unwrap_or(false),
        stdin: definition.stdin.unwrap_or(false),
        stdin_once: definition.stdin_once.unwrap_or(false),
        cgroup_parent: setting.cgroup_parent,
    })
}

/// `k8s_<container>_<pod>_<namespace>_<uid>_<attempt>`, as kubelet's Docker shim named them.
fn container_name(pod: &Pod, container: &str, attempt: u32) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
    format!("k8s_{container}_{name}_{namespace}_{uid}_{attempt}")
}

fn labels(pod: &Pod, container: &str, attempt: u32) -> BTreeMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let pairs = [
        (label::POD_NAME, text(&pod.metadata.name)),
        (label::POD_NAMESPACE, text(&pod.metadata.namespace)),
        (label::POD_UID, text(&pod.metadata.uid)),
        (label::CONTAINER, container.to_owned()),
        (label::ATTEMPT, attempt.to_string()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Whether the pod's network is the node's.
pub(crate) fn on_host(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The pod's host name: at most 63 characters (kubelet's `GeneratePodHostNameAndDomain`).
pub(crate) fn hostname(pod: &Pod) -> String {
    let chosen = pod.spec.as_ref().and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty());
    let mut name = chosen.or_else(|| pod.metadata.name.clone()).unwrap_or_default();
    name.truncate(name.floor_char_boundary(63));
    name.trim_end_matches(['-', '.']).to_owned()
}

/// What the kernel says (uname(2)): the host name, or with `setHostnameAsFQDN` the whole name, which has 64 characters at most.
fn node_name(pod: &Pod, dns: &ClusterDns) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let wanted = spec.and_then(|s| s.set_hostname_as_fqdn).unwrap_or(false);
    let (host, Some(subdomain), true) = (hostname(pod), subdomain, wanted) else { return Ok(hostname(pod)) };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = format!("{host}.{subdomain}.{namespace}.svc.{}", dns.domain);
    match name.len() {
        0..=64 => Ok(name),
        length => Err(format!(
            "Failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long (64 characters is the max, \
             {length} characters requested)"
        )),
    }
}

fn user(spec: &PodSpec, definition: &Container, image: &Image) -> Option<String> {
    let (own, of_pod) = (definition.security_context.as_ref(), spec.security_context.as_ref());
    let user = own.and_then(|s| s.run_as_user).or(of_pod.and_then(|s| s.run_as_user));
    let group = own.and_then(|s| s.run_as_group).or(of_pod.and_then(|s| s.run_as_group));
    match (user, group) {
        (None, None) => None,
        (Some(user), None) => Some(user.to_string()),
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (None, Some(group)) => {
            let user = image.user.split(':').next().filter(|u| !u.is_empty()).unwrap_or("0");
            Some(format!("{user}:{group}"))
        }
    }
}

fn groups(spec: &PodSpec) -> Vec<String> {
    let Some(security) = &spec.security_context else { return Vec::new() };
    let groups = security.supplemental_groups.iter().flatten().chain(&security.fs_group);
    groups.map(ToString::to_string).collect()
}

fn amount(container: &Container, limits: bool, what: &str) -> Option<Quantity> {
    let resources = container.resources.as_ref()?;
    let map = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
    map?.get(what)?.0.parse::<Quantity>().ok()
}

/// kubelet's `MilliCPUToShares`, `MilliCPUToQuota` and `GetContainerOOMScoreAdjust`.
fn resources(spec: &PodSpec, definition: &Container, setting: &Setting<'_>) -> Resources {
    let cpu_limit = amount(definition, true, "cpu").map_or(0, |q| q.milli_value());
    let cpu_request = amount(definition, false, "cpu").map_or(cpu_limit, |q| q.milli_value());
    let memory = amount(definition, true, "memory").map(|q| q.value()).filter(|m| *m > 0);
    let requested = amount(definition, false, "memory").map(|q| q.value()).or(memory).unwrap_or(0);
    let score = match qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => (1000 - requested.saturating_mul(1000) / setting.memory.max(1)).clamp(3, 999),
    };
    Resources {
        cpu_shares: Some((cpu_request.saturating_mul(1024) / 1000).clamp(2, 262_144)),
        cpu_quota: (cpu_limit > 0).then(|| cpu_limit.saturating_mul(100).max(1000)),
        memory,
        oom_score_adj: Some(if setting.may_lower_oom_score { score } else { score.max(0) }),
    }
}

/// `status.qosClass`, as upstream's `ComputePodQOS` has it.
pub(crate) fn qos_class(spec: &PodSpec) -> &'static str {
    let all = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let set = |c: &Container, limits, what| amount(c, limits, what).filter(|q| !q.is_zero());
    let each = [(true, "cpu"), (true, "memory"), (false, "cpu"), (false, "memory")];
    if all().all(|c| each.iter().all(|(limits, what)| set(c, *limits, what).is_none())) {
        return "BestEffort";
    }
    let guaranteed = all().all(|c| {
        ["cpu", "memory"].iter().all(|what| {
            let (limit, request) = (set(c, true, what), set(c, false, what));
            limit.is_some() && (request.is_none() || request == limit)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Bind, Propagation};
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u1"}, "spec": spec}))
        .unwrap()
    }

    fn made(spec: serde_json::Value) -> ContainerSpec {
        let pod = pod(spec);
        of(&pod, &pod.spec.as_ref().unwrap().containers[0]).unwrap()
    }

    fn of(pod: &Pod, definition: &Container) -> Result<ContainerSpec, String> {
        let setting = Setting {
            attempt: 2,
            backoff: 20,
            sandbox: "sb",
            runtime: Some("runsc".into()),
            env: vec![("A".into(), "1".into())],
            image: &Image { id: "sha256:1".into(), user: "app".into() },
            volumes: &BTreeMap::from([("v".to_owned(), "/host/v".to_owned())]),
            sub_paths: BTreeMap::from([(1, "/host/part".to_owned())]),
            seccomp: Seccomp::Unconfined,
            processes_of: None,
            hosts_file: "/h".into(),
            resolv_file: "/r".into(),
            termination_file: "/t".into(),
            cgroup_parent: "/oarlock/n/podu1".into(),
            may_lower_oom_score: true,
            memory: 1 << 30,
        };
        container(pod, definition, setting)
    }

    #[test]
    fn a_definition_becomes_a_docker_container() {
        let spec = made(json!({
            "securityContext": {"fsGroup": 7, "runAsGroup": 3},
            "containers": [{"name": "c", "image": "i:1", "command": ["run", "$(A)"],
                "volumeMounts": [{"name": "v", "mountPath": "/data/", "readOnly": true}],
                "lifecycle": {"stopSignal": "SIGQUIT"}, "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}}]}));
        assert_eq!(spec.name, "k8s_c_web_d_u1_2");
        assert_eq!(spec.entrypoint, Some(vec!["run".into(), "1".into()]));
        assert_eq!((spec.user.as_deref(), spec.groups.clone()), (Some("app:3"), vec!["7".to_owned()]));
        assert_eq!(
            spec.mounts[0],
            Bind { source: "/host/v".into(), target: "/data".into(), read_only: true, ..Bind::default() }
        );
        assert_eq!(spec.mounts.len(), 4);
        assert!(spec.no_new_privileges && spec.cap_drop == ["ALL"]);
        assert_eq!((spec.runtime.as_deref(), spec.stop_signal.as_deref()), (Some("runsc"), Some("SIGQUIT")));
        let resources = spec.resources;
        assert_eq!(resources.cpu_shares, Some(256));
        assert_eq!(resources.cpu_quota, Some(50_000));
        assert_eq!(resources.memory, Some(64 << 20));
        assert_eq!(resources.oom_score_adj, Some(938));
    }

    #[test]
    fn a_mount_of_the_users_own_replaces_the_managed_file() {
        let spec = made(json!({"containers": [{"name": "c",
            "volumeMounts": [{"name": "v", "mountPath": "/etc/hosts"}]}]}));
        let hosts: Vec<_> = spec.mounts.iter().filter(|m| m.target == "/etc/hosts").collect();
        assert_eq!(hosts.len(), 1);
        assert_eq!(hosts[0].source, "/host/v");
    }

    #[test]
    fn parts_of_volumes_and_namespaces_are_the_containers_own() {
        let spec = made(json!({"shareProcessNamespace": true, "hostIPC": true, "containers": [{"name": "c",
            "volumeMounts": [{"name": "v", "mountPath": "/a", "mountPropagation": "HostToContainer"},
                {"name": "v", "mountPath": "/b", "subPath": "part"}]}]}));
        assert_eq!((spec.pid, spec.host_ipc), (Processes::Pod, true));
        assert_eq!(
            (&*spec.mounts[0].source, spec.mounts[0].propagation),
            ("/host/v", Propagation::HostToContainer)
        );
        assert_eq!((&*spec.mounts[1].source, spec.mounts[1].propagation), ("/host/part", Propagation::None));
    }

    #[test]
    fn a_sandbox_has_the_pods_names_and_parameters() {
        let dns = ClusterDns { domain: "cluster.local".into(), address: String::new() };
        let made = |spec| sandbox(&pod(spec), "pause", 0, String::new(), false, &dns, Some("runsc".into()));
        let spec = json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true, "hostPID": true,
            "securityContext": {"sysctls": [{"name": "net/ipv4/ping_group_range", "value": "0 1"}]}});
        let sandbox = made(spec.clone()).unwrap();
        assert_eq!(sandbox.hostname.as_deref(), Some("web.s.d.svc.cluster.local"));
        assert_eq!(sandbox.pid, Processes::Host);
        assert_eq!(
            (sandbox.runtime.as_deref(), sandbox.labels[label::RUNTIME].as_str()),
            (Some("runsc"), "runsc")
        );
        assert_eq!(sandbox.sysctls["net.ipv4.ping_group_range"], "0 1");
        let mut long = spec;
        long["hostname"] = json!("h".repeat(63));
        assert!(
            made(long)
                .unwrap_err()
                .contains("is too long (64 characters is the max, 85 characters requested)")
        );
    }

    #[test]
    fn a_pod_on_the_nodes_network_has_its_name_too() {
        let on_host = pod(json!({"hostNetwork": true, "hostname": "own", "containers": [{"name": "c"}]}));
        let sandbox =
            sandbox(&on_host, "pause", 0, String::new(), true, &ClusterDns::default(), None).unwrap();
        assert_eq!((sandbox.host_network, sandbox.hostname), (true, None));
        assert!(made(json!({"hostNetwork": true, "containers": [{"name": "c"}]})).host_network);
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1m"}}), "Burstable"),
            (json!({"requests": {"cpu": "1m"}}), "Burstable"),
        ] {
            let pod = pod(json!({"containers": [{"name": "c", "resources": resources}]}));
            assert_eq!(qos_class(pod.spec.as_ref().unwrap()), expected, "{resources}");
        }
    }

    #[test]
    fn long_names_are_cut_to_a_host_name() {
        let mut long = pod(json!({"containers": []}));
        long.metadata.name = Some(format!("{}-b", "a".repeat(62)));
        assert_eq!(hostname(&long), "a".repeat(62));
    }

    /// The spec of a pod, as if nobody had checked it: its plan, its sandbox and its containers.
    #[test]
    fn fuzz_pods() {
        oarlock_fuzz::Target::new("pods").run(|input| {
            let Ok(spec) = serde_json::from_slice::<serde_json::Value>(input) else { return };
            let pod =
                serde_json::json!({"metadata": {"name": "web", "namespace": "d", "uid": "u1"}, "spec": spec});
            let Ok(pod) = serde_json::from_value::<Pod>(pod) else { return };
            let (memory, now) = (crate::plan::Memory::default(), jiff::Timestamp::UNIX_EPOCH);
            let _ = crate::plan::plan(&pod, &crate::plan::Observed::default(), &memory, now);
            let _ = sandbox(&pod, "pause", 0, "/oarlock".to_owned(), true, &ClusterDns::default(), None);
            for spec in pod.spec.iter() {
                let _ = (qos_class(spec), hostname(&pod), security::refusal(spec, true));
                for definition in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let _ = (of(&pod, definition), security::seccomp(spec, definition));
                }
            }
        });
    }
}
