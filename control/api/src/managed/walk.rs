//! Walks over objects with the schema beside them: which fields there are, what differs, what a configuration makes of an
//! object, and an object without some fields.
//!
//! The rules are those of sigs.k8s.io/structured-merge-diff.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::place::Place;
use super::set::FieldSet;

/// What differs between two objects.
#[derive(Debug, Default, Clone)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

/// Every field of a configuration, as its author owns them.
pub(super) fn fields(place: Place, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(place, value, &mut Vec::new(), &mut set);
    set
}

fn collect(place: Place, value: &Value, path: &mut Vec<Box<str>>, set: &mut FieldSet) {
    match (place, value) {
        (Place::Struct(_) | Place::Map(_), Value::Object(parts)) => {
            for (name, part) in parts {
                path.push(format!("f:{name}").into());
                collect(place.named(name), part, path, set);
                let empty = part.is_null() || part.as_object().is_some_and(Map::is_empty);
                if empty || matches!(place, Place::Map(_)) {
                    set.insert(path);
                }
                path.pop();
            }
        }
        (Place::Set | Place::Keyed(_), Value::Array(items)) => {
            for (element, item) in place.elements(items) {
                path.push(element);
                collect(place.item(), item, path, set);
                set.insert(path);
                path.pop();
            }
        }
        (Place::Leaf, _) => set.insert(path),
        // Null where something with parts could be: the parent says so.
        _ => {}
    }
}

/// What is different in `new`.
pub(super) fn compare(place: Place, old: &Value, new: &Value) -> Comparison {
    let mut walk = Walk::default();
    walk.compare(place, Some(old), Some(new));
    walk.found
}

#[derive(Default)]
struct Walk {
    found: Comparison,
    path: Vec<Box<str>>,
}

impl Walk {
    fn compare(&mut self, place: Place, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (old.filter(|v| !v.is_null()), new.filter(|v| !v.is_null()));
        let shown = [old, new];
        let empty = |value: &Option<&Value>| match value {
            None => true,
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        };
        if shown.iter().all(empty) {
            return self.leaf(old, new);
        }
        match place {
            Place::Struct(_) | Place::Map(_) if shown.iter().flatten().all(|v| v.is_object()) => {
                if matches!(place, Place::Map(_)) {
                    self.whole(old, new);
                }
                let maps = shown.map(|value| value.and_then(Value::as_object));
                self.parts(place, maps);
            }
            Place::Set | Place::Keyed(_) if shown.iter().flatten().all(|v| v.is_array()) => {
                self.whole(old, new);
                let items = shown.map(|value| value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice));
                self.items(place, items);
            }
            _ => self.leaf(old, new),
        }
    }

    fn parts(&mut self, place: Place, [old, new]: [Option<&Map<String, Value>>; 2]) {
        let of = |map: Option<&Map<String, Value>>, name: &str| map.and_then(|map| map.get(name)).is_some();
        let added = new.into_iter().flatten().filter(|(name, _)| !of(old, name));
        let names = old.into_iter().flatten().chain(added).map(|(name, _)| name);
        for name in names {
            self.path.push(format!("f:{name}").into());
            let part = |map: Option<&'_ Map<String, Value>>| map.and_then(|map| map.get(name)).cloned();
            match (old.and_then(|map| map.get(name)), new.and_then(|map| map.get(name))) {
                (Some(one), Some(other)) if one == other => {}
                _ => self.compare(place.named(name), part(old).as_ref(), part(new).as_ref()),
            }
            self.path.pop();
        }
    }

    fn items(&mut self, place: Place, lists: [&[Value]; 2]) {
        let mut found: BTreeMap<Box<str>, [Vec<&Value>; 2]> = BTreeMap::new();
        for (side, list) in lists.into_iter().enumerate() {
            for (element, item) in place.elements(list) {
                found.entry(element).or_default()[side].push(item);
            }
        }
        for (element, [old, new]) in found {
            self.path.push(element);
            match (&old[..], &new[..]) {
                ([one], [other]) => self.compare(place.item(), Some(one), Some(other)),
                (old, []) => self.alone(place, old, true),
                ([], new) => self.alone(place, new, false),
                // Several items of one name are one thing.
                (old, new) if old != new => self.found.modified.insert(&self.path),
                _ => {}
            }
            self.path.pop();
        }
    }

    /// Items that only one side has.
    fn alone(&mut self, place: Place, items: &[&Value], old: bool) {
        for item in items {
            let (one, other) = if old { (Some(*item), None) } else { (None, Some(*item)) };
            self.whole(one, other);
            self.compare(place.item(), one, other);
        }
    }

    /// A thing with parts that came or went.
    fn whole(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (None, Some(_)) => self.found.added.insert(&self.path),
            (Some(_), None) => self.found.removed.insert(&self.path),
            _ => {}
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        match (old, new) {
            (Some(old), Some(new)) if old != new => self.found.modified.insert(&self.path),
            _ => self.whole(old, new),
        }
    }
}

