//! Every check of both levels, in the words of k8s.io/pod-security-admission 1.33: who, alone and with others, what is let through, and
//! the versions in which that differs.

use std::collections::BTreeSet;

use super::*;

/// What a pod is told at a level. What restricted asks of every pod is there already.
fn told(level: &str, pod: &Value) -> String {
    let mut spec = pod["spec"].clone();
    let strict = level.starts_with("restricted");
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten().filter(|_| strict) {
            let own = container["securityContext"].take();
            let good = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                "seccompProfile": {"type": "RuntimeDefault"}});
            container["securityContext"] = good;
            for (field, value) in own.as_object().into_iter().flatten() {
                container["securityContext"][field] = value.clone();
            }
        }
    }
    let found = violations(standard(level), &pod["metadata"], &spec);
    found.unwrap_or_default()
}

/// Containers `a` of `containers`, `i` of `initContainers` and `e` of `ephemeralContainers`, each with such a security context.
fn each(security: &Value) -> Value {
    let one = |name: &str| json!([{"name": name, "securityContext": security}]);
    json!({"spec": {"containers": one("a"), "initContainers": one("i"), "ephemeralContainers": one("e")}})
}

/// One container `a`, and a security context of the pod.
fn both(pod: &Value, container: &Value) -> Value {
    json!({"spec": {"securityContext": pod, "containers": [{"name": "a", "securityContext": container}, {"name": "b"}]}})
}

fn volumes(volumes: &Value) -> Value {
    json!({"spec": {"containers": [{"name": "a"}], "volumes": volumes}})
}

fn annotated(annotations: &Value) -> Value {
    json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}})
}

const ALL: &str = "containers \"i\", \"a\", \"e\"";

