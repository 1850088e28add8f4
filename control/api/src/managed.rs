//! Who owns which field of an object (`metadata.managedFields`), and server-side apply. Pure.
//!
//! In: objects in their stored form, and who writes in which version. Out: the entries that the object has then, and for an
//! apply the object itself, or the conflicts. The rules are those of sigs.k8s.io/structured-merge-diff and of
//! k8s.io/apimachinery/pkg/util/managedfields.

mod entries;
mod place;
mod set;
mod walk;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

pub use entries::{Entry, Operation, is_reset, of, put, read};
pub use set::FieldSet;

use crate::catalogue::{Kind, VERSIONS};
use crate::convert;
use crate::meta::{map_at, map_of, metadata_mut};
use crate::schema::Schema;
use crate::status::{Cause, Status};
use place::Place;
use walk::Comparison;

/// What `kubectl apply` without `--server-side` remembers.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Whose fields they are that an object had before anybody's were told apart.
const BEFORE: &str = "before-first-apply";
/// What nobody owns: the server decides it, or it names the object.
const NOBODYS: &[&str] = &[
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "clusterName",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'w> {
    /// The kind as it is stored.
    pub kind: &'static Kind,
    /// The version that the request is in.
    pub version: &'static Kind,
    /// The field manager.
    pub manager: &'w str,
    /// `status`, `scale`, or empty.
    pub subresource: &'w str,
    /// Now, as `Time` has it.
    pub time: &'w str,
}

/// An object in one version, and what the schema says of it.
struct View {
    object: Value,
    place: Place,
}

