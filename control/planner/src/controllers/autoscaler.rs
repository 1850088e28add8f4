//! HorizontalPodAutoscalers: how many replicas a target should have, by what its pods use.
//!
//! Source: k8s.io/kubernetes/pkg/controller/podautoscaler. What metrics propose is in `metrics`, what bounds and windows make of it in
//! `normalize`. What has to be remembered from one turn to the next is the world's [`Memory`], handed on by a change of the plan.

mod metrics;
mod normalize;

use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{HORIZONTAL_POD_AUTOSCALERS, KINDS, Kind};
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

use super::{Settings, own};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, Memory, Query, World};
use metrics::Found;

/// How often every autoscaler is looked at.
const INTERVAL: Duration = Duration::from_secs(15);

pub(super) fn affected(_: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    own(kind, &HORIZONTAL_POD_AUTOSCALERS, key)
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&HORIZONTAL_POD_AUTOSCALERS, key) else { return Plan::nothing() };
    if meta::is_terminating(&held.value) {
        return Plan::nothing();
    }
    let mut turn = Turn {
        world,
        key,
        held,
        now,
        conditions: held.value["status"]["conditions"].as_array().cloned().unwrap_or_default(),
        memory: world.memory(key).cloned().unwrap_or_default(),
        changes: Vec::new(),
        unasked: Vec::new(),
    };
    turn.run();
    if !turn.unasked.is_empty() {
        // The turn is taken when the answers are there.
        let (namespace, name) = key.clone();
        let ask = Change::Measure { namespace, name, queries: turn.unasked };
        return Plan::of(vec![ask]).again(INTERVAL);
    }
    Plan::of(turn.changes).again(INTERVAL)
}

/// One look at an autoscaler.
struct Turn<'w> {
    world: &'w World,
    key: &'w Key,
    held: &'w Held,
    now: Timestamp,
    conditions: Vec<Value>,
    memory: Memory,
    changes: Vec<Change>,
    /// What has to be known first.
    unasked: Vec<Query>,
}

/// What is scaled.
struct Target<'w> {
    kind: &'static Kind,
    held: &'w Held,
    replicas: i64,
    /// Selects its pods; none that would select all.
    selector: Option<Selector>,
}