#[test]
fn the_baseline_says_it_as_upstream() {
    let app_armor = "container.apparmor.security.beta.kubernetes.io/";
    let unconfined = json!({"type": "Unconfined"});
    let ports = |first: &Value, second: &Value| json!({"spec": {"containers": [{"name": "a", "ports": first}, {"name": "b", "ports": second}]}});
    for (pod, said) in [
        (each(&json!({"appArmorProfile": unconfined})), format!("forbidden AppArmor profile ({ALL} must not set AppArmor profile type to \"Unconfined\")")),
        (both(&json!({"appArmorProfile": unconfined}), &json!({"appArmorProfile": {"type": "x"}})),
            "forbidden AppArmor profiles (pod and container \"a\" must not set AppArmor profile type to \"Unconfined\", \"x\")".to_owned()),
        (annotated(&json!({format!("{app_armor}a"): "unconfined"})),
            format!("forbidden AppArmor profile (annotation must not set AppArmor profile type to \"{app_armor}a=\"unconfined\"\")")),
        (annotated(&json!({format!("{app_armor}b"): "x", format!("{app_armor}a"): "unconfined"})),
            format!("forbidden AppArmor profiles (annotations must not set AppArmor profile type to \"{app_armor}a=\"unconfined\"\", \"{app_armor}b=\"x\"\")")),
        (annotated(&json!({format!("{app_armor}a"): "runtime/default", format!("{app_armor}b"): "localhost/x"})), String::new()),
        (each(&json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN", "NET_RAW"]}})),
            format!("non-default capabilities ({ALL} must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)")),
        (each(&json!({"capabilities": {"add": ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE",
            "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"]}})), String::new()),
        (json!({"spec": {"hostIPC": true, "hostNetwork": true, "hostPID": true}}), "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)".to_owned()),
        (json!({"spec": {"hostIPC": true, "hostNetwork": false}}), "host namespaces (hostIPC=true)".to_owned()),
        (volumes(&json!([{"name": "h", "hostPath": {"path": "/"}}, {"name": "e", "emptyDir": {}}])), "hostPath volumes (volume \"h\")".to_owned()),
        (volumes(&json!([{"name": "h", "hostPath": {"path": "/"}}, {"name": "g", "hostPath": {"path": "/"}}])),
            "hostPath volumes (volumes \"h\", \"g\")".to_owned()),
        (ports(&json!([{"hostPort": 80}]), &json!([{"hostPort": 0}])), "hostPort (container \"a\" uses hostPort 80)".to_owned()),
        (ports(&json!([{"hostPort": 80}, {"hostPort": 443}]), &json!([{"hostPort": 80}])), "hostPort (containers \"a\", \"b\" use hostPorts 443, 80)".to_owned()),
        (each(&json!({"privileged": true})), format!("privileged ({ALL} must not set securityContext.privileged=true)")),
        (each(&json!({"privileged": false})), String::new()),
        (each(&json!({"procMount": "Unmasked"})), format!("procMount ({ALL} must not set securityContext.procMount to \"Unmasked\")")),
        (each(&json!({"procMount": "Default"})), String::new()),
        (both(&json!({"seLinuxOptions": {"type": "x", "user": "u", "role": "r"}}), &json!({"seLinuxOptions": {"type": "y"}})),
            "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: types \"x\", \"y\"; user may not be set; role may not be set)".to_owned()),
        (both(&json!({"seLinuxOptions": {"type": "container_engine_t"}}), &json!({"seLinuxOptions": {"type": "", "level": "s0"}})), String::new()),
        (both(&json!({"seccompProfile": unconfined}), &json!({"seccompProfile": {"type": "x"}})),
            "seccompProfile (pod and container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\", \"x\")".to_owned()),
        (both(&json!({"sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}, {"name": "fs.mqueue.msg_max"}]}), &json!({})),
            "forbidden sysctls (kernel.msgmax, fs.mqueue.msg_max)".to_owned()),
        (both(&json!({"windowsOptions": {"hostProcess": true}}), &json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (pod and container \"a\" must not set securityContext.windowsOptions.hostProcess=true)".to_owned()),
    ] {
        assert_eq!(told("baseline:latest", &pod), said, "{pod}");
    }
}

#[test]
fn restricted_says_it_as_upstream() {
    let ports = json!({"spec": {"hostIPC": true, "containers": [{"name": "a", "ports": [{"hostPort": 1}]}]}});
    for (pod, said) in [
        (each(&json!({"allowPrivilegeEscalation": true})),
            format!("allowPrivilegeEscalation != false ({ALL} must set securityContext.allowPrivilegeEscalation=false)")),
        (each(&json!({"capabilities": {"drop": ["NET_RAW"]}})), format!("unrestricted capabilities ({ALL} must set securityContext.capabilities.drop=[\"ALL\"])")),
        (each(&json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "CHOWN", "BPF"]}})),
            format!("unrestricted capabilities ({ALL} must not include \"BPF\", \"CHOWN\" in securityContext.capabilities.add)")),
        (each(&json!({"capabilities": {"add": ["CHOWN"]}})), format!(
            "unrestricted capabilities ({ALL} must set securityContext.capabilities.drop=[\"ALL\"]; {ALL} must not include \"CHOWN\" in \
             securityContext.capabilities.add)")),
        (volumes(&json!([{"name": "h", "hostPath": {"path": "/"}}])), "restricted volume types (volume \"h\" uses restricted volume type \"hostPath\")".to_owned()),
        (volumes(&json!([{"name": "h", "hostPath": {}}, {"name": "n", "nfs": {}}, {"name": "m", "nfs": {}}, {"name": "u"}])),
            "restricted volume types (volumes \"h\", \"n\", \"m\", \"u\" use restricted volume types \"hostPath\", \"nfs\", \"unknown\")".to_owned()),
        (volumes(&json!([{"name": "a", "configMap": {}}, {"name": "b", "csi": {}}, {"name": "c", "downwardAPI": {}}, {"name": "d", "emptyDir": {}},
            {"name": "e", "ephemeral": {}}, {"name": "f", "image": {}}, {"name": "g", "persistentVolumeClaim": {}}, {"name": "h", "projected": {}},
            {"name": "i", "secret": {}}])), String::new()),
        (each(&json!({"runAsNonRoot": null})), format!("runAsNonRoot != true (pod or {ALL} must set securityContext.runAsNonRoot=true)")),
        (both(&json!({"runAsNonRoot": false}), &json!({"runAsNonRoot": false})),
            "runAsNonRoot != true (pod and container \"a\" must not set securityContext.runAsNonRoot=false)".to_owned()),
        (both(&json!({"runAsNonRoot": true}), &json!({"runAsNonRoot": null})), String::new()),
        (both(&json!({"runAsUser": 0}), &json!({"runAsUser": 0})), "runAsUser=0 (pod and container \"a\" must not set runAsUser=0)".to_owned()),
        (both(&json!({"runAsUser": 1}), &json!({"runAsUser": 2})), String::new()),
        (each(&json!({"seccompProfile": null})), format!(
            "seccompProfile (pod or {ALL} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")")),
        (both(&json!({"seccompProfile": {"type": "Localhost"}}), &json!({"seccompProfile": null})), String::new()),
        (both(&json!({"seccompProfile": {"type": "Unconfined"}}), &json!({"seccompProfile": null})),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")".to_owned()),
        // And all of the baseline that it does not ask for more strictly itself.
        (ports, "host namespaces (hostIPC=true), hostPort (container \"a\" uses hostPort 1)".to_owned()),
    ] {
        assert_eq!(told("restricted:latest", &pod), said, "{pod}");
    }
}

#[test]
fn versions_differ_where_upstreams_do() {
    let seccomp = annotated(
        &json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined", "container.seccomp.security.alpha.kubernetes.io/b": "x"}),
    );
    let old = "seccompProfile (forbidden annotations container.seccomp.security.alpha.kubernetes.io/b=\"x\", \
        seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")";
    let sysctl = |name: &str| both(&json!({"sysctls": [{"name": name}]}), &json!({}));
    let engine = both(&json!({"seLinuxOptions": {"type": "container_engine_t"}}), &json!({}));
    let windows = json!({"spec": {"os": {"name": "windows"}, "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": null,
        "capabilities": null, "seccompProfile": null}}]}});
    let adds = each(&json!({"capabilities": {"drop": [], "add": ["NET_RAW"]}}));
    let root = both(&json!({"runAsUser": 0}), &json!({}));
    let escalates = each(&json!({"allowPrivilegeEscalation": null}));
    for (pod, level, first, before, since) in [
        (seccomp, "baseline", 19, old, ""),
        (
            sysctl("net.ipv4.ip_local_reserved_ports"),
            "baseline",
            27,
            "forbidden sysctls (net.ipv4.ip_local_reserved_ports)",
            "",
        ),
        (
            sysctl("net.ipv4.tcp_keepalive_time"),
            "baseline",
            29,
            "forbidden sysctls (net.ipv4.tcp_keepalive_time)",
            "",
        ),
        (sysctl("net.ipv4.tcp_wmem"), "baseline", 32, "forbidden sysctls (net.ipv4.tcp_wmem)", ""),
        (
            engine,
            "baseline",
            31,
            "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
            "",
        ),
        (
            escalates,
            "restricted",
            8,
            "",
            &format!(
                "allowPrivilegeEscalation != false ({ALL} must set securityContext.allowPrivilegeEscalation=false)"
            ),
        ),
        (
            adds,
            "restricted",
            22,
            &format!(
                "non-default capabilities ({ALL} must not include \"NET_RAW\" in securityContext.capabilities.add)"
            ),
            &format!(
                "unrestricted capabilities ({ALL} must set securityContext.capabilities.drop=[\"ALL\"]; {ALL} must not include \"NET_RAW\" in \
            securityContext.capabilities.add)"
            ),
        ),
        (root, "restricted", 23, "", "runAsUser=0 (pod must not set runAsUser=0)"),
        (
            windows,
            "restricted",
            25,
            "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), \
            unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), seccompProfile (pod or container \"a\" must \
            set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            "",
        ),
    ] {
        assert_eq!(told(&format!("{level}:v1.{}", first - 1), &pod), before, "{pod}");
        assert_eq!(told(&format!("{level}:v1.{first}"), &pod), since, "{pod}");
    }
}

