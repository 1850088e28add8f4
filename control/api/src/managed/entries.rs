//! Entries of `metadata.managedFields`: read, written, kept few.

use serde_json::{Value, json};

use super::set::FieldSet;
use crate::meta::metadata_mut;

/// The most entries of updates; older ones become one.
const MOST: usize = 10;
/// Whose that one is.
const ANCIENT: &str = "ancient-changes";

/// How somebody came to own fields. Sorted as entries are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply: what is applied no more, goes.
    Apply,
    /// By any other write.
    Update,
}

/// What one manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub manager: String,
    /// How.
    pub operation: Operation,
    /// The version whose fields they are.
    pub api_version: String,
    /// When it last took any; empty: not known.
    pub time: String,
    /// The subresource that it wrote, or empty.
    pub subresource: String,
    /// The fields.
    pub set: FieldSet,
}

impl Entry {
    /// As conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut shown = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            shown = format!("{shown} with subresource {:?}", self.subresource);
        }
        match self.operation {
            Operation::Apply => shown,
            Operation::Update => format!("{shown} using {}", self.api_version),
        }
    }

    fn from_json(entry: &Value) -> Result<Self, String> {
        let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            other => return Err(format!("operation {other:?} is neither Apply nor Update")),
        };
        if !matches!(text("fieldsType").as_str(), "FieldsV1") {
            return Err("fieldsType must be FieldsV1".to_owned());
        }
        let set = match entry.get("fieldsV1") {
            None | Some(Value::Null) => FieldSet::default(),
            Some(fields) => FieldSet::from_json(fields)?,
        };
        Ok(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            time: text("time"),
            subresource: text("subresource"),
            set,
        })
    }

    fn to_json(&self) -> Value {
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        let mut entry =
            json!({"manager": self.manager, "operation": operation, "apiVersion": self.api_version});
        if !self.time.is_empty() {
            entry["time"] = json!(self.time);
        }
        entry["fieldsType"] = json!("FieldsV1");
        entry["fieldsV1"] = self.set.to_json();
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }
}

/// The entries of an object.
///
/// # Errors
/// An entry that cannot be understood.
pub fn of(object: &Value) -> Result<Vec<Entry>, String> {
    read(object.get("metadata").and_then(|metadata| metadata.get("managedFields")).unwrap_or(&Value::Null))
}

/// Reads a list of entries.
///
/// # Errors
/// An entry that cannot be understood.
pub fn read(entries: &Value) -> Result<Vec<Entry>, String> {
    entries.as_array().into_iter().flatten().map(Entry::from_json).collect()
}

/// Whether a list says that nobody is to own anything: one empty entry.
#[must_use]
pub fn is_reset(entries: &Value) -> bool {
    matches!(entries.as_array().map(Vec::as_slice), Some([Value::Object(only)]) if only.is_empty())
}

/// Writes entries into an object.
pub fn put(object: &mut Value, entries: &[Entry]) {
    let metadata = metadata_mut(object);
    if entries.is_empty() {
        metadata.shift_remove("managedFields");
    } else {
        let entries: Vec<Value> = entries.iter().map(Entry::to_json).collect();
        metadata.insert("managedFields".to_owned(), entries.into());
    }
}

/// Without those that own nothing, the oldest updates put together, in upstream's order.
pub(super) fn tidy(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.retain(|entry| !entry.set.is_empty());
    sort(&mut entries);
    let updates = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
    while updates(&entries) > MOST {
        let oldest = |entry: &Entry| entry.operation == Operation::Update && entry.manager != ANCIENT;
        let Some(at) = entries.iter().position(oldest) else { break };
        let entry = entries.remove(at);
        let same = |e: &&mut Entry| e.manager == ANCIENT && e.api_version == entry.api_version;
        match entries.iter_mut().find(same) {
            Some(ancient) => {
                ancient.set = std::mem::take(&mut ancient.set).union(&entry.set);
                ancient.time = entry.time;
            }
            // The first of its version.
            None => {
                let subresource = String::new();
                entries.push(Entry { manager: ANCIENT.to_owned(), subresource, ..entry });
            }
        }
    }
    sort(&mut entries);
    entries
}

fn sort(entries: &mut [Entry]) {
    entries.sort_by(|one, other| {
        let key = |e: &Entry| {
            (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
        };
        key(one).cmp(&key(other))
    });
}
