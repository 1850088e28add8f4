//! What pods ask of the kernel, parts of volumes, sidecars, and containers that are added for debugging.

use serde_json::{Value, json};

use super::super::debug;
use super::{pod, said};
use crate::catalogue::PODS;
use crate::defaults;

fn with(more: Value, container: Value) -> Vec<String> {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    for (key, value) in container.as_object().unwrap() {
        spec["containers"][0][key] = value.clone();
    }
    said(&PODS, pod(spec))
}

#[test]
fn what_hardened_manifests_ask_for_is_taken() {
    let context = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroupChangePolicy": "OnRootMismatch",
        "appArmorProfile": {"type": "Localhost", "localhostProfile": "strict"}, "seLinuxOptions": {"level": "s0:c1"},
        "supplementalGroupsPolicy": "Strict", "runAsGroup": 7, "sysctls": [{"name": "net/ipv4/tcp_syncookies", "value": "1"}]});
    let spec = json!({"securityContext": context, "shareProcessNamespace": true, "setHostnameAsFQDN": true, "hostIPC": true,
        "hostUsers": true, "os": {"name": "linux"}, "runtimeClassName": "sandboxed", "overhead": {"cpu": "10m"}, "readinessGates": [{"conditionType": "example.com/lb"}],
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always",
            "startupProbe": {"grpc": {"port": 5000}}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}]});
    let container = json!({"lifecycle": {"stopSignal": "SIGRTMIN+3"}, "securityContext": {"procMount": "Default", "seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}},
        "livenessProbe": {"grpc": {"port": 5000, "service": "s"}, "terminationGracePeriodSeconds": 3},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "NotRequired"}],
        "volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": "a/b", "mountPropagation": "HostToContainer"},
            {"name": "v", "mountPath": "/b", "subPathExpr": "$(X)", "readOnly": true, "recursiveReadOnly": "IfPossible"}]});
    assert_eq!(with(spec, container), [""; 0]);
}