#[test]
fn findings_stand_in_upstreams_order() {
    let everything = json!({"spec": {"hostPID": true, "volumes": [{"name": "h", "hostPath": {}}], "securityContext": {"sysctls": [{"name": "x"}],
        "seLinuxOptions": {"user": "u"}, "seccompProfile": {"type": "Unconfined"}, "appArmorProfile": {"type": "Unconfined"},
        "windowsOptions": {"hostProcess": true}, "runAsUser": 0}, "containers": [{"name": "a", "ports": [{"hostPort": 1}],
        "securityContext": {"privileged": true, "procMount": "Unmasked", "capabilities": {"add": ["BPF"]}}}]}});
    let reasons = |level: &str| {
        said(standard(level), &json!({}), &everything["spec"], |finding| finding.reason.clone()).unwrap()
    };
    let baseline = "forbidden AppArmor profile, non-default capabilities, host namespaces, hostPath volumes, hostPort, privileged, procMount, \
        seLinuxOptions, seccompProfile, forbidden sysctls, hostProcess";
    assert_eq!(reasons("baseline:latest"), baseline);
    assert_eq!(
        reasons("restricted:latest"),
        "forbidden AppArmor profile, host namespaces, hostPort, privileged, procMount, seLinuxOptions, forbidden sysctls, hostProcess, \
         allowPrivilegeEscalation != false, unrestricted capabilities, restricted volume types, runAsNonRoot != true, runAsUser=0, seccompProfile"
    );
    let all: BTreeSet<&str> = baseline.split(", ").collect();
    assert_eq!(all.len(), 11, "each check once");
}
