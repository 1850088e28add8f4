//! The store and the API of the simulation: objects, versions, a log of changes. As strict as the real one where controllers
//! rely on it: versions, uids, parts, graceful deletion.

use std::collections::BTreeMap;
use std::sync::Arc;

use oarlock_api::catalogue::{Kind, PODS};
use oarlock_api::{defaults, meta};
use oarlock_planner::{Change, Key, Part};
use serde_json::{Value, json};

/// One change: what stands there now, `None` for nothing.
pub(crate) struct Logged {
    pub(crate) kind: &'static Kind,
    pub(crate) key: Key,
    pub(crate) value: Option<Arc<Value>>,
    pub(crate) revision: u64,
}

#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<(&'static str, Key), Arc<Value>>,
    pub(crate) log: Vec<Logged>,
    pub(crate) revision: u64,
}

/// A change that does not fit the present: its key is planned again.
#[derive(Debug)]
pub(crate) struct Conflict;

const TIME: &str = "2026-01-01T00:00:00Z";

impl Store {
    pub(crate) fn all(&self, kind: &Kind) -> impl Iterator<Item = &Value> {
        let plural = kind.plural;
        self.objects.iter().filter(move |((p, _), _)| *p == plural).map(|(_, value)| &**value)
    }

    fn get(&self, kind: &Kind, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(&(kind.plural, key.clone()))
    }

    fn write(&mut self, kind: &'static Kind, key: Key, value: Option<Value>) {
        self.revision += 1;
        let value = value.map(|mut value| {
            meta::metadata_mut(&mut value).insert("resourceVersion".into(), json!(self.revision.to_string()));
            Arc::new(value)
        });
        match &value {
            Some(value) => drop(self.objects.insert((kind.plural, key.clone()), Arc::clone(value))),
            None => drop(self.objects.remove(&(kind.plural, key.clone()))),
        }
        self.log.push(Logged { kind, key, value, revision: self.revision });
    }

    pub(crate) fn create(&mut self, kind: &'static Kind, namespace: &str, mut object: Value) {
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        let prefix = meta::text(&object, "generateName").to_owned();
        let metadata = meta::metadata_mut(&mut object);
        let number = self.revision + 1;
        if !prefix.is_empty() && !metadata.contains_key("name") {
            metadata.insert("name".into(), json!(format!("{prefix}{number:05}")));
        }
        metadata.insert("namespace".into(), json!(namespace));
        metadata.insert("uid".into(), json!(format!("uid-{number}")));
        metadata.insert("creationTimestamp".into(), json!(TIME));
        metadata.insert("generation".into(), json!(1));
        defaults::apply(kind, &mut object);
        defaults::identify(kind, &mut object);
        if *kind == PODS {
            object["status"] = json!({"phase": "Pending"});
        }
        let key = (namespace.to_owned(), meta::name(&object).to_owned());
        if self.get(kind, &key).is_none() {
            self.write(kind, key, Some(object));
        }
    }

    pub(crate) fn patch(
        &mut self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        patch: &Value,
    ) -> Result<(), Conflict> {
        let Some(present) = self.get(kind, key).cloned() else { return Ok(()) };
        for field in ["resourceVersion", "uid"] {
            let asked = &patch["metadata"][field];
            if !asked.is_null() && *asked != present["metadata"][field] {
                return Err(Conflict);
            }
        }
        let mut merged = Value::clone(&present);
        merge(&mut merged, patch);
        let mut next = Value::clone(&present);
        if part == Part::Status {
            next["status"] = merged["status"].take();
        } else {
            let status = next["status"].take();
            next = merged;
            next["status"] = status;
            // As the API does, lest an object that was patched differ from one that was created.
            defaults::apply(kind, &mut next);
            if next["spec"] != present["spec"] {
                let generation = present["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
                next["metadata"]["generation"] = json!(generation);
            }
        }
        if next != *present {
            // What only a finalizer held goes with the last one.
            let released = next["metadata"]["deletionGracePeriodSeconds"] == 0;
            let goes = released && meta::finalizers(&next).next().is_none();
            self.write(kind, key.clone(), if goes { None } else { Some(next) });
        }
        Ok(())
    }

    /// A pod that a node has goes when the node says so, everything else at once.
    pub(crate) fn delete(
        &mut self,
        kind: &'static Kind,
        key: &Key,
        uid: Option<&str>,
        grace: Option<i64>,
    ) -> Result<(), Conflict> {
        let Some(present) = self.get(kind, key).cloned() else { return Ok(()) };
        if uid.is_some_and(|uid| uid != meta::uid(&present)) {
            return Ok(());
        }
        if *kind == PODS && present["spec"]["nodeName"].is_string() && grace != Some(0) {
            if present["metadata"]["deletionTimestamp"].is_null() {
                let mut next = Value::clone(&present);
                next["metadata"]["deletionTimestamp"] = json!(TIME);
                next["metadata"]["deletionGracePeriodSeconds"] = json!(30);
                self.write(kind, key.clone(), Some(next));
            }
            return Ok(());
        }
        if meta::finalizers(&present).next().is_some() {
            let mut next = Value::clone(&present);
            next["metadata"]["deletionTimestamp"] = json!(TIME);
            next["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            if next != *present {
                self.write(kind, key.clone(), Some(next));
            }
            return Ok(());
        }
        self.write(kind, key.clone(), None);
        Ok(())
    }

    pub(crate) fn carry_out(&mut self, change: Change) -> Result<(), Conflict> {
        match change {
            Change::Create { kind, namespace, object } => {
                self.create(kind, &namespace, object);
                Ok(())
            }
            Change::Patch { kind, namespace, name, part, patch } => {
                self.patch(kind, &(namespace, name), part, &patch)
            }
            Change::Delete { kind, namespace, name, uid, grace } => {
                self.delete(kind, &(namespace, name), Some(&uid), grace)
            }
            Change::Bind { namespace, name, uid, node } => {
                let key = (namespace, name);
                let Some(present) = self.get(&PODS, &key).cloned() else { return Ok(()) };
                let free = present["spec"]["nodeName"].is_null()
                    && present["metadata"]["deletionTimestamp"].is_null();
                if !free || meta::uid(&present) != uid {
                    return Err(Conflict);
                }
                self.patch(&PODS, &key, Part::Main, &json!({"spec": {"nodeName": node}}))
            }
            // Nobody here looks at them.
            Change::Condition { .. }
            | Change::Unready { .. }
            | Change::Event { .. }
            | Change::Miss { .. }
            | Change::Remember { .. }
            | Change::Measure { .. } => Ok(()),
        }
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let target = meta::map_of(target);
    for (field, value) in patch {
        if value.is_null() {
            target.shift_remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}
