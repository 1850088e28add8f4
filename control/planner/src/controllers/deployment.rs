//! Deployments: a ReplicaSet a template, and an orderly way from one to the next.
//!
//! Source: k8s.io/kubernetes/pkg/controller/deployment. How many replicas each ReplicaSet has is decided in `rollout`.

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{DEPLOYMENTS, Kind, REPLICA_SETS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::rollout::{self, Replicas};
use super::template::{self, annotate, annotation_number, omit_zero, owner_reference};
use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, World};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind != REPLICA_SETS {
        return own(kind, &DEPLOYMENTS, key);
    }
    let owner = world.get(&REPLICA_SETS, key).and_then(|rs| meta::controller_of(&rs.value)?["uid"].as_str());
    let owner = owner.and_then(|uid| world.by_uid(uid)).filter(|(kind, _)| **kind == DEPLOYMENTS);
    owner.map(|(_, key)| key.clone()).into_iter().collect()
}

/// A Deployment with its ReplicaSets.
struct View<'w> {
    key: &'w Key,
    held: &'w Held,
    new: Option<(&'w Key, &'w Held)>,
    old: Vec<(&'w Key, &'w Held)>,
    now: Timestamp,
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&DEPLOYMENTS, key) else { return Plan::nothing() };
    let deployment = &*held.value;
    let wanted = template::without_hash(&deployment["spec"]["template"]);
    let mut old: Vec<(&Key, &Held)> = world
        .list_in(&REPLICA_SETS, &key.0)
        .filter(|(_, rs)| {
            meta::controller_of(&rs.value).is_some_and(|o| o["uid"] == deployment["metadata"]["uid"])
        })
        .collect();
    old.sort_by_key(|(k, rs)| (meta::text(&rs.value, "creationTimestamp").to_owned(), (*k).clone()));
    let position =
        old.iter().position(|(_, rs)| template::without_hash(&rs.value["spec"]["template"]) == wanted);
    let new = position.map(|i| old.remove(i));
    let view = View { key, held, new, old, now };
    if meta::is_terminating(deployment) {
        return Plan::of(view.status().into_iter().collect());
    }
    let mut changes = view.rollout(world);
    changes.extend(view.status());
    let plan = Plan::of(changes);
    match view.deadline() {
        Some(left) => plan.again(left),
        None => plan,
    }
}

