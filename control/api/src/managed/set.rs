//! Sets of paths of fields, and `FieldsV1`, their JSON.
//!
//! An element of a path is kept as `FieldsV1` writes it: `f:spec`, `k:{"name":"web"}`, `v:"a"`. An element may be a member of
//! its set, have elements below it, or both.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<Box<str>, Node>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    /// Whether no path is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a path.
    pub(super) fn insert(&mut self, path: &[Box<str>]) {
        let Some((first, rest)) = path.split_first() else { return };
        if !self.0.contains_key(first) {
            self.0.insert(first.clone(), Node::default());
        }
        let Some(node) = self.0.get_mut(first) else { return };
        match rest {
            [] => node.member = true,
            rest => node.below.insert(rest),
        }
    }

    /// Whether an element is a member itself.
    pub(super) fn has(&self, element: &str) -> bool {
        self.0.get(element).is_some_and(|node| node.member)
    }

    /// What is below an element.
    pub(super) fn below(&self, element: &str) -> Option<&Self> {
        self.0.get(element).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// The elements, and whether each is a member.
    pub(super) fn map_nodes(&self, mut change: impl FnMut(&str, bool, &Self) -> (bool, Self)) -> Self {
        let nodes = self.0.iter().filter_map(|(element, node)| {
            let (member, below) = change(element, node.member, &node.below);
            (member || !below.is_empty()).then(|| (element.clone(), Node { member, below }))
        });
        Self(nodes.collect())
    }

    /// Every path of either.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (element, theirs) in &other.0 {
            match self.0.get_mut(element) {
                None => drop(self.0.insert(element.clone(), theirs.clone())),
                Some(node) => {
                    node.member |= theirs.member;
                    node.below = std::mem::take(&mut node.below).union(&theirs.below);
                }
            }
        }
        self
    }

    /// The paths that the other does not have. A path says nothing of those below it.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.map_nodes(|element, member, below| match other.0.get(element) {
            None => (member, below.clone()),
            Some(theirs) => (member && !theirs.member, below.difference(&theirs.below)),
        })
    }

    /// The paths that both have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.map_nodes(|element, member, below| match other.0.get(element) {
            None => (false, Self::default()),
            Some(theirs) => (member && theirs.member, below.intersection(&theirs.below)),
        })
    }

    /// Reads `FieldsV1`. Elements of a kind that nobody knows yet are left out.
    ///
    /// # Errors
    /// What is no set.
    pub fn from_json(fields: &Value) -> Result<Self, String> {
        let fields = fields.as_object().ok_or("fieldsV1 is not an object")?;
        let mut set = Self::default();
        for (element, below) in fields.iter().filter(|(element, _)| *element != ".") {
            let Some(element) = canonical(element)? else { continue };
            let member = below.as_object().is_some_and(|below| below.is_empty() || below.contains_key("."));
            let node = Node { member, below: Self::from_json(below)? };
            if node.member || !node.below.is_empty() {
                set = set.union(&Self(BTreeMap::from([(element, node)])));
            }
        }
        Ok(set)
    }

    /// Writes `FieldsV1`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        for (element, node) in &self.0 {
            let mut below = Map::new();
            if node.member && !node.below.is_empty() {
                below.insert(".".to_owned(), Value::Object(Map::new()));
            }
            if let Value::Object(rest) = node.below.to_json() {
                below.extend(rest);
            }
            fields.insert(element.to_string(), Value::Object(below));
        }
        Value::Object(fields)
    }

    /// The paths as messages show them: `.spec.containers[name="web"].image`.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, before: &str, paths: &mut Vec<String>) {
        let shown = |element: &str| format!("{before}{}", printed(element));
        paths.extend(self.0.iter().filter(|(_, node)| node.member).map(|(element, _)| shown(element)));
        for (element, node) in &self.0 {
            node.below.collect(&shown(element), paths);
        }
    }
}

/// An element as we write it ourselves; `None`: of a kind that nobody knows.
fn canonical(element: &str) -> Result<Option<Box<str>>, String> {
    let bad = |why: &dyn std::fmt::Display| format!("the field path element {element:?} is malformed: {why}");
    let Some((kind, text)) = element.split_once(':') else { return Err(bad(&"it has no kind")) };
    let parsed = || serde_json::from_str::<Value>(text).map_err(|e| bad(&e));
    Ok(match kind {
        "f" => Some(element.into()),
        "v" => Some(format!("v:{}", parsed()?).into()),
        "i" => Some(format!("i:{}", text.parse::<i64>().map_err(|e| bad(&e))?).into()),
        "k" => {
            let value = parsed()?;
            let keys = value.as_object().ok_or_else(|| bad(&"it is not an object"))?;
            Some(key(keys.iter().map(|(name, value)| (name.as_str(), value))))
        }
        _ => None,
    })
}

/// `k:{"name":"web"}`, the keys sorted.
pub(super) fn key<'v>(keys: impl Iterator<Item = (&'v str, &'v Value)>) -> Box<str> {
    let keys: BTreeMap<&str, &Value> = keys.collect();
    // Strings and JSON values always serialize.
    format!("k:{}", serde_json::to_string(&keys).unwrap_or_default()).into()
}

fn printed(element: &str) -> String {
    let (kind, text) = element.split_once(':').unwrap_or(("f", element));
    match kind {
        "f" => format!(".{text}"),
        "v" => format!("[={text}]"),
        "i" => format!("[{text}]"),
        _ => {
            let keys: BTreeMap<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
    }
}
