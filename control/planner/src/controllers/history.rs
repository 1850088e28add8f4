//! ControllerRevisions: what the template of a DaemonSet or StatefulSet has been, for `kubectl rollout history` and `undo`.
//!
//! Source: k8s.io/kubernetes/pkg/controller/history and pkg/controller/daemon/update.go.

use oarlock_api::catalogue::{CONTROLLER_REVISIONS, Kind};
use oarlock_api::meta;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

use super::pods;
use super::template::{self, owner_reference};
use crate::change::{Change, Part};
use crate::world::{Held, Key, World};

/// The label that ties a pod to the revision that it was made from.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";

/// The label that names the hash on revisions of StatefulSets.
pub(super) const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// An object's revisions, oldest first.
pub(super) struct History<'w> {
    key: &'w Key,
    owner: &'w Value,
    /// The label of a revision that holds its hash.
    label: &'static str,
    revisions: Vec<(&'w Key, &'w Held)>,
}

/// What the present template is called.
pub(super) enum Current<'w> {
    /// It has a revision.
    Known(Revision<'w>),
    /// It gets one by this change; until then nothing can be made from it.
    Made(Change),
    /// Its name is taken by something else: the object's collision count must grow.
    Collides,
}

/// One revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revision<'w> {
    pub(super) name: &'w str,
    /// What its label says.
    pub(super) hash: &'w str,
    value: &'w Value,
}

impl Revision<'_> {
    /// The template that it keeps.
    pub(super) fn template(&self) -> Value {
        let mut template = self.value["data"]["spec"]["template"].clone();
        meta::map_of(&mut template).shift_remove("$patch");
        template
    }
}

/// The owner of a changed revision, if it is of this kind; for one that nobody owns, whoever may take it in.
pub(super) fn owners(world: &World, kind: &'static Kind, key: &Key) -> Vec<Key> {
    let Some(held) = world.get(&CONTROLLER_REVISIONS, key) else { return Vec::new() };
    if let Some(owner) = meta::controller_of(&held.value) {
        let owner = owner["uid"].as_str().and_then(|uid| world.by_uid(uid)).filter(|(k, _)| **k == *kind);
        return owner.map(|(_, key)| key.clone()).into_iter().collect();
    }
    let labels = meta::labels(&held.value);
    let fits = |owner: &Value| pods::selector(owner).is_some_and(|s| s.matches(labels));
    world.list_in(kind, &key.0).filter(|(_, owner)| fits(&owner.value)).map(|(key, _)| key.clone()).collect()
}