impl Writer<'_> {
    /// The entries of an object that was created or changed by other means than apply. `old` is null for a new one.
    #[must_use]
    pub fn update(&self, old: &Value, new: &Value, entries: Vec<Entry>) -> Vec<Entry> {
        let mut versions = Versions { kind: self.kind, old, new, found: HashMap::new() };
        let mut kept = Vec::with_capacity(entries.len() + 1);
        for mut entry in entries {
            let Some(differ) = versions.compare(&entry.api_version) else { continue };
            entry.set =
                entry.set.difference(&differ.modified).difference(&differ.added).difference(&differ.removed);
            kept.push(entry);
        }
        let api_version = self.version.api_version();
        let took = versions.compare(&api_version).map(|d| d.modified.clone().union(&d.added));
        if let Some(took) = took.filter(|took| !took.is_empty()) {
            let own = kept.iter().position(|entry| self.is_own(entry, Operation::Update));
            let before = own.map(|at| kept.remove(at).set).unwrap_or_default();
            kept.push(self.entry(Operation::Update, took.union(&before)));
        }
        entries::tidy(kept)
    }

    /// Lays a configuration in the request's version over an object; the result is in its stored form, with its entries.
    ///
    /// # Errors
    /// A configuration that is none, or fields of others that it would change.
    pub fn apply(&self, live: &Value, config: &Value, force: bool) -> Result<Value, Status> {
        let api_version = self.version.api_version();
        let config = self.own_part(config);
        let config_view = View { object: stripped(&config), place: self.place() };
        self.check(&config_view)?;
        let mut entries = entries::of(live).unwrap_or_default();
        if entries.is_empty() {
            let first = Writer { manager: BEFORE, subresource: "", ..*self };
            entries = first.update(&Value::Null, live, Vec::new());
        }
        let set = walk::fields(config_view.place, &config_view.object);
        let own = entries.iter().position(|entry| self.is_own(entry, Operation::Apply));
        let last = own.map(|at| entries.remove(at));
        let mut shown = live.clone();
        convert::from_stored(self.version, &mut shown);
        let mut merged = walk::merge(config_view.place, &shown, &config);
        if let Some(last) = &last {
            merged = self.prune(merged, last, &set, &entries);
        }
        if let Place::Struct(message) = config_view.place {
            Schema::builtin().prune(message, &mut merged);
        }
        convert::to_stored(self.version, &mut merged);
        let mut versions = Versions { kind: self.kind, old: live, new: &merged, found: HashMap::new() };
        let mut kept = self.take(live, &mut versions, entries, force)?;
        let changed = versions.compare(&api_version).is_none_or(|differ| !differ.is_empty());
        let mut entry = self.entry(Operation::Apply, set);
        if let Some(last) = last.filter(|last| !changed && last.set == entry.set) {
            entry.time = last.time;
        }
        kept.push(entry);
        let remembers = self.manager == "kubectl" && self.subresource.is_empty();
        if remembers && crate::meta::annotation(live, LAST_APPLIED).is_some() {
            remember(&mut merged, &config);
        }
        entries::put(&mut merged, &entries::tidy(kept));
        Ok(merged)
    }

    /// Takes what an apply changes from the others, if it may.
    fn take(
        &self,
        live: &Value,
        versions: &mut Versions<'_>,
        entries: Vec<Entry>,
        force: bool,
    ) -> Result<Vec<Entry>, Status> {
        let mut conflicts = Vec::new();
        let mut kept = Vec::with_capacity(entries.len() + 1);
        for mut entry in entries {
            let Some(differ) = versions.compare(&entry.api_version) else { continue };
            let taken = entry.set.intersection(&differ.modified.clone().union(&differ.added));
            entry.set = entry.set.difference(&taken).difference(&differ.removed);
            if !taken.is_empty() {
                conflicts.push((entry.clone(), taken));
            }
            kept.push(entry);
        }
        if force || conflicts.is_empty() {
            return Ok(kept);
        }
        let forgiven = if self.manager == "kubectl" { self.last_applied(live) } else { FieldSet::default() };
        let held = conflicts.iter().map(|(entry, taken)| (entry, taken.difference(&forgiven)));
        let held: Vec<_> = held.filter(|(_, taken)| !taken.is_empty()).collect();
        if held.is_empty() { Ok(kept) } else { Err(conflict(held)) }
    }

    /// A new object out of a configuration.
    ///
    /// # Errors
    /// A configuration that is none.
    pub fn create(&self, config: &Value) -> Result<Value, Status> {
        let mut object = self.own_part(config);
        let view = View { object: stripped(&object), place: self.place() };
        self.check(&view)?;
        let entry = self.entry(Operation::Apply, walk::fields(view.place, &view.object));
        if let Place::Struct(message) = view.place {
            Schema::builtin().prune(message, &mut object);
        }
        convert::to_stored(self.version, &mut object);
        entries::put(&mut object, &entries::tidy(vec![entry]));
        Ok(object)
    }

    fn place(&self) -> Place {
        Place::of_kind(self.version.group, self.version.version, self.version.kind)
    }

    fn is_own(&self, entry: &Entry, operation: Operation) -> bool {
        entry.manager == self.manager
            && entry.operation == operation
            && entry.subresource == self.subresource
            // Who applies is the same in every version.
            && (operation == Operation::Apply || entry.api_version == self.version.api_version())
    }

    fn entry(&self, operation: Operation, set: FieldSet) -> Entry {
        Entry {
            manager: self.manager.to_owned(),
            operation,
            api_version: self.version.api_version(),
            time: self.time.to_owned(),
            subresource: self.subresource.to_owned(),
            set,
        }
    }

    /// What of a configuration is for the part of the object that is written.
    fn own_part(&self, config: &Value) -> Value {
        let mut config = config.clone();
        if self.subresource == "status" {
            map_of(&mut config)
                .retain(|field, _| ["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()));
            metadata_mut(&mut config).retain(|field, _| NOBODYS.contains(&field.as_str()));
        } else if self.kind.has_subresource("status") {
            map_of(&mut config).shift_remove("status");
        }
        metadata_mut(&mut config).shift_remove("managedFields");
        config
    }

    fn check(&self, config: &View) -> Result<(), Status> {
        let why = match config.place {
            Place::Struct(message) => {
                let unknown = Schema::builtin().check(message, &config.object).unknown.into_iter().next();
                unknown
                    .map(|field| format!(".{field}: field not declared in schema"))
                    .or_else(|| walk::ambiguity(config.place, &config.object, ""))
            }
            _ => None,
        };
        match why {
            None => Ok(()),
            Some(why) => Err(Status::bad_request(format!(
                "failed to create typed patch object ({}; {}, Kind={}): {why}",
                self.version.plural,
                self.version.api_version(),
                self.version.kind
            ))),
        }
    }

    /// Takes away what the last configuration had and this one has not, but for what others own, too.
    fn prune(&self, merged: Value, last: &Entry, set: &FieldSet, others: &[Entry]) -> Value {
        let (api_version, mut stored) = (&last.api_version, merged.clone());
        convert::to_stored(self.version, &mut stored);
        // In the version of the last configuration.
        let Some(View { object, place }) = view(self.kind, &stored, api_version) else { return merged };
        let parents = |set: &FieldSet| walk::with_parents(place, set);
        let all = |object: Option<&Value>| {
            parents(&object.map(|object| walk::fields(place, object)).unwrap_or_default())
        };
        let had = parents(&last.set);
        let pruned = walk::without(place, &object, &had);
        let merged_set = all(Some(&object));
        // Entries of other versions speak of fields that have the same names here, or of none.
        let owned = others.iter().fold(set.clone(), |all, entry| all.union(&entry.set));
        let gone = merged_set.difference(&all(pruned.as_ref()).union(&parents(&owned)));
        // What the last configuration did not have is not its to take, whoever owns it.
        let left = walk::without(place, &object, &gone);
        let gone = merged_set.difference(&all(left.as_ref())).intersection(&had);
        let gone =
            gone.map_nodes(|element, member, below| (member && element != "f:metadata", below.clone()));
        if gone.is_empty() {
            return merged;
        }
        let mut shown = stored;
        if let Some(version) = version_of(self.kind, api_version) {
            convert::from_stored(version, &mut shown);
            let mut shown = walk::without(place, &shown, &gone).unwrap_or(Value::Null);
            convert::to_stored(version, &mut shown);
            convert::from_stored(self.version, &mut shown);
            return shown;
        }
        merged
    }

    /// The fields that client-side apply set and that are still as it set them.
    fn last_applied(&self, live: &Value) -> FieldSet {
        let text = crate::meta::annotation(live, LAST_APPLIED).unwrap_or_default();
        let Ok(applied) = serde_json::from_str::<Value>(text) else { return FieldSet::default() };
        let Some(view) = view(self.kind, live, &self.version.api_version()) else {
            return FieldSet::default();
        };
        let applied = stripped(&applied);
        let differ = walk::compare(view.place, &applied, &view.object);
        let set = walk::fields(view.place, &applied);
        set.difference(&differ.modified).difference(&differ.removed)
    }
}

/// Both objects in every version that some entry is in, compared when asked for.
struct Versions<'v> {
    kind: &'static Kind,
    old: &'v Value,
    new: &'v Value,
    found: HashMap<String, Option<Comparison>>,
}

