//! StatefulSets: how pods are managed and updated, and what may change later.
//!
//! Source: k8s.io/kubernetes/pkg/apis/apps/validation/validation.go.

use serde_json::{Value, json};

use super::{Errors, list, workload};
use crate::meta as rules;

pub(super) fn check(errors: &mut Errors, spec: &Value) {
    let policy = &spec["podManagementPolicy"];
    if !matches!(policy.as_str(), Some("OrderedReady" | "Parallel")) {
        let why = "must be 'OrderedReady' or 'Parallel'";
        errors.invalid("spec.podManagementPolicy", policy, why);
    }
    strategy(errors, &spec["updateStrategy"]);
    for field in ["whenDeleted", "whenScaled"] {
        let path = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        let policy = &spec["persistentVolumeClaimRetentionPolicy"][field];
        errors.one_of(&path, policy, &["Retain", "Delete"]);
    }
    workload::replicas(errors, spec);
    errors.not_negative("spec.ordinals.start", &spec["ordinals"]["start"]);
    errors.not_negative("spec.revisionHistoryLimit", &spec["revisionHistoryLimit"]);
    claims(errors, spec);
    workload::selector_and_template(errors, &with_claims(spec), "statefulset");
}

/// What claims would be refused for later.
fn claims(errors: &mut Errors, spec: &Value) {
    let templates = list(spec, "volumeClaimTemplates");
    for (i, template) in templates.iter().enumerate() {
        let (path, name) = (format!("spec.volumeClaimTemplates[{i}]"), rules::name(template));
        if name.is_empty() {
            errors.required(format!("{path}.metadata.name"), "");
        } else if let Err(why) = rules::check_dns1123_label(name) {
            errors.invalid(format!("{path}.metadata.name"), format!("{name:?}"), why);
        }
        super::meta::labels(errors, &format!("{path}.metadata.labels"), template["metadata"].get("labels"));
        super::storage::claim(errors, &format!("{path}.spec"), &template["spec"]);
    }
    let names = templates.iter().enumerate();
    errors.unique(
        names.map(|(i, t)| (format!("spec.volumeClaimTemplates[{i}].metadata.name"), rules::name(t))),
    );
}

/// The spec as pods see it: a volume for each claim, which mounts may name.
fn with_claims(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let claims = list(&spec, "volumeClaimTemplates").iter().map(rules::name);
    let claims = claims.map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let claims: Vec<Value> = claims.filter(|claim| claim["name"] != "").collect();
    if claims.is_empty() || !spec["template"]["spec"].is_object() {
        return spec;
    }
    let pod = &mut spec["template"]["spec"];
    let own = list(pod, "volumes").iter().filter(|v| claims.iter().all(|claim| claim["name"] != v["name"]));
    let all: Vec<Value> = own.cloned().chain(claims.iter().cloned()).collect();
    pod["volumes"] = json!(all);
    spec
}

fn strategy(errors: &mut Errors, strategy: &Value) {
    let path = "spec.updateStrategy.rollingUpdate";
    let rolling = strategy.get("rollingUpdate").filter(|r| !r.is_null());
    match (strategy["type"].as_str(), rolling) {
        (Some("OnDelete"), Some(rolling)) => {
            errors.invalid(path, rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        (Some("RollingUpdate"), Some(rolling)) => {
            errors.not_negative(&format!("{path}.partition"), &rolling["partition"]);
            let unavailable = rolling.get("maxUnavailable").filter(|value| !value.is_null());
            if let Some(value) = unavailable
                && workload::amount(errors, path, rolling, "maxUnavailable", true) == Some(0)
            {
                errors.invalid(format!("{path}.maxUnavailable"), value, "cannot be 0");
            }
        }
        (Some("OnDelete" | "RollingUpdate"), None) => {}
        _ => errors.invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// What may change in a spec that exists.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn check_update(errors: &mut Errors, old: &Value, new: &Value) {
    let fixed = |spec: &Value| {
        let fields = spec.as_object().into_iter().flatten();
        let fixed = fields.filter(|(name, value)| !CHANGEABLE.contains(&name.as_str()) && !value.is_null());
        fixed.map(|(name, value)| (name.clone(), value.clone())).collect::<serde_json::Map<_, _>>()
    };
    if fixed(old) != fixed(new) {
        errors.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
