//! Deployments: a ReplicaSet a template, and an orderly way from one to the next.
//!
//! Source: k8s.io/kubernetes/pkg/controller/deployment. How many replicas each ReplicaSet has is decided in `rollout`; what
//! ReplicaSets look like is in `replica_sets`, what the user is told in `status`.

mod replica_sets;
mod status;

use jiff::Timestamp;
use oarlock_api::catalogue::{DEPLOYMENTS, Kind, PODS, REPLICA_SETS};
use oarlock_api::meta;
use serde_json::Value;

use super::pods;
use super::rollout::{self, Replicas, Strategy};
use super::template::{self, annotation_number};
use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, World};
use replica_sets::{DESIRED, MAX};

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        return waiting_for(world, key).into_iter().collect();
    }
    if *kind != REPLICA_SETS {
        return own(kind, &DEPLOYMENTS, key);
    }
    let Some(held) = world.get(&REPLICA_SETS, key) else { return Vec::new() };
    if meta::owner_references(&held.value).is_empty() {
        let labels = meta::labels(&held.value);
        let fits = |owner: &Value| pods::selector(owner).is_some_and(|s| s.matches(labels));
        let all = world.list_in(&DEPLOYMENTS, &key.0).filter(|(_, owner)| fits(&owner.value));
        return all.map(|(key, _)| key.clone()).collect();
    }
    owner_of(world, key).map(|(key, _)| key.clone()).into_iter().collect()
}

/// The Deployment of a ReplicaSet.
fn owner_of<'w>(world: &'w World, replica_set: &Key) -> Option<(&'w Key, &'w Held)> {
    let held = world.get(&REPLICA_SETS, replica_set)?;
    let (kind, key) = world.by_uid(meta::controller_of(&held.value)?["uid"].as_str()?)?;
    if **kind == DEPLOYMENTS { Some((key, world.get(&DEPLOYMENTS, key)?)) } else { None }
}

/// The Deployment that makes no new pod before this one is gone.
fn waiting_for(world: &World, pod: &Key) -> Option<Key> {
    let (kind, replica_set) = world.by_uid(world.pod(pod)?.controller.as_deref()?)?;
    let (key, held) = if **kind == REPLICA_SETS { owner_of(world, replica_set)? } else { return None };
    (held.value["spec"]["strategy"]["type"] == "Recreate").then(|| key.clone())
}

/// A Deployment with its ReplicaSets.
struct View<'w> {
    world: &'w World,
    key: &'w Key,
    held: &'w Held,
    new: Option<(&'w Key, &'w Held)>,
    /// Oldest first.
    old: Vec<(&'w Key, &'w Held)>,
    strategy: Strategy,
    now: Timestamp,
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&DEPLOYMENTS, key) else { return Plan::nothing() };
    let deployment = &*held.value;
    if !meta::is_terminating(deployment) {
        let claims = replica_sets::claim(world, key, deployment);
        if !claims.is_empty() {
            // Which is the new one is known when they are seen.
            return Plan::of(claims);
        }
    }
    let wanted = template::without_hash(&deployment["spec"]["template"]);
    let mut old: Vec<(&Key, &Held)> = replica_sets::own(world, deployment).collect();
    old.sort_by_key(|(k, rs)| (meta::text(&rs.value, "creationTimestamp").to_owned(), (*k).clone()));
    let position =
        old.iter().position(|(_, rs)| template::without_hash(&rs.value["spec"]["template"]) == wanted);
    let new = position.map(|i| old.remove(i));
    let strategy = Strategy::of(&deployment["spec"]);
    let view = View { world, key, held, new, old, strategy, now };
    if meta::is_terminating(deployment) {
        return Plan::of(view.status(false).into_iter().collect());
    }
    let plan = Plan::of(view.rollout());
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

    fn is_paused(&self) -> bool {
        self.spec()["paused"] == true
    }

    /// The most pods that may be there, as the annotation of ReplicaSets says it.
    fn most(&self) -> i64 {
        self.replicas() + self.strategy.surge(self.replicas())
    }

    /// Whether the number of replicas has changed since it was last spread over the ReplicaSets.
    fn is_scaled(&self) -> bool {
        let all = self.old.iter().chain(&self.new).map(|(_, rs)| &rs.value);
        let mut active = all.filter(|rs| rs["spec"]["replicas"].as_i64().unwrap_or(0) > 0);
        active.any(|rs| {
            meta::annotation(rs, DESIRED).is_some() && annotation_number(rs, DESIRED) != self.replicas()
        })
    }

    fn read(&self, rs: &Value) -> Replicas {
        let number = |value: &Value| value.as_i64().unwrap_or(0);
        // Pods that are on their way out are in nobody's status.
        let alive = self.world.pods_of(meta::uid(rs)).filter(|(_, pod)| !pod.has_ended()).count();
        Replicas {
            wanted: number(&rs["spec"]["replicas"]),
            available: number(&rs["status"]["availableReplicas"]),
            present: number(&rs["status"]["replicas"]).max(i64::try_from(alive).unwrap_or(i64::MAX)),
            most: match meta::annotation(rs, MAX) {
                Some(_) => annotation_number(rs, MAX),
                None => number(&self.held.value["status"]["replicas"]),
            },
        }
    }

    fn rollout(&self) -> Vec<Change> {
        let old: Vec<Replicas> = self.old.iter().map(|(_, rs)| self.read(&rs.value)).collect();
        let new = self.new.map(|(_, rs)| self.read(&rs.value));
        let decision = if self.is_paused() || self.is_scaled() {
            rollout::scale(self.replicas(), &self.strategy, new, &old)
        } else {
            rollout::decide(self.replicas(), &self.strategy, new, &old)
        };
        let mut changes = Vec::new();
        let mut makes = false;
        match (self.new, decision.new) {
            (None, Some(replicas)) => {
                makes = true;
                changes.extend(self.create(replicas));
            }
            (Some((key, rs)), replicas) => {
                let replicas = replicas.or(new.map(|n| n.wanted)).unwrap_or(0);
                changes.extend(self.scale(key, rs, replicas, true));
            }
            (None, None) => {}
        }
        for ((key, rs), replicas) in self.old.iter().zip(decision.old) {
            changes.extend(self.scale(key, rs, replicas, false));
        }
        changes.extend(self.clean_up());
        changes.extend(self.own_revision());
        changes.extend(self.status(makes));
        changes
    }

    fn event(&self, message: String) -> Change {
        let about = EventAbout {
            kind: &DEPLOYMENTS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        };
        let (reason, component) = ("ScalingReplicaSet", "deployment-controller");
        Change::Event { about, kind: "Normal", reason, message, component }
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
}

#[cfg(test)]
mod tests;
