//! The ReplicaSets of a Deployment: taking them in, making, scaling and annotating them, which of the old ones go.
//!
//! Source: k8s.io/kubernetes/pkg/controller/deployment/{sync.go,util/deployment_util.go}.

use oarlock_api::catalogue::REPLICA_SETS;
use oarlock_api::meta;
use serde_json::{Map, Value, json};

use super::super::pods;
use super::super::template::{self, annotate, annotation_number, omit_zero, owner_reference};
use super::{REVISION, View};
use crate::change::{Change, Part};
use crate::world::{Held, Key, World};

pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The most characters of the annotation of former revisions.
const MOST_HISTORY: usize = 2000;

/// The ReplicaSets that a Deployment controls.
pub(super) fn own<'w>(world: &'w World, deployment: &Value) -> impl Iterator<Item = (&'w Key, &'w Held)> {
    let uid = meta::uid(deployment).to_owned();
    let table = (REPLICA_SETS.group, REPLICA_SETS.plural);
    let keys = world.dependents(&uid).filter(move |(g, p, _)| (*g, *p) == table).collect::<Vec<_>>();
    let held = keys.into_iter().filter_map(|(_, _, key)| Some((key, world.get(&REPLICA_SETS, key)?)));
    held.filter(move |(_, rs)| meta::controller_of(&rs.value).is_some_and(|o| o["uid"] == uid.as_str()))
}

/// Takes in ReplicaSets that nobody owns and that fit, lets go of own ones that do not.
pub(super) fn claim(world: &World, key: &Key, deployment: &Value) -> Vec<Change> {
    let Some(selector) = pods::selector(deployment) else { return Vec::new() };
    let patch = |(name, held): (&Key, &Held), owners: Value| Change::Patch {
        kind: &REPLICA_SETS,
        namespace: name.0.clone(),
        name: name.1.clone(),
        part: Part::Main,
        patch: json!({"metadata": {"resourceVersion": held.revision.to_string(), "ownerReferences": owners}}),
    };
    let fits = |held: &Held| selector.matches(meta::labels(&held.value));
    let orphans = world.list_in(&REPLICA_SETS, &key.0).filter(|(_, held)| {
        meta::owner_references(&held.value).is_empty() && !meta::is_terminating(&held.value) && fits(held)
    });
    let taken = orphans.map(|rs| patch(rs, json!([owner_reference(deployment)])));
    let strangers = own(world, deployment)
        .filter(|(_, held)| !fits(held) && meta::owner_references(&held.value).len() == 1);
    taken.chain(strangers.map(|rs| patch(rs, Value::Null))).collect()
}

