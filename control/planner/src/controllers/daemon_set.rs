//! DaemonSets: one pod on every node that it may run on.
//!
//! Source: k8s.io/kubernetes/pkg/controller/daemon. What happens on each node is decided in `nodes`, what a rollout may
//! take away in `update`, what a pod looks like in `pod`.

mod nodes;
mod pod;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use oarlock_api::catalogue::{CONTROLLER_REVISIONS, DAEMON_SETS, Kind, NODES, PODS};
use oarlock_api::meta;
use serde_json::{Value, json};

use super::history::{self, Current, HASH_LABEL, History};
use super::template::omit_zero;
use super::{Settings, own, pods};
use crate::change::{Change, EventAbout, Part, Plan};
use crate::world::{Held, Key, PodView, World};

/// Pods made or removed in one go; the rest follows when these are seen.
const BURST: usize = 250;
const COMPONENT: &str = "daemonset-controller";

pub(super) fn affected(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    if *kind == PODS {
        return pods::owners(world, &DAEMON_SETS, key);
    }
    if *kind == NODES {
        return world.list(&DAEMON_SETS).map(|(key, _)| key.clone()).collect();
    }
    if *kind == CONTROLLER_REVISIONS {
        return history::owners(world, &DAEMON_SETS, key);
    }
    own(kind, &DAEMON_SETS, key)
}

/// A pod with its key.
type Pod<'w> = (&'w Key, &'w PodView);

/// What is to be done: where pods are missing, which go, what to say.
#[derive(Debug, Default, PartialEq)]
struct Work<'w> {
    create: BTreeSet<&'w str>,
    delete: BTreeMap<&'w Key, &'w PodView>,
    say: Vec<(&'static str, &'static str, String)>,
    /// Look again after so many seconds.
    again: Option<i64>,
}

/// A DaemonSet, the nodes with their part in it, and its pods by the node they are on or meant for.
struct View<'w> {
    key: &'w Key,
    held: &'w Held,
    now: Timestamp,
    /// The hash of the present template; empty while it has no revision.
    hash: &'w str,
    nodes: BTreeMap<&'w str, nodes::Part>,
    pods: BTreeMap<&'w str, Vec<Pod<'w>>>,
}

pub(super) fn plan(world: &World, _: &Settings, key: &Key, now: Timestamp) -> Plan {
    let Some(held) = world.get(&DAEMON_SETS, key) else { return Plan::nothing() };
    let set = &*held.value;
    let Some(selector) = pods::selector(set) else { return Plan::nothing() };
    if meta::is_terminating(set) {
        return Plan::nothing();
    }
    let mut changes = pods::claim(world, key, set, &selector);
    let own: Vec<Pod> =
        world.pods_of(meta::uid(set)).filter(|(_, p)| selector.matches_with(|k| p.label(k))).collect();
    let adopted = history::adopt(world, key, set, &selector);
    if !adopted.is_empty() {
        // Whose template is which is known when they are seen.
        changes.extend(adopted);
        return Plan::of(changes);
    }
    let history = History::of(world, key, set, HASH_LABEL);
    let (mut hash, mut collisions) = ("", set["status"]["collisionCount"].as_i64().unwrap_or(0));
    match history.current(world) {
        Current::Known(known) => hash = known.hash,
        Current::Made(change) => changes.push(change),
        Current::Collides => collisions += 1,
    }
    let model = pod::model(set);
    let nodes = world.nodes().map(|node| (&*node.name, nodes::part(&model, node))).collect();
    let mut by_node: BTreeMap<&str, Vec<Pod>> = BTreeMap::new();
    for (key, pod) in &own {
        if let Some(node) = pod.target() {
            by_node.entry(node).or_default().push((key, pod));
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|(key, p)| (p.node.is_none(), p.created, (*key).clone()));
    }
    let view = View { key, held, now, hash, nodes, pods: by_node };
    let mut work = Work::default();
    if !hash.is_empty() {
        view.manage(&mut work);
        view.update(&mut work);
        let in_use: BTreeSet<&str> = own.iter().filter_map(|(_, p)| p.label(HASH_LABEL)).collect();
        changes.extend(history.renumber());
        changes.extend(history.truncate(true, |revision| in_use.contains(revision.hash)));
    }
    changes.extend(view.carry_out(&work));
    changes.extend(view.status(collisions));
    let ripens = own.iter().any(|(_, p)| p.ready && !view.is_available(p));
    let again = if ripens { Some(1) } else { work.again };
    match again.and_then(|seconds| u64::try_from(seconds).ok()) {
        Some(seconds) => Plan::of(changes).again(Duration::from_secs(seconds)),
        None => Plan::of(changes),
    }
}

