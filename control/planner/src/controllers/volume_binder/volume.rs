//! What happens to a volume: it is free, given, given back, and then kept or removed as it says itself.

use jiff::Timestamp;
use oarlock_api::catalogue::{NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES};
use oarlock_api::meta;
use oarlock_api::storage::{
    BOUND_BY_CONTROLLER, LOCAL_FINALIZER, LOCAL_PROVISIONER, PROVISIONED_BY, local_node,
};
use serde_json::json;

use super::{event, patch, volume_name, without_finalizer};
use crate::change::{Change, Part, Plan};
use crate::world::{self, Held, Key, World};

/// A volume at work.
struct Volume<'w> {
    world: &'w World,
    key: &'w Key,
    held: &'w Held,
    now: Timestamp,
}

pub(super) fn plan(world: &World, key: &Key, held: &Held, now: Timestamp) -> Plan {
    Plan::of(Volume { world, key, held, now }.changes())
}

impl Volume<'_> {
    fn changes(&self) -> Vec<Change> {
        let volume = &*self.held.value;
        let Some(claim_key) = world::claim_of(volume) else { return self.is("Available", None) };
        let uid = volume["spec"]["claimRef"]["uid"].as_str().unwrap_or("");
        if uid.is_empty() {
            return self.is("Available", None);
        }
        // The world is one history: a claim that was named and is not there is gone.
        let claim = self.world.get(&PERSISTENT_VOLUME_CLAIMS, &claim_key).map(|held| &*held.value);
        let Some(claim) = claim.filter(|claim| meta::uid(claim) == uid) else { return self.released() };
        match volume_name(claim) {
            // It is about to.
            None => Vec::new(),
            Some(name) if *name == *self.key.1 => self.is("Bound", None),
            Some(_) if self.is_made_for_a_claim() => self.released(),
            Some(_) => vec![self.take_back()],
        }
    }

    fn is_made_for_a_claim(&self) -> bool {
        meta::annotation(&self.held.value, PROVISIONED_BY).is_some() && self.policy() == "Delete"
    }

    fn policy(&self) -> &str {
        self.held.value["spec"]["persistentVolumeReclaimPolicy"].as_str().unwrap_or("Retain")
    }

    /// The claim has another volume: this one is free again, or keeps the name that its user gave it.
    fn take_back(&self) -> Change {
        let volume = &*self.held.value;
        let change = if meta::annotation(volume, BOUND_BY_CONTROLLER).is_some() {
            json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": null}})
        } else {
            json!({"spec": {"claimRef": {"uid": null, "resourceVersion": null}}})
        };
        patch(&PERSISTENT_VOLUMES, self.key, self.held, Part::Main, change)
    }

    fn is(&self, phase: &str, message: Option<&str>) -> Vec<Change> {
        let present = &self.held.value["status"];
        let mut changes = Vec::new();
        if present["phase"] != phase || present["message"].as_str() != message {
            let mut status = json!({"phase": phase, "message": message, "reason": null});
            if present["phase"] != phase {
                status["lastPhaseTransitionTime"] = json!(meta::time(self.now));
            }
            changes.push(patch(
                &PERSISTENT_VOLUMES,
                self.key,
                self.held,
                Part::Status,
                json!({"status": status}),
            ));
        }
        // One write of an object a plan.
        if changes.is_empty() && phase != "Bound" {
            changes.extend(self.leave());
        }
        changes
    }

    /// A directory that was provisioned is held until its node has removed it; not if it is to be kept, or the node is gone.
    fn leave(&self) -> Option<Change> {
        let volume = &*self.held.value;
        let held = meta::is_terminating(volume) && meta::finalizers(volume).any(|f| f == LOCAL_FINALIZER);
        let node = local_node(volume)
            .filter(|name| self.world.get(&NODES, &(String::new(), (*name).to_owned())).is_some());
        let lets_go = held && (self.policy() != "Delete" || node.is_none());
        lets_go.then(|| without_finalizer(&PERSISTENT_VOLUMES, self.key, self.held, LOCAL_FINALIZER))
    }

    /// Its claim is gone.
    fn released(&self) -> Vec<Change> {
        let volume = &*self.held.value;
        if self.policy() != "Delete" {
            return self.is("Released", None);
        }
        match meta::annotation(volume, PROVISIONED_BY) {
            Some(LOCAL_PROVISIONER) => {
                let mut changes = self.is("Released", None);
                if !meta::is_terminating(volume) && changes.is_empty() {
                    changes.push(Change::Delete {
                        kind: &PERSISTENT_VOLUMES,
                        namespace: String::new(),
                        name: self.key.1.clone(),
                        uid: meta::uid(volume).to_owned(),
                        grace: None,
                    });
                }
                changes
            }
            // Whoever made it removes it.
            Some(_) => self.is("Released", None),
            None => {
                let why = format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                    self.key.1
                );
                let mut changes = self.is("Failed", Some(&why));
                if !changes.is_empty() && volume["status"]["phase"] != "Failed" {
                    changes.push(event(
                        &PERSISTENT_VOLUMES,
                        self.key,
                        volume,
                        ("Warning", "VolumeFailedDelete"),
                        why,
                    ));
                }
                changes
            }
        }
    }
}
