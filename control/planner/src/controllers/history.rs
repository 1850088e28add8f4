//! ControllerRevisions: what the template of a DaemonSet or StatefulSet has been, for `kubectl rollout history` and `undo`.
//!
//! Source: k8s.io/kubernetes/pkg/controller/history and pkg/controller/daemon/update.go.

use std::collections::BTreeSet;

use oarlock_api::catalogue::CONTROLLER_REVISIONS;
use oarlock_api::meta;
use serde_json::{Value, json};

use super::template::{self, owner_reference};
use crate::change::{Change, Part};
use crate::world::{Held, Key, World};

/// The label that ties a pod to the revision that it was made from.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";

/// An object's revisions, oldest first.
pub(super) struct History<'w> {
    key: &'w Key,
    owner: &'w Value,
    revisions: Vec<(&'w Key, &'w Held)>,
}

/// What the present template is called.
pub(super) enum Current<'w> {
    /// It has a revision: the hash in its label.
    Known(&'w str),
    /// It gets one by this change; until then nothing can be made from it.
    Made(Change),
    /// Its name is taken by something else: the object's collision count must grow.
    Collides,
}

fn number(held: &Held) -> i64 {
    held.value["revision"].as_i64().unwrap_or(0)
}

/// The template as a revision keeps it: a strategic merge patch that replaces the present one.
fn data(owner: &Value) -> Value {
    let mut template = owner["spec"]["template"].clone();
    meta::map_of(&mut template).insert("$patch".to_owned(), json!("replace"));
    json!({"spec": {"template": template}})
}

impl<'w> History<'w> {
    /// The revisions that an object controls.
    pub(super) fn of(world: &'w World, key: &'w Key, owner: &'w Value) -> Self {
        let table = (CONTROLLER_REVISIONS.group, CONTROLLER_REVISIONS.plural);
        let keys = world.dependents(meta::uid(owner)).filter(|(g, p, _)| (*g, *p) == table);
        let held = keys.filter_map(|(_, _, key)| Some((key, world.get(&CONTROLLER_REVISIONS, key)?)));
        let mut revisions: Vec<(&Key, &Held)> = held
            .filter(|(_, held)| {
                meta::controller_of(&held.value).is_some_and(|o| o["uid"] == meta::uid(owner))
            })
            .collect();
        revisions.sort_by_key(|(key, held)| (number(held), (*key).clone()));
        Self { key, owner, revisions }
    }

    fn position(&self) -> Option<usize> {
        let wanted = data(self.owner);
        // The newest of those that say the same.
        self.revisions.iter().rposition(|(_, held)| held.value["data"] == wanted)
    }

    fn last(&self) -> i64 {
        self.revisions.last().map_or(0, |(_, held)| number(held))
    }

    /// The revision of the present template.
    pub(super) fn current(&self, world: &World) -> Current<'w> {
        if let Some(position) = self.position() {
            let (_, held) = self.revisions[position];
            let hash = held.value["metadata"]["labels"][HASH_LABEL].as_str().unwrap_or("");
            return Current::Known(hash);
        }
        let collisions = self.owner["status"]["collisionCount"].as_i64().unwrap_or(0);
        let hash = template::hash(&self.owner["spec"]["template"], collisions);
        let name = format!("{}-{hash}", self.key.1);
        if world.get(&CONTROLLER_REVISIONS, &(self.key.0.clone(), name.clone())).is_some() {
            return Current::Collides;
        }
        let mut labels = self.owner["spec"]["template"]["metadata"]["labels"].clone();
        meta::map_of(&mut labels).insert(HASH_LABEL.to_owned(), json!(hash));
        let mut metadata =
            json!({"name": name, "labels": labels, "ownerReferences": [owner_reference(self.owner)]});
        if let Some(annotations) = self.owner["metadata"].get("annotations") {
            metadata["annotations"] = annotations.clone();
        }
        let object = json!({"metadata": metadata, "data": data(self.owner), "revision": self.last() + 1});
        Current::Made(Change::Create { kind: &CONTROLLER_REVISIONS, namespace: self.key.0.clone(), object })
    }

    /// A present template that is an older one again becomes the newest revision; what is beyond the limit goes, but for
    /// what pods are still made from.
    pub(super) fn tidy(&self, in_use: &BTreeSet<&str>) -> Vec<Change> {
        let mut changes = Vec::new();
        let current = self.position();
        if let Some((key, held)) = current.map(|i| self.revisions[i])
            && number(held) < self.last()
        {
            changes.push(Change::Patch {
                kind: &CONTROLLER_REVISIONS,
                namespace: key.0.clone(),
                name: key.1.clone(),
                part: Part::Main,
                patch: json!({
                    "metadata": {"resourceVersion": held.revision.to_string()}, "revision": self.last() + 1,
                }),
            });
        }
        let limit = self.owner["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10);
        let old = self.revisions.len() - usize::from(current.is_some());
        let surplus = old.saturating_sub(usize::try_from(limit).unwrap_or(0));
        let unused = self.revisions.iter().enumerate().filter(|(i, (_, held))| {
            let hash = held.value["metadata"]["labels"][HASH_LABEL].as_str().unwrap_or("");
            Some(*i) != current && !in_use.contains(hash)
        });
        changes.extend(unused.take(surplus).map(|(_, (key, held))| Change::Delete {
            kind: &CONTROLLER_REVISIONS,
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: meta::uid(&held.value).to_owned(),
            grace: None,
        }));
        changes
    }
}