/// Takes in revisions that nobody owns and that fit: a set that was deleted without its pods and made again goes on with
/// them.
pub(super) fn adopt(world: &World, key: &Key, owner: &Value, selector: &Selector) -> Vec<Change> {
    let orphans = world.list_in(&CONTROLLER_REVISIONS, &key.0).filter(|(_, held)| {
        meta::owner_references(&held.value).is_empty()
            && !meta::is_terminating(&held.value)
            && selector.matches(meta::labels(&held.value))
    });
    let patches = orphans.map(|(name, held)| Change::Patch {
        kind: &CONTROLLER_REVISIONS,
        namespace: name.0.clone(),
        name: name.1.clone(),
        part: Part::Main,
        patch: json!({"metadata": {
            "resourceVersion": held.revision.to_string(), "ownerReferences": [owner_reference(owner)],
        }}),
    });
    patches.collect()
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
    pub(super) fn of(world: &'w World, key: &'w Key, owner: &'w Value, label: &'static str) -> Self {
        let table = (CONTROLLER_REVISIONS.group, CONTROLLER_REVISIONS.plural);
        let keys = world.dependents(meta::uid(owner)).filter(|(g, p, _)| (*g, *p) == table);
        let held = keys.filter_map(|(_, _, key)| Some((key, world.get(&CONTROLLER_REVISIONS, key)?)));
        let mut revisions: Vec<(&Key, &Held)> = held
            .filter(|(_, held)| {
                meta::controller_of(&held.value).is_some_and(|o| o["uid"] == meta::uid(owner))
            })
            .collect();
        revisions.sort_by_key(|(key, held)| (number(held), (*key).clone()));
        Self { key, owner, label, revisions }
    }

    fn position(&self) -> Option<usize> {
        let wanted = data(self.owner);
        // The newest of those that say the same.
        self.revisions.iter().rposition(|(_, held)| held.value["data"] == wanted)
    }

    fn read(&self, (key, held): (&'w Key, &'w Held)) -> Revision<'w> {
        let hash = held.value["metadata"]["labels"][self.label].as_str().unwrap_or("");
        Revision { name: &key.1, hash, value: &held.value }
    }

    /// The revision with a name.
    pub(super) fn named(&self, name: &str) -> Option<Revision<'w>> {
        self.revisions.iter().find(|(key, _)| key.1 == name).map(|found| self.read(*found))
    }

    fn last(&self) -> i64 {
        self.revisions.last().map_or(0, |(_, held)| number(held))
    }

    /// The revision of the present template.
    pub(super) fn current(&self, world: &World) -> Current<'w> {
        if let Some(position) = self.position() {
            return Current::Known(self.read(self.revisions[position]));
        }
        let collisions = self.owner["status"]["collisionCount"].as_i64().unwrap_or(0);
        let hash = template::hash(&self.owner["spec"]["template"], collisions);
        let name = format!("{}-{hash}", self.key.1);
        if world.get(&CONTROLLER_REVISIONS, &(self.key.0.clone(), name.clone())).is_some() {
            return Current::Collides;
        }
        let mut labels = self.owner["spec"]["template"]["metadata"]["labels"].clone();
        meta::map_of(&mut labels).insert(self.label.to_owned(), json!(hash));
        let mut metadata =
            json!({"name": name, "labels": labels, "ownerReferences": [owner_reference(self.owner)]});
        if let Some(annotations) = self.owner["metadata"].get("annotations") {
            metadata["annotations"] = annotations.clone();
        }
        let object = json!({"metadata": metadata, "data": data(self.owner), "revision": self.last() + 1});
        Current::Made(Change::Create { kind: &CONTROLLER_REVISIONS, namespace: self.key.0.clone(), object })
    }

    /// A present template that is an older one again becomes the newest revision.
    pub(super) fn renumber(&self) -> Option<Change> {
        let (key, held) = self.revisions[self.position()?];
        (number(held) < self.last()).then(|| Change::Patch {
            kind: &CONTROLLER_REVISIONS,
            namespace: key.0.clone(),
            name: key.1.clone(),
            part: Part::Main,
            patch: json!({
                "metadata": {"resourceVersion": held.revision.to_string()}, "revision": self.last() + 1,
            }),
        })
    }

    /// What is beyond the limit goes, oldest first, but for what is live. A DaemonSet's live revisions count for its limit, a
    /// StatefulSet's do not.
    pub(super) fn truncate(&self, counts: bool, live: impl Fn(&Revision) -> bool) -> Vec<Change> {
        let current = self.position();
        let limit = self.owner["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(10);
        let is_live = |i: usize| Some(i) == current || live(&self.read(self.revisions[i]));
        let unused: Vec<usize> = (0..self.revisions.len()).filter(|i| !is_live(*i)).collect();
        let old = if counts { self.revisions.len() - usize::from(current.is_some()) } else { unused.len() };
        let surplus = old.saturating_sub(usize::try_from(limit).unwrap_or(0));
        let goes = unused.into_iter().take(surplus).map(|i| self.revisions[i]);
        goes.map(|(key, held)| Change::Delete {
            kind: &CONTROLLER_REVISIONS,
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid: meta::uid(&held.value).to_owned(),
            grace: None,
        })
        .collect()
    }
}
