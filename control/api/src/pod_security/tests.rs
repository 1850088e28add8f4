//! Labels and checks, each with the words that kubectl shows.

use std::sync::Arc;

use serde_json::json;

use super::*;

fn namespace(labels: Value) -> Value {
    json!({"metadata": {"name": "d", "labels": labels}})
}

fn standard(text: &str) -> Standard {
    let (level, version) = text.split_once(':').unwrap();
    let labels = json!({"pod-security.kubernetes.io/enforce": level, "pod-security.kubernetes.io/enforce-version": version});
    let standard = Policy::of(&namespace(labels)).enforce;
    assert_eq!(standard.to_string(), text);
    standard
}

fn found(level: &str, spec: Value) -> String {
    violations(standard(level), &json!({}), &spec).unwrap_or_default()
}

#[test]
fn labels_choose_a_level_for_each_mode() {
    assert!(Policy::of(&namespace(json!({}))).is_open());
    let policy = Policy::of(&namespace(json!({"pod-security.kubernetes.io/warn": "baseline"})));
    assert_eq!((policy.enforce.level, policy.warn.level), (Level::Privileged, Level::Baseline));
    let bad = namespace(json!({
        "pod-security.kubernetes.io/enforce": "high", "pod-security.kubernetes.io/warn": "high",
        "pod-security.kubernetes.io/audit-version": "v1.01"}));
    let policy = Policy::of(&bad);
    assert_eq!((policy.enforce.level, policy.warn.level), (Level::Restricted, Level::Privileged));
    let said: Vec<_> = bad_labels(&bad).into_iter().map(|bad| (bad.label, bad.value, bad.why)).collect();
    let label = |mode: &str| format!("pod-security.kubernetes.io/{mode}");
    let levels = "must be one of privileged, baseline, restricted";
    assert_eq!(
        said,
        [
            (label("enforce"), "high".to_owned(), levels),
            (label("audit-version"), "v1.01".to_owned(), "must be \"latest\" or \"v1.x\""),
            (label("warn"), "high".to_owned(), levels),
        ]
    );
}

#[test]
fn a_plain_pod_is_within_the_baseline_and_is_told_what_restricted_wants() {
    let plain = json!({"containers": [{"name": "a"}]});
    assert_eq!(found("baseline:latest", plain.clone()), "");
    assert_eq!(found("privileged:latest", json!({"hostNetwork": true})), "");
    assert_eq!(
        found("restricted:latest", plain.clone()),
        "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), unrestricted \
         capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \
         \"a\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"a\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(
        found("restricted:v1.7", plain),
        "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)"
    );
    let good = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}, "containers": [{
        "name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
    assert_eq!(found("restricted:latest", good), "");
}

#[test]
fn each_check_has_upstreams_words() {
    let with = |security: Value| json!({"containers": [{"name": "a", "securityContext": security}, {"name": "b", "securityContext": security}]});
    let volumes = json!({"containers": [], "volumes": [{"name": "h", "hostPath": {"path": "/"}}, {"name": "e", "emptyDir": {}}]});
    for (level, spec, said) in [
        (
            "baseline:latest",
            with(json!({"privileged": true, "capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}})),
            "non-default capabilities (containers \"a\", \"b\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add), \
             privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
        ),
        ("baseline:latest", volumes.clone(), "hostPath volumes (volume \"h\")"),
        (
            "restricted:latest",
            volumes,
            "restricted volume types (volume \"h\" uses restricted volume type \"hostPath\")",
        ),
        (
            "baseline:latest",
            json!({"hostPID": true, "hostNetwork": true, "initContainers": [{"name": "i", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]}),
            "host namespaces (hostNetwork=true, hostPID=true), hostPort (container \"i\" uses hostPorts 443, 80)",
        ),
        (
            "baseline:latest",
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}, "seLinuxOptions": {"type": "x", "user": "u"},
                "sysctls": [{"name": "net.ipv4.tcp_rmem"}, {"name": "kernel.msgmax"}]},
                "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked", "seccompProfile": {"type": "Unconfined"}}}]}),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\"), seLinuxOptions (pod set forbidden \
             securityContext.seLinuxOptions: type \"x\"; user may not be set), seccompProfile (pod and container \"a\" must not set \
             securityContext.seccompProfile.type to \"Unconfined\"), forbidden sysctls (kernel.msgmax)",
        ),
        (
            "restricted:v1.21",
            json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": false, "seccompProfile": {"type": "Localhost"}},
                "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_RAW"]}}}]}),
            "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add), runAsNonRoot != \
             true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            "restricted:v1.23",
            json!({"securityContext": {"runAsUser": 0, "runAsNonRoot": true, "seccompProfile": {"type": "Localhost"}}, "containers": [{
                "name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_RAW"]}}}]}),
            "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"a\" must not \
             include \"NET_RAW\" in securityContext.capabilities.add), runAsUser=0 (pod must not set runAsUser=0)",
        ),
    ] {
        assert_eq!(found(level, spec), said);
    }
    let annotated =
        json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}});
    assert_eq!(
        violations(standard("baseline:latest"), &annotated, &json!({})).unwrap(),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \
         \"container.apparmor.security.beta.kubernetes.io/a=\\\"unconfined\\\"\")"
    );
    let unconfined = json!({"appArmorProfile": {"type": "Unconfined"}});
    let ephemeral = json!({"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}, "containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "e", "securityContext": unconfined}]});
    assert_eq!(
        found("baseline:latest", ephemeral),
        "forbidden AppArmor profile (container \"e\" must not set AppArmor profile type to \"Unconfined\")"
    );
}

#[test]
fn whoever_raises_a_level_is_warned_of_pods_that_are_there() {
    let pod = |name: &str, spec: Value| Arc::new(json!({"metadata": {"name": name}, "spec": spec}));
    let pods = || {
        let root = json!({"containers": [{"name": "c", "securityContext": {"privileged": true}}]});
        vec![
            pod("b", root.clone()),
            pod("plain", json!({"containers": []})),
            pod("a", root.clone()),
            pod("c", root),
            pod("h", json!({"hostPID": true})),
        ]
    };
    let at = |level: &str| namespace(json!({"pod-security.kubernetes.io/enforce": level}));
    assert_eq!(
        warnings_of_change(&at("privileged"), &at("baseline"), pods),
        [
            "existing pods in namespace \"d\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): privileged",
            "h: host namespaces",
        ]
    );
    assert!(warnings_of_change(&at("restricted"), &at("baseline"), pods).is_empty(), "it was more before");
    assert!(warnings_of_change(&at("baseline"), &at("baseline"), pods).is_empty());
}

#[test]
fn only_images_and_profiles_of_a_pod_count_when_it_changes() {
    let old = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "1"}]}});
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    assert!(!is_significant(&old, &new));
    new["spec"]["containers"][0]["image"] = json!("2");
    assert!(is_significant(&old, &new));
}
