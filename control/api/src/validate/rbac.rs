//! Roles and their bindings.
//!
//! Source: k8s.io/kubernetes/pkg/apis/rbac/validation/validation.go.

use serde_json::Value;

use super::{Errors, list, text};
use crate::catalogue::{CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, Kind};
use crate::meta as rules;
use crate::selector::Selector;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn role(errors: &mut Errors, kind: &Kind, object: &Value) {
    let cluster = *kind == CLUSTER_ROLES;
    for (i, rule) in list(object, "rules").iter().enumerate() {
        check_rule(errors, &format!("rules[{i}]"), rule, cluster);
    }
    let aggregation = &object["aggregationRule"];
    if !cluster || aggregation.is_null() {
        return;
    }
    let selectors = list(aggregation, "clusterRoleSelectors");
    if selectors.is_empty() {
        let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        errors.required("aggregationRule.clusterRoleSelectors", why);
    }
    for (i, selector) in selectors.iter().enumerate() {
        let path = format!("aggregationRule.clusterRoleSelectors[{i}]");
        super::meta::labels(errors, &format!("{path}.matchLabels"), selector.get("matchLabels"));
        if let Err(why) = Selector::from_label_selector(Some(selector)) {
            errors.invalid(path, selector, why);
        }
    }
}

fn check_rule(errors: &mut Errors, path: &str, rule: &Value, cluster: bool) {
    let none = |field: &str| list(rule, field).is_empty();
    if none("verbs") {
        errors.required(format!("{path}.verbs"), "verbs must contain at least one value");
    }
    if !none("nonResourceURLs") {
        let (field, value) = (format!("{path}.nonResourceURLs"), &rule["nonResourceURLs"]);
        if !cluster {
            errors.invalid(&field, value, "namespaced rules cannot apply to non-resource URLs");
        }
        if !none("apiGroups") || !none("resources") || !none("resourceNames") {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.invalid(&field, value, why);
        }
        return;
    }
    if none("apiGroups") {
        errors.required(format!("{path}.apiGroups"), "resource rules must supply at least one api group");
    }
    if none("resources") {
        errors.required(format!("{path}.resources"), "resource rules must supply at least one resource");
    }
}

pub(super) fn binding(errors: &mut Errors, kind: &Kind, object: &Value) {
    let cluster = *kind == CLUSTER_ROLE_BINDINGS;
    let role = &object["roleRef"];
    let word = |field: &str| Value::from(text(role, field));
    errors.one_of("roleRef.apiGroup", &word("apiGroup"), &[GROUP]);
    let kinds: &[&str] = if cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
    errors.one_of("roleRef.kind", &word("kind"), kinds);
    let name = text(role, "name");
    if name.is_empty() {
        errors.required("roleRef.name", "");
    } else if let Err(why) = rules::check_path_segment(name) {
        errors.invalid("roleRef.name", format!("{name:?}"), why);
    }
    for (i, subject) in list(object, "subjects").iter().enumerate() {
        check_subject(errors, &format!("subjects[{i}]"), subject, cluster);
    }
}

fn check_subject(errors: &mut Errors, path: &str, subject: &Value, cluster: bool) {
    let name = text(subject, "name");
    if name.is_empty() {
        errors.required(format!("{path}.name"), "");
    }
    let group = Value::from(text(subject, "apiGroup"));
    match text(subject, "kind") {
        "ServiceAccount" => {
            if !name.is_empty()
                && let Err(why) = rules::check_dns1123_subdomain(name)
            {
                errors.invalid(format!("{path}.name"), format!("{name:?}"), why);
            }
            errors.one_of(&format!("{path}.apiGroup"), &group, &[""]);
            if cluster && text(subject, "namespace").is_empty() {
                errors.required(format!("{path}.namespace"), "");
            }
        }
        "User" | "Group" => errors.one_of(&format!("{path}.apiGroup"), &group, &[GROUP]),
        other => {
            errors.one_of(&format!("{path}.kind"), &Value::from(other), &["ServiceAccount", "User", "Group"]);
        }
    }
}

/// Whoever may change a binding must not be able to bind another role.
pub(super) fn binding_update(errors: &mut Errors, old: &Value, new: &Value) {
    let (was, is) = (&old["roleRef"], &new["roleRef"]);
    if ["apiGroup", "kind", "name"].iter().any(|field| text(was, field) != text(is, field)) {
        let [group, kind, name] = ["apiGroup", "kind", "name"].map(|field| text(is, field));
        let value = format!("rbac.RoleRef{{APIGroup:{group:?}, Kind:{kind:?}, Name:{name:?}}}");
        errors.invalid("roleRef", value, "cannot change roleRef");
    }
}
