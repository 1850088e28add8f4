//! Pod security: what a namespace enforces of its pods, and what whoever writes is told of beside that.
//!
//! Source: k8s.io/pod-security-admission/admission.

use oarlock_api::catalogue::{Kind, NAMESPACES, PODS};
use oarlock_api::pod_security::{self, Level, Policy};
use oarlock_api::status::Status;
use oarlock_api::{defaults, meta};
use serde_json::Value;

use super::super::Registry;

/// Refuses a pod that is against what its namespace enforces.
pub(in super::super) fn is_within(policy: &Policy, kind: &Kind, pod: &Value) -> Result<(), Status> {
    if *kind != PODS || policy.enforce.level == Level::Privileged {
        return Ok(());
    }
    match pod_security::violations(policy.enforce, &pod["metadata"], &pod["spec"]) {
        None => Ok(()),
        Some(found) => {
            let level = policy.enforce.to_string();
            Err(Status::forbidden(kind, meta::name(pod), &format!("violates PodSecurity {level:?}: {found}")))
        }
    }
}

/// Whether writes of this kind may give [`Registry::security_warnings`].
#[must_use]
pub fn may_warn(kind: &Kind) -> bool {
    *kind == NAMESPACES || pod_security::makes_pods(kind.plural)
}

impl Registry {
    /// What a namespace asks of its pods.
    pub(in super::super) fn policy(&self, namespace: &str) -> Policy {
        let namespace = self.cache.get(&NAMESPACES, "", namespace);
        namespace.map(|namespace| Policy::of(&namespace.value())).unwrap_or_default()
    }

    /// What a client is warned of that writes an object; what its namespace audits goes to the log.
    #[must_use]
    pub fn security_warnings(&self, kind: &'static Kind, old: Option<&Value>, new: &Value) -> Vec<String> {
        if *kind == NAMESPACES {
            let pods =
                || self.cache.list(&PODS, Some(meta::name(new))).0.iter().map(|pod| pod.value()).collect();
            return old.map_or_else(Vec::new, |old| pod_security::warnings_of_change(old, new, pods));
        }
        let policy = self.policy(meta::namespace(new));
        if policy.is_open() || *kind == PODS && old.is_some_and(|old| !pod_security::is_significant(old, new))
        {
            return Vec::new();
        }
        let mut completed = new.clone();
        defaults::apply(kind, &mut completed);
        let Some((metadata, spec)) = pod_security::template(kind.plural, &completed) else {
            return Vec::new();
        };
        if let Some(found) = pod_security::violations(policy.audit, metadata, spec) {
            let (object, level) = (meta::name(new), policy.audit.to_string());
            let namespace = meta::namespace(new);
            tracing::info!(
                kind = kind.kind,
                namespace,
                object,
                level,
                found,
                "would violate the PodSecurity level that its namespace audits"
            );
        }
        let found = pod_security::violations(policy.warn, metadata, spec);
        let level = policy.warn.to_string();
        found.map(|found| format!("would violate PodSecurity {level:?}: {found}")).into_iter().collect()
    }
}
