//! What happens to a claim: it finds a volume or has one made, takes it, and tells when it is lost.

use oarlock_api::catalogue::{PERSISTENT_VOLUME_CLAIMS, STORAGE_CLASSES};
use oarlock_api::meta;
use oarlock_api::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, class_name, default_class, is_local_directory,
    wants_default_class,
};
use serde_json::{Value, json};

use super::{event, patch, provision, volume_name};
use crate::change::{Change, Part, Plan};
use crate::volumes;
use crate::world::{Held, Key, World};

/// A claim at work.
pub(super) struct Claim<'w> {
    pub(super) world: &'w World,
    pub(super) key: &'w Key,
    pub(super) held: &'w Held,
}

pub(super) fn plan(world: &World, key: &Key, held: &Held) -> Plan {
    let claim = Claim { world, key, held };
    let changes = if meta::annotation(&held.value, BIND_COMPLETED).is_some() {
        claim.bound()
    } else if meta::is_terminating(&held.value) {
        Vec::new()
    } else {
        claim.unbound()
    };
    Plan::of(changes)
}

impl<'w> Claim<'w> {
    pub(super) fn object(&self) -> &'w Value {
        &self.held.value
    }

    pub(super) fn say(&self, severity: &'static str, reason: &'static str, message: String) -> Change {
        event(&PERSISTENT_VOLUME_CLAIMS, self.key, self.object(), (severity, reason), message)
    }

    pub(super) fn patch(&self, part: Part, change: Value) -> Change {
        patch(&PERSISTENT_VOLUME_CLAIMS, self.key, self.held, part, change)
    }

    fn unbound(&self) -> Vec<Change> {
        match volume_name(self.object()) {
            Some(name) => self.asks_for(name),
            None => self.looks(),
        }
    }

    /// It names no volume.
    fn looks(&self) -> Vec<Change> {
        let claim = self.object();
        if wants_default_class(claim) {
            let classes = self.world.list(&STORAGE_CLASSES).map(|(_, held)| &*held.value);
            if let Some(class) = default_class(classes) {
                return vec![self.patch(Part::Main, json!({"spec": {"storageClassName": class}}))];
            }
        }
        let delayed = volumes::waits_for_pod(self.world, claim)
            && meta::annotation(claim, SELECTED_NODE).is_none_or(str::is_empty);
        if let Some((name, found)) = volumes::find(self.world, self.key, claim, None, delayed, &[]) {
            return if self.is_taken(found) {
                self.take(name, &found.value, true)
            } else {
                vec![volumes::give(name, found, self.key, claim)]
            };
        }
        if delayed {
            return vec![self.wait()];
        }
        if !class_name(claim).is_empty() {
            return provision::plan(self);
        }
        let why = "no persistent volumes available for this claim and no storage class is set";
        vec![self.say("Normal", "FailedBinding", why.to_owned())]
    }

    fn wait(&self) -> Change {
        let mut waiting = self.world.pods_with_claim(self.key).filter(|(_, pod)| pod.node.is_none());
        match waiting.next() {
            Some((pod, _)) => {
                let why = format!("waiting for pod {} to be scheduled", pod.1);
                self.say("Normal", "WaitForPodScheduled", why)
            }
            None => {
                let why = "waiting for first consumer to be created before binding";
                self.say("Normal", "WaitForFirstConsumer", why.to_owned())
            }
        }
    }

    /// The user has named its volume.
    fn asks_for(&self, name: &str) -> Vec<Change> {
        let claim = self.object();
        let Some(found) = volumes::volume(self.world, name) else { return Vec::new() };
        if self.is_taken(found) {
            return self.take(name, &found.value, false);
        }
        if !volumes::is_meant_for(&found.value, self.key, claim) && !found.value["spec"]["claimRef"].is_null()
        {
            let why = format!("volume {name:?} already bound to a different claim.");
            return vec![self.say("Warning", "FailedBinding", why)];
        }
        if meta::is_terminating(&found.value) {
            return Vec::new();
        }
        if let Some(why) = volumes::mismatch(&found.value, claim) {
            let why = format!("Cannot bind to requested volume {name:?}: {why}");
            return vec![self.say("Warning", "VolumeMismatch", why)];
        }
        vec![volumes::give(name, found, self.key, claim)]
    }

    /// Whether the volume names this very claim.
    fn is_taken(&self, volume: &Held) -> bool {
        let claim = self.object();
        volumes::is_meant_for(&volume.value, self.key, claim)
            && volume.value["spec"]["claimRef"]["uid"] == meta::uid(claim)
    }

    /// The second step: the claim names the volume that names it.
    fn take(&self, name: &str, volume: &Value, chosen: bool) -> Vec<Change> {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if chosen {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let change = json!({"metadata": {"annotations": annotations}, "spec": {"volumeName": name}});
        let mut changes = vec![self.patch(Part::Main, change)];
        if chosen && is_local_directory(volume) {
            let message = format!("Successfully provisioned volume {name}");
            changes.push(self.say("Normal", "ProvisioningSucceeded", message));
        }
        changes
    }

    /// It was bound once: it stays so, or is lost.
    fn bound(&self) -> Vec<Change> {
        let claim = self.object();
        let Some(name) = volume_name(claim) else {
            return self.lost(
                "ClaimLost",
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
            );
        };
        let Some(found) = volumes::volume(self.world, name) else {
            return self
                .lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
        };
        if self.is_taken(found) {
            return self.tell(&found.value);
        }
        if meta::is_terminating(claim) {
            return Vec::new();
        }
        let free = found.value["spec"]["claimRef"].is_null();
        if !meta::is_terminating(&found.value)
            && (free || volumes::is_meant_for(&found.value, self.key, claim))
        {
            return vec![volumes::give(name, found, self.key, claim)];
        }
        self.lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
    }

    fn lost(&self, reason: &'static str, why: &str) -> Vec<Change> {
        if self.object()["status"]["phase"] == "Lost" {
            return Vec::new();
        }
        let status = json!({"phase": "Lost", "accessModes": null, "capacity": null});
        vec![self.patch(Part::Status, json!({"status": status})), self.say("Warning", reason, why.to_owned())]
    }

    /// The last step: the claim says what it has.
    fn tell(&self, volume: &Value) -> Vec<Change> {
        let (present, spec) = (&self.object()["status"], &volume["spec"]);
        let storage = &spec["capacity"]["storage"];
        if present["phase"] == "Bound"
            && present["accessModes"] == spec["accessModes"]
            && present["capacity"]["storage"] == *storage
        {
            return Vec::new();
        }
        let status =
            json!({"phase": "Bound", "accessModes": spec["accessModes"], "capacity": {"storage": storage}});
        vec![self.patch(Part::Status, json!({"status": status}))]
    }
}
