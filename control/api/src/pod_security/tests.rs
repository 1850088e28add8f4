//! Labels and checks, each with the words that kubectl shows.

use std::sync::Arc;

use serde_json::json;

use super::*;

mod words;

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
    assert_eq!(policy.audit.level, Level::Privileged);
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
fn what_is_enforced_is_warned_of_unless_the_labels_say_else() {
    let warned = |labels: &[(&str, &str)]| {
        let label =
            |(mode, value): &(&str, &str)| (format!("pod-security.kubernetes.io/{mode}"), json!(value));
        let labels: serde_json::Map<_, _> = labels.iter().map(label).collect();
        Policy::of(&namespace(labels.into())).warn.to_string()
    };
    assert_eq!(warned(&[("enforce", "baseline")]), "baseline:latest");
    assert_eq!(warned(&[("enforce", "baseline"), ("enforce-version", "v1.20")]), "baseline:v1.20");
    assert_eq!(warned(&[("enforce", "restricted"), ("warn-version", "v1.30")]), "restricted:v1.30");
    assert_eq!(warned(&[("enforce", "restricted"), ("warn", "privileged")]), "privileged:latest");
    assert_eq!(warned(&[("enforce", "restricted"), ("warn", "high")]), "privileged:latest");
    assert_eq!(warned(&[("enforce", "high")]), "privileged:latest", "it was not asked for");
    assert_eq!(warned(&[("enforce-version", "v1.20")]), "privileged:latest");
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
    assert_eq!(
        warnings_of_change(&at("baseline"), &at("restricted"), || pods().into_iter().take(2).collect()),
        [
            "existing pods in namespace \"d\" violate the new PodSecurity enforce level \"restricted:latest\"",
            "b: privileged, allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile",
        ]
    );
    assert!(warnings_of_change(&at("restricted"), &at("baseline"), pods).is_empty(), "it was more before");
    assert!(warnings_of_change(&at("baseline"), &at("baseline"), pods).is_empty());
}

#[test]
fn of_very_many_pods_one_of_each_controller_is_looked_at_first() {
    let at = |level: &str| namespace(json!({"pod-security.kubernetes.io/enforce": level}));
    let pods = || {
        let of = |name: String, owner: &str, host: bool| {
            let owners = json!([{"controller": true, "uid": owner}]);
            Arc::new(
                json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": {"hostPID": host}}),
            )
        };
        let many = (0..MOST).map(|index| of(format!("a{index}"), "one", false));
        many.chain([of("z".to_owned(), "another", true)]).collect()
    };
    assert_eq!(
        warnings_of_change(&at("privileged"), &at("baseline"), pods),
        [
            "new PodSecurity enforce level only checked against the first 3000 of 3001 existing pods",
            "existing pods in namespace \"d\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "z: host namespaces",
        ]
    );
}

#[test]
fn only_images_of_a_pod_count_when_it_changes() {
    let old = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "1"}]}});
    let mut new = old.clone();
    new["metadata"] = json!({"labels": {"a": "b"}, "annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}});
    assert!(!is_significant(&old, &new));
    new["spec"]["containers"][0]["image"] = json!("2");
    assert!(is_significant(&old, &new));
}
