//! Patch facts of a field: how a strategic merge patch and server-side apply treat lists and maps.

use super::{Field, MessageRef, Schema, Shape};

/// How patches treat one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchMeta {
    /// How many values the field holds.
    pub shape: Shape,
    /// The message of each value, to go on with below it.
    pub message: Option<MessageRef>,
    /// Strategic merge: items are merged (by `merge_key`, or as a set of scalars) instead of replacing the list.
    pub merge: bool,
    /// Strategic merge: the whole value is replaced (`patchStrategy: replace`).
    pub replace: bool,
    /// Strategic merge: keys that the patch does not name in `$retainKeys` go (`patchStrategy: retainKeys`).
    pub retain_keys: bool,
    /// Strategic merge: the field that identifies an item.
    pub merge_key: Option<&'static str>,
}

impl Schema {
    /// How a strategic merge patch treats `name` of `message`; `None`: no such field.
    pub fn patch_meta(&self, message: MessageRef, name: &str) -> Option<PatchMeta> {
        self.field(message, name).map(Field::patch_meta)
    }
}

impl Field {
    /// How a strategic merge patch treats the field.
    pub fn patch_meta(&self) -> PatchMeta {
        let (strategy, merge_key) = self.patch_words();
        let has = |word| strategy.is_some_and(|strategy| strategy.split(',').any(|part| part == word));
        PatchMeta {
            shape: self.shape,
            message: self.message(),
            merge: has("merge"),
            replace: has("replace"),
            retain_keys: has("retainKeys"),
            merge_key,
        }
    }

    /// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
    pub fn patch_words(&self) -> (Option<&'static str>, Option<&'static str>) {
        let patch = self.fact("patch");
        match patch.and_then(|patch| patch.split_once(':')) {
            Some((strategy, key)) => (Some(strategy), Some(key)),
            None => (patch, None),
        }
    }

    /// Server-side apply: the keys that identify an item of a list (`x-kubernetes-list-map-keys`); none for other lists.
    pub fn list_map_keys(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.fact("list").filter(|list| *list != "set").into_iter().flat_map(|keys| keys.split(','))
    }

    /// Server-side apply: `x-kubernetes-list-type`, one of `map`, `set` and `atomic`; `None` for other shapes.
    pub fn list_type(&self) -> Option<&'static str> {
        (self.shape == Shape::List).then(|| match self.fact("list") {
            None => "atomic",
            Some("set") => "set",
            Some(_) => "map",
        })
    }

    /// Server-side apply: the map is one value (`x-kubernetes-map-type: atomic`).
    pub fn atomic_map(&self) -> bool {
        self.shape == Shape::Map && self.facts.split(' ').any(|word| word == "atomic")
    }
}
