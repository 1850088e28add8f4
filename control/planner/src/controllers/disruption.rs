//! PodDisruptionBudgets: how many of their pods may go now.
//!
//! Source: k8s.io/kubernetes/pkg/controller/disruption/disruption.go. What an eviction then takes is in `oarlock_api::disruption`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::catalogue::{
    DEPLOYMENTS, Kind, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS,
};
use oarlock_api::disruption::{self, DELETION_TIMEOUT_SECONDS};
use oarlock_api::meta;
use serde_json::{Map, Value, json};

use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, PodView, World};

const COMPONENT: &str = "controllermanager";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    let covering = |covers: &dyn Fn(&Value) -> bool| -> Vec<Key> {
        let all = world.list_in(&POD_DISRUPTION_BUDGETS, &key.0);
        all.filter(|(_, budget)| covers(&budget.value)).map(|(key, _)| key.clone()).collect()
    };
    if *kind == PODS {
        let Some(pod) = world.pod(key) else { return Vec::new() };
        return covering(&|budget| {
            disruption::selector(budget).is_some_and(|s| s.matches_with(|k| pod.label(k)))
        });
    }
    if [&DEPLOYMENTS, &REPLICA_SETS, &REPLICATION_CONTROLLERS, &STATEFUL_SETS].contains(&kind) {
        // How many they want is what a share is a share of.
        let Some(owner) = world.get(kind, key) else { return Vec::new() };
        let labels = &owner.value["spec"]["template"]["metadata"]["labels"];
        return covering(&|budget| disruption::covers(budget, labels.as_object()));
    }
    own(kind, &POD_DISRUPTION_BUDGETS, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&POD_DISRUPTION_BUDGETS, key) else { return Plan::nothing() };
    let selector = disruption::selector(&held.value);
    let covered = |pod: &PodView| selector.as_ref().is_some_and(|s| s.matches_with(|k| pod.label(k)));
    let pods: Vec<(&Key, &PodView)> = world.pods_in(&key.0).filter(|(_, pod)| covered(pod)).collect();
    let view = View { world, key, held, pods, now };
    match view.expected() {
        Ok(expected) => view.count(&expected),
        Err(why) => Plan::of(view.fail(&why)),
    }
}

struct View<'w> {
    world: &'w World,
    key: &'w Key,
    held: &'w Held,
    pods: Vec<(&'w Key, &'w PodView)>,
    now: Timestamp,
}

/// What the budget asks for.
struct Expected {
    pods: i64,
    healthy: i64,
    unmanaged: bool,
}

impl<'w> View<'w> {
    fn expected(&self) -> Result<Expected, String> {
        let spec = &self.held.value["spec"];
        let all = i64::try_from(self.pods.len()).unwrap_or(i64::MAX);
        match (&spec["maxUnavailable"], &spec["minAvailable"]) {
            (Value::Null, Value::Null) => Ok(Expected { pods: 0, healthy: 0, unmanaged: false }),
            (Value::Null, Value::Number(least)) => {
                Ok(Expected { pods: all, healthy: least.as_i64().unwrap_or(0), unmanaged: false })
            }
            (Value::Null, share) => {
                let (pods, unmanaged) = self.scale()?;
                Ok(Expected { pods, healthy: scaled(share, pods), unmanaged })
            }
            (most, _) => {
                let (pods, unmanaged) = self.scale()?;
                Ok(Expected { pods, healthy: (pods - scaled(most, pods)).max(0), unmanaged })
            }
        }
    }

    /// How many pods the controllers of the covered pods want in all, and whether some pods have none.
    fn scale(&self) -> Result<(i64, bool), String> {
        let mut scales = BTreeMap::new();
        let mut unmanaged = false;
        for (pod, view) in &self.pods {
            let Some(owner) = view.controller.as_deref() else {
                unmanaged = true;
                continue;
            };
            if !scales.contains_key(owner) {
                scales.insert(owner, self.controller(owner, &pod.1)?);
            }
        }
        // ReplicaSets of one Deployment count as that.
        let by_controller: BTreeMap<&str, i64> = scales.into_values().collect();
        Ok((by_controller.into_values().sum(), unmanaged))
    }

    /// Who decides how many pods an owner has: its uid and the number.
    fn controller(&self, owner: &str, pod: &str) -> Result<(&'w str, i64), String> {
        let missing = || format!("found no controllers for pod {pod:?}");
        let (kind, key) = self.world.by_uid(owner).ok_or_else(missing)?;
        if !kind.has_subresource("scale") {
            return Err(format!("{} does not implement the scale subresource", kind.qualified()));
        }
        let object = &*self.world.get(kind, key).ok_or_else(missing)?.value;
        let above = meta::controller_of(object).and_then(|o| self.world.by_uid(o["uid"].as_str()?));
        let deployment = above
            .filter(|(above, _)| **kind == REPLICA_SETS && **above == DEPLOYMENTS)
            .and_then(|(_, key)| {
                let held = self.world.get(&DEPLOYMENTS, key)?;
                Some(&*held.value)
            });
        let object = deployment.unwrap_or(object);
        Ok((meta::uid(object), object["spec"]["replicas"].as_i64().unwrap_or(1)))
    }