impl Versions<'_> {
    /// `None`: the version is not served any more, and nobody can own its fields.
    fn compare(&mut self, api_version: &str) -> Option<&Comparison> {
        if !self.found.contains_key(api_version) {
            let old = view(self.kind, self.old, api_version);
            let new = view(self.kind, self.new, api_version);
            let differ = old.zip(new).map(|(old, new)| walk::compare(new.place, &old.object, &new.object));
            self.found.insert(api_version.to_owned(), differ);
        }
        self.found.get(api_version)?.as_ref()
    }
}

impl Comparison {
    fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

fn version_of(kind: &'static Kind, api_version: &str) -> Option<&'static Kind> {
    let versions = VERSIONS.iter().copied().filter(|version| version.stored_as == Some(kind));
    std::iter::once(kind).chain(versions).find(|version| version.api_version() == api_version)
}

/// A stored object in a version, without what nobody owns.
fn view(kind: &'static Kind, stored: &Value, api_version: &str) -> Option<View> {
    let version = version_of(kind, api_version)?;
    let place = Place::of_kind(version.group, version.version, version.kind);
    if version.stored_as.is_none() {
        return Some(View { object: stripped(stored), place });
    }
    let mut object = stored.clone();
    convert::from_stored(version, &mut object);
    Some(View { object: stripped(&object), place })
}

fn stripped(object: &Value) -> Value {
    let Some(fields) = object.as_object() else { return json!({}) };
    let mut left = Map::with_capacity(fields.len());
    for (name, value) in fields.iter().filter(|(name, _)| *name != "apiVersion" && *name != "kind") {
        let value = match (name.as_str(), value) {
            ("metadata", Value::Object(metadata)) => {
                let owned = metadata.iter().filter(|(field, _)| !NOBODYS.contains(&field.as_str()));
                let owned: Map<String, Value> = owned.map(|(f, v)| (f.clone(), v.clone())).collect();
                if owned.is_empty() {
                    continue;
                }
                Value::Object(owned)
            }
            _ => value.clone(),
        };
        left.insert(name.clone(), value);
    }
    Value::Object(left)
}

/// Tells client-side apply what was applied by the server, so that a user may go back to it.
fn remember(object: &mut Value, config: &Value) {
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = metadata_mut(&mut config).get_mut("annotations") {
        annotations.shift_remove(LAST_APPLIED);
    }
    let annotations = map_at(metadata_mut(object), "annotations");
    annotations.insert(LAST_APPLIED.to_owned(), json!(format!("{config}\n")));
}

/// A 409 that names every field and who owns it.
fn conflict(mut conflicts: Vec<(&Entry, FieldSet)>) -> Status {
    conflicts.sort_by_key(|(entry, _)| entry.shown());
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (entry, taken) in &conflicts {
        lines.push(format!("conflicts with {}:", entry.shown()));
        for path in taken.paths() {
            lines.push(format!("- {path}"));
            let message = format!("conflict with {}", entry.shown());
            causes.push(Cause { reason: "FieldManagerConflict".to_owned(), message, field: path });
        }
    }
    let message = match &causes[..] {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        all => format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n")),
    };
    Status::apply_conflict(message, causes)
}

#[cfg(test)]
mod tests;
