//! events.k8s.io/v1 Event and core/v1 Event: the same fields under other names.

use serde_json::{Map, Value};

/// Names in events.k8s.io and in the core group.
const NAMES: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(super) fn from_core(event: &mut Map<String, Value>) {
    rename(event, NAMES.map(|(new, old)| (old, new)));
}

pub(super) fn to_core(event: &mut Map<String, Value>) {
    rename(event, NAMES);
}

/// `regarding.name` is `involvedObject.name`; a name of the core group means nothing here.
pub(super) fn field(name: &str) -> Option<String> {
    let (first, rest) = name.split_at(name.find('.').unwrap_or(name.len()));
    match NAMES.iter().find(|(new, old)| *new == first || *old == first) {
        Some((new, old)) if *new == first => Some(format!("{old}{rest}")),
        Some(_) => None,
        None => Some(name.to_owned()),
    }
}

/// Renames fields, which keep their places.
fn rename(event: &mut Map<String, Value>, names: [(&str, &str); 7]) {
    *event = std::mem::take(event)
        .into_iter()
        .map(|(name, value)| match names.iter().find(|(from, _)| *from == name) {
            Some((_, to)) => ((*to).to_owned(), value),
            None => (name, value),
        })
        .collect();
}
