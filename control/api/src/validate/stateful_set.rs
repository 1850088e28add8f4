//! StatefulSets: how pods are managed and updated, and what may change later.
//!
//! Source: k8s.io/kubernetes/pkg/apis/apps/validation/validation.go.

use serde_json::Value;

use super::{Errors, list, workload};

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
    if !list(spec, "volumeClaimTemplates").is_empty() {
        errors.unsupported("spec.volumeClaimTemplates");
    }
    workload::selector_and_template(errors, spec, "statefulset");
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
