//! Removes the directories of volumes that nobody has any more, and says so: the control plane lets the volume go then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use oarlock_api::k8s::api::core::v1::PersistentVolume;
use oarlock_api::node::EventReport;
use oarlock_api::storage::{LOCAL_FINALIZER, VOLUME_PROTECTION, local_node};
use oarlock_daemon::Tasks;
use serde_json::json;

use crate::desired::{Desired, Topic};
use crate::outbox::Outbox;
use crate::volumes::Volumes;

/// A directory that cannot be removed is tried again after this time.
const AGAIN: Duration = Duration::from_secs(30);

/// What it takes.
pub(crate) struct Released {
    pub(crate) node: String,
    pub(crate) desired: Arc<Desired>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) volumes: Volumes,
}

impl Released {
    /// Runs until shutdown.
    pub(crate) async fn run(self, tasks: Tasks) {
        let mut changed = self.desired.subscribe(Topic::Pods);
        let token = tasks.token();
        let mut done = BTreeSet::new();
        loop {
            let whole = self.look(&mut done).await;
            let again = if whole { Duration::MAX } else { AGAIN };
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(again) => {}
                () = token.cancelled() => return,
            }
        }
    }

    /// Removes what is to go; false if something could not be.
    async fn look(&self, done: &mut BTreeSet<String>) -> bool {
        let (snapshot, complete) = self.desired.snapshot();
        if !complete {
            return true;
        }
        let uids: BTreeSet<&str> =
            snapshot.persistent_volumes.values().filter_map(|v| v.metadata.uid.as_deref()).collect();
        self.outbox.retain_volumes(|uid| uids.contains(uid));
        done.retain(|uid| uids.contains(uid.as_str()));
        let mut whole = true;
        for volume in snapshot.persistent_volumes.values().filter(|volume| is_released(volume, &self.node)) {
            let (Some(name), Some(uid)) = (&volume.metadata.name, &volume.metadata.uid) else { continue };
            if done.contains(uid) {
                continue;
            }
            let (volumes, going) = (self.volumes.clone(), Arc::clone(volume));
            let work = tokio::task::spawn_blocking(move || volumes.remove_claimed(&going));
            match work.await.map_err(|e| e.to_string()).and_then(|removed| removed) {
                Ok(()) => {
                    tracing::info!(volume = %name, "directory removed");
                    done.insert(uid.clone());
                    self.outbox.volume_gone(name, uid);
                }
                Err(why) => {
                    whole = false;
                    self.say(name, uid, why);
                }
            }
        }
        whole
    }

    fn say(&self, name: &str, uid: &str, why: String) {
        tracing::warn!(volume = %name, why, "the directory of a volume cannot be removed; trying again");
        let object = json!({"kind": "PersistentVolume", "apiVersion": "v1", "name": name, "uid": uid});
        self.outbox.event(EventReport {
            involved_object: object.to_string().into_bytes().into(),
            r#type: "Warning".to_owned(),
            reason: "VolumeFailedDelete".to_owned(),
            message: why,
            component: "oarlock.io/local".to_owned(),
        });
    }
}

/// A directory of this node whose volume is being deleted, that no claim has, and that is not to be kept.
fn is_released(volume: &PersistentVolume, node: &str) -> bool {
    let metadata = &volume.metadata;
    let held_by = |name: &str| metadata.finalizers.iter().flatten().any(|f| f == name);
    let policy = volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref());
    metadata.deletion_timestamp.is_some()
        && held_by(LOCAL_FINALIZER)
        && !held_by(VOLUME_PROTECTION)
        && policy == Some("Delete")
        && serde_json::to_value(volume).is_ok_and(|value| local_node(&value) == Some(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_has_and_nobody_wants_to_keep_is_removed() {
        let volume = |finalizers: &[&str], policy: &str, node: &str, going: bool| -> PersistentVolume {
            let mut volume = json!({
                "metadata": {"name": "v", "finalizers": finalizers,
                    "annotations": {"pv.kubernetes.io/provisioned-by": "oarlock.io/local"}},
                "spec": {"persistentVolumeReclaimPolicy": policy, "local": {"path": "/v"},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}});
            if going {
                volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            serde_json::from_value(volume).unwrap()
        };
        let (free, used) = ([LOCAL_FINALIZER], [LOCAL_FINALIZER, VOLUME_PROTECTION]);
        assert!(is_released(&volume(&free, "Delete", "n1", true), "n1"));
        for kept in [
            volume(&free, "Delete", "n1", false),
            volume(&free, "Delete", "n2", true),
            volume(&free, "Retain", "n1", true),
            volume(&used, "Delete", "n1", true),
            volume(&[], "Delete", "n1", true),
        ] {
            assert!(!is_released(&kept, "n1"), "{kept:?}");
        }
    }
}