/// The object with a configuration laid over it.
pub(super) fn merge(place: Place, live: &Value, config: &Value) -> Value {
    match (place, live, config) {
        (Place::Struct(_) | Place::Map(_), Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let part = match live.get(name) {
                    Some(present) => merge(place.named(name), present, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), part);
            }
            Value::Object(merged)
        }
        (Place::Set | Place::Keyed(_), Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_lists(place, live, config))
        }
        (_, _, config) => config.clone(),
    }
}

/// The configuration's items in its order; those that only the object has keep their place among their neighbours.
fn merge_lists(place: Place, live: &[Value], config: &[Value]) -> Vec<Value> {
    let (live, config) = (place.elements(live), place.elements(config));
    let configured: BTreeMap<&str, ()> = config.iter().map(|(element, _)| (element.as_ref(), ())).collect();
    let mut merged = Vec::with_capacity(live.len().max(config.len()));
    let mut rest = config.iter();
    for (element, item) in &live {
        if !configured.contains_key(element.as_ref()) {
            merged.push((*item).clone());
            continue;
        }
        // Everything of the configuration up to this item, unless it was before.
        if rest.clone().any(|(other, _)| other == element) {
            for (other, wanted) in rest.by_ref() {
                merged.push(merge_item(place, &live, other, wanted));
                if other == element {
                    break;
                }
            }
        }
    }
    merged.extend(rest.map(|(other, wanted)| merge_item(place, &live, other, wanted)));
    merged
}

fn merge_item(place: Place, live: &[(Box<str>, &Value)], element: &str, wanted: &Value) -> Value {
    match live.iter().find(|(other, _)| &**other == element) {
        Some((_, present)) => merge(place.item(), present, wanted),
        None => wanted.clone(),
    }
}

/// The object without the fields of a set; `None` when nothing is left.
pub(super) fn without(place: Place, value: &Value, set: &FieldSet) -> Option<Value> {
    let part = |place: Place, element: &str, part: &Value| {
        if set.has(element) {
            return None;
        }
        match set.below(element) {
            Some(below) => without(place, part, below),
            None => Some(part.clone()),
        }
    };
    match (place, value) {
        (Place::Struct(_) | Place::Map(_), Value::Object(parts)) if !parts.is_empty() => {
            let left: Map<String, Value> = parts
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.clone(), part(place.named(name), &format!("f:{name}"), value)?))
                })
                .collect();
            (!left.is_empty()).then_some(Value::Object(left))
        }
        (Place::Set | Place::Keyed(_), Value::Array(items)) if !items.is_empty() => {
            let elements = place.elements(items).into_iter();
            let left: Vec<Value> =
                elements.filter_map(|(element, item)| part(place.item(), &element, item)).collect();
            (!left.is_empty()).then_some(Value::Array(left))
        }
        (_, value) => Some(value.clone()),
    }
}

/// The set with every field of a struct that has something below it.
pub(super) fn with_parents(place: Place, set: &FieldSet) -> FieldSet {
    set.map_nodes(|element, member, below| {
        let parent = !below.is_empty() && place.has_field(element);
        (member || parent, with_parents(place.part(element), below))
    })
}

/// What makes a configuration one that cannot be laid over anything: items without keys, or of one name.
pub(super) fn ambiguity(place: Place, value: &Value, path: &str) -> Option<String> {
    match (place, value) {
        (Place::Struct(_) | Place::Map(_), Value::Object(parts)) => parts
            .iter()
            .find_map(|(name, part)| ambiguity(place.named(name), part, &format!("{path}.{name}"))),
        (Place::Set | Place::Keyed(_), Value::Array(items)) => {
            let mut seen = FieldSet::default();
            for (index, item) in items.iter().enumerate() {
                let element = match place.element(item) {
                    Ok(element) => element,
                    Err(key) => {
                        return Some(format!(
                            "{path}: element {index}: associative list with keys has an element that omits key field \
                             {key:?} (and doesn't have default value)"
                        ));
                    }
                };
                if seen.has(&element) {
                    seen = FieldSet::default();
                    seen.insert(&[element]);
                    return Some(format!("{path}: duplicate entries for key {}", seen.paths().concat()));
                }
                seen.insert(std::slice::from_ref(&element));
                let found = ambiguity(place.item(), item, &format!("{path}[{index}]"));
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        _ => None,
    }
}