impl<'w> Turn<'w> {
    fn spec(&self) -> &'w Value {
        &self.held.value["spec"]
    }

    fn run(&mut self) {
        let target = match self.target() {
            Ok(target) => target,
            Err(why) => {
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {why}");
                self.warn("AbleToScale", "FailedGetScale", &why, message);
                let status = self.held.value["status"].clone();
                return self.write(status);
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        self.set("AbleToScale", true, "SucceededGetScale", text);
        let current = target.replicas;
        self.memory.settle(current, self.now);
        let (least, most) = self.bounds();
        let (desired, why, metrics) = if current == 0 && least != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            self.set("ScalingActive", false, "ScalingDisabled", text);
            (current, String::new(), None)
        } else if current > most {
            (most, "Current number of replicas above Spec.MaxReplicas".to_owned(), None)
        } else if current < least {
            (least, "Current number of replicas below Spec.MinReplicas".to_owned(), None)
        } else {
            let (proposed, statuses) = self.propose(&target);
            let Some((proposed, metric)) = proposed else {
                return self.finish(current, None, Some(statuses));
            };
            let why = if proposed > current {
                format!("{metric} above target")
            } else {
                "All metrics below target".to_owned()
            };
            (self.normalize(current, proposed), why, Some(statuses))
        };
        if desired != current {
            self.scale(&target, desired, &why);
        }
        self.finish(current, Some(desired), metrics);
    }

    fn bounds(&self) -> (i64, i64) {
        let of = |field: &str| self.spec()[field].as_i64().unwrap_or(1);
        (of("minReplicas"), of("maxReplicas"))
    }

    fn target(&self) -> Result<Target<'w>, String> {
        let reference = &self.spec()["scaleTargetRef"];
        let text = |field: &str| reference[field].as_str().unwrap_or("");
        let group = text("apiVersion").split_once('/').map_or("", |(group, _)| group);
        let known = KINDS.iter().copied().find(|k| k.group == group && k.kind == text("kind"));
        let kind =
            known.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", text("kind")))?;
        if !kind.has_subresource("scale") {
            return Err("the server could not find the requested resource".to_owned());
        }
        let key = (self.key.0.clone(), text("name").to_owned());
        let missing = || format!("{} {:?} not found", kind.qualified(), key.1);
        let held = self.world.get(kind, &key).ok_or_else(missing)?;
        let selector = Selector::of_workload(&held.value).ok().flatten().filter(|s| !s.is_everything());
        Ok(Target { kind, held, replicas: held.value["spec"]["replicas"].as_i64().unwrap_or(1), selector })
    }

    /// What the metrics propose and by which; nothing where they cannot, or only a part of them and that for less.
    fn propose(&mut self, target: &Target<'_>) -> (Option<(i64, String)>, Vec<Value>) {
        let Some(selector) = &target.selector else {
            let text = "the HPA target's scale is missing a selector";
            self.warn("ScalingActive", "InvalidSelector", "selector is required", text.to_owned());
            return (None, Vec::new());
        };
        let rivals = self.rivals();
        if rivals.len() > 1 {
            let why = format!(
                "pods by selector {selector} are controlled by multiple HPAs: [{}]",
                rivals.join(" ")
            );
            self.warn("ScalingActive", "AmbiguousSelector", &why, why.clone());
            return (None, Vec::new());
        }
        let specs = self.spec()["metrics"].as_array().map_or(&[][..], Vec::as_slice);
        if self.asks(specs, selector) {
            return (None, Vec::new());
        }
        let calculator = metrics::Calculator::new(self.world, self.key, selector, self.spec(), self.now);
        let present = target.held.value["status"]["replicas"].as_i64().unwrap_or(0);
        let count = metrics::Count { wanted: target.replicas, present };
        let found: Vec<Result<Found, metrics::Failed>> =
            specs.iter().map(|spec| calculator.metric(spec, count)).collect();
        let statuses = found
            .iter()
            .map(|f| f.as_ref().map_or_else(|_| json!({"type": ""}), |f| f.status.clone()))
            .collect();
        let mut best: Option<&Found> = None;
        for good in found.iter().flatten() {
            if best.is_none_or(|best| best.replicas == 0 || good.replicas > best.replicas) {
                best = Some(good);
            }
        }
        let bad = found.iter().filter_map(|f| f.as_ref().err());
        let (invalid, first) = (bad.clone().count(), bad.clone().next());
        let less = best.is_none_or(|best| best.replicas < target.replicas);
        if let Some(first) = first.filter(|_| less) {
            let message = format!("the HPA was unable to compute the replica count: {}", first.why);
            let text = format!(
                "invalid metrics ({invalid} invalid out of {}), first error is: {}",
                specs.len(),
                first.told
            );
            if self.warn("ScalingActive", first.reason, &first.why, message) {
                self.event("Warning", "FailedComputeMetricsReplicas", text);
            }
            return (None, statuses);
        }
        let Some(best) = best else { return (None, statuses) };
        let text = format!("the HPA was able to successfully calculate a replica count from {}", best.metric);
        self.set("ScalingActive", true, "ValidMetricFound", &text);
        (Some((best.replicas, best.metric.clone())), statuses)
    }

    /// Whether others have to be asked before anything can be decided.
    fn asks(&mut self, specs: &[Value], selector: &Selector) -> bool {
        // What cannot be asked is said when it is looked for.
        let mut queries: Vec<Query> = Vec::new();
        for query in
            specs.iter().filter_map(|spec| metrics::query(spec, &self.key.0, selector).ok().flatten())
        {
            if !queries.contains(&query) {
                queries.push(query);
            }
        }
        let known = self.world.answers(self.key).is_some_and(|answers| answers.serve(&queries, self.now));
        if !queries.is_empty() && !known {
            self.unasked = queries;
        }
        !self.unasked.is_empty()
    }

    /// All autoscalers of the same target, this one among them.
    fn rivals(&self) -> Vec<String> {
        let target = |spec: &Value| {
            let reference = &spec["scaleTargetRef"];
            let group = reference["apiVersion"].as_str().unwrap_or("").split_once('/');
            (
                group.map_or(String::new(), |(g, _)| g.to_owned()),
                reference["kind"].clone(),
                reference["name"].clone(),
            )
        };
        let own = target(self.spec());
        let all = self.world.list_in(&HORIZONTAL_POD_AUTOSCALERS, &self.key.0);
        let same = all.filter(|(_, held)| target(&held.value["spec"]) == own);
        same.map(|(key, _)| format!("{{{} {}}}", key.1, key.0)).collect()
    }

    fn normalize(&mut self, current: i64, proposed: i64) -> i64 {
        let (least, most) = self.bounds();
        let asked = normalize::Asked { current, proposed, least, most, now: self.now };
        let verdict = normalize::decide(&self.spec()["behavior"], &asked, &mut self.memory);
        let (reason, message) =
            verdict.stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
        self.set("AbleToScale", true, reason, message);
        let (limited, reason, message) = verdict.limited;
        self.set("ScalingLimited", limited, reason, message);
        verdict.replicas
    }

    fn scale(&mut self, target: &Target<'_>, desired: i64, why: &str) {
        let version = target.held.revision.to_string();
        self.changes.push(Change::Patch {
            kind: target.kind,
            namespace: self.key.0.clone(),
            name: meta::name(&target.held.value).to_owned(),
            part: Part::Main,
            patch: json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": desired}}),
        });
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        self.set("AbleToScale", true, "SucceededRescale", &text);
        self.event("Normal", "SuccessfulRescale", format!("New size: {desired}; reason: {why}"));
        self.memory.rescale = Some((target.replicas, desired, self.now));
    }

    /// Writes the status and keeps in mind what the next turn needs.
    fn finish(&mut self, current: i64, desired: Option<i64>, metrics: Option<Vec<Value>>) {
        let present = &self.held.value["status"];
        let mut status = json!({
            "currentReplicas": current,
            "desiredReplicas": desired.or(present["desiredReplicas"].as_i64()).unwrap_or(0),
        });
        let scaled = desired.filter(|desired| *desired != current).map(|_| json!(meta::time(self.now)));
        if let Some(time) = scaled.or_else(|| present.get("lastScaleTime").cloned()) {
            status["lastScaleTime"] = time;
        }
        if let Some(metrics) = metrics {
            status["currentMetrics"] = Value::Array(metrics);
        }
        self.write(status);
        if self.world.memory(self.key) != Some(&self.memory) {
            let memory = Box::new(std::mem::take(&mut self.memory));
            let (namespace, name) = self.key.clone();
            self.changes.push(Change::Remember { namespace, name, memory });
        }
    }

    fn write(&mut self, mut status: Value) {
        meta::map_of(&mut status).insert("conditions".to_owned(), json!(self.conditions));
        let present = &self.held.value["status"];
        if *present == status {
            return;
        }
        // A merge patch takes away only what it names.
        for (field, _) in present.as_object().into_iter().flatten() {
            if status.get(field).is_none() {
                status[field.as_str()] = Value::Null;
            }
        }
        self.changes.push(Change::Patch {
            kind: &HORIZONTAL_POD_AUTOSCALERS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            part: Part::Status,
            patch: json!({"metadata": {"resourceVersion": self.held.revision.to_string()}, "status": status}),
        });
    }

    fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let status = if status { "True" } else { "False" };
        let present = self.conditions.iter_mut().find(|c| c["type"] == kind);
        let same = present.as_ref().filter(|c| c["status"] == status);
        let since = same.map_or_else(|| json!(meta::time(self.now)), |c| c["lastTransitionTime"].clone());
        let said = json!({"type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message});
        match present {
            Some(present) => *present = said,
            None => self.conditions.push(said),
        }
    }

    /// A condition that is false, and an event the first time; whether it is the first time.
    fn warn(&mut self, kind: &str, reason: &'static str, why: &str, message: String) -> bool {
        let before = self.held.value["status"]["conditions"].as_array();
        let known = before.into_iter().flatten().any(|c| c["type"] == kind && c["message"] == message);
        self.set(kind, false, reason, &message);
        if !known {
            self.event("Warning", reason, why.to_owned());
        }
        !known
    }

    fn event(&mut self, kind: &'static str, reason: &'static str, message: String) {
        let about = EventAbout {
            kind: &HORIZONTAL_POD_AUTOSCALERS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        };
        self.changes.push(Change::Event {
            about,
            kind,
            reason,
            message,
            component: "horizontal-pod-autoscaler",
        });
    }
}

#[cfg(test)]
mod tests;