    fn count(&self, expected: &Expected) -> Plan {
        let (disrupted, late, recheck) = self.disrupted();
        let healthy = self
            .pods
            .iter()
            .filter(|(key, pod)| !pod.is_terminating() && pod.ready && !disrupted.contains_key(&key.1));
        let healthy = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
        let allowed = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
        let generation = &self.held.value["metadata"]["generation"];
        let mut next = json!({
            "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": expected.healthy,
            "expectedPods": expected.pods, "observedGeneration": generation.as_i64().unwrap_or(1),
        });
        if !disrupted.is_empty() {
            next["disruptedPods"] = Value::Object(disrupted);
        }
        let mut changes = late;
        if let Some(change) = self.write(next) {
            changes.push(change);
            if self.pods.is_empty() {
                changes.push(self.event("Normal", "NoPods", "No matching pods found".to_owned()));
            }
            if expected.unmanaged {
                changes.push(self.unmanaged());
            }
        }
        let plan = Plan::of(changes);
        match recheck {
            Some(at) => {
                let wait = at.duration_since(self.now).unsigned_abs();
                plan.again(wait + Duration::from_millis(10))
            }
            None => plan,
        }
    }

    /// The pods that were to go and are still there, as far as they have not had their time; events about those that have;
    /// when the next one has.
    fn disrupted(&self) -> (Map<String, Value>, Vec<Change>, Option<Timestamp>) {
        let (mut kept, mut late, mut recheck) = (Map::new(), Vec::new(), None::<Timestamp>);
        let present = self.held.value["status"]["disruptedPods"].as_object();
        for (key, pod) in self.pods.iter().filter(|(_, pod)| !pod.is_terminating()) {
            let Some(said) = present.and_then(|all| all.get(&key.1)) else { continue };
            let since = said.as_str().and_then(meta::parse_time).unwrap_or(self.now);
            let end = since.checked_add(SignedDuration::from_secs(DELETION_TIMEOUT_SECONDS)).unwrap_or(since);
            if end < self.now {
                late.push(self.not_deleted(key, pod));
            } else {
                recheck = Some(recheck.map_or(end, |sooner| sooner.min(end)));
                kept.insert(key.1.clone(), said.clone());
            }
        }
        (kept, late, recheck)
    }

    fn not_deleted(&self, key: &Key, pod: &PodView) -> Change {
        let (namespace, name) = self.key;
        Change::Event {
            about: EventAbout {
                kind: &PODS,
                namespace: key.0.clone(),
                name: key.1.clone(),
                uid: pod.uid.to_string(),
            },
            kind: "Warning",
            reason: "NotDeleted",
            message: format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't"),
            component: COMPONENT,
        }
    }

    /// Nothing may go while nobody knows how many there should be.
    fn fail(&self, why: &str) -> Vec<Change> {
        let mut next = self.held.value["status"].clone();
        meta::map_of(&mut next).insert("disruptionsAllowed".to_owned(), json!(0));
        next["conditions"] = disruption::failed(&self.held.value, why, self.now);
        let Some(change) = self.patch(next) else { return Vec::new() };
        let message = format!("Failed to calculate the number of expected pods: {why}");
        vec![change, self.event("Warning", "CalculateExpectedPodCountFailed", message)]
    }

    fn write(&self, mut next: Value) -> Option<Change> {
        let mut budget = json!({"status": next});
        budget["status"]["conditions"] = self.held.value["status"]["conditions"].clone();
        next["conditions"] = disruption::conditions(&budget, self.now);
        self.patch(next)
    }

    /// The status as it should be, unless it is.
    fn patch(&self, next: Value) -> Option<Change> {
        let present = &self.held.value["status"];
        if *present == next {
            return None;
        }
        let mut patch = next;
        // A merge patch takes away only what it names.
        let old = present["disruptedPods"].as_object().into_iter().flatten().map(|(name, _)| name);
        let gone: Vec<String> =
            old.filter(|name| patch["disruptedPods"].get(*name).is_none()).cloned().collect();
        if patch.get("disruptedPods").is_none() {
            patch["disruptedPods"] = Value::Null;
        } else {
            gone.into_iter().for_each(|name| patch["disruptedPods"][name] = Value::Null);
        }
        Some(Change::Patch {
            kind: &POD_DISRUPTION_BUDGETS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            part: Part::Status,
            patch: json!({"metadata": {"resourceVersion": self.held.revision.to_string()}, "status": patch}),
        })
    }

    fn unmanaged(&self) -> Change {
        let selector = &self.held.value["spec"]["selector"];
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, the status \
             of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please \
             set \".spec.minAvailable\" field of the PDB to an integer value."
        );
        self.event("Warning", "UnmanagedPods", message)
    }

    fn event(&self, kind: &'static str, reason: &'static str, message: String) -> Change {
        let about = EventAbout {
            kind: &POD_DISRUPTION_BUDGETS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        };
        Change::Event { about, kind, reason, message, component: COMPONENT }
    }
}

/// A number, or a share of a total, rounded up.
fn scaled(amount: &Value, total: i64) -> i64 {
    match amount {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            total.saturating_mul(percent).saturating_add(99) / 100
        }
        number => number.as_i64().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests;