impl<'w> View<'w> {
    fn spec(&self) -> &'w Value {
        &self.held.value["spec"]
    }

    fn is_available(&self, pod: &PodView) -> bool {
        pod.is_available(self.spec()["minReadySeconds"].as_i64().unwrap_or(0), self.now)
    }

    fn is_updated(&self, pod: &PodView) -> bool {
        pod.label(HASH_LABEL) == Some(self.hash)
    }

    fn about(&self) -> EventAbout {
        EventAbout {
            kind: &DAEMON_SETS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            uid: meta::uid(&self.held.value).to_owned(),
        }
    }

    fn event(&self, kind: &'static str, reason: &'static str, message: String) -> Change {
        Change::Event { about: self.about(), kind, reason, message, component: COMPONENT }
    }

    fn carry_out(&self, work: &Work) -> Vec<Change> {
        let mut changes = Vec::new();
        for (kind, reason, message) in &work.say {
            changes.push(self.event(kind, reason, message.clone()));
        }
        for (pod, view) in work.delete.iter().take(BURST) {
            changes.push(pods::delete(pod, view));
            changes.push(self.event("Normal", "SuccessfulDelete", format!("Deleted pod: {}", pod.1)));
        }
        for node in work.create.iter().take(BURST) {
            let object = pod::on(&self.held.value, node, self.hash);
            changes.push(Change::Create { kind: &PODS, namespace: self.key.0.clone(), object });
        }
        changes
    }

    fn status(&self, collisions: i64) -> Option<Change> {
        let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
        let (mut ready, mut available, mut updated) = (0, 0, 0);
        for (node, part) in &self.nodes {
            let first = self.pods.get(node).and_then(|pods| pods.first());
            if !part.wanted {
                misscheduled += i64::from(first.is_some());
                continue;
            }
            desired += 1;
            if let Some((_, pod)) = first {
                current += 1;
                ready += i64::from(pod.ready);
                available += i64::from(self.is_available(pod));
                updated += i64::from(self.is_updated(pod));
            }
        }
        let generation = self.held.value["metadata"]["generation"].as_i64().unwrap_or(1);
        // The first four are always there, zeros of the rest are left out.
        let wanted = [
            ("currentNumberScheduled", current),
            ("numberMisscheduled", misscheduled),
            ("desiredNumberScheduled", desired),
            ("numberReady", ready),
            ("observedGeneration", generation),
            ("updatedNumberScheduled", updated),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
            ("collisionCount", collisions),
        ];
        let present = &self.held.value["status"];
        if wanted.iter().all(|(field, value)| present[*field].as_i64().unwrap_or(0) == *value)
            && present.get("desiredNumberScheduled").is_some()
        {
            return None;
        }
        let mut status = json!({});
        for (i, (field, value)) in wanted.into_iter().enumerate() {
            status[field] = if i < 4 { json!(value) } else { omit_zero(value) };
        }
        Some(Change::Patch {
            kind: &DAEMON_SETS,
            namespace: self.key.0.clone(),
            name: self.key.1.clone(),
            part: Part::Status,
            patch: json!({"metadata": {"resourceVersion": self.held.revision.to_string()}, "status": status}),
        })
    }
}

#[cfg(test)]
mod tests;
