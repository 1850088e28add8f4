//! Deletion: at once, gracefully (pods), or when the last finalizer is gone.

use jiff::{SignedDuration, Timestamp};
use oarlock_api::catalogue::{Kind, NAMESPACES, PODS};
use oarlock_api::meta;
use oarlock_api::status::{Cause, Status};
use oarlock_store::Compare;
use serde_json::{Value, json};

use super::{ATTEMPTS, Registry};

/// `metav1.DeleteOptions`, as far as they matter here.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace_period_seconds: Option<i64>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// `propagationPolicy`: Background, Foreground or Orphan.
    pub propagation_policy: Option<String>,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// A pod goes by an eviction: its conditions say so.
    pub evicted: bool,
}

/// What became of the object.
#[derive(Debug, Clone, PartialEq)]
pub enum Deleted {
    /// It is gone; this is how it was last.
    Gone(Value),
    /// It is being deleted, and is there until somebody has finished.
    Terminating(Value),
}

/// What to do with an object that is to be deleted.
#[derive(Debug, PartialEq)]
enum Decision {
    Remove,
    Write(Value),
    /// It is on its way already.
    Nothing,
}

impl Registry {
    /// Deletes an object.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` (a precondition), `Forbidden` (what the cluster cannot be without), or the store is away.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        if *kind == NAMESPACES && ["default", "kube-system", "kube-public"].contains(&name) {
            return Err(Status::forbidden(kind, name, "this namespace may not be deleted"));
        }
        for _ in 0..ATTEMPTS {
            let present = self.read(kind, namespace, name).await?;
            check_preconditions(kind, &present.value, options)?;
            match decide(kind, &present.value, options, Timestamp::now())? {
                Decision::Nothing => return Ok(Deleted::Terminating(present.value)),
                Decision::Remove => {
                    let compare = Compare::ModifiedAt(present.record.key.clone(), present.record.modified);
                    if options.dry_run
                        || self.commit_removal(kind, compare, &present.record.key, &present.value).await?
                    {
                        return Ok(Deleted::Gone(present.value));
                    }
                }
                Decision::Write(next) => {
                    if let Some(written) = self
                        .commit_update(kind, &present.record, next, (Vec::new(), &[]), options.dry_run)
                        .await?
                    {
                        return Ok(Deleted::Terminating(written));
                    }
                }
            }
        }
        Err(Status::modified(kind, name))
    }
}

fn check_preconditions(kind: &Kind, present: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let name = meta::name(present);
    let differs = |wanted: &Option<String>, is: &str| wanted.as_ref().is_some_and(|w| w != is);
    if differs(&options.uid, meta::uid(present)) {
        let wanted = options.uid.as_deref().unwrap_or_default();
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
            meta::uid(present)
        );
        return Err(Status::conflict(kind, name, &why));
    }
    if differs(&options.resource_version, meta::resource_version(present)) {
        let wanted = options.resource_version.as_deref().unwrap_or_default();
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {wanted}, ResourceVersion in object meta: {}",
            meta::resource_version(present)
        );
        return Err(Status::conflict(kind, name, &why));
    }
    Ok(())
}

fn decide(kind: &Kind, present: &Value, options: &DeleteOptions, now: Timestamp) -> Result<Decision, Status> {
    let mut next = present.clone();
    set_propagation(&mut next, options.propagation_policy.as_deref())?;
    let held =
        meta::finalizers(&next).next().is_some() || (*kind == NAMESPACES && has_spec_finalizers(&next));
    let grace = if *kind == PODS { pod_grace(present, options.grace_period_seconds) } else { 0 };
    if grace == 0 && !held {
        return Ok(Decision::Remove);
    }
    let old_grace = present["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if meta::is_terminating(present) && grace >= old_grace {
        // Nothing becomes shorter; only the finalizers may have changed.
        return Ok(if next == *present { Decision::Nothing } else { Decision::Write(next) });
    }
    if options.evicted {
        say_evicted(&mut next, now);
    }
    let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    let metadata = meta::metadata_mut(&mut next);
    metadata.insert("deletionTimestamp".to_owned(), json!(meta::time(end)));
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if kind.has_generation {
        let generation = present["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
        meta::metadata_mut(&mut next).insert("generation".to_owned(), json!(generation));
    }
    if *kind == NAMESPACES {
        next["status"]["phase"] = json!("Terminating");
    }
    Ok(Decision::Write(next))
}

/// In the same write as the deletion, so that no pod ever says so and stays.
fn say_evicted(pod: &mut Value, now: Timestamp) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "lastProbeTime": null, "lastTransitionTime": meta::time(now),
        "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
    });
    let status = meta::map_at(meta::map_of(pod), "status");
    if let Some(conditions) = status.entry("conditions").or_insert_with(|| json!([])).as_array_mut() {
        conditions.retain(|c| c["type"] != "DisruptionTarget");
        conditions.push(condition);
    }
}

/// How long a pod has: what was asked for, else what it says itself; a pod that no node runs needs none.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !scheduled || ended {
        return 0;
    }
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    asked.unwrap_or(own).max(0)
}

fn has_spec_finalizers(object: &Value) -> bool {
    object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

fn set_propagation(object: &mut Value, policy: Option<&str>) -> Result<(), Status> {
    let wanted = match policy {
        None => return Ok(()),
        Some("Background") => None,
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        Some(other) => {
            let known = r#"supported values: "Foreground", "Background", "Orphan", "nil""#;
            let cause = Cause {
                reason: "FieldValueNotSupported".to_owned(),
                message: format!("Unsupported value: {other:?}: {known}"),
                field: "propagationPolicy".to_owned(),
            };
            return Err(Status::invalid_kind("meta.k8s.io", "DeleteOptions", "", vec![cause]));
        }
    };
    let metadata = meta::metadata_mut(object);
    let mut finalizers: Vec<Value> =
        metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
    finalizers.retain(|f| f != "foregroundDeletion" && f != "orphan");
    finalizers.extend(wanted.map(|w| json!(w)));
    if finalizers.is_empty() {
        metadata.shift_remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), json!(finalizers));
    }
    Ok(())
}