impl View<'_> {
    fn spec(&self) -> &Value {
        &self.held.value["spec"]
    }

    fn replicas(&self) -> i64 {
        self.spec()["replicas"].as_i64().unwrap_or(1).max(0)
    }

    fn rollout(&self, world: &World) -> Vec<Change> {
        let strategy = rollout::Strategy::of(self.spec());
        let read = |held: &Held| Replicas {
            wanted: held.value["spec"]["replicas"].as_i64().unwrap_or(0),
            available: held.value["status"]["availableReplicas"].as_i64().unwrap_or(0),
            present: held.value["status"]["replicas"].as_i64().unwrap_or(0),
        };
        let old: Vec<Replicas> = self.old.iter().map(|(_, rs)| read(rs)).collect();
        let paused = self.spec()["paused"] == true;
        let decision =
            rollout::decide(self.replicas(), &strategy, self.new.map(|(_, rs)| read(rs)), &old, paused);
        let mut changes = Vec::new();
        match (self.new, decision.new) {
            (None, Some(replicas)) => changes.extend(self.create(world, replicas, &strategy)),
            (Some((key, rs)), replicas) => {
                changes.extend(self.scale(
                    key,
                    rs,
                    replicas.unwrap_or_else(|| read(rs).wanted),
                    &strategy,
                    true,
                ));
            }
            (None, None) => {}
        }
        for ((key, rs), replicas) in self.old.iter().zip(decision.old) {
            changes.extend(self.scale(key, rs, replicas, &strategy, false));
        }
        changes.extend(self.clean_up());
        changes.extend(self.own_revision());
        changes
    }

    fn last_revision(&self) -> i64 {
        self.old.iter().map(|(_, rs)| annotation_number(&rs.value, REVISION)).max().unwrap_or(0)
    }

    fn new_revision(&self) -> i64 {
        let present = self.new.map_or(0, |(_, rs)| annotation_number(&rs.value, REVISION));
        present.max(self.last_revision() + 1)
    }

    fn about(&self) -> EventAbout {
        EventAbout {
            kind: &DEPLOYMENTS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        }
    }

    fn event(&self, message: String) -> Change {
        Change::Event {
            about: self.about(),
            kind: "Normal",
            reason: "ScalingReplicaSet",
            message,
            component: "deployment-controller",
        }
    }

    fn create(&self, world: &World, replicas: i64, strategy: &rollout::Strategy) -> Vec<Change> {
        let deployment = &*self.held.value;
        let template = &self.spec()["template"];
        let collisions = deployment["status"]["collisionCount"].as_i64().unwrap_or(0);
        let hash = template::hash(&template::without_hash(template), collisions);
        let name = format!("{}-{hash}", self.key.1);
        if world.get(&REPLICA_SETS, &(self.key.0.clone(), name.clone())).is_some() {
            // The name is another's: count the collision, the next hash differs.
            let patch = json!({"status": {"collisionCount": collisions + 1}});
            return vec![self.patch(Part::Status, patch)];
        }
        let template = template::with_hash(template, &hash);
        let mut selector = self.spec()["selector"].clone();
        selector["matchLabels"][template::HASH_LABEL] = json!(hash);
        let mut rs = json!({
            "metadata": {
                "name": name,
                "labels": template["metadata"]["labels"],
                "annotations": carried_annotations(deployment),
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {
                "replicas": replicas,
                "selector": selector,
                "template": template,
                "minReadySeconds": omit_zero(self.spec()["minReadySeconds"].as_i64().unwrap_or(0)),
            },
        });
        annotate(&mut rs, REVISION, self.new_revision());
        annotate(&mut rs, DESIRED, self.replicas());
        annotate(&mut rs, MAX, self.replicas() + strategy.surge(self.replicas()));
        let mut changes =
            vec![Change::Create { kind: &REPLICA_SETS, namespace: self.key.0.clone(), object: rs }];
        if replicas > 0 {
            changes.push(self.event(format!("Scaled up replica set {name} from 0 to {replicas}")));
        }
        changes
    }

    /// Brings a ReplicaSet to a number of replicas and its annotations up to date.
    fn scale(
        &self,
        key: &Key,
        rs: &Held,
        replicas: i64,
        strategy: &rollout::Strategy,
        is_new: bool,
    ) -> Vec<Change> {
        let present = rs.value["spec"]["replicas"].as_i64().unwrap_or(0);
        let mut annotations = json!({});
        let max = self.replicas() + strategy.surge(self.replicas());
        let revision = if is_new { self.new_revision() } else { annotation_number(&rs.value, REVISION) };
        for (name, value) in [(DESIRED, self.replicas()), (MAX, max), (REVISION, revision)] {
            let relevant = name == REVISION || present > 0 || replicas > 0;
            if relevant && annotation_number(&rs.value, name) != value {
                annotations[name] = json!(value.to_string());
            }
        }
        let annotated = annotations.as_object().is_some_and(|a| !a.is_empty());
        if present == replicas && !annotated {
            return Vec::new();
        }
        let mut patch = json!({"metadata": {"resourceVersion": rs.revision.to_string()}});
        if annotated {
            patch["metadata"]["annotations"] = annotations;
        }
        let mut changes = Vec::new();
        if present != replicas {
            patch["spec"] = json!({"replicas": replicas});
            let direction = if replicas > present { "up" } else { "down" };
            let name = &key.1;
            changes.push(
                self.event(format!("Scaled {direction} replica set {name} from {present} to {replicas}")),
            );
        }
        changes.push(Change::Patch {
            kind: &REPLICA_SETS,
            namespace: key.0.clone(),
            name: key.1.clone(),
            part: Part::Main,
            patch,
        });
        changes
    }

    /// Old ReplicaSets beyond the history limit go when nothing is left of them.
    fn clean_up(&self) -> Vec<Change> {
        let limit = usize::try_from(self.spec()["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
        let mut idle: Vec<&(&Key, &Held)> = self
            .old
            .iter()
            .filter(|(_, rs)| {
                let zero = |value: &Value| value.as_i64().unwrap_or(0) == 0;
                zero(&rs.value["spec"]["replicas"])
                    && zero(&rs.value["status"]["replicas"])
                    && !meta::is_terminating(&rs.value)
            })
            .collect();
        idle.sort_by_key(|(_, rs)| annotation_number(&rs.value, REVISION));
        let surplus = idle.len().saturating_sub(limit);
        idle.into_iter()
            .take(surplus)
            .map(|(key, rs)| Change::Delete {
                kind: &REPLICA_SETS,
                namespace: key.0.clone(),
                name: key.1.clone(),
                uid: meta::uid(&rs.value).to_owned(),
                grace: None,
            })
            .collect()
    }

    fn own_revision(&self) -> Option<Change> {
        let revision = self.new_revision();
        let differs = annotation_number(&self.held.value, REVISION) != revision && self.new.is_some();
        differs.then(|| {
            self.patch(Part::Main, json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}))
        })
    }

    fn patch(&self, part: Part, patch: Value) -> Change {
        Change::Patch {
            kind: &DEPLOYMENTS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            part,
            patch,
        }
    }

    fn status(&self) -> Option<Change> {
        let all = || self.old.iter().copied().chain(self.new);
        let sum = |field: &str| all().filter_map(|(_, rs)| rs.value["status"][field].as_i64()).sum::<i64>();
        let updated = self.new.and_then(|(_, rs)| rs.value["status"]["replicas"].as_i64()).unwrap_or(0);
        let (replicas, available) = (sum("replicas"), sum("availableReplicas"));
        let numbers = [
            ("observedGeneration", self.held.value["metadata"]["generation"].as_i64().unwrap_or(1)),
            ("replicas", replicas),
            ("updatedReplicas", updated),
            ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", (self.replicas().max(replicas) - available).max(0)),
        ];
        let conditions = self.conditions(replicas, updated, available);
        let present = &self.held.value["status"];
        let same = numbers.iter().all(|(field, value)| present[*field].as_i64().unwrap_or(0) == *value);
        if same && present["conditions"] == conditions {
            return None;
        }
        let mut status = json!({"conditions": conditions});
        for (field, value) in numbers {
            status[field] = omit_zero(value);
        }
        Some(self.patch(Part::Status, json!({"status": status})))
    }

    fn conditions(&self, replicas: i64, updated: i64, available: i64) -> Value {
        let strategy = rollout::Strategy::of(self.spec());
        let least = self.replicas() - strategy.unavailable(self.replicas());
        let enough = available >= least;
        let (reason, message) = if enough {
            ("MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        let availability = self.condition("Available", enough, reason, message.to_owned(), false);
        let complete =
            updated == self.replicas() && replicas == self.replicas() && available == self.replicas();
        let present = &self.held.value["status"];
        let moved = ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .zip([replicas, updated, available])
            .any(|(field, value)| present[*field].as_i64().unwrap_or(0) != value);
        let name = self.new.map_or("", |(key, _)| key.1.as_str());
        let progress = if self.spec()["paused"] == true {
            self.condition("Progressing", true, "DeploymentPaused", "Deployment is paused".to_owned(), false)
        } else if complete && self.new.is_some() {
            let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
            self.condition("Progressing", true, "NewReplicaSetAvailable", message, moved)
        } else if self.deadline().is_some_and(|left| left.is_zero()) && !moved {
            let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
            self.condition("Progressing", false, "ProgressDeadlineExceeded", message, false)
        } else if self.new.is_none() {
            let message = "Created new replica set".to_owned();
            self.condition("Progressing", true, "NewReplicaSetCreated", message, false)
        } else {
            let message = format!("ReplicaSet \"{name}\" is progressing.");
            self.condition("Progressing", true, "ReplicaSetUpdated", message, moved)
        };
        json!([availability, progress])
    }

    fn condition(&self, kind: &str, status: bool, reason: &str, message: String, touch: bool) -> Value {
        let status = if status { "True" } else { "False" };
        let now = meta::time(self.now);
        let present = self.held.value["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == kind);
        let kept = |field: &str, keep: bool| {
            let old = present.filter(|_| keep).and_then(|c| c[field].as_str());
            old.map_or_else(|| now.clone(), str::to_owned)
        };
        let same_status = present.is_some_and(|c| c["status"] == status);
        let same = same_status
            && !touch
            && present.is_some_and(|c| c["reason"] == reason && c["message"] == message);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastUpdateTime": kept("lastUpdateTime", same),
            "lastTransitionTime": kept("lastTransitionTime", same_status),
        })
    }

    /// How long until the rollout counts as stuck: `None` when nothing is under way.
    fn deadline(&self) -> Option<Duration> {
        let limit = self.spec()["progressDeadlineSeconds"].as_i64()?;
        let conditions = self.held.value["status"]["conditions"].as_array()?;
        let progress = conditions.iter().find(|c| c["type"] == "Progressing")?;
        if progress["reason"] == "NewReplicaSetAvailable" || self.spec()["paused"] == true {
            return None;
        }
        let since = meta::parse_time(progress["lastUpdateTime"].as_str()?)?;
        let left = limit - (self.now.as_second() - since.as_second());
        Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }
}

/// The annotations that ReplicaSets inherit.
fn carried_annotations(deployment: &Value) -> Value {
    let mut annotations = deployment["metadata"].get("annotations").cloned().unwrap_or_else(|| json!({}));
    if let Some(map) = annotations.as_object_mut() {
        for own in [REVISION, DESIRED, MAX, "kubectl.kubernetes.io/last-applied-configuration"] {
            map.shift_remove(own);
        }
    }
    annotations
}