impl View<'_> {
    fn last_revision(&self) -> i64 {
        self.old.iter().map(|(_, rs)| annotation_number(&rs.value, REVISION)).max().unwrap_or(0)
    }

    fn new_revision(&self) -> i64 {
        let present = self.new.map_or(0, |(_, rs)| annotation_number(&rs.value, REVISION));
        present.max(self.last_revision() + 1)
    }

    fn hash(&self) -> String {
        let collisions = self.held.value["status"]["collisionCount"].as_i64().unwrap_or(0);
        template::hash(&template::without_hash(&self.spec()["template"]), collisions)
    }

    /// What the new ReplicaSet is called, also before it is made.
    pub(super) fn new_name(&self) -> String {
        self.new.map_or_else(|| format!("{}-{}", self.key.1, self.hash()), |(key, _)| key.1.clone())
    }

    pub(super) fn create(&self, replicas: i64) -> Vec<Change> {
        let deployment = &*self.held.value;
        let (hash, name) = (self.hash(), self.new_name());
        if self.world.get(&REPLICA_SETS, &(self.key.0.clone(), name.clone())).is_some() {
            // The name is another's: count the collision, the next hash differs.
            let collisions = deployment["status"]["collisionCount"].as_i64().unwrap_or(0) + 1;
            return vec![self.patch(Part::Status, json!({"status": {"collisionCount": collisions}}))];
        }
        let template = template::with_hash(&self.spec()["template"], &hash);
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
                "minReadySeconds": omit_zero(self.min_ready()),
            },
        });
        annotate(&mut rs, REVISION, self.new_revision());
        annotate(&mut rs, DESIRED, self.replicas());
        annotate(&mut rs, MAX, self.most());
        let mut changes =
            vec![Change::Create { kind: &REPLICA_SETS, namespace: self.key.0.clone(), object: rs }];
        if replicas > 0 {
            changes.push(self.event(format!("Scaled up replica set {name} from 0 to {replicas}")));
        }
        changes
    }

    fn min_ready(&self) -> i64 {
        self.spec()["minReadySeconds"].as_i64().unwrap_or(0)
    }

    /// Brings a ReplicaSet to a number of replicas, and what else it has of its Deployment up to date.
    pub(super) fn scale(&self, key: &Key, rs: &Held, replicas: i64, is_new: bool) -> Vec<Change> {
        let present = rs.value["spec"]["replicas"].as_i64().unwrap_or(0);
        let mut annotations = if is_new { self.news_for(&rs.value) } else { Map::new() };
        for (name, value) in [(DESIRED, self.replicas()), (MAX, self.most())] {
            if (present > 0 || replicas > 0) && annotation_number(&rs.value, name) != value {
                annotations.insert(name.to_owned(), json!(value.to_string()));
            }
        }
        let mut spec = Map::new();
        if is_new && rs.value["spec"]["minReadySeconds"].as_i64().unwrap_or(0) != self.min_ready() {
            spec.insert("minReadySeconds".to_owned(), omit_zero(self.min_ready()));
        }
        let mut changes = Vec::new();
        if present != replicas {
            spec.insert("replicas".to_owned(), json!(replicas));
            let direction = if replicas > present { "up" } else { "down" };
            let name = &key.1;
            let message = format!("Scaled {direction} replica set {name} from {present} to {replicas}");
            changes.push(self.event(message));
        }
        if annotations.is_empty() && spec.is_empty() {
            return Vec::new();
        }
        let mut patch = json!({"metadata": {"resourceVersion": rs.revision.to_string()}});
        if !annotations.is_empty() {
            patch["metadata"]["annotations"] = Value::Object(annotations);
        }
        if !spec.is_empty() {
            patch["spec"] = Value::Object(spec);
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

    /// The annotations that the new ReplicaSet lacks: its Deployment's, its revision, and those that it had before when it is
    /// the new one again.
    fn news_for(&self, rs: &Value) -> Map<String, Value> {
        let mut news = carried_annotations(&self.held.value);
        news.retain(|name, value| meta::annotation(rs, name) != value.as_str());
        let (before, revision) = (annotation_number(rs, REVISION), self.new_revision());
        if before < revision {
            news.insert(REVISION.to_owned(), json!(revision.to_string()));
            if before > 0 {
                let history = meta::annotation(rs, REVISION_HISTORY).unwrap_or("");
                news.insert(REVISION_HISTORY.to_owned(), json!(with_former(history, before)));
            }
        }
        news
    }

    /// Old ReplicaSets beyond the history limit go when the rollout is complete and nothing is left of them.
    pub(super) fn clean_up(&self) -> Vec<Change> {
        if !self.counts().is_complete(self.replicas()) {
            return Vec::new();
        }
        let limit = usize::try_from(self.spec()["revisionHistoryLimit"].as_i64().unwrap_or(10)).unwrap_or(0);
        let mut idle: Vec<&(&Key, &Held)> = self.old.iter().filter(|(_, rs)| is_idle(&rs.value)).collect();
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

    pub(super) fn own_revision(&self) -> Option<Change> {
        let revision = self.new_revision();
        let differs = annotation_number(&self.held.value, REVISION) != revision && self.new.is_some();
        differs.then(|| {
            self.patch(Part::Main, json!({"metadata": {"annotations": {REVISION: revision.to_string()}}}))
        })
    }
}

fn is_idle(rs: &Value) -> bool {
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    number(&rs["spec"]["replicas"]) == 0
        && number(&rs["status"]["replicas"]) == 0
        && number(&rs["metadata"]["generation"]) <= number(&rs["status"]["observedGeneration"])
        && !meta::is_terminating(rs)
}

/// The former revisions with one more; the oldest go when it becomes too long.
fn with_former(history: &str, revision: i64) -> String {
    let mut history = history.to_owned();
    if !history.is_empty() {
        history.push(',');
    }
    history.push_str(&revision.to_string());
    while history.len() > MOST_HISTORY {
        let rest = history.split_once(',').map(|(_, rest)| rest.to_owned());
        history = rest.unwrap_or_default();
    }
    history
}

/// The annotations that ReplicaSets inherit.
fn carried_annotations(deployment: &Value) -> Map<String, Value> {
    let annotations = deployment["metadata"].get("annotations").and_then(Value::as_object);
    let mut annotations = annotations.cloned().unwrap_or_default();
    for own in [REVISION, REVISION_HISTORY, DESIRED, MAX, "kubectl.kubernetes.io/last-applied-configuration"]
    {
        annotations.shift_remove(own);
    }
    annotations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_of_revisions_is_bounded() {
        assert_eq!(with_former("", 3), "3");
        assert_eq!(with_former("1,3", 5), "1,3,5");
        let long = (0..700).fold(String::new(), |history, n| with_former(&history, n));
        assert!(long.len() <= MOST_HISTORY && long.ends_with(",699") && !long.starts_with("0,"), "{long}");
    }
}