#[test]
fn rights_that_make_no_sense_are_explained() {
    let profile = |kind: &str, file: &str| json!({"type": kind, "localhostProfile": file});
    let context = |context: Value| with(json!({"securityContext": context}), json!({}));
    let at = "spec.securityContext";
    for (asked, expected) in [
        (
            json!({"seccompProfile": profile("Localhost", "")}),
            "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
        (
            json!({"seccompProfile": profile("Localhost", "/etc")}),
            "seccompProfile.localhostProfile: Invalid value: \"/etc\": must be a relative path",
        ),
        (
            json!({"seccompProfile": profile("Unconfined", "x")}),
            "seccompProfile.localhostProfile: Invalid value: \"x\": can only be set when seccomp type is Localhost",
        ),
        (
            json!({"seccompProfile": {"type": "Best"}}),
            "seccompProfile.type: Unsupported value: \"Best\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
        ),
        (
            json!({"fsGroupChangePolicy": "Never"}),
            "fsGroupChangePolicy: Unsupported value: \"Never\": supported values: \"OnRootMismatch\", \"Always\"",
        ),
        (json!({"sysctls": [{"name": "", "value": "1"}]}), "sysctls[0].name: Required value"),
        (
            json!({"sysctls": [{"name": "Net.x", "value": "1"}]}),
            "sysctls[0].name: Invalid value: \"Net.x\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ),
        (
            json!({"supplementalGroupsPolicy": "Strict"}),
            "supplementalGroupsPolicy: Forbidden: Strict is supported by this version of Oarlock only with `runAsGroup` beside it",
        ),
    ] {
        assert_eq!(context(asked.clone()), [format!("{at}.{expected}")], "{asked}");
    }
    let parameter = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    for (field, name) in [("hostNetwork", "net/ipv4/tcp_syncookies"), ("hostIPC", "kernel.shm_rmid_forced")] {
        let why = format!(
            "{at}.sysctls[0].name: Invalid value: {name:?}: may not be specified when '{field}' is true"
        );
        assert_eq!(with(json!({field: true, "securityContext": parameter(name)}), json!({})), [why]);
        assert_eq!(with(json!({field: true, "securityContext": parameter("vm.x")}), json!({})), [""; 0]);
    }
    let container = |container: Value| with(json!({}), container);
    let mount = |more: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/a"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        container(json!({"volumeMounts": [mount]}))
    };
    let at = "spec.containers[0].volumeMounts[0]";
    for (asked, expected) in [
        (json!({"subPath": "../x"}), "subPath: Invalid value: \"../x\": must not contain '..'"),
        (
            json!({"subPath": "x", "subPathExpr": "y"}),
            "subPathExpr: Invalid value: \"y\": subPathExpr and subPath are mutually exclusive",
        ),
        (
            json!({"mountPropagation": "Bidirectional"}),
            "mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
        ),
        (
            json!({"recursiveReadOnly": "IfPossible"}),
            "recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
    ] {
        assert_eq!(mount(asked.clone()), [format!("{at}.{expected}")], "{asked}");
    }
    let at = "spec.containers[0]";
    for (asked, expected) in [
        (
            json!({"restartPolicy": "Always"}),
            "restartPolicy: Forbidden: may not be set for non-init containers",
        ),
        (
            json!({"readinessProbe": {"grpc": {"port": 1}, "terminationGracePeriodSeconds": 1}}),
            "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ),
        (
            json!({"lifecycle": {"stopSignal": "SIGUSR1"}}),
            "lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        ),
        (
            json!({"livenessProbe": {"grpc": {"port": 0}}}),
            "livenessProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
    ] {
        assert_eq!(container(asked.clone()), [format!("{at}.{expected}")], "{asked}");
    }
}

#[test]
fn what_a_runtime_class_gives_and_how_a_container_ends_is_checked() {
    let signal =
        |name: &str| with(json!({"os": {"name": "linux"}}), json!({"lifecycle": {"stopSignal": name}}));
    for known in ["SIGTERM", "SIGRTMIN", "SIGRTMAX-14"] {
        assert_eq!(signal(known), [""; 0], "{known}");
    }
    for unknown in ["TERM", "SIGRTMIN+16", "SIGRTMAX-0", "SIGRTMIN-1"] {
        let said = signal(unknown);
        let expected =
            format!("spec.containers[0].lifecycle.stopSignal: Unsupported value: {unknown:?}: supported");
        assert!(said.len() == 1 && said[0].starts_with(&expected), "{said:?}");
    }
    let said = with(json!({"runtimeClassName": "No!", "overhead": {"cpu": "-1"}}), json!({}));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said.iter().any(|why| why.starts_with("spec.runtimeClassName: Invalid value: \"No!\"")),
        "{said:?}"
    );
    let why = "spec.overhead[cpu]: Invalid value: \"-1\": must be greater than or equal to 0".to_owned();
    assert!(said.contains(&why), "{said:?}");
}

#[test]
fn containers_are_added_for_debugging_and_stay_as_they_are() {
    let added = |more: Value| {
        let mut one = json!({"name": "d", "image": "i", "targetContainerName": "c", "stdin": true, "tty": true, "resources": {}});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one
    };
    let with = |containers: Value| {
        let mut pod =
            pod(json!({"containers": [{"name": "c", "image": "i"}], "ephemeralContainers": containers}));
        defaults::apply(&PODS, &mut pod);
        pod
    };
    let said = |old: Value, new: Value| {
        debug(&with(old), &with(new))
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect::<Vec<_>>()
    };
    let none = json!([]);
    assert_eq!(said(none.clone(), json!([added(json!({}))])), [""; 0]);
    for (asked, expected) in [
        (
            json!({"targetContainerName": "x"}),
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
        ),
        (
            json!({"ports": [{"containerPort": 1}]}),
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (json!({"name": "c"}), "spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
    ] {
        assert_eq!(said(none.clone(), json!([added(asked)])), [expected]);
    }
    let there = json!([added(json!({}))]);
    for (now, what) in [(none, "removed"), (json!([added(json!({"image": "j"}))]), "changed")] {
        let expected = format!(
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be {what}\n"
        );
        assert_eq!(said(there.clone(), now), [expected]);
    }
    let created = super::said(&PODS, with(there));
    assert_eq!(created, ["spec.ephemeralContainers: Forbidden: cannot be set on create"]);
}
